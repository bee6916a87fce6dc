"""BERT's optimizer: Google's trajectories, the formula step by step, the norm, the schedules."""

import copy
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import BF16_ROUNDING, ROUNDING, assert_same_gradients, roundings, run
from model_helpers import (
    BATCH,
    LOSS,
    NORM,
    WEIGHT,
    gradients,
    ints,
    tiny,
    tiny_inputs,
    tiny_loss,
    without_dropout,
    worst,
)

from modeling import (
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
)
from optimization import SCHEDULES, BERTAdam, create_optimizer, decay_groups

ENCODER = {  # golden -> ours; kernels are transposed
    "pooler_kernel_final": "bert.pooler.dense.weight",
    "pooler_bias_final": "bert.pooler.dense.bias",
    "layer_0_query_kernel_final": "bert.encoder.layer.0.attention.self.query.weight",
    "layer_0_query_bias_final": "bert.encoder.layer.0.attention.self.query.bias",
    "layer_5_output_LayerNorm_gamma_final": "bert.encoder.layer.5.output.LayerNorm.weight",
    "layer_5_output_LayerNorm_beta_final": "bert.encoder.layer.5.output.LayerNorm.bias",
    "embeddings_LayerNorm_gamma_final": "bert.embeddings.LayerNorm.weight",
    "token_type_embeddings_final": "bert.embeddings.token_type_embeddings.weight",
}


# Google's trajectories


def follow(model, optimizer, losses, truth, prefix=""):
    """Trains on the `losses`, and compares each step with Google's."""
    norm_name = "train_global_norm" if prefix else "google_global_norm"
    for step, compute_loss in enumerate(losses):
        loss = compute_loss(model)
        loss.backward()
        assert optimizer.get_lr() == truth[f"{prefix}learning_rate"][step]
        norm = optimizer.step()
        optimizer.zero_grad()
        wanted = truth[f"{prefix}loss"][step]
        assert roundings(loss, wanted, max(1, wanted)) < LOSS, step
        assert roundings(norm, truth[norm_name][step]) < NORM, step


def check_encoder(model, truth):
    weights = model.state_dict()
    for name, ours in ENCODER.items():
        wanted = truth[name].T if "kernel" in name else truth[name]
        assert worst(weights[ours], wanted) < WEIGHT, name
    words = weights["bert.embeddings.word_embeddings.weight"][truth["word_rows"]]
    assert worst(words, truth["word_embeddings_final_rows"]) < WEIGHT
    places = weights["bert.embeddings.position_embeddings.weight"][[0, 63, 127, 511]]
    assert worst(places, truth["position_embeddings_final_rows_0_63_127_511"]) < WEIGHT


def check_slots(optimizer, parameter, truth, name, transpose=False):
    for moment in ("adam_m", "adam_v"):
        wanted = truth[f"slot__{name}.{moment}"]
        # Sums of some gradients, each with the norm's error; the second is one of squares.
        limit = NORM if moment == "adam_m" else 2 * NORM
        assert roundings(optimizer.state[parameter][moment], wanted) < limit, moment


def test_trajectory_of_the_classifier_is_googles(pretrained, goldens):
    truth = np.load(goldens / "train_cls.npz")
    model = without_dropout(BertForSequenceClassification, pretrained)
    model.classifier.weight.data = torch.from_numpy(truth["head_weights_init"].copy())
    names = ("in_input_ids", "in_segment_ids", "in_input_mask", "in_label_ids")
    arrays = ints(truth, *names)

    def evaluate():
        with torch.no_grad():
            return model.eval()(*(values[:16] for values in arrays[:3]))

    def loss_of_batch(i):
        return lambda model: model(*(values[8 * i : 8 * i + 8] for values in arrays))[0]

    assert roundings(evaluate(), truth["eval_logits_before"], 1.0) < LOSS
    model.train()
    optimizer = create_optimizer(model, 2e-5, 40, 4)
    follow(model, optimizer, map(loss_of_batch, range(40)), truth)
    check_encoder(model, truth)
    assert worst(model.classifier.weight, truth["head_weights_final"]) < WEIGHT
    assert worst(model.classifier.bias, truth["head_bias_final"]) < WEIGHT
    check_slots(optimizer, model.classifier.weight, truth, "output_weights")
    query = model.bert.encoder.layer[0].attention.self.query
    check_slots(optimizer, query.bias, truth, "bert.encoder.layer_0.attention.self.query.bias")
    assert roundings(evaluate(), truth["eval_logits_after"], 1.0) < 2 * LOSS


def test_trajectory_of_question_answering_is_googles(pretrained, goldens):
    truth = np.load(goldens / "train_squad.npz")
    model = without_dropout(BertForQuestionAnswering, pretrained)
    model.bert.compute_padding = True
    model.qa_outputs.weight.data = torch.from_numpy(truth["head_weights_init"].copy())
    names = ("input_ids", "segment_ids", "input_mask", "start_positions", "end_positions")
    arrays = ints(truth, *(f"in_{name}" for name in names))

    def check_logits(when):
        with torch.no_grad():
            logits = model.eval()(*(values[:16] for values in arrays[:3]))
        tokens = arrays[2][:16].bool()
        for ours, side in zip(logits, ("start", "end")):
            wanted = truth[f"eval_{side}_logits_{when}"]
            assert worst(ours, wanted) < 5e-4  # padding: four times Google's own noise
            assert roundings(ours[tokens], wanted[tokens.numpy()], 1.0) < 4 * LOSS

    def loss_of_batch(i):
        return lambda model: model(*(values[4 * i : 4 * i + 4] for values in arrays))[0]

    check_logits("before")
    model.train()
    optimizer = create_optimizer(model, 2e-5, 20, 2)
    follow(model, optimizer, map(loss_of_batch, range(20)), truth)
    check_encoder(model, truth)
    assert worst(model.qa_outputs.weight, truth["head_weights_final"]) < WEIGHT
    check_slots(optimizer, model.qa_outputs.weight, truth, "cls.squad.output_weights")
    check_logits("after")


@pytest.mark.numeric
def test_answers_outside_the_window_cost_as_googles(pretrained, goldens):
    truth = np.load(goldens / "squad_loss_edge.npz")
    model = without_dropout(BertForQuestionAnswering, pretrained)
    model.bert.compute_padding = True
    model.qa_outputs.weight.data = torch.from_numpy(truth["head_weights"].copy())
    names = ("input_ids", "segment_ids", "input_mask", "start_positions", "end_positions")
    optimizer = create_optimizer(model, 2e-5, 20, 2)
    loss, _ = model(*ints(truth, *(f"in_{name}" for name in names)))
    loss.backward()
    assert roundings(loss, truth["loss"]) < LOSS
    assert roundings(optimizer.global_norm(), truth["google_global_norm"]) < NORM
    assert roundings(model.qa_outputs.weight.grad, truth["grad_output_weights"]) < LOSS
    scale = np.abs(truth["grad_output_weights"]).max()  # that of the bias is 0 but for rounding
    assert roundings(model.qa_outputs.bias.grad, truth["grad_output_bias"], scale) < LOSS


@pytest.mark.numeric
def test_trajectory_of_pretraining_is_googles(pretrained, goldens):
    truth = np.load(goldens / "pretrain_loss.npz")
    records = np.load(goldens / "pretrain_records_fe35475.npz")
    model = without_dropout(BertForPreTraining, pretrained)
    names = ("input_ids", "segment_ids", "input_mask", "masked_lm_positions", "masked_lm_ids")
    arrays = ints(records, *names) + [
        torch.from_numpy(records["masked_lm_weights"]),
        torch.from_numpy(records["next_sentence_labels"]).long().flatten(),
    ]

    def loss_of_batch(i):
        rows = torch.arange(8 * i, 8 * i + 8) % len(arrays[0])
        return lambda model: model(*(values[rows] for values in arrays))[0]

    optimizer = create_optimizer(
        model, float(truth["train_init_lr"]), 6, int(truth["train_warmup"])
    )
    follow(model, optimizer, map(loss_of_batch, range(6)), truth, "train_")
    heads, words = model.cls, model.bert.embeddings.word_embeddings.weight
    for ours, name in (
        (heads.predictions.bias, "predictions_output_bias"),
        (heads.seq_relationship.weight, "seq_relationship_output_weights"),
        (heads.predictions.transform.dense.weight.T[:8], "transform_kernel_rows0_8"),
        (words[[0, *range(100, 110)]], "word_embeddings_rows_0_100_110"),
    ):
        assert worst(ours, truth[f"final_{name}"]) < WEIGHT, name


# The formula


def plain_step(weights, grads, moments, lr, decays):
    """Google's AdamWeightDecayOptimizer and clip_by_global_norm, one line a formula."""
    norm = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
    for weight, grad, (m, v), decay in zip(weights, grads, moments, decays):
        grad = grad / norm.clamp(min=1.0)
        m.copy_(0.9 * m + 0.1 * grad)
        v.copy_(0.999 * v + 0.001 * grad * grad)
        weight.sub_(lr * (m / (v.sqrt() + 1e-6) + decay * weight))
    return norm


@pytest.mark.numeric
@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0])
@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
def test_fused_step_equals_the_plain_loop(scale, loss_scale):
    torch.manual_seed(0)
    weights = [torch.randn(13, 7, dtype=torch.float64), torch.randn(37, dtype=torch.float64)]
    params = [torch.nn.Parameter(weight.float()) for weight in weights]
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    groups = [{"params": [p], "weight_decay_rate": d} for p, d in zip(params, (0.1, 0.0))]
    optimizer = BERTAdam(groups, 1e-2, 0.2, 10)
    for step in range(10):
        grads = [torch.randn_like(w) * scale for w in weights]
        for p, grad in zip(params, grads):
            p.grad = grad.float() * loss_scale
        lr = 1e-2 * (step / 2 if step < 2 else 1 - step / 10)
        wanted = plain_step(weights, grads, moments, lr, (0.1, 0.0))
        norm = optimizer.step(loss_scale=loss_scale)
        assert torch.allclose(norm.double(), wanted, rtol=1e-5)
        for p, weight, (m, v) in zip(params, weights, moments):
            state = optimizer.state[p]
            # Ten steps of a few roundings each, and the norm's, which all gradients share.
            assert roundings(p, weight) < 64
            assert roundings(state["adam_m"], m) < 64
            assert roundings(state["adam_v"], v) < 128


@pytest.mark.numeric
def test_small_decay_is_not_rounded_away():
    p = torch.nn.Parameter(torch.ones(7) / 3)
    p.grad = torch.zeros(7)
    optimizer = BERTAdam([p], 2e-5)
    for _ in range(100):
        optimizer.step()
    lost = (1 / 3 - p.detach().double()) / (100 * 2e-5 * 0.01 / 3)
    assert (lost - 1).abs().max() < 0.25  # float32 holds each decay, 6.7e-8, to two bits


def test_parameter_without_gradient_is_left_alone():
    used, unused = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = BERTAdam([used, unused], 0.1)
    used.grad = torch.ones(3)
    optimizer.step()
    assert (used < 1).all() and (unused == 1).all() and not optimizer.state[unused]
    model = tiny(BertForQuestionAnswering)
    pooler = copy.deepcopy(model.bert.pooler)
    optimizer = create_optimizer(model, 0.1, 10, 0)
    tiny_loss(model).backward()
    optimizer.step()
    assert torch.equal(pooler.dense.weight, model.bert.pooler.dense.weight)


def test_first_step_of_a_warm_up_only_moves_the_moments():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = BERTAdam([p], 0.1, 0.5, 10)
    p.grad = torch.ones(3)
    optimizer.step()
    assert (p == 1).all() and optimizer.state[p]["adam_m"].all()


@pytest.mark.numeric
def test_without_clipping():
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    for p, limit in zip(params, (-1, 1.0)):
        p.grad = torch.full((3,), 10.0)
        optimizer = BERTAdam([p], 0.1, max_grad_norm=limit)
        norm = optimizer.step()
        assert norm.item() == pytest.approx(300**0.5)
        wanted = 1.0 if limit == -1 else 1 / 300**0.5
        assert optimizer.state[p]["adam_m"][0].item() == pytest.approx(wanted)


def test_state_survives_saving():
    def trained(steps, saved=None):
        p = torch.nn.Parameter(torch.ones(5))
        optimizer = BERTAdam([p], 0.1, 0.3, 10)
        if saved:
            p.data, state = saved
            optimizer.load_state_dict(state)
        for step in range(*steps):
            p.grad = torch.arange(5.0) - step
            optimizer.step()
        return p.detach().clone(), copy.deepcopy(optimizer.state_dict())

    whole, halves = trained((0, 8)), trained((4, 8), trained((0, 4)))
    assert torch.equal(whole[0], halves[0])
    assert whole[1]["param_groups"] == halves[1]["param_groups"]


# Groups, norm, accumulation


def test_decay_groups_by_count():
    model = tiny(BertForPreTraining)
    decaying, others = (group["params"] for group in decay_groups(model))
    layers = 3
    assert len(decaying) == 3 + 6 * layers + 1 + 1 + 1
    assert len(others) == 2 + 10 * layers + 1 + 4 + 1
    assert len(decaying) + len(others) == len(list(model.parameters()))
    rates = [group["weight_decay_rate"] for group in create_optimizer(model, 1, 9, 0).param_groups]
    assert rates == [0.01, 0.0]
    answering = decay_groups(tiny(BertForQuestionAnswering))
    assert [len(group["params"]) for group in answering] == [
        3 + 6 * layers + 1,
        2 + 10 * layers + 1,
    ]


def reference_norm(model):
    """The norm over the rows of single look-ups, by a hook on the look-up of a plain model."""
    words = model.bert.embeddings.word_embeddings
    rows = []
    hook = words.register_forward_hook(lambda _, __, out: (out.retain_grad(), rows.append(out))[0])
    model.decoder = torch.nn.Parameter(words.weight.detach().clone())
    words.decoder_weight = lambda: model.decoder
    tiny_loss(model).backward()
    hook.remove()
    grads = [p.grad for p in model.parameters() if p.grad is not None and p is not words.weight]
    return torch.stack([grad.square().sum() for grad in [*grads, rows[0].grad]]).sum().sqrt()


@pytest.mark.numeric
@pytest.mark.parametrize("head", [BertForPreTraining, BertForSequenceClassification])
@pytest.mark.parametrize("bf16", [False, True])
def test_norm_counts_every_looked_up_token(head, bf16):
    model = tiny(head, initializer_range=0.5)
    plain = tiny(head, initializer_range=0.5)
    optimizer = create_optimizer(model, 1e-3, 10, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = tiny_loss(model)
        loss.backward()
        wanted = reference_norm(plain).item()
    norm = optimizer.global_norm().item()
    assert norm == pytest.approx(wanted, rel=BF16_ROUNDING if bf16 else 256 * ROUNDING)
    table = model.bert.embeddings.word_embeddings
    # The two differ by more than the tolerance (of squares: twice), so that the test can fail.
    assert abs(table.weight.grad.square().sum() / table.sources.squared - 1) > 4e-3


@pytest.mark.numeric
def test_tied_decoder_trains_the_table():
    """The table's gradient is that of any module: look-ups and decoder, before and after a step."""
    model, plain = tiny(BertForPreTraining), tiny(BertForPreTraining)
    optimizer = create_optimizer(model, 1e-3, 10, 0)
    for each in (model, plain):
        tiny_loss(each).backward()
    table = model.bert.embeddings.word_embeddings
    both = plain.bert.embeddings.word_embeddings.weight.grad
    assert torch.equal(table.weight.grad, both)
    before = table.weight.detach().clone()
    norm = optimizer.step()  # which clips the gradients in place, as PyTorch's functions do
    assert roundings(table.weight.grad, both / norm.clamp(min=1)) < 4
    assert not torch.equal(table.weight, before)


@pytest.mark.numeric
def test_memory_of_the_last_gradient_is_used_again_where_asked_for():
    model, fresh = (tiny(BertForSequenceClassification) for _ in range(2))
    optimizer, words = create_optimizer(model, 0.0, 10, 0), model.bert.embeddings.word_embeddings
    tiny_loss(fresh).backward()
    wanted = fresh.bert.embeddings.word_embeddings.weight.grad
    tiny_loss(model).backward()
    memory = words.weight.grad.data_ptr()
    optimizer.zero_grad(reuse_memory=True)
    tiny_loss(model).backward()
    assert words.weight.grad.data_ptr() == memory and torch.equal(words.weight.grad, wanted)

    kept = words.weight.grad
    optimizer.zero_grad()
    tiny_loss(model).backward()
    assert words.weight.grad.data_ptr() != memory and torch.equal(kept, wanted)


@pytest.mark.numeric
@pytest.mark.parametrize("bf16", [False, True])
def test_two_micro_batches_are_one_batch(bf16):
    whole = tiny(BertForSequenceClassification, initializer_range=0.5)
    halves = copy.deepcopy(whole)
    *inputs, labels = *tiny_inputs(), torch.arange(BATCH) % 2
    norms, grads = [], []
    for model, parts in ((whole, [slice(0, 13)]), (halves, [slice(0, 5), slice(5, 13)])):
        optimizer = create_optimizer(model, 1e-3, 10, 0)
        for part in parts:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss, _ = model(*(values[part] for values in inputs), labels[part])
            (loss * len(labels[part]) / BATCH).backward()
        grads.append({name: grad.clone() for name, grad in gradients(model).items()})
        norms.append(optimizer.step().item())
    # In bfloat16 a part has other numbers of rows, and so may have other kernels, as in float32.
    assert norms[1] == pytest.approx(norms[0], rel=BF16_ROUNDING if bf16 else 256 * ROUNDING)
    if not bf16:  # Not the weights: Adam makes steps of noise where a gradient is 0.
        assert_same_gradients(*grads)


def test_float64_parameters_are_updated_in_float64():
    torch.manual_seed(0)
    weights = [torch.randn(13, 7, dtype=torch.float64)]
    p = torch.nn.Parameter(weights[0].clone())
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    optimizer = BERTAdam([p], 1e-2)
    for _ in range(5):
        p.grad = torch.randn_like(p)
        plain_step(weights, [p.grad.clone()], moments, float(np.float32(1e-2)), (0.01,))
        optimizer.step()
    assert (p.detach() - weights[0]).abs().max() < 1e-9
    assert optimizer.state[p]["adam_m"].dtype == torch.float64


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_parameters_are_refused(name):
    model = tiny(BertForSequenceClassification).to(getattr(torch, name))
    optimizer = create_optimizer(model, 1e-3, 10, 0)
    tiny_loss(model).backward()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"cannot update parameters in {name}, .* torch.autocast"):
        optimizer.step()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


# Schedules


@pytest.mark.numeric
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules(schedule):
    p, rates = torch.nn.Parameter(torch.ones(1)), []
    p.grad = torch.ones(1)
    optimizer = BERTAdam([p], 2.0, 0.2, 20, schedule)
    for _ in range(22):
        rates.append(optimizer.get_lr())
        optimizer.step()
    assert all(type(rate) is np.float32 for rate in rates)
    after = {
        "warmup_linear": [2 * (1 - step / 20) for step in range(4, 20)],  # 1.5, then 1.6
        "warmup_constant": [2.0] * 16,
        "warmup_cosine": [1 + math.cos(math.pi * step / 20) for step in range(4, 20)],
    }[schedule]
    np.testing.assert_allclose(rates[:20], [0, 0.5, 1, 1.5, *after], atol=1e-6)
    end = 2 if schedule == "warmup_constant" else 0  # and it stays there
    np.testing.assert_allclose(rates[20:], [end, end], atol=1e-6)


def test_constant_rate_and_no_warm_up():
    p = torch.nn.Parameter(torch.ones(1))
    assert BERTAdam([p], 0.25).get_lr() == np.float32(0.25)
    assert BERTAdam([p], 0.25, t_total=10).get_lr() == np.float32(0.25)
    assert create_optimizer(tiny(), 0.25, 10, 0).get_lr() == np.float32(0.25)
    assert create_optimizer(tiny(), 0.25, 10, 2).get_lr() == 0


@pytest.mark.parametrize(
    "change, words",
    [
        ({"schedule": "warmup_square"}, "warmup_square.*warmup_cosine"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"b1": 1.0}, "b1 is 1.0"),
        ({"b2": -0.1}, "b2 is -0.1"),
        ({"e": -1e-6}, "e is -1e-06"),
        ({"warmup": 1.5}, "warmup is 1.5"),
    ],
)
def test_settings_out_of_range(change, words):
    with pytest.raises(ValueError, match=words):
        BERTAdam([torch.nn.Parameter(torch.ones(1))], **{"lr": 1e-3, **change})


def test_no_method_loads_the_compiler():
    """PyTorch's own import torch._dynamo, which takes as long as PyTorch itself."""
    code = """if True:
        import sys, torch
        from optimization import BERTAdam

        parameter = torch.zeros(3, requires_grad=True)
        optimizer = BERTAdam([parameter], lr=1e-3)
        (parameter - 1).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        optimizer.load_state_dict(optimizer.state_dict())
        print("torch._dynamo" in sys.modules, parameter.grad, parameter.min().item() > 0)
    """
    assert run("-c", code).ok().out == "False None True\n"


def test_a_number_that_has_not_arrived_from_the_gpu_warns_of_nothing(monkeypatch):
    """The host may be ahead: what it reads of the step before may not have been copied yet."""
    ones, sent = torch.ones, []

    class Pinned:
        """A scalar on the host that a copy reaches later."""

        def __init__(self, size, pin_memory):
            self.value = ones(size)

        def copy_(self, number, non_blocking):
            sent.append((self.value, number.value))

        def __bool__(self):
            return bool(self.value)

    monkeypatch.setattr(torch, "ones", Pinned)
    on_gpu = SimpleNamespace(device=torch.device("cuda"), value=torch.zeros(()))
    table = SimpleNamespace(sources=SimpleNamespace(known=on_gpu))
    optimizer = BERTAdam([torch.nn.Parameter(torch.zeros(1))], lr=1e-3, word_tables=[table])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer._warn_if_dense()
        optimizer._warn_if_dense()
    for value, number in sent:
        value.copy_(number)
    with pytest.warns(UserWarning, match="by the plain norm"):
        optimizer._warn_if_dense()
