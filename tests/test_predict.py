"""predict.py: every task from a folder alone, as a command and from Python."""

import csv
import io
import json
import os
import pty
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, model_flags, run, start, warm_python, write_tiny_model

import predict
import run_classifier
import run_pretraining
import run_squad
from modeling import (
    BertConfig,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
)
from squad_data import RawResult, best_answers, convert_examples_to_features, read_squad_examples

TEXTS = ["It rained.", ("The bridge was old.", "A bridge, and old."), "", "A mill. " * 9]
CONTEXT = "The mill opened in 1871.\nIt closed  in 1932, and the river took its bridge. " * 6
HEADS = {
    "classes": lambda config: BertForSequenceClassification(config, 3),
    "score": lambda config: BertForSequenceClassification(config, 1),
    "questions": BertForQuestionAnswering,
    "masks": BertForPreTraining,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny model, of which a random head gives answers that differ."""
    return write_tiny_model(tmp_path_factory.mktemp("base") / "model", initializer_range=0.3)


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    """{name: folder} of a tiny model with each head, and "bare", one without a head."""
    root = tmp_path_factory.mktemp("folders")
    config = BertConfig.from_json_file(base / "bert_config.json")
    found = {"bare": base}
    for name, make in HEADS.items():
        torch.manual_seed(3)
        found[name] = root / name
        shutil.copytree(base, found[name])
        torch.save(make(config).state_dict(), found[name] / "pytorch_model.bin")
    labels = {str(number): label for number, label in enumerate(("no", "perhaps", "yes"))}
    described = {"architectures": ["BertForSequenceClassification"], "id2label": labels}
    (found["classes"] / "config.json").write_text(json.dumps({**config.to_dict(), **described}))
    return found


@pytest.fixture(scope="module")
def trained(base, mrpc, squad, tmp_path_factory):
    """{script: --output_dir} of short runs, with predictions."""
    root = tmp_path_factory.mktemp("trained")
    few = ["--train_batch_size=4", "--learning_rate=1e-3", *model_flags(base), "--do_train"]
    run_classifier.main([
        *few, "--task_name=MRPC", f"--data_dir={mrpc}", "--do_predict", "--max_seq_length=48",
        f"--output_dir={root / 'mrpc'}",
    ])  # fmt: skip
    run_squad.main([
        *few, f"--train_file={squad / 'train-v1.1.json'}", "--do_predict",
        f"--predict_file={squad / 'dev-v1.1.json'}", "--max_seq_length=64",
        "--max_query_length=24", "--doc_stride=16", "--n_best_size=7",
        f"--output_dir={root / 'squad'}",
    ])  # fmt: skip
    return root


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def rows_of(call, *argv):
    """The objects that the command prints; nothing else may be on stdout."""
    return objects(call(predict, *argv).ok().out)


# --- from Python ---------------------------------------------------------------------------------


def test_classify(folders):
    model = predict.load(folders["classes"])
    found = model.classify(TEXTS)
    assert len(found) == len(TEXTS)
    for text, one in zip(TEXTS, found):
        assert list(one.probabilities) == ["no", "perhaps", "yes"]
        assert sum(one.probabilities.values()) == pytest.approx(1)
        assert one.label == max(one.probabilities, key=one.probabilities.get)
        (alone,) = model.classify([text])
        assert alone.probabilities == pytest.approx(one.probabilities, abs=1e-5)
    assert model.classify([]) == []
    assert len({one.probabilities["no"] for one in found}) == len(TEXTS)


def test_score_and_embed(folders):
    model = predict.load(str(folders["score"]), device="cpu")
    assert all(isinstance(score, float) for score in model.score(TEXTS))
    for how in ("mean", "cls"):
        vectors = model.embed(TEXTS, how)
        assert vectors.shape == (4, 24) and vectors.dtype == np.float32
        bare = predict.load(folders["classes"]).embed(TEXTS, how)
        assert bare.shape == vectors.shape
    assert model.embed([]).shape == (0, 24)
    ids = [model.tokenizer.vocab["[CLS]"], *model.tokenizer.encode("It rained.")]
    ids = torch.tensor([[*ids, model.tokenizer.vocab["[SEP]"]]])
    with torch.no_grad():
        last = model.network.bert(ids)[0][-1][0]
    assert np.abs(model.embed(TEXTS)[0] - last.mean(0).numpy()).max() < 1e-5
    assert np.abs(model.embed(TEXTS, "cls")[0] - last[0].numpy()).max() < 1e-5


def test_answer(folders):
    model = predict.load(folders["questions"])
    assert len(model.tokenizer.encode(CONTEXT)) > 2 * model.max_seq_length
    asked = [("When did it close?", CONTEXT), ("Who?", "Jim  Henson."), ("Who?", " ")]
    found = model.answers([*asked, asked[0]])
    for (_, context), answer in zip(asked[:2], found):
        assert " ".join(context[answer.start : answer.end].split()) == answer.text
        assert 0 < answer.probability <= 1
    assert (found[2].text, found[2].start, found[2].end) == ("", None, None)
    assert found[3] == found[0]
    assert model.answer(*asked[1]).text == found[1].text


def test_fill_mask(folders):
    model = predict.load(folders["masks"])
    first, second = model.fill_mask(("The [MASK] was cold.", "A [MASK]!"))
    assert len(first) == len(second) == 5
    assert first == sorted(first, key=lambda word: -word.probability)
    assert {word.word for word in first} <= model.tokenizer.vocab.keys()
    (alone,) = model.fill_mask("[MASK]")
    assert alone != first
    many = model.fill_masks(["[MASK] [MASK]", "The [MASK]."])
    assert list(map(len, many)) == [2, 1]
    for text, problem in (
        ("None.", "has no .MASK.$"),
        ("a " * 70 + "[MASK]", "beyond the model's 64"),
    ):
        with pytest.raises(ValueError, match=problem):
            model.fill_mask(text)


def test_what_a_model_cannot_do(folders):
    model = predict.load(folders["questions"])
    with pytest.raises(ValueError, match=r"no head for classification, .* questions: use answer"):
        model.classify(TEXTS)
    with pytest.raises(ValueError, match="an encoder without a head: only embed"):
        predict.load(folders["bare"]).fill_mask("[MASK]")
    with pytest.raises(ValueError, match="give a list of texts"):
        predict.load(folders["score"]).score("one text")
    with pytest.raises(ValueError, match="text 1 is 5, not a str"):
        predict.load(folders["score"]).score(["one", 5])
    with pytest.raises(ValueError, match="use mean or cls"):
        model.embed(TEXTS, "max")


def test_what_holds_texts(folders):
    """Any iterable of texts will do; one that iterates over names is refused."""
    model = predict.load(folders["questions"])
    pairs = [("Who?", "The mill closed."), ("When?", "It closed in 1932.")]
    assert model.answers(pair for pair in pairs) == model.answers(np.array(pairs).tolist())
    assert len(model.answers(pair for pair in pairs)) == 2
    with pytest.raises(ValueError, match=r"question 1, 'When\?', has no context"):
        model.answers([pairs[0], "When?"])
    for texts in ({"text": ["a", "b"]}, SimpleNamespace(columns=["text"])):
        with pytest.raises(ValueError, match=r"give a list of texts, not a .*: one of its columns"):
            model.embed(texts)
    with pytest.raises(ValueError, match="device 'gpu' is not available here"):
        predict.load(folders["questions"], device="gpu")


def test_texts_beyond_the_model_are_cut_and_counted(folders):
    model = predict.load(folders["classes"])
    long = "a " * 100
    first, second = model.classify([long, "a " * 62])
    assert first.probabilities == pytest.approx(second.probabilities, abs=1e-5)
    assert (model.num_cut, model.longest) == (1, 102)


def test_threads_and_gradients_are_left_alone(folders):
    threads = torch.get_num_threads()
    model = predict.load(folders["classes"])
    model.classify(TEXTS)
    assert torch.get_num_threads() == threads and torch.is_grad_enabled()
    assert not model.network.training


def test_batches_hold_so_many_tokens(folders, monkeypatch):
    """Whatever the batches are, results come in the order of the texts."""
    model = predict.load(folders["classes"])
    texts = ["a " * length for length in (5, 40, 1, 33, 2, 60, 7)]
    wanted = model.classify(texts)
    sizes = []
    forward = model.network.forward
    monkeypatch.setattr(predict, "TOKENS_ON_CPU", 64)
    monkeypatch.setattr(
        model.network,
        "forward",
        lambda inputs: sizes.append(sum(inputs.seqlens)) or forward(inputs),
    )
    found = model.classify(texts)
    assert [one.label for one in found] == [one.label for one in wanted]
    for one, other in zip(found, wanted):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert len(sizes) > 1 and all(tokens <= 64 for tokens in sizes)


# --- what the drivers say ------------------------------------------------------------------------


def test_classes_are_those_of_the_driver(trained, mrpc, call):
    """test.tsv of MRPC is read by the usual names of its columns."""
    found = rows_of(call, trained / "mrpc", f"--input={mrpc / 'test.tsv'}")
    lines = (trained / "mrpc" / "test_results.tsv").read_text("utf-8").splitlines()
    wanted = [list(map(float, line.split("\t"))) for line in lines]
    assert len(found) == len(wanted) == 5
    for one, row in zip(found, wanted):
        assert list(one["probabilities"].values()) == pytest.approx(row, abs=1e-5)
        assert one["label"] == "01"[int(np.argmax(row))]
        assert "#1 String" in one and "index" in one


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_answers_are_those_of_the_driver(version, trained, squad, tmp_path, call):
    folder = trained / "squad"
    if version == "2.0":  # half of the questions lie on either side of the threshold
        shutil.copytree(folder, tmp_path / "two")
        folder = tmp_path / "two"
        command = [
            *model_flags(folder), "--do_predict", "--version_2_with_negative",
            f"--predict_file={squad / 'dev-v1.1.json'}", "--max_seq_length=64",
            "--max_query_length=24", "--doc_stride=16", "--n_best_size=7",
            f"--output_dir={folder}",
        ]  # fmt: skip
        run_squad.main(command)
        odds = sorted(json.loads((folder / "null_odds.json").read_text("utf-8")).values())
        middle = len(odds) // 2  # between two: predict.py's odds differ by rounding
        threshold = (odds[middle - 1] + odds[middle]) / 2
        run_squad.main([*command, f"--null_score_diff_threshold={threshold}"])
        run_json = json.loads((folder / "run.json").read_text("utf-8"))
        run_json["flags"]["version_2_with_negative"] = True
        run_json["flags"]["null_score_diff_threshold"] = threshold
        (folder / "run.json").write_text(json.dumps(run_json))
    dataset = json.loads((squad / "dev-v1.1.json").read_text("utf-8"))
    (paragraph,) = dataset["data"][0]["paragraphs"]
    (tmp_path / "context.txt").write_text(paragraph["context"], "utf-8", newline="")
    asked = [qa["question"] for qa in paragraph["qas"]]
    (tmp_path / "asked.txt").write_text("\n".join(asked) + "\n", "utf-8")
    found = rows_of(
        call, folder, f"--input={tmp_path / 'asked.txt'}", f"--context={tmp_path / 'context.txt'}"
    )
    wanted = json.loads((folder / "predictions.json").read_text("utf-8"))
    nbest = json.loads((folder / "nbest_predictions.json").read_text("utf-8"))
    assert [one["question"] for one in found] == asked
    for one, qa in zip(found, paragraph["qas"]):
        assert one["answer"] == wanted[qa["id"]]
        chosen = next(e for e in nbest[qa["id"]] if e["text"] == one["answer"])
        assert one["probability"] == pytest.approx(chosen["probability"], abs=1e-5)
        if one["answer"]:
            part = paragraph["context"][one["start"] : one["end"]]
            assert " ".join(part.split()) == one["answer"]
    empty = [one["answer"] for one in found].count("")
    assert 0 < empty < len(found) if version == "2.0" else not empty


def test_pretrained_by_us(base, tmp_path, call):
    (tmp_path / "text.txt").write_text("A mill.\nA bridge.\n\nIt rained.\nIt was cold.\n")
    run(
        "create_pretraining_data.py", f"--input_file={tmp_path / 'text.txt'}",
        f"--output_file={tmp_path / 'i'}", f"--vocab_file={base / 'vocab.txt'}",
        "--max_seq_length=16", "--max_predictions_per_seq=2",
    ).ok()  # fmt: skip
    run_pretraining.main([
        *model_flags(base), f"--input_file={tmp_path / 'i'}", "--do_train", "--max_seq_length=16",
        "--max_predictions_per_seq=2", "--num_train_steps=2", "--num_warmup_steps=1",
        "--train_batch_size=2", f"--output_dir={tmp_path / 'out'}",
    ])  # fmt: skip
    (row,) = rows_of(call, tmp_path / "out", "It was [MASK].")
    assert row["text"] == "It was [MASK]." and len(row["masks"]) == 1
    assert len(row["masks"][0]) == 5 and row["masks"][0][0].keys() == {"word", "probability"}


@pytest.mark.parametrize("name", ["classes", "masks"])
def test_googles_folder(name, folders, tmp_path, call):
    """A TensorFlow checkpoint, with configuration and vocabulary, as Google's archives hold it."""
    run(
        "convert_pytorch_checkpoint_to_tf.py", f"--pytorch_model_path={folders[name]}",
        f"--bert_config_file={folders[name] / 'bert_config.json'}",
        f"--tf_checkpoint_path={tmp_path / 'bert_model.ckpt'}",
    ).ok()  # fmt: skip
    for file in ("vocab.txt", "bert_config.json"):
        shutil.copy(folders[name] / file, tmp_path)
    (wanted,) = rows_of(call, folders[name], "It was [MASK].")
    (found,) = rows_of(call, tmp_path, "It was [MASK].")
    if name == "classes":  # The names of the labels are not in a checkpoint.
        assert list(found["probabilities"]) == ["LABEL_0", "LABEL_1", "LABEL_2"]
        wanted, found = (list(row["probabilities"].values()) for row in (wanted, found))
    assert found == wanted


# --- Hugging Face's folders ----------------------------------------------------------------------


def their_folder(kind, base, folder, **changes):
    """A folder that transformers saved, with vocab.txt; returns its model."""
    transformers = pytest.importorskip("transformers")
    config = json.loads((base / "bert_config.json").read_text())
    torch.manual_seed(5)
    model = getattr(transformers, kind)(transformers.BertConfig(**{**config, **changes})).eval()
    model.save_pretrained(folder)
    shutil.copy(base / "vocab.txt", folder)
    return model


def their_inputs(base, *texts):
    from transformers import BertTokenizer

    return BertTokenizer(str(base / "vocab.txt"))(*texts, return_tensors="pt")


@torch.no_grad()
def test_their_classifier(base, tmp_path, call):
    names = {0: "bad", 1: "fair", 2: "good"}
    theirs = their_folder("BertForSequenceClassification", base, tmp_path, id2label=names)
    logits = theirs(**their_inputs(base, "It rained.", "A mill!")).logits
    (row,) = rows_of(call, tmp_path, "It rained.", "A mill!")
    wanted = dict(zip(names.values(), logits.softmax(-1)[0].tolist()))
    assert row["probabilities"] == pytest.approx(wanted, abs=1e-5)
    assert row["label"] == max(wanted, key=wanted.get)
    assert (row["text_a"], row["text_b"]) == ("It rained.", "A mill!")


@torch.no_grad()
def test_their_regression(base, tmp_path, call):
    theirs = their_folder("BertForSequenceClassification", base, tmp_path, num_labels=1)
    wanted = theirs(**their_inputs(base, "It rained.")).logits.item()
    (row,) = rows_of(call, tmp_path, "It rained.")
    assert row == {"text": "It rained.", "score": pytest.approx(wanted, abs=1e-5)}


@torch.no_grad()
def test_their_questions(base, tmp_path, call):
    theirs = their_folder("BertForQuestionAnswering", base, tmp_path)
    model = predict.load(tmp_path)
    question = {"id": "0", "question": "When did the mill close?"}
    paragraph = {"context": CONTEXT[:70], "qas": [question]}
    examples = read_squad_examples("", False, dataset={"data": [{"paragraphs": [paragraph]}]})
    features = convert_examples_to_features(examples, model.tokenizer, 64, 128, 32, False)
    results = []
    for feature in features:
        names = ("input_ids", "token_type_ids", "attention_mask")
        arrays = (feature.input_ids, feature.segment_ids, feature.input_mask)
        outputs = theirs(**{n: torch.tensor(a[None]).long() for n, a in zip(names, arrays)})
        logits = outputs.start_logits[0].numpy(), outputs.end_logits[0].numpy()
        results.append(RawResult(feature.unique_id, *logits))
    wanted = best_answers(examples, features, results, 20, 30, True)["0"]
    (row,) = rows_of(call, tmp_path, question["question"], paragraph["context"])
    assert row["answer"] == wanted.text
    assert row["probability"] == pytest.approx(wanted.nbest[0]["probability"], abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForPreTraining"])
def test_their_masked_words(kind, base, tmp_path, call):
    theirs = their_folder(kind, base, tmp_path)
    inputs = their_inputs(base, "The [MASK] was [MASK].")
    outputs = theirs(**inputs)
    scores = outputs.logits if kind == "BertForMaskedLM" else outputs.prediction_logits
    (row,) = rows_of(call, tmp_path, "The [MASK] was [MASK].")
    vocab = predict.load(tmp_path).tokenizer.inv_vocab
    masked = (inputs["input_ids"][0] == 4).nonzero().flatten().tolist()
    assert len(masked) == 2 == len(row["masks"])
    for position, words in zip(masked, row["masks"]):
        best = scores[0, position].softmax(-1).topk(5)
        assert [word["word"] for word in words] == [vocab[i] for i in best.indices.tolist()]
        found = [word["probability"] for word in words]
        assert found == pytest.approx(best.values.tolist(), abs=1e-5)


@torch.no_grad()
def test_their_encoder_and_cased_tokenizer(base, tmp_path, call):
    theirs = their_folder("BertModel", base, tmp_path)
    wanted = theirs(**their_inputs(base, "It rained.")).last_hidden_state[0]
    (row,) = rows_of(call, tmp_path, "It rained.", "--embed=cls")
    assert row["vector"] == pytest.approx(wanted[0].tolist(), abs=1e-5)
    (row,) = rows_of(call, tmp_path, "It rained.", "--embed=mean")
    assert row["vector"] == pytest.approx(wanted.mean(0).tolist(), abs=1e-5)
    outcome = call(predict, tmp_path, "It rained.")
    assert outcome.status == 2 and "BertModel, which gives only vectors" in outcome.err

    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    model = predict.load(tmp_path)
    assert not model.tokenizer.do_lower_case and not model.tokenizer.basic_tokenizer.strip_accents
    (tmp_path / "tokenizer_config.json").write_text('{"strip_accents": false}')
    model = predict.load(tmp_path)
    assert model.tokenizer.do_lower_case and not model.tokenizer.basic_tokenizer.strip_accents


def test_their_multiple_choice_is_not_a_classifier(base, tmp_path, call):
    their_folder("BertForMultipleChoice", base, tmp_path)
    outcome = call(predict, tmp_path, "It rained.")
    assert outcome.status == 2 and "holds BertForMultipleChoice, which gives" in outcome.err
    assert len(rows_of(call, tmp_path, "It rained.", "--embed=mean")[0]["vector"]) == 24


# --- inputs --------------------------------------------------------------------------------------

RIGHT = {
    "a.txt": "It rained.\nIt, too. ||| A \"mill\".\n\nlast",
    "a.tsv": 'id\tsentence1\tsentence2\n1\ta "b\tc\n2\td\te\n',
    "a.csv": 'id,Text,label\n1,"It ""rained"",\nand\r\nso",x\n2,plain,y\n',
    "a.jsonl": '{"id": 1, "text": "It \\ud83c rained.", "tags": ["x"]}\n\n{"id": 2, "text": ""}\n',
    "text.jsonl": '"one"\n"two"\n',
    "one.csv": "first\n\nsecond\n",
    "bom.tsv": "\ufefftext\nIt rained.\r\n",
}  # fmt: skip
READ = {
    "a.txt": [["It rained."], ["It, too.", 'A "mill".'], [""], ["last"]],
    "a.tsv": [['a "b', "c"], ["d", "e"]],
    "a.csv": [['It "rained",\nand\r\nso'], ["plain"]],
    "a.jsonl": [["It \ud83c rained."], [""]],
    "text.jsonl": [["one"], ["two"]],
    "one.csv": [["first"], ["second"]],
    "bom.tsv": [["It rained."]],
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    for name, text in RIGHT.items():
        (folder / name).write_text(text, "utf-8", newline="")
    return folder


def read(folder, path, *argv):
    args = predict.parse_args([str(folder), f"--input={path}", *argv])
    return list(predict.read_rows(args, ("text_a", "text_b")))


@pytest.mark.parametrize("name", RIGHT)
def test_formats(name, inputs, folders, call):
    rows = read(folders["classes"], inputs / name)
    assert [row.texts for row in rows] == READ[name]
    found = rows_of(call, folders["classes"], f"--input={inputs / name}")
    assert len(found) == len(rows)
    for one, row in zip(found, rows):
        del one["probabilities"]
        assert one.pop("label") in ("no", "perhaps", "yes")
        fields = dict(row.fields)
        if "label" in fields:  # is the input's, and not lost
            fields["input_label"] = fields.pop("label")
        assert one == fields


@pytest.mark.parametrize(
    "argv, texts",
    [
        (["--text_columns=2,1"], [["c", 'a "b'], ["e", "d"]]),
        (["--text_columns=sentence2"], [["c"], ["e"]]),
        (["--text_columns=0", "--header=false"], [["id"], ["1"], ["2"]]),
    ],
)
def test_text_columns(argv, texts, inputs, folders):
    assert [row.texts for row in read(folders["classes"], inputs / "a.tsv", *argv)] == texts


def test_one_column_without_a_usual_name(folders, tmp_path, call):
    """Its first row may be a header: what it is used as is said, once."""
    (tmp_path / "review.csv").write_text("review\nfine\n")
    outcome = call(predict, folders["classes"], f"--input={tmp_path / 'review.csv'}").ok()
    assert len(objects(outcome.out)) == 2
    assert outcome.err == (
        f"{tmp_path}/review.csv:1 is used as a text: if it is a header, give --header true\n"
    )
    argv = [f"--input={tmp_path / 'review.csv'}", "--header=true"]
    outcome = call(predict, folders["classes"], *argv).ok()
    assert (len(objects(outcome.out)), outcome.err) == (1, "")


@pytest.mark.parametrize(
    "redirections, status, message",
    [
        (">&-", 2, "stdout is closed: give --output FILE"),
        ("--input=- <&-", 2, "stdin is closed: there is nothing to read from -"),
    ],
)
def test_closed_streams(redirections, status, message, folders):
    text = "" if "input" in redirections else "text"
    command = f"{sys.executable} predict.py {folders['classes']} {text} {redirections}"
    outcome = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (outcome.returncode, outcome.stdout) == (status, "")
    assert outcome.stderr == f"predict.py: error: {message}\n"


def test_a_pipe_as_input(folders):
    process = start(
        "predict.py", folders["classes"], "--input=-", "--input_format=csv", stdin=subprocess.PIPE
    )
    out, err = process.communicate("text\nIt rained.\n", timeout=120)
    assert process.returncode == 0 and err == ""
    (row,) = objects(out)
    assert row["text"] == "It rained."


WRONG = {
    "latin.txt": (b"fine\nna\xefve\n", "latin.txt:2 is not UTF-8 (invalid continuation byte)"),
    "empty.txt": (b"", "--input {}/empty.txt has no texts"),
    "header.csv": (b"text\n", "--input {}/header.csv has no texts"),
    "short.csv": (b"text,b\n1,2\n3\n", "short.csv:3 has 1 columns, the first row has 2"),
    "quote.csv": (b'text\nfine\n"never closed\n', "quote.csv:3 is not CSV: a cell begins with"),
    "which.tsv": (
        b"review\tstars\nfine\t5\n",
        "which.tsv:1: which is the text? Give --text_columns, by name or by number from 0; the "
        "first row has review, stars",
    ),
    "both.csv": (
        b"text,sentence\na,b\n", "both.csv:1: is the text in text or in sentence? Give "
        "--text_columns",
    ),
    "commas.tsv": (b"text,label\na,1\n", "commas seem to separate them: name the file .csv"),
    "twice.csv": (b"text,x,x\na,b,c\n", "twice.csv:1 names two columns 'x': rename one"),
    "json.jsonl": (b'{"text": "a"}\n{"text"\n', "json.jsonl:2 is not JSON ("),
    "number.jsonl": (b'{"text": "a"}\n{"text": 5}\n', 'number.jsonl:2: "text" is 5, not a text'),
    "list.jsonl": (b"[1]\n", "list.jsonl:1 is not a JSON object"),
    "keys.jsonl": (b'{"a": "x", "b": "y"}\n', "keys.jsonl:1: which is the text? Give"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs_are_named_before_anything_is_written(name, folders, tmp_path, call):
    content, message = WRONG[name]
    (tmp_path / name).write_bytes(content)
    out = tmp_path / "out.jsonl"
    for output in ([], [f"--output={out}"]):
        outcome = call(predict, folders["classes"], f"--input={tmp_path / name}", *output)
        assert (outcome.status, outcome.out) == (2, "")
        assert message.format(tmp_path) in outcome.err and outcome.err.count("\n") == 1
        assert not out.exists()


def test_wrong_texts_for_the_task(folders, tmp_path, call):
    (tmp_path / "a.txt").write_text("A [MASK].\nNone.\n")
    (tmp_path / "lower.txt").write_text("A [MASK].\nA [mask].\n")
    (tmp_path / "long.txt").write_text("A [MASK].\n" + "a " * 70 + "[MASK]\n")
    (tmp_path / "q.txt").write_text("Who? ||| Jim.\nWho?\n")
    (tmp_path / "context.txt").write_text("Jim.")
    for argv, message in (
        ([folders["masks"], f"--input={tmp_path / 'a.txt'}"], "a.txt:2 has no [MASK]"),
        ([folders["masks"], f"--input={tmp_path / 'lower.txt'}"],
         "lower.txt:2 has no [MASK], but [mask]: write [MASK]"),
        ([folders["masks"], f"--input={tmp_path / 'long.txt'}"],
         "long.txt:2 has a [MASK] beyond the model's 64 WordPieces"),
        ([folders["questions"], f"--input={tmp_path / 'q.txt'}"],
         "q.txt:2: a question needs a context: give --context FILE, or both, separated by"),
        ([folders["questions"], f"--input={tmp_path / 'q.txt'}",
          f"--context={tmp_path / 'context.txt'}"], "q.txt:1 has a context of its own"),
        ([folders["classes"], "x", f"--context={tmp_path / 'context.txt'}"],
         "--context is for questions, but"),
        ([folders["classes"], "x", "--null_score_diff_threshold=1"],
         "--null_score_diff_threshold is for questions, but"),
        ([folders["classes"], "x", "--max_seq_length=65"],
         "--max_seq_length 65 exceeds the model's 64 positions"),
        ([folders["bare"], "x"], "holds an encoder without a head, which gives only vectors"),
    ):  # fmt: skip
        outcome = call(predict, *argv)
        assert (outcome.status, outcome.out) == (2, "") and message in outcome.err


# --- outputs -------------------------------------------------------------------------------------


def test_output_files(folders, inputs, tmp_path, call):
    """The same from a file as from stdout; nothing is printed."""
    argv = [folders["classes"], f"--input={inputs / 'a.csv'}"]
    outcome = call(predict, *argv, f"--output={tmp_path / 'out.jsonl'}").ok()
    assert outcome.out == ""
    assert objects((tmp_path / "out.jsonl").read_text("utf-8")) == rows_of(call, *argv)

    table = call(predict, *argv, "--format=tsv").ok().out
    call(predict, *argv, f"--output={tmp_path / 'out.tsv'}").ok()
    assert (tmp_path / "out.tsv").read_text("utf-8") == table
    header, first, second = csv.reader(io.StringIO(table), delimiter="\t", quotechar=None,
                                       quoting=csv.QUOTE_NONE)  # fmt: skip
    assert header == ["id", "Text", "input_label", "label", "probabilities.no",
                      "probabilities.perhaps", "probabilities.yes"]  # fmt: skip
    assert first[1] == 'It "rained", and so' and second[1] == "plain"


def test_tsv_of_other_tasks(folders, tmp_path, call):
    out = call(predict, folders["masks"], "A [MASK] [MASK].", "--format=tsv").ok().out
    assert out.splitlines()[0] == "text\tmask_1\tmask_2"
    out = call(predict, folders["questions"], "Who?", " ", "--format=tsv").ok().out
    assert out.splitlines() == [
        "question\tcontext\tanswer\tprobability\tstart\tend", "Who?\t \t\t1.0\t\t"
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b", "more": 1}\n')
    outcome = call(predict, folders["score"], f"--input={tmp_path / 'a.jsonl'}", "--format=tsv")
    assert outcome.status == 2 and "a.jsonl:2 has other fields" in outcome.err


def test_vectors_in_a_file(folders, inputs, tmp_path, call):
    argv = [folders["bare"], f"--input={inputs / 'a.txt'}", "--embed=mean"]
    call(predict, *argv, f"--output={tmp_path / 'v.npz'}").ok()
    vectors = np.load(tmp_path / "v.npz")["vectors"]
    assert vectors.shape == (4, 24) and vectors.dtype == np.float32
    found = [row["vector"] for row in rows_of(call, *argv)]
    assert np.abs(vectors - np.array(found)).max() < 1e-6
    assert os.listdir(tmp_path) == ["v.npz"]


def test_a_failed_run_leaves_the_output_as_it_was(folders, tmp_path, monkeypatch, call):
    (tmp_path / "in.txt").write_text("a\n" * 5)
    (tmp_path / "out.jsonl").write_text("mine")
    monkeypatch.setattr(predict, "CHUNK_ROWS", 2)
    calls = []

    def fail_at_last(self, rows):
        calls.append(rows)
        if len(calls) == 3:
            raise ValueError("no more")
        return [0.5] * len(rows)

    monkeypatch.setattr(predict.Use, "results", fail_at_last)
    outcome = call(predict, folders["score"], f"--input={tmp_path / 'in.txt'}",
                   f"--output={tmp_path / 'out.jsonl'}")  # fmt: skip
    assert outcome.status == 2 and len(calls) == 3
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["in.txt", "out.jsonl"]


def test_cut_texts_are_reported_on_stderr(folders, call):
    outcome = call(predict, folders["score"], "a " * 100).ok()
    assert outcome.err == "1 of the texts were cut to 64 WordPieces; the longest has 102\n"
    outcome = call(predict, folders["score"], "a " * 100, "--max_seq_length=10").ok()
    assert "cut to 10 WordPieces" in outcome.err


def test_a_reader_that_stops_early(folders, tmp_path):
    (tmp_path / "in.txt").write_text("It rained.\n" * 5000)
    command = (
        f"{sys.executable} predict.py {folders['score']} --input {tmp_path / 'in.txt'} | head -1"
    )
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, text=True, capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert len(objects(result.stdout)) == 1


# --- at a terminal -------------------------------------------------------------------------------


def at_a_terminal(*argv, typed=()):
    """What a terminal shows of the command; a line of `typed` is sent at each prompt."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*warm_python(), "predict.py", *map(str, argv)], cwd=ROOT, stdout=theirs,
        stderr=subprocess.STDOUT, stdin=theirs if typed else subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "70", "TERM": "dumb"},
    )  # fmt: skip
    os.close(theirs)
    waiting = list(typed)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
            if waiting and shown.endswith(b": "):
                os.write(ours, waiting.pop(0).encode())
    except OSError:  # Linux's answer once the other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(120) == 0, shown.decode()
    return shown.decode().replace("\r\n", "\n")


def test_a_table_at_a_terminal(folders, inputs):
    header, *lines = at_a_terminal(folders["classes"], f"--input={inputs / 'a.txt'}").splitlines()
    assert header.split() == ["label", "no", "perhaps", "yes", "text"]
    assert [line.rpartition("%")[2].strip() for line in lines] == [
        "It rained.", 'It, too. ||| A "mill".', "", "last"
    ]  # fmt: skip


def test_it_asks_at_a_terminal(folders):
    shown = at_a_terminal(folders["classes"], typed=["It rained. ||| Rain.\n", "\x04"])
    assert "Type a text" in shown and "perhaps" in shown
    typed = ["Jim made Kermit.\n", "Who made Kermit?\n", "\n", "\x04"]
    shown = at_a_terminal(folders["questions"], typed=typed)
    assert "paragraph: " in shown and "answer: " in shown
    shown = at_a_terminal(folders["masks"], typed=["None.\n", "A [MASK].\n", "\x04"])
    assert "the text has no [MASK]" in shown and "mask 1" in shown


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(folders, tmp_path):
    code = (
        "import sys, resource, predict; predict.main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    peaks = []
    for lines in (4000, 16000):
        (tmp_path / "in.txt").write_text(
            "".join(f"The mill {n % 97} was old.\n" for n in range(lines))
        )
        outcome = run("-c", code, folders["score"], f"--input={tmp_path / 'in.txt'}",
                      f"--output={tmp_path / 'out.jsonl'}", timeout=600).ok()  # fmt: skip
        peaks.append(int(outcome.err.split()[-1]))
        assert sum(1 for _ in open(tmp_path / "out.jsonl")) == lines
    assert peaks[1] < 1.05 * peaks[0]
