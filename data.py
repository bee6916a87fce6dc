"""Sentence pairs, the order of examples, batches.

Features are kept without padding; a batch is padded to its longest row when it is made.
"""

import numpy as np
import torch


def truncate_seq_pair(tokens_a, tokens_b, max_num_tokens):
    """Cuts two lists in place from their ends until both fit, as `_truncate_seq_pair` of Google's
    run_classifier.py: a token at a time from the longer one, from B where they are equally long.
    """
    while len(tokens_a) + len(tokens_b) > max_num_tokens:
        longer = tokens_a if len(tokens_a) > len(tokens_b) else tokens_b
        longer.pop()


def pack_pair(ids_a, ids_b, cls_id, sep_id, max_seq_length):
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


def epoch_order(num_examples, seed, epoch):
    """The order of the examples in one epoch, a function of seed and epoch alone."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_examples)


def step_examples(num_examples, batch_size, step, seed):
    """Indices of the examples of one training step, [batch_size].

    Epochs follow one another without a gap, so a batch may cross an epoch's end. Nothing but the
    step's number is needed to go on from here.
    """
    position, indices = step * batch_size, []
    while len(indices) < batch_size:
        epoch, offset = divmod(position + len(indices), num_examples)
        order = epoch_order(num_examples, seed, epoch)
        indices.extend(order[offset : offset + batch_size - len(indices)])
    return np.array(indices)


def length_sorted_batches(lengths, batch_size):
    """Index arrays that cover every example once, the longest first: little padding in a batch,
    and what does not fit into memory shows at once.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
