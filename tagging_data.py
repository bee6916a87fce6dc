"""Tagging: files in CoNLL columns to sentences, sentences to windows of WordPieces.

A line holds a word first and its tag last, with tabs or spaces between the columns; a blank line
ends a sentence, and so does a `-DOCSTART-` line. As in the paper (arXiv:1810.04805, section 5.3), a
word's tag belongs to its first WordPiece; the others have none and no part in the loss. A word of
which the tokenizer leaves nothing, e.g. a control character, is read as [UNK], so that every word
has a prediction.
"""

import bisect
import functools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from files import Tally, count, iter_lines
from tagging_metrics import OUTSIDE, SCHEMES, has_entities, is_prefixed, may_follow, split_tag
from tokenization import BasicTokenizer, FullTokenizer, is_punctuation

# Other ways to write an entity's tag: B_PER, b-per, PER-B.
OTHER_FORM = re.compile(r"[BIESLUMW][-_:.].+|.+[-_:.][BIESLUMW]|o", re.IGNORECASE)
DOCUMENT_START = "-DOCSTART-"
MAX_LABELS_SHOWN = 9


@dataclass
class TaggingExample:
    """A sentence: its words, their tags where they are known, and the words' lines in the file."""

    words: list[str]
    tags: list[str] | None = None
    lines: list[int] = field(default_factory=list)


@dataclass(eq=False)
class InputFeatures:
    """A window: [CLS], WordPieces of a sentence, [SEP], as int32 arrays without padding.

    input_ids, segment_ids  [length]
    example_index           the number of the sentence
    words                   [n] the numbers of the words that are tagged in this window
    positions               [n] of their first WordPieces in `input_ids`
    label_ids               [n] of their tags; 0 where there are none
    """

    input_ids: np.ndarray
    segment_ids: np.ndarray
    example_index: int
    words: np.ndarray
    positions: np.ndarray
    label_ids: np.ndarray


# --- files ---------------------------------------------------------------------------------------


def read_rows(path: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yields (line number, line, columns); there are no columns where a line parts sentences.

    Raises OSError, or ValueError with file and line where the file is not text, a word is missing,
    or the number of columns changes.
    """
    first = None
    for number, line in enumerate(iter_lines(path), start=1):
        where = f"{path}:{number}"
        if "\0" in line:
            raise ValueError(f"{where} has a NUL byte: is this a text file?")
        columns = split_columns(line)
        if columns and columns[0].startswith(DOCUMENT_START):
            columns = []
        if columns and not columns[0]:
            raise ValueError(f"{where} begins with a tab: expected a word first and its tag last")
        first = first or (columns and (number, len(columns)))
        if columns and len(columns) != first[1]:
            found = count(len(columns), "column")
            raise ValueError(
                f"{where} has {found}, but {path}:{first[0]} has {first[1]}: expected a word first "
                f"and its tag last"
            )
        yield number, line, columns


def split_columns(line: str) -> list[str]:
    """The columns of a line; words may hold spaces where tabs part the columns."""
    if "\t" in line:
        columns = [column.strip(" ") for column in line.rstrip("\t ").split("\t")]
        return columns if any(columns) else []
    return [column for column in line.split(" ") if column]


def read_examples(
    path: str, labels: Sequence[str] | None = None, is_test: bool = False
) -> tuple[list[TaggingExample], Tally]:
    """The sentences of a file, and their Tally.

    Tags are checked against `labels`, where these are given. A test file may lack tags: it does
    where it has one column, or where no last column holds one of the labels other than "O", which
    chunks have too. Raises OSError, or ValueError with file and line.
    """
    tally = Tally("sentences")
    examples = []
    is_new = True
    num_documents = 0
    for number, line, columns in read_rows(path):
        if not columns:
            is_new = True
            num_documents += bool(line.strip())
            continue
        if is_new:
            examples.append(TaggingExample([], []))
            is_new = False
        if len(columns) == 1 and not is_test:
            raise ValueError(
                f"{path}:{number} has 1 column: expected a word first and its tag last"
            )
        examples[-1].words.append(columns[0])
        examples[-1].tags.append(columns[-1] if len(columns) > 1 else None)
        examples[-1].lines.append(number)
    if not examples:
        raise ValueError(f"{path} has no words")

    if labels is not None:
        unknown = _unknown_tag(examples, path, labels)
        found = {tag for example in examples for tag in example.tags}
        if unknown and is_test and found.isdisjoint({*labels} - {OUTSIDE}):
            for example in examples:
                example.tags = None
        elif unknown:
            raise ValueError(unknown)

    scheme = _scheme_of(labels or ())
    if scheme and examples[0].tags is not None and (lines := broken_lines(examples, scheme)):
        tally.notes.append(
            f"tags that break {scheme} {len(lines):,} (the first in line {lines[0]})"
        )
    tally.read = len(examples)
    tally.notes.append(f"words {sum(len(example.words) for example in examples):,}")
    if num_documents:
        tally.notes.append(f"{DOCUMENT_START} lines {num_documents:,}")
    if examples[0].tags is None:
        tally.notes.append("without tags")
    return examples, tally


def _scheme_of(labels):
    """The scheme of a model's tags, a key of SCHEMES; None where they do not show which."""
    letters = {label[0] for label in labels if label != OUTSIDE}
    found = [name for name, own in SCHEMES.items() if set(own) == letters]
    return found[0] if has_entities(labels) and len(found) == 1 else None


def _unknown_tag(examples, path, labels):
    """The message about the first tag that is not one of `labels`; None where all are."""
    allowed = set(labels)
    for example in examples:
        for tag, line in zip(example.tags, example.lines):
            if tag not in allowed:
                return (
                    f"{path}:{line}: the tag {tag!r} is not one of those in training: "
                    f"{shown(labels)}"
                )
    return None


def shown(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    more = f", … ({len(names)})" if len(names) > MAX_LABELS_SHOWN else ""
    return ", ".join(names[:MAX_LABELS_SHOWN]) + more


# --- the tags of a training file -----------------------------------------------------------------


def find_labels(examples: Sequence[TaggingExample], path: str) -> tuple[list[str], str]:
    """The tags of a training file in the order of the model's outputs, and what they are in words.

    Tags mark entities if at least half of the different ones beside "O" have the form of "B-PER";
    all of them must then, and belong to one scheme. There are then all tags of that scheme for each
    type: one that is missing here may stand in another file. Raises ValueError with file and line
    for tags that do not fit the others, and for a file with a single tag.
    """
    # In the order of the file, so that a message names the first one.
    tags = list(dict.fromkeys(tag for example in examples for tag in example.tags))
    if len(tags) == 1:
        raise ValueError(f"{path} has no other tag than {tags[0]!r}: nothing to learn")
    inside = [tag for tag in tags if tag != OUTSIDE]
    if sum(map(is_prefixed, inside)) < len(inside) / 2:
        labels = sorted(tags)
        text = f"{len(labels)} plain tags: {shown(labels)}"
        if all(map(OTHER_FORM.fullmatch, inside)):
            text += (
                "; if they mark entities, write them as B-TYPE, I-TYPE and O: there are no figures "
                "of entities otherwise"
            )
        return labels, text

    for tag in inside:
        if not is_prefixed(tag):
            raise ValueError(
                f"{path}:{_line_of(tag, examples)}: the tag {tag!r} is neither O nor of the form "
                f"B-TYPE, as others are"
            )
    scheme, broken, first_line = recognize_scheme(examples, path)
    kinds = sorted({split_tag(tag)[1] for tag in inside})
    labels = [OUTSIDE, *(f"{letter}-{kind}" for kind in kinds for letter in SCHEMES[scheme])]
    text = f"entities in {scheme}, {count(len(kinds), 'type')}: {shown(kinds)}"
    if broken:
        text += (
            f"; tags that break the scheme: {broken:,}, the first at {path}:{first_line} (one that "
            f"continues nothing begins an entity)"
        )
    return labels, text


def recognize_scheme(examples: Sequence[TaggingExample], path: str) -> tuple[str, int, int | None]:
    """(the scheme of the entities' tags, how many break it, the line of the first one).

    It is the scheme that the fewest tags break. Raises ValueError with file and line for a tag that
    it does not have.
    """
    counts = Counter(pair for example in examples for pair in _pairs(example.tags))

    def num_broken(scheme):
        return sum(number for pair, number in counts.items() if not may_follow(*pair, scheme))

    scheme = min(SCHEMES, key=num_broken)
    for tag, _ in counts:
        if tag != OUTSIDE and tag[0] not in SCHEMES[scheme]:
            raise ValueError(
                f"{path}:{_line_of(tag, examples)}: {tag!r} is not a tag of {scheme}, which fits "
                f"the others: one scheme is needed"
            )
    lines = broken_lines(examples, scheme)
    return scheme, len(lines), next(iter(lines), None)


def broken_lines(examples: Sequence[TaggingExample], scheme: str) -> list[int]:
    """The lines of the tags that break a scheme, a key of SCHEMES."""
    return [
        line
        for example in examples
        # What comes after the sentence, "O", belongs to its last line.
        for pair, line in zip(_pairs(example.tags), [*example.lines, example.lines[-1]])
        if not may_follow(*pair, scheme)
    ]


def _pairs(tags):
    """(tag, the tag before it) in a sentence, with "O" before and after it."""
    return zip([*tags, OUTSIDE], [OUTSIDE, *tags])


def _line_of(tag, examples):
    """The line at which a tag stands first."""
    pairs = (pair for example in examples for pair in zip(example.tags, example.lines))
    return next(line for other, line in pairs if other == tag)


# --- features ------------------------------------------------------------------------------------


def convert_examples_to_features(
    examples: Sequence[TaggingExample],
    labels: Sequence[str],
    max_seq_length: int,
    tokenizer: FullTokenizer,
    tally: Tally | None = None,
) -> list[InputFeatures]:
    """The windows of the sentences, in order; each word is tagged in one of them.

    What became of the sentences is added to `tally`.
    """
    tally = tally or Tally()
    cls_id, sep_id, unk_id = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "[UNK]"])
    number_of = {label: number for number, label in enumerate(labels)}
    size = max_seq_length - 2
    features = []
    num_empty = 0
    num_cut = 0
    num_windowed = 0
    for index, example in enumerate(examples):
        pieces = [tokenizer.encode(word) for word in example.words]
        num_empty += sum(not ids for ids in pieces)
        # Of a word with more pieces than a window the first ones are kept.
        kept = [ids[:size] or [unk_id] for ids in pieces]
        num_cut += sum(len(ids) > size for ids in pieces)
        spans = window_spans([len(ids) for ids in kept], size)
        num_windowed += len(spans) > 1
        for start, end, words in spans:
            lengths = [len(ids) for ids in kept[start:end]]
            first_pieces = np.cumsum([1, *lengths], dtype=np.int32)  # after [CLS]
            ids = [cls_id, *(piece for word in kept[start:end] for piece in word), sep_id]
            tags = example.tags and [number_of[example.tags[word]] for word in words]
            features.append(
                InputFeatures(
                    input_ids=np.array(ids, np.int32),
                    segment_ids=np.zeros(len(ids), np.int32),
                    example_index=index,
                    words=np.array(words, np.int32),
                    positions=first_pieces[np.array(words) - start],
                    label_ids=np.array(tags or [0] * len(words), np.int32),
                )
            )

    if num_empty:
        tally.notes.append(f"words without WordPieces, read as [UNK], {num_empty:,}")
    if num_cut:
        tally.notes.append(f"words cut to the {size:,} WordPieces of a window {num_cut:,}")
    if num_windowed:
        tally.notes.append(f"sentences read through several windows {num_windowed:,}")
    for feature in features:
        tally.add_input(feature.input_ids, 0, unk_id)
    return features


def window_spans(lengths: Sequence[int], size: int) -> list[tuple[int, int, list[int]]]:
    """The windows over words of `lengths` WordPieces: (first word, last word + 1, words to tag).

    A window holds whole words, `size` WordPieces at most, and begins half a window after the one
    before it. A word is tagged in the window in which it has the most context, as Google measures
    it for SQuAD (`_check_is_max_context` of run_squad.py). No word may be longer than `size`.
    """
    starts = [0, *accumulate(lengths)]  # of the words, in WordPieces; the last one is the end
    num_words = len(lengths)
    if starts[-1] <= size:
        return [(0, num_words, list(range(num_words)))] if num_words else []

    spans = []
    first = end = 0
    while end < num_words:
        end = bisect.bisect_right(starts, starts[first] + size) - 1
        spans.append((first, end))
        middle = bisect.bisect_left(starts, starts[first] + max(size // 2, 1))
        first = min(max(middle, first + 1), end)

    best = [(-1.0, 0)] * num_words  # of each word: its context, and minus the window's number
    for number, (first, end) in enumerate(spans):
        length = starts[end] - starts[first]
        for word in range(first, end):
            left = starts[word] - starts[first]
            right = starts[end] - 1 - starts[word]
            best[word] = max(best[word], (min(left, right) + 0.01 * length, -number))
    words = [[] for _ in spans]
    for word, (_, number) in enumerate(best):
        words[-number].append(word)
    return [(*span, own) for span, own in zip(spans, words) if own]


def join_windows(
    examples: Sequence[TaggingExample],
    features: Sequence[InputFeatures],
    outputs: Sequence[np.ndarray],
    num_labels: int,
) -> list[np.ndarray]:
    """The logits of each sentence's words, [words, labels], from those of the windows' words."""
    logits = [np.zeros((len(example.words), num_labels), np.float32) for example in examples]
    for feature, output in zip(features, outputs, strict=True):
        logits[feature.example_index][feature.words] = output
    return logits


# --- words of running text -----------------------------------------------------------------------

# Splits a text as the model's tokenizer does, apart from case, accents and markers.
_SPLITTER = BasicTokenizer(do_lower_case=False)


def word_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of each word of a text, as words stand in files of tagged text.

    White space parts words; punctuation at either end of a word, and every ideograph, is a word of
    its own. Punctuation inside a word stays there, as in "U.S" and "well-known".
    """
    spans = []
    start = None  # of the word that has begun
    for position, char in enumerate(f"{text} "):
        apart = _stands_apart(char)
        if not (char.isspace() or apart):
            start = position if start is None else start
            continue
        if start is not None:
            spans += _without_punctuation(text, start, position)
            start = None
        if apart:
            spans.append((position, position + 1))
    return spans


def _without_punctuation(text, start, end):
    """The spans of a word and of the punctuation before and after it."""
    first = start
    last = end
    while first < last and is_punctuation(text[first]):
        first += 1
    while last > first and is_punctuation(text[last - 1]):
        last -= 1
    spans = [(place, place + 1) for place in range(start, first)]
    spans += [(first, last)] if first < last else []
    return spans + [(place, place + 1) for place in range(last, end)]


@functools.lru_cache(maxsize=2**16)
def _stands_apart(char):
    """Whether the tokenizer makes a character a token although it is not punctuation."""
    is_split = len(_SPLITTER.tokenize(f"a{char}a")) == 3
    return is_split and not is_punctuation(char)
