"""The network, its heads and its loader, against what Google's code computed and against itself."""

import copy
import inspect
import json
import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from helpers import BF16_ROUNDING, ROUNDING, assert_same_gradients, roundings
from model_helpers import (
    BATCH,
    HEADS,
    TINY,
    WIDTH,
    WITHOUT_POOLER,
    golden,
    gradients,
    ints,
    tiny,
    tiny_inputs,
    tiny_loss,
)
from torch import nn

import modeling
from modeling import (
    MASKED_SCORE,
    BertConfig,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    get_activation,
    load_weights,
    masked_lm_loss,
)
from weights import read_state_dict

# Google's numbers


@pytest.fixture(scope="module")
def exact(pretrained):
    """The same in float64: every CPU gives the same numbers, as far as float32 shows them."""
    return copy.deepcopy(pretrained).double()


@pytest.fixture
def computing_padding(pretrained, exact):
    """Both models: `pretrained` and `exact`."""
    for model in (pretrained, exact):
        model.bert.compute_padding = True
    yield pretrained, exact
    for model in (pretrained, exact):
        model.bert.compute_padding = False


def assert_googles(ours, exact, truth, noise, grain=False):
    """Google's float32 `truth` is within `noise` of float64, and ours not much farther from that.

    Google's distance from float64, which no kernel of this machine decides, is the scale: ours may
    be 4 times as large, its largest and the root of its mean square. Where a `grain` of numbers far
    from 0 makes a few large errors, the largest alone counts.
    """
    ours, exact, truth = (torch.as_tensor(x).double() for x in (ours, exact, truth))
    googles, own = (truth - exact).abs(), (ours - exact).abs()
    assert googles.max() < noise
    assert own.max() < 4 * noise
    assert grain or own.square().mean() < 4**2 * googles.square().mean()


@pytest.mark.numeric
@pytest.mark.parametrize("padding", [False, True])
def test_hidden_states_of_every_layer_are_googles(pretrained, exact, goldens, padding):
    truth, inputs = golden(goldens, "fwd_mrpc_all_layers")
    inputs = [values[:2] for values in inputs]
    outputs = []
    for model in (pretrained, exact):
        model.bert.compute_padding = padding
        outputs.append(model.bert(*inputs)[0])
        model.bert.compute_padding = False
    for example, step, wanted in (
        (0, 1, truth["example0_layers"]),
        (1, 4, truth["example1_layers_every4"]),
    ):
        tokens = inputs[2][example, ::step].bool()
        for layer, exact_layer, layer_truth in zip(*outputs, torch.from_numpy(wanted)):
            layer, exact_layer = (each[example, ::step] for each in (layer, exact_layer))
            assert_googles(layer[tokens], exact_layer[tokens], layer_truth[tokens], 3e-6)
            if padding:
                assert_googles(layer[~tokens], exact_layer[~tokens], layer_truth[~tokens], 1e-4)
            else:
                assert not layer[~tokens].any()


@pytest.mark.numeric
def test_inside_of_the_first_layer_is_googles(computing_padding, goldens):
    truth, inputs = golden(goldens, "fwd_mrpc_all_layers")
    inputs, seen = [values[:1] for values in inputs], []
    for model in computing_padding:
        layer = model.bert.encoder.layer[0]
        parts = {
            "example0_embedding_output": model.bert.embeddings,
            "example0_layer0_attention_output_layernorm": layer.attention,
            "example0_layer0_intermediate_first16": layer.intermediate,
        }
        seen.append({})
        hooks = [
            part.register_forward_hook(lambda _, __, out, name=name: seen[-1].update({name: out}))
            for name, part in parts.items()
        ]
        model.bert(*inputs)
        for hook in hooks:
            hook.remove()
        assert len(seen[-1]) == len(parts)
    tokens = inputs[2].sum()
    for name in parts:
        wanted = truth[name][:tokens]
        found = (each[name][: len(wanted)] for each in seen)
        assert_googles(*found, wanted, 3e-6 * np.abs(wanted).max())


@pytest.mark.numeric
def test_sums_over_all_positions_are_googles(computing_padding, goldens):
    truth, inputs = golden(goldens, "fwd_mrpc_all_layers")
    outputs = [model.bert(*inputs)[0] for model in computing_padding]
    for index, layers in enumerate(zip(*outputs)):
        layers = [layer.double().flatten(1) for layer in layers]
        sums = [layer.abs().sum(1) for layer in layers]
        assert_googles(*sums, truth["layers_abssum"][:, index], 2e-2)  # of 1e4
        squares = [layer.square().sum(1) for layer in layers]
        assert_googles(*squares, truth["layers_sqsum"][:, index], 5e-2)  # of 5e4


@pytest.mark.numeric
def test_last_layer_pooler_and_next_sentence_are_googles(pretrained, exact, goldens):
    truth, inputs = golden(goldens, "fwd_mrpc_last")
    (layers, pooled), (exact_layers, exact_pooled) = (m.bert(*inputs) for m in (pretrained, exact))
    tokens = inputs[2].bool()
    wanted = torch.from_numpy(truth["sequence_output"])[tokens]
    assert_googles(layers[-1][tokens], exact_layers[-1][tokens], wanted, 3e-6)
    assert_googles(pooled, exact_pooled, truth["pooled_output"], 5e-7)
    first = torch.zeros(8, 1, dtype=torch.long)
    scores = [model(*inputs, masked_lm_positions=first)[1] for model in (pretrained, exact)]
    assert_googles(*scores, truth["nsp_logits"], 2e-7)
    assert_googles(*(each.log_softmax(1) for each in scores), truth["nsp_log_probs"], 2e-7)


@pytest.mark.numeric
def test_squad_windows_are_googles(pretrained, exact, goldens):
    truth, inputs = golden(goldens, "fwd_squad")
    (layers, pooled), (exact_layers, exact_pooled) = (m.bert(*inputs) for m in (pretrained, exact))
    tokens = inputs[2][:, ::2].bool()
    last = [each[-1][:, ::2][tokens] for each in (layers, exact_layers)]
    assert_googles(*last, torch.from_numpy(truth["sequence_output_every2"])[tokens], 5e-6)
    assert_googles(pooled, exact_pooled, truth["pooled_output"], 5e-7)


@pytest.mark.numeric
@pytest.mark.parametrize("padding", [False, True])
def test_odd_masks_are_googles(pretrained, exact, goldens, padding):
    truth, inputs = golden(goldens, "fwd_edge")
    outputs = []
    for model in (pretrained, exact):
        model.bert.compute_padding = padding
        layers, pooled = model.bert(*inputs)
        outputs.append((layers[-1], pooled))
        model.bert.compute_padding = False
    (last, pooled), (exact_last, exact_pooled) = outputs
    truth_last = torch.from_numpy(truth["layers_first_last"][:, 1])
    truth_pooled = torch.from_numpy(truth["pooled_output"])
    # In a row that attends nothing float32 rounds every score - 10000 to a multiple of 2**-10.
    nothing = inputs[2].sum(1) == 0
    for rows, noise, pooled_noise in ((nothing, 2**-11, 2**-13), (~nothing, 4e-6, 5e-7)):
        grain = rows is nothing
        assert_googles(pooled[rows], exact_pooled[rows], truth_pooled[rows], pooled_noise, grain)
        computed = (inputs[2].bool() | nothing[:, None] | torch.tensor(padding)) & rows[:, None]
        assert_googles(last[computed], exact_last[computed], truth_last[computed], noise, grain)


@pytest.mark.numeric
def test_masked_lm_scores_are_googles(pretrained, exact, goldens):
    truth, inputs = golden(goldens, "fwd_mrpc_mlm")
    positions = torch.from_numpy(truth["masked_lm_positions"]).long()
    scores = [model(*inputs, positions)[0].flatten(0, 1) for model in (pretrained, exact)]
    tops = [each.topk(10) for each in scores]
    assert_googles(*(top.values for top in tops), truth["mlm_top10_logits"], 2e-5)
    for top in tops:
        assert (top.indices.numpy() == truth["mlm_top10_ids"]).mean() > 0.99  # near ties may swap
    assert_googles(*(each.logsumexp(1) for each in scores), truth["mlm_logsumexp"], 2e-5)
    first = [each[:6].log_softmax(1) for each in scores]
    assert_googles(*first, truth["mlm_full_log_probs_first6"], 2e-5)
    probe = torch.from_numpy(np.random.RandomState(7).randn(30522))
    sums = [each.double() @ probe for each in scores]
    assert_googles(*sums, truth["mlm_logits_dot_rs7"], 2e-3)  # of 1e3
    ids = inputs[0].gather(1, positions)
    loss, exact_loss = (
        masked_lm_loss(each.unflatten(0, ids.shape), ids, torch.ones(ids.shape)).item()
        for each in scores
    )
    assert abs(exact_loss - truth["mlm_loss"]) < 2e-6
    assert roundings(loss, exact_loss) < 64


@pytest.mark.numeric
def test_pretraining_evaluation_is_googles(pretrained, exact, goldens):
    truth = np.load(goldens / "pretrain_loss.npz")
    names = ("input_ids", "segment_ids", "input_mask", "masked_lm_positions", "masked_lm_ids")
    inputs = ints(truth, *(f"in_{name}" for name in names))
    weights = torch.from_numpy(truth["in_masked_lm_weights"])
    labels = torch.from_numpy(truth["in_next_sentence_labels"]).long().flatten()
    used = weights.flatten() > 0
    figures = []
    for model in (pretrained, exact):
        loss, (scores, next_scores) = model(*inputs, weights, labels)
        losses = modeling.classification_loss(scores.flatten(0, 1), inputs[4].flatten())
        mean = (losses * weights.flatten()).sum() / weights.sum()
        guesses = scores.flatten(0, 1).argmax(1)
        assert (guesses[used].numpy() == truth["masked_lm_argmax"][used.numpy()]).all()
        right = (guesses == inputs[4].flatten())[used].float().mean()
        assert right == truth["metric_masked_lm_accuracy"]
        right = (next_scores.argmax(1) == labels).float().mean()
        assert right == truth["metric_next_sentence_accuracy"]
        next_loss = modeling.classification_loss(next_scores, labels)
        figures.append((loss, mean, losses[used], next_scores.log_softmax(1), next_loss))
    loss, mean, losses, next_probs, next_losses = zip(*figures)
    assert_googles(*losses, truth["masked_lm_example_loss"][used.numpy()], 2e-5)
    assert_googles(*next_probs, truth["next_sentence_log_probs"], 5e-7)
    assert_googles(*next_losses, truth["next_sentence_example_loss"], 5e-7)
    for (ours, wanted), name in ((loss, "total_loss"), (mean, "metric_masked_lm_loss")):
        assert abs(wanted.item() - truth[name]) < 5e-6
        assert roundings(ours, wanted) < 64


# Shapes, and equal paths


def test_shapes_of_odd_sizes():
    layers, pooled = tiny()(*tiny_inputs())
    assert [list(layer.shape) for layer in layers] == [[BATCH, WIDTH, 32]] * 3
    assert list(pooled.shape) == [BATCH, 32]
    scores, next_scores = tiny(BertForPreTraining)(*tiny_inputs())
    assert list(scores.shape) == [BATCH, WIDTH, 99] and list(next_scores.shape) == [BATCH, 2]
    classifier = BertForSequenceClassification(BertConfig(**TINY), 5)
    assert list(classifier(*tiny_inputs()).shape) == [BATCH, 5]
    start, end = tiny(BertForQuestionAnswering)(*tiny_inputs())
    assert list(start.shape) == list(end.shape) == [BATCH, WIDTH]
    tagger = BertForTokenClassification(BertConfig(**TINY), 5)
    assert list(tagger(*tiny_inputs()).shape) == [BATCH, WIDTH, 5]


@pytest.mark.numeric
def test_without_mask_and_types_all_is_attended_and_first_type():
    ids, model = tiny_inputs()[0], tiny()
    given = model(ids, torch.zeros_like(ids), torch.ones_like(ids))[1]
    assert torch.equal(model(ids)[1], given)


@pytest.mark.numeric
def test_where_nothing_is_computed_outputs_are_constant():
    inputs = tiny_inputs()
    padding = inputs[2] == 0
    assert padding[:, 1:].any() and not padding[:, 0].any()
    layers, _ = tiny()(*inputs)
    assert all((layer[padding] == 0).all() and layer[~padding].all() for layer in layers)
    for logits in tiny(BertForQuestionAnswering)(*inputs):
        assert (logits[padding] == MASKED_SCORE).all() and (logits[~padding] > -100).all()
    logits = tiny(BertForTokenClassification)(*inputs)
    assert (logits[padding] == MASKED_SCORE).all() and (logits[~padding] > -100).all()
    assert (tiny(BertForPreTraining)(*inputs)[0][padding] == MASKED_SCORE).all()


@pytest.mark.numeric
@pytest.mark.parametrize("head", HEADS)
def test_packed_equals_computing_padding(head):
    packed, padded = tiny(head), tiny(head)
    padded.bert.compute_padding = True
    losses = [tiny_loss(packed), tiny_loss(padded)]
    if head is BertForQuestionAnswering:  # whose loss is over the padding too, as in Google's graph
        mask = tiny_inputs()[2].bool()
        for model in (packed, padded):
            logits = [x.masked_fill(~mask, MASKED_SCORE) for x in model(*tiny_inputs())]
            losses = [*losses[1:], sum(x.softmax(1)[:, 0].sum() for x in logits)]
    assert roundings(*losses) < 64  # √99 terms of a loss, and its logits
    for loss in losses:
        loss.backward()
    # Three layers, forward and back, four products of √37 terms each, and √91 tokens: 150.
    assert_same_gradients(gradients(packed), gradients(padded))


def reference_attention(qkv, unpadding, num_heads):
    """Attention by hand, one sequence of each head after another, in float64."""
    attended = torch.ones(len(qkv), dtype=torch.bool)
    if unpadding.hidden is not None:
        attended = ~unpadding.hidden
    context = []
    for sequence, seen in zip(
        qkv.double().split(unpadding.seqlens), attended.split(unpadding.seqlens)
    ):
        heads = []
        for query, key, value in zip(*(x.chunk(num_heads, 1) for x in sequence.chunk(3, 1))):
            scores = query @ key.T / query.shape[1] ** 0.5 + (~seen) * MASKED_SCORE
            heads.append(scores.softmax(1) @ value)
        context.append(torch.cat(heads, 1))
    return torch.cat(context).float()


ATTENTIONS = (
    modeling.VarlenAttention.apply,
    modeling.padded_attention,
    modeling.plain_packed_attention,
)


@pytest.mark.numeric
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_equals_the_plain_formula(holes, attention):
    mask = tiny_inputs()[2]
    if holes:
        mask[0], mask[1], mask[2] = 0, torch.tensor([1, 0, 1, 0, 0, 1, 0]), 0
        mask[2, 3] = 1
    unpadding = modeling.Unpadding(mask)
    assert (unpadding.hidden is not None) == holes
    qkv = torch.randn(len(unpadding.indices), 3 * 32, requires_grad=True)
    context = attention(qkv, unpadding, 4, 0.0)
    wanted = reference_attention(qkv, unpadding, 4)
    # A few roundings of scores as large as 10, whose exponential has their absolute error as its
    # relative one; or, of score - 10000, half the grain of numbers beyond 8192 in each of the two.
    limit = 2.0**-9 / ROUNDING if holes else 128
    assert roundings(context, wanted) < limit
    with torch.no_grad():
        assert torch.equal(attention(qkv, unpadding, 4, 0.0), context)
    probe = torch.randn_like(context)
    grads = [torch.autograd.grad(out, qkv, probe)[0] for out in (context, wanted)]
    assert roundings(*grads) < limit


def by_sequence(query, key, value, ends, dropout_prob=0.0):
    """What the kernels for packed rows compute: [P, N, H] three times -> [P, N, H]."""
    contexts = []
    sizes = ends.diff().tolist()
    for q, k, v in zip(*(x.transpose(0, 1).double().split(sizes, 1) for x in (query, key, value))):
        probs = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        contexts.append(torch.dropout(probs, dropout_prob, train=True) @ v)  # [N, F, H]
    return torch.cat(contexts, 1).transpose(0, 1).to(query.dtype)


class DropsAnewBackward(torch.autograd.Function):
    """by_sequence whose backward pass drops other elements, as PyTorch's float32 kernel."""

    @staticmethod
    def forward(ctx, *inputs):
        ctx.inputs = inputs
        return by_sequence(*inputs)

    @staticmethod
    def backward(ctx, grad):
        *heads, ends, dropout_prob = ctx.inputs
        heads = [head.detach().requires_grad_() for head in heads]
        with torch.enable_grad():
            context = by_sequence(*heads, ends, dropout_prob)
        return *torch.autograd.grad(context, heads, grad), None, None


class Kernels:
    """Stands for torch.ops.aten: the two private operations with their names of arguments."""

    def __init__(self):
        self.calls = []

    def _flash_attention_forward(
        self, query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal,
        return_debug_mask,
    ):  # fmt: skip
        self.calls.append(("flash", query.dtype))
        assert query.dtype in (torch.bfloat16, torch.float16) and query.dim() == 3
        self.check(cum_seq_q, cum_seq_k, max_q, max_k)
        assert is_causal is False and return_debug_mask is False and 0 <= dropout_p < 1
        return by_sequence(query, key, value, cum_seq_q, dropout_p), None, None, None, None

    def _efficient_attention_forward(
        self, query, key, value, bias, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
        dropout_p, custom_mask_type, compute_log_sumexp,
    ):  # fmt: skip
        self.calls.append(("efficient", query.dtype))
        assert query.dtype == torch.float32 and query.dim() == 4 and len(query) == 1
        self.check(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        assert bias is None and custom_mask_type == 0 and 0 <= dropout_p < 1
        assert compute_log_sumexp == query.requires_grad
        context = DropsAnewBackward.apply(query[0], key[0], value[0], cu_seqlens_q, dropout_p)
        return context[None], None, None, None, 0, 0

    def check(self, ends, same_ends, longest, same_longest):
        assert torch.equal(ends, same_ends) and ends.dtype == torch.int32
        assert longest == same_longest == ends.diff().max()


@pytest.fixture
def kernels(monkeypatch):
    found, refusal = Kernels(), modeling.refusal
    monkeypatch.setattr(modeling, "aten", found)
    refusal.cache_clear()
    yield found
    refusal.cache_clear()


@pytest.mark.parametrize("name", ["_flash_attention_forward", "_efficient_attention_forward"])
def test_the_private_operations_have_the_arguments_that_are_given(name):
    """In this PyTorch; the kernels themselves are compared on a GPU (test_gpu.py)."""
    schema = getattr(torch.ops.aten, name).default._schema
    ours = list(inspect.signature(getattr(Kernels(), name)).parameters)
    assert [argument.name for argument in schema.arguments][: len(ours)] == ours
    assert all(argument.has_default_value() for argument in schema.arguments[len(ours) :])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_flash_attention_hands_over_packed_rows(kernels, dtype):
    unpadding = modeling.Unpadding(tiny_inputs()[2])
    qkv = torch.randn(len(unpadding.indices), 3 * 32, dtype=dtype, requires_grad=True)
    context = modeling.flash_attention(qkv, unpadding, 4, 0.0)
    assert context.dtype == dtype
    wanted = reference_attention(qkv, unpadding, 4)
    probe = torch.randn_like(wanted)
    grads = [torch.autograd.grad(x, qkv, probe.to(x.dtype))[0] for x in (context, wanted)]
    limit = 128 * torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
    assert roundings(context, wanted) < limit and roundings(*grads) < limit
    assert kernels.calls == [("efficient" if dtype == torch.float32 else "flash", dtype)]


@pytest.mark.parametrize("head", HEADS)
def test_the_model_takes_flash_attention_where_it_can(head, kernels, monkeypatch):
    """With a reference in place of the kernels and the CPU in place of a GPU."""
    plain, model = tiny(head), tiny(head)
    uses = modeling.BertModel.uses_flash_attention

    def as_on_a_gpu(self, unpadding, device_type):
        asked = []
        monkeypatch.setattr(modeling, "refusal", lambda *place: asked.append(place) or "")
        answer = uses(self, unpadding, "cuda")
        assert asked == ([("cuda", torch.float32, 8, False)] if answer else [])
        return answer

    monkeypatch.setattr(modeling.BertModel, "uses_flash_attention", as_on_a_gpu)
    tiny_loss(model).backward()
    assert kernels.calls == [("efficient", torch.float32)] * 3
    ids, types, mask = tiny_inputs()
    mask[0] = 0  # a row that attends nothing, which the kernels do not know
    model(ids, types, mask)
    model.double()(*tiny_inputs())
    assert len(kernels.calls) == 3
    monkeypatch.setattr(modeling.BertModel, "uses_flash_attention", uses)
    tiny_loss(plain).backward()
    assert_same_gradients(gradients(model.float()), gradients(plain))


def test_kernels_are_tried_before_they_are_used(kernels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in (torch.float32, torch.bfloat16):
            for mode in (torch.inference_mode, torch.no_grad):
                modeling.refusal.cache_clear()
                with mode():
                    assert modeling.refusal("cpu", dtype, 8, False) == ""
    assert [name for name, _ in kernels.calls] == ["efficient"] * 2 + ["flash"] * 2
    with pytest.warns(UserWarning, match="runs padded, .*: heads of 12 are not a multiple of 8"):
        assert modeling.refusal("cpu", torch.float32, 12, False)
    for wrong in (0.9, float("nan")):
        modeling.refusal.cache_clear()
        kernels._flash_attention_forward = lambda query, *_, wrong=wrong: (query * wrong,)
        with pytest.warns(UserWarning, match="its results differ from the plain formula's"):
            assert modeling.refusal("cpu", torch.float16, 8, False)
    del kernels._flash_attention_forward
    kernels._efficient_attention_forward = lambda query: None
    with pytest.warns(UserWarning, match="positional argument"):
        assert modeling.refusal("cpu", torch.float32, 16, False)


def test_a_kernel_that_drops_other_elements_backward_is_not_used(kernels):
    """The float32 one; the trial leaves random states as they are."""
    state = torch.get_rng_state()
    assert modeling.refusal("cpu", torch.bfloat16, 8, True) == ""
    with pytest.warns(UserWarning, match="the float32 kernel drops other elements backward than"):
        assert modeling.refusal("cpu", torch.float32, 8, True)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_trial_drops_where_the_model_does(monkeypatch):
    asked = []
    monkeypatch.setattr(modeling, "refusal", lambda *place: asked.append(place[-1]) or "")
    unpadding = modeling.Unpadding(tiny_inputs()[2])
    for dropout in (0.0, 0.1):
        for training in (False, True):
            assert tiny(dropout=dropout).train(training).uses_flash_attention(unpadding, "cuda")
    assert asked == [False, False, False, True]


def test_operations_that_are_missing_are_not_used():
    """PyTorch has these for GPUs alone: on a CPU they refuse, and that is said once."""
    modeling.refusal.cache_clear()
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.warns(UserWarning, match="attention runs padded, which is slower on a GPU: "):
            reason = modeling.refusal("cpu", dtype, 64, False)
        assert reason and "\n" not in reason
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert modeling.refusal("cpu", dtype, 64, False) == reason
    modeling.refusal.cache_clear()


@pytest.mark.numeric
def test_attention_drops_alike_forward_and_backward():
    """With the same random words the output is linear in the values, with this gradient."""
    unpadding = modeling.Unpadding(tiny_inputs()[2])
    qkv = torch.randn(len(unpadding.indices), 3 * 32, requires_grad=True)
    step = torch.randn_like(qkv) * 1e-3

    def output(x):
        torch.manual_seed(5)
        return modeling.VarlenAttention.apply(x, unpadding, 4, 0.3)

    probe = torch.randn(len(qkv), 32)
    (output(qkv) * probe).sum().backward()
    change = ((output(qkv + step) - output(qkv - step)).double() * probe / 2).sum()
    assert torch.allclose(change, (qkv.grad * step).double().sum(), rtol=1e-2)
    assert not torch.allclose(output(qkv), modeling.VarlenAttention.apply(qkv, unpadding, 4, 0.0))


@pytest.mark.numeric
@pytest.mark.parametrize("probability", [0.1, 0.5, 1 / 3])
def test_dropout_rate_scale_and_gradient(probability):
    x = torch.ones(1000, 3001, requires_grad=True)
    torch.manual_seed(0)
    out = modeling.dropout(x, probability, True)
    out.sum().backward()
    assert torch.equal(out, x.grad)  # the same positions, the same scale
    zeros, scale = (out == 0).float(), out.max().item()
    assert torch.equal(out, (1 - zeros) * scale)
    exact = round(probability * 2**16) / 2**16
    assert abs(exact - probability) < 1e-5 and scale == pytest.approx(1 / (1 - exact))
    deviation = (probability * (1 - probability) / x.numel()) ** 0.5
    assert abs(zeros.double().mean() - exact) < 4 * deviation
    for lag in range(1, 9):  # words of the same wide number are as independent as others
        flat = zeros.flatten().double() - exact
        correlation = (flat[lag:] * flat[:-lag]).mean() / (exact * (1 - exact))
        assert abs(correlation) < 4 / x.numel() ** 0.5
    assert torch.equal(modeling.dropout(x, probability, False), x)


@pytest.mark.numeric
def test_rows_only_last_layer_equals_the_full_one():
    model, inputs = tiny(), tiny_inputs()
    ids, types, mask = inputs
    unpadding = model.make_unpadding(ids, mask)
    layers = model.encode(ids, types, unpadding)
    rows = torch.tensor([0, 5, 5, 3])
    few = model.encode(ids, types, unpadding, rows)
    assert roundings(few[-1], layers[-1][rows]) < 64  # four products of √37 terms: 24
    assert all(torch.equal(a, b) for a, b in zip(few[:-1], layers[:-1]))
    pretraining = tiny(BertForPreTraining)
    positions = torch.arange(BATCH)[:, None] % 2
    full = pretraining(*inputs)[0].gather(1, positions[..., None].expand(-1, -1, 99))
    kept = inputs[2].gather(1, positions).bool()
    assert roundings(pretraining(*inputs, positions)[0][kept], full[kept]) < 64


@pytest.mark.numeric
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_every_parameter_gets_gradient(head, dropout):
    model = tiny(head, dropout)
    tiny_loss(model).backward()
    missing = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert missing == (pooler if head in WITHOUT_POOLER else set())


@pytest.mark.numeric
def test_answers_outside_the_computed_positions_add_nothing():
    model, inputs = tiny(BertForQuestionAnswering), tiny_inputs()
    inputs[2][:] = 1
    inputs[2][3, 4:] = 0
    inside = torch.ones(BATCH, dtype=torch.long)
    outside = inside.clone()
    outside[:4] = torch.tensor([-1, WIDTH, 1000, 5])
    loss, (start, end) = model(*inputs, outside, inside)
    wanted = -(start.log_softmax(1)[4:, 1].sum() + end.log_softmax(1)[:, 1].sum()) / BATCH / 2
    assert torch.allclose(loss, wanted)
    assert outside[1] == WIDTH  # the caller's tensor is as it was


@pytest.mark.numeric
def test_only_tokens_with_a_label_are_in_a_taggers_loss():
    model, inputs = tiny(BertForTokenClassification), tiny_inputs()
    labels = torch.full(inputs[0].shape, modeling.NO_LABEL)
    loss, logits = model(*inputs, labels)
    assert loss == 0 and torch.equal(logits, model(*inputs))
    labels[:, 0] = 1
    labels[5:, 1] = 0  # partly on padding, which does not count
    kept = (labels != modeling.NO_LABEL) & (inputs[2] == 1)
    assert 0 < kept[5:, 1].sum() < BATCH - 5
    wanted = -logits.log_softmax(2)[kept].gather(1, labels[kept][:, None]).mean()
    assert torch.allclose(model(*inputs, labels)[0], wanted)
    foreign = labels.masked_fill(labels == 1, 3)
    for wrong, message in ((labels[:, 1:], r"the shape is \[13, 6\]"), (foreign, "label 3 is")):
        with pytest.raises(ValueError, match=message):
            model(*inputs, wrong)


@pytest.mark.numeric
def test_masked_lm_loss_divides_by_weights_and_a_bit():
    scores, ids = torch.randn(2, 3, 5), torch.tensor([[1, 2, 0], [3, 0, 0]])
    weights = torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    wanted = -(scores[0, 0].log_softmax(0)[1] + scores[0, 1].log_softmax(0)[2])
    wanted = wanted - scores[1, 0].log_softmax(0)[3]
    assert torch.allclose(masked_lm_loss(scores, ids, weights), wanted / (3 + 1e-5))
    assert torch.allclose(masked_lm_loss(scores, ids, weights, 7), wanted / (7 + 1e-5))
    assert masked_lm_loss(scores, ids, weights * 0) == 0


# Initialisation, dropout, precision


@pytest.mark.numeric
def test_initial_weights():
    model = BertForPreTraining(BertConfig(1000, 128, 2, 2, 256, type_vocab_size=64))
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert not weight.any(), name
        elif "LayerNorm" in name:
            assert (weight == 1).all(), name
        else:
            # The standard deviation of a normal distribution that is cut at two of its own.
            size = weight.numel() ** 0.5
            assert abs(weight.std() / 0.02 - 0.8796) < 2.5 / size, name
            assert abs(weight.mean()) < 0.02 * 4 / size, name
            assert 0.9 * 0.04 < weight.abs().max() <= 0.04 or size < 30, name
    first, second = model.bert.encoder.layer
    assert not torch.equal(first.attention.self.query.weight, second.attention.self.query.weight)


def test_initial_weights_follow_the_seed_and_the_range():
    a, b, other = tiny(seed=1), tiny(seed=1), tiny(seed=2)
    weights = [m.encoder.layer[0].output.dense.weight for m in (a, b, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert tiny(initializer_range=0.5).pooler.dense.weight.abs().max() > 0.5


@pytest.mark.numeric
def test_dropout_follows_the_seed_and_stops_in_evaluation():
    model, inputs = tiny(dropout=0.5), tiny_inputs()
    torch.manual_seed(3)
    a = model(*inputs)[1]
    b = model(*inputs)[1]
    torch.manual_seed(3)
    assert torch.equal(model(*inputs)[1], a) and not torch.equal(a, b)
    model.eval()
    assert torch.equal(model(*inputs)[1], tiny().eval()(*inputs)[1])


@pytest.mark.numeric
@pytest.mark.parametrize("head", HEADS)
def test_bfloat16_is_near_float32(head):
    model = tiny(head)
    full = tiny_loss(model)
    full.backward()
    wanted = {name: grad.clone() for name, grad in gradients(model).items()}
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = tiny_loss(model)
        logits = model(*tiny_inputs())
        layers, pooled = model.bert(*tiny_inputs())
    # A dozen products, each rounded; what they add to the residual stream is smaller than it.
    assert abs(loss - full) < 3 * BF16_ROUNDING * full and loss.dtype == torch.float32
    if head is not BertForPreTraining:  # whose vocabulary is as wide as memory allows
        assert all(x.dtype == torch.float32 for x in logits)
    assert {x.dtype for x in [*layers, pooled]} == {torch.float32}  # the residual stream
    loss.backward()
    largest = max(grad.abs().max() for grad in wanted.values())
    for name, grad in gradients(model).items():
        assert grad.dtype == torch.float32
        limit = 24 * wanted[name].norm() + largest / 16  # two dozen products, forward and back
        assert (grad - wanted[name]).norm() < limit * BF16_ROUNDING, name


@pytest.mark.numeric
def test_inference_mode_equals_evaluation():
    model, inputs = tiny(BertForQuestionAnswering).eval(), tiny_inputs()
    with torch.inference_mode():
        fast = model(*inputs)
    assert all(roundings(a, b, 1.0) < 64 for a, b in zip(fast, model(*inputs)))


# Configuration and mistakes


def test_configuration_keeps_unknown_keys(tmp_path):
    values = {**TINY, "hidden_act": "relu", "directionality": "bidi", "pooler_fc_size": 768}
    path = tmp_path / "bert_config.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(values, indent=1).replace("\n", "\r\n").encode())
    config = BertConfig.from_json_file(path)
    assert config.hidden_act == "relu" and config.extra["pooler_fc_size"] == 768
    written = json.loads(config.to_json_string())
    assert written.items() >= values.items() and "extra" not in written
    assert BertConfig.from_dict(written) == config


def test_configuration_defaults_are_googles():
    config = BertConfig(30522)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (
        768,
        12,
        12,
    )
    assert (config.intermediate_size, config.max_position_embeddings) == (3072, 512)
    assert (config.type_vocab_size, config.initializer_range, config.hidden_act) == (
        16,
        0.02,
        "gelu",
    )
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.1


@pytest.mark.parametrize(
    "change, words",
    [
        ({"num_attention_heads": 5}, ["hidden_size 32", "num_attention_heads 5"]),
        ({"hidden_size": 0}, ["hidden_size", "0"]),
        ({"num_hidden_layers": 2.0}, ["num_hidden_layers", "2.0"]),
        ({"vocab_size": True}, ["vocab_size", "True"]),
        ({"vocab_size": "9"}, ["vocab_size", "'9'"]),
        ({"hidden_dropout_prob": 1.0}, ["hidden_dropout_prob", "1.0"]),
        ({"initializer_range": None}, ["initializer_range", "None"]),
        ({"hidden_act": "swish"}, ["swish", "gelu_new"]),
    ],
)
def test_contradicting_configurations(tmp_path, change, words):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**TINY, **change}))
    with pytest.raises(ValueError) as error:
        BertConfig.from_json_file(path)
    assert all(word in str(error.value) for word in [*words, str(path)])


@pytest.mark.parametrize("text", ["", "[]", "{", "3", '{"hidden_size": 3}', "[" * 100000, "\xff"])
def test_unfit_configuration_files(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="config.json is not a BERT configuration") as error:
        BertConfig.from_json_file(path)
    assert "\n" not in str(error.value)


@pytest.mark.numeric
def test_activations():
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    phi = 0.5 * (1 + torch.erf(x / 2**0.5))
    assert torch.allclose(get_activation("gelu")(x), x * phi)
    cubic = (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)
    assert torch.allclose(get_activation("gelu_new")(x), 0.5 * x * (1 + torch.tanh(cubic)))
    assert torch.equal(get_activation("Linear")(x), x) and get_activation(torch.sin) is torch.sin
    assert torch.equal(get_activation("relu")(x), x.relu())
    with pytest.raises(ValueError, match="'swish'.*gelu_new"):
        get_activation("swish")
    model = tiny(hidden_act="relu", num_hidden_layers=1)
    assert model.encoder.layer[0].intermediate(torch.randn(5, 32)).min() == 0


@pytest.mark.parametrize(
    "where, value, words", [(0, 99, "token id 99.*98"), (0, -1, "-1"), (1, 3, "type id 3.*2")]
)
def test_ids_outside_the_tables(where, value, words):
    inputs = tiny_inputs()
    inputs[where][2, 1] = value
    with pytest.raises(ValueError, match=words):
        tiny()(*inputs)


def test_too_long_sequences():
    with pytest.raises(ValueError, match="12 tokens.* 11 positions"):
        tiny()(torch.zeros(1, 12, dtype=torch.long))


@pytest.mark.parametrize("head", HEADS)
def test_one_mask_and_one_row_of_types_for_every_sequence(head):
    ids, types, mask = tiny_inputs()
    model, one = tiny(head), (types[:1], mask[-1:])
    assert 1 < mask[-1].sum() < WIDTH
    outputs = model(ids, *one)
    wanted = model(ids, *(values.repeat(BATCH, 1) for values in one))
    for ours, theirs in zip(outputs, wanted):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("where", [1, 2])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "shape", [(BATCH, WIDTH - 1), (BATCH, 1), (WIDTH,), (2, WIDTH), (BATCH, 1, 1, WIDTH), ()]
)
def test_inputs_of_another_shape_are_refused_with_both_shapes(head, where, shape):
    inputs = tiny_inputs()
    given = [*inputs[:where], torch.ones(shape, dtype=torch.long), *inputs[where + 1 :]]
    name = ("input_ids", "token_type_ids", "attention_mask")[where]
    with pytest.raises(ValueError) as error:
        tiny(head)(*given)
    assert str(error.value) == (
        f"{name} has the shape {list(shape)}, but input_ids [13, 7]: give the same, or [1, 7] for "
        f"every row"
    )


def test_ids_must_be_a_batch():
    for shape in ([7], [3, 0], [2, 3, 4]):
        with pytest.raises(ValueError) as error:
            tiny()(torch.ones(shape, dtype=torch.long))
        assert str(error.value) == f"input_ids has the shape {shape}: give [B, S]"
    assert tiny()(torch.ones(0, 3, dtype=torch.long))[1].shape == (0, TINY["hidden_size"])


def test_a_classifier_has_an_output():
    with pytest.raises(ValueError, match="^num_labels is 0, but a classifier has 1 output or"):
        tiny(partial(BertForSequenceClassification, num_labels=0))


def test_a_masked_position_on_padding_reads_no_other_example():
    inputs = tiny_inputs()
    model = tiny(BertForPreTraining)
    short = int((inputs[2].sum(1) == 2).nonzero()[0])
    positions = torch.zeros(BATCH, 2, dtype=torch.long)
    wanted = model(*inputs, positions)[0]
    positions[short, 1] = 4
    scores = model(*inputs, positions)[0]
    assert (scores[short, 1] == MASKED_SCORE).all()
    scores[short, 1] = wanted[short, 1]
    assert roundings(scores, wanted) < 16
    with torch.autocast("cpu", torch.bfloat16):
        assert model(*inputs, positions)[0][short, 1].max() < 0.99 * MASKED_SCORE


@pytest.mark.parametrize("labels", [torch.arange(BATCH), torch.linspace(-1, 5, BATCH)])
def test_one_label_is_a_regression(labels):
    model = tiny(partial(BertForSequenceClassification, num_labels=1))
    loss, logits = model(*tiny_inputs(), labels)
    assert logits.shape == (BATCH, 1)
    assert roundings(loss, ((logits[:, 0] - labels) ** 2).mean()) < 4 and loss > 0.1
    loss.backward()
    assert model.classifier.weight.grad.abs().max() > 0


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("shape", [(BATCH, 1), (BATCH - 1,), (1, BATCH)])
def test_labels_of_another_shape(num_labels, shape):
    model = tiny(partial(BertForSequenceClassification, num_labels=num_labels))
    with pytest.raises(ValueError) as error:
        model(*tiny_inputs(), torch.ones(shape, dtype=torch.long))
    assert str(error.value) == f"labels: the shape is {list(shape)}, but must be [13]"


def test_losses_of_pre_training_alone_and_together():
    model, inputs = tiny(BertForPreTraining), tiny_inputs()
    positions = torch.zeros(BATCH, 2, dtype=torch.long)
    ids, labels = positions + 5, torch.arange(BATCH) % 2
    words = {"masked_lm_positions": positions, "masked_lm_ids": ids}
    weighted, _ = model(*inputs, **words, masked_lm_weights=torch.ones(BATCH, 2))
    alone, (scores, _) = model(*inputs, **words)
    assert torch.equal(alone, weighted) and scores.shape == (BATCH, 2, 99)
    sentences, _ = model(*inputs, next_sentence_labels=labels)
    both, _ = model(*inputs, **words, next_sentence_labels=labels)
    assert roundings(both, alone + sentences) < 16
    everywhere, _ = model(*inputs, masked_lm_ids=inputs[0])  # [B, S], as without positions
    assert everywhere.isfinite()
    with pytest.raises(ValueError, match=r"masked_lm_ids: the shape is \[13, 2\], .* \[13, 7\]"):
        model(*inputs, masked_lm_ids=ids)


@pytest.mark.parametrize("name", ["start_positions", "end_positions"])
def test_one_end_of_an_answer_is_not_enough(name):
    model = tiny(BertForQuestionAnswering)
    with pytest.raises(ValueError, match="give start_positions and end_positions, or neither"):
        model(*tiny_inputs(), **{name: torch.zeros(BATCH, dtype=torch.long)})


# The loader


def equal_weights(a, b):
    other = b.state_dict()
    return all(torch.equal(value, other[name]) for name, value in a.state_dict().items())


def as_circulating(state):
    return state


def as_bare_model(state):
    return {name[5:]: t for name, t in state.items() if name.startswith("bert.")}


def as_first_port(state):
    renamed = {}
    for name, tensor in state.items():
        if "LayerNorm" in name:
            name = name.replace("weight", "gamma").replace("bias", "beta")
        renamed[name] = tensor
    return renamed


def as_parallel_half(state):
    return {f"module.{name}": tensor.half() for name, tensor in state.items()}


def as_other_library(state):
    return {
        **state,
        "bert.embeddings.position_ids": torch.arange(11)[None],
        "cls.predictions.decoder.weight": state["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": state["cls.predictions.bias"],
    }


@pytest.mark.parametrize(
    "spelling", [as_circulating, as_bare_model, as_first_port, as_parallel_half, as_other_library]
)
@pytest.mark.parametrize("kind", ["bin", "safetensors", "folder", "dict", "legacy"])
def test_every_spelling_and_file_loads(tmp_path, spelling, kind):
    source, target = tiny(BertForPreTraining, seed=1), tiny(BertForPreTraining, seed=2)
    if spelling is as_parallel_half:
        source = source.half().float()
    state = {name: tensor.clone() for name, tensor in spelling(source.state_dict()).items()}
    if kind == "dict":
        given = state
    elif kind == "safetensors":
        given = tmp_path / "model.safetensors"
        pytest.importorskip("safetensors.torch").save_file(state, str(given))
    else:
        given = tmp_path / "pytorch_model.bin"
        torch.save(state, given, _use_new_zipfile_serialization=kind != "legacy")
        given = tmp_path if kind == "folder" else given
    unfilled, unused = load_weights(target, given)
    bare = spelling is as_bare_model
    heads = {name for name in source.state_dict() if name.startswith("cls.")}
    assert set(unfilled) == (heads if bare else set()) and unused == []
    assert equal_weights(source.bert if bare else source, target.bert if bare else target)


def test_other_heads_and_bare_models():
    source = tiny(BertForSequenceClassification, seed=1).state_dict()
    target = tiny(BertForQuestionAnswering, seed=2)
    unfilled, unused = load_weights(target, source)
    assert unfilled == ["qa_outputs.bias", "qa_outputs.weight"]
    assert unused == ["classifier.bias", "classifier.weight"]
    bare = tiny(seed=3)
    assert load_weights(bare, source) == ([], ["classifier.bias", "classifier.weight"])
    assert equal_weights(bare, target.bert)
    three = BertForSequenceClassification(BertConfig(**TINY), 3)  # a head of another width
    assert load_weights(three, source)[0] == ["classifier.weight", "classifier.bias"][::-1]


def test_the_pooler_may_be_new_only_where_its_head_is():
    source = tiny(BertForQuestionAnswering, seed=1).state_dict()
    source = {name: tensor for name, tensor in source.items() if "pooler" not in name}
    pooler = ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]
    unfilled, _ = load_weights(tiny(BertForQuestionAnswering), source)
    assert unfilled == pooler
    classifier = tiny(BertForSequenceClassification)
    unfilled, _ = load_weights(classifier, source)
    assert unfilled == [*pooler, "classifier.bias", "classifier.weight"]
    trained = {**source, "classifier.weight": classifier.classifier.weight.detach()}
    for target, given in (
        (classifier, trained), (tiny(), source), (classifier, {**source, pooler[0]: torch.ones(3)})
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"pooler.dense.bias is (missing|\[3\]), the model's"):
            load_weights(target, given)


def test_numbers_of_another_kind_are_refused():
    state = tiny(BertForPreTraining, seed=1).state_dict()
    name = "bert.encoder.layer.0.output.dense.weight"
    with pytest.raises(ValueError, match=rf"{name} is torch.int8, the model's is \[32, 37\]"):
        load_weights(tiny(BertForPreTraining), {**state, name: state[name].to(torch.int8)})


def test_unfit_weights_change_nothing(tmp_path):
    target = tiny(BertForPreTraining, seed=2)
    before = copy.deepcopy(target)
    name, path = "bert.encoder.layer.1.output.dense.weight", tmp_path / "w.bin"
    missing = tiny(BertForPreTraining, seed=1).state_dict()
    del missing[name]
    torch.save(missing, path)
    with pytest.raises(ValueError, match=rf"w\.bin: {name} is missing.*\[32, 37\]"):
        load_weights(target, path)
    with pytest.raises(ValueError, match=rf"{name} is \[32, 36\].*\[32, 37\]"):
        load_weights(target, {**missing, name: torch.zeros(32, 36)})
    table = missing["bert.embeddings.word_embeddings.weight"]
    untied = {**missing, name: torch.zeros(32, 37), "cls.predictions.decoder.weight": table + 1}
    with pytest.raises(ValueError, match="decoder.weight differs from bert.embeddings.word"):
        load_weights(target, untied)
    assert equal_weights(before, target)


class Code:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("damage", ["flipped", "cut", "text", "code", "number", "empty", "nested"])
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_are_refused_by_name(tmp_path, damage, zipped, capsys):
    path = tmp_path / "weights.bin"
    objects = {"code": {"a": Code()}, "number": {"a": 3}, "nested": {"a": {"b": torch.ones(2)}}}
    content = objects.get(damage, {"a": torch.randn(1000)})
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 4
        if not zipped:
            pytest.skip("files before PyTorch 1.6 have no checksum")
    data = {"cut": data[: len(data) // 2], "text": b"hello\n", "empty": b""}.get(damage, data)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="weights.bin is ") as error:
        read_state_dict(path)
    assert "\n" not in str(error.value) and "executed" not in capsys.readouterr().out


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither pytorch_model.bin nor model.safetensors"):
        read_state_dict(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere.bin does not exist"):
        read_state_dict(tmp_path / "nowhere.bin")


def test_saved_names_are_those_in_circulation():
    names = set(tiny(BertForPreTraining).state_dict())
    assert {
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.position_embeddings.weight",
        "bert.embeddings.token_type_embeddings.weight",
        "bert.embeddings.LayerNorm.bias",
        "bert.encoder.layer.0.attention.self.query.weight",
        "bert.encoder.layer.0.attention.output.dense.weight",
        "bert.encoder.layer.0.attention.output.LayerNorm.weight",
        "bert.encoder.layer.0.intermediate.dense.bias",
        "bert.encoder.layer.2.output.LayerNorm.bias",
        "bert.pooler.dense.weight",
        "cls.predictions.bias",
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.seq_relationship.weight",
    } <= names
    assert len(names) == 5 + 3 * 16 + 2 + 5 + 2
    assert isinstance(tiny().embeddings.LayerNorm, nn.LayerNorm)


def test_bfloat16_meets_few_matrix_shapes():
    """PyTorch keeps kernels for every number of rows that it meets in bfloat16: there are few."""
    model, rows = tiny(max_position_embeddings=330).eval(), []
    model.encoder.layer[0].intermediate.dense.register_forward_hook(
        lambda module, inputs, output: rows.append(len(output))
    )
    masks = [torch.ones(4, length, dtype=torch.long) for length in range(300, 330)]
    for mask in masks:
        mask[1, 200:] = 0
        exact, _ = model(torch.ones_like(mask), attention_mask=mask)
        with torch.autocast("cpu", torch.bfloat16):
            (*_, last), _ = model(torch.ones_like(mask), attention_mask=mask)
        assert (last - exact[-1]).abs().max() < 0.1 and not last[1, 200:].any()
    tokens = [mask.sum().item() for mask in masks]
    assert rows[::2] == tokens, "float32 computes tokens alone"
    assert len(set(rows[1::2])) <= 5
    assert all(0 <= more - less < less / 31 for more, less in zip(rows[1::2], tokens))


@pytest.mark.numeric
@pytest.mark.parametrize("head", HEADS)
def test_a_model_in_float64_computes_in_it(head):
    model, exact = tiny(head, initializer_range=0.3), tiny(head, initializer_range=0.3).double()
    losses = []
    for each in (model, exact):
        losses.append(tiny_loss(each))
        losses[-1].backward()
    assert losses[1].dtype == torch.float64
    assert 1e-12 < abs(losses[0].item() / losses[1].item() - 1) < 64 * ROUNDING
    assert {grad.dtype for grad in gradients(exact).values()} == {torch.float64}
    # A loss in float64 follows a step of 1e-6 to many more digits than float32 has.
    weight = exact.bert.encoder.layer[0].output.dense.weight
    with torch.no_grad():
        weight[3, 5] += 1e-6
        moved = tiny_loss(exact)
    slope = (moved - losses[1]) / 1e-6
    assert slope.item() == pytest.approx(weight.grad[3, 5].item(), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head", HEADS)
def test_a_model_in_half_precision_trains_in_it(head, dtype):
    model = tiny(head, dropout=0.1, initializer_range=0.1)
    full = tiny_loss(model.eval())
    model = model.to(dtype)
    near = tiny_loss(model)
    assert near.dtype == torch.float32  # softmax and loss
    assert abs(near - full) < 12 * torch.finfo(dtype).eps * full
    layers, pooled = model.bert(*tiny_inputs())
    assert {x.dtype for x in [*layers, pooled]} == {dtype}
    optimizer, losses = torch.optim.SGD(model.train().parameters(), lr=0.1), []
    for _ in range(20):
        losses.append(tiny_loss(model))
        losses[-1].backward()
        assert {grad.dtype for grad in gradients(model).values()} == {dtype}
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]


def test_a_second_derivative_takes_the_plain_formula(monkeypatch):
    model = tiny(BertForSequenceClassification, initializer_range=0.3)
    weight = model.bert.embeddings.word_embeddings.weight
    with pytest.raises(ValueError, match="create_graph=True: .* modeling.plain_packed_attention"):
        torch.autograd.grad(tiny_loss(model), weight, create_graph=True)

    monkeypatch.setattr(modeling, "attention", modeling.plain_packed_attention)
    model = model.double()
    weight = model.bert.embeddings.word_embeddings.weight
    (grad,) = torch.autograd.grad(tiny_loss(model), weight, create_graph=True)
    grad.square().sum().backward()
    second = weight.grad[3].clone()
    with torch.no_grad():
        before, step = weight.clone(), 1e-6 * torch.randn(32, dtype=torch.float64)
    values = []
    for sign in (1, -1):
        weight.data = before.clone()
        weight.data[3] += sign * step
        values.append(torch.autograd.grad(tiny_loss(model), weight)[0].square().sum())
    assert (values[0] - values[1]).item() == pytest.approx(2 * (second @ step).item(), rel=1e-4)


def test_the_loss_of_several_labels_by_hand():
    """The mean over labels of ln(1 + e^-x) where the label is there, ln(1 + e^x) where not."""
    logits = torch.tensor([[0.0, math.log(3)], [-math.log(7), math.log(3)]])
    labels = torch.tensor([[1, 1], [0, 0]])
    wanted = [(math.log(2) + math.log(4 / 3)) / 2, (math.log(8 / 7) + math.log(4)) / 2]
    for given in (labels, labels.float()):
        losses = modeling.classification_loss(logits, given)
        assert losses.tolist() == pytest.approx(wanted, rel=1e-6)
    model = tiny(BertForSequenceClassification)
    several = (torch.arange(2 * BATCH).view(BATCH, 2) % 3 == 0).float()
    loss, logits = model(*tiny_inputs(), several)
    expected = nn.functional.binary_cross_entropy(logits.sigmoid(), several)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert gradients(model)["classifier.weight"].abs().min() > 0
    with pytest.raises(ValueError, match=r"labels: the shape is \[13, 3\], but must be \[13\]"):
        model(*tiny_inputs(), torch.zeros(BATCH, 3))
