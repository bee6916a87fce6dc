"""tokenization.py: Google's unit tests, the output of Google's code, and fast equals plain."""

import ast
import codecs
import copy
import functools
import json
import pickle
import sys
import tempfile
import unicodedata
from pathlib import Path

import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenization

REFERENCE = "f39e881"
MODES = {"lower": True, "cased": False}
# fmt: off
GOOGLE_VOCAB = [
    "[UNK]", "[CLS]", "[SEP]", "want", "##want", "##ed", "wa", "un", "runn", "##ing", ",",
]
# fmt: on


@pytest.fixture
def write_vocab(tmp_path):
    def write(content):
        path = tmp_path / "vocab.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def small(write_vocab):
    """A tokenizer with the vocabulary of Google's unit tests."""
    return tokenization.FullTokenizer(write_vocab("".join(f"{t}\n" for t in GOOGLE_VOCAB)))


@pytest.fixture(scope="module")
def full(bert_dir):
    """The tokenizers of a real vocabulary, by mode."""
    vocab_file = bert_dir / "vocab.txt"
    return {mode: tokenization.FullTokenizer(vocab_file, lower) for mode, lower in MODES.items()}


def plainly(tokenizer, text):
    """The two plain steps, without the cache."""
    pieces = tokenizer.wordpiece_tokenizer.tokenize
    return [piece for token in tokenizer.basic_tokenizer.tokenize(text) for piece in pieces(token)]


# --- An independent, slow implementation of the rules, one character at a time ---


# fmt: off
CJK_RANGES = [
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
]
# fmt: on


def oracle_basic(text, lower, strip):
    spaced = ""
    for char in text:
        category = unicodedata.category(char)
        code = ord(char)
        cjk = any(first <= code <= last for first, last in CJK_RANGES)
        if char in "\t\n\r" or category == "Zs":
            spaced += " "
        elif code in (0, 0xFFFD) or category[0] == "C":
            continue
        else:
            spaced += f" {char} " if cjk else char
    tokens = []
    for word in spaced.split():
        word = word.lower() if lower else word
        if strip:
            word = unicodedata.normalize("NFD", word)
            word = "".join(char for char in word if unicodedata.category(char) != "Mn")
        start_new = True
        for char in word:
            if unicodedata.category(char)[0] == "P" or char in "$+<=>^`|~":
                tokens.append(char)
                start_new = True
            elif start_new:
                tokens.append(char)
                start_new = False
            else:
                tokens[-1] += char
    return tokens


def oracle_wordpiece(token, vocab, limit=200):
    if len(token) > limit:
        return ["[UNK]"]
    pieces, start = [], 0
    while start < len(token):
        end = len(token)
        while end > start and ("##" if start else "") + token[start:end] not in vocab:
            end -= 1
        if end == start:
            return ["[UNK]"]
        pieces.append(("##" if start else "") + token[start:end])
        start = end
    return pieces


# --- Google's unit tests ---


def test_full_tokenizer(small):
    tokens = small.tokenize("UNwant\u00e9d,running")
    assert tokens == ["un", "##want", "##ed", ",", "runn", "##ing"]
    assert small.convert_tokens_to_ids(tokens) == [7, 4, 5, 10, 8, 9]
    assert small.encode("UNwant\u00e9d,running") == [7, 4, 5, 10, 8, 9]
    assert small.convert_ids_to_tokens([7, 4, 5, 10, 8, 9]) == tokens


def test_chinese():
    tokenizer = tokenization.BasicTokenizer()
    assert tokenizer.tokenize("ah\u535a\u63a8zz") == ["ah", "\u535a", "\u63a8", "zz"]
    # Kana and hangul are not split.
    tokenizer = tokenization.BasicTokenizer(do_lower_case=False)
    assert tokenizer.tokenize("\u304b\u306a\u5b57\ud55c\uae00") == [
        "\u304b\u306a",
        "\u5b57",
        "\ud55c\uae00",
    ]


def test_chinese_ranges():
    tokenizer = tokenization.BasicTokenizer()
    for first, last in CJK_RANGES:
        for code in (first - 1, first, last, last + 1):
            spaced = any(lowest <= code <= highest for lowest, highest in CJK_RANGES)
            expected = f"a {chr(code)} b" if spaced else f"a{chr(code)}b"
            assert tokenizer._tokenize_chinese_chars(f"a{chr(code)}b") == expected


def test_basic_tokenizer_lower():
    tokenizer = tokenization.BasicTokenizer(do_lower_case=True)
    tokens = ["hello", "!", "how", "are", "you", "?"]
    assert tokenizer.tokenize(" \tHeLLo!how  \n Are yoU?  ") == tokens
    assert tokenizer.tokenize("H\u00e9llo") == ["hello"]


def test_basic_tokenizer_no_lower():
    tokenizer = tokenization.BasicTokenizer(do_lower_case=False)
    tokens = ["HeLLo", "!", "how", "Are", "yoU", "?"]
    assert tokenizer.tokenize(" \tHeLLo!how  \n Are yoU?  ") == tokens
    assert tokenizer.tokenize("H\u00e9llo") == ["H\u00e9llo"]


def test_wordpiece_tokenizer():
    vocab = {token: index for index, token in enumerate(GOOGLE_VOCAB)}
    tokenizer = tokenization.WordpieceTokenizer(vocab)
    assert tokenizer.tokenize("") == []
    assert tokenizer.tokenize("unwanted running") == ["un", "##want", "##ed", "runn", "##ing"]
    assert tokenizer.tokenize("unwantedX running") == ["[UNK]", "runn", "##ing"]


def test_convert_tokens_to_ids():
    vocab = {token: index for index, token in enumerate(GOOGLE_VOCAB)}
    tokens = ["un", "##want", "##ed", "runn", "##ing"]
    assert tokenization.convert_tokens_to_ids(vocab, tokens) == [7, 4, 5, 8, 9]
    inv_vocab = dict(enumerate(GOOGLE_VOCAB))
    assert tokenization.convert_ids_to_tokens(inv_vocab, [7, 4, 5, 8, 9]) == tokens


def test_is_whitespace():
    assert all(map(tokenization._is_whitespace, " \t\r\n\u00a0\u3000"))
    assert not any(map(tokenization._is_whitespace, "A-\x0b\u200b\u2028"))


def test_is_control():
    assert all(map(tokenization._is_control, "\x05\x7f\x85\u200b\ue000\ud800\u0378"))
    assert not any(map(tokenization._is_control, "A \t\r\n\U0001f4a9"))


def test_is_punctuation():
    assert all(map(tokenization.is_punctuation, "-$`.^|~\u2014\u3002\u00a7"))
    assert not any(map(tokenization.is_punctuation, "A \u20ac\u00b0"))


# --- The output of Google's code ---


def mrpc_texts(glue_dir, name):
    lines = (glue_dir / "MRPC" / f"{name}.tsv").read_text("utf-8-sig").split("\n")
    return [text for line in lines[1:] if line for text in line.rstrip("\r").split("\t")[3:5]]


def squad_texts(squad_dir, name):
    articles = json.loads((squad_dir / f"{name}-v1.1.json").read_text("utf-8-sig"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    return [t for p in paragraphs for t in (p["context"], *(qa["question"] for qa in p["qas"]))]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["mrpc_train", "mrpc_dev", "squad_train", "squad_dev"])
def test_real_text_as_google(full, goldens, golden_tools, glue_dir, squad_dir, name, mode):
    np = pytest.importorskip("numpy")
    task, split = name.split("_")
    texts = mrpc_texts(glue_dir, split) if task == "mrpc" else squad_texts(squad_dir, split)
    with np.load(goldens / "tok_real.npz") as arrays:
        expected = golden_tools.unpack_ids(arrays, f"{name}_{mode}")
    diffs = golden_tools.load_json_gz(goldens / "tok_real_commit_diffs.json.gz")
    for index, tokens in diffs[name][f"{REFERENCE}_{mode}"]:
        expected[index] = full[mode].convert_tokens_to_ids(tokens)
    assert len(texts) == len(expected) > 500
    assert [full[mode].encode(text) for text in texts] == expected
    assert [full[mode].encode(text) for text in texts] == expected  # now from the cache
    every_fifth = slice(None, None, 5)
    tokens = [full[mode].tokenize(text) for text in texts[every_fifth]]
    assert tokens == [plainly(full[mode], text) for text in texts[every_fifth]]
    assert list(map(full[mode].convert_tokens_to_ids, tokens)) == expected[every_fifth]


@pytest.mark.parametrize("mode", MODES)
def test_nasty_text_as_google(full, goldens, golden_tools, mode):
    nasty = golden_tools.load_json_gz(goldens / "tok_nasty.json.gz")
    skipped = set()
    if unicodedata.unidata_version != nasty["python_unidata_version"]:
        skipped = set(nasty["unicode_version_sensitive_indices"])
    tokenizer = full[mode]
    for index, text in enumerate(nasty["texts"]):
        if index in skipped:
            continue
        tokens = nasty["tokens"][REFERENCE][mode][index]
        assert tokenizer.tokenize(text) == tokens, ascii(text)
        assert tokenizer.encode(text) == tokenizer.convert_tokens_to_ids(tokens), ascii(text)
        assert plainly(tokenizer, text) == tokens, ascii(text)
        basic = nasty["basic"][REFERENCE][mode][index]
        assert tokenizer.basic_tokenizer.tokenize(text) == basic, ascii(text)


# --- The fast path, the plain path and the rules agree ---

ODD_CHARS = (
    "\0\x01\t\n\x0b\x0c\r\x1b\x1c\x1d\x1e\x1f\x7f\x85\xa0\xad\u0130\u0131\u00df\u0378\u03a3\u03c2"
    "\u0301\u0327\u037e\u0903\u200b\u200d\u2028\u2029\u202f\u2126\u212b\u3000\u302e\u304b\u4e2d"
    "\uac01\ud800\udfff\ue000\uf900\ufeff\ufffd\U0001d165\U0001f600\U00020000\U0002fa1d\U000e0001"
)
texts = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=())),  # lone surrogates too
        st.text(st.sampled_from(ODD_CHARS + "aZ9#[]-' ")),
        st.sampled_from(
            ["embeddings", "[MASK]", "##ing", "don't", "U.S.", "UNAFFABLE", "caf\u00e9"]
        ),
        st.sampled_from([" ", "", "x" * 199, "x" * 200, "x" * 201, "\u0301" * 40]),
    ),
    max_size=8,
).map("".join)


@settings(max_examples=400, deadline=None)
@given(text=texts)
def test_fast_is_plain(full, text):
    for mode, tokenizer in full.items():
        plain = plainly(tokenizer, text)
        assert tokenizer.tokenize(text) == plain
        assert tokenizer.encode(text) == tokenizer.convert_tokens_to_ids(plain)
        basic = oracle_basic(text, lower=MODES[mode], strip=MODES[mode])
        assert tokenizer.basic_tokenizer.tokenize(text) == basic
        vocab = tokenizer.vocab
        assert plain == [piece for token in basic for piece in oracle_wordpiece(token, vocab)]


def test_split_is_googles_cleaning_at_every_code_point():
    """`encode` relies on this: `split` differs from Google only at the white space it drops."""
    for char in map(chr, range(sys.maxunicode + 1)):
        dropped = char in "\0\ufffd" or tokenization._is_control(char)
        assert bool(tokenization._DROPPED_WHITESPACE.match(char)) == (dropped and char.isspace())
        if tokenization._is_whitespace(char):
            assert char.isspace()
        if char.isprintable():
            assert not tokenization._DROPPED_WHITESPACE.match(char)


@pytest.mark.parametrize("mode", MODES)
def test_fast_is_plain_at_code_points(full, mode):
    # The rest are ideographs, private-use and unassigned code points.
    for first in (*range(0, 0x20000, 64), *range(0xE0000, 0xE0200, 64)):
        text = " ".join(f"a{char}B" for char in map(chr, range(first, first + 64)))
        assert full[mode].tokenize(text) == plainly(full[mode], text), hex(first)


@settings(deadline=None)
@given(
    vocab=st.sets(st.text("ab#", min_size=1, max_size=5)),
    words=st.lists(st.text("ab#c", min_size=1, max_size=12)),
)
def test_wordpiece_is_greedy(vocab, words):
    tokenizer = tokenization.WordpieceTokenizer(vocab, max_input_chars_per_word=9)
    expected = [piece for word in words for piece in oracle_wordpiece(word, vocab, limit=9)]
    assert tokenizer.tokenize(" ".join(words)) == expected


@settings(deadline=None)
@given(text=texts, lower=st.booleans(), strip=st.booleans())
def test_case_and_accents_are_separate(text, lower, strip):
    tokenizer = tokenization.BasicTokenizer(lower, strip_accents=strip)
    assert tokenizer.tokenize(text) == oracle_basic(text, lower, strip)


def test_strip_accents(write_vocab):
    vocab_file = write_vocab("[UNK]\n[CLS]\n[SEP]\ncaf\u00e9\ncafe\nCAFE\nCAF\u00c9\n")

    def token_of(*args, **kwargs):
        return tokenization.FullTokenizer(vocab_file, *args, **kwargs).tokenize("CAF\u00c9")

    assert token_of() == token_of(strip_accents=True) == ["cafe"]
    assert token_of(strip_accents=False) == ["caf\u00e9"]
    assert token_of(False) == token_of(False, strip_accents=False) == ["CAF\u00c9"]
    assert token_of(do_lower_case=False, strip_accents=True) == ["CAFE"]


# --- The cache ---


def test_a_word_is_computed_once(small, monkeypatch):
    computed = []
    plain = small.wordpiece_tokenizer._pieces

    def recording(token):
        computed.append(token)
        return plain(token)

    monkeypatch.setattr(small.wordpiece_tokenizer, "_pieces", recording)
    for _ in range(3):
        assert small.encode("want un want") == [3, 7, 3]
    assert computed == ["want", "un"]


def test_a_chinese_paragraph_is_cached_by_character(small):
    paragraph = "\u4e2d\u6587\u3002" * 100
    assert small.tokenize(paragraph) == plainly(small, paragraph)
    assert set(small._ids_of_word) == {"\u4e2d", "\u6587", "\u3002"}


def test_the_cache_is_bounded(small, monkeypatch):
    monkeypatch.setattr(tokenization, "MAX_WORDS_REMEMBERED", 37)
    monkeypatch.setattr(tokenization, "MAX_CHARS_REMEMBERED", 13)
    for index in range(500):
        text = f"want {index}un \u4e2d{chr(0x4E00 + index)} {'w' * (index % 29)}\u00e9,"
        assert small.tokenize(text) == plainly(small, text)
        for memory in (small._ids_of_word, small._words_of_char):
            assert 0 < len(memory) <= 37
            assert max(map(len, memory)) <= 13


def test_hostile_texts(small):
    """One huge word, of several kinds, gives the right tokens and does not stay in the cache."""
    n = 100_000
    for text in ("a" * n, "a-" * n, "\u00e9" * n, "\u4e2d" * n, "\u0301" * n, "\x1fa" * n):
        assert small.tokenize(text) == plainly(small, text)
    assert sum(map(len, small._ids_of_word)) < 100


def test_wordpiece_work_is_bounded():
    class Counted(set):
        looked_up = 0

        def __contains__(self, piece):
            self.looked_up += 1
            return super().__contains__(piece)

    vocab = Counted(["a", "##a", "##aab"])
    tokenizer = tokenization.WordpieceTokenizer(vocab)
    assert tokenizer.tokenize("a" * 200) == ["a"] + ["##a"] * 199
    assert vocab.looked_up <= 200 * len("##aab")
    vocab.looked_up = 0
    assert tokenizer.tokenize("a" * 201 + " " + "a" * 100_000) == ["[UNK]", "[UNK]"]
    assert vocab.looked_up == 0


def test_copies(small):
    small.encode("unwanted")
    for other in (pickle.loads(pickle.dumps(small)), copy.deepcopy(small)):
        assert other.tokenize("running, unwant\u00e9d") == small.tokenize("running, unwant\u00e9d")


# --- Texts and vocabularies from users ---


def test_bytes(small):
    assert small.tokenize("want\u00e9d,".encode() + b"\xff") == small.tokenize("want\u00e9d,")
    assert tokenization.convert_to_unicode(b"caf\xc3\xa9\xff") == "caf\u00e9"
    assert tokenization.printable_text(b"caf\xc3\xa9") == "caf\u00e9"
    for function in (tokenization.convert_to_unicode, small.encode, small.tokenize):
        with pytest.raises(ValueError, match="int"):
            function(3)


def test_empty_text(small):
    for text in ("", " \t\n", "\0\ufffd\x85\u200b", "\u0301"):
        assert small.tokenize(text) == small.encode(text) == plainly(small, text) == []


def test_load_vocab(write_vocab):
    plain = {"[UNK]": 0, "a": 1, "b": 2}
    assert tokenization.load_vocab(write_vocab("[UNK]\na\nb\n")) == plain
    assert tokenization.load_vocab(str(write_vocab("[UNK]\na\nb"))) == plain  # no last line end
    assert tokenization.load_vocab(write_vocab("\ufeff[UNK]\r\na \r\n\tb\r\n")) == plain
    # Only "\n" ends a line; the last of equal tokens counts; a blank line is a token.
    vocab = tokenization.load_vocab(write_vocab("x\u2028y\nx\x85y\nx\x0cy\ra\na\n\na\n"))
    assert vocab == {"x\u2028y": 0, "x\x85y": 1, "x\x0cy\ra": 2, "": 4, "a": 5}
    assert tokenization.load_vocab(write_vocab("a\n\n\n")) == {"a": 0, "": 2}
    assert list(vocab)[:3] == ["x\u2028y", "x\x85y", "x\x0cy\ra"]


TAR_HEAD = b"vocab.txt".ljust(257, b"\0") + b"ustar\x0000"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04\x14\0", "zip archive.*unpack it and pass vocab.txt"),
        (b"\x1f\x8b\x08\0", "gzip archive.*unpack it and pass vocab.txt"),
        (TAR_HEAD, "tar archive.*unpack it and pass vocab.txt"),
        (b"BZh91AY", "bzip2 archive.*unpack it and pass vocab.txt"),
        (b"\xfd7zXZ\0", "xz archive.*unpack it and pass vocab.txt"),
        ("[UNK]\n".encode("utf-16"), "UTF-16.*save it as UTF-8"),
        (b"weights\0\1\2", "binary.*pass the model's vocab.txt"),
        (b"[UNK]\nfine\ncaf\xe9\n", ":3 is not UTF-8; save vocab.txt as UTF-8"),
        (codecs.BOM_UTF8 + b"[UNK]\ncaf\xe9\nfine\n", ":2 is not UTF-8; save vocab.txt as UTF-8"),
        (b"\x80\x02}q", ":1 is not UTF-8; save vocab.txt as UTF-8"),  # a pickle
        (b"", "empty; pass"),
        (codecs.BOM_UTF8 + b"\r\n", "empty; pass"),
    ],
)
def test_load_vocab_refuses(write_vocab, content, message):
    path = write_vocab(content)
    with pytest.raises(ValueError, match=message) as error:
        tokenization.load_vocab(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_load_vocab_needs_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.txt: no such vocabulary; pass"):
        tokenization.load_vocab(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="a directory; pass the vocab.txt in it"):
        tokenization.load_vocab(tmp_path)


def test_full_tokenizer_needs_special_tokens(write_vocab):
    path = write_vocab("[UNK]\na\n")
    assert tokenization.load_vocab(path) == {"[UNK]": 0, "a": 1}
    with pytest.raises(ValueError, match=r"2 tokens, but no \[CLS\], \[SEP\]; pass") as error:
        tokenization.FullTokenizer(path)
    assert str(error.value).startswith(str(path))


def test_unknown_tokens_and_ids(small):
    with pytest.raises(KeyError, match="'apple' is not among the vocabulary's 11 entries"):
        small.convert_tokens_to_ids(["want", "apple"])
    with pytest.raises(KeyError, match="11 is not among the vocabulary's 11 entries"):
        small.convert_ids_to_tokens([0, 11])


def test_needs_only_the_standard_library():
    tree = ast.parse((ROOT / "tokenization.py").read_text("utf-8"))
    nodes = list(ast.walk(tree))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


# --- casing and accents, judged from the vocabulary ----------------------------------------------


def numbered(*words):
    return {word: index for index, word in enumerate(words)}


UNCASED = [f"word{number}" for number in range(1200)]
CAPITALS = [f"Word{number}" for number in range(300)]
ACCENTS = ["f\u00fcr", *(f"gr\u00f6\u00dfe{number}" for number in range(63))]
KANA = [chr(code) for code in range(0x3041, 0x3097)]
HINDI = [f"{chr(0x915 + n % 30)}\u0947{chr(0x915 + n // 30)}" for n in range(900)]


@pytest.mark.parametrize(
    ("words", "lower", "strip", "told"),
    [
        (UNCASED, True, True, None),
        ([*UNCASED, *CAPITALS], False, False, None),
        ([*UNCASED, *CAPITALS], True, True, "cased model (300 of 1500 entries with case have"),
        (UNCASED, False, False, "uncased model (0 of 1200 entries with case have"),
        (UNCASED[:500], False, False, None),  # too few to tell
        # A handful of capitals, and brackets, hide nothing.
        ([*UNCASED, "<S>", "<T>", "[CLS]", "Q"], False, False, "uncased model (1 of 1201 entries"),
        ([*UNCASED, *(f"[unused{n}]" for n in range(900)), "[CLS]"], True, True, None),
        # A script without case says nothing, and a vocabulary that is mostly of one not much.
        (HINDI, False, False, None),
        ([f"\u10d0\u10d1{n}" for n in range(2000)], False, False, None),  # Georgian
        ([*(chr(0x4E00 + n) for n in range(2000)), *UNCASED], False, False, None),
        # A Japanese one with the capitals of an alphabet is cased.
        ([*KANA, *"abcABC"], True, True, "cased model (3 of 6 entries"),
        # What stripping changes can never be found.
        (HINDI, True, True, "vowel signs or the like, and would never be found)"),
        ([*UNCASED, *ACCENTS], True, True, "keeps accents (64 of 1264 entries"),
        ([*UNCASED, *ACCENTS], True, False, None),
        ([*UNCASED, "caf\u00e9", "na\u00efve"], True, True, None),  # a few
        (KANA, True, True, "--no_strip_accents, or --no_do_lower_case"),
        (["\ud55c\uad6d", "\uc11c\uc6b8"], True, True, "keeps accents (2 of 2"),  # hangul
        ([*UNCASED[:50], *"\u00e9\u00e8\u00eb", "##\u00e9", "##\u00e8"], True, True, None),
    ],
)  # fmt: skip
def test_casing_of_vocabularies(words, lower, strip, told):
    if told is None:
        tokenization.check_casing("v", numbered(*words), lower, strip)
        return
    with pytest.raises(ValueError) as error:
        tokenization.check_casing("v", numbered(*words), lower, strip)
    assert told in str(error.value) and "\n" not in str(error.value)


# --- markers and words that are lost --------------------------------------------------------------

MARKED = "".join(f"{t}\n" for t in [*GOOGLE_VOCAB, "[E1]", "[/E1]", "<e>", "[", "]", "e", "##1"])


def test_markers_stay_whole(write_vocab):
    path = write_vocab(MARKED)
    text = "want[E1]runn[/E1] <e> [e1]"
    split = tokenization.FullTokenizer(path)
    assert "[E1]" not in split.tokenize(text)
    assert split.split_markers == {"[E1]", "[/E1]", "<e>"}
    assert "holds <e>, [/E1], [E1]: " in split.take_marker_warning()
    assert split.take_marker_warning() == ""  # once
    for markers in ("[E1],[/E1]", ["[E1]", "[/E1]"]):
        some = tokenization.FullTokenizer(path, never_split=markers)
        assert some.tokenize(text)[:4] == ["want", "[E1]", "runn", "[/E1]"]
        assert "<e>" not in some.tokenize(text)
        # Both steps alone do the same.
        tokens = some.basic_tokenizer.tokenize(text)
        pieces = [p for token in tokens for p in some.wordpiece_tokenizer.tokenize(token)]
        assert pieces == some.tokenize(text)
        assert "holds <e>: " in some.take_marker_warning()
    whole = tokenization.FullTokenizer(path, never_split="all")
    assert whole.tokenize(text)[:5] == ["want", "[E1]", "runn", "[/E1]", "<e>"]
    assert whole.take_marker_warning() == ""
    with pytest.raises(ValueError, match=r"--never_split: .* has no entry \[E2\]"):
        tokenization.FullTokenizer(path, never_split="[E1],[E2]")


def test_words_that_are_too_long_are_counted(write_vocab):
    tokenizer = tokenization.FullTokenizer(write_vocab(MARKED))
    tokenizer.encode(" ".join(["want", "x" * 201, "x" * 200, "\u0e01" * 300]))
    tokenizer.encode("x" * 201)
    assert tokenizer.take_num_long_words() == 3
    assert tokenizer.take_num_long_words() == 0


def test_classic_mac_vocabulary(write_vocab):
    with pytest.raises(ValueError, match="end with a carriage return alone, as on a classic Mac"):
        tokenization.FullTokenizer(write_vocab("[UNK]\r[CLS]\r[SEP]\r"))


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(codec="utf-8"), max_size=12), st.booleans(), st.booleans())
def test_char_spans(text, lower, strip):
    """There is one for each WordPiece, in order, and each lies in the word."""
    tokenizer = _tokenizer_of_letters(lower, strip)
    for word in text.split():
        spans = tokenizer.char_spans(word)
        assert len(spans) == len(tokenizer.encode(word))
        assert all(0 <= start < end <= len(word) for start, end in spans)
        assert spans == sorted(spans)


@functools.cache
def _tokenizer_of_letters(lower, strip):
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{x}" for x in letters), "ab", "##cd"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(words), "utf-8")
        return tokenization.FullTokenizer(path, lower, strip)


def test_char_spans_by_hand(write_vocab):
    tokenizer = tokenization.FullTokenizer(write_vocab("[UNK]\n[CLS]\n[SEP]\nab\n##c\n.\n"))
    assert tokenizer.char_spans("ABc.") == [(0, 2), (2, 3), (3, 4)]
    assert tokenizer.char_spans("a\u0301b\u200bc\u4eac?") == [(0, 3), (4, 5), (5, 6), (6, 7)]
