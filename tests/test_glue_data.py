"""glue_data.py: each task on files in that task's layout, quirks included; a user's own files."""

import pytest
from conftest import run

from glue_data import (
    PROCESSORS,
    ColaProcessor,
    InputExample,
    MrpcProcessor,
    StsbProcessor,
    TsvProcessor,
    convert_examples_to_features,
    labels_found,
    read_lines,
)
from tokenization import FullTokenizer


def write(path, *rows, end="\n", start=b""):
    """A file of rows, whose columns are parted by "|" here; returns its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = end.join(row.replace("|", "\t") for row in rows) + end
    path.write_bytes(start + lines.encode("utf-8"))
    return path.parent


# task: ({file: rows}, {set: the examples in it: guid, texts, label}), as the files of GLUE's
# download begin, but shorter; columns are parted by "|".
MNLI = (
    "index|promptID|pairID|genre|sentence1_binary_parse|sentence2_binary_parse|sentence1_parse|"
    "sentence2_parse|sentence1|sentence2"
)
XNLI = (
    "language|gold_label|sentence1_binary_parse|sentence2_binary_parse|sentence1_parse|"
    "sentence2_parse|sentence1|sentence2|promptID|pairID|genre|label1|label2|label3|label4|label5|"
    "sentence1_tokenized|sentence2_tokenized|match"
)
PAIRS = "index|sentence1|sentence2"
STSB = "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2"
LAYOUTS = {
    "cola": (  # no header, but in the test file, whose columns are others; "*" marks are no text
        {
            "train.tsv": ["gj04|1||They drank the pub dry.", "gj04|0|*|They drank the pub."],
            "dev.tsv": ["gj04|1||The sailors rode the breeze.", "l-93|0|*|Gravity rode away the."],
            "test.tsv": ["index|sentence", "0|Bill whistled past the house.", "1|Honked the car."],
        },
        {
            "train": [("train-0", "They drank the pub dry.", None, "1"),
                      ("train-1", "They drank the pub.", None, "0")],
            "dev": [("dev-0", "The sailors rode the breeze.", None, "1"),
                    ("dev-1", "Gravity rode away the.", None, "0")],
            "test": [("test-1", "Bill whistled past the house."), ("test-2", "Honked the car.")],
        },
    ),
    "sst-2": (  # lower-cased text with a space at its end; quotes may stand alone
        {
            "train.tsv": ["sentence|label", "hide new secretions |0", "`` so bad it 's good '' |1",
                          '" a comedy |1'],
            "dev.tsv": ["sentence|label", "it 's charming . |1", "unflinchingly bleak |0"],
            "test.tsv": ["index|sentence", "0|uneasy mishmash of styles .", '1|a "great" film'],
        },
        {
            "train": [("train-1", "hide new secretions ", None, "0"),
                      ("train-2", "`` so bad it 's good '' ", None, "1"),
                      ("train-3", '" a comedy ', None, "1")],
            "dev": [("dev-1", "it 's charming . ", None, "1"),
                    ("dev-2", "unflinchingly bleak ", None, "0")],
            "test": [("test-1", "uneasy mishmash of styles ."), ("test-2", 'a "great" film')],
        },
    ),
    "mrpc": (  # a byte-order mark; the test file has an index for the label
        {
            "train.tsv": ["\ufeffQuality|#1 ID|#2 ID|#1 String|#2 String",
                          '1|702876|702977|He called her "the witness .|He called her that .',
                          "0|2108705|2108831|Yucaipa sold it .|Yucaipa bought it ."],
            "dev.tsv": ["\ufeffQuality|#1 ID|#2 ID|#1 String|#2 String",
                        "1|1355540|1355592|He said so .|So he said .",
                        "0|2029631|2029565|Magnarelli said it .|His father did ."],
            "test.tsv": ["\ufeffindex|#1 ID|#2 ID|#1 String|#2 String",
                         "0|1089874|1089925|PCCW 's chief .|Current chief .",
                         "1|3019446|3019327|The world 's two .|Domestic sales ."],
        },
        {
            "train": [("train-1", 'He called her "the witness .', "He called her that .", "1"),
                      ("train-2", "Yucaipa sold it .", "Yucaipa bought it .", "0")],
            "dev": [("dev-1", "He said so .", "So he said .", "1"),
                    ("dev-2", "Magnarelli said it .", "His father did .", "0")],
            "test": [("test-1", "PCCW 's chief .", "Current chief ."),
                     ("test-2", "The world 's two .", "Domestic sales .")],
        },
    ),
    "sts-b": (
        {
            "train.tsv": [f"{STSB}|score",
                          "0|main-captions|MSRvid|2012test|0001|none|none|A plane.|An air plane.|5",
                          "1|main-news|headlines|2015|4|none|none|A man.|Some men.|3.800"],
            "dev.tsv": [f"{STSB}|score",
                        "0|main-captions|MSRvid|2012test|0000|none|none|A hat.|A hard hat.|5.000",
                        "1|main-forums|deft|2015|2|none|none|It rains.|It pours.|0.200"],
            "test.tsv": [STSB, "0|main-captions|MSRvid|2012test|0024|none|none|A girl.|Her hair.",
                         "1|main-captions|MSRvid|2012test|0033|none|none|Some.|Soccer."],
        },
        {
            "train": [("train-1", "A plane.", "An air plane.", 5.0),
                      ("train-2", "A man.", "Some men.", 3.8)],
            "dev": [("dev-1", "A hat.", "A hard hat.", 5.0),
                    ("dev-2", "It rains.", "It pours.", 0.2)],
            "test": [("test-1", "A girl.", "Her hair."), ("test-2", "Some.", "Soccer.")],
        },
    ),
    "qqp": (  # some rows are broken over two lines: neither half is an example
        {
            "train.tsv": ["id|qid1|qid2|question1|question2|is_duplicate",
                          "133273|213221|213222|How is life?|What is life like?|1",
                          "201359|303345|303346|What does this", "mean?|What is it?|0",
                          "402555|536040|536041|What are symptoms?||0",
                          "360472|364011|490273|What are cults?|Which are cults?|0"],
            "dev.tsv": ["id|qid1|qid2|question1|question2|is_duplicate",
                        "201360|303347|303348|Why are Africans?|Why are they?|0",
                        "263843|69383|69384|I have a job.|A job?|1"],
            "test.tsv": ["id|question1|question2", "0|Would the idea of Trump?|Do you?",
                         "1|What are the top?|What is the top?"],
        },
        {
            "train": [("train-1", "How is life?", "What is life like?", "1"),
                      ("train-4", "What are symptoms?", "", "0"),
                      ("train-5", "What are cults?", "Which are cults?", "0")],
            "dev": [("dev-1", "Why are Africans?", "Why are they?", "0"),
                    ("dev-2", "I have a job.", "A job?", "1")],
            "test": [("test-1", "Would the idea of Trump?", "Do you?"),
                     ("test-2", "What are the top?", "What is the top?")],
        },
    ),
    "mnli": (  # the label is the last of 12 columns, or of 16; the mismatched sets
        {
            "train.tsv": [f"{MNLI}|label1|gold_label",
                          "0|31193|31193n|gov|(a)|(b)|(R)|(S)|Skimming.|Two.|neutral|neutral",
                          "1|101|101e|tel|(a)|(b)|(R)|(S)|You know.|You lose.|neutral|entailment"],
            "dev_matched.tsv": [f"{MNLI}|label1|label2|label3|label4|label5|gold_label",
                                "0|63735|63735n|slate|(a)|(b)|(R)|(S)|The new.|All like.|"
                                "neutral|neutral|neutral|neutral|entailment|neutral",
                                "1|91|91c|gov|(a)|(b)|(R)|(S)|Then he.|He did not.|"
                                "contradiction|neutral|neutral|neutral|neutral|contradiction"],
            "dev_mismatched.tsv": [f"{MNLI}|label1|label2|label3|label4|label5|gold_label",
                                   "0|75290|75290c|letters|(a)|(b)|(R)|(S)|Your gift.|None.|"
                                   "neutral|neutral|neutral|neutral|neutral|contradiction",
                                   "1|13|13e|verbatim|(a)|(b)|(R)|(S)|See.|Look.|"
                                   "neutral|neutral|neutral|neutral|neutral|entailment",
                                   "2|14|14n|oup|(a)|(b)|(R)|(S)|It.|That.|"
                                   "neutral|neutral|neutral|neutral|neutral|neutral"],
            "test_matched.tsv": [MNLI, "0|31|31|travel|(a)|(b)|(R)|(S)|Hierbas.|A name."],
            "test_mismatched.tsv": [MNLI, "0|16|16|nineeleven|(a)|(b)|(R)|(S)|What.|The.",
                                    "1|8|8|oup|(a)|(b)|(R)|(S)|He.|She."],
        },
        {
            "train": [("train-0", "Skimming.", "Two.", "neutral"),
                      ("train-1", "You know.", "You lose.", "entailment")],
            "dev": [("dev-0", "The new.", "All like.", "neutral"),
                    ("dev-1", "Then he.", "He did not.", "contradiction")],
            "dev_mismatched": [("dev_mismatched-0", "Your gift.", "None.", "contradiction"),
                               ("dev_mismatched-1", "See.", "Look.", "entailment"),
                               ("dev_mismatched-2", "It.", "That.", "neutral")],
            "test": [("test-0", "Hierbas.", "A name.")],
            "test_mismatched": [("test_mismatched-0", "What.", "The."),
                                ("test_mismatched-1", "He.", "She.")],
        },
    ),
    "qnli": (
        {
            "train.tsv": ["index|question|sentence|label",
                          "0|When did it form?|Unlike \"Pax\", it was in the 1990s.|not_entailment",
                          "1|What came in 1957?|The \"Ideal Toy.|entailment"],
            "dev.tsv": ["index|question|sentence|label",
                        "0|What came into force?|As of that day.|entailment",
                        "1|Who was in charge?|The Yuan.|not_entailment"],
            "test.tsv": ["index|question|sentence", "0|What seldom?|It is.", "1|Who?|\"He."],
        },
        {
            "train": [("train-1", "When did it form?", 'Unlike "Pax", it was in the 1990s.',
                       "not_entailment"),
                      ("train-2", "What came in 1957?", 'The "Ideal Toy.', "entailment")],
            "dev": [("dev-1", "What came into force?", "As of that day.", "entailment"),
                    ("dev-2", "Who was in charge?", "The Yuan.", "not_entailment")],
            "test": [("test-1", "What seldom?", "It is."), ("test-2", "Who?", '"He.')],
        },
    ),
    "rte": (
        {
            "train.tsv": [f"{PAIRS}|label", "0|No weapons found.|Weapons found.|not_entailment",
                          "1|A place of sorrow.|Pope Benedict.|entailment"],
            "dev.tsv": [f"{PAIRS}|label", "0|Dana died.|She had an accident.|not_entailment",
                        "1|Yet, we now.|Bacteria win.|entailment"],
            "test.tsv": [PAIRS, "0|Mangla was summoned.|Mangla was.", "1|Authorities.|A body."],
        },
        {
            "train": [("train-1", "No weapons found.", "Weapons found.", "not_entailment"),
                      ("train-2", "A place of sorrow.", "Pope Benedict.", "entailment")],
            "dev": [("dev-1", "Dana died.", "She had an accident.", "not_entailment"),
                    ("dev-2", "Yet, we now.", "Bacteria win.", "entailment")],
            "test": [("test-1", "Mangla was summoned.", "Mangla was."),
                     ("test-2", "Authorities.", "A body.")],
        },
    ),
    "wnli": (
        {
            "train.tsv": [f"{PAIRS}|label", "0|I stuck a pin.|The carrot had a hole.|1",
                          "1|John couldn't see.|John is short.|0"],
            "dev.tsv": [f"{PAIRS}|label", "0|The drain is clogged.|The hair is.|0",
                        "1|Jane knocked.|Susan did not answer.|1"],
            "test.tsv": [PAIRS, "0|Maude and Dora.|Horses ran.", "1|It was.|They were."],
        },
        {
            "train": [("train-1", "I stuck a pin.", "The carrot had a hole.", "1"),
                      ("train-2", "John couldn't see.", "John is short.", "0")],
            "dev": [("dev-1", "The drain is clogged.", "The hair is.", "0"),
                    ("dev-2", "Jane knocked.", "Susan did not answer.", "1")],
            "test": [("test-1", "Maude and Dora.", "Horses ran."),
                     ("test-2", "It was.", "They were.")],
        },
    ),
    "xnli": (  # the translated training set says "contradictory"; elsewhere only Chinese counts
        {
            "multinli/multinli.train.zh.tsv": ["premise|hypo|label", "前提|假设|contradictory",
                                               "一 个|两 个|neutral", "三|四|entailment"],
            "xnli.dev.tsv": [XNLI, "ar|neutral|||||x|y|1|1|facetoface|neutral||||neutral|x|y|True",
                             "zh|neutral|||||他说|他打|1|1|facetoface|neutral||||neutral|他|他|True",
                             "zh|contradiction|||||我|你|1|2|facetoface|neutral||||neutral|我|你|True"],
            "xnli.test.tsv": [XNLI, "zh|entailment|||||嗯|好|2|4|tel|neutral||||neutral|嗯|好|True",
                              "vi|neutral|||||x|y|1|1|facetoface|neutral||||neutral|x|y|True"],
        },
        {
            "train": [("train-1", "前提", "假设", "contradiction"),
                      ("train-2", "一 个", "两 个", "neutral"),
                      ("train-3", "三", "四", "entailment")],
            "dev": [("dev-2", "他说", "他打", "neutral"), ("dev-3", "我", "你", "contradiction")],
            "test": [("test-1", "嗯", "好")],
        },
    ),
}  # fmt: skip


def write_task(name, folder):
    for file, rows in LAYOUTS[name][0].items():
        write(folder / file, *rows)
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name, tmp_path):
    write_task(name, tmp_path)
    processor, wanted = PROCESSORS[name](), LAYOUTS[name][1]
    assert wanted.keys() == processor.files.keys()
    for set_type, rows in wanted.items():
        examples = processor.get_examples(tmp_path, set_type)
        assert examples == [InputExample(*row) for row in rows]
    assert processor.get_train_examples(tmp_path) == processor.get_examples(tmp_path, "train")
    assert processor.get_dev_examples(tmp_path) == processor.get_examples(tmp_path, "dev")
    assert processor.get_test_examples(tmp_path) == processor.get_examples(tmp_path, "test")


def test_labels():
    """In Google's order: three orders of MNLI's circulate."""
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
def test_windows_files_read_as_others(tmp_path, end, start):
    rows = LAYOUTS["mrpc"][0]["train.tsv"]
    write(tmp_path / "a" / "train.tsv", rows[0].removeprefix("\ufeff"), *rows[1:])
    write(
        tmp_path / "b" / "train.tsv", rows[0].removeprefix("\ufeff"), *rows[1:],
        end=end, start=start,
    )  # fmt: skip
    one, other = (MrpcProcessor().get_train_examples(tmp_path / name) for name in "ab")
    assert one == other and other[1].text_b == "Yucaipa bought it ."
    labelled = write(tmp_path / "c" / "train.tsv", "x|1||Text.", end=end, start=start)
    assert ColaProcessor().get_train_examples(labelled)[0].text_a == "Text."


MRPC_HEADER = "Quality|#1 ID|#2 ID|#1 String|#2 String"


def test_quotes_mean_nothing(tmp_path):
    """An unpaired quote must not swallow the rows after it, nor a pair vanish."""
    texts = ['He said "no.', '"Quoted"', 'end"', '""', 'a "b" c', '"']
    write(tmp_path / "train.tsv", MRPC_HEADER, *(f"1|7|8|{text}|Two." for text in texts))
    assert [e.text_a for e in MrpcProcessor().get_train_examples(tmp_path)] == texts


def test_odd_line_separators_are_part_of_a_text(tmp_path):
    texts = ["a\u2028b", "c\x85d", "e\x0bf", "g\x1ch", "i\rj", "x" * 200_000]
    write(tmp_path / "train.tsv", MRPC_HEADER, *(f"1|7|8|{text}|Two." for text in texts))
    assert [e.text_a for e in MrpcProcessor().get_train_examples(tmp_path)] == texts


def test_blank_and_short_rows(tmp_path):
    """Blank rows are passed over; short ones are skipped, counted and shown."""
    path = tmp_path / "train.tsv"
    write(path, MRPC_HEADER, "1|7|8|One.|Two.", "", "0|9", "0|9|10|Three.|Four.", " ",
          "1|5|6|Five.|Six.")  # fmt: skip
    said = []
    examples = MrpcProcessor().get_examples(tmp_path, "train", said.append)
    assert [e.guid for e in examples] == ["train-1", "train-4", "train-6"]
    assert [e.label for e in examples] == ["1", "0", "1"]
    assert said == [
        f"skipped: {path}:4 has 2 columns, not 5 or more",
        f"{path}: 1 rows skipped, 3 used",
    ]
    said.clear()
    PROCESSORS["qqp"]().get_examples(write_task("qqp", tmp_path), "train", said.append)
    assert said == [
        f"skipped: {path}:3 has 4 columns, not 6 or more",
        f"skipped: {path}:4 has 3 columns, not 6 or more",
        f"{path}: 2 rows skipped, 3 used",
    ]


def test_short_rows_of_a_test_file_keep_their_place(tmp_path):
    """The server counts its rows: the predictions of those after it must not move up."""
    path = tmp_path / "test.tsv"
    write(path, "id|question1|question2", "0|A?|B?", "1|C?", "2|D?|E?")
    said = []
    examples = PROCESSORS["qqp"]().get_examples(tmp_path, "test", said.append)
    assert [(e.text_a, e.text_b) for e in examples] == [("A?", "B?"), ("C?", ""), ("D?", "E?")]
    assert said == [
        f"read as empty: {path}:3 has 2 columns, not 3 or more",
        f"{path}: 1 rows read as empty, 2 used",
    ]
    write(path, "id|question1|question2", "0,A?,B?")
    with pytest.raises(ValueError, match=r"test\.tsv:2 has 1 columns, not 3 or more"):
        PROCESSORS["qqp"]().get_test_examples(tmp_path)


@pytest.mark.parametrize("score", ("high", "nan", "inf", ""))
def test_scores_are_numbers(score, tmp_path):
    write(tmp_path / "train.tsv", "header", f"0|a|b|c|d|e|f|A|B|{score}")
    with pytest.raises(ValueError, match=rf"train.tsv:2: the score '{score}' is no number"):
        StsbProcessor().get_train_examples(tmp_path)


def test_lines(tmp_path):
    path = tmp_path / "file"
    for content, lines in (
        (b"", []), (b"\n", [""]), (b"a", ["a"]), (b"\xef\xbb\xbfa\r\n\r\nb\r\n", ["a", "", "b"])
    ):  # fmt: skip
        path.write_bytes(content)
        assert read_lines(path) == lines
    path.write_bytes("fine\ncaf\xe9 x\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"file:2 is not UTF-8 \(invalid continuation byte\)"):
        read_lines(path)


def test_an_empty_text_b_is_none(tiny_model, tmp_path):
    """As Google: [CLS] A [SEP], without a second separator."""
    tokenizer = FullTokenizer(tiny_model / "vocab.txt")
    examples = [InputExample("a", "the", "", "1"), InputExample("b", "the", None, "1")]
    one, other = convert_examples_to_features(examples, ["0", "1"], 16, tokenizer)
    assert one.input_ids.tolist() == other.input_ids.tolist() and len(one.input_ids) == 3
    assert one.label_id == 1 and one.input_mask.tolist() == [1, 1, 1]


# --- a user's own files --------------------------------------------------------------------------

OWN = ("a|x|good", "b|y|bad", "c|z|good")


def own(**changes):
    return TsvProcessor(
        **{"labels": ("bad", "good"), "text_columns": (0, 1), "label_column": 2, **changes}
    )


@pytest.mark.parametrize("header", ("auto", "true", "false"))
@pytest.mark.parametrize("there", (True, False))
def test_own_header(header, there, tmp_path):
    write(tmp_path / "train.tsv", *(["one|two|opinion"] if there else []), *OWN)
    write(tmp_path / "test.tsv", *(["one|two"] if there else []), "d|w", "e|v")
    said, processor = [], own(header=header)
    if header != "auto" and (header == "true") != there:  # told a falsehood
        wrong = "is none of bad, good" if there else "is an example, but the file should begin with"
        with pytest.raises(ValueError, match=rf"train\.tsv:1.* {wrong}"):
            processor.get_train_examples(tmp_path)
        return
    train = processor.get_examples(tmp_path, "train", said.append)
    assert [(e.text_a, e.text_b, e.label) for e in train] == [tuple(r.split("|")) for r in OWN]
    test = processor.get_examples(tmp_path, "test", said.append)
    assert [(e.text_a, e.text_b, e.label) for e in test] == [("d", "w", None), ("e", "v", None)]
    place = f"({tmp_path / 'train.tsv'}:1 has 'opinion' for a label)"
    assert said == [
        f"{tmp_path / name}:1 is taken for a header {place}"
        for name in ("train.tsv", "test.tsv")
        if header == "auto" and there
    ]


def test_own_test_file_without_the_header_of_train(tmp_path):
    """Its first row would be lost."""
    write(tmp_path / "train.tsv", "one|two|opinion", *OWN)
    write(tmp_path / "test.tsv", "d|w", "e|v")
    with pytest.raises(
        ValueError, match=r"test\.tsv:1 is not the header of .*train\.tsv: begin both"
    ):
        own().get_examples(tmp_path, "test", lambda line: None)


def test_own_test_file_begins_as_the_dev_file_where_that_is_all_there_is(tmp_path):
    write(tmp_path / "test.tsv", "d|w|bad", "e|v|?")  # labels of a test file do not count
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
    with pytest.raises(ValueError, match=r"train.tsv:4: the label 'godo' is none of bad, good"):
        own().get_train_examples(tmp_path)
    columns = "columns are parted by tabs and counted from 0"
    with pytest.raises(ValueError, match=rf"tsv:1 has 3 columns, not 4 or more: {columns}"):
        own(label_column=3).get_train_examples(tmp_path)
    with pytest.raises(ValueError, match=r"train.tsv:2: the label 'b' is none of bad, good"):
        own(label_column=0, text_columns=(1, 2)).get_train_examples(tmp_path)
    path.write_text("a,x,good\n")
    with pytest.raises(ValueError, match=rf"tsv:1 has 1 columns, not 3 or more: {columns}"):
        own().get_train_examples(tmp_path)
    path.write_text("")
    with pytest.raises(ValueError, match=r"train.tsv has no examples"):
        own().get_train_examples(tmp_path)


def test_labels_found(tmp_path):
    write(tmp_path / "train.tsv", "one|two|opinion", *OWN, "short|row")
    assert labels_found(tmp_path / "train.tsv", 2) == "good (2), opinion (1), bad (1)"
    assert labels_found(tmp_path / "train.tsv", 7) == ""
