"""BERT: the network and its heads.

Mirrors `modeling.py` of google-research/bert (paper: Devlin et al., 2018, arXiv:1810.04805) and
computes the same numbers to rounding error, but works only on tokens: padding is dropped as soon as
the attention mask is known, and everything runs on one packed matrix with a row per token. Only
attention looks at single sequences; the heads read the rows that they need.

The letters in the shape comments are explained in padding.py.
"""

import math
import warnings
import weakref
from collections.abc import Callable
from functools import cache, partial
from itertools import repeat

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from configuration import BertConfig, check_activation
from padding import PackedInputs, Unpadding, to_device
from weights import load_weights

# The public names; BertConfig and load_weights come from modules of their own.
__all__ = [
    "BertConfig",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "gelu",
    "get_activation",
    "load_weights",
]

# Google adds this to the attention scores of hidden positions (modeling.py:720 of
# google-research/bert). It is not -inf, which matters for a row that attends nothing: its softmax
# is then over its true scores.
MASKED_SCORE = -10000.0

# The label of a token that has none, as in PyTorch's cross-entropy.
NO_LABEL = -100

ZERO = torch.zeros(())


gelu = F.gelu  # x·Φ(x), in the exact form with erf (arXiv:1606.08415)

ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),  # Google's since February 2019
    "relu": F.relu,
    "tanh": torch.tanh,
    "linear": nn.Identity(),
}


def get_activation(activation: str | Callable) -> Callable:
    """The activation function of that name; a function is returned as it is.

    Raises ValueError for an unknown name.
    """
    if callable(activation):
        return activation
    check_activation(activation)
    return ACTIVATIONS[activation.lower()]


# --- dropout -------------------------------------------------------------------------------------


def random_int16(count):
    """Uniform int16 [count], twice as fast as PyTorch's own generator, which only seeds it."""
    seed = torch.randint(2**63 - 1, ()).item()
    # Cut from 64-bit numbers of NumPy's fastest generator.
    wide = np.random.SFC64(seed).random_raw((count + 3) // 4)
    return torch.from_numpy(wide.view(np.int16))[:count]


def dropout_threshold(probability):
    """(threshold, scale): elements whose random int16 exceeds `threshold` stay, times `scale`.

    The rate is `probability` rounded to a multiple of 2**-16, and the scale belongs to that rate.
    """
    dropped = round(probability * 2**16)
    return dropped - 2**15 - 1, 2**16 / (2**16 - dropped)


def threshold_mask(x, numbers, threshold):
    """x where `numbers` exceed `threshold`, else 0.

    This is the gradient of F.threshold, whose kernel is faster than a comparison and a product.
    """
    return torch.ops.aten.threshold_backward(x, numbers, threshold)


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Dropout; on a CPU from our own random numbers, in float32 at least."""
    if x.device.type == "cpu" and probability and training:
        x = at_least_float32(x)
        threshold, scale = dropout_threshold(probability)
        numbers = random_int16(x.numel()).view(x.shape).to(x.dtype)
        return threshold_mask(x, numbers, threshold).mul_(scale)
    return F.dropout(x, probability, training)


# --- precision ----------------------------------------------------------------------------------


def at_least_float32(x):
    """x in float32 where it is in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class LayerNorm(nn.LayerNorm):
    """Computed in float32 where its parameters are in half precision, as after `model.half()`."""

    def forward(self, x):
        if self.weight.dtype in (torch.float32, torch.float64):
            return super().forward(x)
        weight, bias = self.weight.float(), self.bias.float()
        normed = F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)
        return normed.to(self.weight.dtype)


class Float32Linear(nn.Linear):
    """A small dense layer that stays in float32 under autocast, where rounding would show."""

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


# --- attention -----------------------------------------------------------------------------------


def plain_attention(query_layer, key_layer, value_layer, attention_mask, dropout_prob):
    """Attention as `attention_layer` in Google's modeling.py computes it.

    query_layer [B, N, F, H], key_layer and value_layer [B, N, T, H], attention_mask [B, 1, 1, T]
    with 1 for positions to attend and 0 for hidden ones -> context_layer [B, N, F, H]. The faster
    paths below are tested to equal it.
    """
    size_per_head = query_layer.shape[-1]
    attention_scores = query_layer @ key_layer.transpose(-1, -2)  # [B, N, F, T]
    attention_scores = attention_scores * (1.0 / math.sqrt(size_per_head))

    adder = (1.0 - attention_mask.to(attention_scores.dtype)) * MASKED_SCORE
    attention_scores = attention_scores + adder

    attention_probs = attention_scores.softmax(dim=-1)  # [B, N, F, T]
    attention_probs = dropout(attention_probs, dropout_prob, training=dropout_prob > 0)
    return attention_probs @ value_layer  # [B, N, F, H]


def padded_heads(qkv, unpadding, num_heads):
    """[P, 3*N*H] -> [3, B, N, S, H]: query, key and value of each head, padded with 0."""
    padded = unpadding.pad(qkv, 0.0)  # [B, S, 3*N*H]
    return padded.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)


def packed_context(context_layer, unpadding):
    """[B, N, S, H] -> [P, N*H], the opposite of `padded_heads` for attention's output."""
    return unpadding.take(context_layer.transpose(1, 2).flatten(2))  # from [B, S, N*H]


def plain_packed_attention(qkv, unpadding, num_heads, dropout_prob):
    """`plain_attention` of packed rows, in float32 at least: [P, 3*N*H] -> [P, N*H]."""
    attended = torch.ones_like(unpadding.indices)
    if unpadding.hidden is not None:
        attended = attended.masked_fill(unpadding.hidden, 0)
    attention_mask = unpadding.pad(attended, 0)[:, None, None]  # [B, 1, 1, S]
    with torch.autocast(qkv.device.type, enabled=False):
        context_layer = plain_attention(
            *padded_heads(at_least_float32(qkv), unpadding, num_heads), attention_mask, dropout_prob
        )
    return packed_context(context_layer, unpadding).to(qkv.dtype)


def padded_attention(qkv, unpadding, num_heads, dropout_prob):
    """The same on a GPU, by PyTorch's public function: one kernel over padded sequences."""
    bias = qkv.new_zeros(len(qkv))
    if unpadding.hidden is not None:
        bias = (unpadding.hidden * MASKED_SCORE).to(qkv.dtype)
    bias = unpadding.pad(bias, -math.inf)[:, None, None]  # [B, 1, 1, S]
    query_layer, key_layer, value_layer = padded_heads(qkv, unpadding, num_heads)
    # Not cuDNN's kernel, which takes 100 ms to plan for a new shape: every batch has its own.
    with sdpa_kernel(list(SDPA_KERNELS)):
        context_layer = F.scaled_dot_product_attention(
            query_layer, key_layer, value_layer, bias, dropout_prob
        )
    return packed_context(context_layer, unpadding)


SDPA_KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
aten = torch.ops.aten


def flash_attention(qkv, unpadding, num_heads, dropout_prob):
    """The same on a GPU without padding, where every computed position is attended.

    FlashAttention in bfloat16 and float16, the memory-efficient kernel in float32. The operations
    are private to PyTorch; nothing else calls them, and `refusal` tries them before they are used.
    """
    query, key, value = qkv.unflatten(1, (3, num_heads, -1)).unbind(1)  # [P, N, H]
    ends = unpadding.cu_seqlens
    longest = unpadding.max_seqlen
    if qkv.dtype == torch.float32:
        for_backward = torch.is_grad_enabled() and qkv.requires_grad
        query, key, value = query[None], key[None], value[None]  # [1, P, N, H]
        context_layer = aten._efficient_attention_forward(
            query, key, value, None, ends, ends, longest, longest, dropout_prob, 0, for_backward
        )[0][0]
    else:
        context_layer = aten._flash_attention_forward(
            query, key, value, ends, ends, longest, longest, dropout_prob, False, False
        )[0]
    return context_layer.flatten(1)


def drops_alike(unpadding, dtype, head_size):
    """Whether `flash_attention` drops the same elements forward and backward.

    With equal scores, and unit vectors as values and as gradients of the output, the output is the
    rows of what stays, and the gradient of the values its columns.
    """
    width = unpadding.shape[1]
    unit = F.one_hot(unpadding.indices % width, head_size).repeat(1, 2).to(dtype)  # [P, 2*H]
    zeros = torch.zeros_like(unit)
    qkv = torch.cat([zeros, zeros, unit], dim=1).requires_grad_()
    context = flash_attention(qkv, unpadding, 2, 0.5)
    (grad,) = torch.autograd.grad(context, qkv, unit)
    rows = padded_heads(torch.cat([zeros, zeros, context], dim=1), unpadding, 2)[2]  # [B, 2, S, H]
    columns = padded_heads(grad, unpadding, 2)[2]
    return torch.equal(rows[..., :width] != 0, columns[..., :width].mT != 0)


def try_flash_attention(device_type, dtype, head_size, drops):
    """What is wrong with the results of `flash_attention`, in words; "" where they are right."""
    mask = torch.ones(2, 5, dtype=torch.long)
    mask[1, 3:] = 0
    unpadding = Unpadding(mask, device=torch.device(device_type))
    numbers = torch.arange(8 * 3 * 2 * head_size, device=device_type).sin()
    found = []
    for function in (flash_attention, plain_packed_attention):
        qkv = numbers.view(8, -1).to(dtype).requires_grad_()
        context = function(qkv, unpadding, 2, 0.0)
        found.append((context, *torch.autograd.grad(context.sum(), qkv)))
    for ours, plain in zip(*found):
        if not (ours - plain).abs().max() <= 2**-5 * plain.abs().max():  # or NaN
            return "its results differ from the plain formula's"
    # The float32 kernel of PyTorch 2.11 to 2.13 fails here: where a head's random numbers begin
    # depends on the most keys of a sequence, which its forward pass takes for 0.
    if drops and not drops_alike(unpadding, dtype, head_size):
        name = str(dtype).removeprefix("torch.")
        return f"with dropout, the {name} kernel drops other elements backward than forward"
    return ""


@cache
def refusal(device_type, dtype, head_size, drops):
    """Why `flash_attention` cannot be used, in words; "" where it can.

    Tried once, forward and backward, against the plain formula, and with dropout if it `drops`; a
    warning says the reason. Random states do not change.
    """
    reason = ""
    if head_size % 8 or head_size > 256:
        reason = f"heads of {head_size} are not a multiple of 8 up to 256"
    else:
        devices = [torch.cuda.current_device()] if device_type == "cuda" else []
        try:
            with (
                torch.inference_mode(False),
                torch.autocast(device_type, enabled=False),
                torch.random.fork_rng(devices),
            ):
                reason = try_flash_attention(device_type, dtype, head_size, drops)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, RuntimeError, TypeError) as error:  # another PyTorch, an old GPU
            reason = str(error).partition("\n")[0]
    if reason:
        warnings.warn(f"attention runs padded, which is slower on a GPU: {reason}", stacklevel=2)
    return reason


class VarlenAttention(torch.autograd.Function):
    """The same on a CPU, sequence by sequence and in float32: packed [P, 3*N*H] -> [P, N*H].

    Forward and backward are written out, so that each passes over the scores as few times as it
    can. Dropout's scale is applied to the products, not to the probabilities.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, qkv, unpadding, num_heads, dropout_prob):
        seqlens = unpadding.seqlens
        context = qkv.new_empty((len(qkv), qkv.shape[1] // 3))
        scale = 1.0 / math.sqrt(context.shape[1] // num_heads)
        threshold, kept_scale = dropout_threshold(dropout_prob)

        biases = repeat(None)
        if unpadding.hidden is not None:
            biases = (unpadding.hidden * MASKED_SCORE).split(seqlens)
        numbers = repeat(None)
        if dropout_prob:
            sizes = [num_heads * seqlen**2 for seqlen in seqlens]
            numbers = random_int16(sum(sizes)).split(sizes)

        saved = []
        sequences = zip(
            split_heads(qkv, 3 * num_heads, seqlens),
            split_heads(context, num_heads, seqlens),
            biases,
            numbers,
        )
        for sequence_qkv, context_layer, bias, number in sequences:
            sequence_qkv = sequence_qkv.float()
            query, key, value = sequence_qkv.chunk(3)  # [N, F, H]
            # Scaled after the product, as Google does: scaling the query would round differently.
            scores = torch.bmm(query, key.transpose(1, 2)).mul_(scale)  # [N, F, T]
            if bias is not None:
                scores.add_(bias)
            probs = scores.softmax(dim=-1)
            kept = probs
            if number is not None:
                kept = threshold_mask(probs, number.view_as(probs).float(), threshold)
            context_layer.copy_(scaled_bmm(kept, value, kept_scale))
            if ctx.needs_input_grad[0]:
                saved += [sequence_qkv, probs, kept]

        ctx.save_for_backward(*saved)
        ctx.constants = seqlens, num_heads, scale, kept_scale
        return context

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, grad):
        if torch.is_grad_enabled():
            raise ValueError(
                "create_graph=True: the fast attention can be differentiated once only; "
                "modeling.attention = modeling.plain_packed_attention takes its plain formula"
            )
        seqlens, num_heads, scale, kept_scale = ctx.constants
        grad_qkv = grad.new_empty((len(grad), 3 * grad.shape[1]))
        saved = iter(ctx.saved_tensors)
        sequences = zip(
            split_heads(grad, num_heads, seqlens),
            split_heads(grad_qkv, 3 * num_heads, seqlens),
            *(saved, saved, saved),  # three tensors for each sequence
        )
        for grad_context, sequence_grad, sequence_qkv, probs, kept in sequences:
            query, key, value = sequence_qkv.chunk(3)
            grad_query, grad_key, grad_value = sequence_grad.chunk(3)
            grad_context = grad_context.float()

            grad_probs = scaled_bmm(grad_context, value.transpose(1, 2), kept_scale)
            if kept is not probs:
                # `kept` is 0 where an element was dropped. It is also 0 where a probability is 0,
                # but there the softmax multiplies this gradient by 0 anyway.
                grad_probs = threshold_mask(grad_probs, kept, 0)
            grad_scores = torch._softmax_backward_data(grad_probs, probs, -1, probs.dtype)

            grad_query.copy_(scaled_bmm(grad_scores, key, scale))
            grad_key.copy_(scaled_bmm(grad_scores.transpose(1, 2), query, scale))
            grad_value.copy_(scaled_bmm(kept.transpose(1, 2), grad_context, kept_scale))
        return grad_qkv, None, None, None


def split_heads(packed, count, seqlens):
    """[P, count*H] -> a view [count, F, H] of each sequence."""
    return packed.unflatten(1, (count, -1)).transpose(0, 1).split(seqlens, dim=1)


def scaled_bmm(a, b, scale):
    """(a @ b) * scale of batched matrices, in one kernel call."""
    return torch.baddbmm(ZERO, a, b, beta=0, alpha=scale)  # beta=0: ZERO is not added


def attention(qkv: Tensor, unpadding: Unpadding, num_heads: int, dropout_prob: float) -> Tensor:
    """Softmax attention inside each sequence, packed [P, 3*N*H] -> [P, N*H]; the fastest path."""
    if unpadding.flash:
        return flash_attention(qkv, unpadding, num_heads, dropout_prob)
    if qkv.device.type != "cpu":
        return padded_attention(qkv, unpadding, num_heads, dropout_prob)
    if qkv.dtype == torch.float64:
        return plain_packed_attention(qkv, unpadding, num_heads, dropout_prob)
    with torch.autocast("cpu", enabled=False):
        return VarlenAttention.apply(qkv, unpadding, num_heads, dropout_prob)


# --- embeddings ----------------------------------------------------------------------------------


class GradientSources:
    """Where the gradient of a word table comes from, which BERT's clipping norm depends on.

    In TensorFlow the gradient of a look-up is a list of rows, one for each token, and its global
    norm is taken over that list, before the rows of equal words are added up; the gradient of a
    decoder that shares the table counts apart (quirk of optimization.py:74). `weight.grad` holds
    the sum of it all. So the backward pass leaves notes here, and hooks on the weight keep them in
    step with `weight.grad`: a gradient that is made anew starts them anew, one that is added to
    adds to them.

    What others do to `weight.grad` (zero it, scale it, clear rows of it, average it over ranks) is
    seen by comparing its first columns with those that were noted. Nothing here waits for a GPU.

    squared      scalar, sum of the squares of the looked-up rows' gradients
    row_squares  [V], the same for each word
    decoder      [V, hidden], the decoder's gradient; None where there is no decoder
    probe        [V, PROBE], the first columns of the whole gradient
    known        scalar, 1 where all that went into `weight.grad` is noted, else 0
    """

    PROBE = 4
    TOLERANCE = 2.0**-6  # between the probe and the gradient; rounding to bfloat16 stays below it
    NAMES = ("squared", "row_squares", "decoder", "probe", "known")

    def __init__(self):
        self.pending = []  # of the backward pass that is running: (its number, dictionary)
        self.attached_to = lambda: None
        self.spare = []  # memory for the next gradient of a look-up
        self.clear()

    def __reduce__(self):
        # A copy of the model has another weight, without a gradient as yet.
        return GradientSources, ()

    def clear(self):
        for name in self.NAMES:
            setattr(self, name, None)
        self.summed = False  # over ranks

    def attach(self, weight):
        """Registers the hooks on a trainable Parameter that does not have them yet."""
        own = isinstance(weight, nn.Parameter)  # a replica's weight is not
        if self.attached_to() is not weight and own and weight.requires_grad:
            self.attached_to = weakref.ref(weight)
            weight.register_hook(self.before_accumulation)
            weight.register_post_accumulate_grad_hook(self.after_accumulation)

    def note(self, **values):
        """Called in a backward pass, in the thread of any GPU: the values of one source."""
        self.pending.append((torch._C._current_graph_task_id(), values))

    def before_accumulation(self, _):
        grad = self.attached_to().grad
        if grad is None:
            self.clear()
        else:
            self.follow(grad)

    @torch.no_grad()
    def after_accumulation(self, weight):
        # Older notes are of passes that did not reach the weight, e.g. one that ran out of memory.
        number = torch._C._current_graph_task_id()
        noted = [values for task, values in self.pending if task == number]
        self.pending.clear()
        if self.probe is None:
            self.start(weight.grad)
        for values in noted:
            for name, value in values.items():
                value = value.to(weight.device)
                before = getattr(self, name)
                setattr(self, name, value if before is None else before + value)
        self.summed = False

    def start(self, grad):
        """Notes that nothing has been added to `grad` so far."""
        dtype = torch.promote_types(grad.dtype, torch.float32)
        self.squared = grad.new_zeros((), dtype=dtype)
        self.row_squares = grad.new_zeros(len(grad), dtype=dtype)
        self.probe = torch.zeros_like(grad[:, : self.PROBE], dtype=dtype)
        self.known = grad.new_ones((), dtype=dtype)

    def follow(self, grad):
        """Changes the notes as `grad` has been changed: scaled, and cleared in some rows or all."""
        now = grad[:, : self.PROBE].to(self.probe.dtype, copy=True)
        kept = (now != 0).any(dim=1)
        probe = torch.where(kept[:, None], self.probe, 0)
        size = (probe * probe).sum()
        # Exactly 1 where nothing was changed: the two sums are then the same.
        factor = torch.where(size > 0, (now * probe).sum() / size, 1)
        error = (now - factor * probe).square().sum()
        fits = (error <= self.TOLERANCE**2 * now.square().sum()) | ~error.isfinite()

        row_squares = torch.where(kept, self.row_squares, 0)
        all_kept = (row_squares == self.row_squares).all()
        squared = torch.where(all_kept, self.squared, row_squares.sum())
        self.squared = squared * factor.square()
        self.row_squares = row_squares * factor.square()
        self.probe = now
        # A gradient that was zeroed starts anew, whatever it was.
        self.known = (self.known.bool() | ~kept.any()).to(now.dtype) * fits
        if self.decoder is not None:
            self.decoder = torch.where(kept[:, None], self.decoder * factor, 0)

    def sum_over_ranks(self, grad):
        """Adds up the notes of all ranks, once for each gradient; every rank must call it."""
        if self.summed or not dist.is_available() or not dist.is_initialized():
            return
        world_size = dist.get_world_size()
        if world_size == 1:
            return
        flat = torch.cat([
            self.squared[None], self.known[None], self.row_squares, self.probe.flatten()
        ])  # fmt: skip
        dist.all_reduce(flat)
        sizes = [1, 1, len(grad), self.probe.numel()]
        squared, known, self.row_squares, probe = flat.split(sizes)
        self.squared = squared[0]
        self.known = (known[0] == world_size).to(flat.dtype)
        self.probe = probe.view_as(self.probe)
        if self.decoder is not None:
            # Not in place: the notes may share memory with the gradient.
            self.decoder = self.decoder.clone()
            dist.all_reduce(self.decoder)
        self.summed = True

    @torch.no_grad()
    def norms(self, grad):
        """(squared norm of the look-ups, norm of the decoder's part or None), for `weight.grad`.

        Where not all that went into `grad` is noted, the first is that of the whole and the second
        is 0. Sets `known`. In a process group every rank must call this.
        """
        if self.probe is None:  # a gradient that did not come from a backward pass
            self.start(grad)
        self.sum_over_ranks(grad)
        self.follow(grad)
        decoder = None if self.decoder is None else torch.linalg.vector_norm(self.decoder)
        if grad.device.type == "cpu" and self.known:
            return self.squared, decoder
        dense = torch.linalg.vector_norm(grad, dtype=self.squared.dtype).square()
        squared = torch.where(self.known > 0, self.squared, dense)
        return squared, None if decoder is None else decoder * self.known


class TokenLookup(torch.autograd.Function):
    """Rows of a word table; backward notes the squares of the rows' gradients."""

    @staticmethod
    def forward(ctx, weight, ids, sources):
        ctx.save_for_backward(ids)
        ctx.constants = sources, weight.shape
        return weight[ids]

    @staticmethod
    def backward(ctx, grad):
        (ids,) = ctx.saved_tensors
        sources, shape = ctx.constants
        table = sources.spare.pop().zero_() if sources.spare else grad.new_zeros(shape)
        table = table.index_add_(0, ids, grad)

        rows = at_least_float32(grad.detach())
        flat = rows.flatten()
        row_squares = rows.new_zeros(len(table)).index_add_(0, ids, rows.square().sum(dim=1))
        probe = table.detach()[:, : sources.PROBE].to(rows.dtype, copy=True)
        sources.note(squared=flat.dot(flat), row_squares=row_squares, probe=probe)
        return table, None, None


class TiedWeight(torch.autograd.Function):
    """The word table as the decoder's weight; backward notes its gradient."""

    @staticmethod
    def forward(ctx, weight, sources):
        ctx.sources = sources
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, grad):
        dtype = torch.promote_types(grad.dtype, torch.float32)
        probe = grad.detach()[:, : ctx.sources.PROBE].to(dtype, copy=True)
        ctx.sources.note(decoder=grad.detach(), probe=probe)
        return grad, None


class WordEmbeddings(nn.Embedding):
    """The word table, which the masked-LM head shares.

    `optimization.create_optimizer` calls `track_gradient_sources`, which BERT's clipping needs;
    without it this is a plain embedding.
    """

    def __init__(self, vocab_size, hidden_size):
        super().__init__(vocab_size, hidden_size)
        self.sources = None

    def track_gradient_sources(self):
        self.sources = self.sources or GradientSources()
        self.sources.attach(self.weight)

    def tracked_sources(self):
        """The GradientSources to note the coming backward pass in, or None."""
        if self.sources is None or not (torch.is_grad_enabled() and self.weight.requires_grad):
            return None
        self.sources.attach(self.weight)  # It may be a copy's weight, or a new one.
        return self.sources

    def reuse_gradient(self):
        """Drops `weight.grad`, and keeps its memory for the next one.

        New memory pages would cost 1 to 2 % of a step on a CPU. Nothing else may hold the gradient.
        """
        if self.weight.device.type == "cpu" and self.weight.grad is not None:
            self.sources.spare[:] = [self.weight.grad]
        self.weight.grad = None

    def forward(self, ids):
        """[P] -> [P, hidden]"""
        sources = self.tracked_sources()
        if sources is None:
            return super().forward(ids)
        return TokenLookup.apply(self.weight, ids, sources)

    def decoder_weight(self):
        """The table as the decoder's weight, [vocab, hidden]."""
        sources = self.tracked_sources()
        return self.weight if sources is None else TiedWeight.apply(self.weight, sources)


def word_table(word_embeddings):
    """The embedding in `word_embeddings`, which may be a wrapper of it (LoRA)."""
    return next(module for module in word_embeddings.modules() if isinstance(module, nn.Embedding))


class BertEmbeddings(nn.Module):
    """Sum of word, token-type and position embeddings, normalised."""

    def __init__(self, config):
        super().__init__()
        self.word_embeddings = WordEmbeddings(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout_prob = config.hidden_dropout_prob

    def forward(self, input_ids, token_type_ids, position_ids):
        """Three [P] -> [P, hidden]"""
        embeddings = self.word_embeddings(input_ids)
        embeddings = embeddings + self.token_type_embeddings(token_type_ids)
        embeddings = embeddings + self.position_embeddings(position_ids)
        # Dropout follows LayerNorm here, and here alone: the layers drop before they normalise.
        normed = self.LayerNorm(embeddings)
        return dropout(normed, self.dropout_prob, self.training).to(normed.dtype)


# --- encoder -------------------------------------------------------------------------------------


def is_plain_linear(module):
    """Whether calling `module` does nothing but multiply by its weight and add its bias.

    It may do more if it is a wrapper (LoRA), a subclass (a parametrisation), or has hooks (pruning
    is one), or if every module has them.
    """
    return (
        type(module) is nn.Linear
        and module.bias is not None
        and "forward" not in vars(module)  # some libraries replace the method of one module
        and not module._forward_pre_hooks
        and not module._forward_hooks
        and not module._backward_pre_hooks
        and not module._backward_hooks
        and not nn.modules.module._has_any_global_hook()
    )


class BertSelfAttention(nn.Module):
    """Multi-head attention of each sequence to itself, without its output layer."""

    def __init__(self, config):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout_prob = config.attention_probs_dropout_prob

    def forward(self, hidden_states, unpadding):
        """[P, N*H] -> [P, N*H]"""
        projections = (self.query, self.key, self.value)
        if all(map(is_plain_linear, projections)):
            # One product instead of three.
            weight = torch.cat([projection.weight for projection in projections])
            bias = torch.cat([projection.bias for projection in projections])
            qkv = F.linear(hidden_states, weight, bias)  # [P, 3*N*H]
        else:
            qkv = torch.cat([projection(hidden_states) for projection in projections], dim=1)
        dropout_prob = self.dropout_prob if self.training else 0.0
        return attention(qkv, unpadding, self.num_heads, dropout_prob)


class BertSelfOutput(nn.Module):
    """Dense layer, dropout, residual connection, LayerNorm."""

    def __init__(self, config, input_size=None):
        super().__init__()
        self.dense = nn.Linear(input_size or config.hidden_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout_prob = config.hidden_dropout_prob

    def forward(self, hidden_states, input_tensor):
        """[P, input_size], [P, hidden] -> [P, hidden]"""
        hidden_states = dropout(self.dense(hidden_states), self.dropout_prob, self.training)
        return self.LayerNorm(hidden_states + input_tensor)


class BertAttention(nn.Module):
    """Self-attention and its output layer."""

    def __init__(self, config):
        super().__init__()
        self.self = BertSelfAttention(config)
        self.output = BertSelfOutput(config)

    def forward(self, hidden_states, unpadding, rows=None):
        """[P, hidden] -> [P, hidden], or [R, hidden] where `rows` are given."""
        context_layer = self.self(hidden_states, unpadding)
        if rows is not None:
            context_layer = context_layer[rows]
            hidden_states = hidden_states[rows]
        return self.output(context_layer, hidden_states)


class BertIntermediate(nn.Module):
    """The wide half of the feed-forward part, with its activation."""

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = get_activation(config.hidden_act)

    def forward(self, hidden_states):
        """[R, hidden] -> [R, intermediate]"""
        return self.intermediate_act_fn(self.dense(hidden_states))


class BertOutput(BertSelfOutput):
    """The narrow half of the feed-forward part; the same steps as attention's output layer."""

    def __init__(self, config):
        super().__init__(config, input_size=config.intermediate_size)


class BertLayer(nn.Module):
    """Attention and feed-forward part: one block of the Transformer encoder."""

    def __init__(self, config):
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    def forward(self, hidden_states, unpadding, rows=None):
        """[P, hidden] -> [P, hidden], or [R, hidden] where `rows` are given."""
        attention_output = self.attention(hidden_states, unpadding, rows)
        return self.output(self.intermediate(attention_output), attention_output)


class BertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config):
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden_states, unpadding, rows=None):
        """The packed output of every layer; of the last one only `rows`, where they are given."""
        all_encoder_layers = []
        for layer in self.layer[:-1]:
            hidden_states = layer(hidden_states, unpadding)
            all_encoder_layers.append(hidden_states)
        all_encoder_layers.append(self.layer[-1](hidden_states, unpadding, rows))
        return all_encoder_layers


class BertPooler(nn.Module):
    """tanh of a dense layer over the first token."""

    def __init__(self, config):
        super().__init__()
        self.dense = Float32Linear(config.hidden_size, config.hidden_size)

    def forward(self, first_token_tensor):
        """[B, hidden] -> [B, hidden]"""
        return torch.tanh(self.dense(first_token_tensor))


class BertModel(nn.Module):
    """The encoder: token ids to hidden states."""

    # True computes padding positions as well, as Google's graph does.
    compute_padding = False

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config)
        initialize(self, config)

    def make_unpadding(
        self, input_ids: Tensor | PackedInputs, attention_mask: Tensor | None = None
    ) -> Unpadding | PackedInputs:
        """Which positions of `input_ids` [B, S] are computed; without a mask, all of them.

        The mask is [B, S], or [1, S] for every row. PackedInputs know it themselves, and come back
        on the model's device. Raises ValueError for another shape, or for a width beyond the
        model's positions.
        """
        packed = isinstance(input_ids, PackedInputs)
        if not packed and (input_ids.dim() != 2 or not input_ids.shape[1]):
            raise ValueError(f"input_ids has the shape {list(input_ids.shape)}: give [B, S]")
        width = input_ids.shape[1]
        if width > self.config.max_position_embeddings:
            limit = f"the model's {self.config.max_position_embeddings} positions"
            raise ValueError(f"a sequence of {width} tokens exceeds {limit}")

        device = word_table(self.embeddings.word_embeddings).weight.device
        if packed:
            self.check_ids(input_ids.input_ids, input_ids.token_type_ids)
            unpadding = input_ids.to(device)
        else:
            if attention_mask is None:
                attention_mask = torch.ones_like(input_ids)
            attention_mask = as_wide_as_ids("attention_mask", attention_mask, input_ids)
            unpadding = Unpadding(attention_mask, self.compute_padding, device)
        unpadding.flash = self.uses_flash_attention(unpadding, device.type)
        return unpadding

    def check_ids(self, input_ids, token_type_ids):
        """Raises ValueError for ids outside the model's tables, if they lie on the host."""
        if input_ids.device.type == "cpu" and input_ids.numel():
            check_range("token id", input_ids, self.config.vocab_size)
            # Google's one-hot look-up of token types adds nothing for an id outside the table.
            check_range("token type id", token_type_ids, self.config.type_vocab_size)

    def uses_flash_attention(self, unpadding, device_type):
        """Whether attention may call `flash_attention`."""
        if device_type == "cpu" or unpadding.hidden is not None:
            return False
        dtype = word_table(self.embeddings.word_embeddings).weight.dtype
        if torch.is_autocast_enabled(device_type):
            dtype = torch.get_autocast_dtype(device_type)
        if dtype == torch.float64:
            return False
        head_size = self.config.hidden_size // self.config.num_attention_heads
        drops = self.training and self.config.attention_probs_dropout_prob > 0
        return not refusal(device_type, dtype, head_size, drops)

    def encode(
        self,
        input_ids: Tensor | PackedInputs,
        token_type_ids: Tensor | None,
        unpadding: Unpadding | PackedInputs,
        rows: Tensor | None = None,
    ) -> list[Tensor]:
        """Two [B, S], or PackedInputs, -> packed [P, hidden] of every layer.

        Of the last layer only the packed `rows` [R] are computed, where they are given. The inputs
        may lie on the host while the weights are on a GPU: only tokens travel then. Raises
        ValueError for ids outside the model's tables.
        """
        if isinstance(unpadding, PackedInputs):
            packed = (unpadding.input_ids, unpadding.token_type_ids, unpadding.position_ids)
        else:
            if token_type_ids is None:
                token_type_ids = torch.zeros_like(input_ids)
            token_type_ids = as_wide_as_ids("token_type_ids", token_type_ids, input_ids)
            self.check_ids(input_ids, token_type_ids)
            packed = (
                unpadding.unpad(input_ids),
                unpadding.unpad(token_type_ids),
                unpadding.indices % input_ids.shape[1],
            )
        return self.encoder(self.embeddings(*packed), unpadding, rows)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Three [B, S] -> (list of [B, S, hidden], one a layer; pooled output [B, hidden]).

        PackedInputs take the place of all three, here and in the heads below. Hidden states are 0
        where nothing is computed. Raises ValueError for ids or widths beyond the configuration.
        """
        unpadding = self.make_unpadding(input_ids, attention_mask)
        layers = self.encode(input_ids, token_type_ids, unpadding)
        pooled_output = self.pooler(layers[-1][unpadding.cls_rows()])
        return [unpadding.pad(layer, 0.0) for layer in layers], pooled_output


def as_wide_as_ids(name, values, input_ids):
    """`values` as [B, S]; given as [1, S], every row is the same.

    Raises ValueError for another shape.
    """
    batch, width = input_ids.shape
    if values.shape not in ((batch, width), (1, width)):
        raise ValueError(
            f"{name} has the shape {list(values.shape)}, but input_ids {[batch, width]}: give the "
            f"same, or {[1, width]} for every row"
        )
    return values.expand(batch, width)


def check_range(what, ids, size):
    """Raises ValueError where not all `ids` are in 0..size-1."""
    low = ids.min().item()
    high = ids.max().item()
    if low < 0 or high >= size:
        raise ValueError(f"{what} {low if low < 0 else high} is outside the model's 0..{size - 1}")


# --- heads ---------------------------------------------------------------------------------------


def initialize(module, config):
    """Google's weights: normal with σ = initializer_range, cut at 2σ; biases 0, LayerNorm 1."""
    deviation = config.initializer_range
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)) and not deviation:
            nn.init.zeros_(part.weight)
        elif isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.trunc_normal_(part.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)


@torch.no_grad()
def add_word_rows(model, rows: dict[int, list[int]]) -> None:
    """Gives new words their rows of the word table and biases of the decoder, in place.

    `rows` maps the id of a word to the ids of its WordPieces so far; their mean is its row. Where
    ids lie beyond the table it grows, and `config.vocab_size` with it. Call it before the optimizer
    is created.
    """
    config = getattr(model, "bert", model).config
    embeddings = getattr(model, "bert", model).embeddings
    table = word_table(embeddings.word_embeddings)
    size = max([config.vocab_size - 1, *rows]) + 1
    parts = [(table, "weight")]
    if hasattr(model, "cls"):
        parts.append((model.cls.predictions, "bias"))
    for module, name in parts:
        old = getattr(module, name)
        new = torch.zeros(size, *old.shape[1:], dtype=old.dtype, device=old.device)
        new[: len(old)] = old
        for index, pieces in rows.items():
            new[index] = old[pieces].mean(dim=0)
        setattr(module, name, nn.Parameter(new))
    table.num_embeddings = size
    config.vocab_size = size


class BertLMPredictionHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word-embedding table."""

    def __init__(self, config):
        super().__init__()
        self.transform = nn.Module()
        self.transform.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.transform.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.transform_act_fn = get_activation(config.hidden_act)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states, word_embeddings):
        """[R, hidden] -> [R, vocab]"""
        hidden_states = self.transform_act_fn(self.transform.dense(hidden_states))
        hidden_states = self.transform.LayerNorm(hidden_states)
        table = word_table(word_embeddings)
        tied = isinstance(table, WordEmbeddings)
        return F.linear(hidden_states, table.decoder_weight() if tied else table.weight, self.bias)


class BertForPreTraining(nn.Module):
    """Masked-LM and next-sentence heads, as in run_pretraining.py of google-research/bert."""

    def __init__(self, config):
        super().__init__()
        if not config.tie_word_embeddings:
            raise ValueError(
                "tie_word_embeddings is False, but the masked-LM head scores with the word table"
            )
        self.bert = BertModel(config)
        self.cls = nn.Module()
        self.cls.predictions = BertLMPredictionHead(config)
        self.cls.seq_relationship = Float32Linear(config.hidden_size, 2)
        initialize(self.cls, config)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        masked_lm_positions: Tensor | None = None,
        masked_lm_ids: Tensor | None = None,
        masked_lm_weights: Tensor | None = None,
        next_sentence_labels: Tensor | None = None,
    ):
        """Scores of the masked positions [B, M, vocab] and of the next sentence [B, 2].

        input_ids, token_type_ids, attention_mask [B, S]; masked_lm_positions, _ids, _weights
        [B, M]; next_sentence_labels [B], where 1 means a random next sentence. Without positions
        all are scored, [B, S, vocab], with MASKED_SCORE where nothing is computed. Given
        masked_lm_ids (without weights, all count alike), labels, or both, it returns
        (loss, (scores, next-sentence scores)).
        """
        unpadding = self.bert.make_unpadding(input_ids, attention_mask)
        word_embeddings = self.bert.embeddings.word_embeddings
        cls_rows = unpadding.cls_rows()
        if masked_lm_positions is None:
            hidden_states = self.bert.encode(input_ids, token_type_ids, unpadding)[-1]
            first_token_tensor = hidden_states[cls_rows]
            scores = unpadding.pad(
                self.cls.predictions(hidden_states, word_embeddings), MASKED_SCORE
            )
        else:
            masked_rows, not_computed = unpadding.rows_of(masked_lm_positions)
            rows = torch.cat([cls_rows, masked_rows])
            hidden_states = self.bert.encode(input_ids, token_type_ids, unpadding, rows)[-1]
            first_token_tensor, masked = hidden_states.split([len(cls_rows), len(masked_rows)])
            scores = self.cls.predictions(masked, word_embeddings)
            if not_computed is not None:
                scores = scores.masked_fill(not_computed[:, None], MASKED_SCORE)
            scores = scores.unflatten(0, masked_lm_positions.shape)  # [B, M, vocab]
        next_scores = self.cls.seq_relationship(self.bert.pooler(first_token_tensor))
        losses = []
        if masked_lm_ids is not None:
            if masked_lm_weights is None:
                masked_lm_weights = torch.ones_like(masked_lm_ids, dtype=torch.float32)
            losses.append(masked_lm_loss(scores, masked_lm_ids, masked_lm_weights))
        if next_sentence_labels is not None:
            losses.append(classification_loss(next_scores, next_sentence_labels).mean())
        if not losses:
            return scores, next_scores
        return sum(losses), (scores, next_scores)


def classifier_dropout(config):
    """The dropout before a classifier."""
    if config.classifier_dropout is not None:
        return config.classifier_dropout
    return config.hidden_dropout_prob


class BertForSequenceClassification(nn.Module):
    """A dense layer over the pooled output, as in run_classifier.py of google-research/bert.

    Google drops 10 % of the pooled output whatever the configuration says; here it is
    `classifier_dropout`, or where that is None `hidden_dropout_prob`, which is 0.1 in every
    released model.
    """

    def __init__(self, config, num_labels=2):
        super().__init__()
        if num_labels < 1:
            raise ValueError(f"num_labels is {num_labels}, but a classifier has 1 output or more")
        self.num_labels = num_labels
        self.bert = BertModel(config)
        self.dropout_prob = classifier_dropout(config)
        self.classifier = Float32Linear(config.hidden_size, num_labels)
        initialize(self.classifier, config)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ):
        """Three [B, S] -> logits [B, num_labels]; with labels [B] -> (mean loss, logits).

        With one label the task is a regression, and the loss the squared error. Where an example
        may have several labels, they are [B, num_labels] of 0 and 1.
        """
        unpadding = self.bert.make_unpadding(input_ids, attention_mask)
        layers = self.bert.encode(input_ids, token_type_ids, unpadding, rows=unpadding.cls_rows())
        pooled_output = self.bert.pooler(layers[-1])
        logits = self.classifier(dropout(pooled_output, self.dropout_prob, self.training))
        if labels is None:
            return logits
        return classification_loss(logits, labels).mean(), logits


class BertForTokenClassification(nn.Module):
    """A dense layer over every token's last hidden state, as in section 5.3 of the paper.

    The pooler is loaded and saved, but neither run nor trained.
    """

    reads_pooler = False

    def __init__(self, config, num_labels=2):
        super().__init__()
        self.num_labels = num_labels
        self.bert = BertModel(config)
        self.bert.pooler.requires_grad_(False)
        self.dropout_prob = classifier_dropout(config)
        self.classifier = Float32Linear(config.hidden_size, num_labels)
        initialize(self.classifier, config)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ):
        """Three [B, S] -> logits [B, S, num_labels]; MASKED_SCORE where nothing is computed.

        With labels [B, S], NO_LABEL for tokens without one, it returns (mean loss, logits). The
        mean is over the tokens that have a label; labels of padding do not count. Raises ValueError
        for labels of another shape, or outside 0..num_labels-1.
        """
        unpadding = self.bert.make_unpadding(input_ids, attention_mask)
        layers = self.bert.encode(input_ids, token_type_ids, unpadding)
        hidden_states = dropout(layers[-1], self.dropout_prob, self.training)  # [P, hidden]
        logits = unpadding.pad(self.classifier(hidden_states), MASKED_SCORE)
        if labels is None:
            return logits
        check_shape("labels", labels, unpadding.shape)
        if attention_mask is not None:
            labels = labels.masked_fill(attention_mask == 0, NO_LABEL)
        losses = token_loss(logits, labels)
        return losses.sum() / (labels != NO_LABEL).sum().clamp(min=1).to(losses.device), logits


class BertForQuestionAnswering(nn.Module):
    """Start and end scores of every token, as in run_squad.py of google-research/bert.

    The pooler is loaded and saved, but neither run nor trained, as in Google's graph.
    """

    reads_pooler = False

    def __init__(self, config):
        super().__init__()
        self.bert = BertModel(config)
        self.bert.pooler.requires_grad_(False)
        self.qa_outputs = Float32Linear(config.hidden_size, 2)
        initialize(self.qa_outputs, config)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ):
        """Three [B, S] -> (start logits, end logits), each [B, S]; MASKED_SCORE on padding.

        With start_positions and end_positions [B] it returns (mean loss, (start, end logits)).
        Raises ValueError where only one of the two is given.
        """
        if (start_positions is None) != (end_positions is None):
            raise ValueError("give start_positions and end_positions, or neither")
        unpadding = self.bert.make_unpadding(input_ids, attention_mask)
        layers = self.bert.encode(input_ids, token_type_ids, unpadding)
        logits = unpadding.pad(self.qa_outputs(layers[-1]), MASKED_SCORE)  # [B, S, 2]
        start_logits, end_logits = logits.unbind(2)
        if start_positions is None:
            return start_logits, end_logits

        loss = span_loss(start_logits, start_positions) + span_loss(end_logits, end_positions)
        return loss.mean() / 2, (start_logits, end_logits)


# --- losses --------------------------------------------------------------------------------------


def check_shape(name, values, wanted):
    """Raises ValueError where the shape of `values` is not the `wanted` one."""
    if values.shape != wanted:
        raise ValueError(f"{name}: the shape is {list(values.shape)}, but must be {list(wanted)}")


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each example: [B, classes], [B] -> [B]; with one output its squared error.

    With labels [B, classes] of 0 and 1, of which an example may have several, it is the mean of
    every label's binary cross-entropy. Raises ValueError for another shape of the labels.
    """
    several = labels.shape == logits.shape and logits.shape[1] > 1
    if not several:
        check_shape("labels", labels, logits.shape[:1])
    labels = to_device(labels, logits.device)
    logits = at_least_float32(logits)
    if several:
        losses = F.binary_cross_entropy_with_logits(
            logits, labels.to(logits.dtype), reduction="none"
        )
        return losses.mean(dim=1)
    if logits.shape[1] == 1:
        return (logits[:, 0] - labels) ** 2
    return F.cross_entropy(logits, labels, reduction="none")


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each token: [B, S, labels], [B, S] -> [B, S]; 0 where it has NO_LABEL.

    Raises ValueError for another shape of the labels, or for a label that has no logit.
    """
    check_shape("labels", labels, logits.shape[:2])
    if labels.device.type == "cpu" and labels.numel():
        check_range("label", labels.masked_fill(labels == NO_LABEL, 0), logits.shape[2])
    labels = to_device(labels, logits.device)
    logits = at_least_float32(logits).flatten(0, 1)
    losses = F.cross_entropy(logits, labels.flatten(), ignore_index=NO_LABEL, reduction="none")
    return losses.view_as(labels)


def span_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Cross-entropy of each example over its computed positions: [B, S], [B] -> [B]

    As in Google's one-hot product, a position outside adds 0 and still counts in the mean. Raises
    ValueError for another shape of the positions.
    """
    check_shape("positions", positions, logits.shape[:1])
    positions = to_device(positions, logits.device)
    inside = (positions >= 0) & (positions < logits.shape[1])
    index = (positions * inside)[:, None]
    inside &= logits.gather(1, index).squeeze(1) > MASKED_SCORE
    log_probs = F.log_softmax(at_least_float32(logits), dim=1)
    return log_probs.gather(1, index).squeeze(1) * -1.0 * inside


def masked_lm_loss(
    scores: Tensor, ids: Tensor, weights: Tensor, total_weight: Tensor | None = None
) -> Tensor:
    """Weighted cross-entropy, [B, M, vocab], [B, M], [B, M] -> scalar.

    As Google (run_pretraining.py:280), the sum is divided by the sum of the weights + 1e-5.
    `total_weight` takes the place of that sum where the batch is only a part of a step. Raises
    ValueError for another shape of ids or weights.
    """
    check_shape("masked_lm_ids", ids, scores.shape[:2])
    check_shape("masked_lm_weights", weights, scores.shape[:2])
    ids = to_device(ids, scores.device).flatten()
    weights = to_device(weights, scores.device).flatten()
    losses = F.cross_entropy(at_least_float32(scores.flatten(0, 1)), ids, reduction="none")
    if total_weight is None:
        total_weight = weights.sum()
    return (losses * weights).sum() / (total_weight + 1e-5)
