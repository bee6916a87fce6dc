"""What a folder holds, and what runs do about it: refuse, clear, resume, evaluate, lock.

checkpoint.inspect_folder is the one answer; training, evaluation, overwriting, resuming and
--init_checkpoint ask it.
"""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from helpers import assert_same_weights, model_flags, run, run_ranks, start, weights

import checkpoint
import convert_pytorch_checkpoint_to_tf
import extract_features
import flags
import glue_data
import predict
import run_classifier
import run_pretraining
import run_squad
import run_tagger
from files import WRITTEN, FolderLock


def command(data, *more):
    """A run of 6 steps that says nothing of the model."""
    return [
        "--task_name=MRPC", f"--data_dir={data}", "--max_seq_length=24", "--train_batch_size=4",
        "--learning_rate=1e-3", "--num_train_epochs=2", "--save_checkpoints_steps=2", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_model, mrpc, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    run_classifier.main([
        *command(mrpc, "--do_train", "--do_eval", "--do_predict"), *model_flags(tiny_model),
        f"--output_dir={out}",
    ])  # fmt: skip
    return out


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


@pytest.fixture
def unfinished(copy):
    """The folder of a run that was killed after its second checkpoint."""
    for name in ("checkpoint-6.pt", "pytorch_model.bin", "run.json"):
        (copy / name).unlink()
    return copy


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def hugging_face(folder, tiny_model, parts=False):
    """A folder as transformers writes it."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    folder.mkdir()
    state = torch.load(tiny_model / "pytorch_model.bin", weights_only=True)
    names = sorted(state)
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    if parts:
        for number, file in enumerate(files):
            save_file({name: state[name] for name in names[number::2]}, folder / file)
        index = {name: files[n % 2] for n, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    else:
        save_file(state, folder / "model.safetensors")
    config = json.loads((tiny_model / "bert_config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}), "utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    shutil.copy(tiny_model / "vocab.txt", folder)
    return folder


def tensorflow(folder, tiny_model):
    convert_pytorch_checkpoint_to_tf.convert_pytorch_checkpoint_to_tf(
        str(tiny_model), str(tiny_model / "bert_config.json"), str(folder / "bert_model.ckpt")
    )
    for name in ("vocab.txt", "bert_config.json"):
        shutil.copy(tiny_model / name, folder)
    return folder


# --- what is in a folder -------------------------------------------------------------------------


def test_what_a_run_leaves(trained):
    folder = checkpoint.inspect_folder(trained)
    assert folder.source == str(trained / "pytorch_model.bin") and not folder.is_tensorflow
    assert list(folder.weights) == ["pytorch_model.bin"] and list(folder.checkpoints) == [6, 4]
    assert folder.script == "run_classifier.py"  # although pytest is what was called
    assert folder.task == "classification" and folder.labels == ["0", "1"]
    assert folder.casing == {"do_lower_case": True, "strip_accents": True}
    assert folder.is_finished and not folder.foreign and not folder.added_tokens
    assert folder.config_file == str(trained / "bert_config.json")
    assert folder.vocab_file == str(trained / "vocab.txt")
    one = checkpoint.inspect_folder(trained / "checkpoint-4.pt")
    assert one.source == str(trained / "checkpoint-4.pt") and one.labels == ["0", "1"]


def test_every_format_is_weights(tiny_model, tmp_path):
    whole = checkpoint.inspect_folder(hugging_face(tmp_path / "whole", tiny_model))
    assert list(whole.weights) == ["model.safetensors"] and not whole.foreign
    parts = checkpoint.inspect_folder(hugging_face(tmp_path / "parts", tiny_model, parts=True))
    assert list(parts.weights) == ["model.safetensors.index.json"] and len(parts.foreign) == 3
    google = tensorflow(tmp_path / "google", tiny_model)
    for path in (google, google / "bert_model.ckpt", google / "bert_model.ckpt.index"):
        folder = checkpoint.inspect_folder(path)
        assert folder.is_tensorflow and list(folder.weights) == ["TensorFlow"]
        assert folder.config_file == str(google / "bert_config.json") and folder.foreign
    beside = checkpoint.inspect_folder(google / "not_there")  # not what lies beside it
    assert beside.source is beside.config_file is None and not beside.weights
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere", tmp_path / "empty" / "x.bin"):
        folder = checkpoint.inspect_folder(path)
        assert folder.source is None and not folder.weights and folder.task is None


def test_an_unfinished_run_can_be_used_by_its_checkpoint(unfinished, mrpc, tmp_path, call):
    """Configuration and vocabulary are written with the first checkpoint."""
    for name in ("config.json", "tokenizer_config.json"):
        (unfinished / name).unlink()
    folder = checkpoint.inspect_folder(unfinished)
    assert not folder.is_finished and folder.source == str(unfinished / "checkpoint-4.pt")
    outcome = call(
        run_classifier, *command(mrpc, "--do_eval"), f"--output_dir={tmp_path / 'out'}",
        f"--init_checkpoint={unfinished}/checkpoint-4.pt",
    ).ok()  # fmt: skip
    assert "global_step = 4" in outcome.out


@pytest.mark.parametrize("kind", ["several labels", "tags"])
def test_a_checkpoint_can_be_used_as_the_weights(kind, tiny_model, tmp_path, monkeypatch):
    """Of a run that is killed before its end: with the task, labels and lengths of the run."""
    rows = "text\tlabel\nIt rained.\train\nThe mill closed.\tmill|rain\nNothing.\t\n" * 3
    (tmp_path / "train.tsv").write_text(rows.replace("Nothing.\t\ntext\tlabel\n", "Nothing.\t\n"))
    (tmp_path / "train.txt").write_text("Ada B-PER\nrests O\n\n" * 4)
    driver = {"several labels": run_classifier, "tags": run_tagger}[kind]
    argv = [
        "--do_train", f"--data_dir={tmp_path}", "--max_seq_length=24", "--train_batch_size=4",
        "--learning_rate=1e-2", *model_flags(tiny_model), f"--output_dir={tmp_path / 'out'}",
    ]  # fmt: skip
    if kind == "several labels":
        argv += ["--task_name=tsv", "--text_columns=text", "--label_column=label", "--multi_label"]

    def used():
        model = predict.load(tmp_path / "out")
        assert model.max_seq_length == 24
        return (model.classify if kind == "several labels" else model.tag)(
            ["Ada rests. It rained."]
        )

    def kill(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save_model", kill)
        driver.main(argv)
    folder = checkpoint.inspect_folder(tmp_path / "out")
    assert folder.config_file and folder.vocab_file and not folder.is_finished
    assert os.path.basename(folder.source).startswith("checkpoint-")
    from_checkpoint = used()

    driver.main(argv)
    assert checkpoint.inspect_folder(tmp_path / "out").is_finished
    assert used() == from_checkpoint
    if kind == "several labels":
        assert from_checkpoint[0].probabilities.keys() == {"mill", "rain"}


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["whole", "parts", "google"])
def test_weights_that_were_not_trained_here_are_not_replaced(
    form, tiny_model, mrpc, tmp_path, call
):
    if form == "google":
        out = tensorflow(tmp_path / "out", tiny_model)
    else:
        out = hugging_face(tmp_path / "out", tiny_model, parts=form == "parts")
    before = contents(out)
    given = [*command(mrpc, "--do_train"), *model_flags(tiny_model), f"--output_dir={out}"]
    outcome = call(run_classifier, *given)
    assert outcome.status == 2 and outcome.err.count("\n") == 1 and contents(out) == before
    if form == "whole":
        assert outcome.err.endswith(
            f"--output_dir {out} already holds a model.safetensors that was not trained here: use "
            f"another folder, or replace it with --overwrite_output_dir\n"
        )
        call(run_classifier, *given, "--overwrite_output_dir").ok()
        assert not (out / "model.safetensors").exists() and (out / "pytorch_model.bin").exists()
        return
    outcome = call(run_classifier, *given, "--overwrite_output_dir")
    assert outcome.status == 2 and contents(out) == before
    assert "which no run writes and --overwrite_output_dir does not remove" in outcome.err


@pytest.mark.parametrize("name", ["vocab.txt", "bert_config.json", "config.json"])
def test_a_users_files_are_not_replaced(name, tiny_model, mrpc, tmp_path, call):
    """They may belong to another model; a run that ended early leaves its log beside its own."""
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("{}")
    given = [*command(mrpc, "--do_train"), *model_flags(tiny_model), f"--output_dir={out}"]
    outcome = call(run_classifier, *given)
    assert outcome.status == 2 and contents(out) == {Path(name): b"{}"}
    assert outcome.err.endswith(
        f"--output_dir {out} holds a {name} that no run wrote: use another folder, or replace it "
        f"with --overwrite_output_dir\n"
    )
    if name == "vocab.txt":
        (out / "training_log.jsonl").touch()
        call(run_classifier, *given).ok()
        assert (out / name).read_bytes() == (tiny_model / name).read_bytes()


def test_an_adapter_is_not_a_model(tiny_model, mrpc, tmp_path, call):
    """transformers would load it, and its base, from a folder in which our weights are too."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_text("{}")
    outcome = call(
        run_classifier, *command(mrpc, "--do_train"), f"--init_checkpoint={adapter}",
        f"--output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert outcome.status == 2 and "holds an adapter of PEFT and not the model" in outcome.err
    outcome = call(
        run_classifier, *command(mrpc, "--do_train", "--overwrite_output_dir"),
        *model_flags(tiny_model), f"--output_dir={adapter}",
    )  # fmt: skip
    assert outcome.status == 2 and len(contents(adapter)) == 2
    assert "holds adapter_model.safetensors, which no run writes" in outcome.err


def test_another_script_is_named(trained, squad, tiny_model, call):
    """Before the flags that differ, which only follow from it."""
    outcome = call(
        run_squad, "--do_train", f"--train_file={squad}/train-v1.1.json", *model_flags(tiny_model),
        f"--output_dir={trained}", "--max_seq_length=64", "--max_query_length=16",
        "--train_batch_size=4",
    )  # fmt: skip
    assert outcome.status == 2
    assert "other settings (script was run_classifier, is run_squad; " in outcome.err


def test_overwriting_removes_what_a_run_writes_and_nothing_else(copy, tiny_model, mrpc, call):
    own = {path.name for path in copy.iterdir()}
    (copy / "notes.txt").write_text("mine")
    (copy / "model.pt").write_text("mine")
    (copy / "predictions.json").write_text("{}")  # of a run of SQuAD
    (copy / "checkpoint-9.pt.tmp").write_text("half")
    outcome = call(
        run_classifier, *command(mrpc, "--do_train", "--overwrite_output_dir", "--seed=1"),
        *model_flags(tiny_model), f"--output_dir={copy}",
    ).ok()  # fmt: skip
    left = {path.name for path in copy.iterdir()}
    evaluated = {"eval_results.txt", "test_results.tsv", "MRPC.tsv"}
    assert own >= evaluated and left == own - evaluated | {"notes.txt", "model.pt"}
    assert "removing an earlier run from " in outcome.out
    assert "eval_results.txt" not in outcome.out.partition(f"in {copy}:")[2]


def test_all_that_a_run_writes_is_in_the_list(trained, tiny_model, squad, tmp_path):
    run_squad.main([
        *model_flags(tiny_model), "--max_seq_length=64", "--max_query_length=24", "--do_train",
        "--doc_stride=16", "--train_batch_size=3", "--num_train_epochs=1", "--do_predict",
        f"--train_file={squad / 'train-v1.1.json'}", "--save_safetensors",
        f"--predict_file={squad / 'dev-v1.1.json'}", f"--output_dir={tmp_path}",
    ])  # fmt: skip
    for folder in (trained, tmp_path):
        found = {os.path.basename(path) for path in checkpoint.written_by_runs(str(folder))}
        assert found == {path.name for path in folder.iterdir()}
    servers = {
        name for task in glue_data.PROCESSORS.values() for name in task.server_files.values()
    }
    assert servers <= set(WRITTEN)


@pytest.mark.parametrize("name", ["", "checkpoint-4.pt", "pytorch_model.bin"])
def test_a_run_does_not_remove_its_own_start(name, copy, mrpc, call):
    before = contents(copy)
    outcome = call(
        run_classifier, *command(mrpc, "--do_train", "--overwrite_output_dir"),
        f"--output_dir={copy}", f"--init_checkpoint={copy / name}",
    )  # fmt: skip
    assert outcome.status == 2 and contents(copy) == before
    assert re.search(
        r"--init_checkpoint \S+ is in --output_dir \S+, which --overwrite_output_dir clears: use "
        r"another --output_dir\n$", outcome.err,
    )  # fmt: skip


def test_a_vocabulary_in_the_folder_survives(copy, tiny_model, mrpc, call):
    """It is read at the start and written at the end."""
    call(
        run_classifier, *command(mrpc, "--do_train", "--overwrite_output_dir", "--seed=1"),
        f"--vocab_file={copy / 'vocab.txt'}", f"--bert_config_file={copy / 'bert_config.json'}",
        f"--init_checkpoint={tiny_model}", f"--output_dir={copy}",
    ).ok()  # fmt: skip
    assert (copy / "vocab.txt").read_bytes() == (tiny_model / "vocab.txt").read_bytes()


# --- resuming ------------------------------------------------------------------------------------


def test_an_unfinished_run_is_resumed_even_to_be_overwritten(
    unfinished, trained, tiny_model, mrpc, call
):
    """Else a job that is killed and requeued would never end."""
    given = [*command(mrpc, "--do_train"), *model_flags(tiny_model), "--overwrite_output_dir",
             f"--output_dir={unfinished}"]  # fmt: skip
    outcome = call(run_classifier, *given).ok()
    assert (
        f"resuming from {unfinished / 'checkpoint-4.pt'}, a run of this command that has not "
        f"ended: to drop it, delete the folder\n"
    ) in outcome.out
    assert_same_weights(unfinished, trained)
    # Now it has ended: it is trained again.
    outcome = call(run_classifier, *given).ok()
    assert "removing an earlier run" in outcome.out and "resuming" not in outcome.out
    assert_same_weights(unfinished, trained)


def test_a_run_that_lacks_only_its_end_is_resumed(copy, trained, tiny_model, mrpc, call):
    """Killed between the last checkpoint and the weights."""
    (copy / "pytorch_model.bin").unlink()
    outcome = call(
        run_classifier, *command(mrpc, "--do_train"), *model_flags(tiny_model),
        "--overwrite_output_dir", f"--output_dir={copy}",
    ).ok()  # fmt: skip
    assert f"resuming from {copy / 'checkpoint-6.pt'}" in outcome.out
    assert_same_weights(copy, trained)


def test_an_unfinished_run_of_another_command_is_cleared(unfinished, tiny_model, mrpc, call):
    outcome = call(
        run_classifier, *command(mrpc, "--do_train", "--seed=7"), *model_flags(tiny_model),
        "--overwrite_output_dir", f"--output_dir={unfinished}",
    ).ok()  # fmt: skip
    assert "removing an earlier run" in outcome.out and "resuming" not in outcome.out


@pytest.mark.parametrize("gone", [True, False])
def test_contents_decide_not_paths(gone, unfinished, trained, tiny_model, mrpc, tmp_path, call):
    """The same files elsewhere, or a start that is gone, which a resumed run does not read."""
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    given = model_flags(moved)
    if gone:
        (moved / "pytorch_model.bin").unlink()
        lines = (moved / "vocab.txt").read_bytes().replace(b"\n", b"\r\n")  # from Windows
        (moved / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + lines + b"\r\n")
    outcome = call(
        run_classifier, *command(mrpc, "--do_train"), *given, f"--output_dir={unfinished}"
    ).ok()
    assert f"resuming from {unfinished / 'checkpoint-4.pt'}" in outcome.out
    assert gone == ("is gone: a run that resumes does not read it" in outcome.out)
    assert_same_weights(unfinished, trained)


def test_nothing_of_the_start_is_left(unfinished, trained, mrpc, call):
    """Vocabulary and configuration are in the run's own folder."""
    outcome = call(
        run_classifier, *command(mrpc, "--do_train"), "--init_checkpoint=gone/for/ever",
        f"--output_dir={unfinished}",
    ).ok()  # fmt: skip
    assert "resuming from " in outcome.out
    assert_same_weights(unfinished, trained)


def test_a_start_need_not_be_given_again(unfinished, trained, tiny_model, mrpc, call):
    """Nor what came from its folder. The next checkpoints still say what the start was."""
    given = command(mrpc, "--do_train", f"--output_dir={unfinished}")
    outcome = call(run_classifier, *given).ok()
    assert f"resuming from {unfinished / 'checkpoint-4.pt'}" in outcome.out
    assert_same_weights(unfinished, trained)
    states = [torch.load(f / "checkpoint-6.pt", weights_only=True) for f in (unfinished, trained)]
    assert states[0]["decisive"] == states[1]["decisive"]
    # To begin anew from random weights is another run.
    outcome = call(run_classifier, *given, "--overwrite_output_dir")
    assert outcome.status == 2 and "required flags are missing: --bert_config_file" in outcome.err
    given += [*model_flags(tiny_model)[:2], "--overwrite_output_dir"]
    outcome = call(run_classifier, *given).ok()
    assert "removing an earlier run" in outcome.out and "starts from random" in outcome.out


def test_a_start_that_is_gone_is_missed_where_nothing_resumes(unfinished, tiny_model, mrpc, call):
    """It does not begin with random weights instead."""
    before = contents(unfinished)
    given = [*model_flags(tiny_model)[:2], "--init_checkpoint=gone/for/ever"]
    outcome = call(
        run_classifier, *command(mrpc, "--do_train", "--seed=7", "--overwrite_output_dir"),
        *given, f"--output_dir={unfinished}",
    )  # fmt: skip
    assert outcome.status == 2 and contents(unfinished) == before
    assert "--init_checkpoint gone/for/ever does not exist" in outcome.err


@pytest.mark.parametrize("name", ["vocab.txt", "bert_config.json", "pytorch_model.bin"])
def test_other_contents_are_noticed(name, unfinished, tiny_model, mrpc, tmp_path, call):
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    flag = {"vocab.txt": "vocab_file", "bert_config.json": "bert_config_file"}
    flag = flag.get(name, "init_checkpoint")
    if name == "pytorch_model.bin":
        state = weights(moved)
        state["bert.pooler.dense.bias"] += 1
        torch.save(state, moved / name)
    elif name == "vocab.txt":
        *first, one, other = (moved / name).read_text("utf-8").splitlines()
        (moved / name).write_text("\n".join([*first, other, one]) + "\n", "utf-8")
    else:
        values = json.loads((moved / name).read_text("utf-8"))
        (moved / name).write_text(json.dumps({**values, "initializer_range": 0.01}), "utf-8")
    outcome = call(
        run_classifier, *command(mrpc, "--do_train"), *model_flags(moved),
        f"--output_dir={unfinished}",
    )  # fmt: skip
    assert outcome.status == 2 and f" of --{flag} was " in outcome.err


def test_checkpoints_of_earlier_versions_resume(unfinished, trained, tiny_model, mrpc, call):
    """A flag that they lack had its default; contents that they lack are not compared."""
    path = unfinished / "checkpoint-4.pt"
    state = torch.load(path, weights_only=True)
    key = state["decisive"]
    for name in ("strip_accents", "compute_padding", "content of --vocab_file",
                 "content of --init_checkpoint"):  # fmt: skip
        del key[name]
    key |= {"init_checkpoint": "/x/model", "vocab_file": "/x/vocab", "bert_config_file": "/x/c"}
    torch.save(state, path)
    given = [*command(mrpc, "--do_train"), *model_flags(tiny_model), f"--output_dir={unfinished}"]
    outcome = call(run_classifier, *given, "--compute_padding")
    assert outcome.status == 2 and "(compute_padding was False, is True)" in outcome.err
    call(run_classifier, *given).ok()
    assert_same_weights(unfinished, trained)


# --- evaluating ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, taken, step",
    [
        ("{out}/checkpoint-4.pt", "{out}/checkpoint-4.pt", 4),
        ("{out}/pytorch_model.bin", "{out}/pytorch_model.bin", 6),
        ("{out}", "{out}", 6),
        ("{base}", "{out}", 6),  # as with Google's estimator
        ("{base}/pytorch_model.bin", "{out}", 6),
        (None, "{out}", 6),
    ],
)
def test_which_weights_are_evaluated(given, taken, step, copy, tiny_model, mrpc, call):
    names = {"out": copy, "base": tiny_model}
    more = [f"--init_checkpoint={given.format(**names)}"] if given else []
    outcome = call(run_classifier, *command(mrpc, "--do_eval"), *more, f"--output_dir={copy}").ok()
    assert f"weights from {taken.format(**names)}; new: none" in outcome.out
    assert f"global_step = {step}\n" in outcome.out
    other = given and given.startswith("{base}")
    assert bool(other) == ("not those of --init_checkpoint" in outcome.out)


def test_other_formats_in_the_folder_are_evaluated(copy, trained, mrpc, call):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(weights(copy), copy / "model.safetensors")
    before = (trained / "eval_results.txt").read_bytes()
    (copy / "pytorch_model.bin").unlink()
    call(run_classifier, *command(mrpc, "--do_eval"), f"--output_dir={copy}").ok()
    assert (copy / "eval_results.txt").read_bytes() == before


def test_a_damaged_run_json_is_found_before_any_work(copy, tiny_model, mrpc, tmp_path, call):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text('{"labels": ')
    for action in ("--do_train", "--do_eval"):
        outcome = call(
            run_classifier, *command(mrpc, action), f"--init_checkpoint={copy}",
            f"--output_dir={tmp_path / 'out'}",
        )  # fmt: skip
        assert outcome.status == 2 and outcome.out == "" and outcome.err.count("\n") == 1
        assert f"{tmp_path}/out/run.json is damaged: " in outcome.err


# --- --init_checkpoint FOLDER suffices -----------------------------------------------------------


def test_a_folder_suffices(tiny_model, trained, mrpc, tmp_path):
    run_classifier.main([
        *command(mrpc, "--do_train"), f"--init_checkpoint={tiny_model}", f"--output_dir={tmp_path}"
    ])  # fmt: skip
    assert_same_weights(tmp_path, trained)


def test_a_folder_of_transformers_suffices(tiny_model, trained, mrpc, tmp_path):
    folder = hugging_face(tmp_path / "theirs", tiny_model)
    out = tmp_path / "out"
    run_classifier.main([
        *command(mrpc, "--do_train"), f"--init_checkpoint={folder}", f"--output_dir={out}"
    ])  # fmt: skip
    assert_same_weights(out, trained)


def test_a_folder_suffices_for_features(tiny_model, tmp_path, call):
    (tmp_path / "texts").write_text("a text\n")
    given = [f"--input_file={tmp_path / 'texts'}", "--layers=-1", "--max_seq_length=24"]
    call(extract_features, *given, *model_flags(tiny_model), f"--output_file={tmp_path}/a").ok()
    call(extract_features, *given, f"--init_checkpoint={tiny_model}", f"--output_file={tmp_path}/b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_casing_comes_from_the_folder_unless_it_is_given(tiny_model, mrpc, tmp_path, call):
    folder = hugging_face(tmp_path / "cased", tiny_model)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    given = [*command(mrpc, "--do_train"), f"--init_checkpoint={folder}"]
    call(run_classifier, *given, f"--output_dir={tmp_path / 'out'}").ok()
    metadata = checkpoint.read_metadata(str(tmp_path / "out"))
    assert metadata["do_lower_case"] is False
    outcome = call(run_classifier, *given, "--do_lower_case", f"--output_dir={tmp_path / 'other'}")
    assert outcome.status == 2 and not (tmp_path / "other").exists()
    assert outcome.err.endswith(
        f"{folder} was trained with do_lower_case False, but this run has True\n"
    )


def test_labels_come_from_the_folder(mrpc, tiny_model, tmp_path, call):
    own = ["--task_name=tsv", "--text_columns=3,4", "--label_column=0", "--header=true"]
    given = [*command(mrpc), *own]
    out = f"--output_dir={tmp_path}"
    call(run_classifier, *given, "--do_train", "--labels=1,0", *model_flags(tiny_model), out).ok()
    outcome = call(run_classifier, *given, "--do_predict", out).ok()
    assert "test_results.tsv: 5 rows of 1, 0" in outcome.out
    outcome = call(run_classifier, *given, "--do_eval", f"--init_checkpoint={tiny_model}",
                   f"--output_dir={tmp_path / 'new'}")  # fmt: skip
    assert outcome.status == 2 and "--task_name tsv needs --labels" in outcome.err


@pytest.mark.parametrize("name", ["num_attention_heads", "hidden_act", "layer_norm_eps"])
def test_a_configuration_that_contradicts_stops_the_run(name, tiny_model, mrpc, tmp_path, call):
    """These would fit the weights and compute something else."""
    config = json.loads((tiny_model / "bert_config.json").read_text("utf-8"))
    config[name] = {"num_attention_heads": 2, "hidden_act": "relu", "layer_norm_eps": 1e-5}[name]
    (tmp_path / "c.json").write_text(json.dumps(config), "utf-8")
    outcome = call(
        run_classifier, *command(mrpc, "--do_train"), f"--init_checkpoint={tiny_model}",
        f"--bert_config_file={tmp_path / 'c.json'}", f"--output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert outcome.status == 2 and f"c.json has {name} {config[name]}, but " in outcome.err


def test_a_vocabulary_that_contradicts_stops_the_run(tiny_model, mrpc, tmp_path, call):
    words = (tiny_model / "vocab.txt").read_text("utf-8").split("\n")
    words[100], words[101] = words[101], words[100]
    (tmp_path / "v.txt").write_text("\n".join(words), "utf-8")
    outcome = call(
        run_classifier, *command(mrpc, "--do_train"), f"--init_checkpoint={tiny_model}",
        f"--vocab_file={tmp_path / 'v.txt'}", f"--output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert outcome.status == 2 and f"v.txt:101 is {words[100]!r}, but in " in outcome.err
    # A file that is not a vocabulary may have one long line.
    (tmp_path / "v.txt").write_text("\n".join([*words[:50], "x" * 9999, *words[51:]]), "utf-8")
    with pytest.raises(ValueError, match=f"v.txt:51 is '{'x' * 40}', but in "):
        run_classifier.main([
            *command(mrpc, "--do_train"), f"--init_checkpoint={tiny_model}",
            f"--vocab_file={tmp_path / 'v.txt'}", f"--output_dir={tmp_path / 'out'}",
        ])  # fmt: skip


@pytest.mark.parametrize(
    "missing, line",
    [
        ("vocab.txt", "--vocab_file is not given, and {folder} has none"),
        ("config.json", "--bert_config_file is not given, and {folder} has none"),
    ],
)
def test_a_folder_that_does_not_suffice(missing, line, tiny_model, mrpc, tmp_path, call):
    folder = hugging_face(tmp_path / "theirs", tiny_model)
    (folder / missing).unlink()
    outcome = call(
        run_classifier, *command(mrpc, "--do_train"), f"--init_checkpoint={folder}",
        f"--output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert outcome.status == 2
    assert outcome.err == f"run_classifier.py: error: {line.format(folder=folder)}\n"


@pytest.mark.parametrize(
    "name, hub",
    [
        ("bert-base-uncased", "google-bert/bert-base-uncased"),
        ("bert-large-cased", "google-bert/bert-large-cased"),
        ("google-bert/bert-base-chinese", "google-bert/bert-base-chinese"),
        ("dbmdz/bert-base-german-cased", "dbmdz/bert-base-german-cased"),
    ],
)
def test_a_hub_name_is_answered_with_what_to_download(name, hub, mrpc, tmp_path, call):
    outcome = call(
        run_classifier, *command(mrpc, "--do_train"), f"--init_checkpoint={name}",
        f"--output_dir={tmp_path}",
    )  # fmt: skip
    assert outcome.status == 2
    assert outcome.err == (
        f"run_classifier.py: error: --init_checkpoint {name} is not a folder or file here, and "
        f"nothing is downloaded: put config.json, vocab.txt and model.safetensors from "
        f"https://huggingface.co/{hub} into a folder, and give that folder\n"
    )


def test_which_flags_were_given_is_no_flag():
    args = run_pretraining.parse_args(
        ["--input_file=i", "--do_train", f"--bert_config_file={__file__}", "--output_dir=o",
         "--no_do_lower_case"]
    )  # fmt: skip
    assert args.given == {
        "input_file", "do_train", "bert_config_file", "output_dir", "do_lower_case"
    }  # fmt: skip
    assert flags.is_given(args, "do_lower_case") and not flags.is_given(args, "schedule")
    assert not vars(args).keys() & {"given", "script"}


# --- two processes -------------------------------------------------------------------------------


def test_two_jobs_in_one_folder(tiny_model, mrpc, tmp_path, call):
    """The second stops in one line; a kill leaves no lock."""
    out = f"--output_dir={tmp_path / 'out'}"
    given = ["run_classifier.py", *command(mrpc, "--do_train"), *model_flags(tiny_model), out]
    first = start(*given, "--num_train_epochs=2000")
    lock, limit = tmp_path / "out/.lock", time.monotonic() + 90
    log = tmp_path / "out/training_log.jsonl"
    while not (log.exists() and log.stat().st_size):
        assert first.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    for more in ([], ["--overwrite_output_dir"]):
        second = call(run_classifier, *given[1:], "--num_train_epochs=2000", *more)
        assert second.status == 2 and second.err.count("\n") == 1
        assert re.search(
            rf"--output_dir {tmp_path}/out is in use by process {first.pid} on \S+: wait for its "
            r"end, or use another folder\n$", second.err,
        )  # fmt: skip
    assert log.exists() and first.poll() is None
    first.kill()
    first.communicate()
    shutil.rmtree(tmp_path / "out", ignore_errors=False)
    (tmp_path / "out").mkdir()
    lock.write_text("process 1 on a machine that is gone")
    call(run_classifier, *given[1:]).ok()
    assert not lock.exists()


def test_a_lock_is_one_processs(tmp_path):
    lock = FolderLock(str(tmp_path))
    FolderLock(str(tmp_path))  # the same process may
    del lock
    code = f"import files; files.FolderLock({str(tmp_path)!r})"
    run("-c", code).ok()
    assert not list(tmp_path.iterdir())


RANKS = """
import os, sys
sys.path.insert(0, os.getcwd())
import run_classifier
rank = os.environ["RANK"]
import flags
flags.run(run_classifier.main, [flag.replace("RANK", rank) for flag in sys.argv[1:]])
"""


@pytest.mark.parametrize("action", ["--do_train", "--do_eval"])
def test_ranks_with_folders_of_their_own(action, copy, tiny_model, mrpc, tmp_path):
    """Node-local disks: one rank would resume or evaluate what the other does not see."""
    (copy / "checkpoint-6.pt").unlink()
    copy.rename(tmp_path / "out0")
    (tmp_path / "out1").mkdir()
    (tmp_path / "ranks.py").write_text(RANKS, "utf-8")
    other = shutil.copytree(tmp_path / "out0", tmp_path / "other")
    state = weights(other)
    state["classifier.bias"] += 1
    torch.save(state, other / "pytorch_model.bin")
    more = [*model_flags(tiny_model)[:2], f"--init_checkpoint={tiny_model}"]
    if action == "--do_eval":
        (tmp_path / "out1").rmdir()
        other.rename(tmp_path / "out1")
    outcome = run_ranks(2, tmp_path / "ranks.py", *command(mrpc, action), *more,
                  f"--output_dir={tmp_path}/outRANK")  # fmt: skip
    assert outcome.status > 0
    lines = {line for line in outcome.err.splitlines() if ": error: " in line}
    (line,) = lines
    if action == "--do_train":
        assert line.endswith(
            "rank 1 differs from rank 0 in --output_dir: step 0, not 4: all ranks must see the "
            "same files and --output_dir"
        )
    else:
        assert "rank 1 differs from rank 0 in the weights: checksum " in line
    assert "Traceback" not in outcome.err.partition(": error: ")[0]


def test_ranks_with_other_vocabularies(tiny_model, mrpc, tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS, "utf-8")
    for rank in range(2):
        (tmp_path / f"v{rank}").mkdir()
        *lines, one, other = (tiny_model / "vocab.txt").read_text("utf-8").splitlines()
        lines += [other, one] if rank else [one, other]
        (tmp_path / f"v{rank}/vocab.txt").write_text("\n".join(lines) + "\n", "utf-8")
    shutil.copy(tiny_model / "pytorch_model.bin", tmp_path)  # without a vocabulary beside it
    more = [model_flags(tiny_model)[1], f"--init_checkpoint={tmp_path}/pytorch_model.bin",
            f"--vocab_file={tmp_path}/vRANK/vocab.txt"]  # fmt: skip
    outcome = run_ranks(2, tmp_path / "ranks.py", *command(mrpc, "--do_train"), *more,
                  f"--output_dir={tmp_path}/out")  # fmt: skip
    assert outcome.status > 0 and not (tmp_path / "out").exists()
    assert "rank 1 differs from rank 0 in what it trains on: content of --vocab_file" in outcome.err


# --- several seeds -------------------------------------------------------------------------------


def test_seeds_that_were_killed_do_not_start_over(tiny_model, mrpc, tmp_path, call, monkeypatch):
    """With --overwrite_output_dir in the command, finished seeds stay until all have ended."""
    given = [*command(mrpc, "--do_train", "--do_eval", "--seeds=1,2", "--overwrite_output_dir"),
             *model_flags(tiny_model), f"--output_dir={tmp_path}"]  # fmt: skip
    call(run_classifier, *given).ok()
    outcome = call(run_classifier, *given).ok()  # It had ended: all anew.
    assert outcome.out.count("removing an earlier run from ") == 3
    (tmp_path / "seeds_results.json").unlink()  # as if killed in the second seed
    (tmp_path / "seed-2/pytorch_model.bin").unlink()
    outcome = call(run_classifier, *given).ok()
    assert f"resuming from {tmp_path}/seed-1/checkpoint-6.pt" in outcome.out
    assert f"resuming from {tmp_path}/seed-2/checkpoint-6.pt" in outcome.out
    assert (tmp_path / "seeds_results.json").exists()
