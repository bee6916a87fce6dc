"""A few rows of every GLUE task's files, and the examples that must be read from them."""


def write(path, *rows, end="\n", start=b""):
    """Writes rows, whose columns are separated by "|", as a TSV file; returns its folder.

    end: the line ending; start: bytes before the first row.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = end.join(row.replace("|", "\t") for row in rows) + end
    path.write_bytes(start + lines.encode("utf-8"))
    return path.parent


# Headers that several files share.
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
# task: ({file: rows}, {set: its examples as (guid, texts, label)}). The rows are the first rows of
# the files that GLUE distributes, shortened; columns are separated by "|".
LAYOUTS = {
    "cola": (  # only the test file has a header, and it has other columns; "*" is a mark, not text
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
    """Writes the files of a task in LAYOUTS; returns the folder."""
    for file, rows in LAYOUTS[name][0].items():
        write(folder / file, *rows)
    return folder
