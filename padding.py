"""Padding and unpadding: which positions of a batch are computed, and the way between both layouts.

A batch comes padded, [B, S]. The network works on its computed positions alone, packed one sequence
after another into a matrix of P rows. The terms are those of flash-attention's `bert_padding.py`.

Letters in the shape comments, here and in modeling.py:

    B  sequences in the batch        P  computed positions, over all sequences of the batch
    S  width of the padded input     R  rows that a head reads
    F  query positions (from)        N  attention heads
    T  key positions (to)            H  size of one head; hidden_size = N*H
"""

import torch
import torch.nn.functional as F

# Significant bits to which bfloat16 rounds P up. oneDNN caches one kernel, of megabytes, for each
# matrix shape; 6 bits bound that cache and cost at most 3 % more rows.
BFLOAT16_SIGNIFICANT_BITS = 6


def to_device(values, device):
    """`values` on `device`; from the host to a GPU through pinned memory, without waiting."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


class Unpadding:
    """Which positions of a [B, S] batch are computed, and at which packed row each one stands.

    Computed are the positions that `attention_mask` [B, S] attends, [CLS] (column 0) always, and
    every position of a row that attends nothing. The masked positions that Google's graph computes
    as well get an attention weight of exactly 0 in float32, so the tokens' numbers are the same.
    With `compute_padding` every position is computed, as in Google's graph.

    indices     [P]    position of each packed row in the flattened [B*S] input
    packed_row  [B, S] packed row of each position, -1 where it is not computed
    seqlens     list   computed positions of each sequence
    cu_seqlens  [B+1]  int32: sequence b is the packed rows cu_seqlens[b] to cu_seqlens[b+1]
    max_seqlen  int    the longest sequence
    hidden      [P]    True for computed positions that are not attended; None where there are none
    num_rows    int    rows that count. In bfloat16 on a CPU rows are added up to a round P, as one
                       more sequence in `seqlens` and `cu_seqlens`; nothing reads them
    flash       bool   whether attention may use the kernels for packed rows, set by the model

    The mask may lie on the host while `device` is a GPU: everything is then known without waiting
    for the GPU.
    """

    flash = False

    def __init__(self, attention_mask, compute_padding=False, device=None):
        device = device or attention_mask.device
        attended = attention_mask != 0
        computed = attended | ~attended.any(dim=1, keepdim=True)
        computed[:, 0] = True
        if compute_padding:
            computed = torch.ones_like(computed)

        flat = computed.flatten()
        indices = flat.nonzero().squeeze(1)
        packed_row = torch.where(flat, flat.cumsum(0) - 1, -1).view_as(computed)
        self.shape = computed.shape
        self.seqlens = computed.sum(dim=1).tolist()
        self.num_rows = len(indices)

        spare_rows = self._spare_rows()
        if spare_rows:
            indices = F.pad(indices, (0, spare_rows))  # repeats position 0
            self.seqlens.append(spare_rows)
        hidden = ~attended.flatten()[indices]
        ends = torch.tensor([0, *self.seqlens], device=attention_mask.device).cumsum(0)

        self.max_seqlen = max(self.seqlens, default=0)
        self.input_indices = indices  # beside the input, for `unpad`
        self.indices = to_device(indices, device)
        self.input_packed_row = packed_row
        self.packed_row = to_device(packed_row, device)
        self.cu_seqlens = to_device(ends.int(), device)
        self.hidden = to_device(hidden, device) if hidden.any() else None

    def _spare_rows(self):
        """How many rows are added to round P up: none but under bfloat16 on a CPU."""
        if not torch.is_autocast_enabled("cpu"):
            return 0
        unit = 1 << max(0, self.num_rows.bit_length() - BFLOAT16_SIGNIFICANT_BITS)
        return -self.num_rows % unit

    def unpad(self, values):
        """[B, S, ...] -> [P, ...]"""
        # Where the values lie: fetching `indices` from a GPU would wait for the step before.
        packed = values.flatten(0, 1)[to_device(self.input_indices, values.device)]
        return to_device(packed, self.indices.device)

    def pad(self, packed, fill):
        """[P, ...] -> [B, S, ...], with `fill` where nothing was computed."""
        batch, width = self.shape
        flat = packed.new_full((batch * width, *packed.shape[1:]), fill)
        flat = flat.index_copy(0, self.indices[: self.num_rows], packed[: self.num_rows])
        return flat.unflatten(0, self.shape)

    def cls_rows(self):
        """Packed rows of the [CLS] tokens, [B]."""
        return self.packed_row[:, 0]

    def rows_of(self, positions):
        """[B, M] positions in each sequence -> packed rows [B*M], and which are not computed.

        For those that are not computed the row is 0, and the second result is True there; it is
        None where all are known to be computed. Raises ValueError for positions outside the input,
        or for another number of sequences.
        """
        batch, width = self.shape
        if positions.dim() != 2 or len(positions) != batch:
            raise ValueError(f"positions has the shape {list(positions.shape)}, but B is {batch}")
        packed_row = self.packed_row
        if positions.device == self.input_packed_row.device:
            packed_row = self.input_packed_row  # on the host, where a look does not wait for a GPU
        positions = to_device(positions, packed_row.device)
        on_host = packed_row.device.type == "cpu"
        if on_host and ((positions < 0) | (positions >= width)).any():
            raise ValueError(
                f"positions {positions.min()} to {positions.max()} are given, but the input has "
                f"0 to {width - 1}"
            )

        rows = packed_row.gather(1, positions).flatten()
        not_computed = rows < 0
        rows = to_device(rows.clamp(min=0), self.indices.device)
        if on_host and not not_computed.any():
            return rows, None
        return rows, to_device(not_computed, self.indices.device)
