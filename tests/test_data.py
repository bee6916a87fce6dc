"""data.py: pairs, padding, the order of examples, batches."""

import threading
import time
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import (
    epoch_order,
    join_pair,
    length_sorted_batches,
    mean_of_windows,
    model_inputs,
    num_train_steps,
    pad_rows,
    prefetched,
    step_examples,
    token_batches,
    truncate_seq_pair,
    windows_of_pair,
)
from run_classifier import MrpcProcessor, convert_examples_to_features
from tokenization import FullTokenizer


def lengths_by_rule(a, b, limit):
    """The lengths after cutting, by another formulation of Google's rule.

    The longer text is cut down to the length of the shorter one; then B and A are cut by turns.
    """
    total = min(a + b, limit)
    if total == a + b:
        return a, b
    short = min(a, b)
    if total - short >= short:
        return (a, total - a) if a <= b else (total - b, b)
    return total - total // 2, total // 2


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 70))
def test_truncate_seq_pair(a, b, limit):
    tokens_a, tokens_b = [*range(a)], [*range(100, 100 + b)]
    truncate_seq_pair(tokens_a, tokens_b, limit)
    assert (len(tokens_a), len(tokens_b)) == lengths_by_rule(a, b, limit)
    # Cut at their ends, and in place.
    assert tokens_a == [*range(len(tokens_a))]
    assert tokens_b == [*range(100, 100 + len(tokens_b))]


@pytest.mark.parametrize(
    "a, b, limit, left",
    (
        (3, 3, 5, (3, 2)),  # with equal lengths B is cut first
        (3, 3, 4, (2, 2)),
        (9, 2, 6, (4, 2)),
        (2, 9, 6, (2, 4)),
        (2, 2, 4, (2, 2)),
        (5, 0, 3, (3, 0)),
        (1, 1, 0, (0, 0)),
    ),
)
def test_truncate_seq_pair_by_hand(a, b, limit, left):
    tokens_a, tokens_b = [0] * a, [1] * b
    truncate_seq_pair(tokens_a, tokens_b, limit)
    assert (len(tokens_a), len(tokens_b)) == left


def test_join_pair():
    ids, segments = join_pair([5, 6], [7], 1, 2, 10)
    assert ids.tolist() == [1, 5, 6, 2, 7, 2] and segments.tolist() == [0, 0, 0, 0, 1, 1]
    assert ids.dtype == segments.dtype == np.int32
    ids, segments = join_pair([5, 6], [], 1, 2, 10)
    assert ids.tolist() == [1, 5, 6, 2] and segments.tolist() == [0, 0, 0, 0]
    # As Google: a second text that has been cut to nothing has no separator either.
    assert join_pair([5, 6], [7, 8], 1, 2, 4)[0].tolist() == [1, 5, 2]
    assert join_pair([5, 6], [7, 8], 1, 2, 3)[0].tolist() == [1, 2]


@given(
    st.lists(st.integers(5, 99), max_size=20),
    st.lists(st.integers(5, 99), max_size=20),
    st.integers(5, 30),
)
def test_join_pair_fits_and_leaves_its_arguments(ids_a, ids_b, max_seq_length):
    before = [*ids_a], [*ids_b]
    ids, segments = join_pair(ids_a, ids_b, 1, 2, max_seq_length)
    assert (ids_a, ids_b) == before
    separators = 3 if ids_b else 2
    assert len(ids) == len(segments) == min(max_seq_length, len(ids_a) + len(ids_b) + separators)
    assert ids[0] == 1 and ids[-1] == 2 and np.sum(ids == 2) == separators - 1
    assert sorted(segments) == segments.tolist() and segments[0] == 0
    if ids_b:
        assert segments.sum() == len(ids) - ids.tolist().index(2) - 1


@pytest.mark.parametrize("name, size", (("train", 3668), ("dev", 408)))
@pytest.mark.parametrize("max_seq_length", (128, 24))
def test_mrpc_features_are_googles(name, size, max_seq_length, goldens, bert_dir, glue_dir):
    """Every id, mask, segment and label, padded as in Google's features."""
    golden = np.load(goldens / f"mrpc_features_{name}_L{max_seq_length}.npz")
    processor = MrpcProcessor()
    examples = processor.get_examples(glue_dir / "MRPC", name)
    features = convert_examples_to_features(
        examples, processor.get_labels(), max_seq_length, FullTokenizer(bert_dir / "vocab.txt")
    )
    assert len(features) == size
    inputs = model_inputs(features, max_seq_length)
    for key, got in zip(("input_ids", "segment_ids", "input_mask"), inputs):
        assert np.array_equal(golden[key], got.numpy()), key
    assert golden["label_ids"].tolist() == [feature.label_id for feature in features]


def test_pad_rows():
    rows = [np.array([1, 2, 3], np.int32), np.array([4], np.int32)]
    assert pad_rows(rows).tolist() == [[1, 2, 3], [4, 0, 0]]
    assert pad_rows(rows, 5).tolist() == [[1, 2, 3, 0, 0], [4, 0, 0, 0, 0]]
    assert pad_rows(rows, 2).shape == (2, 3)
    features = [SimpleNamespace(input_ids=row, segment_ids=0 * row) for row in rows]
    ids, segments, mask = model_inputs(features)
    assert ids.tolist() == [[1, 2, 3], [4, 0, 0]] and not segments.any()
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


# --- order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "examples, batch_size, epochs, steps",
    ((3668, 32, 3.0, 343), (13, 4, 2.0, 6), (87599, 12, 2.0, 14599), (3, 4, 1.0, 0), (8, 4, 0.5, 1)
    ),
)  # fmt: skip
def test_steps_are_counted_as_googles(examples, batch_size, epochs, steps):
    assert num_train_steps(examples, batch_size, epochs) == steps


def run_of(num_examples, batch_size, steps, seed):
    return np.concatenate(
        [step_examples([num_examples], batch_size, step, seed) for step in range(steps)]
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 2**40))
def test_every_epoch_is_a_permutation(num_examples, batch_size, seed):
    """Also if a batch crosses the end of an epoch, or contains several epochs."""
    epochs = 3
    steps = -(-num_examples * epochs // batch_size)
    order = run_of(num_examples, batch_size, steps, seed)
    assert len(order) == steps * batch_size
    for epoch in range(epochs):
        part = order[epoch * num_examples : (epoch + 1) * num_examples]
        assert sorted(part) == [*range(num_examples)]
        assert part.tolist() == epoch_order(num_examples, seed, epoch).tolist()


def test_order_is_a_function_of_seed_and_epoch_alone():
    np.random.seed(1)
    one = epoch_order(1000, 42, 3)
    np.random.seed(2)
    assert np.array_equal(one, epoch_order(1000, 42, 3))
    others = [epoch_order(1000, 42, 4), epoch_order(1000, 43, 3), epoch_order(1000, 3, 42)]
    for other in [*others, np.arange(1000)]:
        assert np.mean(one == other) < 0.02
    # The stream of examples does not depend on the batch size.
    assert np.array_equal(run_of(37, 5, 14, 7), run_of(37, 7, 10, 7))
    # Any step can be computed without those before it.
    assert np.array_equal(step_examples([37], 5, 13, 7), run_of(37, 5, 14, 7)[-5:])


def test_the_order_stays_what_it_is():
    """A run may be resumed with another version of NumPy: the stream of PCG64 is fixed."""
    order = [3, 2, 6, 4, 1, 5, 0]
    assert epoch_order(7, 42, 0).tolist() == order
    assert step_examples([7], 5, 1, 42)[:2].tolist() == order[5:]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(sum), st.integers(1, 30))
def test_an_epoch_takes_shard_after_shard(shards, batch_size):
    """Each row once; one shard after the other in random order, its rows in random order."""
    total, epochs = sum(shards), 3
    steps = -(-total * epochs // batch_size)
    stream = np.concatenate([step_examples(shards, batch_size, step, 5) for step in range(steps)])
    shard_of = np.repeat(np.arange(len(shards)), shards)
    for epoch in range(epochs):
        rows = stream[epoch * total : (epoch + 1) * total]
        assert sorted(rows) == [*range(total)]
        taken = [int(shard_of[row]) for row in rows]
        changes = sum(one != other for one, other in zip(taken, taken[1:]))
        assert changes == len(set(taken)) - 1


def test_shards_and_their_rows_come_in_another_order_each_epoch():
    shards = [50] * 40
    orders = np.reshape([step_examples(shards, 2000, step, 5) for step in range(2)], (2, 40, 50))
    by_shard = [{int(rows[0]) // 50: rows % 50 for rows in order} for order in orders]
    places = [list(shards) for shards in by_shard]
    assert sorted(places[0]) == sorted(places[1]) == [*range(40)]
    assert sum(one == other for one, other in zip(*places)) < 8
    # No two shards, and no two epochs of one, have the rows in the same order.
    within = [rows.tolist() for epoch in by_shard for rows in epoch.values()]
    assert len(set(map(tuple, within))) == 80 and [*range(50)] not in within


# --- batches of prediction -----------------------------------------------------------------------


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 9))
def test_length_sorted_batches(lengths, batch_size):
    batches = length_sorted_batches(lengths, batch_size)
    order = np.concatenate(batches)
    assert sorted(order) == [*range(len(lengths))]
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= batch_size
    sizes = [lengths[index] for index in order]
    assert sizes == sorted(lengths, reverse=True)
    for one, other in zip(order, order[1:]):  # examples of equal length keep their order
        assert lengths[one] > lengths[other] or one < other


@pytest.mark.parametrize("budget", [1, 7, 60, 10**6])
def test_token_batches_hold_their_budget(budget):
    lengths = np.random.default_rng(0).integers(1, 60, 100)
    batches = token_batches(lengths, budget)
    order = np.concatenate(batches)
    assert sorted(order) == list(range(100)) and (np.diff(lengths[order]) <= 0).all()
    for batch, following in zip(batches, [*batches[1:], None]):
        assert lengths[batch].sum() <= budget or len(batch) == 1
        if following is not None:  # there was no room for one more
            assert lengths[batch].sum() + lengths[following[0]] > budget
    assert token_batches([], budget) == []


@given(st.integers(0, 60), st.integers(0, 60), st.integers(5, 30), st.integers(1, 40))
def test_windows_cover_a_text_that_is_too_long(a, b, limit, stride):
    ids_a, ids_b = [*range(a)], [*range(100, 100 + b)]
    windows, num_lost = windows_of_pair(ids_a, ids_b, limit, stride)
    room = limit - (3 if b else 2)
    assert all(len(part_a) + len(part_b) <= room for part_a, part_b in windows)
    if a + b <= room:
        assert windows == [(ids_a, ids_b)] and num_lost == 0
        return
    which = 0 if a > b else 1
    longer, other = [(ids_a, ids_b), (ids_b, ids_a)][which]
    most = room - max(1, room // 4)
    assert {window[1 - which] == other[:most] for window in windows} == {True}
    assert num_lost == max(0, len(other) - most)
    starts = [window[which][0] - longer[0] for window in windows]
    size = room - len(other[:most])
    assert starts == [number * min(stride, size) for number in range(len(windows))]
    assert sorted({piece for window in windows for piece in window[which]}) == longer
    assert len(windows) == 1 or starts[-2] + size < len(longer), "the last window adds nothing"


def test_the_mean_of_windows():
    logits = np.array([[1, 2], [3, 5], [5, -1], [0.1, 0.7]], np.float32)
    found = mean_of_windows(logits, [1, 2, 1])
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 2], [4, 2], logits[3].tolist()]  # of one window: its own bits


# --- made ahead in a thread ----------------------------------------------------------------------


def threads():
    return set(threading.enumerate())


def test_prefetched_results_come_in_order_and_from_another_thread():
    before, seen = threads(), []
    with closing(prefetched(lambda n: (n, threading.current_thread()), range(7))) as results:
        for number, (value, thread) in enumerate(results):
            seen.append(value)
            assert value == number and thread not in before
    assert seen == [*range(7)] and threads() == before


def test_prefetching_goes_on_while_its_result_is_used_but_not_far():
    started, ahead = [], threading.Event()

    def function(number):
        started.append(number)
        if number == 1:
            ahead.set()
        return number

    with closing(prefetched(function, range(100))) as results:
        assert next(results) == 0
        assert ahead.wait(10)
        time.sleep(0.05)
        assert len(started) <= 3
    assert len(started) <= 4  # the thread ends with its consumer


def test_an_exception_comes_where_its_result_would():
    before, error = threads(), ValueError("row 3 is damaged")

    def function(number):
        if number == 3:
            raise error
        return number

    seen = []
    with pytest.raises(ValueError) as caught:
        for value in prefetched(function, range(9)):
            seen.append(value)
    assert caught.value is error and seen == [0, 1, 2] and threads() == before
