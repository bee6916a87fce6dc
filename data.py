"""Sentence pairs, the order of examples, batches.

Features are kept without padding; a batch is padded to its longest row when it is made.
"""

from functools import lru_cache

import numpy as np
import torch


def truncate_seq_pair(tokens_a, tokens_b, max_num_tokens):
    """Cuts two lists in place from their ends until both fit, as `_truncate_seq_pair` of Google's
    run_classifier.py: a token at a time from the longer one, from B where they are equally long.
    """
    while len(tokens_a) + len(tokens_b) > max_num_tokens:
        longer = tokens_a if len(tokens_a) > len(tokens_b) else tokens_b
        longer.pop()


def join_pair(ids_a, ids_b, cls_id, sep_id, max_seq_length):
    """[CLS] A [SEP] or [CLS] A [SEP] B [SEP], cut to fit: (ids, segment ids), int32 [length]."""
    if ids_b:
        ids_a, ids_b = list(ids_a), list(ids_b)
        truncate_seq_pair(ids_a, ids_b, max_seq_length - 3)
    else:
        # As Google: an empty second text is no second text.
        ids_a, ids_b = ids_a[: max_seq_length - 2], []
    ids = [cls_id, *ids_a, sep_id, *ids_b, *([sep_id] if ids_b else [])]
    segments = np.zeros(len(ids), np.int32)
    segments[len(ids_a) + 2 :] = 1
    return np.array(ids, np.int32), segments


def pad_rows(rows, width=0):
    """Arrays of several lengths -> int64 [B, longest, or `width` if that is more], 0-padded."""
    padded = np.zeros((len(rows), max(width, *(len(row) for row in rows))), np.int64)
    for target, row in zip(padded, rows):
        target[: len(row)] = row
    return torch.from_numpy(padded)


def model_inputs(features, width=0):
    """The three inputs of every model for these features: ids, token types, mask, each [B, S]."""
    return (
        pad_rows([feature.input_ids for feature in features], width),
        pad_rows([feature.segment_ids for feature in features], width),
        pad_rows([np.ones(len(feature.input_ids)) for feature in features], width),
    )


def num_train_steps(num_examples, batch_size, num_epochs):
    """As Google: whole batches only, over all epochs together."""
    return int(num_examples / batch_size * num_epochs)


@lru_cache(maxsize=4)
def epoch_order(size, seed, epoch, shard=0):
    """The order of a shard's `size` rows in one epoch, a function of the numbers given alone."""
    # The last 0 of a list's only shard leaves the random numbers as if it were not there.
    return np.random.Generator(np.random.PCG64([seed, epoch, shard])).permutation(size)


def step_examples(shards, batch_size, step, seed):
    """Indices of the examples of one training step, [batch_size].

    `shards` are the numbers of rows that lie together, as in one file; a list of features is a
    single shard. An epoch takes the shards in random order, and the rows of each in random order,
    so that no more than one shard's order is held. Epochs follow one another without a gap, so a
    batch may cross an epoch's end. Nothing but the step's number is needed to go on from here.
    """
    ends = np.cumsum(shards)
    position, indices = step * batch_size, []
    while len(indices) < batch_size:
        epoch, offset = divmod(position + len(indices), int(ends[-1]))
        shard_order = epoch_order(len(shards), seed, epoch, len(shards))
        ends_in_epoch = np.cumsum(np.asarray(shards)[shard_order])
        place = np.searchsorted(ends_in_epoch, offset, side="right")
        shard, left = int(shard_order[place]), int(ends_in_epoch[place]) - offset
        order = epoch_order(shards[shard], seed, epoch, shard)
        row = shards[shard] - left
        chosen = order[row : row + batch_size - len(indices)]
        indices.extend(ends[shard] - shards[shard] + chosen)
    return np.array(indices)


def length_sorted_batches(lengths, batch_size):
    """Index arrays that cover every example once, the longest first: little padding in a batch,
    and what does not fit into memory shows at once.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
