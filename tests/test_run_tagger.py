"""run_tagger.py end to end, and predict.py with what it trained."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from helpers import (
    SAMPLES,
    Page,
    assert_close_runs,
    assert_same_weights,
    losses,
    model_flags,
    results,
    run,
    weights,
    write_tiny_model,
)

import checkpoint
import predict
import run_tagger
import tagging_metrics
from tagging_data import read_examples

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def command(model, data, *more):
    return [
        *model_flags(model), f"--data_dir={data}", "--max_seq_length=24", "--train_batch_size=4",
        "--num_train_epochs=2", "--learning_rate=1e-3", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_model, tagging, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagging_trained") / "out"
    run_tagger.main([
        *command(tiny_model, tagging), "--do_train", "--do_eval", "--do_predict",
        f"--output_dir={folder}",
    ])  # fmt: skip
    return folder


def predictions(folder):
    """(words, gold tags, predicted tags) of each sentence in test_predictions.txt."""
    blocks = (folder / "test_predictions.txt").read_text("utf-8").split("\n\n")
    rows = [[line.split(" ") for line in block.split("\n") if line] for block in blocks]
    return [list(zip(*own)) for own in rows if own and not own[0][0].startswith("-DOCSTART-")]


def test_output_dir_is_self_contained(trained, tagging):
    assert {path.name for path in trained.iterdir()} == {
        "pytorch_model.bin", "bert_config.json", "vocab.txt", "run.json", "training_log.jsonl",
        "eval_results.txt", "test_eval_results.txt", "test_predictions.txt", "test_results.tsv",
        "config.json", "tokenizer_config.json", "report.html",
        f"checkpoint-{len(losses(trained))}.pt",
    }  # fmt: skip
    metadata = json.loads((trained / "run.json").read_text("utf-8"))
    found = checkpoint.inspect_folder(trained)
    assert metadata["task"] == found.task == "tagging"
    assert metadata["labels"] == found.labels == [
        "O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"
    ]  # fmt: skip
    config = json.loads((trained / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["BertForTokenClassification"]
    (trained / "config.json").rename(trained / "hidden")
    assert checkpoint.inspect_folder(trained).task == "tagging"
    (trained / "hidden").rename(trained / "config.json")


def test_each_line_of_the_test_file_gets_its_tag(trained, tagging):
    given = (tagging / "test.txt").read_text("utf-8").splitlines()
    lines = (trained / "test_predictions.txt").read_text("utf-8").splitlines()
    assert len(lines) == len(given)
    labels = checkpoint.inspect_folder(trained).labels
    rows = (trained / "test_results.tsv").read_text("utf-8").splitlines()
    probabilities = iter([np.array(row.split("\t"), float) for row in rows])
    for line, before in zip(lines, given):
        if not before.strip():
            assert line == before
        elif before.startswith("-DOCSTART-"):
            assert line == f"{before} O"
        else:
            own = next(probabilities)
            assert line == f"{before} {labels[own.argmax()]}"
            assert len(own) == len(labels) and own.sum() == pytest.approx(1, abs=1e-5)
    assert next(probabilities, None) is None


def test_figures_are_those_of_the_predictions(trained):
    """Google's keys come first. The sentences are longer than a window of 22 WordPieces."""
    figures = results(trained)
    assert list(figures)[:7] == [
        "eval_accuracy", "eval_loss", "global_step", "loss", "eval_precision", "eval_recall",
        "eval_f1",
    ]  # fmt: skip
    assert {"eval_f1_PER", "eval_precision_LOC", "eval_recall_ORG"} <= figures.keys()
    assert figures["global_step"] == str(len(losses(trained)))
    _, gold, predicted = zip(*predictions(trained))
    lines = (trained / "test_eval_results.txt").read_text("utf-8").splitlines()
    figures = dict(line.split(" = ") for line in lines)
    wanted = {f"eval_{k}": v for k, v in tagging_metrics.evaluate(gold, predicted).items()}
    wanted["eval_accuracy"] = tagging_metrics.accuracy(gold, predicted)
    assert wanted.keys() == figures.keys() - {"eval_loss", "loss", "global_step"}
    for name, value in wanted.items():
        assert figures[name] == str(np.float32(value))


def test_report_shows_figures_and_mistakes(trained, tagging):
    page = Page((trained / "report.html").read_text("utf-8"))
    figures = {row[0]: row[1] for row in page.rows}
    for name, value in results(trained).items():
        assert float(figures[name]) == pytest.approx(float(value), rel=1e-6)
    assert "Evaluation on dev.txt" in page.text and "Evaluation on test.txt" in page.text
    examples, _ = read_examples(str(tagging / "dev.txt"))
    assert any(" ".join(example.words) in page.text for example in examples)


def test_evaluation_alone(trained, tagging, tmp_path, call):
    """From the folder alone; a test file without tags, with Windows line ends."""
    data = tmp_path / "data"
    shutil.copytree(tagging, data)
    (data / "train.txt").unlink()
    bare = [line.partition(" ")[0] for line in (data / "test.txt").read_text().splitlines()]
    (data / "test.txt").write_text("\r\n".join(bare), "utf-8")
    out = tmp_path / "out"
    outcome = call(
        run_tagger,
        f"--init_checkpoint={trained}",
        f"--data_dir={data}",
        "--max_seq_length=24",
        "--do_eval",
        "--do_predict",
        f"--output_dir={out}",
    )
    assert "without tags" in outcome.ok().out
    assert (out / "eval_results.txt").read_bytes() == (trained / "eval_results.txt").read_bytes()
    assert not (out / "test_eval_results.txt").exists()
    found = (out / "test_predictions.txt").read_text("utf-8").splitlines()
    lines = (trained / "test_predictions.txt").read_text("utf-8").splitlines()
    wanted = [" ".join(line.split(" ")[::2]) for line in lines]
    wanted = ["-DOCSTART-" if line.startswith("-DOCSTART-") else line for line in wanted]
    assert found == wanted


def test_only_first_pieces_are_trained_on(tagging, tiny_model, tmp_path):
    """The loss of the first step is that of the words, by hand from the logits of all tokens."""
    argv = [*command(tiny_model, tagging, "--train_batch_size=13", "--num_train_epochs=1"),
            "--max_seq_length=64", "--do_train", f"--output_dir={tmp_path / 'out'}"]  # fmt: skip
    seen = []
    token_loss = run_tagger.token_loss

    def watched(logits, labels):
        seen.append((labels, token_loss(logits, labels)))
        return seen[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_tagger, "token_loss", watched)
        run_tagger.main(argv)
    ((labels, found),) = seen
    examples, _ = read_examples(str(tagging / "train.txt"))
    assert (labels >= 0).sum() == sum(len(example.words) for example in examples)
    assert ((found != 0) <= (labels >= 0)).all()
    (loss,) = losses(tmp_path / "out")
    assert loss == pytest.approx(found.sum().item() / (labels >= 0).sum().item(), rel=1e-5)
    start, end = weights(tiny_model), weights(tmp_path / "out")
    for name in start:
        assert start[name].equal(end[name]) == name.startswith("bert.pooler."), name


def test_parts_and_ranks_change_nothing(tiny_model_without_dropout, tagging, tmp_path):
    model = tiny_model_without_dropout
    given = command(model, tagging, "--do_train", "--do_predict")
    run_tagger.main([*given, f"--output_dir={tmp_path / 'one'}"])
    run_tagger.main([*given, "--gradient_accumulation_steps=3",
                     f"--output_dir={tmp_path / 'parts'}"])  # fmt: skip
    assert_close_runs(tmp_path / "parts", tmp_path / "one", model)
    outcome = run(*TORCHRUN, "run_tagger.py", *given, "--do_eval",
                  f"--output_dir={tmp_path / 'ranks'}").ok()  # fmt: skip
    assert outcome.out.count("tags: entities in BIO, 3 types: LOC, ORG, PER") == 1
    assert_close_runs(tmp_path / "ranks", tmp_path / "one", model)
    assert len(predictions(tmp_path / "ranks")) == 5 and results(tmp_path / "ranks")


def test_a_resumed_run_ends_with_the_same_bits(tiny_model, tagging, tmp_path):
    given = command(tiny_model, tagging, "--do_train", "--save_checkpoints_steps=3")
    run_tagger.main([*given, f"--output_dir={tmp_path / 'one'}"])
    run_tagger.main([*given, f"--output_dir={tmp_path / 'two'}"])
    newest, _ = checkpoint.checkpoints(str(tmp_path / "two")).values()
    os.remove(newest)
    (tmp_path / "two/pytorch_model.bin").unlink()
    run_tagger.main([*given, f"--output_dir={tmp_path / 'two'}"])
    assert_same_weights(tmp_path / "one", tmp_path / "two")


def test_compute_padding_gives_the_same(trained, tagging, tmp_path):
    run_tagger.main([
        f"--init_checkpoint={trained}", f"--data_dir={tagging}", "--max_seq_length=24",
        "--compute_padding", "--do_eval", f"--output_dir={tmp_path}",
    ])  # fmt: skip
    one, other = results(trained), results(tmp_path)
    assert one.keys() == other.keys() and one["eval_f1"] == other["eval_f1"]
    assert float(one["eval_loss"]) == pytest.approx(float(other["eval_loss"]), rel=1e-5)


def test_plain_tags(tiny_model, tmp_path, call):
    """Parts of speech: accuracy alone; a word without WordPieces gets a tag too."""
    rows = "the DT\nmill NN\nclosed VB\n\u200b SYM\n\na DT\nriver NN\nran VB\n"
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.txt").write_text(rows, "utf-8")
    given = command(tiny_model, tmp_path, "--train_batch_size=2", "--do_train", "--do_eval")
    outcome = call(run_tagger, *given, "--do_predict", f"--output_dir={tmp_path / 'out'}").ok()
    assert "tags: 4 plain tags: DT, NN, SYM, VB" in outcome.out
    assert list(results(tmp_path / "out")) == ["eval_accuracy", "eval_loss", "global_step", "loss"]
    assert sum(len(words) for words, _, _ in predictions(tmp_path / "out")) == 7
    (found,) = predict.load(tmp_path / "out").tag(["The mill closed."])
    assert found.words == ["The", "mill", "closed", "."] and found.entities == []
    assert set(found.tags) <= {"DT", "NN", "SYM", "VB"}


def test_trained_to_the_end_it_tags_what_it_saw(tmp_path, call):
    """An F1 above 0.99 on the training sentences; a tag on a wrong piece would not get there."""
    model = write_tiny_model(
        tmp_path / "model", hidden_size=48, intermediate_size=96, max_position_embeddings=128,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    text = (SAMPLES / "tagging/train.txt").read_text("utf-8")
    for name in ("train", "dev"):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(text.split("\n\n")[:16]), "utf-8")
    outcome = call(
        run_tagger, *model_flags(model), f"--data_dir={tmp_path}", "--do_train", "--do_eval",
        "--max_seq_length=32", "--train_batch_size=4", "--num_train_epochs=40",
        "--learning_rate=3e-3", f"--output_dir={tmp_path / 'out'}",
    ).ok()  # fmt: skip
    assert float(results(tmp_path / "out")["eval_f1"]) > 0.99, outcome.out


# --- predict.py ----------------------------------------------------------------------------------


def test_words_are_tagged_as_the_driver_does(trained):
    sentences = [[*words] for words, _, _ in predictions(trained)]
    found = predict.load(trained).tag(sentences)
    for one, (words, _, tags) in zip(found, predictions(trained), strict=True):
        assert one.words == [*words] and one.tags == [*tags]
        text = " ".join(words)
        assert [(entity.type, entity.text) for entity in one.entities] == [
            (kind, " ".join(words[first:last]))
            for kind, first, last in tagging_metrics.entities(tags)
        ]
        assert all(text[entity.start : entity.end] == entity.text for entity in one.entities)


@pytest.fixture(scope="module")
def eager(trained, tmp_path_factory):
    """The trained folder with a classifier that finds entities everywhere."""
    folder = tmp_path_factory.mktemp("eager") / "out"
    shutil.copytree(trained, folder)
    values = weights(folder)
    values["classifier.weight"] = torch.randn(values["classifier.weight"].shape) * 3
    torch.save(values, folder / "pytorch_model.bin")
    return folder


def test_texts_are_tagged(eager, call, tmp_path):
    text = "  Ada  met Jim (of Velmont Mills). " + "In Tarnholm it rained; " * 12
    model = predict.load(eager)
    (found,) = model.tag([text])
    assert "".join(found.words) == "".join(text.split()) and len(found.tags) == len(found.words)
    assert len(found.entities) > 3
    for entity in found.entities:
        assert text[entity.start : entity.end] == entity.text and entity.type in (
            "LOC",
            "ORG",
            "PER",
        )
    assert model.tag([]) == [] and model.tag(["", " \n"])[1].words == []
    for wrong, message in (("a text", "give a list"), ([5], "text 0 is 5, not a str or a list of")):
        with pytest.raises(ValueError, match=message):
            model.tag(wrong)

    out = call(predict, eager, text, "--format=jsonl").ok().out
    row = json.loads(out)
    assert list(row) == ["text", "words", "tags", "entities"]
    assert row["words"] == found.words and row["tags"] == found.tags
    assert row["entities"][0] == {
        "type": found.entities[0].type, "text": found.entities[0].text,
        "start": found.entities[0].start, "end": found.entities[0].end,
    }  # fmt: skip
    (tmp_path / "texts.txt").write_text(f"{text}\n\nAda.\n", "utf-8")
    call(predict, eager, f"--input={tmp_path / 'texts.txt'}", f"--output={tmp_path / 'a.tsv'}").ok()
    header, first, *others = (tmp_path / "a.tsv").read_text("utf-8").splitlines()
    assert header == "text\twords\ttags\tentities" and len(others) == 2
    assert first.split("\t")[1:3] == [" ".join(found.words), " ".join(found.tags)]
    assert f"{found.entities[0].text} [{found.entities[0].type}]" in first
    table = call(predict, eager, text, "--format=table").ok().out
    assert table.startswith("entities ") and f"[{found.entities[0].type}]" in table

    (tmp_path / "texts.txt").write_text("Ada.\na ||| pair\n", "utf-8")
    outcome = call(predict, eager, f"--input={tmp_path / 'texts.txt'}")
    assert outcome.status == 2 and outcome.out == "" and outcome.err == (
        f"predict.py: error: {tmp_path}/texts.txt:2 is a pair, but tags are for single texts\n"
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"no head for classification, .* tagging: use tag\(\)"):
        model.classify(["a"])


@torch.no_grad()
def test_their_tagger(tiny_model, tmp_path):
    """A folder of transformers': the tags are those of its logits at the words' first pieces."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(5)
    values = json.loads((tiny_model / "bert_config.json").read_text("utf-8"))
    names = {0: "O", 1: "B-MISC", 2: "I-MISC"}
    config = transformers.BertConfig(**{**values, "initializer_range": 0.5}, id2label=names)
    theirs = transformers.BertForTokenClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    shutil.copy(tiny_model / "vocab.txt", tmp_path)
    tokenizer = transformers.BertTokenizer(str(tiny_model / "vocab.txt"))
    words = ["The", "mill", "at", "Tarnholm", "closed", "in", "1932", "."]
    inputs = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    best = theirs(**inputs).logits[0].argmax(-1).tolist()
    places = inputs.word_ids()
    (found,) = predict.load(tmp_path).tag([words])
    assert found.tags == [names[best[places.index(number)]] for number in range(len(words))]
    assert len(set(found.tags)) > 1


def test_a_folder_that_is_not_a_taggers(trained, tagging, tmp_path, call):
    """One that does not name its tags, and one with another head of the same name."""
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    given = [f"--init_checkpoint={copy}", f"--data_dir={tagging}", "--do_eval",
             f"--output_dir={tmp_path / 'out'}"]  # fmt: skip
    (copy / "run.json").unlink()
    config = json.loads((copy / "config.json").read_text("utf-8"))
    described = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "a", "1": "b"},
    }
    for change, problem in (
        (described, "is a model for classification: fine-tune it for this task\n"),
        (
            {"id2label": None, "label2id": None},
            "does not name its tags: there is no run.json of run_tagger.py",
        ),
    ):
        (copy / "config.json").write_text(json.dumps({**config, **change}), "utf-8")
        outcome = call(run_tagger, *given)
        assert outcome.status == 2 and f"error: {copy} {problem}" in outcome.err
    assert not (tmp_path / "out").exists()


# --- evaluation during training ------------------------------------------------------------------


def test_evaluation_on_the_way_keeps_the_best(tiny_model, tagging, tmp_path, call):
    """The steps are those of a run that does not evaluate; the figures the best weights'."""
    given = command(tiny_model, tagging, "--do_train", "--max_train_examples=8",
                    "--max_eval_examples=5")  # fmt: skip
    call(run_tagger, *given, f"--output_dir={tmp_path / 'plain'}").ok()
    outcome = call(run_tagger, *given, "--do_eval", "--eval_steps=3", "--keep_best",
                   f"--output_dir={tmp_path / 'out'}").ok()  # fmt: skip
    assert "skipped 5 (5 beyond --max_train_examples)" in outcome.out
    assert "skipped 2 (2 beyond --max_eval_examples)" in outcome.out
    lines = (tmp_path / "out/training_log.jsonl").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    steps = [entry["loss"] for entry in entries if "loss" in entry]
    assert steps == losses(tmp_path / "plain")
    evaluations = {entry["step"]: entry for entry in entries if "eval_f1" in entry}
    assert [*evaluations][:2] == [3, 6] and [*evaluations][-1] == len(steps)
    figures = results(tmp_path / "out")
    best = max(evaluations.values(), key=lambda entry: entry["eval_f1"])
    assert figures["global_step"] == str(best["step"])
    assert float(figures["eval_loss"]) == pytest.approx(best["eval_loss"], rel=1e-6)
