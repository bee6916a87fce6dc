"""Padding and unpadding: which positions of a batch are computed, and moving between the layouts.

A batch comes padded, [B, S], or packed already (`PackedInputs`). The network works on its computed
positions alone, one sequence after another in a matrix of P rows. The terms are those of
flash-attention's `bert_padding.py`.

Letters in the shape comments, here and in modeling.py:

    B  sequences in the batch        P  computed positions, over all sequences of the batch
    S  width of the padded input     R  rows that a head reads
    F  query positions (from)        N  attention heads
    T  key positions (to)            H  size of one head; hidden_size = N*H
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

# Significant bits to which P is rounded up for oneDNN, which caches one kernel, of megabytes, for
# each matrix shape; 6 bits bound that cache and cost at most 3 % more rows.
SIGNIFICANT_BITS = 6


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Moves `values` to `device`; from the host to a GPU through pinned memory, without waiting."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def num_spare_rows(num_rows: int, round_up: bool = False) -> int:
    """How many rows are added to round P up: 0 without `round_up`, except in bfloat16 on a CPU."""
    if not (round_up or torch.is_autocast_enabled("cpu")):
        return 0
    unit = 1 << max(0, num_rows.bit_length() - SIGNIFICANT_BITS)
    return -num_rows % unit


class Layout:
    """What both kinds of batches share: the way from P packed rows to [B, S] and back.

    indices     [P]    position of each packed row in the flattened [B*S] input
    cu_seqlens  [B+1]  int32: sequence b is the packed rows cu_seqlens[b] to cu_seqlens[b+1]
    seqlens     list   rows of each sequence, on the host
    max_seqlen  int    no sequence is longer
    hidden      [P]    True for computed positions that are not attended; None where there are none
    shape       (B, S)
    flash       bool   whether attention may use the kernels for packed rows, set by the model

    There may be spare rows at the end, which make P a round number. They are one more sequence in
    `seqlens` and `cu_seqlens`, their place in `indices` is B*S, and nothing reads them.
    """

    hidden = None
    flash = False

    def pad(self, packed: torch.Tensor, fill: float) -> torch.Tensor:
        """[P, ...] -> [B, S, ...], with `fill` where nothing was computed."""
        batch, width = self.shape
        # One place more than B*S, for spare rows.
        flat = packed.new_full((batch * width + 1, *packed.shape[1:]), fill)
        return flat.index_copy(0, self.indices, packed)[:-1].unflatten(0, self.shape)

    def take(self, padded):
        """[B, S, ...] on the device -> [P, ...]; spare rows get the values of some position."""
        flat = padded.flatten(0, 1)
        # Not flat[…], whose backward pass sorts the indices on a GPU.
        return flat.index_select(0, self.indices.clamp(max=len(flat) - 1))

    def cls_rows(self) -> torch.Tensor:
        """Packed rows of the [CLS] tokens, [B]."""
        return self.cu_seqlens[: self.shape[0]].long()

    def check_positions(self, positions):
        """Raises ValueError for positions [B, M] of another number of sequences."""
        batch = self.shape[0]
        if positions.dim() != 2 or len(positions) != batch:
            raise ValueError(f"positions has the shape {list(positions.shape)}, but B is {batch}")


class Unpadding(Layout):
    """Which positions of a [B, S] batch are computed, and at which packed row each one stands.

    Computed are the positions that `attention_mask` [B, S] attends, [CLS] (column 0) always, and
    every position of a row that attends nothing. The masked positions that Google's graph computes
    as well get an attention weight of exactly 0 in float32, so the tokens' numbers are the same.
    With `compute_padding` every position is computed, as in Google's graph.

    packed_row  [B, S] packed row of each position, -1 where it is not computed

    The mask may lie on the host while `device` is a GPU: everything is then known without waiting
    for the GPU.
    """

    def __init__(
        self,
        attention_mask: torch.Tensor,
        compute_padding: bool = False,
        device: torch.device | None = None,
    ):
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

        input_indices = indices
        spare_rows = num_spare_rows(len(indices))
        if spare_rows:
            input_indices = F.pad(indices, (0, spare_rows))  # repeats position 0
            indices = F.pad(indices, (0, spare_rows), value=len(flat))
            self.seqlens.append(spare_rows)
        hidden = ~attended.flatten()[input_indices]
        ends = torch.tensor([0, *self.seqlens], device=attention_mask.device).cumsum(0)

        self.max_seqlen = max(self.seqlens, default=0)
        self.input_indices = input_indices  # beside the input, for `unpad`
        self.indices = to_device(indices, device)
        self.input_packed_row = packed_row
        self.packed_row = to_device(packed_row, device)
        self.cu_seqlens = to_device(ends.int(), device)
        self.hidden = to_device(hidden, device) if hidden.any() else None

    def unpad(self, values: torch.Tensor) -> torch.Tensor:
        """[B, S, ...] -> [P, ...]"""
        # Indexed on the values' own device: `indices` from a GPU would wait for the step before.
        packed = values.flatten(0, 1)[to_device(self.input_indices, values.device)]
        return to_device(packed, self.indices.device)

    def rows_of(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[B, M] positions in each sequence -> packed rows [B*M], and which are not computed.

        For those that are not computed the row is 0, and the second result is True there; it is
        None where all are known to be computed. Raises ValueError for positions outside the input,
        or for another number of sequences.
        """
        self.check_positions(positions)
        width = self.shape[1]
        packed_row = self.packed_row
        if positions.device == self.input_packed_row.device:
            packed_row = self.input_packed_row  # on the host, where reading does not wait for a GPU
        positions = to_device(positions, packed_row.device)
        on_host = packed_row.device.type == "cpu"
        if on_host and ((positions < 0) | (positions >= width)).any():
            raise ValueError(
                f"positions {positions.min()} to {positions.max()} are given, but the input has "
                f"0 to {width - 1}"
            )

        rows = packed_row.gather(1, positions.long()).flatten()
        not_computed = rows < 0
        rows = to_device(rows.clamp(min=0), self.indices.device)
        if on_host and not not_computed.any():
            return rows, None
        return rows, to_device(not_computed, self.indices.device)


@dataclass(eq=False)
class PackedInputs(Layout):
    """B sequences that are packed from the start: a model takes them in place of its three inputs.

    Every position of a sequence is computed and attended.

    input_ids, token_type_ids, position_ids  [P]
    indices, cu_seqlens, shape, max_seqlen   as in Layout
    """

    input_ids: torch.Tensor
    token_type_ids: torch.Tensor
    position_ids: torch.Tensor
    indices: torch.Tensor
    cu_seqlens: torch.Tensor
    shape: tuple[int, int]
    max_seqlen: int

    TENSORS = ("input_ids", "token_type_ids", "position_ids", "indices", "cu_seqlens")

    @property
    def seqlens(self):
        return self.cu_seqlens.diff().tolist()

    def to(self, device):
        """The same on `device`, in one copy."""
        return self if self.indices.device == device else BatchBuffer(self, device).load()

    def rows_of(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[B, M] positions in each sequence -> (packed rows [B*M], None), as Unpadding's.

        Raises ValueError for positions outside a sequence, unless they lie on a GPU, where a look
        would wait.
        """
        self.check_positions(positions)
        if positions.device.type == "cpu":
            lengths = torch.tensor(self.seqlens[: len(positions)])[:, None]
            if ((positions < 0) | (positions >= lengths)).any():
                raise ValueError(
                    f"positions {positions.min()} to {positions.max()} are given, but some lie "
                    f"outside their sequence: the shortest has {lengths.min()} tokens"
                )
        rows = self.cls_rows()[:, None] + to_device(positions, self.indices.device)
        return rows.flatten(), None

    def padded(self):
        """The three [B, S] inputs that say the same: ids, token types, attention mask."""
        attended = torch.ones_like(self.input_ids)
        return tuple(self.pad(x, 0) for x in (self.input_ids, self.token_type_ids, attended))

    def with_spare_rows(self, count):
        """The same with `count` spare rows more, which repeat the first row."""

        def repeat_first(values):
            return torch.cat([values, values[:1].expand(count)])

        cu_seqlens = self.cu_seqlens[: self.shape[0] + 1]
        num_rows = len(self.indices) + count
        return replace(
            self,
            input_ids=repeat_first(self.input_ids),
            token_type_ids=repeat_first(self.token_type_ids),
            position_ids=repeat_first(self.position_ids),
            indices=F.pad(self.indices, (0, count), value=self.shape[0] * self.shape[1]),
            cu_seqlens=F.pad(cu_seqlens, (0, 1), value=num_rows),
            max_seqlen=max(self.max_seqlen, num_rows - int(cu_seqlens[-1])),
        )

    def in_bucket(self, width, multiple):
        """The same in a shape that many batches share: S is `width`, P a multiple of `multiple`.

        There is always a sequence of spare rows, which may be empty.
        """
        batch, old_width = self.shape
        count = -len(self.indices) % multiple
        return replace(
            self,
            indices=self.indices // old_width * width + self.indices % old_width,
            shape=(batch, width),
            # Not more than there are rows: the float32 kernel refuses it in its backward pass.
            max_seqlen=min(max(width, multiple), len(self.indices) + count),
        ).with_spare_rows(count)


# --- from the host to the device -----------------------------------------------------------------


def map_batch(function, batch, kind=torch.Tensor):
    """`batch` with function(x) in place of each x of a `kind`: tensors, or PackedInputs.

    A batch is made of tuples, lists and PackedInputs, one in another; anything else stays.
    """
    if isinstance(batch, kind):
        return function(batch)
    if isinstance(batch, PackedInputs):
        return replace(batch, **{n: function(getattr(batch, n)) for n in batch.TENSORS})
    if isinstance(batch, (tuple, list)):
        values = [map_batch(function, value, kind) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    return batch


class BatchBuffer:
    """The tensors of a batch side by side in one buffer on the host: one copy moves them all.

    batch    as it was given, see `map_batch`
    packed   the PackedInputs in it
    buffer   [bytes], pinned where `device` is a GPU
    key      a text, the same for all batches of the same structure, types and shapes
    """

    ALIGNMENT = 64

    def __init__(self, batch, device):
        self.batch = batch
        self.device = device
        self.packed = []
        map_batch(self.packed.append, batch, PackedInputs)
        self.key = repr(map_batch(lambda tensor: (tensor.dtype, tuple(tensor.shape)), batch))

        tensors = []
        map_batch(tensors.append, batch)
        self.places = []  # (first byte, bytes, type, shape) of each tensor
        size = 0
        for tensor in tensors:
            self.places.append((size, tensor.nbytes, tensor.dtype, tensor.shape))
            size += -(-tensor.nbytes // self.ALIGNMENT) * self.ALIGNMENT
        self.buffer = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        for tensor, place in zip(tensors, self.views(self.buffer)):
            place.copy_(tensor)

    def views(self, buffer):
        """The tensors as parts of `buffer`."""
        for start, size, dtype, shape in self.places:
            yield buffer[start : start + size].view(dtype).view(shape)

    def batch_in(self, buffer):
        """The batch with its tensors in `buffer`, which has this buffer's content or will have."""
        views = self.views(buffer)
        return map_batch(lambda _: next(views), self.batch)

    def load(self):
        """The batch on the device, without waiting for the copy.

        Without PackedInputs it stays on the host: there the model sees what it has to compute
        without waiting for a GPU.
        """
        if not self.packed:
            return self.batch
        return self.batch_in(self.buffer.to(self.device, non_blocking=True))
