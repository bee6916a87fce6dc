"""tagging_data.py: files in CoNLL columns, the scheme of their tags, windows, words of a text."""

import random
from collections import Counter

import numpy as np
import pytest
from helpers import SAMPLES
from hypothesis import given, settings
from hypothesis import strategies as st

from tagging_data import (
    TaggingExample,
    convert_examples_to_features,
    find_labels,
    join_windows,
    read_examples,
    window_spans,
    word_spans,
)
from tokenization import FullTokenizer

PLAIN = "EU B-ORG\nrejects O\n\nPeter B-PER\nBlackburn I-PER\n"
TWO = [(["EU", "rejects"], ["B-ORG", "O"]), (["Peter", "Blackburn"], ["B-PER", "I-PER"])]


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return FullTokenizer(tiny_model / "vocab.txt")


def write(folder, content):
    path = folder / "file.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def sentences(path, *rest, **options):
    examples, _ = read_examples(path, *rest, **options)
    return [(example.words, example.tags) for example in examples]


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.removesuffix("\n"),
        PLAIN + "\n\n",
        PLAIN.replace(" ", "\t"),
        PLAIN.replace("\n", "\r\n"),
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.replace(" ", "  ").replace("\n\n", "\n \t \n\n"),
        PLAIN.replace(" ", " NN B-NP "),
        PLAIN.replace(" ", "\t_\t"),
        PLAIN.replace("\n", " \n"),
        "-DOCSTART- -X- O O\n\n" + PLAIN,
        "-DOCSTART- O\n" + PLAIN.replace("\n\n", "\n-DOCSTART- O\n"),
    ],
)
def test_the_same_sentences(tmp_path, content):
    assert sentences(write(tmp_path, content)) == TWO


def test_what_a_word_may_be(tmp_path):
    """Unicode's spaces part no columns, and with tabs a word may hold spaces."""
    content = "New York\tO\n\u3000\tO\n#\tO\n\u00a0x\u2028\tO\n-\tO\n"
    ((words, _),) = sentences(write(tmp_path, content))
    assert words == ["New York", "\u3000", "#", "\u00a0x\u2028", "-"]


def test_a_test_file_may_lack_tags(tmp_path):
    """It does where no last column holds a tag; one unknown tag among others is a mistake."""
    labels = ["O", "B-PER"]
    for content in ("a\nb\n\nc\n", "a NN\nb VB\n\nc NN\n", "a B-NP\nb O\n\nc B-NP\n"):
        path = write(tmp_path, content)
        wanted = [(["a", "b"], None), (["c"], None)]
        assert sentences(path, labels, is_test=True) == wanted
        with pytest.raises(ValueError, match=":1"):
            read_examples(path, labels)
    assert sentences(write(tmp_path, "a O\nb B-PER\n"), labels, is_test=True) == [
        (["a", "b"], ["O", "B-PER"])
    ]
    with pytest.raises(ValueError, match=r"file.txt:2: the tag 'NN' is not one of .*: O, B-PER$"):
        read_examples(write(tmp_path, "a B-PER\nb NN\n"), labels, is_test=True)


def test_every_word_is_accounted_for(tmp_path, tokenizer):
    content = "-DOCSTART- O\n\nthe O\n\u200b O\n\n" + "a O\n" * 9 + f"{'xy' * 30} O\n"
    examples, tally = read_examples(write(tmp_path, content), ["O"])
    features = convert_examples_to_features(examples, ["O"], 12, tokenizer, tally)
    assert str(tally) == (
        "sentences read 2, used 2, skipped 0, cut 0, words 12, -DOCSTART- lines 1, words without "
        "WordPieces, read as [UNK], 1, words cut to the 10 WordPieces of a window 1, sentences "
        "read through several windows 1"
    )
    assert sum(len(feature.words) for feature in features) == 12
    assert tally.inputs == len(features) == 3 and tally.unknown == 1


# --- tags ----------------------------------------------------------------------------------------


def labels_of(tmp_path, *lines):
    """find_labels of sentences, whose words do not matter."""
    content = "\n\n".join("\n".join(f"w {tag}" for tag in line.split()) for line in lines)
    path = write(tmp_path, content)
    return find_labels(read_examples(path)[0], path)


@pytest.mark.parametrize(
    "lines, scheme",
    [
        (["O B-A I-A", "B-B B-A"], "BIO"),
        (["B-A B-B"], "BIO"),
        (["O I-A I-A O", "I-A B-A"], "IOB1"),
        (["O I-A I-B O"], "IOB1"),
        (["O B-A E-A S-B", "B-A I-A E-A"], "BIOES"),
        (["S-A O S-B"], "BIOES"),
        (["O B-A L-A U-B", "B-A I-A L-A"], "BILOU"),
        (["B-A M-A E-A S-B"], "BMES"),
        (["B-A M-A E-A W-B"], "BMEW"),
    ],
)
def test_the_scheme_is_recognized(tmp_path, lines, scheme):
    labels, text = labels_of(tmp_path, *lines)
    kinds = sorted({tag[2:] for tag in labels} - {""})
    plural = "s" if len(kinds) > 1 else ""
    assert text == f"entities in {scheme}, {len(kinds)} type{plural}: {', '.join(kinds)}"
    assert labels[0] == "O" and set(" ".join(lines).split()) <= {*labels}
    assert len(labels) == 1 + len(kinds) * {"BIO": 2, "IOB1": 2}.get(scheme, 4)


def test_the_order_of_tags(tmp_path):
    labels, text = labels_of(tmp_path, "B-LOC O I-PER B-PER I-LOC", "B-PER O B-LOC B-PER")
    assert labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert text == (
        f"entities in BIO, 2 types: LOC, PER; tags that break the scheme: 2, the first at "
        f"{tmp_path}/file.txt:3 (one that continues nothing begins an entity)"
    )
    labels, text = labels_of(tmp_path, "VB NN DT", "O NN -LRB- S-X")
    assert labels == ["-LRB-", "DT", "NN", "O", "S-X", "VB"]
    assert text == "6 plain tags: -LRB-, DT, NN, O, S-X, VB"


# --- features ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", ["a B_PER|b I_PER|c O", "a b-PER|b i-PER|c o", "a PER-B|b O"])
def test_entities_in_another_form_are_told(tmp_path, lines):
    path = tmp_path / "train.txt"
    path.write_text(lines.replace("|", "\n"))
    _, text = find_labels(read_examples(str(path))[0], str(path))
    assert text.endswith("if they mark entities, write them as B-TYPE, I-TYPE and O: there are no "
                         "figures of entities otherwise")  # fmt: skip


def test_another_scheme_than_in_training_is_told(tmp_path):
    """Its entities are read, but words are compared with tags that it never has."""
    path = tmp_path / "dev.txt"
    path.write_text("Ada B-PER\nSmith I-PER\nwent O\n")
    bioes = ["O", "B-PER", "I-PER", "E-PER", "S-PER"]
    _, tally = read_examples(str(path), bioes)
    assert tally.notes == ["tags that break BIOES 1 (the first in line 3)", "words 3"]
    assert read_examples(str(path), ["O", "B-PER", "I-PER"])[1].notes == ["words 3"]
    path.write_text("Ada B-PER\nSmith E-PER\nwent O\n")
    assert read_examples(str(path), bioes)[1].notes == ["words 3"]


def test_a_tag_belongs_to_a_words_first_piece(tokenizer):
    words = ["The", "mills'", "\u200b", "of", "Zyx"]
    tags = ["O", "B-A", "O", "O", "B-A"]
    (feature,) = convert_examples_to_features(
        [TaggingExample(words, tags)], ["O", "B-A"], 64, tokenizer
    )
    pieces = [tokenizer.tokenize(word) or ["[UNK]"] for word in words]
    flat = ["[CLS]", *(piece for word in pieces for piece in word), "[SEP]"]
    assert [tokenizer.inv_vocab[index] for index in feature.input_ids] == flat
    assert max(map(len, pieces)) > 1
    assert [flat[place] for place in feature.positions] == [word[0] for word in pieces]
    assert feature.label_ids.tolist() == [0, 1, 0, 0, 1]
    assert feature.words.tolist() == [0, 1, 2, 3, 4] and not feature.segment_ids.any()
    (feature,) = convert_examples_to_features([TaggingExample(words)], ["O", "B-A"], 64, tokenizer)
    assert feature.label_ids.tolist() == [0] * 5


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 24))
def test_windows_tag_each_word_once_with_most_context(data, size):
    lengths = data.draw(st.lists(st.integers(1, size), max_size=60))
    spans = window_spans(lengths, size)
    assert sorted(word for _, _, words in spans for word in words) == list(range(len(lengths)))
    starts = np.cumsum([0, *lengths])

    def context(word, first, end):
        return min(starts[word] - starts[first], starts[end] - 1 - starts[word])

    for first, end, words in spans:
        assert words and first <= words[0] and words[-1] < end
        assert sum(lengths[first:end]) <= size
        for word in words:
            for other_first, other_end, _ in spans:
                if other_first <= word < other_end:
                    bonus = 0.01 * size  # of a longer window, as in Google's formula
                    assert (
                        context(word, first, end) >= context(word, other_first, other_end) - bonus
                    )
    if sum(lengths) <= size:
        assert len(spans) == (1 if lengths else 0)


def test_windows_overlap_by_half():
    spans = window_spans([1] * 100, 20)
    assert [first for first, _, _ in spans] == list(range(0, 81, 10))
    assert [len(words) for _, _, words in spans] == [15, *[10] * 7, 15]


def test_windows_are_joined(tokenizer):
    """Each word's output is at its place, whatever window it is from."""
    rng = random.Random(1)
    examples = [TaggingExample([rng.choice("abc") for _ in range(n)]) for n in (30, 1, 0, 55)]
    features = convert_examples_to_features(examples, ["x", "y"], 16, tokenizer)
    assert Counter(feature.example_index for feature in features).keys() == {0, 1, 3}
    outputs = [
        np.stack([feature.words + 100 * feature.example_index, feature.positions], axis=1)
        for feature in features
    ]
    joined = join_windows(examples, features, outputs, 2)
    assert [own[:, 0].tolist() for own in joined] == [
        list(range(100 * number, 100 * number + len(example.words)))
        for number, example in enumerate(examples)
    ]


# --- words of a text -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, words",
    [
        ("Ada met Jim.", ["Ada", "met", "Jim", "."]),
        ('"Well-known," said the U.S. (today)!', ['"', "Well-known", ",", '"', "said", "the", "U.S",
                                                  ".", "(", "today", ")", "!"]),
        ("  two\u00a0words\n\tmore ", ["two", "words", "more"]),
        ("在柏林 Berlin市", ["在", "柏", "林", "Berlin", "市"]),
        ("...", [".", ".", "."]),
        ("", []),
        (" \u200b ", ["\u200b"]),
    ],
)  # fmt: skip
def test_words_of_a_text(text, words):
    spans = word_spans(text)
    assert [text[start:end] for start, end in spans] == words
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:]))


@given(st.text())
def test_words_hold_all_but_white_space(text):
    assert "".join(text[start:end] for start, end in word_spans(text)) == "".join(
        char for char in text if not char.isspace()
    )


@pytest.mark.parametrize("name, number", [("train", 210), ("dev", 50), ("test", 40)])
def test_the_sample(name, number):
    path = str(SAMPLES / "tagging" / f"{name}.txt")
    examples, _ = read_examples(path)
    labels, text = find_labels(examples, path)
    assert len(examples) == number and text == "entities in BIO, 3 types: LOC, ORG, PER"
    assert labels == ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
