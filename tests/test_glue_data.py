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
    Task,
    TsvProcessor,
    XnliProcessor,
    convert_examples_to_features,
    labels_found,
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


def test_labels_found(tmp_path):
    write(tmp_path / "train.tsv", "one|two|opinion", *OWN, "short|row")
    assert labels_found(tmp_path / "train.tsv", 2) == "good (2), opinion (1), bad (1)"
    assert labels_found(tmp_path / "train.tsv", 7) == ""


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


def test_where_a_processor_is(tmp_path):
    with pytest.raises(ValueError, match=r"give a file and a class in it, as in task.py:MyTask"):
        load_processor("my_task")
    with pytest.raises(FileNotFoundError, match="there is no file nowhere.py"):
        load_processor("nowhere.py:Reviews")
