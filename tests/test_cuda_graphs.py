"""cuda_graphs.py on a CPU: everything except the graph itself, for which a recorder stands.

The recorder calls the captured step again at each replay, so what a step reads from static memory,
what a capture leaves behind, and the order of the calls are those of a GPU. The graphs themselves
are tested in test_gpu.py.
"""

import itertools
import re
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from graph_helpers import MULTIPLE, STEPS, TASKS, TaskRun, assert_same_bits, features, refuse
from helpers import SAMPLES, assert_same_weights, losses, model_flags
from model_helpers import BATCH, worst
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import checkpoint
import cuda_graphs
import modeling
import run_classifier
import training
from modeling import BertModel
from optimization import BERTAdam
from padding import BatchBuffer, PackedInputs, map_batch
from training import Runtime, StepTotals

CPU = torch.device("cpu")


class Recorder:
    """Stands for cuda_graphs.Capture; `calls` says what happened in which order."""

    def __init__(self, device=CPU, refuse_at=None):
        self.calls = []
        self.captures = 0
        self.refuse_at = refuse_at  # the number of the capture that fails

    def new_pool(self):
        self.calls.append("pool")

    def free_pool(self):
        self.calls.append("free pool")

    def __call__(self, warm_up, step):
        number = self.captures
        self.captures += 1
        self.calls += ["warm up", "capture"]
        warm_up()
        if number == self.refuse_at:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(BERTAdam, "apply", refuse)
                step()  # whose gradients stay

        def replay():
            self.calls.append(f"replay {number}")
            return step()

        return replay


class Run(TaskRun):
    """Steps of a task with a Recorder."""

    def __init__(self, task="classification", **options):
        super().__init__(task, capture=Recorder, **options)

    @property
    def recorder(self):
        return self.step.capture


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "BUCKET", MULTIPLE)


# --- the numbers ---------------------------------------------------------------------------------


@pytest.mark.numeric
@pytest.mark.parametrize("task", TASKS)
def test_a_packed_step_in_buffers_is_the_plain_step(task):
    """Against the public interface, padded and without buckets, with the optimizer's own rates."""
    ours = Run(task, dropout=0.0)
    plain = Run(task, graphs=False, dropout=0.0, padded=True)
    assert ours.train(range(STEPS)) == pytest.approx(plain.train(range(STEPS)), rel=2e-5)
    assert len(ours.step.graphs) > 2 and not ours.lines  # several buckets, none of them eager
    for (name, value), wanted in zip(
        ours.model.state_dict().items(), plain.model.state_dict().values()
    ):
        # 8 steps of up to 1e-2; a small v makes a large step of a small difference
        assert worst(value, wanted.numpy()) < 1e-3, name
    groups = (run.optimizer.param_groups for run in (ours, plain))
    assert all(a["step"] == b["step"] == STEPS for a, b in zip(*groups))
    assert ours.optimizer.get_lr() == plain.optimizer.get_lr()


@pytest.mark.parametrize("task", ("classification", "question answering"))
def test_a_step_in_buffers_may_pad_for_attention(task, monkeypatch):
    """As on a GPU in float32 with dropout."""
    plain = Run(task, graphs=False, dropout=0.0, padded=True)
    wanted = plain.train(range(3))
    monkeypatch.setattr(modeling, "attention", modeling.padded_attention)
    ours = Run(task, dropout=0.0)
    assert ours.train(range(3)) == pytest.approx(wanted, rel=2e-5) and not ours.lines
    for value, its_value in zip(ours.model.parameters(), plain.model.parameters()):
        assert worst(value, its_value.detach().numpy()) < 1e-3


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("stop", (1, 3, STEPS - 1))
def test_a_resumed_run_has_the_same_bits(task, stop):
    """Each bucket is then captured at another step, with other steps before it."""
    whole, first = Run(task), Run(task)
    expected = whole.train(range(STEPS))
    found = first.train(range(stop))
    second = Run(task, like=first)
    found += second.train(range(stop, STEPS))
    assert found == expected
    assert_same_bits(whole, second)


def test_a_capture_leaves_no_trace():
    """In weights, moments, gradients, notes of the norm, and the schedule."""
    run, untouched = Run(), Run()
    run.train([0])
    untouched.train([0])
    seeds, prepared = run.prepared(1)
    state = torch.get_rng_state()
    run.step.make_graph(prepared)
    assert_same_bits(run, untouched)
    assert all(parameter.grad is None for parameter in run.model.parameters())
    # The generator moves, but each step seeds it.
    assert not torch.equal(torch.get_rng_state(), state)
    assert run.train([2]) == untouched.train([2])
    assert_same_bits(run, untouched)


def test_dropout_depends_on_the_seed_alone():
    run, again, other = Run(), Run(), Run()
    (loss,) = run.train([0])
    torch.manual_seed(5)
    assert again.train([0]) == [loss]
    assert_same_bits(run, again)
    _, prepared = other.prepared(0)
    assert other.step([7], prepared).item() != loss


# --- captures ------------------------------------------------------------------------------------


def test_a_bucket_is_captured_once_and_a_larger_one_starts_a_new_pool():
    run = Run()
    by_rows = {}
    for number in range(100):
        prepared = run.prepared(number)[1]
        if prepared.packed[0].seqlens[-1]:  # spare rows
            by_rows[len(prepared.packed[0].indices)] = number
    small, middle, large = (by_rows[rows] for rows in (48, 64, 80))
    run.train([small])
    capture = ["warm up", "capture"]
    # The first is 64 rows: 48 with headroom, rounded up.
    assert run.recorder.calls == ["pool", *capture, *capture, "replay 1"]
    assert run.step.most_rows == 64
    run.recorder.calls.clear()
    run.train([small, middle, small, middle])
    assert run.recorder.calls == ["replay 1", *capture, "replay 2", "replay 1", "replay 2"]
    run.recorder.calls.clear()
    run.train([large])
    assert run.recorder.calls == ["pool", *capture, *capture, "replay 4"]
    assert run.step.most_rows == 112 and len(run.step.graphs) == 2  # the small ones are gone
    run.train([small])
    assert run.recorder.calls[-3:] == [*capture, "replay 5"]


def test_no_headroom_beyond_what_a_batch_can_hold():
    run = Run()
    rows = features(0)
    for row in rows:
        row.input_ids = row.segment_ids = np.ones(11, int)
    batches = map_batch(
        lambda packed: packed.in_bucket(11, MULTIPLE), (run.make_batch(rows),), PackedInputs
    )
    run.step([1], BatchBuffer((batches, StepTotals(BATCH)), CPU))
    assert run.recorder.calls == ["pool", "warm up", "capture", "replay 0"]
    assert run.step.most_rows == 144  # 13 × 11 = 143


@pytest.mark.parametrize("refuse_at", (0, 1, 2))
def test_a_step_that_cannot_be_captured_runs_eagerly(refuse_at):
    """As if there had been no graphs; the reason is said once."""
    run, eager = Run(), Run()
    run.recorder.refuse_at = refuse_at
    eager.step.give_up("a test")
    assert run.train(range(STEPS)) == eager.train(range(STEPS))
    assert_same_bits(run, eager)
    assert run.lines == [
        "training without CUDA graphs, which is slower: a step cannot be captured: "
        "RuntimeError: operation not permitted when stream is capturing"
    ]
    assert not run.step.graphs and run.recorder is None


def test_padded_batches_run_eagerly():
    run = Run()
    prepared = run.prepared(0)[1]
    (((packed,), *targets),), totals = prepared.batch
    run.step([1], BatchBuffer((((packed.padded(), *targets),), totals), CPU))
    assert run.lines == ["training without CUDA graphs, which is slower: the batches are padded"]


def test_a_mistake_in_a_batch_is_reported_as_without_graphs():
    run = Run()
    prepared = run.prepared(0)[1]
    wrong = map_batch(lambda t: t[:-1] if t.shape == (BATCH,) else t, prepared.batch)
    with pytest.raises(ValueError, match=r"labels: the shape is \[12\]"):
        run.step([1], BatchBuffer(wrong, CPU))


# --- no waiting ----------------------------------------------------------------------------------


class OnDevice(TorchDispatchMode):
    """Fails where an operation reads or makes a tensor on the host."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, torch.Tensor) and value.device.type == "cpu":
                raise RuntimeError(f"{operation} has a tensor on the host")
        return result


class WatchedRecorder(Recorder):
    """A Recorder whose steps keep to the device."""

    def __call__(self, warm_up, step):
        def watched_step():
            with OnDevice():
                return step()

        return super().__call__(warm_up, watched_step)


def half_linear(x, weight, bias):
    """As F.linear under autocast."""
    x, weight, bias = (tensor.bfloat16() for tensor in (x, weight, bias))
    return torch.addmm(bias, x, weight.t())


def fused_adamw(*lists, lr, **more):
    """The kernel does not exist for `meta`: only what it asks of its arguments."""
    params, grads, m, v, _, steps = lists
    assert len(params) == len(steps) > 0
    for same in zip(params, grads, m, v):
        assert len({(x.dtype, x.shape, x.stride()) for x in same}) == 1
    for scalar in (*steps, more["grad_scale"], *([lr] if isinstance(lr, torch.Tensor) else [])):
        assert scalar.dtype == torch.float32 and scalar.shape == () and scalar.device.type == "meta"


@pytest.mark.parametrize(
    "task, path",
    [*((task, "float32 kernel") for task in TASKS),
     ("classification", "padded"), ("pre-training", "half kernel")],
)  # fmt: skip
def test_a_step_needs_no_value_from_the_device(task, path, monkeypatch):
    """With tensors on `meta`, which have no values, in place of a GPU's.

    They raise where the host would wait for a value, and a captured step touches no tensor on the
    host at all. The kernels' arguments are checked by PyTorch's own functions for shapes.
    """
    autocast = torch.autocast  # which does not know `meta`
    monkeypatch.setattr(
        torch, "autocast", lambda kind, *args, **more: autocast("cpu", *args, **more)
    )
    monkeypatch.setattr(
        BertModel, "uses_flash_attention", lambda self, unpadding, kind: path != "padded"
    )
    if path == "half kernel":
        monkeypatch.setattr(torch.nn.functional, "linear", half_linear)
    monkeypatch.setattr(torch, "_fused_adamw_", fused_adamw)
    monkeypatch.setattr(BERTAdam, "_warn_if_dense", lambda self: None)
    for graphs in (True, False):
        run = TaskRun(task, capture=WatchedRecorder, device="meta", graphs=graphs)
        del run.model.bert.encoder.layer[2:]  # `meta` is slow
        loss = run.step(*run.prepared(0))
        assert loss.device.type == "meta" and loss.shape == () and not run.lines


@pytest.fixture
def cuda(monkeypatch):
    """The calls that Capture makes of torch.cuda, in order; the arguments are PyTorch 2.11's."""
    calls = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            calls.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def stream(side):
        calls.append(f"enter {side.name}")
        yield
        calls.append("leave")

    @contextmanager
    def graph(cuda_graph, pool=None, stream=None, capture_error_mode="global"):
        calls.append(f"capture in pool {pool} on {stream.name}, {capture_error_mode}")
        yield
        calls.append("captured")

    def note(name):
        return lambda *args: calls.append((name, *args))

    pools, main = itertools.count(), Stream("main")
    calls_of_a_graph = SimpleNamespace(replay=lambda: calls.append("replay"))
    generator = SimpleNamespace(graphsafe_set_state=note("generator"))
    for name, value in {
        "Stream": lambda device: Stream("side"), "current_stream": lambda device: main,
        "stream": stream, "graph": graph, "set_stream": lambda stream: calls.append(stream.name),
        "CUDAGraph": lambda: calls_of_a_graph, "graph_pool_handle": lambda: next(pools),
        "default_generators": [generator],
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "Generator", lambda device: f"new on {device}")
    return calls


def test_a_capture_warms_up_on_its_stream_and_lets_other_threads_allocate(cuda):
    capture = cuda_graphs.Capture(torch.device("cuda", 0))
    loss = torch.ones(())
    replay = capture(lambda: cuda.append("warm up"), lambda: cuda.append("step") or loss)
    assert cuda == [
        "side waits for main", "enter side", "warm up", "leave", "main waits for side",
        "capture in pool 0 on side, thread_local", "step", "captured",
    ]  # fmt: skip
    cuda.clear()
    assert replay() is loss and cuda == ["replay"]
    capture(list, list)
    capture.new_pool()
    capture(list, list)
    assert [call for call in cuda if "capture " in call] == [
        "capture in pool 0 on side, thread_local", "capture in pool 1 on side, thread_local"
    ]  # fmt: skip


@pytest.mark.parametrize("where", ("warm up", "step"))
def test_a_failed_capture_gives_back_stream_and_generator(cuda, where):
    capture = cuda_graphs.Capture(torch.device("cuda", 0))
    functions = [refuse if where == name else list for name in ("warm up", "step")]
    with pytest.raises(RuntimeError, match="operation not permitted"):
        capture(*functions)
    assert cuda[-2:] == ["main", ("generator", "new on cuda:0")]


@pytest.mark.parametrize("is_open", (True, False))
@pytest.mark.parametrize("kept, in_use", ((True, False), (True, True), (False, False)))
def test_the_pool_of_a_failed_capture_is_freed_once(cuda, is_open, kept, in_use, monkeypatch):
    """Versions of PyTorch leave it open and kept, or only kept, or free it themselves."""

    def note(*call):
        cuda.append(call)

    close = note if is_open else refuse
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *place: close("close", *place))
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda *place: note("release", *place))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: note("empty"))
    segments = [{"segment_pool_id": "another", "active_size": 0}]
    if kept:
        segments.append({"segment_pool_id": 0, "active_size": 512 if in_use else 0})
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    cuda_graphs.Capture(torch.device("cuda", 0)).free_pool()
    closed = [("close", 0, 0)] if is_open else []
    released = [("release", 0, 0), ("empty",)] if kept and not in_use else []
    assert cuda == [*closed, ("empty",), *released]


def test_the_reason_is_what_spoilt_the_capture_first():
    run = Run()

    def spoilt(warm_up, step):
        try:
            refuse()
        finally:
            raise RuntimeError("the capture was invalidated")

    spoilt.new_pool = spoilt.free_pool = lambda: None
    run.step.capture = spoilt
    run.train([0])
    assert run.lines[0].endswith(": RuntimeError: operation not permitted when stream is capturing")


def test_the_time_of_the_first_step_is_printed_once():
    lines = []
    step = training.time_first_step(SimpleNamespace(print=lines.append), lambda *args: args)
    assert [step(1, 2), step(3, 4)] == [(1, 2), (3, 4)]
    assert len(lines) == 1 and re.fullmatch(r"--compile: the first step took \d+\.\d s", lines[0])


@pytest.mark.parametrize(
    "changed, reason",
    (
        ({}, ""),
        ({"cuda_graphs": False}, "--no_cuda_graphs"),
        ({"gradient_accumulation_steps": 2}, "--gradient_accumulation_steps makes several parts"),
        ({"fp16": True}, "--fp16 decides on the host"),
        ({"world_size": 2}, "several ranks exchange their gradients"),
        ({"gpus": 2}, "one process uses several GPUs"),
        ({"device": "cpu"}, "there is no GPU"),
    ),
)
def test_what_speaks_against_graphs(changed, reason, monkeypatch):
    values = {"cuda_graphs": True, "gradient_accumulation_steps": 1, "fp16": False, **changed}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: values.get("gpus", 1))
    runtime = Runtime(torch.device(values.get("device", "cuda")))
    runtime.world_size = values.get("world_size", 1)
    found = training.why_no_graphs(SimpleNamespace(**values), runtime)
    assert found.startswith(reason) and bool(found) == bool(reason)


# --- whole runs ----------------------------------------------------------------------------------


@pytest.fixture
def recorders(monkeypatch):
    """The recorders of runs that take this machine for a GPU."""
    made = []
    monkeypatch.setattr(training, "why_no_graphs", lambda args, _: "" if args.cuda_graphs else "-")
    monkeypatch.setattr(training, "Capture", lambda device: made.append(Recorder()) or made[-1])
    monkeypatch.setattr(training, "BUCKET", MULTIPLE)
    return made


def classifier_flags(model):
    return [
        "--task_name=MRPC", f"--data_dir={SAMPLES / 'MRPC'}", *model_flags(model), "--do_train",
        "--max_seq_length=24", "--train_batch_size=8", "--learning_rate=1e-3",
        "--num_train_epochs=0.3",
    ]  # fmt: skip


def test_a_run_with_graphs_trains_alike(tiny_model_without_dropout, tmp_path, call, recorders):
    flags = classifier_flags(tiny_model_without_dropout)
    ours = call(run_classifier, *flags, f"--output_dir={tmp_path / 'graphs'}").ok()
    eager = call(run_classifier, *flags, "--no_cuda_graphs", f"--output_dir={tmp_path / 'eager'}")
    assert losses(tmp_path / "graphs") == pytest.approx(losses(tmp_path / "eager"), abs=2e-5)
    (recorder,) = recorders
    assert sum(name.startswith("replay") for name in recorder.calls) == 11
    assert "without CUDA graphs" not in ours.out + eager.out


def test_a_run_that_is_resumed_with_graphs(tiny_model, tmp_path, call, recorders):
    command = [*classifier_flags(tiny_model), "--save_checkpoints_steps=4", "--keep_checkpoints=9"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder in (whole, resumed):
        call(run_classifier, *command, f"--output_dir={folder}").ok()
    for step, path in checkpoint.checkpoints(str(resumed)).items():
        if step > 4:
            (resumed / path.rpartition("/")[2]).unlink()
    (resumed / "pytorch_model.bin").unlink()
    again = call(run_classifier, *command, f"--output_dir={resumed}").ok()
    assert "resuming from" in again.out and len(recorders) == 3
    assert_same_weights(whole, resumed)
    assert losses(whole) == losses(resumed)
