"""Work only on tokens: which positions of a batch are computed, and attention and dropout on them.

Letters in the shape comments:

    B  sequences in the batch        P  packed tokens, over all sequences of the batch
    S  width of the input, padded    R  packed rows that a head reads
    F  query positions (from)        N  attention heads
    T  key positions (to)            H  size of one head, so that hidden_size = N*H
"""

import math
from itertools import repeat

import numpy as np
import torch
import torch.nn.functional as F

# Google adds this to the attention scores and so hides a position. It is not -inf: a row that
# attends nothing then softmaxes its true scores (modeling.py:720 of google-research/bert).
MASKED_SCORE = -10000.0
ZERO = torch.zeros(())


def moved(values, device):
    """`values` on `device`. From the host to a GPU they go by way of pinned memory: no waiting."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


class Packing:
    """Which positions of a [B, S] batch are computed, and where each stands in the packed matrix.

    Kept are the positions that are attended, [CLS] (column 0) always, and the whole row where
    nothing is attended; with `compute_padding` every position. The masked positions that Google's
    graph computes besides receive a weight of exactly 0, so the tokens' numbers are the same.

    source      [P]     position of each packed token in the flattened [B*S] input (given_source:
                        the same, where the mask lies)
    row_of      [B, S]  packed row of each position, -1 where it is not computed
    num_tokens          rows that count: P, or in bfloat16 a few less, where the first token is
                        repeated up to a round number, which nothing reads
    lengths     list    kept positions of each sequence, and the number of repetitions if any
    bias        [P]     MASKED_SCORE for kept positions that are not attended; None without any
    """

    def __init__(self, attention_mask, compute_padding=False, device=None):
        attended = attention_mask != 0
        kept = attended | ~attended.any(dim=1, keepdim=True)
        kept[:, 0] = True
        if compute_padding:
            kept = torch.ones_like(kept)
        flat = kept.flatten()
        source = flat.nonzero().squeeze(1)
        row_of = torch.where(flat, flat.cumsum(0) - 1, -1).view_as(kept)
        self.lengths, self.shape = kept.sum(dim=1).tolist(), kept.shape
        # In bfloat16 PyTorch keeps a kernel for each matrix shape that it meets, megabytes in all
        # for each P: six significant bits leave it few to meet, and cost at most 3 % more rows.
        self.num_tokens = len(source)
        bits = 6 if torch.is_autocast_enabled("cpu") else 64
        if spare := -len(source) % (1 << max(0, len(source).bit_length() - bits)):
            source = F.pad(source, (0, spare))
            self.lengths.append(spare)
        hidden = ~attended.flatten()[source]
        bias = hidden * MASKED_SCORE if hidden.any() else None
        device, self.given_source = device or source.device, source
        self.source, self.row_of, self.bias = (
            each if each is None else moved(each, device) for each in (source, row_of, bias)
        )

    def pack(self, values):
        """[B, S] -> [P]"""
        # Packed where it lies: to fetch `source` from a GPU would wait for the step before.
        packed = values.flatten()[moved(self.given_source, values.device)]
        return moved(packed, self.source.device)

    def unpack(self, packed, fill):
        """[P, ...] -> [B, S, ...], with `fill` where nothing was computed."""
        flat = packed.new_full((self.shape[0] * self.shape[1], *packed.shape[1:]), fill)
        source, packed = self.source[: self.num_tokens], packed[: self.num_tokens]
        return flat.index_copy(0, source, packed).unflatten(0, self.shape)

    def first(self):
        """Packed rows of the [CLS] tokens, [B]."""
        return self.row_of[:, 0]

    def rows(self, positions):
        """[B, M] positions in each sequence -> [B*M] packed rows."""
        return self.row_of.gather(1, moved(positions, self.row_of.device)).flatten()


def random_int16(count):
    """Whole numbers from -2**15 to 2**15 - 1, all as likely: int16 [count].

    Cut from wide numbers of NumPy's fastest generator, seeded by PyTorch's: half that one's time.
    """
    seed = torch.randint(2**63 - 1, ()).item()
    wide = np.random.SFC64(seed).random_raw((count + 3) // 4)
    return torch.from_numpy(wide.view(np.int16))[:count]


def threshold_mask(x, words, threshold):
    """x where its word is above `threshold`, else 0: F.threshold's gradient, the fastest kernel."""
    return torch.ops.aten.threshold_backward(x, words, threshold)


def word_dropout(probability):
    """(threshold, scale): a word that is not above the one drops; what stays grows by the other.

    The rate is `probability` to the nearest 2**-16, and the scale is that rate's.
    """
    dropped = round(probability * 2**16)
    return dropped - 2**15 - 1, 2**16 / (2**16 - dropped)


def dropout(x, probability, training):
    if x.device.type == "cpu" and probability and training:
        threshold, scale = word_dropout(probability)
        words = random_int16(x.numel()).view(x.shape).float()
        return threshold_mask(x.float(), words, threshold).mul_(scale)
    return F.dropout(x, probability, training)


def padded_attention(qkv, packing, num_heads, dropout_prob):
    """VarlenAttention for a GPU: one kernel over padded sequences rather than many small ones."""
    bias = qkv.new_zeros(len(qkv)) if packing.bias is None else packing.bias.to(qkv.dtype)
    bias = packing.unpack(bias, -math.inf)[:, None, None]  # [B, 1, 1, S]
    qkv = packing.unpack(qkv, 0.0).unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    context = F.scaled_dot_product_attention(*qkv, bias, dropout_prob)  # [B, N, S, H]
    return context.transpose(1, 2).flatten(2).flatten(0, 1)[packing.source]


def heads(packed, count, lengths):
    """[P, count*H] -> for each sequence [count, F, H]"""
    return packed.unflatten(1, (count, -1)).transpose(0, 1).split(lengths, dim=1)


def product(a, b, scale):
    """(a @ b) * scale of matrices in batches, in one kernel call."""
    return torch.baddbmm(ZERO, a, b, beta=0, alpha=scale)  # Beta 0: adds nothing.


class VarlenAttention(torch.autograd.Function):
    """Softmax attention inside each sequence, packed [P, 3*N*H] -> [P, N*H], in float32."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, qkv, packing, num_heads, dropout_prob):
        context, saved = qkv.new_empty((len(qkv), qkv.shape[1] // 3)), []
        threshold, kept_scale = word_dropout(dropout_prob)
        scale = 1.0 / math.sqrt(context.shape[1] // num_heads)
        lengths = packing.lengths
        biases = repeat(None) if packing.bias is None else packing.bias.split(lengths)
        sizes = [num_heads * length**2 for length in lengths]
        words = random_int16(sum(sizes)).split(sizes) if dropout_prob else repeat(None)
        pairs = zip(heads(qkv, 3 * num_heads, lengths), heads(context, num_heads, lengths))
        for (one, context_layer), bias, word in zip(pairs, biases, words):
            one = one.float()
            query, key, value = one.chunk(3)  # [N, F, H]
            # Scaled after the product, as Google's; the kernel would scale before, and round more.
            scores = torch.bmm(query, key.transpose(1, 2)).mul_(scale)
            kept = probs = (scores if bias is None else scores.add_(bias)).softmax(dim=-1)
            if word is not None:
                kept = threshold_mask(probs, word.view_as(probs).float(), threshold)  # [N, F, T]
            context_layer.copy_(product(kept, value, kept_scale))
            if ctx.needs_input_grad[0]:
                saved += one, probs, kept
        ctx.save_for_backward(*saved)
        ctx.constants = lengths, num_heads, scale, kept_scale
        return context

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, grad):
        lengths, num_heads, scale, kept_scale = ctx.constants
        grad_qkv = grad.new_empty((len(grad), 3 * grad.shape[1]))
        grads = heads(grad, num_heads, lengths), heads(grad_qkv, 3 * num_heads, lengths)
        saved = iter(ctx.saved_tensors)  # three of each sequence
        for grad_context, grad_one, one, probs, kept in zip(*grads, saved, saved, saved):
            query, key, value = one.chunk(3)
            grad_query, grad_key, grad_value = grad_one.chunk(3)
            grad_context = grad_context.float()
            grad_probs = product(grad_context, value.transpose(1, 2), kept_scale)
            if kept is not probs:  # What was dropped is 0; where probs is, this gradient is moot.
                grad_probs = threshold_mask(grad_probs, kept, 0)
            grad_scores = torch._softmax_backward_data(grad_probs, probs, -1, probs.dtype)
            grad_query.copy_(product(grad_scores, key, scale))
            grad_key.copy_(product(grad_scores.transpose(1, 2), query, scale))
            grad_value.copy_(product(kept.transpose(1, 2), grad_context, kept_scale))
        return grad_qkv, None, None, None
