"""A model's layers as a CPU computes them fastest, for prediction alone.

The numbers are those of modeling.py to rounding. Weights are laid out once for oneDNN's kernels,
which also apply GELU; in float32 they were a quarter faster than MKL's, PyTorch's own choice, on
an AMD EPYC. Attention takes neighbours of equal length in one call; predict.py sorts by length.
"""

from functools import cache
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling import BertLayer, attention, gelu
from padding import PackedInputs, Unpadding, num_spare_rows

# Private to PyTorch, where the compiler uses them; nothing else calls them, and `is_supported`
# tries them before they are used.
mkldnn = torch.ops.mkldnn


class PackedLinear:
    """A dense layer whose weight is laid out for oneDNN, with GELU after it if `fuse_gelu`.

    Several layers with the same input make one, their outputs side by side.
    """

    def __init__(self, layers, dtype, fuse_gelu=False):
        weight = torch.cat([layer.weight for layer in layers]).to(dtype)
        self.weight = mkldnn._reorder_linear_weight(weight, None)
        self.bias = torch.cat([layer.bias for layer in layers]).to(dtype)
        self.dtype = dtype
        self.activation = ("gelu", [], "none") if fuse_gelu else ("none", [], "")

    def __call__(self, x):
        """[R, input_size] -> [R, output_size] in `dtype`"""
        x = x.to(self.dtype)
        num_rows = len(x)
        spare_rows = num_spare_rows(num_rows, round_up=True)  # 0 for all but the [CLS] rows
        if spare_rows:
            x = F.pad(x, (0, 0, 0, spare_rows))
        outputs = mkldnn._linear_pointwise(x, self.weight, self.bias, *self.activation)
        return outputs[:num_rows]


class PackedLayer(nn.Module):
    """A BertLayer for prediction; matrix products are in `dtype`, all else in float32."""

    def __init__(self, layer: BertLayer, dtype: torch.dtype):
        super().__init__()
        attention_output = layer.attention.output
        projections = layer.attention.self
        self.num_heads = projections.num_heads
        self.size_per_head = projections.query.out_features // self.num_heads
        self.query = PackedLinear([projections.query], dtype)
        self.key_value = PackedLinear([projections.key, projections.value], dtype)
        self.attention_dense = PackedLinear([attention_output.dense], dtype)
        self.attention_norm = attention_output.LayerNorm
        act_fn = layer.intermediate.intermediate_act_fn
        self.act_fn = nn.Identity() if act_fn is gelu else act_fn
        self.intermediate = PackedLinear([layer.intermediate.dense], dtype, act_fn is gelu)
        self.dense = PackedLinear([layer.output.dense], dtype)
        self.norm = layer.output.LayerNorm

    def forward(
        self, hidden_states: Tensor, unpadding: Unpadding | PackedInputs, rows: Tensor | None = None
    ) -> Tensor:
        """[P, hidden] -> [P, hidden], or [R, hidden] where `rows` are given."""
        key_value = self.key_value(hidden_states)
        # Where nothing but [CLS] is read, nothing else needs a context.
        only_cls = rows is not None and unpadding.hidden is None
        only_cls = only_cls and torch.equal(rows, unpadding.cls_rows())
        if only_cls:
            hidden_states = hidden_states[rows]
        context_layer = self.attention(self.query(hidden_states), key_value, unpadding, only_cls)
        if rows is not None and not only_cls:
            context_layer = context_layer[rows]
            hidden_states = hidden_states[rows]
        # Cast before the sum: PyTorch adds numbers of one type faster than of two.
        attention_output = self.attention_dense(context_layer).float()
        hidden_states = self.attention_norm(attention_output.add_(hidden_states))
        layer_output = self.dense(self.act_fn(self.intermediate(hidden_states))).float()
        return self.norm(layer_output.add_(hidden_states))

    def attention(self, query, key_value, unpadding, only_cls):
        """`modeling.attention` in float32, one call for neighbours of equal length.

        query [P, N*H], or [B, N*H] of the [CLS] rows alone; key_value [P, 2*N*H] -> as `query`.
        """
        if unpadding.hidden is not None:
            return attention(torch.cat([query, key_value], 1), unpadding, self.num_heads, 0.0)
        seqlens = unpadding.seqlens
        if only_cls:
            seqlens = seqlens[: len(query)]  # without spare rows
        context = torch.empty_like(query)
        start = first = 0  # rows of key_value and of query
        with torch.autocast("cpu", enabled=False):
            for seqlen, group in groupby(seqlens):
                count = len(list(group))
                end = start + count * seqlen
                last = first + count * (1 if only_cls else seqlen)
                key_layer, value_layer = self.heads(key_value[start:end], count, 2)
                (query_layer,) = self.heads(query[first:last], count, 1)
                context_layer = F.scaled_dot_product_attention(query_layer, key_layer, value_layer)
                context[first:last] = context_layer.transpose(1, 2).reshape(last - first, -1)
                start = end
                first = last
        return context

    def heads(self, projected, batch, number):
        """Rows of `batch` sequences, [P, number*N*H] -> `number` times [B, N, S, H] in float32."""
        return (
            projected.float()
            .view(batch, -1, number, self.num_heads, self.size_per_head)
            .permute(2, 0, 3, 1, 4)
        )


@cache
def is_supported(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has oneDNN's operations and they compute what they should."""
    dense = nn.Linear(24, 40)
    x = torch.arange(72.0).view(3, 24).sin()
    try:
        ours = PackedLinear([dense], dtype, True)(x).float()
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool((ours - gelu(dense(x))).abs().max() < 2**-6)


@torch.inference_mode()
def pack_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Replaces the layers of a BertModel by PackedLayers, in place; it cannot be trained after."""
    if is_supported(dtype):
        layers = model.encoder.layer
        for number, layer in enumerate(layers):
            layers[number] = PackedLayer(layer, dtype)
