"""A user's mistake gives one line on stderr and exit status 2, and nothing is written.

mistakes.tsv has a row for each mistake and says at its top how to read it.
"""

import json
import os
import re
import shutil

import pytest
import torch
from helpers import ROOT, assert_same_weights, model_flags, run
from wrong_inputs import (
    write_configs,
    write_data,
    write_squad,
    write_tables,
    write_tagging,
    write_texts,
    write_vocabularies,
    write_weights,
)

import convert_pytorch_checkpoint_to_tf
import convert_tf_checkpoint_to_pytorch
import create_pretraining_data
import extract_features
import predict
import run_classifier
import run_pretraining
import run_squad
import run_tagger
import squad_metrics

SCRIPTS = {
    "run_classifier": run_classifier,
    "run_squad": run_squad,
    "run_tagger": run_tagger,
    "run_pretraining": run_pretraining,
    "extract": extract_features,
    "predict": predict,
    "make_data": create_pretraining_data,
    "to_pytorch": convert_tf_checkpoint_to_pytorch,
    "to_tf": convert_pytorch_checkpoint_to_tf,
    "metrics": squad_metrics,
}


@pytest.fixture(scope="module")
def paths(tiny_model, mrpc, squad, tagging, tmp_path_factory):
    """{name: path} of everything that a row of mistakes.tsv may mention in braces.

    One name is not a path: tasks, the list of --task_name's values.
    """
    root = tmp_path_factory.mktemp("mistakes")
    tasks = ", ".join(run_classifier.PROCESSORS)
    found = {"model": tiny_model, "out": root / "out", "root": root, "tasks": tasks}
    for name, write, source in (
        ("data", write_data, mrpc),
        ("config", write_configs, tiny_model),
        ("vocab", write_vocabularies, tiny_model),
        ("weights", write_weights, tiny_model),
        ("squad", write_squad, squad),
        ("tags", write_tagging, tagging),
        ("text", write_texts, tiny_model),
        ("tables", write_tables, tiny_model),
    ):
        found[name] = root / name
        found[name].mkdir()
        write(found[name], source)
    (root / "a_file").write_text("mine")
    (root / "foreign").mkdir()
    shutil.copy(tiny_model / "pytorch_model.bin", root / "foreign")
    (root / "shards").mkdir()
    (root / "shards/model.safetensors.index.json").write_text("{}")
    (root / "link").symlink_to("nowhere")
    (root / "broken").mkdir()
    (root / "broken/run.json").write_text("[")
    (root / "damaged").mkdir()
    (root / "damaged/checkpoint-3.pt").write_bytes(b"half")
    return found


def right_command(script, paths):
    """The flags of a right command; for the drivers, only what to do (--do_train, …) is missing."""
    data, out = paths["data"] / "good", f"--output_dir={paths['out']}"
    config = f"--bert_config_file={paths['model'] / 'bert_config.json'}"
    small = ["--train_batch_size=4", "--learning_rate=1e-3"]
    if script == "run_classifier":
        return ["--task_name=MRPC", f"--data_dir={data}", *model_flags(paths["model"]),
                "--max_seq_length=48", *small, out]  # fmt: skip
    if script == "run_squad":
        return [f"--train_file={paths['squad'] / 'good.json'}", *model_flags(paths["model"]),
                "--max_seq_length=64", "--max_query_length=24", "--doc_stride=16", *small,
                out]  # fmt: skip
    if script == "run_tagger":
        return [f"--data_dir={paths['tags']}/good", *model_flags(paths["model"]),
                "--max_seq_length=48", *small, out]  # fmt: skip
    if script == "run_pretraining":
        return [f"--input_file={paths['text']}/good", *model_flags(paths["model"]),
                "--max_seq_length=16", "--max_predictions_per_seq=2", "--num_train_steps=2",
                "--num_warmup_steps=1", *small, out]  # fmt: skip
    if script == "extract":
        return [f"--input_file={paths['text']}/good.txt", *model_flags(paths["model"]),
                "--max_seq_length=16", "--layers=-1",
                f"--output_file={paths['out']}.jsonl"]  # fmt: skip
    if script == "predict":
        return []
    if script == "make_data":
        return [f"--input_file={paths['text']}/good.txt", "--max_seq_length=16",
                f"--vocab_file={paths['model']}/vocab.txt",
                f"--output_file={paths['out']}.instances"]  # fmt: skip
    if script == "to_pytorch":
        return [f"--tf_checkpoint_path={paths['weights']}/tf/a.ckpt", config,
                f"--pytorch_dump_path={paths['out']}/new.bin"]  # fmt: skip
    if script == "to_tf":
        return [f"--pytorch_model_path={paths['model']}", config,
                f"--tf_checkpoint_path={paths['out']}/new.ckpt"]  # fmt: skip
    return []


def command(script, changes, paths):
    """The flags of the right command after the changes of a row."""
    given = right_command(script, paths)
    for change in changes.split():
        if change.startswith("!"):
            given = [flag for flag in given if not flag.startswith(f"--{change[1:]}=")]
        else:
            given.append(change.format(**paths))
    return given


def snapshot(root):
    """{path: content, or False for a folder} of everything under root."""
    return {path: path.is_file() and path.read_bytes() for path in sorted(root.rglob("*"))}


def read_rows():
    """The rows of mistakes.tsv as (script, changes, line)."""
    lines = (ROOT / "tests/mistakes.tsv").read_text("utf-8").splitlines()
    header, *rows = [line for line in lines if line and not line.startswith("#")]
    assert header == "script\tchanges\tline"
    rows = [tuple(row.split("\t")) for row in rows]
    assert not [row for row in rows if len(row) != 3], "three columns, separated by single tabs"
    return rows


ROWS = read_rows()


@pytest.mark.parametrize("script, changes, line", ROWS, ids=lambda v: v[:60] or "nothing")
def test_mistake(script, changes, line, paths, call):
    before = snapshot(paths["root"])
    module = SCRIPTS[script]
    outcome = call(module, *command(script, changes, paths))
    wanted = f"{module.__name__}.py: error: {line.format(**paths)}"
    if line.endswith("…"):  # the rest is PyTorch's message
        assert outcome.err.startswith(wanted.removesuffix("…")) and outcome.err.count("\n") == 1
    else:
        assert outcome.err == wanted + "\n"
    assert outcome.status == 2
    assert "must never be printed" not in outcome.out
    assert snapshot(paths["root"]) == before, "something was written"


def test_there_are_enough_mistakes():
    assert len({row[:2] for row in ROWS}) == len(ROWS) >= 190


@pytest.mark.parametrize(
    "script, changes",
    [
        ("run_classifier", ""),
        ("run_classifier", "--do_train --max_seq_length=65"),
        ("to_pytorch", "--tf_checkpoint_path={weights}/tf/a.ckpt.meta"),
    ],
)
def test_mistake_as_a_command(script, changes, paths):
    """The same when the script is run as a command."""
    line = {row[:2]: row[2] for row in ROWS}[script, changes]
    outcome = run(f"{SCRIPTS[script].__name__}.py", *command(script, changes, paths))
    assert outcome.status == 2 and outcome.out == ""
    assert outcome.err == f"{SCRIPTS[script].__name__}.py: error: {line.format(**paths)}\n"
    assert not paths["out"].exists()


@pytest.mark.parametrize(
    ("script", "changes"),
    [
        ("run_classifier", "--do_train --data_dir={data}/no_train"),
        ("run_squad", "--do_train --do_predict --predict_file={squad}/no.json"),
        ("to_pytorch", "--pytorch_dump_path={root}/a_file/new.bin"),
        ("make_data", "--output_file={root}/a_file/new"),
    ],
)
def test_a_wrong_path_is_reported_before_pytorch_is_loaded(script, changes, paths):
    given = command(script, changes, paths)
    outcome = run("-X", "importtime", f"{SCRIPTS[script].__name__}.py", *given)
    line = {row[:2]: row[2] for row in ROWS}[script, changes].format(**paths)
    assert outcome.status == 2 and outcome.err.endswith(f": error: {line}\n")
    assert not re.search(r"\| +torch$", outcome.err, re.M)


def test_folder_that_cannot_be_written(paths, call, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: mode == os.R_OK)
    outcome = call(run_classifier, *command("run_classifier", "--do_train", paths))
    assert outcome.status == 2 and not paths["out"].exists()
    assert outcome.err == (
        f"run_classifier.py: error: --output_dir {paths['out']}: {paths['root']} is not writable\n"
    )


@pytest.mark.parametrize(
    ("flag", "gpus", "line"),
    [
        ("fp16", 0, "--fp16 needs a GPU, and there is none here; use --bf16 on a CPU"),
        ("compile", 0, "--compile needs a GPU, and there is none here: leave it out"),
        ("compile", 2, "--compile needs one process for each GPU: torchrun --nproc_per_node=2 …"),
    ],
)
def test_a_gpu_that_is_not_there(paths, call, monkeypatch, flag, gpus, line):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    outcome = call(run_squad, *command("run_squad", f"--do_train --{flag}", paths))
    assert outcome.status == 2 and not paths["out"].exists()
    assert outcome.err == f"run_squad.py: error: {line}\n"


def as_windows(source, folder):
    """Copies a text file, with a byte-order mark and Windows line endings; returns the path."""
    text = source.read_bytes().replace(b"\n", b"\r\n")
    (folder / source.name).write_bytes(b"\xef\xbb\xbf" + text)
    return folder / source.name


@pytest.mark.parametrize("script", ("run_classifier", "run_squad", "run_tagger"))
def test_windows_files_are_no_mistake(script, paths, call, tmp_path):
    """Nor is an empty context: the trained weights are the same, bit for bit."""
    (windows := tmp_path / "windows").mkdir()
    good = paths["tags" if script == "run_tagger" else "data"] / "good"
    for source in good.iterdir():
        as_windows(source, windows)
    dataset = json.loads((paths["squad"] / "good.json").read_text("utf-8"))
    qa = {"id": "none", "question": "?", "answers": [{"text": "a", "answer_start": 0}]}
    dataset["data"][0]["paragraphs"].append({"context": "", "qas": [qa]})
    (tmp_path / "good.json").write_text(json.dumps(dataset, indent=1), "utf-8")
    as_windows(tmp_path / "good.json", windows)
    train_file = f"--train_file={windows}/good.json"
    changes = train_file if script == "run_squad" else f"--data_dir={windows}"
    for flag, name in (("vocab_file", "vocab.txt"), ("bert_config_file", "bert_config.json")):
        changes += f" --{flag}={as_windows(paths['model'] / name, windows)}"
    for name, more in (("plain", ""), ("other", changes)):
        more += f" --do_train --output_dir={tmp_path / name}"
        call(SCRIPTS[script], *command(script, more, paths)).ok()
    assert_same_weights(tmp_path / "plain", tmp_path / "other")


def test_a_programming_error_keeps_its_traceback(paths, call, monkeypatch):
    """Only a user's mistake is reduced to one line."""
    monkeypatch.setattr(run_classifier, "BertConfig", None)
    with pytest.raises(AttributeError):
        call(run_classifier, *command("run_classifier", "--do_train", paths))


def test_bert_debug_shows_where_a_mistake_was_noticed(paths, call, monkeypatch):
    monkeypatch.setenv("BERT_DEBUG", "1")
    with pytest.raises(ValueError, match="exceeds the model's 64 positions"):
        call(run_classifier, *command("run_classifier", "--do_train --max_seq_length=65", paths))
