"""progress.py: TensorBoard's files, also after a kill; how long a run will take."""

import io
import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers import model_flags

import progress
import run_classifier
from progress import Bar, Log, duration
from training import Runtime


def flags(model, data, *more):
    return [
        "--task_name=MRPC", f"--data_dir={data}", *model_flags(model), "--max_seq_length=24",
        "--train_batch_size=2", "--do_train", "--num_train_epochs=2", *more,
    ]  # fmt: skip


def entries(out):
    lines = (out / "training_log.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_tensorboard_shows_every_step_once(tiny_model, mrpc, tmp_path, monkeypatch):
    """Also where steps after the last checkpoint were logged before the run was killed."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out, events = tmp_path / "out", tmp_path / "events"
    command = [*flags(tiny_model, mrpc), f"--output_dir={out}", f"--tensorboard={events}"]
    monkeypatch.setattr(sys, "argv", ["run_classifier.py"])
    run_classifier.main([*command, "--save_checkpoints_steps=5"])
    assert len(entries(out)) == 13
    (out / "checkpoint-13.pt").unlink()
    (out / "pytorch_model.bin").unlink()
    before = reader.EventAccumulator(str(events)).Reload().Scalars("loss")
    assert [event.step for event in before] == [*range(1, 14)]
    run_classifier.main([*command, "--save_checkpoints_steps=5"])  # goes on after step 10
    assert len(list(events.iterdir())) == 2
    found, log = reader.EventAccumulator(str(events)).Reload(), entries(out)
    assert set(found.Tags()["scalars"]) == {"loss", "learning_rate", "examples/s"}
    for tag, name in (("loss", "loss"), ("learning_rate", "learning_rate")):
        assert [event.step for event in found.Scalars(tag)] == [*range(1, 14)]
        values = [entry[name] for entry in log]
        assert [event.value for event in found.Scalars(tag)] == pytest.approx(values, rel=1e-6)
    first = [event.wall_time for event in before]
    again = [event.wall_time for event in found.Scalars("loss")]
    assert again[:10] == first[:10] and min(again[10:]) > max(first)


def test_without_tensorboard_nothing_is_begun(tiny_model, mrpc, tmp_path, monkeypatch, call):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    outcome = call(
        run_classifier, *flags(tiny_model, mrpc, f"--tensorboard={tmp_path / 'events'}"),
        f"--output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == (
        "run_classifier.py: error: --tensorboard needs the package tensorboard: "
        "pip install tensorboard\n"
    )
    assert not list(tmp_path.iterdir())


def test_only_rank_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "summary_writer", lambda: pytest.fail)
    args = SimpleNamespace(
        train_batch_size=2, output_dir=str(tmp_path), tensorboard=str(tmp_path / "events")
    )
    log = Log(args, Runtime(torch.device("cpu"), rank=1), 0, 3)
    for step in range(3):
        log.add([step + 1], [1.0], [0.1])
    log.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("first, steps", ((0, 12), (4, 12), (0, 5), (0, 3)))
def test_the_remaining_time_is_shown_once(first, steps, tmp_path, monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    args = SimpleNamespace(train_batch_size=2, output_dir=str(tmp_path), tensorboard=None)
    log = Log(args, Runtime(torch.device("cpu")), first, steps)
    for step in range(first, steps):
        clock[0] += 20
        log.add([step + 1], [1.0], [0.1])
    log.close()
    left = steps - first - 5
    told = f"20 s per step: the remaining {left} steps will take about {duration(20 * left)}\n"
    assert capsys.readouterr().out == (told if left > 0 else "")
    shutil.rmtree(tmp_path)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("columns", (60, 40, 100))
def test_a_narrow_terminal_shows_the_loss(columns, monkeypatch):
    """Also of a run of many steps; the bar itself gives way."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Bar(1_000_000, "step", initial=123_000) as bar:
        bar.set_postfix({"loss": "10.6931", "lr": "2.00e-05", "ex_s": "31.2"}, refresh=False)
        bar.update(456)
        bar.bar.refresh()
    last = sys.stderr.getvalue().rstrip("\n").split("\r")[-1]
    assert last.startswith("123456/1000000, ") and len(last) < columns
    assert "loss=10.6" in last and " left, " in last
    assert ("ex_s=31.2 |" in last) == (columns == 100)


def test_without_a_terminal_there_are_lines(monkeypatch, capsys):
    """One every half minute, and one for the last step; none for what takes a moment."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Bar(100, "step", initial=10) as bar:
        for step in range(11, 101):
            clock[0] += 1
            bar.set_postfix({"loss": str(step)}, refresh=False)
            bar.update(1)
    with Bar(5, "batch", "eval") as bar:
        bar.update(5)
    with Bar(5, "batch", "eval", quiet=True) as bar:
        clock[0] += 99
        bar.update(5)
    assert capsys.readouterr().err == (
        "step 40 of 100, 60 s left, loss=40\n"
        "step 70 of 100, 30 s left, loss=70\n"
        "step 100 of 100, loss=100\n"
    )


def test_without_stderr_nothing_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    with Bar(5, "step") as bar:
        bar.set_postfix({"loss": "1"}, refresh=False)
        bar.update(5)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "seconds, text",
    ((0.2, "0 s"), (119, "119 s"), (120, "2 min"), (3599, "60 min"), (3700, "1 h 2 min"),
     (86400 * 1.5, "36 h 0 min"), (86400 * 2.5, "2 d 12 h")),
)  # fmt: skip
def test_duration(seconds, text):
    assert duration(seconds) == text
