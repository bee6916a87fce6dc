"""padding.py: which positions are computed, and the way between both layouts."""

import pytest
import torch

from padding import Unpadding

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
    assert unpadding.num_rows == 12


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
    assert unpadding.num_rows == 703 and len(unpadding.indices) == 704  # a multiple of 16
    assert unpadding.seqlens == [*range(1, 38), 1]
    assert unpadding.cu_seqlens[-2:].tolist() == [703, 704]
    values = torch.randn(37, 37)
    padded = unpadding.pad(unpadding.unpad(values), 0.0)
    assert torch.equal(padded, values * mask)
