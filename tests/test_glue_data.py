"""glue_data.py: each task's files, in their own layout with its quirks; and a user's own files."""

import csv
import io
import json
from collections import Counter

import numpy as np
import pytest
from glue_layouts import LAYOUTS, write, write_task
from helpers import run

from glue_data import (
    PROCESSORS,
    ColaProcessor,
    InputExample,
    MrpcProcessor,
    StsbProcessor,
    Task,
    TsvProcessor,
    XnliProcessor,
    class_weights,
    convert_examples_to_features,
    dev_examples,
    load_processor,
)
from tokenization import FullTokenizer


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name, tmp_path):
    write_task(name, tmp_path)
    processor = PROCESSORS[name]()
    wanted = LAYOUTS[name][1]
    assert wanted.keys() == processor.files.keys()
    for set_type, rows in wanted.items():
        examples = processor.get_examples(tmp_path, set_type)
        assert examples == [InputExample(*row) for row in rows]
    assert processor.get_train_examples(tmp_path) == processor.get_examples(tmp_path, "train")
    assert processor.get_dev_examples(tmp_path) == processor.get_examples(tmp_path, "dev")
    assert processor.get_test_examples(tmp_path) == processor.get_examples(tmp_path, "test")


def test_labels():
    """In Google's order; at least three different orders of MNLI's labels are in circulation."""
    assert LAYOUTS.keys() == PROCESSORS.keys() - {"tsv"}
    for name in LAYOUTS:
        wanted = {
            "mnli": ["contradiction", "entailment", "neutral"],
            "xnli": ["contradiction", "entailment", "neutral"],
            "qnli": ["entailment", "not_entailment"],
            "rte": ["entailment", "not_entailment"],
            "sts-b": [],
        }.get(name, ["0", "1"])
        assert PROCESSORS[name]().get_labels() == wanted


def test_reading_files_loads_no_pytorch():
    code = (
        "import sys, glue_data; glue_data.MrpcProcessor().get_dev_examples('samples/MRPC'); "
        "assert 'torch' not in sys.modules"
    )
    run("-c", code).ok()


@pytest.mark.parametrize("end", ("\n", "\r\n"))
@pytest.mark.parametrize("start", (b"", b"\xef\xbb\xbf"))
def test_windows_line_ends_and_byte_order_marks_change_nothing(tmp_path, end, start):
    rows = LAYOUTS["mrpc"][0]["train.tsv"]
    write(tmp_path / "a" / "train.tsv", rows[0].removeprefix("\ufeff"), *rows[1:])
    write(
        tmp_path / "b" / "train.tsv", rows[0].removeprefix("\ufeff"), *rows[1:],
        end=end, start=start,
    )  # fmt: skip
    one = MrpcProcessor().get_train_examples(tmp_path / "a")
    other = MrpcProcessor().get_train_examples(tmp_path / "b")
    assert one == other
    assert other[1].text_b == "Yucaipa bought it ."

    labelled = write(tmp_path / "c" / "train.tsv", "x|1||Text.", end=end, start=start)
    assert ColaProcessor().get_train_examples(labelled)[0].text_a == "Text."


MRPC_HEADER = "Quality|#1 ID|#2 ID|#1 String|#2 String"


def test_quotation_marks_are_ordinary_characters(tmp_path):
    """A single one must not swallow the rows after it, and a pair must not disappear."""
    texts = ['He said "no.', '"Quoted"', 'end"', '""', 'a "b" c', '"']
    write(tmp_path / "train.tsv", MRPC_HEADER, *(f"1|7|8|{text}|Two." for text in texts))
    assert [e.text_a for e in MrpcProcessor().get_train_examples(tmp_path)] == texts


def test_unusual_line_separators_are_part_of_a_text(tmp_path):
    texts = ["a\u2028b", "c\x85d", "e\x0bf", "g\x1ch", "i\rj", "x" * 200_000]
    write(tmp_path / "train.tsv", MRPC_HEADER, *(f"1|7|8|{text}|Two." for text in texts))
    assert [e.text_a for e in MrpcProcessor().get_train_examples(tmp_path)] == texts


def test_blank_and_short_rows(tmp_path):
    """Blank and short rows are skipped and counted, short ones shown too."""
    path = tmp_path / "train.tsv"
    write(path, MRPC_HEADER, "1|7|8|One.|Two.", "", "0|9", "0|9|10|Three.|Four.", " ",
          "1|5|6|Five.|Six.")  # fmt: skip
    logged = []
    examples = MrpcProcessor().get_examples(tmp_path, "train", logged.append)
    assert [e.guid for e in examples] == ["train-1", "train-4", "train-6"]
    assert [e.label for e in examples] == ["1", "0", "1"]
    assert logged == [
        f"skipped: {path}:4: expected at least 5 columns, found 2",
        f"{path}: rows skipped: 1, complete rows: 3",
        f"{path}: blank rows skipped: 2",
    ]

    logged.clear()
    PROCESSORS["qqp"]().get_examples(write_task("qqp", tmp_path), "train", logged.append)
    assert logged == [
        f"skipped: {path}:3: expected at least 6 columns, found 4",
        f"skipped: {path}:4: expected at least 6 columns, found 3",
        f"{path}: rows skipped: 2, complete rows: 3",
    ]


def test_short_rows_of_a_test_file_keep_their_place(tmp_path):
    """The GLUE server counts rows, so the predictions after a short row must not move up."""
    path = tmp_path / "test.tsv"
    write(path, "id|question1|question2", "0|A?|B?", "1|C?", "2|D?|E?")
    logged = []
    examples = PROCESSORS["qqp"]().get_examples(tmp_path, "test", logged.append)
    assert [(e.text_a, e.text_b) for e in examples] == [("A?", "B?"), ("C?", ""), ("D?", "E?")]
    assert logged == [
        f"read as empty: {path}:3: expected at least 3 columns, found 2",
        f"{path}: rows read as empty: 1, complete rows: 2",
    ]

    write(path, "id|question1|question2", "0,A?,B?")
    with pytest.raises(ValueError, match=r"test\.tsv:2: expected at least 3 columns, found 1"):
        PROCESSORS["qqp"]().get_test_examples(tmp_path)


@pytest.mark.parametrize("score", ("high", "nan", "inf", ""))
def test_scores_must_be_finite_numbers(score, tmp_path):
    write(tmp_path / "train.tsv", "header", f"0|a|b|c|d|e|f|A|B|{score}")
    message = rf"train.tsv:2: the score '{score}' is not a finite number"
    with pytest.raises(ValueError, match=message):
        StsbProcessor().get_train_examples(tmp_path)


def test_an_empty_text_b_is_none(tiny_model, tmp_path):
    """As Google: [CLS] A [SEP], without a second separator."""
    tokenizer = FullTokenizer(tiny_model / "vocab.txt")
    examples = [InputExample("a", "the", "", "1"), InputExample("b", "the", None, "1")]
    one, other = convert_examples_to_features(examples, ["0", "1"], 16, tokenizer)
    assert one.input_ids.tolist() == other.input_ids.tolist()
    assert len(one.input_ids) == 3
    assert one.input_mask.tolist() == [1, 1, 1]
    assert one.label_id == 1


# --- a user's own files --------------------------------------------------------------------------

OWN = ("a|x|good", "b|y|bad", "c|z|good")


def own(**changes):
    """A processor for rows like those of OWN, but for `changes`."""
    return TsvProcessor(
        **{"labels": ("bad", "good"), "text_columns": (0, 1), "label_column": 2, **changes}
    )


@pytest.mark.parametrize("header", ("auto", "true", "false"))
@pytest.mark.parametrize("has_header", (True, False))
def test_own_header(header, has_header, tmp_path):
    write(tmp_path / "train.tsv", *(["one|two|opinion"] if has_header else []), *OWN)
    write(tmp_path / "test.tsv", *(["one|two"] if has_header else []), "d|w", "e|v")
    logged = []
    processor = own(header=header)
    if header != "auto" and (header == "true") != has_header:  # a wrong --header
        message = "is an example, but the file should begin with"
        if has_header:
            message = "is not one of bad, good"
        with pytest.raises(ValueError, match=rf"train\.tsv:1.* {message}"):
            processor.get_train_examples(tmp_path)
        return

    train = processor.get_examples(tmp_path, "train", logged.append)
    assert [(e.text_a, e.text_b, e.label) for e in train] == [tuple(r.split("|")) for r in OWN]
    test = processor.get_examples(tmp_path, "test", logged.append)
    assert [(e.text_a, e.text_b, e.label) for e in test] == [("d", "w", None), ("e", "v", None)]
    reason = (
        f"the label column of {tmp_path / 'train.tsv'}:1 holds 'opinion', which is not one of "
        f"the labels"
    )
    assert logged == [
        f"{tmp_path / name}:1 is treated as a header, because {reason}"
        for name in ("train.tsv", "test.tsv")
        if header == "auto" and has_header
    ]


def test_own_test_file_without_the_header_of_train(tmp_path):
    """Its first row would be lost if it were treated as a header."""
    write(tmp_path / "train.tsv", "one|two|opinion", *OWN)
    write(tmp_path / "test.tsv", "d|w", "e|v")
    with pytest.raises(
        ValueError, match=r"test\.tsv:1 differs from the header in .*train\.tsv:1: begin both"
    ):
        own().get_examples(tmp_path, "test", lambda line: None)


def test_own_test_file_has_a_header_if_dev_has_one_and_there_is_no_train(tmp_path):
    write(tmp_path / "test.tsv", "d|w|bad", "e|v|?")  # a test file's labels are ignored
    with pytest.raises(ValueError, match="give --header true or --header false"):
        own().get_test_examples(tmp_path)
    assert len(own(header="false").get_test_examples(tmp_path)) == 2
    for name, rows in (("dev.tsv", OWN), ("test.tsv", ["d|w|bad", "e|v|?"])):
        write(tmp_path / name, "one|two|opinion", *rows)
    assert len(own().get_test_examples(tmp_path)) == 2


def test_own_metrics():
    assert list(own().metrics) == ["eval_f1", "eval_mcc"]
    assert list(own(labels=("a", "b", "c")).metrics) == ["eval_macro_f1"]


def test_own_mistakes(tmp_path):
    path = tmp_path / "train.tsv"
    write(path, *OWN, "d|w|godo")
    with pytest.raises(ValueError, match=r"train.tsv:4: the label 'godo' is not one of bad, good"):
        own().get_train_examples(tmp_path)

    hint = "columns are separated by tabs and counted from 0"
    with pytest.raises(ValueError, match=rf"tsv:1: expected at least 4 columns, found 3: {hint}"):
        own(label_column=3).get_train_examples(tmp_path)
    with pytest.raises(ValueError, match=r"train.tsv:2: the label 'b' is not one of bad, good"):
        own(label_column=0, text_columns=(1, 2)).get_train_examples(tmp_path)

    path.write_text("a,x,good\n")
    with pytest.raises(ValueError, match=rf"tsv:1: expected at least 3 columns, found 1: {hint}"):
        own().get_train_examples(tmp_path)

    path.write_text("")
    with pytest.raises(ValueError, match=r"train.tsv has no examples"):
        own().get_train_examples(tmp_path)


# --- a user's own files in other formats ----------------------------------------------------------

TEXTS = ['He said "no".', "one, two", "line\nbreak", "café 😀", "it; is\ttabbed", "last"]
ANSWERS = ["no", "yes", "no", "yes", "yes", "no"]


def as_csv(rows, end="\n", start="", separator=","):
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=end, delimiter=separator).writerows(rows)
    return (start + file.getvalue()).encode()


def objects(names, rows):
    return "".join(json.dumps(dict(zip(names, row))) + "\n" for row in rows).encode()


PLAIN = [[text, label] for text, label in zip(TEXTS, ANSWERS)]
INDEXED = [[number, *row] for number, row in enumerate(PLAIN)]
FILES = {  # what is written, and the --text_columns and --label_column that read it
    "pandas": (".csv", as_csv([["text", "label"], *PLAIN]), ("text", "label")),
    "pandas with index": (".csv", as_csv([["", "text", "label"], *INDEXED]), ("text", "label")),
    "pandas by number": (".csv", as_csv([["", "text", "label"], *INDEXED]), (1, 2)),
    "pandas without names": (".csv", as_csv([["", "0", "1"], *INDEXED]), (0, 1)),
    "no header": (".csv", as_csv(PLAIN), (0, 1)),
    "spreadsheet": (
        ".csv",
        as_csv([["Label", "Text", ""], *([b, a, ""] for a, b in PLAIN)], "\r\n", "\ufeff"),
        ("Text", "Label"),
    ),  # fmt: skip
    "to_json": (".jsonl", objects(("text", "label"), PLAIN), ("text", "label")),
    "to_json by number": (".jsonl", objects(("id", "text", "label"), INDEXED), (1, 2)),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_pandas_and_spreadsheets(name, tmp_path):
    """The same examples from each; labels are found where they are not given."""
    ending, content, (text, label) = FILES[name]
    (tmp_path / f"train{ending}").write_bytes(content)
    logged = []
    labels = TsvProcessor(None, (text,), label).find_labels(str(tmp_path), logged.append)
    assert labels == ("no", "yes")
    (line,) = logged
    assert line.endswith(f"train{ending} holds, sorted by name: no 3, yes 3")

    processor = TsvProcessor(labels, (text,), label)
    examples = processor.get_examples(str(tmp_path), "train", logged.append)
    assert [(e.text_a, e.text_b, e.label) for e in examples] == [
        (text, None, label) for text, label in zip(TEXTS, ANSWERS)
    ]
    assert str(processor.tally) == "rows read 6, used 6, skipped 0, cut 0"


def test_files_of_one_task_may_differ_in_format_and_order(tmp_path):
    (tmp_path / "train.csv").write_bytes(as_csv([["a", "b", "y"], ["1", "2", "no"]]))
    (tmp_path / "dev.jsonl").write_bytes(objects(("y", "b", "a"), [["no", "4", "3"]]))
    write(tmp_path / "test.tsv", "b|c|a", "6|x|5")
    processor = own(labels=("no", "yes"), text_columns=("a", "b"), label_column="y")
    read = [processor.get_examples(str(tmp_path), name)[0] for name in ("train", "dev", "test")]
    assert [(e.text_a, e.text_b, e.label) for e in read] == [
        ("1", "2", "no"), ("3", "4", "no"), ("5", "6", None)
    ]  # fmt: skip
    assert processor.files == {"train": "train.csv", "dev": "dev.jsonl", "test": "test.tsv"}


def test_a_column_may_be_called_as_a_label(tmp_path):
    (tmp_path / "train.csv").write_bytes(as_csv([["t", "same"], ["a", "same"], ["b", "other"]]))
    labels = TsvProcessor(None, ("t",), "same").find_labels(str(tmp_path), lambda line: None)
    assert labels == ("other", "same")
    examples = TsvProcessor(labels, ("t",), "same").get_train_examples(str(tmp_path))
    assert [e.label for e in examples] == ["same", "other"]


def test_labels_of_json(tmp_path):
    """Numbers and booleans are labels by their JSON names; null is an empty one."""
    for values, found in (
        ([True, False, True], ("false", "true")),
        ([10, 9, 1.0, 10.0], ("1", "9", "10")),
        (["10", "9", "b"], ("10", "9", "b")),
        ([-1, 0, 1], ("-1", "0", "1")),
    ):
        (tmp_path / "train.jsonl").write_bytes(objects("tl", [["x", value] for value in values]))
        processor = TsvProcessor(None, ("t",), "l")
        assert processor.find_labels(str(tmp_path), lambda line: None) == found
    for rows, message in (
        ([["x", "a"], ["y", None]], r"train.jsonl:2: the label is empty"),
        ([["x", ["a"]]], r"train.jsonl:1: \['a'\] is not a label"),
        ([["x", "a"], [7, "a"]], r'train.jsonl:2: "t" is 7, not a text'),
        ([["x", "a"], ["y"]], r'train.jsonl:2 has no "l"'),
        ([["x", "a"], ["y", "a"]], r"holds only 'a': two labels or more are needed"),
        ([["x", 0.5], ["y", 2]], r"holds numbers, as 0.5: give --labels none for a regression"),
    ):
        (tmp_path / "train.jsonl").write_bytes(objects("tl", rows))
        with pytest.raises(ValueError, match=message):
            TsvProcessor(None, ("t",), "l").find_labels(str(tmp_path))


def test_texts_are_not_labels(tmp_path):
    rows = [["t", "l"], *([f"text {number}", f"label {number % 9}"] for number in range(10))]
    (tmp_path / "train.csv").write_bytes(as_csv(rows))
    with pytest.raises(ValueError, match="holds 9 different values in 10 rows: is it the right on"):
        TsvProcessor(None, ("t",), "l").find_labels(str(tmp_path))


def test_null_is_an_empty_text(tmp_path):
    """As pandas writes a missing value, in a .csv an empty cell."""
    (tmp_path / "dev.jsonl").write_bytes(objects("abl", [["x", None, "no"], ["y", "z", "yes"]]))
    processor = own(labels=("no", "yes"), text_columns=("a", "b"), label_column="l")
    assert [e.text_b for e in processor.get_dev_examples(str(tmp_path))] == ["", "z"]
    (tmp_path / "dev.jsonl").write_bytes(objects("abl", [["x", None, "no"]]) + b'{"a": "y"}')
    with pytest.raises(ValueError, match='dev.jsonl:2 has no "b"'):
        processor.get_dev_examples(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"text;label\nfine;yes\nx\n",
            r"train.csv:1: there is no column text .*semicolons seem to",
        ),
        (b"fine,yes\nbad,no\n", r"train.csv:1: there is no column text .* there are fine, yes$"),
        (b"text,text,label\na,b,yes\n", r"train.csv:1 names two columns 'text': rename one"),
        (b"text,label\na, b,yes\n", r"train.csv:2 has 3 columns, the first row has 2: a cell with"),
        (b'text,label\n"a\nb",yes\nc,maybe\n', r"train.csv:4: the label 'maybe' is not one of"),
        (b"text,label\na,\n", r"train.csv:2: the label '' is not one of no, yes"),
        (
            b"sep=;\ntext;label\na; b;yes\n",
            r"train.csv:3 has 3 columns, .* a cell with a semicolon",
        ),
        (b"sep=;\ntext;label\na\nb\nc;yes\n", r"csv:3: expected .* are separated by semicolons"),
        (b"", r"train.csv has no examples"),
        (b"\n\n", r"train.csv has no examples"),
        (b"text,label\n", r"train.csv has no examples"),
        (b"text,label\na\nb\nc,yes\n", r"csv:2: expected at least 2 columns, found 1: columns are"),
    ],
)
def test_mistakes_in_a_csv(content, message, tmp_path):
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        own(labels=("no", "yes"), text_columns=("text",), label_column="label").get_examples(
            str(tmp_path), "train"
        )


def test_another_separator_is_told(tmp_path):
    """It was found, not given."""
    (tmp_path / "train.csv").write_text("text;label\nfine, good;yes\nbad;no\n")
    logged = []
    processor = own(labels=("no", "yes"), text_columns=("text",), label_column="label")
    examples = processor.get_examples(str(tmp_path), "train", logged.append)
    assert [example.text_a for example in examples] == ["fine, good", "bad"]
    assert logged == [f"{tmp_path}/train.csv: semicolons separate the cells"]


def test_short_rows_of_a_csv_are_counted(tmp_path):
    """Spreadsheets leave out empty cells at the end of a row, or fill blank rows with commas."""
    (tmp_path / "train.csv").write_bytes(b"t,l,note\na,no\n,,\nb\nc,yes,x,,\nd,yes,\n")
    logged = []
    processor = own(labels=("no", "yes"), text_columns=("t",), label_column="l")
    examples = processor.get_examples(str(tmp_path), "train", logged.append)
    assert [e.text_a for e in examples] == ["a", "c", "d"]
    path = tmp_path / "train.csv"
    assert logged == [
        f"skipped: {path}:4: expected at least 2 columns, found 1",
        f"{path}: rows skipped: 1, complete rows: 3",
        f"{path}: blank rows skipped: 1",
    ]
    (tmp_path / "test.csv").write_bytes(b't\na\n""\nb\n')
    assert [e.text_a for e in processor.get_examples(str(tmp_path), "test")] == ["a", "", "b"]


def test_missing_files_are_named(tmp_path):
    (tmp_path / "train.xlsx").touch()
    with pytest.raises(FileNotFoundError, match="no train.tsv, train.csv or train.jsonl, but tr"):
        own().get_examples(str(tmp_path), "train")
    with pytest.raises(FileNotFoundError, match="or dev.jsonl: --dev_fraction 0.1 takes that pa"):
        own().get_examples(str(tmp_path), "dev")
    write(tmp_path / "dev.tsv", *OWN)
    (tmp_path / "dev.csv").touch()
    with pytest.raises(ValueError, match="has both dev.tsv and dev.csv"):
        own().get_examples(str(tmp_path), "dev")


# --- other kinds of a user's own task -------------------------------------------------------------


def test_regression(tmp_path):
    (tmp_path / "train.csv").write_bytes(b"t,score\na,1\nb,-2.5e1\n")
    for columns in (("t", "score"), (0, 1)):
        processor = TsvProcessor((), columns[:1], columns[1])
        assert [e.label for e in processor.get_train_examples(str(tmp_path))] == [1.0, -25.0]
        assert list(processor.metrics) == ["eval_pearson", "eval_spearman"]
        assert processor.main_metric == "eval_pearson"
        assert Task(processor).problem_type == "regression"
    (tmp_path / "train.csv").write_bytes(b"a,1\nb,high\n")
    with pytest.raises(ValueError, match="train.csv:2: the score 'high' is not a finite number"):
        TsvProcessor((), (0,), 1).get_train_examples(str(tmp_path))


def test_several_labels(tmp_path):
    """Parted by |, trimmed, each once; an empty cell or list is none."""
    cells = ["b | a", "", "c|a|c", "b"]
    wanted = [("b", "a"), (), ("c", "a"), ("b",)]
    (tmp_path / "train.csv").write_bytes(as_csv([["t", "l"], *(["x", cell] for cell in cells)]))
    lists = [["b", "a"], None, ["c", "a", "c"], "b"]
    for name, columns in (("train.csv", ("t", "l")), ("train.csv", (0, 1)), ("dev.jsonl", "tl")):
        (tmp_path / "dev.jsonl").write_bytes(objects("tl", [["x", value] for value in lists]))
        labels = TsvProcessor(None, columns[:1], columns[1], multi_label=True).find_labels(
            str(tmp_path), lambda line: None
        )
        assert labels == ("a", "b", "c")
        task = Task(TsvProcessor(labels, columns[:1], columns[1], multi_label=True))
        examples, _ = task.get_examples(name.partition(".")[0], str(tmp_path), lambda line: None)
        assert [e.label for e in examples] == wanted
    assert task.problem_type == "multi_label_classification"
    assert task.main_metric == "eval_micro_f1" and task.main_metric in task.metrics

    (tmp_path / "dev.jsonl").write_bytes(objects("tl", [["x", ["a|b"]]]))
    with pytest.raises(ValueError, match=r"dev.jsonl:1: \['a\|b'\] is not labels"):
        task.get_examples("dev", str(tmp_path))
    (tmp_path / "dev.jsonl").write_bytes(objects("tl", [["x", "a|d"]]))
    with pytest.raises(ValueError, match="dev.jsonl:1: the label 'd' is not one of a, b, c"):
        task.get_examples("dev", str(tmp_path))


def test_features_of_several_labels(tiny_model):
    tokenizer = FullTokenizer(tiny_model / "vocab.txt")
    examples = [InputExample("", "the", None, ("c", "a")), InputExample("", "the", None, ())]
    one, other = convert_examples_to_features(examples, ["a", "b", "c"], 16, tokenizer)
    assert one.label_id.tolist() == [1, 0, 1] and other.label_id.tolist() == [0, 0, 0]
    assert one.label_id.dtype == np.float32
    with pytest.raises(ValueError, match="example x: the label 'd' is not one of a, b, c"):
        examples = [InputExample("x", "the", None, ("a", "d"))]
        convert_examples_to_features(examples, ["a", "b", "c"], 16, tokenizer)


def test_a_processor_of_several_labels():
    class Mine(MrpcProcessor):
        labels, multi_label = ("a", "b"), True

        def get_train_examples(self, data_dir):
            return [InputExample("x", "one", None, label) for label in (["b"], (), self.last)]

    Mine.last = ("a", "b")
    examples, _ = Task(Mine()).get_examples("train", "")
    assert [e.label for e in examples] == [("b",), (), ("a", "b")]
    for last, message in (("ab", "'ab' must be a tuple of labels"), (["c"], "'c' is not one of a")):
        Mine.last = last
        with pytest.raises(ValueError, match=message):
            Task(Mine()).get_examples("train", "")


def test_numbers_are_labels_by_value(tmp_path):
    """pandas writes 1 as 1.0 in a column in which a value is missing."""
    (tmp_path / "train.csv").write_text("a,1.0\nb,0\nc,01\n")
    columns = {"text_columns": (0,), "label_column": 1}
    examples = own(labels=("0", "1"), **columns).get_examples(str(tmp_path), "train")
    assert [example.label for example in examples] == ["1", "0", "1"]
    with pytest.raises(ValueError, match="the label '1.0' is not one of 1, x"):
        own(labels=("1", "x"), header="false", **columns).get_examples(str(tmp_path), "train")


def test_a_labels_only_example_is_not_held_out(tmp_path):
    labels = "a" * 8 + "b" * 6 + "cd"
    (tmp_path / "train.csv").write_text(
        "".join(f"t{n},{label}\n" for n, label in enumerate(labels))
    )
    for seed in range(5):
        processor = TsvProcessor(tuple("abcd"), (0,), 1, dev_fraction=0.5, seed=seed)
        train, dev = (processor.get_examples(str(tmp_path), name) for name in ("train", "dev"))
        assert len(train) + len(dev) == 16
        assert {"c", "d"} < {example.label for example in train}
        assert {example.label for example in dev} == {"a", "b"}


def test_dev_fraction(tmp_path):
    """Train and dev part the file: each label has its share in both, the seed decides which."""
    answers = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    rows = [[f"text {number}", answer] for number, answer in enumerate(answers)]
    (tmp_path / "train.csv").write_bytes(as_csv([["t", "l"], *rows]))

    def split(seed):
        found = {}
        for name in ("train", "dev"):
            processor = TsvProcessor("abc", ("t",), "l", dev_fraction=0.2, seed=seed)
            found[name] = processor.get_examples(str(tmp_path), name, logged.append)
            assert processor.tally.skipped.total() == 100 - len(found[name])
        return found

    logged = []
    found = split(5)
    assert Counter(e.label for e in found["dev"]) == {"a": 12, "b": 6, "c": 2}
    texts = [[e.text_a for e in found[name]] for name in ("train", "dev")]
    assert sorted(texts[0] + texts[1]) == sorted(text for text, _ in rows)
    assert split(5) == found and split(6) != found
    assert logged[1] == (
        f"the dev set is 20 of the 100 examples of {tmp_path / 'train.csv'} (--dev_fraction 0.2, "
        f"seed 5): a 12, b 6, c 2"
    )
    (tmp_path / "test.csv").write_bytes(b"t\nx\n")
    processor = TsvProcessor("abc", ("t",), "l", dev_fraction=0.001)
    assert len(processor.get_test_examples(str(tmp_path))) == 1
    with pytest.raises(ValueError, match="fraction 0.001 of the 100 examples of .* no dev"):
        processor.get_dev_examples(str(tmp_path))
    (tmp_path / "dev.jsonl").touch()
    with pytest.raises(ValueError, match=r"--dev_fraction 0.001, but there is .*dev.jsonl"):
        processor.get_train_examples(str(tmp_path))


def test_dev_examples_of_scores_and_of_several_labels():
    scores = np.random.RandomState(0).rand(1000)
    chosen = scores[sorted(dev_examples(scores.tolist(), 0.1, 3))]
    assert np.histogram(chosen, np.sort(scores)[[0, 250, 500, 750, 999]])[0].tolist() == [25] * 4
    several = [("a",), ("a", "b"), ()] * 100
    counts = Counter(several[index] for index in dev_examples(several, 0.3, 3))
    assert set(counts.values()) == {30} and len(counts) == 3


def test_class_weights():
    """n / (k * count): 6 examples, 3 labels, counts 3, 2 and 1."""
    label_ids = [0, 1, 0, 2, 1, 0]
    assert class_weights("balanced", label_ids, "abc") == [6 / 9, 1.0, 2.0]
    assert class_weights("1,0.5,4", label_ids, "abc") == [1, 0.5, 4]
    for text, labels, kind, message in (
        ("1,2", "abc", False, "--class_weights 1,2 has 2 numbers, but there are 3 labels: a, b, c"),
        ("balanced", "abcd", False, "balanced: no training example has the label 'd'"),
        ("balanced", "", False, "is for one label an example, not for a regression"),
        ("1,2,3", "abc", True, "is for one label an example, not for several labels an example"),
    ):
        with pytest.raises(ValueError, match=message):
            class_weights(text, label_ids, labels, kind)


def test_windows(tiny_model):
    """Every WordPiece is in a window; each has the label and the place of its text."""
    tokenizer = FullTokenizer(tiny_model / "vocab.txt")
    examples = [InputExample("a", "the " * 5, None, "1"), InputExample("b", "a " * 20, None, "0")]
    features = convert_examples_to_features(examples, ["0", "1"], 10, tokenizer, doc_stride=6)
    assert [f.example for f in features] == [0, 1, 1, 1]
    assert [f.label_id for f in features] == [1, 0, 0, 0]
    assert [len(f.input_ids) for f in features] == [7, 10, 10, 10]
    assert all(f.num_tokens == len(f.input_ids) for f in features)


# --- every row is accounted for -------------------------------------------------------------------


def test_a_test_file_gives_an_example_for_each_row(tmp_path):
    """Blank ones too, at the start and at the end; the newline at its end does not begin a row."""
    path = tmp_path / "test.tsv"
    path.write_text("\nd\tw\n\t\ne\tv\n\n")
    logged = []
    processor = own(header="false")
    examples = processor.get_examples(tmp_path, "test", logged.append)
    assert [(e.text_a, e.text_b) for e in examples] == [
        ("", ""), ("d", "w"), ("", ""), ("e", "v"), ("", "")
    ]  # fmt: skip
    assert logged == [f"{path}: blank rows read as empty: 3"]
    assert str(processor.tally).startswith("rows read 5, used 5, skipped 0, cut 0, blank or too ")
    path.write_text("\n")
    assert len(processor.get_examples(tmp_path, "test", logged.append)) == 1
    path.write_text("")
    with pytest.raises(ValueError, match="test.tsv has no examples"):
        processor.get_test_examples(tmp_path)


def test_blank_rows_before_a_header(tmp_path):
    write(tmp_path / "train.tsv", "", "one|two|opinion", *OWN)
    write(tmp_path / "test.tsv", "", "one|two", "d|w", "")
    processor = own()
    assert len(processor.get_train_examples(tmp_path)) == 3
    assert str(processor.tally) == "rows read 3, used 3, skipped 0, cut 0"
    assert [e.text_a for e in processor.get_test_examples(tmp_path)] == ["d", ""]
    write(tmp_path / "train.tsv", "", MRPC_HEADER, "1|7|8|One.|Two.")
    assert len(MrpcProcessor().get_train_examples(tmp_path)) == 1


def test_skipped_rows_are_counted_with_the_reason(tmp_path):
    write(tmp_path / "dev.tsv", *OWN, "", "d|w", "", *OWN)
    processor = own()
    assert len(processor.get_dev_examples(tmp_path)) == 6
    assert str(processor.tally) == (
        "rows read 9, used 6, skipped 3 (2 blank, 1 with too few columns), cut 0"
    )


def test_labels_are_trimmed(tmp_path):
    write(tmp_path / "train.tsv", "a|x|good ", "b|y| bad", "c|z|good\u00a0")
    examples = own().get_train_examples(tmp_path)
    assert [e.label for e in examples] == ["good", "bad", "good"]


@pytest.mark.parametrize(
    ("first", "labels", "near"),
    [
        ("Good", ("bad", "good"), "good"),
        ("very_good", ("bad", "very good"), "very good"),
        ("goood", ("bad", "good"), "good"),
        ('"good"', ("bad", "good"), "good"),
        ("2", ("0", "1"), "0"),
        ("", ("bad", "good"), "bad"),
    ],
)
def test_a_near_miss_is_not_taken_for_a_header(first, labels, near, tmp_path):
    write(tmp_path / "train.tsv", f"a|x|{first}", f"b|y|{labels[0]}", f"c|z|{labels[1]}")
    message = rf"train.tsv:1 has '{first}' in the label column, much like the label '{near}'"
    with pytest.raises(ValueError, match=message):
        own(labels=labels).get_train_examples(tmp_path)
    assert len(own(labels=labels, header="true").get_train_examples(tmp_path)) == 2


def test_a_value_that_recurs_is_not_a_header(tmp_path):
    write(tmp_path / "train.tsv", "a|x|neutral", "b|y|bad", "c|z|neutral")
    with pytest.raises(ValueError, match="train.tsv:1: the label 'neutral' is not one of bad, goo"):
        own().get_train_examples(tmp_path)


def test_f1_says_of_which_label():
    assert own(labels=("ham", "spam")).meanings == {"eval_f1": "F1 of spam"}
    assert list(own(labels=("a", "b", "c")).metrics) == ["eval_macro_f1"]
    assert MrpcProcessor.meanings == {}


def test_xnli_in_another_language(tmp_path):
    write_task("xnli", tmp_path)
    for set_type in ("dev", "test"):
        path = tmp_path / f"xnli.{set_type}.tsv"
        rows = path.read_text("utf-8")
        path.write_text(rows.replace("\nzh\t", "\nsw\t"), "utf-8")
        with pytest.raises(ValueError, match=r"has no rows in 'zh': give --language one of .*sw"):
            XnliProcessor().get_examples(tmp_path, set_type)
        processor = XnliProcessor("sw")
        assert processor.get_examples(tmp_path, set_type)
        assert processor.tally.skipped["in other languages"] > 0
    assert XnliProcessor("sw").files["train"] == "multinli/multinli.train.sw.tsv"


def test_cut_texts_are_counted(tiny_model, tmp_path):
    tokenizer = FullTokenizer(tiny_model / "vocab.txt")
    examples = [InputExample("a", "the " * 30, None, 1), InputExample("b", "the", "the", "0")]
    one, other = convert_examples_to_features(examples, ["0", "1"], 16, tokenizer)
    assert (one.num_tokens, len(one.input_ids), one.label_id) == (32, 16, 1)
    assert (other.num_tokens, len(other.input_ids), other.label_id) == (5, 5, 0)
    with pytest.raises(ValueError, match="example c: the label 2 is not one of 0, 1"):
        convert_examples_to_features([InputExample("c", "a", None, 2)], ["0", "1"], 16, tokenizer)


# --- a user's own processor -----------------------------------------------------------------------

GOOGLE_STYLE = """
import helper_beside_it

class InputExample(object):
    def __init__(self, guid, text_a, text_b=None, label=None):
        self.guid, self.text_a, self.text_b, self.label = guid, text_a, text_b, label

class Base(object):
    pass

class Reviews(Base):
    def get_train_examples(self, data_dir):
        return [InputExample("train-%d" % n, "text %d" % n, None, n % 2) for n in range(4)]

    def get_dev_examples(self, data_dir):
        return self.{dev}(data_dir)

    def get_test_examples(self, data_dir):
        return [InputExample("test-0", "text", label="0")]

    def get_labels(self):
        return [{labels}]
"""


def write_processor(folder, dev="get_train_examples", labels="0, 1"):
    (folder / "helper_beside_it.py").write_text("")
    (folder / "data.py").write_text("raise SystemExit('data.py of the user')")
    (folder / "my_task.py").write_text(GOOGLE_STYLE.format(dev=dev, labels=labels))
    return f"{folder}/my_task.py"


def test_google_style_processor(tmp_path):
    task = load_processor(f"{write_processor(tmp_path)}:Reviews")
    assert task.name == "Reviews" and task.labels == ["0", "1"]
    examples, tally = task.get_examples("train", "nowhere")
    assert examples[1] == InputExample("train-1", "text 1", None, "1")
    assert str(tally) == "examples read 4, used 4, skipped 0, cut 0"
    assert task.get_examples("dev", "nowhere")[0] == examples
    assert task.get_examples("test", "nowhere")[0] == [InputExample("test-0", "text")]


def test_overridden_methods_of_our_class_count():
    class Mine(MrpcProcessor):
        def get_train_examples(self, data_dir):
            return [InputExample("a", "one", "two", 1)]

        def get_labels(self):
            return ["1", "0"]

    task = Task(Mine())
    assert task.labels == ["1", "0"] and task.metrics == MrpcProcessor.metrics
    assert task.get_examples("train", "nowhere")[0] == [InputExample("a", "one", "two", "1")]

    class General(MrpcProcessor):
        def get_examples(self, data_dir, set_type):  # without `log`
            return [InputExample("a", set_type, None, 0)]

    assert Task(General()).get_examples("dev", "nowhere")[0][0].text_a == "dev"


@pytest.mark.parametrize(
    ("change", "name", "told"),
    [
        ({"dev": "nothing"}, "Reviews", "my_task.py:16: AttributeError: 'Reviews' object has no"),
        ({"labels": "1 / 0"}, "Reviews", "my_task.py:22: ZeroDivisionError: division by zero"),
        ({"labels": "1 +"}, "Reviews", "my_task.py:22: "),
        ({"labels": "'a'"}, "Reviews", "the labels ['a'] must be two or more different ones"),
        ({"labels": "'a', 'b'"}, "Reviews", "train example 0: the label 0 is not one of a, b"),
        ({}, "Review", "with get_labels(); it has: InputExample, Base, Reviews"),
        ({}, "Base", "has no class Base with get_labels()"),
    ],
)  # fmt: skip
def test_mistakes_in_a_processor(change, name, told, tmp_path):
    with pytest.raises(ValueError) as error:
        task = load_processor(f"{write_processor(tmp_path, **change)}:{name}")
        task.get_examples("train", "nowhere")
        task.get_examples("dev", "nowhere")
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "task, name, row",
    [
        ("mrpc", "test", "0\t1\t2\tIt rained.\tRain fell."),  # without a label to know it by
        ("cola", "test", "0\tIt rained."),
        ("sts-b", "train", "0\tg\tf\ty\t1\ta\tb\tIt rained.\tRain fell.\t5.0"),
    ],
)
def test_a_file_without_its_header_does_not_lose_a_row(task, name, row, tmp_path):
    processor = PROCESSORS[task]()
    path = tmp_path / processor.files[name]
    path.write_text(f"{row}\n" * 2)
    with pytest.raises(ValueError, match=r":1 is an example, but the file should begin with a"):
        Task(processor).get_examples(name, tmp_path)
    num_columns = row.count("\t") + 1
    for header in (["index"] * num_columns, map(str, range(num_columns))):
        path.write_text("\t".join(header) + f"\n{row}\n")
        assert len(Task(processor).get_examples(name, tmp_path)[0]) == 1


def test_where_a_processor_is(tmp_path):
    with pytest.raises(ValueError, match=r"give a file and a class in it, as in task.py:MyTask"):
        load_processor("my_task")
    with pytest.raises(FileNotFoundError, match="there is no file nowhere.py"):
        load_processor("nowhere.py:Reviews")


OWN_CLASS = """
from run_classifier import DataProcessor, InputExample

class Own(DataProcessor):
    labels = ("no", "yes")
    {}

    def get_train_examples(self, data_dir):
        return [InputExample("a", "text", None, "no")]
"""


def own_class(folder, body):
    (folder / "own.py").write_text(OWN_CLASS.format(body))
    return load_processor(f"{folder}/own.py:Own")


def test_labels_of_processors_in_circulation(tmp_path):
    """A set has another order in each run; transformers returns [None] for a regression."""
    task = own_class(tmp_path, "def get_labels(self): return set('dcabe')")
    assert task.labels == list("abcde")
    for number, value in enumerate(("None", "[None]", "[]")):
        (tmp_path / str(number)).mkdir()
        body = f"def get_labels(self): return {value}"
        assert own_class(tmp_path / str(number), body).problem_type == "regression"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("def __init__(self, x): pass", "own.py: TypeError: Own.__init__() missing 1 required"),
        ("def get_dev_examples(self, d): pass", "Own: get_dev_examples returned None, not exam"),
        ("def get_dev_examples(self, d): raise KeyError('a\\nb')", "own.py:6: KeyError: 'a"),
        ("def get_dev_examples(self, d): yield 1 / 0", "own.py:6: ZeroDivisionError: division by"),
        ("text_columns = 0", "own.py: TypeError: "),
        ("metrics = {'eval_x': lambda p, l: 1 / 0}", "own.py:6: ZeroDivisionError: division by z"),
        ("metrics = {'eval_x': lambda p, l: {}}", "own.py: eval_x of Own is {}, not a number"),
    ],
)
def test_mistakes_that_show_later(body, told, tmp_path):
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\ntext\tno\n")
    with pytest.raises(ValueError) as error:
        task = own_class(tmp_path, body)
        task.get_examples("dev", str(tmp_path), lambda line: None)
        task.metrics["eval_x"]([0], [0])
    assert told in str(error.value) and "\n" not in str(error.value)


def test_figures_of_a_users_metric(tmp_path):
    task = own_class(tmp_path, "metrics = {'eval_x': lambda p, l: p[0] + l[0]}")
    assert task.metrics["eval_x"](np.array([1]), np.array([2])) == 3.0
