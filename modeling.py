"""BERT: the network and its heads.

Mirrors `modeling.py` of google-research/bert (paper: Devlin et al., 2018, arXiv:1810.04805) and
computes the same numbers to rounding error, but works only on tokens: padding is dropped as soon as
the attention mask is known, and everything runs on one packed matrix with a row per token. Only
attention looks at single sequences; the heads read the rows that they need.

The letters in the shape comments are explained in padding.py.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import repeat

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configuration import BertConfig, check_activation
from padding import Unpadding, to_device
from weights import load_weights

# The public names; BertConfig and load_weights come from modules of their own.
__all__ = [
    "BertConfig",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertModel",
    "gelu",
    "get_activation",
    "load_weights",
]

# Google adds this to the attention scores of hidden positions (modeling.py:720 of
# google-research/bert). It is not -inf, which matters for a row that attends nothing: its softmax
# is then over its true scores.
MASKED_SCORE = -10000.0

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
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        threshold, scale = dropout_threshold(probability)
        numbers = random_int16(x.numel()).view(x.shape).to(x.dtype)
        return threshold_mask(x, numbers, threshold).mul_(scale)
    return F.dropout(x, probability, training)


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
    context_layer = context_layer.transpose(1, 2).flatten(2)  # [B, S, N*H]
    return context_layer.flatten(0, 1)[unpadding.indices]


def plain_packed_attention(qkv, unpadding, num_heads, dropout_prob):
    """`plain_attention` of packed rows: [P, 3*N*H] -> [P, N*H], in the type of qkv."""
    attended = torch.ones_like(unpadding.indices)
    if unpadding.hidden is not None:
        attended = attended.masked_fill(unpadding.hidden, 0)
    attention_mask = unpadding.pad(attended, 0)[:, None, None]  # [B, 1, 1, S]
    context_layer = plain_attention(
        *padded_heads(qkv, unpadding, num_heads), attention_mask, dropout_prob
    )
    return packed_context(context_layer, unpadding)


def padded_attention(qkv, unpadding, num_heads, dropout_prob):
    """The same on a GPU: one kernel over padded sequences rather than many small ones."""
    bias = qkv.new_zeros(len(qkv))
    if unpadding.hidden is not None:
        bias = (unpadding.hidden * MASKED_SCORE).to(qkv.dtype)
    bias = unpadding.pad(bias, -math.inf)[:, None, None]  # [B, 1, 1, S]
    query_layer, key_layer, value_layer = padded_heads(qkv, unpadding, num_heads)
    context_layer = F.scaled_dot_product_attention(
        query_layer, key_layer, value_layer, bias, dropout_prob
    )
    return packed_context(context_layer, unpadding)


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
    if qkv.device.type != "cpu":
        return padded_attention(qkv, unpadding, num_heads, dropout_prob)
    if qkv.dtype == torch.float64:
        return plain_packed_attention(qkv, unpadding, num_heads, dropout_prob)
    with torch.autocast("cpu", enabled=False):
        return VarlenAttention.apply(qkv, unpadding, num_heads, dropout_prob)


# --- embeddings ----------------------------------------------------------------------------------


class TokenLookup(torch.autograd.Function):
    """Rows of a word table; backward also sums the squares of the looked-up rows' gradients.

    In TensorFlow the gradient of a look-up is a list of rows, one for each token, and its global
    norm is taken over that list, before the rows of equal words are added up (quirk of
    optimization.py:74). The sum is the gradient of the scalar `squared_norm`; so it adds up over
    micro-steps and replicas as every gradient does.
    """

    @staticmethod
    def forward(ctx, weight, squared_norm, ids, word_embeddings):
        ctx.save_for_backward(ids)
        ctx.word_embeddings = word_embeddings
        return weight[ids]

    @staticmethod
    def backward(ctx, grad):
        (ids,) = ctx.saved_tensors
        table = ctx.word_embeddings.take_spare_table()
        flat = grad.flatten()
        return table.index_add_(0, ids, grad), flat.dot(flat), None, None


class WordEmbeddings(nn.Embedding):
    """The word table, which the masked-LM head shares.

    BERT's clipping needs the two sources of the table's gradient apart, the look-ups and the
    decoder. `optimization.create_optimizer` calls `track_row_norms` to have them apart; without it
    this is a plain embedding.
    """

    def __init__(self, vocab_size, hidden_size):
        super().__init__(vocab_size, hidden_size)
        self.register_buffer("squared_norm", torch.zeros(()), persistent=False)
        self.register_buffer("decoder_weight", None, persistent=False)
        self.spare = None

    def track_row_norms(self):
        self.squared_norm.requires_grad_()
        # Shares the table's memory, but has a gradient of its own: the decoder's.
        self.decoder_weight = self.weight.detach().requires_grad_()

    def take_spare_table(self):
        """Zeros like the table, in the memory of the last gradient where there is one.

        New memory pages would cost 1 to 2 % of a step.
        """
        spare, self.spare = self.spare, None
        return torch.zeros_like(self.weight) if spare is None else spare.zero_()

    def forward(self, ids):
        if self.squared_norm.requires_grad and torch.is_grad_enabled():
            return TokenLookup.apply(self.weight, self.squared_norm, ids, self)
        return super().forward(ids)

    def decode(self, hidden_states, bias):
        """[R, hidden] -> scores [R, vocab]"""
        tracked = self.decoder_weight is not None and torch.is_grad_enabled()
        return F.linear(hidden_states, self.decoder_weight if tracked else self.weight, bias)


class BertEmbeddings(nn.Module):
    """Sum of word, token-type and position embeddings, normalised."""

    def __init__(self, config):
        super().__init__()
        self.word_embeddings = WordEmbeddings(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout_prob = config.hidden_dropout_prob

    def forward(self, input_ids, token_type_ids, position_ids):
        """Three [P] -> [P, hidden]"""
        embeddings = self.word_embeddings(input_ids)
        embeddings = embeddings + self.token_type_embeddings(token_type_ids)
        embeddings = embeddings + self.position_embeddings(position_ids)
        # Dropout follows LayerNorm here, and here alone: the layers drop before they normalise.
        return dropout(self.LayerNorm(embeddings), self.dropout_prob, self.training)


# --- encoder -------------------------------------------------------------------------------------


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
        # One product instead of three.
        weight = torch.cat([projection.weight for projection in projections])
        bias = torch.cat([projection.bias for projection in projections])
        qkv = F.linear(hidden_states, weight, bias)  # [P, 3*N*H]
        dropout_prob = self.dropout_prob if self.training else 0.0
        return attention(qkv, unpadding, self.num_heads, dropout_prob)


class BertSelfOutput(nn.Module):
    """Dense layer, dropout, residual connection, LayerNorm."""

    def __init__(self, config, input_size=None):
        super().__init__()
        self.dense = nn.Linear(input_size or config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
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

    def make_unpadding(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Unpadding:
        """Which positions of `input_ids` [B, S] are computed; without a mask, all of them.

        Raises ValueError for a width beyond the model's positions.
        """
        width = input_ids.shape[1]
        if width > self.config.max_position_embeddings:
            limit = f"the model's {self.config.max_position_embeddings} positions"
            raise ValueError(f"a sequence of {width} tokens exceeds {limit}")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        device = self.embeddings.word_embeddings.weight.device
        return Unpadding(attention_mask, self.compute_padding, device)

    def encode(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        unpadding: Unpadding,
        rows: Tensor | None = None,
    ) -> list[Tensor]:
        """Two [B, S] -> packed [P, hidden] of every layer.

        Of the last layer only the packed `rows` [R] are computed, where they are given. The inputs
        may lie on the host while the weights are on a GPU: only tokens travel then. Raises
        ValueError for ids outside the model's tables.
        """
        batch, width = input_ids.shape
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        if input_ids.device.type == "cpu" and batch:
            check_range("token id", input_ids, self.config.vocab_size)
            # Google's one-hot look-up of token types adds nothing for an id outside the table.
            check_range("token type id", token_type_ids, self.config.type_vocab_size)

        hidden_states = self.embeddings(
            unpadding.unpad(input_ids),
            unpadding.unpad(token_type_ids),
            unpadding.indices % width,
        )
        return self.encoder(hidden_states, unpadding, rows)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Three [B, S] -> (list of [B, S, hidden], one a layer; pooled output [B, hidden]).

        Hidden states are 0 where nothing is computed. Raises ValueError for ids or widths beyond
        the configuration.
        """
        unpadding = self.make_unpadding(input_ids, attention_mask)
        layers = self.encode(input_ids, token_type_ids, unpadding)
        pooled_output = self.pooler(layers[-1][unpadding.cls_rows()])
        return [unpadding.pad(layer, 0.0) for layer in layers], pooled_output


def check_range(what, ids, size):
    """Raises ValueError where not all `ids` are in 0..size-1."""
    low = ids.min().item()
    high = ids.max().item()
    if low < 0 or high >= size:
        raise ValueError(f"{what} {low if low < 0 else high} is outside the model's 0..{size - 1}")


# --- heads ---------------------------------------------------------------------------------------


class Float32Linear(nn.Linear):
    """A small dense layer that stays in float32 under autocast, where rounding would show."""

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


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


class BertLMPredictionHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word-embedding table."""

    def __init__(self, config):
        super().__init__()
        self.transform = nn.Module()
        self.transform.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.transform.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.transform_act_fn = get_activation(config.hidden_act)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states, word_embeddings):
        """[R, hidden] -> [R, vocab]"""
        hidden_states = self.transform_act_fn(self.transform.dense(hidden_states))
        hidden_states = self.transform.LayerNorm(hidden_states)
        return word_embeddings.decode(hidden_states, self.bias)


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
        all are scored, [B, S, vocab], with MASKED_SCORE where nothing is computed. Given ids,
        weights and labels, it returns (loss, (scores, next-sentence scores)).
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
            rows = torch.cat([cls_rows, unpadding.rows_of(masked_lm_positions)])
            hidden_states = self.bert.encode(input_ids, token_type_ids, unpadding, rows)[-1]
            first_token_tensor, masked = hidden_states.split(
                [len(input_ids), len(rows) - len(input_ids)]
            )
            scores = self.cls.predictions(masked, word_embeddings)
            scores = scores.unflatten(0, masked_lm_positions.shape)  # [B, M, vocab]
        next_scores = self.cls.seq_relationship(self.bert.pooler(first_token_tensor))
        if masked_lm_ids is None:
            return scores, next_scores

        loss = masked_lm_loss(scores, masked_lm_ids, masked_lm_weights)
        loss = loss + classification_loss(next_scores, next_sentence_labels).mean()
        return loss, (scores, next_scores)


class BertForSequenceClassification(nn.Module):
    """A dense layer over the pooled output, as in run_classifier.py of google-research/bert.

    Google drops 10 % of the pooled output whatever the configuration says; here it is
    `classifier_dropout`, or where that is None `hidden_dropout_prob`, which is 0.1 in every
    released model.
    """

    def __init__(self, config, num_labels=2):
        super().__init__()
        self.num_labels = num_labels
        self.bert = BertModel(config)
        self.dropout_prob = config.hidden_dropout_prob
        if config.classifier_dropout is not None:
            self.dropout_prob = config.classifier_dropout
        self.classifier = Float32Linear(config.hidden_size, num_labels)
        initialize(self.classifier, config)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ):
        """Three [B, S] -> logits [B, num_labels]; with labels [B] -> (mean loss, logits)."""
        unpadding = self.bert.make_unpadding(input_ids, attention_mask)
        layers = self.bert.encode(input_ids, token_type_ids, unpadding, rows=unpadding.cls_rows())
        pooled_output = self.bert.pooler(layers[-1])
        logits = self.classifier(dropout(pooled_output, self.dropout_prob, self.training))
        if labels is None:
            return logits
        return classification_loss(logits, labels).mean(), logits


class BertForQuestionAnswering(nn.Module):
    """Start and end scores of every token, as in run_squad.py of google-research/bert.

    The pooler is loaded and saved, but neither run nor trained, as in Google's graph.
    """

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
        """
        unpadding = self.bert.make_unpadding(input_ids, attention_mask)
        layers = self.bert.encode(input_ids, token_type_ids, unpadding)
        logits = unpadding.pad(self.qa_outputs(layers[-1]), MASKED_SCORE)  # [B, S, 2]
        start_logits, end_logits = logits.unbind(2)
        if start_positions is None:
            return start_logits, end_logits

        loss = span_loss(start_logits, start_positions) + span_loss(end_logits, end_positions)
        return loss.mean() / 2, (start_logits, end_logits)


# --- losses --------------------------------------------------------------------------------------


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each example: [B, classes], [B] -> [B]"""
    return F.cross_entropy(logits, to_device(labels, logits.device), reduction="none")


def span_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Cross-entropy of each example over its computed positions: [B, S], [B] -> [B]

    As in Google's one-hot product, a position outside adds 0 and still counts in the mean.
    """
    positions = to_device(positions, logits.device)
    inside = (positions >= 0) & (positions < logits.shape[1])
    index = (positions * inside)[:, None]
    inside &= logits.gather(1, index).squeeze(1) > MASKED_SCORE
    log_probs = F.log_softmax(logits, dim=1)
    return log_probs.gather(1, index).squeeze(1) * -1.0 * inside


def masked_lm_loss(
    scores: Tensor, ids: Tensor, weights: Tensor, total_weight: Tensor | None = None
) -> Tensor:
    """Weighted cross-entropy, [B, M, vocab], [B, M], [B, M] -> scalar.

    As Google (run_pretraining.py:280), the sum is divided by the sum of the weights + 1e-5.
    `total_weight` takes the place of that sum where the batch is only a part of a step.
    """
    ids = to_device(ids, scores.device).flatten()
    weights = to_device(weights, scores.device).flatten()
    losses = F.cross_entropy(scores.flatten(0, 1).float(), ids, reduction="none")
    if total_weight is None:
        total_weight = weights.sum()
    return (losses * weights).sum() / (total_weight + 1e-5)
