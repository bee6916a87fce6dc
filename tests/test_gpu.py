"""On a GPU: the CPU's numbers, half precision, runs that go on, no waiting of the host in a step.

conftest.py hides GPUs from the tests, so that they run alike everywhere; these ask for one:

    CUDA_VISIBLE_DEVICES=0 python -m pytest tests/test_gpu.py
"""

import copy
import gc
import os
import re
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from graph_helpers import STEPS, TASKS, TaskRun, assert_same_bits, refuse
from helpers import SAMPLES, assert_same_weights, losses, model_flags, run
from model_helpers import HEADS, golden, tiny, tiny_inputs, tiny_loss, worst

import checkpoint
import modeling
import run_classifier
from cuda_graphs import Capture
from data import model_inputs, packed_inputs
from modeling import BertConfig, BertForQuestionAnswering
from optimization import BERTAdam, create_optimizer
from padding import Unpadding
from training import AutocastForward, Runtime

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU, named in $CUDA_VISIBLE_DEVICES"
)
# Read when CUDA starts: without it its matrix products are not the same from run to run.
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"


@pytest.mark.parametrize("holes", [False, True])
def test_hidden_states_are_the_cpus(holes):
    model, inputs = tiny().eval(), tiny_inputs()
    if holes:
        inputs[2][0], inputs[2][1, 1] = 0, 0
    with torch.no_grad():
        layers, pooled = model(*inputs)
        on_gpu, pooled_on_gpu = copy.deepcopy(model).to(DEVICE)(*inputs)
    # A row that attends nothing is as exact as its scores less 10000 are.
    tolerance = 2e-3 if holes else 2e-5
    for ours, wanted in zip([*on_gpu, pooled_on_gpu], [*layers, pooled]):
        assert ours.device.type == DEVICE and worst(ours.cpu(), wanted.numpy()) < tolerance


def test_hidden_states_are_googles(pretrained, goldens):
    truth, inputs = golden(goldens, "fwd_mrpc_last")
    layers, pooled = copy.deepcopy(pretrained.bert).to(DEVICE)(*inputs)
    tokens = inputs[2].bool()
    wanted = torch.from_numpy(truth["sequence_output"])[tokens]
    assert worst(layers[-1].cpu()[tokens], wanted.numpy()) < 2e-5
    assert worst(pooled.cpu(), truth["pooled_output"]) < 2e-5


def rows_of(lengths):
    """Features of these lengths."""
    return [
        SimpleNamespace(input_ids=np.arange(1, n + 1), segment_ids=np.arange(1, n + 1) % 2)
        for n in lengths
    ]


def assert_flash_attention_is_plain(unpadding, dtype):
    qkv = torch.randn(len(unpadding.indices), 3 * 4 * 64, device=DEVICE).to(dtype).requires_grad_()
    read = unpadding.indices < unpadding.shape[0] * unpadding.shape[1]  # all but spare rows
    probe = (torch.randn(len(qkv), 4 * 64, device=DEVICE) * read[:, None]).to(dtype)
    found = []
    for function in (modeling.flash_attention, modeling.plain_packed_attention):
        context = function(qkv, unpadding, 4, 0.0)
        found.append((context, *torch.autograd.grad(context, qkv, probe)))
    for ours, plain in zip(*found):
        assert ours.isfinite().all()
        limit = 64 * torch.finfo(dtype).eps * plain.abs().max()
        assert (ours - plain)[read].abs().max() < max(limit, 2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_flash_attention_equals_the_plain_formula(dtype):
    assert modeling.refusal(DEVICE, dtype, 64, False) == ""
    mask = (torch.arange(512) < torch.tensor([512, 1, 77, 128, 300])[:, None]).long()
    assert_flash_attention_is_plain(Unpadding(mask, device=torch.device(DEVICE)), dtype)


@pytest.mark.parametrize("lengths", [(3, 7, 1), (60, 68), (300, 84)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_flash_attention_in_a_bucket(dtype, lengths):
    """Fewer rows than the longest sequence may have; a spare sequence that is long, or empty."""
    (packed,) = packed_inputs(rows_of(lengths))
    packed = packed.in_bucket(width=384, multiple=128).to(torch.device(DEVICE, 0))
    assert_flash_attention_is_plain(packed, dtype)


def attention_for_training(qkv, unpadding, dropout_prob):
    """By the path that a model takes: in float32 the padded one, where the kernel drops wrongly."""
    unpadding.flash = not modeling.refusal(DEVICE, qkv.dtype, 64, True)
    assert unpadding.flash or qkv.dtype == torch.float32
    return modeling.attention(qkv, unpadding, 4, dropout_prob)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attention_drops_at_its_rate_and_anew_each_time(dtype):
    unpadding = Unpadding(torch.ones(8, 128, dtype=torch.long), device=torch.device(DEVICE))
    qkv = torch.zeros(1024, 3 * 4 * 64, device=DEVICE)  # equal scores
    qkv[:, 2 * 4 * 64 :] = 1  # and values of 1: each output is the share that stays, scaled
    one, other = (attention_for_training(qkv.to(dtype), unpadding, 0.1).float() for _ in range(2))
    assert abs(one.mean() - 1) < 0.01 and not torch.equal(one, other)
    # Of 128 keys: a standard deviation of √(0.1 / 0.9 / 128).
    assert abs(one[:, ::64].std() / (0.1 / 0.9 / 128) ** 0.5 - 1) < 0.1
    # No two sequences and no two heads drop the same.
    shares = one[:, ::64].unflatten(0, (8, 128)).transpose(1, 2).flatten(0, 1)  # [8*4, 128]
    assert len(shares.unique(dim=0)) == len(shares)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attention_drops_alike_forward_and_backward(dtype):
    """The output is then linear in the values, with this gradient."""
    mask = (torch.arange(300) < torch.tensor([300, 1, 77, 128])[:, None]).long()
    unpadding = Unpadding(mask, device=torch.device(DEVICE))
    qkv = torch.randn(len(unpadding.indices), 3 * 4 * 64, device=DEVICE).to(dtype).requires_grad_()
    context = attention_for_training(qkv, unpadding, 0.5)
    probe = torch.randn_like(context)
    (grad,) = torch.autograd.grad(context, qkv, probe)
    values, grads = (x.detach()[:, 2 * 4 * 64 :].double() for x in (qkv, grad))
    products = context.detach().double() * probe.double()
    error = (products.sum() - (values * grads).sum()).abs() / products.square().sum().sqrt()
    assert error < (1e-3 if dtype == torch.float32 else 0.05)


def train_step(model, optimizer):
    loss = tiny_loss(model)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def train_steps(model, steps=20):
    """Losses of some steps on the same batch."""
    optimizer = create_optimizer(model.train(), 1e-3, steps, 2)
    return torch.stack([train_step(model, optimizer) for _ in range(steps)]).cpu()


@pytest.mark.parametrize("head", HEADS)
def test_training_follows_the_cpu(head):
    model = tiny(head)
    on_gpu = copy.deepcopy(model).to(DEVICE)
    expected = train_steps(model)
    assert expected[-1] < expected[0]
    assert worst(train_steps(on_gpu), expected.numpy()) < 2e-5
    for ours, wanted in zip(on_gpu.parameters(), model.parameters()):
        assert worst(ours.detach().cpu(), wanted.detach().numpy()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head", HEADS)
def test_a_step_does_not_wait_for_the_device(head, dtype):
    model = tiny(head, dropout=0.1).to(DEVICE).train()
    optimizer = create_optimizer(model, 1e-3, 10, 1)
    with torch.autocast(DEVICE, dtype, enabled=dtype is not torch.float32):
        train_step(model, optimizer)  # What is set up once may wait.
        torch.cuda.set_sync_debug_mode("error")
        try:
            train_step(model, optimizer)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_replicas_in_threads_compute_in_the_runs_precision(dtype):
    """By DataParallel's own threads, with two copies of a model on one GPU."""
    runtime = Runtime(torch.device(DEVICE, 0), dtype=dtype)
    model = tiny(BertForQuestionAnswering, initializer_range=0.3).to(runtime.device)
    inputs = [tensor.to(runtime.device) for tensor in tiny_inputs()]
    seen = []
    copies = [AutocastForward(copy.deepcopy(model), runtime) for _ in range(2)]
    for each in copies:
        each.module.bert.encoder.layer[0].intermediate.dense.register_forward_hook(
            lambda module, args, output: seen.append(output.dtype)
        )
    with runtime.autocast():
        wanted = model(*inputs)
        outputs = torch.nn.parallel.parallel_apply(copies, [inputs] * 2, devices=[0, 0])
    assert seen == [dtype] * 2
    tokens = inputs[2].bool()
    for each, found in zip(copies, outputs):
        for ours, its in zip(found, wanted):
            assert torch.allclose(ours[tokens], its[tokens], rtol=0.01, atol=0.01)
        found[0][tokens].sum().backward()
        assert each.module.bert.embeddings.word_embeddings.weight.grad.isfinite().all()


# --- steps as CUDA graphs ------------------------------------------------------------------------


class Run(TaskRun):
    """Steps of a task on the GPU."""

    def __init__(self, task="classification", **options):
        super().__init__(task, capture=Capture, device="cuda:0", **options)


@contextmanager
def no_waits():
    """Fails where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_packed_inputs_are_the_padded_ones():
    run = Run(graphs=False)
    rows = rows_of((3, 7, 1))
    with torch.no_grad():
        ours, pooled = run.model.bert.eval()(*packed_inputs(rows))
        wanted, its_pooled = run.model.bert(*model_inputs(rows))
    assert worst(pooled.cpu(), its_pooled.cpu().numpy()) < 2e-5
    for layer, its_layer in zip(ours, wanted):
        assert worst(layer.cpu(), its_layer.cpu().numpy()) < 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("task", TASKS)
def test_a_graph_is_the_eager_step(task, dtype):
    ours, eager = (Run(task, dropout=0.0, dtype=dtype, graphs=graphs) for graphs in (True, False))
    found, wanted = ours.train(range(STEPS)), eager.train(range(STEPS))
    assert len(ours.step.graphs) > 2 and not ours.lines
    assert found == pytest.approx(wanted, rel=1e-4 if dtype == torch.float32 else 0.05)
    if dtype == torch.float32:
        for value, its_value in zip(ours.model.parameters(), eager.model.parameters()):
            # 8 steps of up to 1e-2; a small v makes a large step of a small difference
            assert worst(value.detach().cpu(), its_value.detach().cpu().numpy()) < 2e-3


@pytest.mark.parametrize("stop", (1, 3, STEPS - 1))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bucket_may_be_captured_at_any_step(stop, dtype, deterministic):
    """With dropout: a run that was resumed captures each bucket later, and has the same bits."""
    whole, first = Run(dtype=dtype), Run(dtype=dtype)
    expected = whole.train(range(STEPS))
    found = first.train(range(stop))
    second = Run(dtype=dtype, like=first)
    assert found + second.train(range(stop, STEPS)) == expected
    assert_same_bits(whole, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_in_a_graph_has_the_eager_steps_distribution(dtype):
    samples = []
    for graphs in (True, False):
        run = Run(dropout=0.3, graphs=graphs, dtype=dtype)
        for group in run.optimizer.param_groups:
            group.update(lr=0.0, warmup=-1)
        _, prepared = run.prepared(0)
        seen = [run.step([seed], prepared) for seed in range(400)]
        samples.append(torch.stack(seen).cpu().numpy())
        again = run.step([399], prepared).item()
        assert again == pytest.approx(samples[-1][-1], rel=1e-5)
        assert len(set(samples[-1].tolist())) > 300
    graphs, eager = samples
    error = np.hypot(graphs.std(), eager.std()) / 400**0.5
    assert abs(graphs.mean() - eager.mean()) < 4 * error
    assert 0.8 < graphs.std() / eager.std() < 1.25


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_a_step_from_a_prepared_batch_does_not_wait(task, graphs):
    run = Run(task, graphs=graphs, dtype=torch.bfloat16)
    run.train([0, 0])  # What is set up once may wait.
    step = run.prepared(0)
    with no_waits():
        run.step(*step)
    assert not run.lines


def test_a_step_that_cannot_be_captured_runs_eagerly(monkeypatch):
    """A capture that waits for the device fails; dropout, streams and memory work afterwards."""
    run, eager = Run(), Run(graphs=False)
    apply = BERTAdam.apply

    def wait(self, *rest):
        if torch.cuda.is_current_stream_capturing():
            torch.ones((), device=DEVICE).item()
        return apply(self, *rest)

    stream = torch.cuda.current_stream()
    capture = run.step.capture
    with monkeypatch.context() as patch:
        patch.setattr(BERTAdam, "apply", wait)
        run.train([0])
    assert len(run.lines) == 1 and "a step cannot be captured" in run.lines[0]
    assert torch.cuda.current_stream() == stream
    losses_of = [each.train(range(1, STEPS)) for each in (run, eager)]
    assert np.isfinite(losses_of).all()
    gc.collect()
    torch.cuda.empty_cache()
    pools = {segment["segment_pool_id"] for segment in torch.cuda.memory_snapshot()}
    assert capture.pool not in pools
    # Another error in Python, after which the capture itself ends well.
    run = Run()
    with monkeypatch.context() as patch:
        patch.setattr(BERTAdam, "apply", refuse)
        run.train([0])
    assert "operation not permitted" in run.lines[0]
    assert np.isfinite(run.train(range(1, STEPS))).all()


def test_weight_decay_is_exact():
    """As on a CPU: what is left of a weight whose gradient is 0."""
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 1001, device=DEVICE))
    start = weight.detach().cpu().double()
    groups = [{"params": [weight], "weight_decay_rate": 0.01}]
    for rates in ([2e-5], [torch.tensor(2e-5, device=DEVICE)]):
        before = weight.detach().cpu().double()
        weight.grad = torch.zeros_like(weight)
        BERTAdam(groups, 2e-5).apply(rates)
        wanted = before * (1 - 2e-5 * 0.01)
        assert (weight.detach().cpu().double() - wanted).abs().max() < 2**-24
    assert not torch.equal(weight.detach().cpu().double(), start)


@pytest.mark.parametrize("measure", ["allocated", "reserved"])
def test_graphs_take_little_more_memory(measure, monkeypatch):
    """Of a BERT of 12 layers: at most 1.3 times the eager step's, after all buckets are captured.

    What PyTorch had allocated at most, and what it has reserved at the end.
    """
    config = BertConfig(vocab_size=5000, num_hidden_layers=12, type_vocab_size=3)
    random = np.random.default_rng(0)

    def rows():
        lengths = random.integers(20, 128, 32)
        return [
            SimpleNamespace(input_ids=ids, segment_ids=ids, label_id=1, weight=1.0)
            for ids in (np.ones(length, int) for length in lengths)
        ]

    used = {}
    for graphs in (False, True):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run = Run(graphs=graphs, dtype=torch.bfloat16, config=config, rows=rows, width=128)
        for number in range(30):
            run.step(*run.prepared(number))
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        used[graphs] = peak if measure == "allocated" else torch.cuda.memory_reserved() - before
        del run
    assert used[True] < 1.3 * used[False]


# --- whole runs ----------------------------------------------------------------------------------


def flags(model, *more):
    return [
        "--task_name=MRPC", f"--data_dir={SAMPLES / 'MRPC'}", *model_flags(model), "--do_train",
        "--max_seq_length=24", "--train_batch_size=8", "--learning_rate=1e-3", *more,
    ]  # fmt: skip


def last_losses(folder):
    """Mean loss of the run's last third."""
    seen = losses(folder)
    return np.mean(seen[-len(seen) // 3 :])


@pytest.mark.parametrize("half", ["--bf16", "--fp16"])
def test_half_precision_learns_as_float32(tiny_model, tmp_path, call, half):
    for name, more in (("full", []), ("half", [half])):
        outcome = call(run_classifier, *flags(tiny_model, *more, f"--output_dir={tmp_path / name}"))
        assert not outcome.ok().err.count("Traceback")
    assert abs(last_losses(tmp_path / "half") - last_losses(tmp_path / "full")) < 0.05
    if half == "--fp16":
        assert re.search(r"float16: \d+ steps skipped, scale \d+", outcome.out)


def test_a_resumed_run_has_the_same_bits(tiny_model, tmp_path, call):
    command = flags(tiny_model, "--num_train_epochs=0.5", "--save_checkpoints_steps=4")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    torch.use_deterministic_algorithms(True)
    try:
        for folder in (whole, resumed):
            call(run_classifier, *command, f"--output_dir={folder}").ok()
        assert_same_weights(whole, resumed)
        newest = next(iter(checkpoint.checkpoints(resumed).values()))
        os.remove(newest)
        (resumed / "pytorch_model.bin").unlink()
        again = call(run_classifier, *command, f"--output_dir={resumed}").ok()
    finally:
        torch.use_deterministic_algorithms(False)
    assert "resuming from" in again.out
    assert_same_weights(whole, resumed)


@pytest.mark.parametrize("how", ["one rank", "--compile"])
def test_other_ways_to_run_train_alike(tiny_model_without_dropout, tmp_path, how):
    command = ["run_classifier.py", *flags(tiny_model_without_dropout, "--num_train_epochs=0.5")]
    run(*command, f"--output_dir={tmp_path / 'plain'}", timeout=300).ok()
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=1"] if how == "one rank" else []
    more = [] if launcher else [how]
    outcome = run(*launcher, *command, *more, f"--output_dir={tmp_path / 'other'}", timeout=600)
    assert "without CUDA graphs" not in outcome.ok().out
    assert (how == "--compile") == ("--compile: the first step took" in outcome.out)
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)
