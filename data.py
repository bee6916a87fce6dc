"""Sentence pairs, the order of examples, batches.

Features are kept without padding; a batch is packed, or padded to its longest row, when it is made.
"""

import queue
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache

import numpy as np
import torch

from padding import PackedInputs, num_spare_rows


def truncate_seq_pair(tokens_a: list, tokens_b: list, max_num_tokens: int) -> None:
    """Shortens two lists in place until both together have at most `max_num_tokens`.

    As `_truncate_seq_pair` of Google's run_classifier.py: one token at a time is removed from the
    end of the longer list, or of B if both are equally long.
    """
    while len(tokens_a) + len(tokens_b) > max_num_tokens:
        longer = tokens_a if len(tokens_a) > len(tokens_b) else tokens_b
        longer.pop()


def join_pair(
    ids_a: Sequence[int], ids_b: Sequence[int], cls_id: int, sep_id: int, max_seq_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """[CLS] A [SEP] or [CLS] A [SEP] B [SEP], cut to fit: (ids, segment ids), int32 [length]."""
    if ids_b:
        ids_a = list(ids_a)
        ids_b = list(ids_b)
        truncate_seq_pair(ids_a, ids_b, max_seq_length - 3)
    else:
        ids_a = ids_a[: max_seq_length - 2]

    ids = [cls_id, *ids_a, sep_id]
    # As Google: a second text that is empty, or has been cut to nothing, gets no [SEP] either.
    if ids_b:
        ids += [*ids_b, sep_id]
    segments = np.zeros(len(ids), np.int32)
    segments[len(ids_a) + 2 :] = 1
    return np.array(ids, np.int32), segments


def windows_of_pair(
    ids_a: Sequence[int], ids_b: Sequence[int], max_seq_length: int, doc_stride: int
) -> tuple[list[tuple[Sequence[int], Sequence[int]]], int]:
    """The pairs through which a text or pair that is too long is read; and how many ids are lost.

    The windows, `doc_stride` apart, are over the longer text, or over B if both are equally long.
    Each holds the other text too, cut to three quarters of the positions. As in run_squad.py of
    google-research/bert, windows that would leave a gap follow one another.
    """
    room = max_seq_length - (3 if ids_b else 2)
    if len(ids_a) + len(ids_b) <= room:
        return [(ids_a, ids_b)], 0
    first_is_longer = len(ids_a) > len(ids_b)
    longer, other = (ids_a, ids_b) if first_is_longer else (ids_b, ids_a)
    kept = other[: room - max(1, room // 4)]
    size = room - len(kept)

    windows = []
    start = 0
    while True:
        window = longer[start : start + size]
        windows.append((window, kept) if first_is_longer else (kept, window))
        if start + size >= len(longer):
            return windows, len(other) - len(kept)
        start += min(size, doc_stride)


def mean_of_windows(logits: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """The mean logits of each text, [texts, labels], of which counts[n] windows follow one another.

    The sums are in float64.
    """
    counts = np.asarray(counts)
    starts = np.cumsum(counts) - counts
    sums = np.add.reduceat(logits.astype(np.float64), starts, axis=0)
    return (sums / counts[:, None]).astype(logits.dtype)


def pad_rows(rows: Sequence[np.ndarray], width: int = 0) -> torch.Tensor:
    """B rows of different lengths, padded with 0 to the longest, or to `width` if that is more.

    Returns int64 [B, width or longest].
    """
    padded = np.zeros((len(rows), max(width, *(len(row) for row in rows))), np.int64)
    for target, row in zip(padded, rows):
        target[: len(row)] = row
    return torch.from_numpy(padded)


def model_inputs(
    features: Sequence, width: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The three inputs of every model for B features: ids, token types, mask.

    Each is int64 [B, S], where S is the longest feature, or `width` if that is more.
    """
    return (
        pad_rows([feature.input_ids for feature in features], width),
        pad_rows([feature.segment_ids for feature in features], width),
        pad_rows([np.ones(len(feature.input_ids)) for feature in features], width),
    )


def packed_inputs(features: Sequence, round_up: bool = False) -> tuple[PackedInputs]:
    """The input of every model for B features, one after another without padding.

    A tuple, as of `model_inputs`, so that both are handed to a model as `model(*inputs)`.
    `round_up` is as in `padding.num_spare_rows`.
    """
    lengths = np.array([len(feature.input_ids) for feature in features])
    ends = np.append(0, lengths.cumsum())
    width = int(lengths.max())
    sequences = np.repeat(np.arange(len(features)), lengths)  # of each row
    positions = np.arange(ends[-1]) - ends[sequences]
    ids = np.concatenate([feature.input_ids for feature in features])
    types = np.concatenate([feature.segment_ids for feature in features])
    arrays = (ids, types, positions, sequences * width + positions)
    packed = PackedInputs(
        *(torch.from_numpy(array.astype(np.int64)) for array in arrays),
        cu_seqlens=torch.from_numpy(ends.astype(np.int32)),
        shape=(len(features), width),
        max_seqlen=width,
    )
    spare_rows = num_spare_rows(len(ids), round_up)
    return (packed.with_spare_rows(spare_rows) if spare_rows else packed,)


def batch_inputs(features: Sequence, width: int = 0) -> tuple:
    """`packed_inputs`, or with a `width` the `model_inputs` padded to it."""
    return model_inputs(features, width) if width else packed_inputs(features)


def prefetched(function: Callable, arguments: Sequence) -> Iterator:
    """Yields function(argument) for each of `arguments`; a thread computes the next ones meanwhile.

    At most two are ready. An exception of `function` is raised here, where its result would come.
    Close the iterator to end the thread.
    """
    results = queue.Queue(maxsize=1)
    closed = threading.Event()

    def work():
        for argument in arguments:
            if closed.is_set():
                return
            try:
                result = function(argument), None
            except BaseException as error:
                result = None, error
            results.put(result)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for _ in arguments:
            value, error = results.get()
            if error is not None:
                raise error
            yield value
    finally:
        closed.set()
        with suppress(queue.Empty):
            results.get_nowait()  # The thread may be waiting for room.
        thread.join()


def num_train_steps(num_examples: int, batch_size: int, num_epochs: float) -> int:
    """The number of whole batches in all epochs together, as Google counts it."""
    return int(num_examples / batch_size * num_epochs)


class TrainingExamples:
    """The features to train on, and what `training.train` needs to know of them.

    num_examples  what --num_train_epochs counts; by default the features. Google's run_squad.py
                  counts questions, of which a long paragraph makes several features
    shards        the numbers of features that are shuffled together (see `step_examples`)
    fingerprint   a checksum of the features' `fields`, which a resumed run compares
    make_batch    a function of some features: their batch, as the task's loss takes it
    weight_of     None, or a function of a feature: its weight in a loss that is a weighted mean
    metadata      what is true of a model that is trained on them, e.g. its labels, for
                  `checkpoint.save_model`; set by who trains on them
    """

    def __init__(self, features, fields, make_batch=None, num_examples=None, weight_of=None):
        self.features = features
        self.make_batch = make_batch
        self.weight_of = weight_of
        self.num_examples = num_examples or len(features)
        self.shards = [len(features)]
        self.fingerprint = checksum_of(features, fields)
        self.metadata = {}

    def __getitem__(self, index):
        return self.features[index]


def checksum_of(features: Sequence, fields: Sequence[str]) -> int:
    """A checksum of the named fields of all features."""
    checksum = 0
    for feature in features:
        for field in fields:
            checksum = zlib.crc32(np.asarray(getattr(feature, field)).tobytes(), checksum)
    return checksum


@lru_cache(maxsize=4)
def epoch_order(size: int, seed: int, epoch: int, shard: int = 0) -> np.ndarray:
    """The order of a shard's `size` rows in one epoch, which depends on the arguments alone."""
    # NumPy pads seeds with zeros, so the last 0 of a single shard does not change the order.
    return np.random.Generator(np.random.PCG64([seed, epoch, shard])).permutation(size)


def step_examples(shards: Sequence[int], batch_size: int, step: int, seed: int) -> np.ndarray:
    """Indices of the examples of one training step, [batch_size].

    `shards` are the sizes of the groups of rows that are shuffled together, e.g. the rows of one
    file; a list of features is a single shard. An epoch takes the shards in random order, and the
    rows of each in random order, so the order of only one shard at a time is in memory. Epochs
    follow one another without a gap, so a batch may cross the end of an epoch. The result depends
    on the arguments alone: to resume a run, its step is enough.
    """
    ends = np.cumsum(shards)
    position = step * batch_size
    indices = []
    while len(indices) < batch_size:
        epoch, offset = divmod(position + len(indices), int(ends[-1]))

        # No shard has the number len(shards), so the order of shards has its own random numbers.
        shard_order = epoch_order(len(shards), seed, epoch, len(shards))
        ends_in_epoch = np.cumsum(np.asarray(shards)[shard_order])
        place = np.searchsorted(ends_in_epoch, offset, side="right")
        shard = int(shard_order[place])
        left = int(ends_in_epoch[place]) - offset  # rows of this shard from `offset` on

        order = epoch_order(shards[shard], seed, epoch, shard)
        row = shards[shard] - left
        chosen = order[row : row + batch_size - len(indices)]
        indices.extend(ends[shard] - shards[shard] + chosen)
    return np.array(indices)


def length_sorted_batches(lengths: Sequence[int], batch_size: int) -> list[np.ndarray]:
    """Index arrays that cover every example once, the longest examples first.

    Batches of similar lengths need little padding, and a batch size that is too large for the
    memory fails at once.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def token_batches(lengths: Sequence[int], num_tokens: int) -> list[np.ndarray]:
    """As `length_sorted_batches`, with as many examples in a batch as hold `num_tokens` together.

    An example that is longer is a batch of its own.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches = []
    start = tokens = 0
    for place, index in enumerate(order):
        tokens += lengths[index]
        if tokens > num_tokens and place > start:
            batches.append(order[start:place])
            start = place
            tokens = lengths[index]
    return [*batches, order[start:]] if len(order) else []
