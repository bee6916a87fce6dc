"""training.Evaluator: evaluation during training, the best weights, stopping early, and kills."""

import json
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from helpers import (
    assert_same_weights,
    losses,
    model_flags,
    results,
    run,
    weights,
)
from instance_rows import random_rows

import checkpoint
import glue_metrics
import progress
import run_classifier
import run_pretraining
import run_squad
from glue_data import DataProcessor, Task
from instances import encode_instance, write_instances
from modeling import BertConfig
from training import Evaluator, Runtime

STEPS = 12
# Scores of 3 are learned, and the dev file has 1: its figure rises until the predictions reach 1,
# and falls from there, as that of a model that overfits.
PROCESSOR = """
import numpy as np
from run_classifier import DataProcessor


class Scores(DataProcessor):
    labels = ()
    text_columns, label_column = (0, 1), 2
    headers = ()
    metrics = {"eval_closeness": lambda scores, labels: -float(np.mean((scores - labels) ** 2))}
    main_metric = "eval_closeness"
"""


@pytest.fixture(scope="session")
def command(tiny_model, mrpc, tmp_path_factory):
    """A run of 12 steps with dropout that is at its best somewhere in the middle."""
    folder = tmp_path_factory.mktemp("scores")
    (folder / "scores.py").write_text(PROCESSOR)
    for name, score in (("train", 3), ("dev", 1), ("test", 1)):
        rows = [row.split("\t") for row in (mrpc / f"{name}.tsv").read_text("utf-8").splitlines()]
        lines = [f"{row[3]}\t{row[4]}\t{score}\n" for row in rows[1:]]
        (folder / f"{name}.tsv").write_text("".join(lines), "utf-8")
    return [
        f"--processor={folder / 'scores.py'}:Scores", f"--data_dir={folder}",
        *model_flags(tiny_model), "--do_train", "--max_seq_length=24", "--train_batch_size=4",
        f"--num_train_epochs={4 * STEPS / 13 + 0.01}", "--learning_rate=3e-3",
        "--gradient_accumulation_steps=2", "--save_checkpoints_steps=5",
    ]  # fmt: skip


WATCHED = ("--eval_steps=2", "--keep_best")


def train(out, *argv):
    run_classifier.main([*map(str, argv), f"--output_dir={out}"])
    return out


def log_of(out):
    """(the lines of the steps, those of the evaluations) of a training log, without speeds."""
    lines = (out / "training_log.jsonl").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    for entry in entries:
        entry.pop("examples_per_second", None)
    steps = [entry for entry in entries if "loss" in entry]
    return steps, [entry for entry in entries if "loss" not in entry]


@pytest.fixture(scope="session")
def plain(command, tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain"), *command)


@pytest.fixture(scope="session")
def every(command, tmp_path_factory):
    """A run that evaluates and keeps its best, with a checkpoint after every step."""
    return train(
        tmp_path_factory.mktemp("every"), *command, *WATCHED, "--do_eval",
        "--save_checkpoints_steps=1", "--keep_checkpoints=100",
    )  # fmt: skip


def best_of(out, name="eval_closeness"):
    """(step, figure) of the best evaluation in a training log."""
    _, evaluations = log_of(out)
    best = max(evaluations, key=lambda entry: entry[name])
    return best["step"], best[name]


def metadata(out):
    return json.loads((out / "run.json").read_text("utf-8"))


# --- what is computed ----------------------------------------------------------------------------


def test_training_computes_the_same_bits(command, plain, tmp_path):
    """With dropout and parts of steps; the figures are in the log and the report."""
    train(tmp_path, *command, "--eval_steps=5")
    assert_same_weights(tmp_path, plain)
    steps, evaluations = log_of(tmp_path)
    assert steps == log_of(plain)[0] and len(steps) == STEPS
    assert [entry["step"] for entry in evaluations] == [5, 10, 12]
    assert all(entry.keys() == {"step", "eval_closeness", "eval_loss"} for entry in evaluations)
    assert metadata(tmp_path)["global_step"] == STEPS
    assert not (tmp_path / "eval_results.txt").exists()
    last = checkpoint.read_tensors(tmp_path / "checkpoint-12.pt")["evaluation"]
    assert last["evaluated"] == STEPS and last["best_weights"] is None


def test_a_run_that_overfits_ends_with_its_best_weights(command, every, plain, tmp_path):
    step, figure = best_of(every)
    assert step not in (2, STEPS)
    assert float(results(every)["eval_closeness"]) == pytest.approx(figure, rel=1e-6)
    assert results(every)["global_step"] == str(step) == str(metadata(every)["global_step"])
    state = checkpoint.read_tensors(every / f"checkpoint-{step}.pt")
    kept = weights(every)
    assert all(kept[name].equal(tensor) for name, tensor in state["model"].items())
    # The last checkpoint is that of the plain run; only its best weights come on top.
    last = checkpoint.read_tensors(every / "checkpoint-12.pt")
    assert all(weights(plain)[name].equal(tensor) for name, tensor in last["model"].items())
    # The same figures as an evaluation of its own.
    for number in (step, STEPS):
        given = [flag for flag in command if flag != "--do_train"]
        train(tmp_path, *given, "--do_eval", f"--init_checkpoint={every}/checkpoint-{number}.pt")
        entry = next(e for e in log_of(every)[1] if e["step"] == number)
        found = results(tmp_path)
        assert float(found["eval_closeness"]) == pytest.approx(entry["eval_closeness"], rel=1e-6)
        assert found["global_step"] == str(number)


def test_tensorboard_and_the_bar(command, every, tmp_path, call):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    outcome = call(run_classifier, *command, *WATCHED, f"--output_dir={tmp_path / 'out'}",
                   f"--tensorboard={tmp_path / 'events'}").ok()  # fmt: skip
    found = reader.EventAccumulator(str(tmp_path / "events")).Reload()
    _, evaluations = log_of(tmp_path / "out")
    assert evaluations == log_of(every)[1]
    for name in ("eval_closeness", "eval_loss"):
        scalars = found.Scalars(name)
        assert [event.step for event in scalars] == [2, 4, 6, 8, 10, 12]
        wanted = [entry[name] for entry in evaluations]
        assert [event.value for event in scalars] == pytest.approx(wanted, rel=1e-6)
    step, figure = best_of(every)
    assert f"step {step} of 12: eval_loss " in outcome.out
    assert (
        f"the best weights are kept: eval_closeness {figure:.6g} after step {step}\n" in outcome.out
    )
    assert f"eval_closeness={evaluations[-1]['eval_closeness']:.4f}" in outcome.err


# --- kills ---------------------------------------------------------------------------------------


def test_every_step_may_be_the_last_before_a_kill(command, every, tmp_path):
    """The best weights lie before, at and after the checkpoint from which the run resumes."""
    for step in range(1, STEPS):
        folder = tmp_path / str(step)
        folder.mkdir()
        for name in (f"checkpoint-{step}.pt", "training_log.jsonl"):
            shutil.copy(every / name, folder)
        train(folder, *command, *WATCHED)
        assert_same_weights(folder, every)
        assert log_of(folder) == log_of(every)
        assert metadata(folder)["global_step"] == best_of(every)[0]


def test_a_signal_at_an_evaluation_leaves_it_to_the_resumed_run(
    command, every, tmp_path, call, monkeypatch
):
    """A stopped run saves at once, without evaluating first; nothing is lost or there twice."""
    true, calls = run_classifier.compute_loss, []

    def compute_loss(*batch):
        calls.append(batch)
        if len(calls) == 2 * 6:  # two parts a step
            signal.raise_signal(signal.SIGTERM)
        return true(*batch)

    monkeypatch.setattr(run_classifier, "compute_loss", compute_loss)
    stopped = call(run_classifier, *command, *WATCHED, f"--output_dir={tmp_path}")
    assert stopped.status == 128 + signal.SIGTERM
    assert [entry["step"] for entry in log_of(tmp_path)[1]] == [2, 4]
    call(run_classifier, *command, *WATCHED, f"--output_dir={tmp_path}").ok()
    assert log_of(tmp_path) == log_of(every)
    assert_same_weights(tmp_path, every)


def test_a_finished_run_is_finished(command, every, tmp_path, call, monkeypatch):
    """Neither trains nor evaluates again during training; overwriting it starts anew."""
    folder = shutil.copytree(every, tmp_path / "copy")
    before = (folder / "training_log.jsonl").read_bytes()
    outcome = call(run_classifier, *command, *WATCHED, "--do_eval", f"--output_dir={folder}").ok()
    assert (folder / "training_log.jsonl").read_bytes() == before
    assert "step 12 of 12: " not in outcome.out and "the best weights are kept" in outcome.out
    assert results(folder) == results(every)
    assert_same_weights(folder, every)
    outcome = call(run_classifier, *command, *WATCHED, "--overwrite_output_dir",
                   f"--output_dir={folder}").ok()  # fmt: skip
    assert "removing an earlier run" in outcome.out and "resuming" not in outcome.out
    assert_same_weights(folder, every)


# --- stopping early ------------------------------------------------------------------------------


def test_patience(command, every, tmp_path, call):
    """Stopped early it is as finished as any run, with the same best weights."""
    given = [*command, *WATCHED, "--patience=2", "--do_eval", f"--output_dir={tmp_path}"]
    best, figure = best_of(every)
    end = best + 4
    assert end < STEPS
    outcome = call(run_classifier, *given).ok()
    steps, evaluations = log_of(tmp_path)
    assert len(steps) == end and evaluations[-1]["step"] == end
    assert (
        f"stopped early after step {end} of 12: no better figure than eval_closeness "
        f"{figure:.6g} after step {best} in 2 evaluations\n" in outcome.out
    )
    assert_same_weights(tmp_path, every)
    assert results(tmp_path)["global_step"] == str(best)
    assert sorted(checkpoint.checkpoints(str(tmp_path)))[-1] == end
    again = call(run_classifier, *given).ok()
    assert "stopped early" in again.out and log_of(tmp_path) == (steps, evaluations)
    assert_same_weights(tmp_path, every)
    anew = call(run_classifier, *given, "--overwrite_output_dir").ok()
    assert "removing an earlier run" in anew.out and "resuming" not in anew.out
    # Killed before the decision, it is made again.
    (tmp_path / f"checkpoint-{end}.pt").unlink()
    (tmp_path / "pytorch_model.bin").unlink()
    call(run_classifier, *given).ok()
    assert log_of(tmp_path) == (steps, evaluations)
    assert_same_weights(tmp_path, every)


def test_patience_alone_keeps_the_last_weights(command, every, tmp_path):
    end = best_of(every)[0] + 4
    train(tmp_path, *command, "--eval_steps=2", "--patience=2", "--do_eval")
    state = checkpoint.read_tensors(every / f"checkpoint-{end}.pt")
    assert all(weights(tmp_path)[name].equal(tensor) for name, tensor in state["model"].items())
    assert results(tmp_path)["global_step"] == str(end)


class Figures:
    """Gives an Evaluator one figure after another, and keeps what it logs."""

    def __init__(self, figures, lower_is_better=False, **flags):
        args = SimpleNamespace(eval_steps=10, **flags)
        self.figures = iter(figures)
        self.runtime = Runtime(torch.device("cpu"))
        self.model = torch.nn.Linear(1, 1)
        self.evaluator = Evaluator(
            args, lambda: {"f": next(self.figures), "loss": 1, "n": 7}, "f", 0, lower_is_better
        )

    def add_evaluation(self, step, figures, metric, note):
        assert figures.keys() == {"f", "n"} and metric == "f"

    def evaluate(self, step):
        with torch.no_grad():
            self.model.weight.fill_(step)
        self.model.eval()
        self.evaluator.evaluate(self.runtime, self.model, step, self)
        assert self.model.training


@pytest.mark.parametrize(
    ("lower", "figures", "best", "since"),
    (
        (False, [1.0, 3.0, 2.0, 3.0], 20, 2),  # the first of equal ones
        (True, [1.0, 3.0, 0.5, 0.5], 30, 1),
        (False, [float("nan"), -2.0, float("nan"), float("inf")], 20, 2),
        (True, [float("inf"), float("nan")], 0, 2),
        (False, [0.0], 10, 0),
    ),
)
def test_the_best_figure(lower, figures, best, since, capsys):
    fake = Figures(figures, lower, keep_best=True, patience=2)
    evaluator = fake.evaluator
    for number in range(len(figures)):
        assert not evaluator.out_of_patience
        fake.evaluate(10 * (number + 1))
    assert evaluator.best_step == best and evaluator.num_since_best == since
    assert evaluator.out_of_patience == (since == 2)
    last = 10 * len(figures)
    assert evaluator.finish(fake.runtime, fake.model, last, last) == (best or last)
    assert fake.model.weight.item() == (best or last)
    assert ("no evaluation gave a finite f" in capsys.readouterr().out) == (not best)


def test_when_it_is_due():
    fake = Figures([1.0])
    is_due = fake.evaluator.is_due
    assert [step for step in range(36) if is_due(step, 35)] == [10, 20, 30, 35]
    fake.evaluate(20)
    assert [step for step in range(36) if is_due(step, 35)] == [30, 35]
    assert not is_due(5, 5)  # evaluated later than this already
    assert not Evaluator(SimpleNamespace()).is_due(10, 10)


# --- what may change -----------------------------------------------------------------------------


@pytest.fixture
def half(every, tmp_path):
    """The folder of a run that was killed after step 6."""
    folder = tmp_path / "half"
    folder.mkdir()
    for name in ("checkpoint-6.pt", "training_log.jsonl"):
        shutil.copy(every / name, folder)
    return folder


def test_what_decides_the_best_may_not_change(command, every, half, tmp_path, call):
    argv = [*command, "--output_dir", half]
    for changed, message in (
        (("--eval_steps=3", "--keep_best"), "eval_steps was 2, is 3"),
        (("--eval_steps=2",), "keep_best was True, is False"),
        ((*WATCHED, "--patience=5"), "patience was None, is 5"),
        ((*WATCHED, "--max_eval_examples=3"), "max_eval_examples was None, is 3"),
        ((*WATCHED, "--max_train_examples=5"), "max_train_examples was None, is 5"),
    ):
        outcome = call(run_classifier, *argv, *changed)
        assert outcome.status == 2 and message in outcome.err, changed
    (data := tmp_path / "data").mkdir()
    folder = next(flag.partition("=")[2] for flag in command if flag.startswith("--data_dir"))
    for name in ("train.tsv", "dev.tsv"):
        shutil.copy(f"{folder}/{name}", data)
    text = (data / "dev.tsv").read_text("utf-8")
    (data / "dev.tsv").write_text(text.replace("\t1\n", "\t2\n", 1), "utf-8")
    outcome = call(run_classifier, *argv, *WATCHED, f"--data_dir={data}")
    assert outcome.status == 2 and "(examples to evaluate was " in outcome.err


def test_without_a_choice_evaluation_may_change(command, plain, tmp_path, call):
    """Added, changed or left out on resuming, evaluation changes nothing."""
    train(tmp_path, *command, "--eval_steps=4", "--save_checkpoints_steps=5")
    for gone in ("checkpoint-12.pt", "pytorch_model.bin"):
        (tmp_path / gone).unlink()
    for more, evaluated in (((), [4, 8]), (("--eval_steps=3",), [4, 8, 12])):
        (tmp_path / "checkpoint-12.pt").unlink(missing_ok=True)
        call(run_classifier, *command, *more, f"--output_dir={tmp_path}").ok()
        assert [entry["step"] for entry in log_of(tmp_path)[1]] == evaluated
        assert_same_weights(tmp_path, plain)
    outcome = call(run_classifier, *command, *WATCHED, f"--output_dir={tmp_path}")
    assert outcome.status == 2 and "keep_best was False, is True)" in outcome.err


def test_a_log_is_cut_where_the_run_resumes(tmp_path):
    path = tmp_path / "log"
    lines = [b'{"step": 1, "loss": 1}\n', b'{"step": 2, "loss": 1}\n', b'{"step": 2, "f1": 5}\n',
             b'{"step": 3, "loss": 1}\n', b'{"step": 3, "f1": null}\n']  # fmt: skip
    path.write_bytes(b"".join(lines) + b'{"step": 4')
    for step, evaluated, kept in ((3, 3, 5), (3, 2, 4), (2, 2, 3), (2, 0, 2), (1, 1, 1), (0, 0, 0)):
        assert progress.size_until(path, step, evaluated) == sum(map(len, lines[:kept]))
    damaged = [lines[0], b"\xff{\n", b"[]\n", lines[1]]
    path.write_bytes(b"".join(damaged))
    assert progress.size_until(path, 2, 0) == sum(map(len, damaged))


# --- a first try ---------------------------------------------------------------------------------


def test_fewer_examples(command, tmp_path, call):
    """The first ones of each file, and recorded."""
    folder = next(flag.partition("=")[2] for flag in command if flag.startswith("--data_dir"))
    cut = tmp_path / "cut"
    cut.mkdir()
    for name, number in (("train", 7), ("dev", 3)):
        with open(f"{folder}/{name}.tsv", encoding="utf-8") as file:
            (cut / f"{name}.tsv").write_text("".join(file.readlines()[:number]), "utf-8")
    argv = [*command, "--do_eval", "--num_train_epochs=4"]
    outcome = call(run_classifier, *argv, "--max_train_examples=7", "--max_eval_examples=3",
                   f"--output_dir={tmp_path / 'few'}").ok()  # fmt: skip
    train(tmp_path / "other", *argv, f"--data_dir={cut}")
    assert_same_weights(tmp_path / "few", tmp_path / "other")
    assert results(tmp_path / "few") == results(tmp_path / "other")
    assert "rows read 13, used 7, skipped 6 (6 beyond --max_train_examples)" in outcome.out
    assert "rows read 7, used 3, skipped 4 (4 beyond --max_eval_examples)" in outcome.out
    assert metadata(tmp_path / "few")["flags"]["max_train_examples"] == 7


# --- the other drivers ---------------------------------------------------------------------------


@pytest.mark.parametrize("version", ("1.1", "2.0"))
def test_squad(tiny_model, squad, tmp_path, call, version):
    """Official figures of the predict file, by F1; the answers are those of the best weights."""
    more = ["--version_2_with_negative"] * (version == "2.0")
    dev, train_file = squad / f"dev-v{version}.json", squad / "train-v1.1.json"
    if more:
        dataset = json.loads(dev.read_text("utf-8"))
        for qa in dataset["data"][0]["paragraphs"][0]["qas"]:
            qa["answers"] = qa["answers"][:1]
        train_file = tmp_path / "train.json"
        train_file.write_text(json.dumps(dataset), "utf-8")
    given = [
        *model_flags(tiny_model), "--max_seq_length=64", "--max_query_length=24",
        "--doc_stride=16", "--train_batch_size=4", "--learning_rate=3e-3", "--num_train_epochs=6",
        f"--train_file={train_file}", f"--predict_file={dev}", *more,
    ]  # fmt: skip
    outcome = call(run_squad, *given, "--do_train", "--do_predict", "--eval_steps=1", "--keep_best",
                   "--max_train_examples=4", "--max_eval_examples=3",
                   f"--output_dir={tmp_path / 'a'}").ok()  # fmt: skip
    steps, evaluations = log_of(tmp_path / "a")
    assert len(steps) == len(evaluations) == 6
    step, figure = best_of(tmp_path / "a", "f1")
    found = results(tmp_path / "a")
    assert found["global_step"] == str(step) and float(found["f1"]) == pytest.approx(figure)
    assert found["total"] == "3" and evaluations[0].keys() >= {"f1", "total"}
    assert len(json.loads((tmp_path / "a" / "predictions.json").read_text())) == 3
    assert "beyond --max_train_examples)" in outcome.out
    call(run_squad, *given, "--do_train", "--max_train_examples=4",
         f"--output_dir={tmp_path / 'b'}").ok()  # fmt: skip
    assert losses(tmp_path / "b") == [entry["loss"] for entry in steps]


def test_squad_without_answers_has_nothing_to_watch(tiny_model, squad, tmp_path, call):
    dataset = json.loads((squad / "dev-v1.1.json").read_text("utf-8"))
    for paragraph in dataset["data"][0]["paragraphs"]:
        for qa in paragraph["qas"]:
            qa["answers"] = []
    (tmp_path / "blind.json").write_text(json.dumps(dataset), "utf-8")
    outcome = call(
        run_squad, *model_flags(tiny_model), "--max_seq_length=64", "--max_query_length=24",
        "--do_train", f"--train_file={squad / 'train-v1.1.json'}", "--eval_steps=2",
        f"--predict_file={tmp_path / 'blind.json'}", f"--output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert outcome.status == 2 and not (tmp_path / "out").exists()
    assert outcome.err.endswith(
        f"error: --eval_steps: {tmp_path / 'blind.json'} has no answers to compare with\n"
    )


def test_pretraining(tiny_model, tmp_path, call):
    """The loss of masked words on instances that are not trained on: the lowest is the best."""
    size = BertConfig.from_json_file(tiny_model / "bert_config.json").vocab_size
    for name, seed in (("train", 0), ("dev", 1)):
        rows = [encode_instance(**row) for row in random_rows(40, 24, 4, size, seed)]
        write_instances(tmp_path / name, rows, 24, 4, size)
    given = [
        *model_flags(tiny_model), "--do_train", "--max_seq_length=24",
        "--max_predictions_per_seq=4", "--train_batch_size=8", "--num_train_steps=12",
        "--num_warmup_steps=2", "--learning_rate=1e-2", f"--input_file={tmp_path / 'train'}",
        "--max_train_examples=16",
    ]  # fmt: skip
    watched = ["--eval_steps=3", "--keep_best", "--do_eval", f"--eval_file={tmp_path / 'dev'}",
               "--max_eval_examples=30"]  # fmt: skip
    outcome = call(run_pretraining, *given, *watched, f"--output_dir={tmp_path / 'a'}").ok()
    steps, evaluations = log_of(tmp_path / "a")
    best = min(evaluations, key=lambda entry: entry["masked_lm_loss"])
    assert [entry["step"] for entry in evaluations] == [3, 6, 9, 12] and best["step"] < 12
    found = results(tmp_path / "a")
    assert found["global_step"] == str(best["step"])
    for name in ("masked_lm_loss", "next_sentence_accuracy"):
        assert float(found[name]) == pytest.approx(best[name], rel=1e-6)
    assert "training reads 16 instances 6.00 times" in outcome.out
    train_alone = call(run_pretraining, *given, f"--output_dir={tmp_path / 'b'}").ok()
    assert "masked_lm_loss" not in train_alone.out
    assert losses(tmp_path / "b") == [entry["loss"] for entry in steps]
    # Without --do_train the same file is evaluated.
    alone = [flag for flag in given if flag != "--do_train"]
    call(run_pretraining, *alone, *watched, f"--output_dir={tmp_path / 'a'}").ok()
    assert results(tmp_path / "a") == found


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def test_two_ranks_decide_alike(command, tiny_model_without_dropout, tmp_path):
    given = [*command, *model_flags(tiny_model_without_dropout), *WATCHED, "--patience=2"]
    outcome = run(*TORCHRUN, "run_classifier.py", *given, f"--output_dir={tmp_path / 'two'}").ok()
    assert outcome.out.count("stopped early after step ") == 1
    train(tmp_path / "one", *given)
    assert metadata(tmp_path / "two")["global_step"] == metadata(tmp_path / "one")["global_step"]
    for ours, theirs in zip(log_of(tmp_path / "two")[1], log_of(tmp_path / "one")[1], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_seeds_keep_their_own_best(command, tmp_path, call):
    outcome = call(run_classifier, *command, *WATCHED, "--do_eval", "--seeds=1,2",
                   f"--output_dir={tmp_path}").ok()  # fmt: skip
    summary = json.loads((tmp_path / "seeds_results.json").read_text("utf-8"))
    for seed in (1, 2):
        step, figure = best_of(tmp_path / f"seed-{seed}")
        assert summary["seeds"][str(seed)]["eval_closeness"] == pytest.approx(figure, rel=1e-6)
        assert f"after step {step}\n" in outcome.out
    assert_same_weights(tmp_path, tmp_path / f"seed-{summary['best']}")


def test_a_users_regression_has_pearsons_correlation():
    class Scores(DataProcessor):
        labels = ()

    task = Task(Scores())
    assert task.metrics == {"eval_pearson": glue_metrics.pearson}
    assert task.main_metric == "eval_pearson"
