"""run_pretraining.py: Google's losses and figures, ranks over shards, kills, mistakes."""

import json
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import (
    BF16_ROUNDING,
    ROUNDING,
    assert_close_runs,
    assert_same_weights,
    losses,
    model_flags,
    results,
    roundings,
    run,
    run_ranks,
    start,
)
from instance_rows import random_rows, write_tfrecord
from model_helpers import LOSS, NORM, Replicas, without_dropout

import checkpoint
import run_pretraining
import training
from data import step_examples
from instances import InstanceFile, Instances, checked_row, encode_instance, write_instances
from modeling import BertConfig, BertForPreTraining, load_weights
from optimization import create_optimizer
from precision import FORCE

SIZES = (13, 5, 29, 2, 37, 11, 7, 3)  # of eight shards: 107 rows
SETTINGS = 24, 4  # max_seq_length, max_predictions_per_seq
STEPS, BATCH = 14, 16  # two epochs and ten rows


def vocab_size(model):
    return BertConfig.from_json_file(model / "bert_config.json").vocab_size


@pytest.fixture(scope="session")
def corpus(tiny_model, tmp_path_factory):
    """A folder with the same rows in eight files of ours and in eight of Google's."""
    folder, size = tmp_path_factory.mktemp("instances"), vocab_size(tiny_model)
    rows = iter(random_rows(sum(SIZES), *SETTINGS, size))
    for number, length in enumerate(SIZES):
        shard = [next(rows) for _ in range(length)]
        write_instances(
            folder / f"{number}.instances",
            [encode_instance(**row) for row in shard],
            *SETTINGS,
            size,
        )
        write_tfrecord(folder / f"{number}.tfrecord", shard, *SETTINGS)
    return folder


def command(model, files, *more):
    return [
        *model_flags(model), f"--input_file={files}", "--do_train", "--max_seq_length=24",
        "--max_predictions_per_seq=4", f"--train_batch_size={BATCH}", f"--num_train_steps={STEPS}",
        "--num_warmup_steps=2", "--learning_rate=1e-3", *more,
    ]  # fmt: skip


def train(out, *argv):
    run_pretraining.main([*map(str, argv), f"--output_dir={out}"])
    return out


# --- Google's numbers ----------------------------------------------------------------------------


def golden_rows(truth):
    """The rows of the golden evaluation, without their padding."""
    for index, tokens in enumerate(truth["in_input_mask"].sum(axis=1)):
        masked = int(truth["in_masked_lm_weights"][index].sum())
        row = SimpleNamespace(next_sentence_labels=truth["in_next_sentence_labels"][index])
        for name in ("input_ids", "segment_ids"):
            setattr(row, name, truth[f"in_{name}"][index, :tokens])
        for name in ("positions", "ids", "weights"):
            value = truth[f"in_masked_lm_{name}"][index, :masked]
            setattr(row, f"masked_lm_{name}", value)
        yield row


@pytest.mark.numeric
def test_evaluation_gives_googles_figures(pretrained, goldens):
    truth = np.load(goldens / "pretrain_loss.npz")
    rows = list(golden_rows(truth))
    with torch.inference_mode():
        judged = run_pretraining.score_instances(
            pretrained.eval(), run_pretraining.make_batch(rows)
        )
    masked = truth["in_masked_lm_weights"].flatten() > 0
    judged_losses = np.concatenate([row[:-1, 0] for row in judged])
    assert roundings(judged_losses, truth["masked_lm_example_loss"][masked]) < LOSS
    found = run_pretraining.evaluate(judged, 8, 1, 7)
    assert list(found) == sorted(found) and found["global_step"] == 7
    assert roundings(found["loss"], truth["total_loss"]) < LOSS
    for name in ("masked_lm_loss", "next_sentence_loss"):
        assert roundings(found[name], truth[f"metric_{name}"], truth["total_loss"]) < LOSS
    for name in ("masked_lm_accuracy", "next_sentence_accuracy"):
        assert found[name] == truth[f"metric_{name}"]


@pytest.mark.numeric
@pytest.mark.parametrize("cuts", ((8,), (1, 3, 8)), ids=len)
def test_parts_add_up_to_googles_loss_and_norm(pretrained, goldens, cuts):
    """Denominators are those of the whole step, whatever its parts."""
    truth = np.load(goldens / "pretrain_loss.npz")
    rows = list(golden_rows(truth))
    parts = [rows[begin:end] for begin, end in zip((0, *cuts), cuts)]
    total = training.own_totals(Instances, parts, 8)
    model = without_dropout(BertForPreTraining, pretrained)
    optimizer = create_optimizer(model, 1e-4, 6, 2)
    loss = 0.0
    for part in parts:
        part_loss = run_pretraining.compute_loss(model, run_pretraining.make_batch(part), total)
        part_loss.backward()
        loss += part_loss.item()
    assert roundings(loss, truth["train_loss"][0]) < LOSS
    assert roundings(optimizer.global_norm(), truth["train_global_norm"][0]) < NORM


@pytest.mark.numeric
@pytest.mark.parametrize("devices", (2, 3))
def test_uneven_replicas_give_the_whole_batchs_loss(tiny_model_without_dropout, corpus, devices):
    """As DataParallel on several GPUs: the loss is the mean over examples, not over replicas."""
    file = InstanceFile(corpus / "6.instances")
    rows = [checked_row(file, index, file.vocab_size) for index in range(len(file))]
    weight = torch.tensor(sum(map(Instances.weight_of, rows)))
    batch = run_pretraining.make_batch(rows)
    totals = training.StepTotals(len(rows), weight)
    config = BertConfig.from_json_file(tiny_model_without_dropout / "bert_config.json")
    model = BertForPreTraining(config)
    loss = run_pretraining.compute_loss(model, batch, totals).item()
    replicas = training.PaddedForward(Replicas(model, devices))
    replicated = run_pretraining.compute_loss(replicas, batch, totals)
    assert roundings(replicated.item(), loss) < LOSS
    inputs, *masked, labels = batch
    whole, _ = model(*inputs[0].padded(), *masked, labels)  # the model's own loss
    assert roundings(loss, whole.item()) < LOSS


@pytest.mark.numeric
def test_evaluation_against_a_plain_computation(tiny_model, corpus, tmp_path, call):
    """As Google's: batches in the files' order, again from the start where they end."""
    out = train(tmp_path, *command(tiny_model, corpus / "4.instances"))
    flags = [f for f in command(tiny_model, corpus / "[03].instances") if f != "--do_train"]
    call(
        run_pretraining, *flags, "--do_eval", "--eval_batch_size=5", "--max_eval_steps=7",
        f"--output_dir={out}",
    ).ok()  # fmt: skip
    model = BertForPreTraining(BertConfig.from_json_file(out / "bert_config.json")).eval()
    load_weights(model, out)
    rows = list(random_rows(sum(SIZES), *SETTINGS, vocab_size(tiny_model)))
    rows = rows[:13] + rows[47:49]  # shards 0 and 3
    batches, masked, sentences = [], [], []
    for batch in range(7):
        words, nexts = [], []
        for place in range(5 * batch, 5 * batch + 5):
            row = rows[place % 15]
            ids, segments = (torch.tensor([row[name]]) for name in ("input_ids", "segment_ids"))
            with torch.no_grad():
                scores, next_scores = (x[0].log_softmax(dim=-1) for x in model(ids, segments))
            for position, truth in zip(row["masked_lm_positions"], row["masked_lm_ids"]):
                words.append((-scores[position, truth].item(), scores[position].argmax() == truth))
            label = row["next_sentence_label"]
            nexts.append((-next_scores[label].item(), next_scores.argmax() == label))
        mean = [np.mean(figures, axis=0)[0] for figures in (words, nexts)]
        batches.append(sum(mean))
        masked += words
        sentences += nexts
    (masked_loss, masked_right), (next_loss, next_right) = (
        np.mean(np.array(figures, float), axis=0) for figures in (masked, sentences)
    )
    wanted = {
        "global_step": STEPS, "loss": np.mean(batches), "masked_lm_accuracy": masked_right,
        "masked_lm_loss": masked_loss, "next_sentence_accuracy": next_right,
        "next_sentence_loss": next_loss,
    }  # fmt: skip
    found = results(out)
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert roundings(float(found[name]), value, wanted["loss"]) < LOSS, name


# --- ranks over shards ---------------------------------------------------------------------------

# Trains twice, without and with accumulation, and writes down which rows each rank reads.
READER = """
import json, os, sys
sys.path.insert(0, os.getcwd())
import torch.distributed as dist
import instances, run_pretraining

rank, out = os.environ["RANK"], sys.argv[1]
true = instances.Instances.__getitem__
def reading(self, index):
    seen.append(int(index))
    return true(self, index)
instances.Instances.__getitem__ = reading
for accumulation in 1, 2:
    seen = []
    folder = f"{out}/{accumulation}"
    run_pretraining.main([*sys.argv[2:], f"--output_dir={folder}",
                          f"--gradient_accumulation_steps={accumulation}"])
    json.dump(seen, open(f"{folder}/rows-{rank}.json", "w"))
    dist.init_process_group = dist.destroy_process_group = lambda *_: None  # The group stays.
"""


@pytest.fixture(scope="session")
def exact_command(tiny_model_without_dropout, corpus):
    return command(
        tiny_model_without_dropout, corpus / "*.instances", "--save_checkpoints_steps=5",
        "--keep_checkpoints=9",
    )  # fmt: skip


@pytest.fixture(scope="session")
def alone(exact_command, tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone"), *exact_command)


@pytest.mark.numeric
def test_accumulation_changes_nothing(alone, exact_command, tiny_model_without_dropout, tmp_path):
    train(tmp_path, *exact_command, "--gradient_accumulation_steps=3")
    assert_close_runs(tmp_path, alone, tiny_model_without_dropout)


@pytest.mark.numeric
def test_bfloat16_is_close(alone, exact_command, tmp_path, monkeypatch):
    monkeypatch.setenv(FORCE, "1")
    train(tmp_path, *exact_command, "--bf16")
    # A dozen products, each rounded, in the loss; the weights that they train differ as little.
    assert 1 < roundings(losses(tmp_path), losses(alone)) < 3 * BF16_ROUNDING / ROUNDING


@pytest.mark.parametrize("ranks", (2, 4))
def test_ranks_over_eight_shards(
    ranks, alone, exact_command, tiny_model_without_dropout, tmp_path, call
):
    """Every instance is read once an epoch, by one rank; losses and weights are as of one."""
    script = tmp_path / "reader.py"
    script.write_text(READER, "utf-8")
    run_ranks(ranks, script, tmp_path, *exact_command).ok()
    wanted = [step_examples(SIZES, BATCH, step, 42) for step in range(STEPS)]
    for accumulation in (1, 2):
        out = tmp_path / str(accumulation)
        assert_close_runs(out, alone, tiny_model_without_dropout)
        seen = [json.loads((out / f"rows-{rank}.json").read_text()) for rank in range(ranks)]
        steps = [np.reshape(rows, (STEPS, BATCH // ranks)) for rows in seen]
        assert np.array_equal(np.concatenate(steps, axis=1), wanted)
    stream = np.concatenate(wanted)
    for epoch in (0, 1):
        assert sorted(stream[107 * epoch : 107 * (epoch + 1)]) == [*range(107)]
    # A run may go on with another number of ranks.
    (tmp_path / "one").mkdir()
    for name in ("checkpoint-5.pt", "training_log.jsonl"):
        shutil.copy(out / name, tmp_path / "one")
    again = call(run_pretraining, *exact_command, f"--output_dir={tmp_path / 'one'}").ok()
    assert f"resuming from {tmp_path}/one/checkpoint-5.pt" in again.out
    assert_close_runs(tmp_path / "one", alone, tiny_model_without_dropout)


# --- kills ---------------------------------------------------------------------------------------


def test_sigkill_within_an_epoch(tiny_model, corpus, tmp_path):
    """Started again, it ends with the bits of a run that was never stopped (dropout is 0.1)."""
    flags = command(
        tiny_model, corpus / "*.instances", "--num_train_steps=40", "--save_checkpoints_steps=2",
        "--do_eval", "--max_eval_steps=3",
    )  # fmt: skip
    whole, killed = train(tmp_path / "whole", *flags), tmp_path / "killed"
    process = start("run_pretraining.py", *flags, f"--output_dir={killed}")
    log, limit = killed / "training_log.jsonl", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < limit:
        if log.exists() and log.read_bytes().count(b"\n") >= 9:
            process.kill()
        time.sleep(0.0005)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert 9 <= log.read_bytes().count(b"\n") < 40 and not (killed / "pytorch_model.bin").exists()
    again = run("run_pretraining.py", *flags, f"--output_dir={killed}").ok()
    assert f"resuming from {killed}/checkpoint-" in again.out
    assert_same_weights(killed, whole)
    assert losses(killed) == losses(whole)
    assert results(killed) == results(whole)


# --- input and output ----------------------------------------------------------------------------


def test_tfrecords_train_as_our_files(tiny_model, corpus, tmp_path):
    ours = train(tmp_path / "ours", *command(tiny_model, corpus / "*.instances"))
    theirs = train(tmp_path / "theirs", *command(tiny_model, corpus / "*.tfrecord"))
    assert_same_weights(ours, theirs)
    assert losses(ours) == losses(theirs)


def test_output_dir_is_self_contained(tiny_model, corpus, tmp_path, call):
    out, flags = tmp_path / "out", command(tiny_model, corpus / "0.instances")
    first = call(run_pretraining, *flags, f"--output_dir={out}").ok()
    assert "; new: cls.predictions (" in first.out
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "pytorch_model.bin", "bert_config.json", "vocab.txt", "run.json", "training_log.jsonl",
        "report.html", f"checkpoint-{STEPS}.pt",
    }  # fmt: skip
    facts = checkpoint.read_metadata(str(out))
    assert facts["script"] == "run_pretraining.py" and facts["global_step"] == STEPS
    assert facts["do_lower_case"] is True
    # A checkpoint's step is its own, wherever the run ended.
    (out / f"checkpoint-{STEPS}.pt").rename(tmp_path / "checkpoint-2.pt")
    assert checkpoint.read_metadata(str(tmp_path / "checkpoint-2.pt")) == {"global_step": 2}
    shutil.copy(tmp_path / "checkpoint-2.pt", out / f"checkpoint-{STEPS}.pt")
    shutil.copy(out / "run.json", tmp_path)
    facts["global_step"] = 2
    assert checkpoint.read_metadata(str(tmp_path / "checkpoint-2.pt")) == facts
    # Its weights, heads and all, start another run, whose files of instances are other ones.
    more = [flag for flag in command(tiny_model, corpus / "1.instances") if "=" in flag]
    outcome = call(
        run_pretraining, *more, "--do_train", f"--init_checkpoint={out}",
        f"--output_dir={tmp_path / 'more'}",
    ).ok()  # fmt: skip
    assert f"weights from {out}; new: none; not used: none" in outcome.out
    outcome = call(run_pretraining, *more, "--do_train", f"--output_dir={out}")
    assert outcome.status == 2 and "training examples was " in outcome.err


def test_without_a_vocabulary_nothing_is_said_of_casing(tiny_model, corpus, tmp_path, call):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "vocab.txt").unlink()  # else it would be taken from there
    flags = [f for f in command(model, corpus / "0.instances") if "vocab_file" not in f]
    out = tmp_path / "out"
    call(run_pretraining, *flags, f"--output_dir={out}").ok()
    assert not (out / "vocab.txt").exists()
    args = SimpleNamespace(
        do_train=True, init_checkpoint=str(out), output_dir="", do_lower_case=False
    )
    assert training.resolve_init_checkpoint(args) == str(out)


def test_heads_that_were_never_trained_are_not_evaluated(tiny_model, corpus, tmp_path, call):
    flags = [f for f in command(tiny_model, corpus / "0.instances") if f != "--do_train"]
    outcome = call(run_pretraining, *flags, "--do_eval", f"--output_dir={tmp_path}")
    assert outcome.status == 2 and "has no cls.predictions.bias, " in outcome.err


# --- mistakes ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bad(corpus, tiny_model, tmp_path_factory):
    """A folder with files that cannot be used, beside ones that can."""
    folder, size = shutil.copytree(corpus, tmp_path_factory.mktemp("bad") / "files"), 70000
    rows = list(random_rows(3, *SETTINGS, size, seed=1))
    write_instances(folder / "large", [encode_instance(**row) for row in rows], *SETTINGS, size)
    write_tfrecord(folder / "large.tfrecord", rows, *SETTINGS)
    write_instances(folder / "none", [], *SETTINGS, vocab_size(tiny_model))
    (folder / "nothing").write_bytes(b"")
    (folder / "text").write_text("One sentence.\n\nAnother one.\n")
    whole = (folder / "0.instances").read_bytes()
    (folder / "cut").write_bytes(whole[:-1])
    return folder


@pytest.mark.parametrize(
    "files, more, message",
    (
        ("x*", (), "--input_file {bad}/x*: no such file"),
        ("0.instances,y", (), "--input_file y: no such file"),
        ("none", (), "--input_file {bad}/none contains no instances"),
        ("nothing", (), "--input_file {bad}/nothing contains no instances"),
        ("cut", (), "{bad}/cut is damaged or cut short: create it again"),
        ("text", (), "{bad}/text: record 0: damaged, cut short, or not of an uncompressed "
         "TFRecord file"),
        ("*.instances", ("--max_seq_length=32",), "{bad}/0.instances was made with "
         "--max_seq_length 24, but here it is 32: give the same"),
        ("*.tfrecord", ("--max_predictions_per_seq=5",), "{bad}/0.tfrecord was made with "
         "--max_predictions_per_seq 4, but here it is 5: give the same"),
        ("large", (), "{bad}/large was made with a vocabulary of 70000 entries, but vocab_size in "
         "{model}/bert_config.json is {size}"),
        ("large.tfrecord", (), "{bad}/large.tfrecord: row 0: {id} in input_ids is not in "
         "0..{last}: these instances were made for another model"),
        ("*.instances", ("--num_warmup_steps=15",), "--num_warmup_steps is 15, but must be 0 to "
         "--num_train_steps, which is 14"),
        ("*.instances", ("--max_seq_length=65",), "--max_seq_length 65 exceeds the model's 64 "
         "positions"),
        ("*.instances", ("--no_do_train",), "nothing to do: give --do_train or --do_eval"),
    ),
)  # fmt: skip
def test_mistakes(files, more, message, bad, tiny_model, tmp_path, call):
    outcome = call(
        run_pretraining,
        *command(tiny_model, bad / files, *more),
        f"--output_dir={tmp_path / 'out'}",
    )
    size = vocab_size(tiny_model)
    row = next(random_rows(1, *SETTINGS, 70000, seed=1))
    message = message.format(
        bad=bad, model=tiny_model, size=size, last=size - 1, id=max(row["input_ids"])
    )
    assert (outcome.status, outcome.err) == (2, f"run_pretraining.py: error: {message}\n")
    assert not (tmp_path / "out").exists()


def test_help_and_wrong_flags_load_no_torch():
    code = (
        "import sys, flags; sys.argv = ['run_pretraining.py', *sys.argv[1:]]\n"
        "import runpy\n"
        "try: runpy.run_path('run_pretraining.py', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    assert run("-c", code, "--help").out.endswith("0 False\n")
    assert run("-c", code, "--nonsense").out == "2 False\n"
