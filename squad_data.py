"""SQuAD: a file to examples, examples to windows of tokens, logits back to answers.

The rules and names are those of `run_squad.py` (google-research/bert at f39e881), quirks included.
A paragraph too long for the model is read through several overlapping windows ("doc spans"). Each
window is an `InputFeatures`; `write_predictions` ranks the answers from all windows of a question
and maps their tokens back to the paragraph's text.

Whatever the questions about a paragraph have in common is computed once and shared: the paragraph
is tokenized once, not once per question, and the masks and maps of a window are views.
"""

import bisect
import functools
import json
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from operator import itemgetter
from typing import NamedTuple

import numpy as np

import tokenization
from files import Tally, atomic_write
from squad_metrics import question_id
from tokenization import MAX_CHARS_REMEMBERED

# As Google: these characters separate the reader's words, and no others do. The tokenizer splits at
# more characters, e.g. the no-break space, but that is inside what the reader calls a word.
_SPACE = "[ \t\r\n\u202f]"
_WORD = re.compile("[^ \t\r\n\u202f]+")

_JSON_TYPES = {list: "a list", str: "a string", int: "a whole number", bool: "true or false"}

# As Google. It also means that an id is never mistaken for an index.
FIRST_UNIQUE_ID = 1000000000

# The reader shows this many of the questions that it skips.
MAX_SKIPPED_SHOWN = 5

# Google's initial value of the minimum of the null scores. Here it is also the null odds of a
# question that has only the null answer, because it is above every threshold.
LARGE_SCORE = 1000000.0


class RawResult(NamedTuple):
    """The model's output for the feature `unique_id`: a logit for each position."""

    unique_id: int
    start_logits: Sequence[float]
    end_logits: Sequence[float]


class Answer(NamedTuple):
    """The answer to a question.

    `first_word` is the index of the paragraph's word in which `text` begins, None if `text` does
    not come from the paragraph. `nbest` is the question's list in nbest_predictions.json.
    `null_odds` is None for SQuAD 1.1. `first_char` is where in its first word `text` begins, if it
    was taken by characters. `is_widened` says that `text` is whole words although the model chose
    a part of them, because that part could not be found, as in Google's code.
    """

    text: str
    first_word: int | None
    nbest: list[dict]
    null_odds: float | None
    first_char: int = 0
    is_widened: bool = False


class _DocSpan(NamedTuple):
    """A window: its first token in the paragraph, and its number of tokens."""

    start: int
    length: int


class _NbestPrediction(NamedTuple):
    """A candidate with its text; the last three fields are as in `Answer`."""

    text: str
    start_logit: float
    end_logit: float
    first_word: int | None = None
    first_char: int = 0
    is_widened: bool = False


@dataclass
class SquadExample:
    """A question about a paragraph.

    `doc_tokens` are the words of the paragraph, one list shared by all its questions. In training,
    `start_position` and `end_position` are the indices of the answer's first and last word, or -1
    if the question is impossible. `answer_chars` are the answer's first and last character, each
    as (word, character of the word), or None. Outside training all of them and `orig_answer_text`
    are None.
    """

    qas_id: str
    question_text: str
    doc_tokens: list[str]
    orig_answer_text: str | None = None
    start_position: int | None = None
    end_position: int | None = None
    is_impossible: bool = False
    answer_chars: tuple[tuple[int, int], tuple[int, int]] | None = None


@dataclass(eq=False)
class InputFeatures:
    """One window: [CLS] question [SEP] part of the paragraph [SEP], without padding.

    `input_ids`, `input_mask` and `segment_ids` are int32 arrays as long as `tokens`; treat them as
    read-only. The keys of all maps are the positions of the paragraph's tokens in `tokens`.
    `token_to_orig_map` gives the index of the token's word in the paragraph, `token_is_max_context`
    whether the token has more context in this window than in any other, and `token_in_word` which
    of its word's tokens the token is, counted from 0. In training,
    `start_position` and `end_position` are positions in `tokens`, both 0 if the answer is not in
    the window. Outside training they are None.
    """

    unique_id: int
    example_index: int
    doc_span_index: int
    tokens: list[str]
    token_to_orig_map: Mapping[int, int]
    token_is_max_context: Mapping[int, bool]
    input_ids: np.ndarray
    input_mask: np.ndarray
    segment_ids: np.ndarray
    start_position: int | None = None
    end_position: int | None = None
    is_impossible: bool | None = None
    token_in_word: Mapping[int, int] | None = None


class _SpanMap(Mapping):
    """Like the dict {key: values[key - shift] for key in keys}, without a copy; keys is a range."""

    __slots__ = ("_keys", "_shift", "_values")

    def __init__(self, keys, values, shift):
        self._keys, self._values, self._shift = keys, values, shift

    def __getitem__(self, key):
        if key not in self._keys:
            raise KeyError(key)
        return self._values[key - self._shift]

    def __contains__(self, key):
        return key in self._keys

    def __iter__(self):
        return iter(self._keys)

    def __len__(self):
        return len(self._keys)


def read_squad_examples(
    input_file: str,
    is_training: bool,
    version_2_with_negative: bool = False,
    log: Callable[[str], object] = print,
    dataset: dict | None = None,
    tally: Tally | None = None,
    align_answers: bool = False,
) -> list[SquadExample]:
    """Reads the examples of a SQuAD file, in the file's order.

    In training every question has exactly one answer, or none if `version_2_with_negative` is on
    and it is marked impossible. As in Google's reader, a question whose answer is not at its
    `answer_start` is skipped. So is one whose context is blank or ends before the answer, on which
    Google's reader crashes. The first few of these and their number are passed to `log`. Outside
    training, answers are not placed; a question may have none.

    `dataset` is the result of `read_dataset`, if the caller already has it. How many questions were
    read and skipped is added to `tally`. With `align_answers`, characters that the
    tokenizer drops, e.g. zero-width spaces, do not matter when an answer is looked for.

    Raises OSError, or ValueError for anything that is not SQuAD, naming its place in the file.
    """
    if dataset is None:
        dataset = read_dataset(input_file)

    examples = []
    skipped = []
    places = {}  # question id to its place in the file
    is_marked = False  # whether any question says if it is impossible
    for where, paragraph in _paragraphs(dataset, input_file):
        context = _field(paragraph, "context", str, where)
        doc_tokens = _WORD.findall(context)
        char_to_word_offset = _char_to_word_offset(context) if is_training else None

        for index, qa in enumerate(_field(paragraph, "qas", list, where)):
            here = f"{where}.qas[{index}]"
            qas_id = _question_id(qa, here)
            here = f"{here} (id {qas_id!r})"
            if qas_id in places:
                raise ValueError(f"{here}: the same id as {places[qas_id]}; ids must be unique")
            places[qas_id] = here

            example = SquadExample(qas_id, _field(qa, "question", str, here), doc_tokens)
            is_marked |= "is_impossible" in qa
            problem = None
            if is_training:
                answer = _read_answer(qa, version_2_with_negative, here)
                problem = _place_answer(
                    example, answer, context, char_to_word_offset, align_answers
                )
            else:
                _check_answers(qa, here)
            if problem is None:
                examples.append(example)
            else:
                skipped.append(f"{here}: {problem}")

    if is_training and version_2_with_negative and places and not is_marked:
        raise ValueError(
            f'{input_file}: "is_impossible" is missing in all questions; leave out '
            f"--version_2_with_negative for SQuAD 1.1"
        )
    if tally is not None:
        tally.read += len(places)
        tally.skipped["whose answer is not at its place"] += len(skipped)
    for line in skipped[:MAX_SKIPPED_SHOWN]:
        log(line)
    if skipped:
        log(f"{input_file}: skipped {len(skipped)} of {len(places)} questions like these")
    return examples


def read_dataset(input_file: str) -> dict:
    """Reads a file's JSON value. Raises OSError, or ValueError if it is not JSON in UTF-8."""
    with open(input_file, "rb") as reader:
        content = reader.read()
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if str(error).startswith("Extra data: line 2"):
            error = "it has an object per line, where SQuAD's files are a single one"
        raise ValueError(f"{input_file} is not JSON in UTF-8: {error}") from None


def _paragraphs(dataset, input_file):
    """Yields (its place in the file, for messages; the paragraph) for each paragraph."""
    for article_index, article in enumerate(_field(dataset, "data", list, input_file)):
        where = f"{input_file}: data[{article_index}]"
        for index, paragraph in enumerate(_field(article, "paragraphs", list, where)):
            yield f"{where}.paragraphs[{index}]", paragraph


def _field(item, key, kind, where):
    """Returns item[key]. Raises ValueError unless `item` is a dict and the value of type `kind`."""
    if not isinstance(item, dict):
        raise ValueError(f'{where}: not an object with "{key}"; is this a SQuAD file?')
    if key not in item:
        raise ValueError(f'{where}: "{key}" is missing; is this a SQuAD file?')
    value = item[key]
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)  # JSON has one kind of number; pandas writes 5.0 beside missing values
    if type(value) is not kind:  # not isinstance, for which True is an int
        raise ValueError(f'{where}: "{key}" is not {_JSON_TYPES[kind]}')
    return value


def _question_id(qa, where):
    """A question's id; a whole number becomes text."""
    if isinstance(qa, dict) and type(qa.get("id")) is int:
        return question_id(qa)
    return _field(qa, "id", str, where)


def _char_to_word_offset(context):
    """For each character, the index of the word it is in; a space belongs to the word before it."""
    word_starts = np.zeros(len(context), dtype=np.int32)
    word_starts[[match.start() for match in _WORD.finditer(context)]] = 1
    return np.cumsum(word_starts) - 1


def _read_answer(qa, version_2_with_negative, where):
    """Returns a question's answer and its first character, or None if it is marked impossible."""
    # Where only some are marked, the others have an answer, as in SQuAD's own evaluation.
    is_marked = version_2_with_negative and "is_impossible" in qa
    if is_marked and _field(qa, "is_impossible", bool, where):
        return None

    answers = _field(qa, "answers", list, where)
    if len(answers) != 1:
        if qa.get("is_impossible") and not version_2_with_negative:
            hint = "it is_impossible: pass --version_2_with_negative for SQuAD 2.0"
        elif answers:
            hint = "only files for evaluation may have several"
        else:
            hint = "without an answer there is nothing to learn"
            if version_2_with_negative:
                hint = 'if its context does not answer it, it needs "is_impossible": true'
        raise ValueError(
            f"{where}: a question for training must have exactly 1 answer, "
            f"this one has {len(answers)}; {hint}"
        )

    where = f"{where}.answers[0]"
    text = _field(answers[0], "text", str, where)
    answer_start = _field(answers[0], "answer_start", int, where)
    return text, answer_start


def _check_answers(qa, where):
    """Raises ValueError unless a question's answers, if it has any, can be compared with."""
    if qa.get("is_impossible") is not None:
        _field(qa, "is_impossible", bool, where)
    if qa.get("answers") is None:
        return
    for number, answer in enumerate(_field(qa, "answers", list, where)):
        here = f"{where}.answers[{number}]"
        _field(answer, "text", str, here)
        if answer.get("answer_start") is not None:
            _field(answer, "answer_start", int, here)


def _place_answer(example, answer, context, char_to_word_offset, align_answers):
    """Sets the example's answer and its position. Returns None, or why that is not possible."""
    if answer is None:
        example.orig_answer_text = ""
        example.is_impossible = True
        example.start_position = -1
        example.end_position = -1
        return None

    answer_text, answer_start = answer
    if not example.doc_tokens:
        return "the context is blank"

    answer_end = answer_start + len(answer_text) - 1
    try:
        # As Google, negative offsets count from the end; for an empty answer at 0, the end is -1.
        start_position = int(char_to_word_offset[answer_start])
        end_position = int(char_to_word_offset[answer_end])
    except IndexError:
        size = len(char_to_word_offset)
        return f"the answer at {answer_start} lies beyond the context's {size} characters"

    actual_text = " ".join(example.doc_tokens[start_position : end_position + 1])
    cleaned_answer_text = " ".join(tokenization.whitespace_tokenize(answer_text))
    chars = _find_answer_chars(context, answer, char_to_word_offset, start_position, end_position)
    if cleaned_answer_text not in actual_text and not (align_answers and chars):
        return f"Could not find answer: {actual_text!r} vs. {cleaned_answer_text!r}"

    example.orig_answer_text = answer_text
    example.start_position = start_position
    example.end_position = end_position
    if chars:
        words = [int(char_to_word_offset[char]) for char in chars]
        starts = np.searchsorted(char_to_word_offset, words).tolist()
        example.answer_chars = tuple(
            (word, char - start) for word, char, start in zip(words, chars, starts)
        )
    return None


def _find_answer_chars(context, answer, char_to_word_offset, start_position, end_position):
    """The first and the last character of an answer in its context, or None if it is not there.

    That is the place it is said to be at, or else, compared without spaces and characters that the
    tokenizer drops, the one nearest to it in the words `start_position` to `end_position`.
    """
    text, start = answer
    stripped = text.strip()
    start += len(text) - len(text.lstrip())
    if stripped and start >= 0 and context.startswith(stripped, start):
        return start, start + len(stripped) - 1

    wanted = "".join(_kept_chars(text).values())
    low, high = np.searchsorted(char_to_word_offset, [start_position, end_position + 1]).tolist()
    kept = _kept_chars(context[low:high])
    places = [low + place for place in kept]
    haystack = "".join(kept.values())
    found = [match.start() for match in re.finditer(f"(?={re.escape(wanted)})", haystack)]
    if not wanted or not found:
        return None
    nearest = min(found, key=lambda index: abs(places[index] - start))
    return places[nearest], places[nearest + len(wanted) - 1]


def _kept_chars(text):
    """{place: character} of the characters that are neither white space nor control characters."""
    return {
        place: char
        for place, char in enumerate(text)
        if not char.isspace() and not unicodedata.category(char).startswith("C")
    }


class _Document:
    """A tokenized paragraph and its windows."""

    def __init__(self, doc_tokens, tokenizer, encode_word):
        pieces = list(map(encode_word, doc_tokens))
        sizes = list(map(len, pieces))
        ids = list(chain.from_iterable(pieces))
        self._words = doc_tokens
        self.ids = np.array(ids, dtype=np.int32)
        self.tokens = tokenizer.convert_ids_to_tokens(ids)

        # The word of each token, and the first token of each word.
        self.tok_to_orig_index = np.repeat(np.arange(len(sizes)), sizes).tolist()
        self.orig_to_tok_index = list(accumulate(sizes, initial=0))[:-1]
        starts = np.repeat(self.orig_to_tok_index, sizes)
        self.tok_in_word = (np.arange(len(ids)) - starts).tolist()
        self._windows = {}
        self._char_spans = {}  # of the words that were asked for

    def windows(self, max_tokens_for_doc, doc_stride):
        """Returns a list of (window, for each of its tokens whether this is its best window).

        The best window is that of `_max_context`. The list is cached: questions that leave the same
        room for the paragraph share it, and so do all questions if the paragraph fits in any case.
        """
        num_tokens = len(self.tokens)
        max_tokens_for_doc = min(max_tokens_for_doc, num_tokens)
        key = (max_tokens_for_doc, doc_stride)
        if key not in self._windows:
            spans = _doc_spans(num_tokens, max_tokens_for_doc, doc_stride)
            self._windows[key] = list(zip(spans, _max_context(spans, num_tokens)))
        return self._windows[key]

    def answer_span(self, example, tokenizer, align_answers):
        """Returns the answer's first and last token, and whether they are not those of its place.

        That is never so with `align_answers`.
        """
        span = self._matching_span(example, tokenizer)
        aligned_span = self._aligned_span(example, tokenizer) or span
        if align_answers:
            return aligned_span, False
        return span, aligned_span != span

    def _matching_span(self, example, tokenizer):
        """The answer's first and last token as Google: of its words the part that matches."""
        start = self.orig_to_tok_index[example.start_position]
        end = len(self.tokens) - 1
        if example.end_position < len(example.doc_tokens) - 1:
            end = self.orig_to_tok_index[example.end_position + 1] - 1

        answer_tokens = tokenizer.tokenize(example.orig_answer_text)
        return _improve_answer_span(self.tokens, start, end, answer_tokens)

    def _aligned_span(self, example, tokenizer):
        """The first and last token that the answer's characters are part of; None if unknown."""
        if example.answer_chars is None:
            return None
        (first_word, first_char), (last_word, last_char) = example.answer_chars
        starts = [start for start, _ in self._spans_of(last_word, tokenizer)]
        ends = [end for _, end in self._spans_of(first_word, tokenizer)]
        start = self.orig_to_tok_index[first_word] + bisect.bisect_right(ends, first_char)
        end = self.orig_to_tok_index[last_word] + bisect.bisect_right(starts, last_char) - 1
        return (start, end) if start <= end else None

    def _spans_of(self, word, tokenizer):
        """FullTokenizer.char_spans of the paragraph's word with this index."""
        if word not in self._char_spans:
            self._char_spans[word] = tokenizer.char_spans(self._words[word])
        return self._char_spans[word]


def _doc_spans(num_tokens, max_tokens_for_doc, doc_stride):
    """The windows that cover a paragraph, `doc_stride` tokens apart."""
    spans = []
    start = 0
    while start < num_tokens:
        length = min(num_tokens - start, max_tokens_for_doc)
        spans.append(_DocSpan(start, length))
        if start + length == num_tokens:
            break
        start += min(length, doc_stride)
    return spans


def _max_context(spans, num_tokens):
    """For each window, a list of bool: does this window give the token the most context?

    As Google's `_check_is_max_context`: the score is min(left, right) + 0.01 * length, and the
    first window wins a tie. Google compares all windows for each token of each window, which takes
    quadratic time; one pass over the windows gives the same result.
    """
    best_score = np.full(num_tokens, -1.0)
    best_span = np.zeros(num_tokens, dtype=np.int64)
    for index, (start, length) in enumerate(spans):
        covered = slice(start, start + length)
        left = np.arange(length)  # tokens to the left in the window; reversed, to the right
        score = np.minimum(left, left[::-1]) + 0.01 * length
        better = score > best_score[covered]
        best_score[covered][better] = score[better]
        best_span[covered][better] = index

    return [
        (best_span[start : start + length] == index).tolist()
        for index, (start, length) in enumerate(spans)
    ]


def _improve_answer_span(doc_tokens, input_start, input_end, answer_tokens):
    """The first span in [input_start, input_end] that equals the answer's tokens, else all of it.

    For example, the answer "1895" in the word "(1895-1943)." becomes that token alone.
    """
    size = len(answer_tokens)
    if not size:
        return input_start, input_end
    for start in range(input_start, input_end - size + 2):
        if doc_tokens[start : start + size] == answer_tokens:
            return start, start + size - 1
    return input_start, input_end


def convert_examples_to_features(
    examples: Iterable[SquadExample],
    tokenizer: tokenization.FullTokenizer,
    max_seq_length: int,
    doc_stride: int,
    max_query_length: int,
    is_training: bool,
    align_answers: bool = False,
    tally: Tally | None = None,
) -> list[InputFeatures]:
    """Cuts each example into windows of at most `max_seq_length` tokens, `doc_stride` apart.

    Questions are cut to `max_query_length` tokens. A paragraph without any tokens gives no
    features. Time and memory are linear in the length of the text.

    As Google, the first match of an answer's tokens in its words is learned, or else these whole
    words; with `align_answers`, the tokens of its own characters. What was cut, and how many
    answers are learned at another place than theirs, is added to `tally`.

    Raises ValueError if the windows cannot advance or a question leaves no room for them.
    """
    if doc_stride < 1:
        raise ValueError(f"--doc_stride {doc_stride} must be at least 1 token")

    ones, segments = _shared_arrays(max_seq_length)
    cls_id, sep_id = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    encode_word = _word_encoder(tokenizer)
    tally = tally or Tally("questions")
    num_moved = 0
    features = []
    documents = {}
    for example_index, example in enumerate(examples):
        # The reader gives all questions about a paragraph the same list.
        key = id(example.doc_tokens)
        if key not in documents:
            documents[key] = _Document(example.doc_tokens, tokenizer, encode_word)
        document = documents[key]

        query_ids = tokenizer.encode(example.question_text)
        tally.add_length(len(query_ids), min(len(query_ids), max_query_length))
        query_ids = np.array([cls_id, *query_ids[:max_query_length], sep_id], dtype=np.int32)
        query_tokens = tokenizer.convert_ids_to_tokens(query_ids.tolist())

        doc_offset = len(query_ids)
        first_segment = len(ones) - doc_offset  # the view begins with doc_offset zeros
        max_tokens_for_doc = _room_for_doc(max_seq_length, doc_offset, example)

        answer_span = None
        if is_training and document.tokens and not example.is_impossible:
            answer_span, is_moved = document.answer_span(example, tokenizer, align_answers)
            num_moved += is_moved

        windows = document.windows(max_tokens_for_doc, doc_stride)
        for doc_span_index, (span, is_max_context) in enumerate(windows):
            covered = slice(span.start, span.start + span.length)
            positions = range(doc_offset, doc_offset + span.length)
            num_tokens = doc_offset + span.length + 1
            shift = doc_offset - span.start  # from the paragraph's token to the window's position
            targets = _target(span, answer_span, doc_offset) if is_training else (None, None)
            feature = InputFeatures(
                unique_id=FIRST_UNIQUE_ID + len(features),
                example_index=example_index,
                doc_span_index=doc_span_index,
                tokens=[*query_tokens, *document.tokens[covered], "[SEP]"],
                token_to_orig_map=_SpanMap(positions, document.tok_to_orig_index, shift),
                token_is_max_context=_SpanMap(positions, is_max_context, doc_offset),
                input_ids=np.concatenate((query_ids, document.ids[covered], query_ids[-1:])),
                input_mask=ones[:num_tokens],
                segment_ids=segments[first_segment : first_segment + num_tokens],
                start_position=targets[0],
                end_position=targets[1],
                is_impossible=example.is_impossible,
                token_in_word=_SpanMap(positions, document.tok_in_word, shift),
            )
            features.append(feature)

    if num_moved:
        where = "learned at other tokens than those at their answer_start"
        tally.notes.append(f"answers {where} {num_moved:,} (--align_answers)")
    return features


def _shared_arrays(max_seq_length):
    """Arrays of which all masks, 1, …, 1, and all segment ids, 0, …, 0, 1, …, 1, are views."""
    ones = np.ones(max(max_seq_length, 0), dtype=np.int32)
    segments = np.repeat(np.arange(2, dtype=np.int32), len(ones))
    ones.flags.writeable = False
    segments.flags.writeable = False
    return ones, segments


def _word_encoder(tokenizer):
    """`tokenizer.encode` with a cache, because words recur.

    Not of long words: the tokenizer counts those that are too long.
    """
    remembered = functools.lru_cache(maxsize=2**16)(tokenizer.encode)
    return lambda word: (
        remembered(word) if len(word) <= MAX_CHARS_REMEMBERED else tokenizer.encode(word)
    )


def _room_for_doc(max_seq_length, doc_offset, example):
    """How many tokens of the paragraph fit into a window. Raises ValueError for none."""
    room = max_seq_length - doc_offset - 1
    if room < 1:
        raise ValueError(
            f"--max_seq_length {max_seq_length} leaves no room for the paragraph next to the "
            f"{doc_offset - 2} tokens of question {example.qas_id!r} and 3 special tokens; "
            "raise it, or lower --max_query_length"
        )
    return room


def _target(span, answer_span, doc_offset):
    """The answer's positions in the window's tokens; (0, 0) if the window does not contain it."""
    if answer_span is None:
        return 0, 0
    start, end = answer_span
    # As Google: the answer can be a word without tokens, and its end is then before its start.
    if start < span.start or end > span.start + span.length - 1:
        return 0, 0
    return start - span.start + doc_offset, end - span.start + doc_offset


def write_predictions(
    all_examples: Sequence[SquadExample],
    all_features: Iterable[InputFeatures],
    all_results: Iterable[RawResult],
    n_best_size: int,
    max_answer_length: int,
    do_lower_case: bool,
    output_prediction_file: str,
    output_nbest_file: str,
    output_null_log_odds_file: str | None = None,
    verbose_logging: bool = False,
    version_2_with_negative: bool = False,
    null_score_diff_threshold: float = 0.0,
    log: Callable[[str], object] = print,
    strip_accents: bool | None = None,
    never_split: Sequence[str] = (),
    align_with: tokenization.FullTokenizer | None = None,
) -> dict[str, Answer]:
    """Writes each question's best answer, its `n_best_size` best answers and, for 2.0, null odds.

    Returns what `best_answers` returns, and raises what it raises before anything is written.
    """
    answers = best_answers(
        all_examples,
        all_features,
        all_results,
        n_best_size,
        max_answer_length,
        do_lower_case,
        verbose_logging,
        version_2_with_negative,
        null_score_diff_threshold,
        log,
        strip_accents,
        never_split,
        align_with,
    )

    texts = {qas_id: answer.text for qas_id, answer in answers.items()}
    _write_json(output_prediction_file, texts)

    nbest = {qas_id: answer.nbest for qas_id, answer in answers.items()}
    _write_json(output_nbest_file, nbest)

    if version_2_with_negative and output_null_log_odds_file:
        null_odds = {qas_id: answer.null_odds for qas_id, answer in answers.items()}
        _write_json(output_null_log_odds_file, null_odds)
    return answers


def best_answers(
    all_examples: Sequence[SquadExample],
    all_features: Iterable[InputFeatures],
    all_results: Iterable[RawResult],
    n_best_size: int,
    max_answer_length: int,
    do_lower_case: bool,
    verbose_logging: bool = False,
    version_2_with_negative: bool = False,
    null_score_diff_threshold: float = 0.0,
    log: Callable[[str], object] = print,
    strip_accents: bool | None = None,
    never_split: Sequence[str] = (),
    align_with: tokenization.FullTokenizer | None = None,
) -> dict[str, Answer]:
    """Returns each question's `Answer` by question id, in the order of `all_examples`.

    `all_results` has one `RawResult` for each feature, in any order. Its logits are as long as the
    feature or padded; as in Google's code, padding positions are ranked too. `max_answer_length` is
    in tokens. `do_lower_case`, `strip_accents` and `never_split` are those of the tokenizer. With
    the tokenizer itself as `align_with`, an answer's text is just the characters of its tokens;
    without it, it is found as Google does, which may give whole words. A question without any
    window (its context is blank) is answered with "", and the number of these is passed to
    `log`. With version 2.0, so is a question whose only candidate is the null answer.

    Raises ValueError if a feature lacks its logits.
    """
    if n_best_size < 1 or max_answer_length < 1:
        given = f"--n_best_size {n_best_size} and --max_answer_length {max_answer_length}"
        raise ValueError(f"{given} must both be at least 1")

    features_of = defaultdict(list)
    for feature in all_features:
        features_of[feature.example_index].append(feature)
    results = {result.unique_id: result for result in all_results}
    text_options = (do_lower_case, verbose_logging, strip_accents, never_split)

    answers = {}
    for example_index, example in enumerate(all_examples):
        features = features_of[example_index]
        candidates, null = _rank_candidates(
            features, results, n_best_size, max_answer_length, version_2_with_negative
        )
        nbest = _choose_nbest(example, candidates, n_best_size, text_options, align_with)
        if version_2_with_negative and all(entry.text for entry in nbest):
            nbest.append(null)  # as Google, so there can be n_best_size + 1 entries
        if not nbest:
            # Google answers "empty" in both cases, but a context without tokens has no answer.
            text = "empty" if features else ""
            nbest.append(_NbestPrediction(text, 0.0, 0.0))

        best = nbest[0]
        null_odds = None
        if version_2_with_negative:
            best, null_odds = _answer_or_null(nbest, null, null_score_diff_threshold)
        answers[example.qas_id] = Answer(
            best.text,
            best.first_word,
            _nbest_json(nbest),
            null_odds,
            best.first_char,
            best.is_widened,
        )

    num_blank = sum(not features_of[index] for index in range(len(all_examples)))
    if num_blank:
        log(
            f"{num_blank} of {len(all_examples)} questions have a context without tokens and are "
            f'answered with ""'
        )
    return answers


def _rank_candidates(features, results, n_best_size, max_answer_length, version_2_with_negative):
    """All spans between the best starts and the best ends of each window, best first.

    Returns a list of tuples (score, start_logit, end_logit, feature, start, end), and the null
    answer with the logits of the window in which its score is lowest. With version 2.0 the null
    answer is one of the candidates; its feature is None.
    """
    candidates = []
    null = _NbestPrediction("", 0.0, 0.0)
    score_null = LARGE_SCORE

    for feature in features:
        result = results.get(feature.unique_id, RawResult(feature.unique_id, (), ()))
        # float64, because Google adds Python floats.
        start_logits = np.asarray(result.start_logits, dtype=np.float64)
        end_logits = np.asarray(result.end_logits, dtype=np.float64)
        num_logits = min(len(start_logits), len(end_logits))
        if num_logits < len(feature.tokens):
            tokens = f"{len(feature.tokens)} tokens of feature {feature.unique_id}"
            raise ValueError(f"the results have {num_logits} logits for the {tokens}")

        feature_null = _NbestPrediction("", float(start_logits[0]), float(end_logits[0]))
        if _score(feature_null) < score_null:
            null = feature_null
            score_null = _score(feature_null)

        ends = [
            (end, logit)
            for end, logit in _get_best_indexes(end_logits, n_best_size)
            if end in feature.token_to_orig_map
        ]
        for start, start_logit in _get_best_indexes(start_logits, n_best_size):
            # As Google: only the start must have its maximum context here; the end need not.
            if not feature.token_is_max_context.get(start, False):
                continue
            candidates += [
                (start_logit + end_logit, start_logit, end_logit, feature, start, end)
                for end, end_logit in ends
                if start <= end < start + max_answer_length
            ]

    if version_2_with_negative:
        candidates.append((_score(null), null.start_logit, null.end_logit, None, 0, 0))
    candidates.sort(key=itemgetter(0), reverse=True)  # stable: the first wins a tie
    return candidates, null


def _score(prediction):
    return prediction.start_logit + prediction.end_logit


def _get_best_indexes(logits, n_best_size):
    """Yields (index, logit) of the greatest logits, greatest first; the first wins a tie."""
    order = np.argsort(-logits, kind="stable")[:n_best_size]
    return zip(order.tolist(), logits[order].tolist())


def _choose_nbest(example, candidates, n_best_size, text_options, align_with):
    """The best candidates with different texts, at most `n_best_size`."""
    nbest = []
    seen_predictions = set()
    for _, start_logit, end_logit, feature, start, end in candidates:
        if len(nbest) == n_best_size:
            break

        prediction = _NbestPrediction("", start_logit, end_logit)
        if feature is not None:
            if align_with is not None:
                text = _aligned_text(example, feature, start, end, align_with)
            else:
                text = _final_text(example, feature, start, end, *text_options)
            prediction = prediction._replace(**text)
            if prediction.text in seen_predictions:
                continue

        seen_predictions.add(prediction.text)
        nbest.append(prediction)
    return nbest


def _final_text(example, feature, start, end, do_lower_case, verbose_logging, *options):
    """The text of tokens by `get_final_text`, as fields of _NbestPrediction."""
    pred_text = " ".join(feature.tokens[start : end + 1])
    pred_text = pred_text.replace(" ##", "").replace("##", "")
    pred_text = " ".join(pred_text.split())
    first_word = feature.token_to_orig_map[start]
    last_word = feature.token_to_orig_map[end]
    orig_text = " ".join(example.doc_tokens[first_word : last_word + 1])
    text, problem = _match_text(pred_text, orig_text, do_lower_case, *options)
    if problem and verbose_logging:
        print(problem)
    is_part = feature.token_in_word[start] > 0 or feature.token_in_word.get(end + 1, 0) > 0
    return {"text": text, "first_word": first_word, "is_widened": bool(problem) and is_part}


def _aligned_text(example, feature, start, end, tokenizer):
    """The text of tokens by their characters, as fields of _NbestPrediction."""
    first_word = feature.token_to_orig_map[start]
    last_word = feature.token_to_orig_map[end]
    words = example.doc_tokens[first_word : last_word + 1]
    first_char, _ = tokenizer.char_spans(words[0])[feature.token_in_word[start]]
    _, last_char = tokenizer.char_spans(words[-1])[feature.token_in_word[end]]

    # Marks that were stripped belong to the letter before them.
    for char in words[-1][last_char:]:
        if unicodedata.category(char) != "Mn":
            break
        last_char += 1
    words[-1] = words[-1][:last_char]
    words[0] = words[0][first_char:]
    return {"text": " ".join(words), "first_word": first_word, "first_char": first_char}


def _nbest_json(nbest):
    """A question's list in nbest_predictions.json."""
    probs = _compute_softmax([_score(entry) for entry in nbest])
    return [
        {
            "text": entry.text,
            "probability": prob,
            "start_logit": entry.start_logit,
            "end_logit": entry.end_logit,
        }
        for entry, prob in zip(nbest, probs)
    ]


def _answer_or_null(nbest, null, null_score_diff_threshold):
    """Returns the best entry for version 2.0, and the null odds.

    The null odds are the null answer's score minus that of the best other entry.
    """
    best_non_null = next((entry for entry in nbest if entry.text), None)
    if best_non_null is None:  # Google's code fails here
        return null, LARGE_SCORE

    score_diff = _score(null) - best_non_null.start_logit - best_non_null.end_logit
    if score_diff > null_score_diff_threshold:
        return null, score_diff
    return best_non_null, score_diff


def _compute_softmax(scores):
    largest = max(scores)
    exp_scores = [math.exp(score - largest) for score in scores]
    total = 0.0
    for exp_score in exp_scores:  # not sum(), which rounds differently since Python 3.12
        total += exp_score
    return [exp_score / total for exp_score in exp_scores]


def _write_json(path, value):
    with atomic_write(path) as writer:
        writer.write(json.dumps(value, indent=4) + "\n")


def find_answer(context: str, answer: Answer) -> int | None:
    """The offset at which an answer begins in its context; None if it does not come from there."""
    span = find_span(context, answer)
    return None if span is None else span[0]


def find_span(context: str, answer: Answer) -> tuple[int, int] | None:
    """The offsets (start, end) of an answer in its context: `context[start:end]`, or None.

    None means that the answer does not come from the context.
    """
    if answer.first_word is None:
        return None

    word_starts = [word.start() for word in _WORD.finditer(context)]
    # Single spaces join the words of the answer, white space of any kind those of the context.
    pattern = f"{_SPACE}+".join(map(re.escape, answer.text.split(" ")))
    first = word_starts[answer.first_word] + answer.first_char
    return re.compile(pattern).search(context, first).span()


def get_final_text(
    pred_text: str,
    orig_text: str,
    do_lower_case: bool,
    verbose_logging: bool = False,
    strip_accents: bool | None = None,
    never_split: Sequence[str] = (),
) -> str:
    """Returns the part of `orig_text` that became `pred_text` when it was tokenized.

    Tokenization loses case, accents and the places of spaces: the tokens "steve smith" of the words
    "Steve Smith's" should give "Steve Smith". The two texts are aligned by their characters other
    than spaces. If that fails (e.g. because a combining accent was dropped), all of `orig_text` is
    returned, as in Google's code, and `verbose_logging` prints the reason. `do_lower_case`,
    `strip_accents` and `never_split` are those of the tokenizer.
    """
    text, problem = _match_text(pred_text, orig_text, do_lower_case, strip_accents, never_split)
    if problem and verbose_logging:
        print(problem)
    return text


def _match_text(pred_text, orig_text, do_lower_case, strip_accents, never_split):
    """(what `get_final_text` returns, why it is all of `orig_text` or "")."""

    def give_up(reason):
        return orig_text, f"{reason}: {pred_text!r} in {orig_text!r}"

    # A space ends a word for the tokenizer too, so words can be tokenized, and kept, one by one.
    options = (do_lower_case, strip_accents, tuple(never_split))
    words = orig_text.split(" ")
    tok_text = " ".join(filter(None, [_basic_tokenize(word, *options) for word in words]))

    start_position = tok_text.find(pred_text)
    if start_position == -1:
        return give_up("Unable to find text")

    # How many characters other than spaces come before the prediction, and how many it has.
    num_before = start_position - tok_text.count(" ", 0, start_position)
    num_chars = len(pred_text) - pred_text.count(" ")
    if len("".join(words)) != len(tok_text) - tok_text.count(" "):
        return give_up("Length not equal after stripping spaces")
    if not pred_text or pred_text != pred_text.strip(" "):
        return give_up("Couldn't map start or end position")

    start = _position_of_char(words, num_before)
    end = _position_of_char(words, num_before + num_chars - 1)
    return orig_text[start : end + 1], ""


def _position_of_char(words, number):
    """Where a character stands in `words` joined by spaces, which `number` does not count."""
    position = number
    for word in words:
        if number < len(word):
            break
        number -= len(word)
        position += 1
    return position


@functools.lru_cache(maxsize=2**16)
def _basic_tokenize(word, do_lower_case, strip_accents, never_split):
    """The basic tokens of a word, joined by spaces."""
    tokenizer = _basic_tokenizer(do_lower_case, strip_accents, never_split)
    return " ".join(tokenizer.tokenize(word))


_basic_tokenizer = functools.lru_cache(maxsize=8)(tokenization.BasicTokenizer)
