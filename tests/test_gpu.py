"""On a GPU: the CPU's numbers, half precision, runs that go on, no waiting of the host in a step.

conftest.py hides GPUs from the tests, so that they run alike everywhere; these ask for one:

    CUDA_VISIBLE_DEVICES=0 python -m pytest tests/test_gpu.py
"""

import copy
import os
import re

import numpy as np
import pytest
import torch
from helpers import SAMPLES, assert_same_weights, losses, model_flags, run
from model_helpers import HEADS, golden, tiny, tiny_inputs, tiny_loss, worst

import checkpoint
import modeling
import run_classifier
from optimization import create_optimizer
from padding import Unpadding

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_flash_attention_equals_the_plain_formula(dtype):
    mask = (torch.arange(512) < torch.tensor([512, 1, 77, 128, 300])[:, None]).long()
    unpadding = Unpadding(mask, device=torch.device(DEVICE))
    qkv = torch.randn(len(unpadding.indices), 3 * 4 * 64, device=DEVICE).to(dtype).requires_grad_()
    assert modeling.refusal(DEVICE, dtype, 64) == ""
    probe = torch.randn(len(qkv), 4 * 64, device=DEVICE).to(dtype)
    found = []
    for function in (modeling.flash_attention, modeling.plain_packed_attention):
        context = function(qkv, unpadding, 4, 0.0)
        found.append((context, *torch.autograd.grad(context, qkv, probe)))
    for ours, plain in zip(*found):
        limit = 64 * torch.finfo(dtype).eps * plain.abs().max()
        assert (ours - plain).abs().max() < max(limit, 2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flash_attention_drops_at_its_rate_and_anew_each_time(dtype):
    unpadding = Unpadding(torch.ones(8, 128, dtype=torch.long), device=torch.device(DEVICE))
    qkv = torch.zeros(1024, 3 * 4 * 64, device=DEVICE)  # equal scores
    qkv[:, 2 * 4 * 64 :] = 1  # and values of 1: each output is the share that stays, scaled
    qkv = qkv.to(dtype)
    one, other = (modeling.flash_attention(qkv, unpadding, 4, 0.1).float() for _ in range(2))
    assert abs(one.mean() - 1) < 0.01 and not torch.equal(one, other)
    # Of 128 keys: a standard deviation of √(0.1 / 0.9 / 128).
    assert abs(one[:, ::64].std() / (0.1 / 0.9 / 128) ** 0.5 - 1) < 0.1


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
    run(*launcher, *command, *more, f"--output_dir={tmp_path / 'other'}", timeout=600).ok()
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)
