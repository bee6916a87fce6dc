"""A user's own tasks end to end: every kind of task from every kind of file; predict.py on it."""

import csv
import io
import json
import math

import numpy as np
import pytest
import torch
from helpers import (
    assert_close_runs,
    assert_same_weights,
    model_flags,
    results,
    run_ranks,
    weights,
    write_tiny_model,
)

import predict
import run_classifier
from data import TrainingExamples
from modeling import BertConfig, BertForSequenceClassification
from training import own_totals

TEXTS = [
    'He said "no" to it.', "One, two; three.", "A line\nand another\n\none.", "Café, 桥.", "Rain.",
    "The mill was old, and the river took it. " * 4, "\tTabs\tin it", "A bridge | a road", "Snow.",
    "It rained all day.", " Blanks around it ", "Last.",
]  # fmt: skip
KINDS = {  # the labels of the texts, flags, and the figures of eval_results.txt
    "classes": (["no", "yes", "no, never"] * 4, ["--class_weights=balanced"],
                ["eval_accuracy", "eval_macro_f1"]),
    "several": (["a|b", "", "b", "c | a"] * 3, ["--multi_label"],
                ["eval_micro_f1", "eval_macro_f1", "eval_subset_accuracy"]),
    "score": ([number / 4 for number in range(12)], ["--labels=none"],
              ["eval_pearson", "eval_spearman"]),
    "long": ([number % 2 for number in range(12)], ["--doc_stride=8"],
             ["eval_accuracy", "eval_f1", "eval_mcc"]),
}  # fmt: skip
LABELS = {
    "classes": ["no", "no, never", "yes"], "several": ["a", "b", "c"], "score": [],
    "long": ["0", "1"],
}  # fmt: skip


def write_csv(path, rows, end="\n", start=""):
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=end).writerows(rows)
    path.write_bytes((start + file.getvalue()).encode())


def pandas_csv(path, names, rows):
    """As DataFrame.to_csv writes it, with its index."""
    write_csv(path, [["", *names], *([number, *row] for number, row in enumerate(rows))])


def spreadsheet_csv(path, names, rows):
    """As a spreadsheet saves it as CSV UTF-8."""
    write_csv(path, [names, *rows], "\r\n", "\ufeff")


def pandas_jsonl(path, names, rows):
    """As DataFrame.to_json(orient="records", lines=True) writes it."""
    lines = [json.dumps(dict(zip(names, row))).replace("/", "\\/") for row in rows]
    path.write_text("".join(line + "\n" for line in lines), "utf-8")


def tabs(path, names, rows):
    """As the examples of GLUE: nothing is quoted, so tabs and line breaks must go."""
    rows = [[" ".join(str(cell).split()) for cell in row] for row in [names, *rows]]
    path.write_text("".join("\t".join(row) + "\n" for row in rows), "utf-8")


WRITERS = {
    "pandas.csv": pandas_csv, "sheet.csv": spreadsheet_csv, "pandas.jsonl": pandas_jsonl,
    "own.tsv": tabs,
}  # fmt: skip
SMALL = ["--max_seq_length=24", "--train_batch_size=4", "--num_train_epochs=1", "--seed=1"]


def own(folder, base, out, *more):
    """The flags of a run on the files in `folder`, whose columns have names."""
    return [
        "--task_name=tsv", "--text_columns=text", "--label_column=label", f"--data_dir={folder}",
        *model_flags(base), *SMALL, f"--output_dir={out}", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("file", WRITERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_from_every_file(kind, file, tiny_model, tmp_path, call):
    """The test file's rows are those of the output, and predict.py says the same of them."""
    labels, given, figures = KINDS[kind]
    write = WRITERS[file]
    ending = file.rpartition(".")[2]
    rows = list(zip(TEXTS, labels))
    write(tmp_path / f"train.{ending}", ["text", "label"], rows)
    write(tmp_path / f"test.{ending}", ["text"], [[text] for text in TEXTS])
    out = tmp_path / "out"
    flags = own(tmp_path, tiny_model, out, *given, "--dev_fraction=0.25")
    outcome = call(
        run_classifier, *flags, "--do_train", "--do_eval", "--do_predict", "--learning_rate=1e-3"
    ).ok()
    assert "the dev set is 3 of the 12 examples of" in outcome.out
    assert "train: 9 inputs" in outcome.out or kind == "long"
    assert set(figures) < results(out).keys()
    assert ("eval_accuracy" in results(out)) == ("eval_accuracy" in figures)

    facts = json.loads((out / "run.json").read_text("utf-8"))
    assert facts["labels"] == LABELS[kind]
    assert weights(out)["classifier.bias"].shape == (len(LABELS[kind]) or 1,)
    rows = np.loadtxt(out / "test_results.tsv", ndmin=2)
    assert rows.shape == (12, len(LABELS[kind]) or 1)
    found = call(predict, out, f"--input={tmp_path / f'test.{ending}'}", "--text_columns=text").ok()
    found = [json.loads(line) for line in found.out.splitlines()]
    if kind == "score":
        assert [one["score"] for one in found] == pytest.approx(rows[:, 0].tolist(), abs=1e-4)
        return
    for one, row in zip(found, rows, strict=True):
        assert list(one["probabilities"]) == LABELS[kind]
        assert list(one["probabilities"].values()) == pytest.approx(row.tolist(), abs=1e-5)
        if kind == "several":
            chosen = [label for label, value in zip(LABELS[kind], row) if value > 0.5]
            assert one["labels"] == chosen
        else:
            assert one["label"] == LABELS[kind][int(row.argmax())]


# --- several labels ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several(tiny_model, tmp_path_factory):
    """(folder of the files, --output_dir) of a run with several labels an example."""
    folder = tmp_path_factory.mktemp("several")
    labels = ["a|b", "b", "b|c", "c | a", "b|c|a", ""] * 2
    for name in ("train", "dev"):
        pandas_csv(folder / f"{name}.csv", ["text", "label"], list(zip(TEXTS, labels)))
    out = folder / "out"
    command = own(folder, tiny_model, out, "--multi_label", "--do_train", "--do_eval")
    run_classifier.main([*command, "--learning_rate=3e-3", "--num_train_epochs=10"])
    return folder, out


def test_figures_of_several_labels(several):
    """The figures by hand, from the probabilities that predict.py gives."""
    folder, out = several
    model = predict.load(out)
    assert model.task == "multi-label classification" and model.labels == ["a", "b", "c"]
    found = model.classify(TEXTS)
    guess = np.array([[name in one.labels for name in "abc"] for one in found])
    cells = ["ab", "b", "bc", "ac", "abc", ""] * 2
    truth = np.array([[name in cell for name in "abc"] for cell in cells])
    assert guess.any() and (guess != truth).any(), "nothing to count"
    both, either = (guess & truth).sum(axis=0), guess.sum(axis=0) + truth.sum(axis=0)
    figures = {name: float(value) for name, value in results(out).items()}
    assert figures["eval_micro_f1"] == pytest.approx(2 * both.sum() / either.sum(), abs=1e-6)
    assert figures["eval_macro_f1"] == pytest.approx((2 * both / either).mean(), abs=1e-6)
    assert figures["eval_subset_accuracy"] == pytest.approx(
        (guess == truth).all(1).mean(), abs=1e-6
    )
    chances = np.array([list(one.probabilities.values()) for one in found])
    losses = -np.log(np.where(truth, chances, 1 - chances))
    assert figures["eval_loss"] == pytest.approx(losses.mean(), rel=1e-4)
    page = (out / "report.html").read_text("utf-8")
    assert "eval_micro_f1 (the F1 of all decisions on all labels)" in page
    assert "Evaluation on dev.csv" in page and "instead of “" in page


def test_evaluation_takes_the_kind_from_the_folder(several, tiny_model, mrpc, tmp_path, call):
    folder, out = several
    given = own(folder, tiny_model, tmp_path, f"--init_checkpoint={out}", "--do_eval")
    call(run_classifier, *given).ok()
    assert results(tmp_path) == results(out)
    refused = call(run_classifier, *given, "--no_multi_label")
    assert refused.status == 2
    assert (
        f"{out} was trained with several labels an example, but this run has one label an example "
        f"(--multi_label)"
    ) in refused.err
    refused = call(run_classifier, *given, "--labels=none", "--no_multi_label")
    assert refused.status == 2


def test_predict_writes_several_labels(several, tmp_path, call):
    _, out = several
    (tmp_path / "in.jsonl").write_text('{"text": "Rain.", "labels": ["mine"]}\n')
    call(predict, out, f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'o.tsv'}").ok()
    header, row = (tmp_path / "o.tsv").read_text().splitlines()
    names = header.split("\t")
    assert names[:3] == ["text", "input_labels", "labels"] and names[3:] == [
        f"probabilities.{label}" for label in "abc"
    ]
    (one,) = predict.load(out).classify(["Rain."])
    assert row.split("\t")[2] == "|".join(one.labels)
    assert call(predict, out, "Rain.", "--format=table").ok().out.split()[:4] == [
        "labels", "a", "b", "c"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="holds a head for multi-label classification: use class"):
        predict.load(out).score(["Rain."])


@torch.no_grad()
def test_transformers_reads_several_labels_and_back(several, tmp_path, call):
    transformers = pytest.importorskip("transformers")
    _, out = several
    theirs = transformers.BertForSequenceClassification.from_pretrained(out).eval()
    assert theirs.config.problem_type == "multi_label_classification"
    tokenizer = transformers.BertTokenizer(str(out / "vocab.txt"))
    inputs = tokenizer("It rained.", return_tensors="pt")
    labels = torch.tensor([[1.0, 0.0, 1.0]])
    wanted = theirs(**inputs, labels=labels)
    (one,) = predict.load(out).classify(["It rained."])
    assert list(one.probabilities.values()) == pytest.approx(
        wanted.logits.sigmoid()[0].tolist(), abs=1e-5
    )
    ours = BertForSequenceClassification(BertConfig.from_json_file(out / "bert_config.json"), 3)
    ours.load_state_dict(weights(out))
    loss, _ = ours.eval()(inputs["input_ids"], inputs["token_type_ids"], None, labels)
    assert loss.item() == pytest.approx(wanted.loss.item(), rel=1e-5)

    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (again,) = predict.load(tmp_path).classify(["It rained."])
    assert again.labels == one.labels
    assert again.probabilities == pytest.approx(one.probabilities, abs=1e-5)


# --- class weights -------------------------------------------------------------------------------


class Row:
    def __init__(self, label_id, weight):
        self.label_id = label_id
        self.weight = weight


def test_the_weighted_loss_by_hand():
    """(2 ln 2 + 0.5 ln 2 + 2 ln 4/3) / 4.5, in any parts on any number of ranks."""
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [math.log(3), 0.0]])
    rows = [Row(0, 2.0), Row(1, 0.5), Row(0, 2.0)]
    wanted = (2.5 * math.log(2) + 2 * math.log(4 / 3)) / 4.5
    examples = TrainingExamples(rows, ("label_id",), weight_of=lambda row: row.weight)

    for parts in ([[0, 1, 2]], [[0], [1, 2]], [[2], [1], [0]]):
        split = [[rows[index] for index in part] for part in parts]
        totals = own_totals(examples, split, 3)
        assert totals.weight.item() == 4.5
        loss = 0.0
        for part, own_rows in zip(parts, split):
            labels = torch.tensor([row.label_id for row in own_rows])
            own_weights = torch.tensor([row.weight for row in own_rows])
            batch = (logits[part],), labels, own_weights
            loss += run_classifier.compute_loss(lambda values: values, batch, totals).item()
        assert loss == pytest.approx(wanted, rel=1e-6)
    plain = TrainingExamples(rows, ("label_id",))
    totals = own_totals(plain, [rows], 3)
    batch = (logits,), torch.tensor([0, 1, 0])
    loss = run_classifier.compute_loss(lambda values: values, batch, totals)
    assert loss.item() == pytest.approx((2 * math.log(2) + math.log(4 / 3)) / 3, rel=1e-6)


WEIGHTED = ["--class_weights=0.25,4", "--learning_rate=1e-3", "--train_batch_size=5"]


@pytest.fixture(scope="module")
def weighted(tiny_model_without_dropout, mrpc, tmp_path_factory):
    """(flags, --output_dir) of a run with class weights, on MRPC's pairs."""
    out = tmp_path_factory.mktemp("weighted")
    command = [
        "--task_name=MRPC", f"--data_dir={mrpc}", *model_flags(tiny_model_without_dropout),
        "--do_train", *SMALL, *WEIGHTED, "--num_train_epochs=2",
    ]  # fmt: skip
    run_classifier.main([*command, f"--output_dir={out}"])
    return command, out


def test_two_ranks_and_two_parts_weigh_as_one(weighted, tiny_model_without_dropout, tmp_path):
    command, one = weighted
    outcome = run_ranks(
        2, "run_classifier.py", *command, "--gradient_accumulation_steps=2",
        f"--output_dir={tmp_path}",
    ).ok()  # fmt: skip
    assert outcome.out.count("class weights: 0 0.25, 1 4\n") == 1
    assert_close_runs(tmp_path, one, tiny_model_without_dropout)


def test_weights_of_1_and_balanced_ones(weighted, mrpc, tmp_path, call):
    """Equal weights change nothing but rounding; other ones may not be taken when resuming."""
    command, out = weighted
    refused = call(run_classifier, *command, "--class_weights=1,1", f"--output_dir={out}")
    assert refused.status == 2 and "class_weights was 0.25,4, is 1,1" in refused.err
    balanced = call(run_classifier, *command, "--class_weights=balanced",
                    f"--output_dir={tmp_path}").ok()  # fmt: skip
    lines = (mrpc / "train.tsv").read_text("utf-8").splitlines()[1:]
    ones = sum(line.startswith("1") for line in lines)
    shown = f"0 {13 / 2 / (13 - ones):.4g}, 1 {13 / 2 / ones:.4g}"
    assert f"class weights (n / (k * count)): {shown}\n" in balanced.out
    with pytest.raises(AssertionError):
        assert_same_weights(out, tmp_path)


# --- documents longer than the model -------------------------------------------------------------

WINDOW = ["--max_seq_length=32", "--doc_stride=20"]


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """(folder, model, --output_dir) of a run on long documents, of which one word decides.

    In the training files it stands anywhere in up to 90 words, in the others at position 2,000.
    """
    folder = tmp_path_factory.mktemp("documents")
    base = write_tiny_model(
        folder / "model", num_hidden_layers=1, initializer_range=0.1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    words = [
        word for word in (base / "vocab.txt").read_text("utf-8").split() if word.isascii()
        and word.isalpha() and len(word) > 1
    ]  # fmt: skip
    deciding, filler = dict(zip(("no", "yes"), words)), words[2:12]
    random = np.random.RandomState(0)

    def rows(number, length, place):
        found = []
        for _ in range(number):
            text = random.choice(filler, length()).tolist()
            position = place(len(text))
            for label, word in deciding.items():
                found.append([" ".join([*text[:position], word, *text[position:]]), label])
        return found

    train = rows(40, lambda: random.randint(5, 90), lambda length: random.randint(length))
    write_csv(folder / "train.csv", [["text", "label"], *train])
    for name in ("dev", "test"):
        long = rows(2, lambda: 2100, lambda length: 2000)
        write_csv(folder / f"{name}.csv", [["text", "label"], *long])
    return folder, base


def test_a_word_at_position_2000_decides(documents, tmp_path, call):
    folder, base = documents
    command = own(folder, base, tmp_path, *WINDOW, "--learning_rate=2e-3", "--num_train_epochs=12",
                  "--train_batch_size=16", "--schedule=warmup_cosine")  # fmt: skip
    outcome = call(run_classifier, *command, "--do_train", "--do_eval", "--do_predict").ok()
    windows = 1 + math.ceil((2101 - 30) / 20)
    assert (
        f"dev: 4 of 4 texts are longer than 32 WordPieces and divided into {4 * windows} windows; "
        f"the mean of their logits is their text's\n"
    ) in outcome.out
    assert "windows; each is an example with its text's label\n" in outcome.out
    rows = np.loadtxt(tmp_path / "test_results.tsv")
    assert len(rows) == 4 and rows[1::2, 1].min() > rows[::2, 1].max() + 0.02
    found = call(predict, tmp_path, f"--input={folder / 'test.csv'}", "--text_columns=text").ok()
    told = "4 of the texts are longer than 32 WordPieces and were read through windows\n"
    assert found.err == told
    for line, row in zip(found.out.splitlines(), rows, strict=True):
        probabilities = json.loads(line)["probabilities"]
        assert list(probabilities.values()) == pytest.approx(row.tolist(), abs=1e-5)

    # Evaluation alone takes --doc_stride from the folder.
    before = results(tmp_path)
    alone = [flag for flag in command if not flag.startswith("--doc_stride")]
    call(run_classifier, *alone, "--do_eval").ok()
    assert results(tmp_path) == before


def test_the_mean_of_the_windows_logits(documents):
    """The logits of a long text by hand, from the model on each of its windows."""
    _, base = documents
    model = predict.load(base)
    torch.manual_seed(1)
    network = BertForSequenceClassification(model.config, 3).eval()
    torch.nn.init.normal_(network.classifier.weight)
    model.network = network
    model.task = "classification"
    model.labels = ["a", "b", "c"]
    model.max_seq_length = 12
    model.folder.run["flags"] = {"doc_stride": 4}
    text = "the rain and the river took a bridge of it in the end"
    ids = model.tokenizer.encode(text)
    cls_id, sep_id = model.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    starts = [start for start in range(0, len(ids), 4) if start == 0 or start + 6 < len(ids)]
    with torch.no_grad():
        logits = [network(torch.tensor([[cls_id, *ids[s : s + 10], sep_id]]))[0] for s in starts]
    wanted = torch.stack(logits).mean(0).softmax(0)
    assert len(starts) > 2
    one, short = model.classify([text, "the end"])
    assert list(one.probabilities.values()) == pytest.approx(wanted.tolist(), abs=1e-5)
    assert (model.num_windowed, model.num_cut) == (1, 0)
    # Of a pair the longer text is divided, and the other one is in every window.
    model.classify([("the end", text)])
    assert (model.num_windowed, model.num_cut) == (2, 0)
    model.classify([(text, text)])
    assert (model.num_windowed, model.num_cut) == (3, 1)


# --- a part of the training file -----------------------------------------------------------------


def test_evaluation_on_what_was_held_out(tiny_model, tmp_path, call):
    """The same part again; with another seed it would be examples that training has seen."""
    pandas_jsonl(tmp_path / "train.jsonl", ["text", "label"],
                 [(text, len(text) > 12) for text in TEXTS])  # fmt: skip
    out = tmp_path / "out"
    command = own(tmp_path, tiny_model, out, "--dev_fraction=0.5", "--do_eval")
    call(run_classifier, *command, "--do_train").ok()
    before = results(out)
    call(run_classifier, *command).ok()
    assert results(out) == before
    assert "Evaluation on 0.5 of train.jsonl" in (out / "report.html").read_text("utf-8")
    refused = call(run_classifier, *command, "--seed=2")
    line = f"{out} was trained with --seed 1, but this run has 2: it would be evaluated on examples"
    assert refused.status == 2 and f"{line} that it has seen\n" in refused.err
    refused = call(run_classifier, *command, "--do_train", "--dev_fraction=0.4")
    assert refused.status == 2 and "dev_fraction was 0.5, is 0.4" in refused.err


def test_labels_of_the_folder_and_of_the_file(tiny_model, tmp_path, call):
    """Training goes on with a folder's labels where it names all of the file's."""
    for name, labels in (("one", "abc"), ("two", "cb"), ("three", "bd")):
        (tmp_path / name).mkdir()
        rows = [(text, labels[number % len(labels)]) for number, text in enumerate(TEXTS)]
        write_csv(tmp_path / name / "train.csv", [["text", "label"], *rows])
    outs = [tmp_path / "first", tmp_path / "second", tmp_path / "third"]
    call(run_classifier, *own(tmp_path / "one", tiny_model, outs[0], "--labels=c,b,a"),
         "--do_train").ok()  # fmt: skip
    start = f"--init_checkpoint={outs[0]}"
    second = call(run_classifier, *own(tmp_path / "two", tiny_model, outs[1], start),
                  "--do_train").ok()  # fmt: skip
    assert "two/train.csv holds, sorted by name: b 6, c 6\n" in second.out
    assert f"--labels are in the order of {outs[0]}: c, b, a\n" in second.out
    third = call(run_classifier, *own(tmp_path / "three", tiny_model, outs[2], start),
                 "--do_train").ok()  # fmt: skip
    assert "new: classifier" in third.out
    found = [json.loads((out / "run.json").read_text("utf-8"))["labels"] for out in outs]
    assert found == [["c", "b", "a"], ["c", "b", "a"], ["b", "d"]]
