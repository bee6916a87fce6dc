"""Text to WordPieces: the rules and names of Google's `tokenization.py` (google-research/bert).

Two steps, each a class that can be used alone: `BasicTokenizer` cleans the text and splits it at
white space, CJK characters and punctuation; `WordpieceTokenizer` cuts each of those tokens,
greedily from the left, into the longest pieces that the vocabulary has. These two are written
plainly and are the reference. `FullTokenizer` gives the same result many times faster: no rule
reaches across white space, so it can cache the ids of every word.
"""

import itertools
import json
import os
import re
import string
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import NamedTuple

# Google's CJK characters: the ideographs. Kana and hangul are not split.
CJK_CHAR = re.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f]"
)
# `str.split` splits at these control characters. Google's cleaning drops them, which joins the text
# before and after.
_DROPPED_WHITESPACE = re.compile("[\x0b\x0c\x1c-\x1f\x85]+")
_WORD_CHAR = "[\\w\u0300-\u036f]"  # letters, digits, "_", and accents that stand alone
_ASCII_TOKEN = re.compile("[0-9A-Za-z]+|[^0-9A-Za-z]")

# The form of markers such as "[SEP]", "[unused7]" and "<e1>", which are no words of a language.
BRACKETED = re.compile(r"\[[^\s\[\]]+\]|<[^\s<>]+>")
UNUSED = re.compile(r"\[unused\d+\]")  # entries of Google's vocabularies that are free

# Shares of a vocabulary's entries, above (or below) which `check_casing` takes it for one of a
# cased, an uncased or an accent-keeping model. All of Google's stay far from them: in the uncased
# English one no entry has capitals or accents, in the cased one a third has capitals.
MOST_CAPITALS_OF_UNCASED = 0.05
MOST_CAPITALS_BY_CHANCE = 0.01
MOST_ACCENTS_OF_STRIPPED = 0.01
LEAST_CASED_ENTRIES = 1000  # fewer do not show that a model is uncased

# How to recognize files that are passed as a vocabulary by mistake: (offset, bytes, kind).
FILE_SIGNATURES = (
    (0, b"PK\x03\x04", "a zip archive or a PyTorch or NumPy file"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ", "an xz archive"),
)

MAX_MARKERS_SHOWN = 5

# The limits of a `FullTokenizer`'s caches: the number of entries, and the length of a key.
MAX_WORDS_REMEMBERED = 2**17
MAX_CHARS_REMEMBERED = 32


def convert_to_unicode(text: str | bytes) -> str:
    """Returns `text` as str. Bytes are decoded as UTF-8, without invalid ones, as Google does."""
    if isinstance(text, str):
        return text
    if isinstance(text, bytes):
        return text.decode("utf-8", "ignore")
    raise ValueError(f"text must be str or bytes, not {type(text).__name__}")


def printable_text(text: str | bytes) -> str:
    """Returns `text` for `print` and logs. In Python 3 this is the same as `convert_to_unicode`."""
    return convert_to_unicode(text)


def load_vocab(vocab_file: str | os.PathLike) -> dict[str, int]:
    """Reads a vocabulary with one token per line; a token's id is the index of its line.

    As Google does, lines end only at "\\n", tokens are stripped, a repeated token gets the index of
    its last line, and a blank line is the token "". A byte-order mark and Windows line ends are
    allowed. The file may also be a tokenizer.json of transformers.

    Returns a dict from token to id. Raises FileNotFoundError, or ValueError for a file that is
    empty or not UTF-8 text.
    """
    if not os.path.exists(vocab_file):
        raise FileNotFoundError(f"{vocab_file}: no such vocabulary; pass the model's vocab.txt")
    if os.path.isdir(vocab_file):
        raise ValueError(f"{vocab_file} is a directory; pass the vocab.txt in it")
    with open(vocab_file, "rb") as reader:
        head = reader.read(512)  # enough for every signature
        _refuse_binary(vocab_file, head)
        data = head + reader.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{vocab_file}:{line} is not UTF-8; save vocab.txt as UTF-8") from None
    if not text.strip():
        raise ValueError(f"{vocab_file} is empty; pass the model's vocab.txt, one token per line")
    if os.path.basename(vocab_file) == "tokenizer.json":
        return _vocab_in_json(vocab_file, text)
    if "\r" in text and "\n" not in text:
        raise ValueError(
            f"{vocab_file}: its lines end with a carriage return alone, as on a classic Mac: "
            f"convert them to line feeds"
        )
    # Not `splitlines`: U+2028, U+0085 and others can be part of a token.
    lines = text.removesuffix("\n").split("\n")
    return {token.strip(): index for index, token in enumerate(lines)}


def _vocab_in_json(path, text):
    """Returns the vocabulary of WordPieces in a tokenizer.json. Raises ValueError."""
    try:
        model = json.loads(text)["model"]
        vocab = model["vocab"]
        if model["type"] == "WordPiece" and all(type(index) is int for index in vocab.values()):
            return vocab
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise ValueError(f"{path} has no vocabulary of WordPieces; pass the model's vocab.txt")


def _refuse_binary(vocab_file, head):
    """Raises ValueError if the first bytes of a file, `head`, show that it is not text."""
    for offset, signature, kind in FILE_SIGNATURES:
        if head.startswith(signature, offset):
            raise ValueError(f"{vocab_file} is {kind}, not text; unpack it and pass vocab.txt")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{vocab_file} is UTF-16 text; save it as UTF-8 and pass that")
    if b"\0" in head:
        raise ValueError(f"{vocab_file} is a binary file, not text; pass the model's vocab.txt")


def check_casing(
    vocab_file: str | os.PathLike,
    vocab: Iterable[str],
    do_lower_case: bool,
    strip_accents: bool,
) -> None:
    """Raises ValueError if text that is treated so could not meet a fair share of the vocabulary.

    Lower-cased text never meets an entry with capitals, stripped text none with accents. Shares
    decide, because a few such entries are in every vocabulary, and bracketed ones do not count. A
    script without case says nothing about casing.
    """
    words = [word.removeprefix("##") for word in vocab if not BRACKETED.fullmatch(word)]
    cased = [word for word in words if _has_case(word)]
    capitals = sum(word != word.lower() for word in cased)
    found = f"{capitals} of {len(cased)} entries with case"
    if do_lower_case and capitals > MOST_CAPITALS_OF_UNCASED * len(cased):
        raise ValueError(
            f"{vocab_file} belongs to a cased model ({found} have capitals): use --no_do_lower_case"
        )
    # Where most entries have no case, e.g. in a Chinese vocabulary, either casing can be meant.
    decisive = len(cased) > max(LEAST_CASED_ENTRIES, len(words) / 2)
    if not do_lower_case and decisive and capitals < MOST_CAPITALS_BY_CHANCE * len(cased):
        raise ValueError(
            f"{vocab_file} belongs to an uncased model ({found} have capitals): use --do_lower_case"
        )

    # Single letters that have case do not count: an alphabet has those of foreign names too.
    longer = [word.lower() for word in words if len(word) > 1 or not _has_case(word)]
    accents = sum(not word.isascii() and _without_accents(word) != word for word in longer)
    if strip_accents and accents > MOST_ACCENTS_OF_STRIPPED * len(longer):
        raise ValueError(
            f"{vocab_file} belongs to a model that keeps accents ({accents} of {len(longer)} "
            f"entries have accents, vowel signs or the like, and would never be found): use "
            f"--no_strip_accents, or --no_do_lower_case if the model is cased too"
        )


def marker_warning(markers: Iterable[str]) -> str:
    """The line that names entries of the vocabulary that were split in texts, a few of them."""
    names = sorted(markers)
    shown = ", ".join(names[:MAX_MARKERS_SHOWN])
    if len(names) > MAX_MARKERS_SHOWN:
        shown += f" and {len(names) - MAX_MARKERS_SHOWN} more"
    return (
        f"warning: the text holds {shown}: the vocabulary has this entry, but it is split at its "
        f"punctuation, as Google does; --never_split keeps entries whole (a list, or all)"
    )


def convert_by_vocab(vocab: Mapping, items: Iterable) -> list:
    """Returns the list of `vocab[item]`. Raises KeyError for the first item not in `vocab`."""
    try:
        return [vocab[item] for item in items]
    except KeyError as error:
        raise KeyError(
            f"{error.args[0]!r} is not among the vocabulary's {len(vocab)} entries; "
            "use the vocab.txt that belongs to the model"
        ) from None


def convert_tokens_to_ids(vocab: Mapping[str, int], tokens: Iterable[str]) -> list[int]:
    """Returns the ids of `tokens`; `vocab` maps tokens to ids. Raises KeyError."""
    return convert_by_vocab(vocab, tokens)


def convert_ids_to_tokens(inv_vocab: Mapping[int, str], ids: Iterable[int]) -> list[str]:
    """Returns the tokens of `ids`; `inv_vocab` maps ids to tokens. Raises KeyError."""
    return convert_by_vocab(inv_vocab, ids)


def whitespace_tokenize(text: str) -> list[str]:
    """Splits `text` at Unicode white space; returns a list of words."""
    return text.split()


class AddedToken(NamedTuple):
    """A token that a vocabulary has beside those of its file, as transformers adds them.

    content      the token
    index        its id, which may be that of a [unused…] entry
    normalized   it is found in the text after cleaning, lower-casing and stripping of accents,
                 which change its own letters alike; otherwise just as it is written
    single_word  it is found only where no letter or digit touches it
    is_whole     it is found before a text is split, so that it stays whole
    is_entry     it is an entry for WordPiece too, like those of the file
    """

    content: str
    index: int
    normalized: bool = False
    single_word: bool = False
    is_whole: bool = True
    is_entry: bool = False


class FullTokenizer:
    """Text to WordPieces: `BasicTokenizer`, then `WordpieceTokenizer`, with a cache.

    Args:
      vocab_file: path of a vocabulary; see `load_vocab`.
      do_lower_case: lower-case the text; off for a cased model.
      strip_accents: drop accents; None means the value of `do_lower_case`, as in Google's code.
      never_split: markers of the vocabulary, e.g. ["[E1]", "[/E1]"], that stay whole wherever they
        stand in a text; or one str with commas between them; or "all": every bracketed entry.
        Without it, markers are split at their punctuation, as in Google's code.
      added_tokens: AddedTokens that the vocabulary has beside those of its file.

    `vocab` maps tokens to ids, `inv_vocab` ids to tokens; do not modify them. `never_split` is the
    tuple of all that stays whole: markers, and AddedTokens; `whole` is the set of their texts, and
    `keeps_all` says whether every bracketed entry was asked for. `has_new_entries` says whether
    WordPiece knows entries that the file lacks. `split_markers` is the set of the
    vocabulary's bracketed entries that were met in texts and split.

    Raises what `load_vocab` does, and ValueError if [UNK], [CLS] or [SEP] is missing, if a marker
    is not an entry of the vocabulary, or if an added token has the id of another one.
    """

    def __init__(
        self,
        vocab_file: str | os.PathLike,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        never_split: str | Iterable[str] = (),
        added_tokens: Iterable[AddedToken] = (),
    ):
        self.added_tokens = tuple(added_tokens)
        self._arguments = vocab_file, do_lower_case, strip_accents, never_split, self.added_tokens
        self.vocab = entries = load_vocab(vocab_file)
        if self.added_tokens:
            self.vocab = _with_added_tokens(entries, self.added_tokens, vocab_file)
        # Where one is an entry, all are: the vocab.txt that will be written must have no gaps.
        self.has_new_entries = any(token.is_entry for token in self.added_tokens)
        if self.has_new_entries:
            entries = self.vocab
        missing = [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in self.vocab]
        if missing:
            raise ValueError(
                f"{vocab_file} has {len(self.vocab)} tokens, but no {', '.join(missing)}; "
                "pass the vocab.txt of a BERT model"
            )
        self.inv_vocab = {index: token for token, index in self.vocab.items()}
        self.do_lower_case = do_lower_case
        markers = self._markers_of(never_split, vocab_file)
        # One of them may have taken the place of a [unused…] entry that is among them.
        whole = [
            token for token in self.added_tokens if token.is_whole and token.content in self.vocab
        ]
        self.never_split = (*markers, *(token for token in whole if token.content not in markers))
        self.keeps_all = never_split == "all"
        self.whole = {*markers, *(token.content for token in whole)}
        self.split_markers = set()
        self._has_warned = False
        self.basic_tokenizer = BasicTokenizer(do_lower_case, strip_accents, self.never_split)
        self.wordpiece_tokenizer = WordpieceTokenizer(entries)
        self._ids_of_word = _Memory(self._encode_word)
        self._words_of_char = _Memory(self.basic_tokenizer._clean_and_space)
        self._form_of_char = _Memory(self._char_form)

    def _markers_of(self, never_split, vocab_file):
        """The argument `never_split` as a tuple. Raises ValueError."""
        if never_split == "all":
            return tuple(token for token in self.vocab if BRACKETED.fullmatch(token))
        if isinstance(never_split, str):
            never_split = filter(None, map(str.strip, never_split.split(",")))
        markers = tuple(never_split or ())
        unknown = [marker for marker in markers if marker not in self.vocab]
        if unknown:
            raise ValueError(
                f"--never_split: {vocab_file} has no entry {unknown[0]}; put it in place of an "
                f"unused one, such as [unused1]"
            )
        return markers

    def with_tokens(self, tokens: Iterable[AddedToken]) -> "FullTokenizer":
        """A tokenizer with these AddedTokens besides. Raises ValueError."""
        *others, added_tokens = self._arguments
        return FullTokenizer(*others, (*added_tokens, *tokens))

    def take_num_long_words(self) -> int:
        """How many words were too long and became [UNK] since the last call."""
        number = self.wordpiece_tokenizer.num_long_words
        self.wordpiece_tokenizer.num_long_words = 0
        return number

    def take_marker_warning(self) -> str:
        """The warning about `split_markers`, once; "" if there are none or it was given before."""
        if self._has_warned or not self.split_markers:
            return ""
        self._has_warned = True
        return marker_warning(self.split_markers)

    def tokenize(self, text: str | bytes) -> list[str]:
        """Returns the WordPieces of `text` (str, or bytes in UTF-8) as a list of str."""
        return [self.inv_vocab[index] for index in self.encode(text)]

    def encode(self, text: str | bytes) -> list[int]:
        """Returns the ids of `tokenize(text)` as a list of int, without [CLS] and [SEP]."""
        text = convert_to_unicode(text)
        if not text.isprintable():  # fast; printable text has no control characters
            text = _DROPPED_WHITESPACE.sub("", text)
        if "[" in text or "<" in text:  # rare in most texts
            self.split_markers.update(filter(self._is_split, BRACKETED.findall(text)))
        if not self.never_split:
            return list(self._encode_words(text.split()))

        ids = []
        for part, marker in self.basic_tokenizer.parts(text):
            ids += [self.vocab[marker]] if marker else self._encode_words(part.split())
        return ids

    def char_spans(self, word: str) -> list[tuple[int, int]]:
        """Returns (first character, last one + 1) of each WordPiece of a word without white space.

        Characters that cleaning drops, such as accents, belong to no WordPiece.
        """
        spans = []
        start = 0
        for part, marker in self.basic_tokenizer.parts(word):
            if marker:
                spans.append((start, start + len(part)))
            else:
                spans += self._spans_of_part(part, start)
            start += len(part)
        return spans

    def _char_form(self, char):
        """What becomes of a character in the tokens; "" if it is dropped."""
        return "".join(self.basic_tokenizer.tokenize(char))

    def _spans_of_part(self, part, start):
        """As `char_spans`, of a part without markers that begins at `start`."""
        # For each character of the part's tokens the one that it comes from: lower-casing and NFD
        # can make several of one, cleaning can drop it.
        origins = [
            position for position, char in enumerate(part, start) for _ in self._form_of_char[char]
        ]
        spans = []
        done = 0
        for token in self.basic_tokenizer.tokenize(part):
            sizes = [len(token)]
            # A word over the limit is one [UNK]; it was counted when the text was encoded.
            if len(token) <= self.wordpiece_tokenizer.max_input_chars_per_word:
                first, *others = self.wordpiece_tokenizer._pieces(token)
                if first != self.wordpiece_tokenizer.unk_token:
                    sizes = [len(first), *(len(piece) - 2 for piece in others)]  # without "##"
            for size in sizes:
                spans.append((origins[done], origins[done + size - 1] + 1))
                done += size
        return spans

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Returns the ids of `tokens` as a list of int. Raises KeyError."""
        return convert_tokens_to_ids(self.vocab, tokens)

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """Returns the tokens of `ids` as a list of str. Raises KeyError."""
        return convert_ids_to_tokens(self.inv_vocab, ids)

    def _is_split(self, marker):
        return marker in self.vocab and marker not in self.whole

    def _encode_words(self, words):
        return itertools.chain.from_iterable(map(self._ids_of_word.__getitem__, words))

    def _encode_word(self, word):
        """Returns the ids of a word that has no white space, as a tuple."""
        if word.isascii() and word.isprintable():
            # There is nothing to clean and there are no accents: only case and punctuation matter.
            tokens = _ASCII_TOKEN.findall(word.lower() if self.do_lower_case else word)
        else:
            words = "".join(map(self._words_of_char.__getitem__, word)).split()
            if words != [word]:  # control characters, or CJK: a paragraph can be one word
                return tuple(self._encode_words(words))
            tokens = self.basic_tokenizer.tokenize(word)
        pieces_of = self.wordpiece_tokenizer._pieces
        return tuple(self.vocab[piece] for token in tokens for piece in pieces_of(token))


class BasicTokenizer:
    """Cleans text and splits it at white space, CJK characters and punctuation.

    Args:
      do_lower_case: lower-case each token.
      strip_accents: decompose each token (NFD) and drop its combining marks (category Mn), which
        also splits hangul into its letters; None means the value of `do_lower_case`, as in Google's
        code.
      never_split: a sequence of str that stay whole tokens, as they are, wherever they stand; or of
        AddedTokens, which say where.
    """

    def __init__(
        self,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        never_split: Iterable[str | AddedToken] = (),
    ):
        self.do_lower_case = do_lower_case
        self.strip_accents = do_lower_case if strip_accents is None else strip_accents
        tokens = [
            AddedToken(token, -1) if isinstance(token, str) else token for token in never_split
        ]
        self._marker = _any_of([token for token in tokens if not token.normalized])
        # Those that are looked for in the text as it becomes, by their own form.
        self._form_of_char = _Memory(self._normalize)
        forms = {self._form(token.content): token for token in tokens if token.normalized}
        self._token_of_form = {form: token.content for form, token in forms.items()}
        self._form_marker = _any_of([token._replace(content=form) for form, token in forms.items()])

    def tokenize(self, text: str | bytes) -> list[str]:
        """Returns the tokens of `text` (str, or bytes in UTF-8) as a list of str."""
        split_tokens = []
        for part, marker in self.parts(convert_to_unicode(text)):
            split_tokens += [marker] if marker else self._tokenize_part(part)
        return split_tokens

    def parts(self, text: str) -> list[tuple[str, str]]:
        """Returns `text` cut at its markers: a list of (part, marker), the marker "" between them.

        As in the tokenizers library, those that are found as they are written go first.
        """
        if self._marker is None:
            return self._parts_by_form(text)
        parts = []
        # With a group in the pattern, every second part is what it matched.
        for index, part in enumerate(self._marker.split(text)):
            parts += [(part, part)] if index % 2 else self._parts_by_form(part)
        return parts

    def _parts_by_form(self, text):
        """As `parts`, for the markers that are found in the text's form."""
        if self._form_marker is None:
            return [(text, "")]
        forms = [self._form_of_char[char] for char in text]
        matches = list(self._form_marker.finditer("".join(forms)))
        if not matches:
            return [(text, "")]

        # Where in the form each character's own begins; that of a dropped one is empty.
        starts = list(accumulate(map(len, forms), initial=0))
        parts = []
        done = 0
        for match in matches:
            start = bisect_right(starts, match.start(), hi=len(text)) - 1
            end = bisect_right(starts, match.end() - 1, hi=len(text))
            parts += [(text[done:start], ""), (text[start:end], self._token_of_form[match[0]])]
            done = end
        return [*parts, (text[done:], "")]

    def _form(self, text):
        return "".join(map(self._form_of_char.__getitem__, text))

    def _normalize(self, char):
        """What becomes of a character before the text is split; "" if it is dropped."""
        form = self._clean_and_space(char)
        if self.do_lower_case:
            form = form.lower()
        return _without_accents(form) if self.strip_accents else form

    def _tokenize_part(self, text):
        """The tokens of a text without markers."""
        split_tokens = []
        for token in whitespace_tokenize(self._clean_and_space(text)):
            if self.do_lower_case:
                token = token.lower()
            if self.strip_accents:
                token = _without_accents(token)
            split_tokens.extend(self._run_split_on_punc(token))
        return split_tokens

    def _clean_and_space(self, text):
        return self._tokenize_chinese_chars(self._clean_text(text))

    def _clean_text(self, text):
        """Drops U+0000, U+FFFD and control characters; every white space becomes " "."""
        kept = (char for char in text if char not in "\0\ufffd" and not _is_control(char))
        return "".join(" " if _is_whitespace(char) else char for char in kept)

    def _tokenize_chinese_chars(self, text):
        """Puts spaces around every CJK character."""
        return CJK_CHAR.sub(r" \g<0> ", text)

    def _run_split_on_punc(self, text):
        """Makes each punctuation character a token, and the text between two of them another."""
        return "".join(f" {char} " if is_punctuation(char) else char for char in text).split()


class WordpieceTokenizer:
    """Cuts tokens into the longest pieces of a vocabulary, greedily from the left.

    Args:
      vocab: a dict (or set) of pieces; those that do not begin a token are written "##piece".
      unk_token: replaces a token that cannot be cut into pieces of the vocabulary.
      max_input_chars_per_word: a token with more characters (without accents) becomes `unk_token`.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        unk_token: str = "[UNK]",
        max_input_chars_per_word: int = 200,
    ):
        self.vocab = vocab
        self.unk_token = unk_token
        self.max_input_chars_per_word = max_input_chars_per_word
        self.num_long_words = 0  # how often a token was too long
        self._longest = max(map(len, vocab), default=0)

    def tokenize(self, text: str | bytes) -> list[str]:
        """Returns the pieces of `text`: e.g. of "unaffable", ["un", "##aff", "##able"]."""
        tokens = whitespace_tokenize(convert_to_unicode(text))
        return [piece for token in tokens for piece in self._pieces(token)]

    def _pieces(self, token):
        """Returns the pieces of one token as a list of str."""
        if len(token) > self.max_input_chars_per_word:
            self.num_long_words += 1
            return [self.unk_token]
        pieces, start = [], 0
        while start < len(token):
            prefix = "##" if start else ""
            # A longer piece than the vocabulary's longest need not be tried.
            for end in range(min(len(token), start + self._longest), start, -1):
                piece = prefix + token[start:end]
                if piece in self.vocab:
                    break
            else:
                return [self.unk_token]
            pieces.append(piece)
            start = end
        return pieces


class _Memory(dict):
    """A cache of `function(argument)` by argument, a str; computes what it does not have.

    It is bounded: results for long arguments are not kept, and a full cache is cleared.
    """

    def __init__(self, function):
        self.function = function

    def __missing__(self, argument):
        result = self.function(argument)
        if len(argument) <= MAX_CHARS_REMEMBERED:
            if len(self) >= MAX_WORDS_REMEMBERED:
                self.clear()
            self[argument] = result
        return result


def _any_of(tokens):
    """The pattern of a text's AddedTokens, one group; None for none of them."""
    # Of two that begin alike the longer one is tried first.
    tokens = sorted(tokens, key=lambda token: len(token.content), reverse=True)
    patterns = [
        rf"(?<!{_WORD_CHAR}){re.escape(token.content)}(?!{_WORD_CHAR})"
        if token.single_word
        else re.escape(token.content)
        for token in tokens
        if token.content
    ]
    return re.compile(f"({'|'.join(patterns)})") if patterns else None


def _with_added_tokens(vocab, added_tokens, vocab_file):
    """`vocab` with the tokens at their ids, in the order of ids. Raises ValueError."""
    tokens = {index: token for token, index in vocab.items()}
    for token in added_tokens:
        other = tokens.get(token.index, "")
        if UNUSED.fullmatch(other):
            other = ""
        index = vocab.get(token.content, token.index)
        if other not in ("", token.content) or index != token.index:
            raise ValueError(
                f"the added token {token.content} has the id {token.index}, but in {vocab_file} "
                f"it is {other or index}: they belong to different models"
            )
        tokens[token.index] = token.content
    return {token: index for index, token in sorted(tokens.items())}


def _has_case(text):
    # Not `upper`: Georgian has capitals in Unicode that no text mixes with its other letters.
    return text.lower() != text.title()


def _without_accents(text):
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(char for char in decomposed if unicodedata.category(char) != "Mn")


def _is_whitespace(char):
    """Space, tab, line ends, and Unicode's spaces (category Zs)."""
    return char in " \t\n\r" or unicodedata.category(char) == "Zs"


def _is_control(char):
    """All categories C*, even private use and unassigned (Google since 2019: only Cc and Cf)."""
    return char not in "\t\n\r" and unicodedata.category(char).startswith("C")


def is_punctuation(char: str) -> bool:
    """Unicode's punctuation, and ASCII's: e.g. "$" and "^" too, which Unicode calls symbols."""
    return char in string.punctuation or unicodedata.category(char).startswith("P")
