"""checkpoint.py and training.py: kills, damage, resumed runs, accumulation, ranks, signals."""

import json
import re
import shutil
import signal
import threading
import time
from functools import partialmethod
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import (
    ROUNDING,
    SAMPLES,
    assert_close_runs,
    assert_same_gradients,
    assert_same_weights,
    losses,
    model_flags,
    results,
    run,
    run_ranks,
    start,
)
from model_helpers import Replicas, tiny, tiny_inputs

import checkpoint
import modeling
import run_classifier
import run_squad
import training
from data import packed_inputs
from modeling import BertConfig, BertForQuestionAnswering, BertForSequenceClassification
from optimization import create_optimizer
from training import LossScale, Runtime, StepTotals, own_parts


def flags(model, data, *more):
    return [
        "--task_name=MRPC", f"--data_dir={data}", *model_flags(model), "--max_seq_length=24",
        "--train_batch_size=4", "--learning_rate=1e-3", "--do_train", *more,
    ]  # fmt: skip


def train(out, *argv):
    run_classifier.main([*argv, f"--output_dir={out}"])
    return out


def steps_of(out):
    return sorted(checkpoint.checkpoints(str(out)))


# --- killed, and started again -------------------------------------------------------------------

STEPS = 60


@pytest.fixture(scope="session")
def long_run(tiny_model):
    """A command of 60 steps with dropout, a checkpoint every second one."""
    batches = STEPS / 300 * 4
    return ["run_classifier.py", *flags(
        tiny_model, SAMPLES / "MRPC", f"--num_train_epochs={batches}", "--save_checkpoints_steps=2"
    )]  # fmt: skip


@pytest.fixture(scope="session")
def never_stopped(long_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("never_stopped")
    run(*long_run, f"--output_dir={out}").ok()
    assert len(losses(out)) == STEPS
    return out


def signalled(command, out, number, step):
    """Starts a run and sends it a signal as soon as its log shows an odd step >= `step`."""
    process = start(*command, f"--output_dir={out}")
    log, seen, limit = out / "training_log.jsonl", 0, time.monotonic() + 60
    while process.poll() is None and time.monotonic() < limit:
        seen = log.read_bytes().count(b"\n") if log.exists() else 0
        if seen >= step and seen % 2:
            process.send_signal(number)
            break
        time.sleep(0.0005)
    message, err = process.communicate(timeout=60)
    return process.returncode, message, err


def test_sigkill_between_two_checkpoints(long_run, never_stopped, tmp_path):
    status, _, _ = signalled(long_run, tmp_path, signal.SIGKILL, 7)
    done = len((tmp_path / "training_log.jsonl").read_text("utf-8").splitlines())
    assert status == -signal.SIGKILL and 7 <= done < STEPS
    assert not (tmp_path / "pytorch_model.bin").exists()
    again = run(*long_run, f"--output_dir={tmp_path}").ok()
    assert f"resuming from {tmp_path}/checkpoint-" in again.out
    assert_same_weights(tmp_path, never_stopped)
    assert losses(tmp_path) == losses(never_stopped)
    assert not list(tmp_path.glob("*.tmp"))


def test_sigterm_writes_a_checkpoint_and_says_so(long_run, never_stopped, tmp_path):
    seldom = [*long_run, "--save_checkpoints_steps=1000"]  # none but that of the signal
    status, out, _ = signalled(seldom, tmp_path, signal.SIGTERM, 5)
    assert status == 128 + signal.SIGTERM
    (done,) = steps_of(tmp_path)
    assert 5 <= done < STEPS and len(losses(tmp_path)) == done  # no step is lost
    assert f"stopped by a signal after step {done} of {STEPS}: the same command resumes" in out
    again = run(*long_run, f"--output_dir={tmp_path}").ok()
    assert f"resuming from {tmp_path}/checkpoint-{done}.pt" in again.out
    assert_same_weights(tmp_path, never_stopped)
    assert losses(tmp_path) == losses(never_stopped)


def test_sigint_ends_with_130(long_run, tmp_path):
    status, out, err = signalled(long_run, tmp_path, signal.SIGINT, 3)
    assert status == 128 + signal.SIGINT and "stopped by a signal" in out
    assert err.startswith("Ctrl-C: finishing this step and saving; once more stops at once")
    assert "Traceback" not in err and steps_of(tmp_path)


# --- checkpoints ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def short_run(tiny_model, mrpc):
    """Six steps."""
    return flags(tiny_model, mrpc, "--num_train_epochs=2", "--save_checkpoints_steps=2")


@pytest.fixture(scope="session")
def short(short_run, tmp_path_factory):
    return train(tmp_path_factory.mktemp("short"), *short_run)


@pytest.fixture
def copy(short, tmp_path):
    """A copy of that run's folder as if it had not come to its end."""
    folder = shutil.copytree(short, tmp_path / "copy")
    (folder / "pytorch_model.bin").unlink()
    return folder


@pytest.mark.parametrize("keep", (1, 2, 100))
def test_so_many_checkpoints_are_kept(short_run, tmp_path, keep):
    train(tmp_path, *short_run, f"--keep_checkpoints={keep}", "--save_checkpoints_steps=1")
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6][-keep:]


@pytest.mark.numeric
def test_every_step_may_be_the_last_before_a_kill(short_run, short, tmp_path):
    """From the checkpoint of each step the run ends with the same bits."""
    every = train(
        tmp_path / "every", *short_run, "--keep_checkpoints=100", "--save_checkpoints_steps=1"
    )
    for step in range(1, 6):
        folder = tmp_path / str(step)
        folder.mkdir()
        for name in (f"checkpoint-{step}.pt", "training_log.jsonl"):
            shutil.copy(every / name, folder)
        train(folder, *short_run)
        assert_same_weights(folder, short)
        assert losses(folder) == losses(short)


def damage_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", (damage_bit, lambda content: content[:-100], lambda _: b""))
def test_damaged_newest_checkpoint(short_run, short, copy, call, damage):
    newest = copy / "checkpoint-6.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    outcome = call(run_classifier, *short_run, f"--output_dir={copy}").ok()
    assert f"{newest} is damaged: " in outcome.out
    assert "trying the checkpoint before it" in outcome.out
    assert f"resuming from {copy / 'checkpoint-4.pt'}" in outcome.out
    assert_same_weights(copy, short)


def test_every_flipped_bit_is_noticed(copy, tmp_path):
    """Wherever it is, either the reader complains or the content is the true one."""
    content = (copy / "checkpoint-6.pt").read_bytes()
    whole = checkpoint.read_tensors(copy / "checkpoint-6.pt")
    path, refused = tmp_path / "flipped.pt", 0
    for bit in np.random.default_rng(0).integers(8 * len(content), size=150):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            state = checkpoint.read_tensors(path)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"{path} is damaged: ") and "\n" not in str(error)
        else:
            assert state["step"] == whole["step"] and state["decisive"] == whole["decisive"]
            assert all(state["model"][n].equal(t) for n, t in whole["model"].items())
    assert refused > 75


@pytest.mark.parametrize(
    "changed, message",
    (
        (["--learning_rate=2e-3"], "learning_rate was 0.001, is 0.002"),
        (["--seed=1"], "seed was 42, is 1"),
        (["--max_seq_length=23"], "max_seq_length was 24, is 23; training examples was "),
        (["--bf16"], "bf16 was False, is True"),
        (["--num_train_epochs=3"], "num_train_epochs was 2.0, is 3.0"),
    ),
)
def test_changed_flag_on_resume(short_run, copy, call, changed, message):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    outcome = call(run_classifier, *short_run, *changed, f"--output_dir={copy}")
    path = copy / "checkpoint-6.pt"
    assert outcome.status == 2
    assert outcome.err.startswith(
        f"run_classifier.py: error: {path} belongs to a run with other settings ({message}"
    )
    assert outcome.err.endswith("use the same, another --output_dir, or --overwrite_output_dir\n")
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_other_training_examples_on_resume(short_run, copy, call, mrpc, tmp_path):
    data = shutil.copytree(mrpc, tmp_path / "data")
    lines = (data / "train.tsv").read_text("utf-8").split("\n")
    (data / "train.tsv").write_text("\n".join([*lines[:1], *lines[2:3], *lines[2:]]), "utf-8")
    outcome = call(run_classifier, *short_run, f"--data_dir={data}", f"--output_dir={copy}")
    assert outcome.status == 2 and "(training examples was " in outcome.err


def test_flags_that_do_not_matter_may_change(short_run, short, copy, call):
    (copy / "checkpoint-6.pt").unlink()
    outcome = call(
        run_classifier, *short_run, "--do_eval", "--eval_batch_size=2", "--keep_checkpoints=1",
        "--save_checkpoints_steps=3", f"--output_dir={copy}",
    ).ok()  # fmt: skip
    assert f"resuming from {copy / 'checkpoint-4.pt'}" in outcome.out
    assert_same_weights(copy, short)
    assert steps_of(copy) == [6]


def test_overwrite_output_dir_starts_anew(short_run, copy, call, tmp_path):
    outcome = call(
        run_classifier, *short_run, "--seed=1", "--overwrite_output_dir", f"--output_dir={copy}"
    ).ok()
    assert "removing " in outcome.out and "resuming from" not in outcome.out
    assert_same_weights(copy, train(tmp_path / "fresh", *short_run, "--seed=1"))


def test_a_signal_during_the_last_checkpoint(short_run, copy, call, monkeypatch):
    """No step follows that would see it; the run stops all the same."""
    (copy / "checkpoint-6.pt").unlink()
    true = training.save_checkpoint

    def save(*state):
        true(*state)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(training, "save_checkpoint", save)
    outcome = call(run_classifier, *short_run, f"--output_dir={copy}")
    assert outcome.status == 128 + signal.SIGTERM and steps_of(copy) == [4, 6]
    assert f"stopped by a signal after step 6 of 6: the same command resumes from {copy}" in (
        outcome.out
    )


@pytest.mark.parametrize("is_new", (False, True))
def test_a_second_signal_stops_at_once_and_says_what_is_kept(
    short_run, copy, call, monkeypatch, tmp_path, is_new
):
    (copy / "checkpoint-6.pt").unlink()
    out = tmp_path / "new" if is_new else copy

    def compute_loss(*_):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the step went on")

    monkeypatch.setattr(run_classifier, "compute_loss", compute_loss)
    outcome = call(run_classifier, *short_run, f"--output_dir={out}")
    kept = f"{out}/checkpoint-4.pt is kept: the same command resumes from it"
    if is_new:
        kept = "nothing was saved yet: the same command starts over"
    assert outcome.status == 128 + signal.SIGTERM
    assert outcome.err.splitlines()[-2:] == [
        "SIGTERM: finishing this step and saving; once more stops at once, without saving",
        f"stopped without saving; {kept}",
    ]
    assert steps_of(out) == ([] if is_new else [4])


def allocate(*_):
    torch.empty(2**50)  # PyTorch's own error


def gpu_is_full(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has …")


def python_is_full(*_):
    raise MemoryError


@pytest.mark.parametrize(
    ("fail", "where"),
    ((gpu_is_full, "the GPU"), (allocate, "this machine"), (python_is_full, "this machine")),
)
def test_out_of_memory_is_one_line(fail, where, short_run, short, call, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(run_classifier, "compute_loss", fail)
        outcome = call(
            run_classifier, *short_run, "--gradient_accumulation_steps=2",
            f"--output_dir={tmp_path}",
        )  # fmt: skip
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1] == (
        f"run_classifier.py: error: out of memory on {where}: a step computed 2 of its 4 examples "
        f"at a time, each of up to 24 WordPieces; the same command with "
        f"--gradient_accumulation_steps 4 (now 2) needs less and learns the same"
    )
    monkeypatch.setattr(run_classifier, "logits_of", fail)
    evaluate = [flag for flag in short_run if flag != "--do_train"]
    outcome = call(run_classifier, *evaluate, "--do_eval", f"--output_dir={short}")
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1] == (
        f"run_classifier.py: error: out of memory on {where}: a batch held up to 7 inputs: give a "
        f"smaller batch size for prediction"
    )


def test_other_errors_are_not_called_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="^shapes differ$"), training.memory_advice("less"):
        raise RuntimeError("shapes differ")
    alone = SimpleNamespace(
        gradient_accumulation_steps=4, train_batch_size=4, max_seq_length=512
    )  # fmt: skip
    assert training.step_advice(alone, Runtime(torch.device("cpu"))) == (
        "a step computed 1 of its 4 examples at a time, each of up to 512 WordPieces; lower "
        "--max_seq_length, or use a smaller model"
    )


def test_more_ranks_than_gpus(short_run, call, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    outcome = call(run_classifier, *short_run, "--local_rank=2", f"--output_dir={tmp_path / 'o'}")
    assert outcome.status == 2
    assert outcome.err == (
        "run_classifier.py: error: local rank 2 has no GPU, since there are only 2 here: start one "
        "rank for each, with torchrun --nproc_per_node=2, or give --no_cuda\n"
    )


def test_weights_take_one_short_line(tiny_model, call, tmp_path):
    """Heads and optimizer slots are counted; what surprises is named in full."""
    names = [
        "cls.predictions.bias", "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.LayerNorm.weight", "cls.predictions.decoder.weight",
        "cls.seq_relationship.weight", "cls.seq_relationship.bias", "global_step",
        "bert/pooler/dense/kernel/adam_m", "bert/pooler/dense/kernel/adam_v",
        "bert/pooler/dense/bias/adam_m", "bert.pooler.dense.weight", "classifier.weight",
    ]  # fmt: skip
    assert training.summary_of(names) == (
        "cls.predictions (3), cls.predictions.decoder.weight, cls.seq_relationship (2), "
        "global_step, …/adam_m (2), …/adam_v, bert.pooler.dense.weight, classifier"
    )
    assert training.summary_of([]) == "none"


def test_main_in_a_thread_trains(short_run, short, tmp_path):
    """Python lets only the main thread catch signals; a notebook's server runs others."""
    failed = []

    def body():
        try:
            train(tmp_path, *short_run)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert not failed
    assert_same_weights(tmp_path, short)


def test_nan_keeps_the_last_good_checkpoint(short_run, copy, call, monkeypatch):
    """A loss that is not a number stops the run at its step, before its checkpoint is written."""
    (copy / "checkpoint-6.pt").unlink()
    true, steps = run_classifier.compute_loss, iter((1.0, float("nan")))
    monkeypatch.setattr(run_classifier, "compute_loss", lambda *batch: true(*batch) * next(steps))
    outcome = call(run_classifier, *short_run, f"--output_dir={copy}")
    assert outcome.status == 2 and steps_of(copy) == [4]
    assert outcome.err.splitlines()[-1] == (
        "run_classifier.py: error: the loss at step 6 is nan: stopped; earlier checkpoints "
        "stay. Lower --learning_rate, or use float32"
    )


def test_weights_that_are_not_finite_are_not_saved(short_run, copy, call, monkeypatch):
    """A gradient may overflow while the loss does not: the last checkpoint must stay good."""
    (copy / "checkpoint-6.pt").unlink()
    true = training.optimizer_step

    def optimizer_step(optimizer, scale):
        true(optimizer, scale)
        optimizer.param_groups[0]["params"][0].data.view(-1)[5] = float("inf")

    monkeypatch.setattr(training, "optimizer_step", optimizer_step)
    outcome = call(run_classifier, *short_run, "--save_checkpoints_steps=1", f"--output_dir={copy}")
    assert outcome.status == 2 and steps_of(copy) == [4]
    assert re.fullmatch(
        r"run_classifier.py: error: bert\.\S+ is not finite after step 5: stopped without saving",
        outcome.err.splitlines()[-1],
    )


def test_full_disk_in_the_loop(short_run, copy, call):
    """One line on a line of its own, and the checkpoint before it stays."""
    (copy / "checkpoint-6.pt").unlink()
    (copy / "checkpoint-6.pt.tmp").mkdir()
    outcome = call(run_classifier, *short_run, f"--output_dir={copy}")
    assert outcome.status == 2 and steps_of(copy) == [4]
    assert re.fullmatch(
        r"run_classifier.py: error: \S+/checkpoint-6.pt could not be written \(0 MB\): .+",
        outcome.err.splitlines()[-1],
    )


def test_a_full_disk_is_told_and_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "weights.bin"
    checkpoint.save_tensors({"a": torch.ones(3)}, str(path))
    (tmp_path / "weights.bin.tmp").mkdir()  # nothing can be written there
    with pytest.raises(OSError, match=r"weights.bin could not be written \(4 MB\): "):
        checkpoint.save_tensors({"a": torch.ones(1_000_000)}, str(path))
    assert checkpoint.read_tensors(path)["a"].equal(torch.ones(3))


@pytest.fixture(scope="session")
def exact_run(tiny_model_without_dropout, mrpc):
    """Six steps without dropout, so that parts of a batch do as the whole does."""
    return flags(tiny_model_without_dropout, mrpc, "--num_train_epochs=2")


@pytest.fixture(scope="session")
def exact(exact_run, tmp_path_factory):
    return train(tmp_path_factory.mktemp("exact"), *exact_run, "--do_eval", "--do_predict")


@pytest.mark.numeric
@pytest.mark.parametrize("flag", ("gradient_accumulation_steps", "accumulate_gradients"))
@pytest.mark.parametrize("accumulation", (2, 3, 4))
def test_accumulation_changes_nothing(
    exact_run, exact, tiny_model_without_dropout, tmp_path, flag, accumulation
):
    train(tmp_path, *exact_run, f"--{flag}={accumulation}")
    assert_close_runs(tmp_path, exact, tiny_model_without_dropout)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def test_two_ranks_train_as_one_process(exact_run, exact, tiny_model_without_dropout, tmp_path):
    out = tmp_path / "two"
    outcome = run(*TORCHRUN, "run_classifier.py", *exact_run, "--do_eval", "--do_predict",
                  f"--output_dir={out}").ok()  # fmt: skip
    assert outcome.out.count("weights from ") == 1, "only rank 0 speaks"
    assert "2 ranks" in outcome.out
    assert_close_runs(out, exact, tiny_model_without_dropout)
    assert steps_of(out) == [6] and not list(out.glob("*.tmp"))
    # The same weights evaluated by one process give the same files, byte for byte.
    alone = tmp_path / "alone"
    alone_flags = [flag for flag in exact_run if flag != "--do_train"]
    train(alone, *alone_flags, f"--init_checkpoint={out}", "--do_eval", "--do_predict")
    for name in ("eval_results.txt", "test_results.tsv"):
        assert (out / name).read_bytes() == (alone / name).read_bytes()
    assert len((out / "test_results.tsv").read_text("utf-8").splitlines()) == 5


def test_two_ranks_on_squad_and_resumed_by_one(tiny_model_without_dropout, squad, tmp_path):
    command = [
        *model_flags(tiny_model_without_dropout), "--max_seq_length=64", "--max_query_length=24",
        "--doc_stride=16", "--train_batch_size=3", "--num_train_epochs=2", "--learning_rate=1e-3",
        "--do_train", f"--train_file={squad / 'train-v1.1.json'}", "--do_predict",
        f"--predict_file={squad / 'dev-v1.1.json'}", "--save_checkpoints_steps=1",
    ]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    run_squad.main([*command, f"--output_dir={one}"])
    run_ranks(2, "run_squad.py", *command, "--local_rank=0", f"--output_dir={two}").ok()
    assert_close_runs(one, two, tiny_model_without_dropout)
    assert (one / "predictions.json").read_text() == (two / "predictions.json").read_text()
    # The number of ranks may change when a run goes on.
    newest, _ = checkpoint.checkpoints(str(two)).values()
    (tmp_path / "two" / "pytorch_model.bin").unlink()
    shutil.move(newest, tmp_path / "newest.pt")
    run_squad.main([*command, f"--output_dir={two}"])
    assert_close_runs(one, two, tiny_model_without_dropout)


DYING = """
import os, signal, sys
sys.path.insert(0, os.getcwd())
import run_classifier

true, parts = run_classifier.compute_loss, iter(range(10))
def compute_loss(model, batch, totals):
    if next(parts) == 5 and os.environ["RANK"] == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return true(model, batch, totals)
run_classifier.compute_loss = compute_loss
run_classifier.main(sys.argv[2:])
"""


@pytest.mark.parametrize("rank", (0, 1))
def test_a_rank_that_dies_takes_the_others_down(rank, long_run, tmp_path):
    """Within 30 seconds, and with a status that says so; nothing hangs waiting for it."""
    (tmp_path / "dying.py").write_text(DYING, "utf-8")
    _, *command = long_run
    process = start(*TORCHRUN, tmp_path / "dying.py", rank, *command, f"--output_dir={tmp_path}")
    log, limit = tmp_path / "training_log.jsonl", time.monotonic() + 90
    while not (log.exists() and log.read_bytes().count(b"\n") >= 5):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    process.communicate(timeout=30)
    assert process.returncode > 0
    assert max(steps_of(tmp_path)) in (2, 4) and not (tmp_path / "pytorch_model.bin").exists()


@pytest.mark.parametrize("world_size", (1, 2, 3))
@pytest.mark.parametrize("accumulation", (1, 2, 4))
def test_parts_of_a_step_cover_it_once(world_size, accumulation):
    indices = np.random.default_rng(0).permutation(37)[:13]
    args = SimpleNamespace(gradient_accumulation_steps=accumulation)
    parts = []
    for rank in range(world_size):
        runtime = Runtime(torch.device("cpu"), rank, world_size)
        own = own_parts(args, runtime, range(37), indices)
        assert len(own) == accumulation
        parts += own
    assert np.concatenate(parts).tolist() == indices.tolist()
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1


def features(rng, lengths):
    rows = []
    for length in lengths:
        ids = rng.integers(5, 90, length).astype(np.int32)
        segments = (np.arange(length) > length // 2).astype(np.int32)
        start, end = sorted(rng.integers(0, length, 2).tolist())
        rows.append(SimpleNamespace(input_ids=ids, segment_ids=segments, label_id=length % 2,
                                    start_position=start, end_position=end))  # fmt: skip
    return rows


@pytest.mark.numeric
@pytest.mark.parametrize("driver", (run_classifier, run_squad))
@pytest.mark.parametrize("devices", (2, 3, 4))
def test_uneven_replicas_give_the_whole_batchs_loss_and_gradient(
    driver, devices, tiny_model_without_dropout
):
    """The loss is the mean over examples, not over replicas; so is the norm for clipping."""
    config = BertConfig.from_json_file(tiny_model_without_dropout / "bert_config.json")
    is_squad = driver is run_squad
    model_class = BertForQuestionAnswering if is_squad else BertForSequenceClassification
    rows = features(np.random.default_rng(devices), (13, 5, 29, 2, 37, 11, 7))

    def batch():
        targets = torch.tensor([row.label_id for row in rows])
        if is_squad:
            targets = [torch.tensor([getattr(row, f"{end}_position") for row in rows])
                       for end in ("start", "end")]  # fmt: skip
        return packed_inputs(rows), targets

    found = []
    for replicated in (False, True):
        torch.manual_seed(0)
        model = model_class(config)
        optimizer = create_optimizer(model, 1e-3, 10, 1)
        replicas = training.PaddedForward(Replicas(model, devices)) if replicated else model
        loss = driver.compute_loss(replicas, batch(), StepTotals(len(rows)))
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((loss.item(), optimizer.global_norm().item(), gradients))
    (loss, norm, gradients), (its_loss, its_norm, its_gradients) = found
    assert its_loss == pytest.approx(loss, rel=64 * ROUNDING)
    assert its_norm == pytest.approx(norm, rel=256 * ROUNDING)
    assert_same_gradients(its_gradients, gradients)


def test_replicas_in_threads_compute_in_the_runs_precision():
    """As DataParallel's, which opens autocast in each thread without saying with which type."""
    model = tiny(BertForQuestionAnswering, initializer_range=0.3)
    inputs = tiny_inputs()
    runtime = Runtime(torch.device("cpu"), dtype=torch.bfloat16)
    replica = training.AutocastForward(model, runtime)
    seen, outputs = [], {}
    model.bert.encoder.layer[0].intermediate.dense.register_forward_hook(
        lambda module, args, output: seen.append(output.dtype)
    )
    with runtime.autocast():
        wanted = model(*inputs)

        def body(number):
            with torch.autocast(
                "cpu", torch.float16
            ):  # as torch.nn.parallel.parallel_apply on CUDA
                outputs[number] = replica(*inputs)

        threads = [threading.Thread(target=body, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == [torch.bfloat16] * 3
    for number in range(2):
        assert all(torch.equal(ours, its) for ours, its in zip(outputs[number], wanted))
    sum(output[0].masked_fill(inputs[2] == 0, 0).sum() for output in outputs.values()).backward()
    assert model.bert.embeddings.word_embeddings.weight.grad.isfinite().all()


def test_several_gpus_in_one_process_are_told_of_torchrun(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.nn, "DataParallel", lambda module: module)
    monkeypatch.setattr("sys.argv", ["run_squad.py", "--do_train"])
    runtime, model = Runtime(torch.device("cuda")), torch.nn.Linear(1, 1)
    assert training.parallel(runtime, model).module.module is model
    assert capsys.readouterr().out == (
        "one process uses 2 GPUs; one process for each is faster: "
        "torchrun --nproc_per_node=2 run_squad.py --do_train\n"
    )
    # torchrun --nproc_per_node=1: the process has the GPU of its rank, whatever else it sees.
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert training.parallel(runtime, model) is model and runtime.num_gpus == 1


def test_predict_gives_each_feature_its_own_output(monkeypatch):
    rows = features(np.random.default_rng(0), (13, 5, 29, 2, 37, 11, 7))
    sizes, runtime = [], Runtime(torch.device("cpu"))

    def outputs_of(model, batch):
        sizes.append(len(batch))
        return [len(row.input_ids) for row in batch]

    got = training.predict(
        runtime, torch.nn.Linear(1, 1), rows, 3, lambda rows: rows, outputs_of, "test"
    )
    assert got == [13, 5, 29, 2, 37, 11, 7] and sizes == [3, 3, 1]

    sizes.clear()
    monkeypatch.setitem(training.TOKENS_PER_BATCH, "cpu", 50)
    got = training.predict(
        runtime, torch.nn.Linear(1, 1), rows, None, lambda rows: rows, outputs_of, "test"
    )
    assert got == [13, 5, 29, 2, 37, 11, 7] and sizes == [1, 2, 4]  # of 37, 42 and 25 tokens


# --- the rest of the loop ------------------------------------------------------------------------


def test_loss_scale():
    scale = LossScale()
    assert scale.value == 65536
    assert scale.update_and_check(torch.tensor(1.0)) and scale.used == 65536
    assert not scale.update_and_check(torch.tensor(float("inf"))) and scale.value == 32768
    assert not scale.update_and_check(torch.tensor(float("nan"))) and scale.value == 16384
    assert scale.skipped == 2 and scale.good_steps == 0
    for _ in range(1999):
        assert scale.update_and_check(torch.tensor(1.0))
    assert scale.value == 16384
    assert scale.update_and_check(torch.tensor(1.0)) and scale.value == 32768
    fixed = LossScale(128.0)
    assert not fixed.update_and_check(torch.tensor(float("inf"))) and fixed.value == 128


def test_dropout_differs_by_step_part_rank_and_seed():
    numbers = [(s, t, m, r) for s in range(3) for t in range(4) for m in range(3) for r in range(3)]
    seeds = {training.dropout_seed(*number) for number in numbers}
    assert len(seeds) == len(numbers) and all(0 <= seed < 2**63 for seed in seeds)
    assert training.dropout_seed(1, 2, 3, 4) == training.dropout_seed(1, 2, 3, 4)


def test_log_has_learning_rate_and_speed(short):
    lines = (short / "training_log.jsonl").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    rates = [entry["learning_rate"] for entry in entries]
    # No warm-up: int(6 * 0.1) = 0 steps; then the decay from step 0, as Google's.
    assert np.allclose(rates, [1e-3 * (1 - step / 6) for step in range(6)], rtol=1e-5)
    assert all(entry["examples_per_second"] > 0 for entry in entries)


def test_schedule_and_warmup_reach_the_optimizer(short_run, tmp_path):
    train(tmp_path, *short_run, "--schedule=warmup_constant", "--warmup_proportion=0.5")
    lines = (tmp_path / "training_log.jsonl").read_text("utf-8").splitlines()
    rates = [json.loads(line)["learning_rate"] for line in lines]
    assert np.allclose(rates, np.array([0, 1, 2, 3, 3, 3]) * 1e-3 / 3, atol=1e-9)


@pytest.mark.parametrize("rows, length", ((5, 64), (16, 24)))
def test_expected_memory_is_what_autograd_keeps(tiny_model, rows, length):
    config = BertConfig.from_json_file(tiny_model / "bert_config.json")
    model, kept = BertForQuestionAnswering(config).train(), {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # Held, so that no memory is reused.
        return tensor

    ids = torch.ones(rows, length, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(ids)
    found = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)
    assert len(outputs) == 2
    assert training.activation_bytes(config, rows, length) == pytest.approx(found, rel=0.1)


def test_a_run_begins_by_saying_what_it_takes(short_run, tmp_path, call):
    outcome = call(run_classifier, *short_run, f"--output_dir={tmp_path}").ok()
    assert re.search(r"CPU, \d+ threads?, 1 rank, float32, 15,\d{3} parameters\n", outcome.out)
    assert re.search(
        r"training takes about 0.00 GB of memory per process, plus at most 0.00 GB for 4 examples "
        r"at a time\n", outcome.out,
    )  # fmt: skip
    assert "6 steps of 4 examples, 0 of warm-up\n" in outcome.out


def initial_weights_args(**changes):
    return SimpleNamespace(**{
        "do_train": True, "init_checkpoint": None, "output_dir": "", "do_lower_case": True,
        "strip_accents": True, **changes,
    })  # fmt: skip


@pytest.mark.parametrize(
    "facts, changes, differing",
    (
        ({}, {"do_lower_case": False, "strip_accents": False}, None),  # a run of older times
        ({"do_lower_case": True, "strip_accents": True}, {}, None),
        ({"do_lower_case": True, "strip_accents": False}, {}, "strip_accents False"),
        ({"do_lower_case": True}, {"strip_accents": False}, None),
        ({"do_lower_case": True, "strip_accents": True}, {"strip_accents": False},
         "strip_accents True"),
        ({"do_lower_case": False, "strip_accents": True}, {}, "do_lower_case False"),
        # Of text that is not lower-cased no accents are stripped, whatever the flag says.
        ({"do_lower_case": False, "strip_accents": True},
         {"do_lower_case": False, "strip_accents": False}, None),
    ),
)  # fmt: skip
def test_how_text_is_read_stays_with_the_weights(facts, changes, differing, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(facts), "utf-8")
    args = initial_weights_args(init_checkpoint=str(tmp_path), **changes)
    if differing is None:
        assert training.resolve_init_checkpoint(args) == str(tmp_path)
    else:
        with pytest.raises(ValueError, match=f"was trained with {differing}, but this run has "):
            training.resolve_init_checkpoint(args)


def test_results_are_written_as_float32(tmp_path, capsys):
    checkpoint.write_results(
        str(tmp_path / "eval_results.txt"), {"a": 0.1 + 0.2, "global_step": 7, "b": np.float32(0.3)}
    )
    assert results(tmp_path) == {"a": "0.3", "global_step": "7", "b": "0.3"}
    assert capsys.readouterr().out == (tmp_path / "eval_results.txt").read_text("utf-8")


def test_compiled_layers_compute_the_same(tiny_model, monkeypatch):
    """--compile on a GPU's path: two graphs, of the last layer and the others, for all batches."""
    gpu = SimpleNamespace(apply=modeling.padded_attention)
    monkeypatch.setattr(modeling, "VarlenAttention", gpu)
    # Traced, with symbols for the sizes, forward and backward, but not turned into machine code.
    traced = partialmethod(torch.nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    config = BertConfig.from_json_file(str(tiny_model / "bert_config.json"))
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    plain = BertForSequenceClassification(config, 2)
    compiled = BertForSequenceClassification(config, 2)
    training.compile_layers(compiled)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    compiled.load_state_dict(plain.state_dict())
    for batch, width in ((5, 7), (5, 9), (3, 13), (2, 7), (7, 11)):
        mask = (torch.arange(width) < torch.randint(2, width, (batch, 1))).long()
        inputs = torch.randint(0, 20, (batch, width)), None, mask
        grads = []
        for model in (plain, compiled):
            model.zero_grad()
            model(*inputs, labels=torch.arange(batch) % 2)[0].backward()
            grads.append(dict(enumerate(parameter.grad for parameter in model.parameters())))
        assert_same_gradients(*grads)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert not torch._dynamo.utils.counters["graph_break"]


def test_importing_the_drivers_does_nothing(tmp_path):
    code = "import sys; sys.argv = ['x', '--nonsense']; import run_classifier, run_squad"
    outcome = run("-c", code).ok()
    assert outcome.out == outcome.err == ""
