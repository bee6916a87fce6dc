"""padding.py: which positions are computed, and the way between both layouts."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from data import packed_inputs
from padding import BatchBuffer, Unpadding, map_batch

MASK = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 1, 0], [1, 0, 0, 0, 0]])


def test_computed_positions():
    """The attended ones, [CLS], and the whole of a row that attends nothing."""
    unpadding = Unpadding(MASK)
    assert unpadding.seqlens == [3, 5, 3, 1]
    assert unpadding.cu_seqlens.tolist() == [0, 3, 8, 11, 12]
    assert unpadding.cu_seqlens.dtype == torch.int32 and unpadding.max_seqlen == 5
    assert unpadding.indices.tolist() == [0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 13, 15]
    assert unpadding.hidden.tolist() == [False] * 3 + [True] * 6 + [False] * 3
    assert unpadding.cls_rows().tolist() == [0, 3, 8, 11] == unpadding.cu_seqlens[:-1].tolist()
    assert unpadding.packed_row[2].tolist() == [8, 9, -1, 10, -1]


def test_with_padding_every_position_is_computed():
    unpadding = Unpadding(MASK, compute_padding=True)
    assert unpadding.seqlens == [5] * 4 and unpadding.indices.tolist() == list(range(20))
    assert torch.equal(unpadding.hidden, MASK.flatten() == 0)


def test_without_hidden_positions_there_is_no_mask():
    assert Unpadding(torch.tensor([[1, 1, 0], [1, 0, 0]])).hidden is None


@pytest.mark.parametrize("shape", ((), (7,), (2, 3)))
def test_pad_is_the_opposite_of_unpad(shape):
    unpadding = Unpadding(MASK)
    values = torch.randn(4, 5, *shape)
    packed = unpadding.unpad(values)
    assert packed.shape == (12, *shape)
    padded = unpadding.pad(packed, -3.0)
    computed = unpadding.packed_row >= 0
    assert torch.equal(padded[computed], values[computed])
    assert (padded[~computed] == -3.0).all()


def test_rows_of_positions():
    unpadding = Unpadding(MASK)
    positions = torch.tensor([[0, 2], [4, 0], [3, 1], [0, 0]])
    values = unpadding.unpad(torch.arange(20).view(4, 5))
    rows, not_computed = unpadding.rows_of(positions)
    assert values[rows].tolist() == [0, 2, 9, 5, 13, 11, 15, 15] and not_computed is None


def test_positions_that_are_not_computed():
    rows, not_computed = Unpadding(MASK).rows_of(torch.tensor([[3], [4], [2], [0]]))
    assert rows.tolist() == [0, 7, 0, 11] and not_computed.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    "positions, words",
    [
        ([[0], [5], [0], [0]], "0 to 5 are given, but the input has 0 to 4"),
        ([[0], [-1], [0], [0]], "-1 to 0 are given"),
        ([[0], [0]], r"shape \[2, 1\], but B is 4"),
        ([0, 0, 0, 0], r"shape \[4\], but B is 4"),
    ],
)
def test_positions_outside_the_input(positions, words):
    with pytest.raises(ValueError, match=words):
        Unpadding(MASK).rows_of(torch.tensor(positions))


def test_in_bfloat16_the_rows_are_rounded_up():
    """The spare rows are one more sequence, which `pad` drops."""
    lengths = torch.arange(1, 38)
    mask = (torch.arange(37) < lengths[:, None]).long()  # 703 positions
    with torch.autocast("cpu", torch.bfloat16):
        unpadding = Unpadding(mask)
    assert len(unpadding.indices) == 704  # a multiple of 16
    assert unpadding.indices[-1] == 37 * 37  # outside
    assert unpadding.seqlens == [*range(1, 38), 1]
    assert unpadding.cu_seqlens[-2:].tolist() == [703, 704]
    values = torch.randn(37, 37)
    padded = unpadding.pad(unpadding.unpad(values), 0.0)
    assert torch.equal(padded, values * mask)
    assert torch.equal(unpadding.take(values)[:703], unpadding.unpad(values)[:703])


# --- packed inputs and their way to the device ---------------------------------------------------

LENGTHS = (3, 5, 1, 4)


def packed(lengths=LENGTHS):
    """PackedInputs of the ids 1, 2, … with token types 0 and 1."""
    ids = np.arange(1, sum(lengths) + 1)
    rows = [
        SimpleNamespace(input_ids=part, segment_ids=part % 2)
        for part in np.split(ids, np.cumsum(lengths)[:-1])
    ]
    return packed_inputs(rows)[0]


def test_packed_inputs_say_what_a_mask_says():
    ours = packed()
    ids, types, mask = ours.padded()
    assert ids.tolist() == [[1, 2, 3, 0, 0], [4, 5, 6, 7, 8], [9, 0, 0, 0, 0], [10, 11, 12, 13, 0]]
    assert torch.equal(types, ids % 2) and torch.equal(mask, (ids > 0).long())
    unpadding = Unpadding(mask)
    for name in ("indices", "cu_seqlens"):
        assert torch.equal(getattr(ours, name), getattr(unpadding, name))
    assert ours.shape == tuple(unpadding.shape) and ours.seqlens == unpadding.seqlens
    assert ours.max_seqlen == unpadding.max_seqlen and ours.hidden is unpadding.hidden is None
    assert torch.equal(ours.position_ids, ours.indices % 5)
    assert torch.equal(ours.cls_rows(), unpadding.cls_rows())
    positions = torch.tensor([[0, 2], [4, 0], [0, 0], [3, 1]])
    (rows, nothing), (wanted, _) = ours.rows_of(positions), unpadding.rows_of(positions)
    assert torch.equal(rows, wanted) and nothing is None


@pytest.mark.parametrize("positions", ([[3], [0], [0], [0]], [[0], [0], [-1], [0]], [[0], [0]]))
def test_positions_outside_a_packed_sequence(positions):
    with pytest.raises(ValueError, match="outside their sequence: the shortest has 1|but B is 4"):
        packed().rows_of(torch.tensor(positions))


@pytest.mark.parametrize("lengths, spare", ((LENGTHS, 3), ((8, 8), 0), ((1,), 15)))
def test_in_a_bucket_batches_have_one_shape(lengths, spare):
    plain = packed(lengths)
    ours = plain.in_bucket(width=11, multiple=16)
    num_rows = sum(lengths)
    assert len(ours.indices) == num_rows + spare == 16 and ours.shape == (len(lengths), 11)
    assert ours.cu_seqlens.dtype == torch.int32 and ours.seqlens == [*lengths, spare]
    assert ours.max_seqlen == 16 and max(ours.seqlens) <= 16
    for name in ("input_ids", "token_type_ids", "position_ids"):
        assert torch.equal(getattr(ours, name)[:num_rows], getattr(plain, name))
        assert (getattr(ours, name)[num_rows:] == getattr(plain, name)[0]).all()
    assert torch.equal(ours.cls_rows(), plain.cls_rows())
    wide = torch.nn.functional.pad(plain.pad(plain.input_ids, 0), (0, 11 - max(lengths)))
    assert torch.equal(ours.pad(ours.input_ids, 0), wide)
    assert torch.equal(ours.take(wide)[:num_rows], plain.input_ids)

    more = ours.with_spare_rows(32)
    assert more.seqlens == [*lengths, spare + 32] and more.max_seqlen == max(16, spare + 32)
    assert torch.equal(more.pad(more.input_ids, 0), wide)
    # A wider model: no kernel may get a longest sequence that is longer than all rows.
    assert plain.in_bucket(width=384, multiple=16).max_seqlen == 16


class Pair(NamedTuple):
    number: int
    tensor: torch.Tensor


def test_a_batch_goes_through_one_buffer():
    cpu = torch.device("cpu")
    labels, weights = torch.arange(4), torch.tensor([0.5, 1.5, -2.0])
    batch = (((packed(),), labels), [weights, "text"], Pair(7, torch.tensor(2.5)))
    buffer = BatchBuffer(batch, cpu)
    assert buffer.packed == [batch[0][0][0]]
    (((ours,), its_labels), (its_weights, text), pair) = buffer.load()
    assert text == "text" and pair.number == 7 and type(pair) is Pair
    tensors = [its_labels, its_weights, pair.tensor, *(getattr(ours, n) for n in ours.TENSORS)]
    wanted = [labels, weights, torch.tensor(2.5), *(getattr(packed(), n) for n in ours.TENSORS)]
    for tensor, value in zip(tensors, wanted):
        assert tensor.dtype == value.dtype and torch.equal(tensor, value)
        assert tensor.untyped_storage().data_ptr() == buffer.buffer.data_ptr()
        assert tensor.data_ptr() % 64 == buffer.buffer.data_ptr() % 64

    other = BatchBuffer(map_batch(lambda tensor: tensor + 1, batch), cpu)
    assert other.key == buffer.key
    buffer.buffer.copy_(other.buffer)
    assert torch.equal(its_labels, labels + 1)  # a view, as a graph reads it

    def key(*batch):
        return BatchBuffer(batch, cpu).key

    base = key(packed(), labels, 4)
    assert key(packed(), labels + 1, 4) == base
    assert key(packed(), labels, 5) != base and key(packed(), labels.int(), 4) != base
    assert key(packed(), labels[:2], 4) != base and key(packed((3, 5, 2, 3)), labels, 4) == base
    assert key(packed((3, 5, 1, 5)), labels, 4) != base


def test_a_padded_batch_stays_on_the_host():
    batch = (torch.ones(2, 3), torch.ones(2))
    assert BatchBuffer(batch, torch.device("cpu")).load() is batch
