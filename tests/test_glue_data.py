"""glue_data.py: each task's files, in their own layout with its quirks; and a user's own files."""

import pytest
from glue_layouts import LAYOUTS, write, write_task
from helpers import run

from glue_data import (
    PROCESSORS,
    ColaProcessor,
    InputExample,
    MrpcProcessor,
    StsbProcessor,
    TsvProcessor,
    convert_examples_to_features,
    labels_found,
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
    assert not own(labels=("a", "b", "c")).metrics


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


def test_labels_found(tmp_path):
    write(tmp_path / "train.tsv", "one|two|opinion", *OWN, "short|row")
    assert labels_found(tmp_path / "train.tsv", 2) == "good (2), opinion (1), bad (1)"
    assert labels_found(tmp_path / "train.tsv", 7) == ""
