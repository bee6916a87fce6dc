"""BERT: network, heads, and the loader of weights.

Mirrors `modeling.py` of google-research/bert (paper: Devlin et al., 2018, arXiv:1810.04805), and
computes the same numbers to rounding error, but works only on tokens: padding is dropped as soon as
the attention mask is known, and everything runs on one packed matrix with a row per token. Only
attention looks at single sequences; the heads read the rows that they need.

The letters in the shape comments are explained in packing.py.
"""

import re
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from configuration import BertConfig, check_activation  # noqa: F401 (BertConfig is public here)
from packing import MASKED_SCORE, Packing, VarlenAttention, dropout, moved, padded_attention
from weights import read_state_dict

LAYER_NORM_EPSILON = 1e-12


gelu = F.gelu  # x·Φ(x), in the exact form with erf (arXiv:1606.08415)

ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),  # Google's since February 2019
    "relu": F.relu,
    "tanh": torch.tanh,
    "linear": nn.Identity(),
}


def get_activation(activation):
    """The function of that name (ValueError for an unknown one); a function is taken as it is."""
    if callable(activation):
        return activation
    check_activation(activation)
    return ACTIVATIONS[activation.lower()]


class TokenLookup(torch.autograd.Function):
    """Rows of a word table; the backward pass also sums the squares of the single rows' gradients.

    TensorFlow's gradient of a look-up is a list of rows, one a token, and its global norm is taken
    over that list, before rows of the same word are added up (quirk of optimization.py:74). The sum
    is the gradient of the scalar `squared_norm`, and so adds up over micro-steps and replicas.
    """

    @staticmethod
    def forward(ctx, weight, squared_norm, ids, words):
        ctx.save_for_backward(ids)
        ctx.words = words
        return weight[ids]

    @staticmethod
    def backward(ctx, grad):
        spare, ctx.words.spare = ctx.words.spare, None
        table = torch.zeros_like(ctx.words.weight) if spare is None else spare.zero_()
        flat = grad.flatten()
        return table.index_add_(0, *ctx.saved_tensors, grad), flat.dot(flat), None, None


class WordEmbeddings(nn.Embedding):
    """The word table, which the masked-LM head shares.

    `squared_norm` and `decoder_weight` take part only once `track_row_norms` was called, as
    `optimization.create_optimizer` does: BERT's clipping needs the gradient's two sources apart.
    """

    spare = None  # Memory of the last gradient, used again: new pages cost 1 to 2 % of a step.

    def __init__(self, vocab_size, hidden_size):
        super().__init__(vocab_size, hidden_size)
        self.register_buffer("squared_norm", torch.zeros(()), persistent=False)
        self.register_buffer("decoder_weight", None, persistent=False)

    def track_row_norms(self):
        self.squared_norm.requires_grad_()
        # Shares the table's memory, but has a gradient of its own: the decoder's.
        self.decoder_weight = self.weight.detach().requires_grad_()

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
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPSILON)
        self.dropout_prob = config.hidden_dropout_prob

    def forward(self, input_ids, token_type_ids, position_ids):
        """Three [P] -> [P, hidden]"""
        embeddings = self.word_embeddings(input_ids)
        embeddings = embeddings + self.token_type_embeddings(token_type_ids)
        embeddings = embeddings + self.position_embeddings(position_ids)
        return dropout(self.LayerNorm(embeddings), self.dropout_prob, self.training)


class BertSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout_prob = config.attention_probs_dropout_prob

    def forward(self, hidden_states, packing):
        """[P, N*H] -> [P, N*H]"""
        layers = (self.query, self.key, self.value)
        weight, bias = (
            torch.cat([getattr(x, name) for x in layers]) for name in ("weight", "bias")
        )
        qkv = F.linear(hidden_states, weight, bias)  # [P, 3*N*H]
        probability = self.dropout_prob if self.training else 0.0
        if qkv.device.type != "cpu":
            return padded_attention(qkv, packing, self.num_heads, probability)
        with torch.autocast("cpu", enabled=False):
            return VarlenAttention.apply(qkv, packing, self.num_heads, probability)


class BertSelfOutput(nn.Module):
    """Dense layer, dropout, residual connection, LayerNorm."""

    def __init__(self, config, input_size=None):
        super().__init__()
        self.dense = nn.Linear(input_size or config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPSILON)
        self.dropout_prob = config.hidden_dropout_prob

    def forward(self, hidden_states, input_tensor):
        hidden_states = dropout(self.dense(hidden_states), self.dropout_prob, self.training)
        return self.LayerNorm(hidden_states + input_tensor)


class BertAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self = BertSelfAttention(config)
        self.output = BertSelfOutput(config)

    def forward(self, hidden_states, packing, rows=None):
        """[P, hidden] -> [P, hidden], or [R, hidden] where `rows` are given."""
        context_layer = self.self(hidden_states, packing)
        if rows is not None:
            context_layer, hidden_states = context_layer[rows], hidden_states[rows]
        return self.output(context_layer, hidden_states)


class BertIntermediate(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = get_activation(config.hidden_act)

    def forward(self, hidden_states):
        return self.intermediate_act_fn(self.dense(hidden_states))


class BertOutput(BertSelfOutput):
    def __init__(self, config):
        super().__init__(config, input_size=config.intermediate_size)


class BertLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    def forward(self, hidden_states, packing, rows=None):
        attention_output = self.attention(hidden_states, packing, rows)
        return self.output(self.intermediate(attention_output), attention_output)


class BertEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden_states, packing, rows=None):
        """The packed output of every layer; of the last one only `rows`, where they are given."""
        outputs = [hidden_states]
        for layer in self.layer[:-1]:
            outputs.append(layer(outputs[-1], packing))
        return [*outputs[1:], self.layer[-1](outputs[-1], packing, rows)]


class BertPooler(nn.Module):
    """tanh of a dense layer over the first token."""

    def __init__(self, config):
        super().__init__()
        self.dense = Float32Linear(config.hidden_size, config.hidden_size)

    def forward(self, first_token):
        return torch.tanh(self.dense(first_token))


class BertModel(nn.Module):
    """The encoder: token ids to hidden states."""

    compute_padding = False  # True: computes padding positions too, as Google's graph does

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config)
        initialize(self, config)

    def encode(self, input_ids, token_type_ids=None, attention_mask=None, rows=None):
        """Three [B, S] -> (Packing, packed [P, hidden] of every layer).

        `rows` maps the Packing to the packed rows [R] that are read; the last layer computes only
        those. The inputs may lie on the host while the weights are on a GPU: the packing is then
        known without waiting for the device, and only tokens travel.
        """
        config, (batch, width) = self.config, input_ids.shape
        if width > config.max_position_embeddings:
            limit = f"the model's {config.max_position_embeddings} positions"
            raise ValueError(f"a sequence of {width} tokens exceeds {limit}")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        if input_ids.device.type == "cpu" and batch:
            # Google's one-hot look-up of token types adds nothing for an id outside the table.
            check_range("token id", input_ids, config.vocab_size)
            check_range("token type id", token_type_ids, config.type_vocab_size)
        device = self.embeddings.word_embeddings.weight.device
        packing = Packing(attention_mask, self.compute_padding, device)
        ids, types = packing.pack(input_ids), packing.pack(token_type_ids)
        hidden_states = self.embeddings(ids, types, packing.source % width)
        return packing, self.encoder(hidden_states, packing, rows and rows(packing))

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        """Three [B, S] -> (list of [B, S, hidden], one a layer; pooled output [B, hidden]).

        Hidden states are 0 where nothing is computed. Raises ValueError for ids or widths beyond
        the configuration.
        """
        packing, layers = self.encode(input_ids, token_type_ids, attention_mask)
        pooled_output = self.pooler(layers[-1][packing.first()])
        return [packing.unpack(layer, 0.0) for layer in layers], pooled_output


def check_range(what, ids, size):
    low, high = ids.min().item(), ids.max().item()
    if low < 0 or high >= size:
        raise ValueError(f"{what} {low if low < 0 else high} is outside the model's 0..{size - 1}")


class Float32Linear(nn.Linear):
    """A small dense layer that stays in float32 under autocast, where rounding would show."""

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


def initialize(module, config):
    """Google's weights: normal with σ = initializer_range, cut at 2σ; biases 0, LayerNorm 1."""
    deviation = config.initializer_range
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.trunc_normal_(part.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)


class BertLMPredictionHead(nn.Module):
    """Scores over the vocabulary; the decoder's weight is the word-embedding table."""

    def __init__(self, config):
        super().__init__()
        self.transform = nn.Module()
        self.transform.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.transform.LayerNorm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPSILON)
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
        self.bert = BertModel(config)
        self.cls = nn.Module()
        self.cls.predictions = BertLMPredictionHead(config)
        self.cls.seq_relationship = Float32Linear(config.hidden_size, 2)
        initialize(self.cls, config)

    def forward(self, input_ids, token_type_ids=None, attention_mask=None,
                masked_lm_positions=None, masked_lm_ids=None, masked_lm_weights=None,
                next_sentence_labels=None):  # fmt: skip
        """Scores of the masked positions [B, M, vocab] and of the next sentence [B, 2].

        input_ids, token_type_ids, attention_mask [B, S]; masked_lm_positions, _ids, _weights
        [B, M]; next_sentence_labels [B], where 1 means a random next sentence. Without positions
        all are scored, [B, S, vocab], with MASKED_SCORE where nothing is computed. Given ids,
        weights and labels, it returns (loss, (scores, next-sentence scores)).
        """
        inputs, positions = (input_ids, token_type_ids, attention_mask), masked_lm_positions
        words = self.bert.embeddings.word_embeddings
        if positions is None:
            packing, (*_, masked) = self.bert.encode(*inputs)
            first = masked[packing.first()]
            scores = packing.unpack(self.cls.predictions(masked, words), MASKED_SCORE)
        else:
            _, layers = self.bert.encode(
                *inputs, lambda packing: torch.cat([packing.first(), packing.rows(positions)])
            )
            first, masked = layers[-1].split([len(input_ids), positions.numel()])
            scores = self.cls.predictions(masked, words).unflatten(0, positions.shape)
        next_scores = self.cls.seq_relationship(self.bert.pooler(first))
        if masked_lm_ids is None:
            return scores, next_scores
        loss = masked_lm_loss(scores, masked_lm_ids, masked_lm_weights)
        loss = loss + classification_loss(next_scores, next_sentence_labels).mean()
        return loss, (scores, next_scores)


class BertForSequenceClassification(nn.Module):
    """A dense layer over the pooled output, as in run_classifier.py of google-research/bert.

    Google drops 10 % of the pooled output whatever the configuration says; here it is
    `hidden_dropout_prob`, which is 0.1 in every released model.
    """

    def __init__(self, config, num_labels=2):
        super().__init__()
        self.num_labels = num_labels
        self.bert = BertModel(config)
        self.dropout_prob = config.hidden_dropout_prob
        self.classifier = Float32Linear(config.hidden_size, num_labels)
        initialize(self.classifier, config)

    def forward(self, input_ids, token_type_ids=None, attention_mask=None, labels=None):
        """Three [B, S] -> logits [B, num_labels]; with labels [B] -> (mean loss, logits)."""
        _, layers = self.bert.encode(input_ids, token_type_ids, attention_mask, Packing.first)
        pooled_output = self.bert.pooler(layers[-1])
        logits = self.classifier(dropout(pooled_output, self.dropout_prob, self.training))
        return logits if labels is None else (classification_loss(logits, labels).mean(), logits)


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

    def forward(self, input_ids, token_type_ids=None, attention_mask=None,
                start_positions=None, end_positions=None):  # fmt: skip
        """Three [B, S] -> (start logits, end logits), each [B, S]; MASKED_SCORE on padding.

        With start_positions and end_positions [B] it returns (mean loss, (start, end logits)).
        """
        packing, layers = self.bert.encode(input_ids, token_type_ids, attention_mask)
        logits = packing.unpack(self.qa_outputs(layers[-1]), MASKED_SCORE)  # [B, S, 2]
        logits = start_logits, end_logits = logits.unbind(2)
        if start_positions is None:
            return logits
        loss = span_loss(start_logits, start_positions) + span_loss(end_logits, end_positions)
        return loss.mean() / 2, logits


def classification_loss(logits, labels):
    """Cross-entropy of each example: [B, classes], [B] -> [B]"""
    return F.cross_entropy(logits, moved(labels, logits.device), reduction="none")


def span_loss(logits, positions):
    """Cross-entropy of each example over its computed positions: [B, S], [B] -> [B]

    As Google's one-hot product, a position outside adds 0 to the loss and still counts in its mean.
    """
    positions = moved(positions, logits.device)
    inside = (positions >= 0) & (positions < logits.shape[1])
    index = (positions * inside)[:, None]
    inside &= logits.gather(1, index).squeeze(1) > MASKED_SCORE
    return F.log_softmax(logits, dim=1).gather(1, index).squeeze(1) * -1.0 * inside


def masked_lm_loss(scores, ids, weights, total_weight=None):
    """Weighted cross-entropy, [B, M, vocab], [B, M], [B, M] -> scalar.

    As Google, the sum is divided by the weights' + 1e-5. `total_weight` replaces the sum of
    `weights` where the batch is one part of a step.
    """
    ids, weights = (moved(each, scores.device).flatten() for each in (ids, weights))
    losses = F.cross_entropy(scores.flatten(0, 1).float(), ids, reduction="none")
    total_weight = weights.sum() if total_weight is None else total_weight
    return (losses * weights).sum() / (total_weight + 1e-5)


def standard_name(name):
    """The name in circulation for a tensor: with `bert.`, and weight and bias in LayerNorm."""
    name = re.sub(r"^module\.", "", name)
    name = re.sub(r"^(embeddings|encoder|pooler)\.", r"bert.\1.", name)
    return re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", name))


# Files of other libraries repeat what two parts of the model share.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def load_weights(model, path_or_state_dict):
    """Fills `model` from a file, a folder or a state dict; returns (unfilled, unused) names.

    Takes names with or without `bert.`, `gamma` and `beta`, any floating-point type, and other
    heads. Only tensors of heads may stay unfilled, and the pooler where the head that reads it does
    (or there is none): ValueError where another of the encoder does, or has another shape or type,
    and then the model is unchanged.
    """
    source, given = "the state dict", path_or_state_dict
    if not isinstance(given, dict):
        source, given = given, read_state_dict(given)
    given = {standard_name(name): tensor for name, tensor in given.items()}
    given.pop("bert.embeddings.position_ids", None)  # a constant in some files: 0, 1, 2, …
    for copy, original in TIED.items():
        tensor = given.pop(copy, None)
        if tensor is not None and not torch.equal(given.setdefault(original, tensor), tensor):
            raise ValueError(f"{source}: {copy} differs from {original}, which BERT ties it to")
    targets = {standard_name(name): tensor for name, tensor in model.named_parameters()}
    shapes = {
        name: list(tensor.shape) if tensor.is_floating_point() else str(tensor.dtype)
        for name, tensor in given.items()
    }
    fitting = {name for name in targets if shapes.get(name) == list(targets[name].shape)}
    unfilled = sorted(targets.keys() - fitting)
    heads = [name for name in targets if not name.startswith("bert.")]
    # Other libraries' models of questions or masked words come without a pooler.
    new_pooler = heads and not fitting & {"classifier.weight", "cls.seq_relationship.weight"}
    for name in unfilled:
        absent_pooler = name.startswith("bert.pooler.") and name not in shapes
        if name.startswith("bert.") and not (absent_pooler and new_pooler):
            found, wanted = shapes.get(name, "missing"), list(targets[name].shape)
            raise ValueError(f"{source}: {name} is {found}, the model's is {wanted}")
    unused = given.keys() - fitting
    if deeper := [name for name in unused if name.startswith("bert.encoder.layer.")]:
        raise ValueError(f"{source}: {min(deeper)} is of a larger model than the configuration's")
    with torch.no_grad():
        for name in fitting:
            targets[name].copy_(given[name])
    return unfilled, sorted(unused)
