"""SQuAD: a file to examples, examples to windows of tokens, logits back to answers.

The rules and names are those of `run_squad.py` (google-research/bert at f39e881), quirks included.
A paragraph too long for the model is read through several overlapping windows ("doc spans"), each
an `InputFeatures`; `write_predictions` ranks the answers from all windows of a question and maps
their tokens back to the paragraph's text.

What the windows of a paragraph have in common is computed once and shared: a paragraph is tokenized
once, not once per question, and the masks and maps of a window are views.
"""

import functools
import json
import math
import re
from collections import defaultdict, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from operator import itemgetter

import numpy as np

import tokenization
from files import atomic_write

# As Google: the reader's words end at these characters and no others. The tokenizer splits at more,
# the no-break space for one, but then inside what the reader calls a word.
_WORD, _SPACE = re.compile("[^ \t\r\n\u202f]+"), "[ \t\r\n\u202f]"
_JSON_TYPES = {list: "a list", str: "a string", int: "a whole number", bool: "true or false"}

FIRST_UNIQUE_ID = 1000000000  # as Google; also keeps the ids apart from every index
MAX_SKIPPED_SHOWN = 5

# As Google, the null score from which the minimum is taken. Here it is also the null odds of a
# question for which there is nothing but the null answer: above every threshold.
LARGE_SCORE = 1000000.0

RawResult = namedtuple("RawResult", ["unique_id", "start_logits", "end_logits"])
# An answer; `first_word` is the index of the paragraph's word in which it begins, None where it is
# no part of it; `nbest` are the dicts of nbest_predictions.json; `null_odds` is None for 1.1.
Answer = namedtuple("Answer", ["text", "first_word", "nbest", "null_odds"])
_DocSpan = namedtuple("_DocSpan", ["start", "length"])
_NBEST_FIELDS = ["text", "start_logit", "end_logit", "first_word"]
_NbestPrediction = namedtuple("_NbestPrediction", _NBEST_FIELDS, defaults=[None])


@dataclass
class SquadExample:
    """A question about a paragraph.

    `doc_tokens` are the words of the paragraph, one list shared by its questions. In training,
    `start_position` and `end_position` are the answer's first and last word, -1 where
    `is_impossible`; otherwise they and `orig_answer_text` are None.
    """

    qas_id: str
    question_text: str
    doc_tokens: list
    orig_answer_text: str | None = None
    start_position: int | None = None
    end_position: int | None = None
    is_impossible: bool = False


@dataclass(eq=False)
class InputFeatures:
    """One window: [CLS] question [SEP] part of the paragraph [SEP], without padding.

    `input_ids`, `input_mask`, `segment_ids` are int32 arrays of the length of `tokens`; treat them
    as read-only. The keys of both maps are the positions in `tokens` of the paragraph's tokens;
    the values are the index of the paragraph's word, and whether this is the window in which the
    token has the most context. In training, `start_position` and `end_position` are positions in
    `tokens`, both 0 where the answer does not lie in the window; otherwise None.
    """

    unique_id: int
    example_index: int
    doc_span_index: int
    tokens: list
    token_to_orig_map: Mapping
    token_is_max_context: Mapping
    input_ids: np.ndarray
    input_mask: np.ndarray
    segment_ids: np.ndarray
    start_position: int | None = None
    end_position: int | None = None
    is_impossible: bool | None = None


class _SpanMap(Mapping):
    """The dict {key: values[key - shift] for key in keys} as a view; keys is a range."""

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
    input_file, is_training, version_2_with_negative=False, log=print, dataset=None
):
    """Reads a SQuAD file. Returns a list of `SquadExample`, in the file's order.

    In training every question has one answer, or with `version_2_with_negative` may have none. As
    Google, a question whose answer is not at its `answer_start` is skipped; so is one whose context
    is blank or ends before the answer, where Google's reader crashes. `log` is called with a line
    for each of the first few of them and one with their number. Outside training answers are not
    looked at. `dataset` is what `read_dataset` gives for the file, where that is there already.

    Raises OSError, or ValueError for anything that is not SQuAD, naming its place in the file.
    """
    examples, skipped, places = [], [], {}
    dataset = read_dataset(input_file) if dataset is None else dataset
    for where, paragraph in _paragraphs(dataset, input_file):
        context = _field(paragraph, "context", str, where)
        doc_tokens = _WORD.findall(context)
        char_to_word_offset = _char_to_word_offset(context) if is_training else None
        for index, qa in enumerate(_field(paragraph, "qas", list, where)):
            here = f"{where}.qas[{index}]"
            qas_id = _field(qa, "id", str, here)
            here = f"{here} (id {qas_id!r})"
            if places.setdefault(qas_id, here) is not here:
                raise ValueError(f"{here}: the same id as {places[qas_id]}; ids must be unique")
            example = SquadExample(qas_id, _field(qa, "question", str, here), doc_tokens)
            problem = None
            if is_training:
                answer = _read_answer(qa, version_2_with_negative, here)
                problem = _place_answer(example, answer, char_to_word_offset)
            if problem is None:
                examples.append(example)
            else:
                skipped.append(f"{here}: {problem}")
    for line in skipped[:MAX_SKIPPED_SHOWN]:
        log(line)
    if skipped:
        log(f"{input_file}: skipped {len(skipped)} of {len(places)} questions like these")
    return examples


def read_dataset(input_file):
    """The file's JSON value. Raises OSError, or ValueError where it is no JSON."""
    with open(input_file, "rb") as reader:
        content = reader.read()
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{input_file} is not JSON in UTF-8: {error}") from None


def _paragraphs(dataset, input_file):
    """Yields each paragraph of the dataset with where it is, for messages."""
    for a, article in enumerate(_field(dataset, "data", list, input_file)):
        where = f"{input_file}: data[{a}]"
        for p, paragraph in enumerate(_field(article, "paragraphs", list, where)):
            yield f"{where}.paragraphs[{p}]", paragraph


def _field(item, key, kind, where):
    if not isinstance(item, dict):
        raise ValueError(f'{where}: not an object with "{key}"; is this a SQuAD file?')
    if key not in item:
        raise ValueError(f'{where}: "{key}" is missing; is this a SQuAD file?')
    if type(item[key]) is not kind:  # isinstance would take true for a number
        raise ValueError(f'{where}: "{key}" is not {_JSON_TYPES[kind]}')
    return item[key]


def _char_to_word_offset(context):
    """For each character the number of words begun so far, less 1: the word that it is in."""
    begins = np.zeros(len(context), dtype=np.int32)
    begins[[match.start() for match in _WORD.finditer(context)]] = 1
    return np.cumsum(begins) - 1


def _read_answer(qa, version_2_with_negative, where):
    """A question's answer and its first character, or None where it is marked impossible."""
    if version_2_with_negative:
        if "is_impossible" not in qa:
            hint = "leave out --version_2_with_negative for SQuAD 1.1"
            raise ValueError(f'{where}: "is_impossible" is missing; {hint}')
        if _field(qa, "is_impossible", bool, where):
            return None
    answers = _field(qa, "answers", list, where)
    if len(answers) != 1:
        hint = "several are for evaluation" if answers else "without one there is nothing to learn"
        if qa.get("is_impossible") and not version_2_with_negative:
            hint = "it is_impossible: pass --version_2_with_negative for SQuAD 2.0"
        found = f"exactly 1 answer, not {len(answers)}"
        raise ValueError(f"{where}: for training, each question should have {found}; {hint}")
    where += ".answers[0]"
    return _field(answers[0], "text", str, where), _field(answers[0], "answer_start", int, where)


def _place_answer(example, answer, char_to_word_offset):
    """Sets the example's answer and its words. Returns None, or why it cannot."""
    if answer is None:
        example.orig_answer_text, example.is_impossible = "", True
        example.start_position = example.end_position = -1
        return None
    answer_text, answer_start = answer
    if not example.doc_tokens:
        return "the context is blank"
    last = answer_start + len(answer_text) - 1
    try:
        # As Google, negative offsets count from the end: the last is -1 for an empty answer at 0.
        start_position = int(char_to_word_offset[answer_start])
        end_position = int(char_to_word_offset[last])
    except IndexError:
        size = len(char_to_word_offset)
        return f"the answer at {answer_start} lies beyond the context's {size} characters"
    actual_text = " ".join(example.doc_tokens[start_position : end_position + 1])
    cleaned_answer_text = " ".join(tokenization.whitespace_tokenize(answer_text))
    if cleaned_answer_text not in actual_text:
        return f"Could not find answer: {actual_text!r} vs. {cleaned_answer_text!r}"
    example.orig_answer_text = answer_text
    example.start_position, example.end_position = start_position, end_position
    return None


class _Document:
    """A tokenized paragraph and its windows."""

    def __init__(self, doc_tokens, tokenizer, encode_word):
        pieces = list(map(encode_word, doc_tokens))
        sizes = list(map(len, pieces))
        ids = list(chain.from_iterable(pieces))
        self.ids = np.array(ids, dtype=np.int32)
        self.tokens = tokenizer.convert_ids_to_tokens(ids)
        self.tok_to_orig_index = np.repeat(np.arange(len(sizes)), sizes).tolist()
        self.orig_to_tok_index = list(accumulate(sizes, initial=0))[:-1]
        self._windows = {}

    def windows(self, max_tokens_for_doc, doc_stride):
        """Pairs of a window and, for each of its tokens, whether it has the most context there."""
        key = min(max_tokens_for_doc, len(self.tokens)), doc_stride
        if key not in self._windows:
            spans = _doc_spans(len(self.tokens), *key)
            self._windows[key] = list(zip(spans, _max_context(spans, len(self.tokens))))
        return self._windows[key]

    def answer_span(self, example, tokenizer):
        """The answer's first and last token: those of its words, made as small as the answer."""
        start = self.orig_to_tok_index[example.start_position]
        end = len(self.tokens) - 1
        if example.end_position < len(example.doc_tokens) - 1:
            end = self.orig_to_tok_index[example.end_position + 1] - 1
        return _improve_answer_span(
            self.tokens, start, end, tokenizer.tokenize(example.orig_answer_text)
        )


def _doc_spans(num_tokens, max_tokens_for_doc, doc_stride):
    spans, start = [], 0
    while start < num_tokens:
        length = min(num_tokens - start, max_tokens_for_doc)
        spans.append(_DocSpan(start, length))
        if start + length == num_tokens:
            break
        start += min(length, doc_stride)
    return spans


def _max_context(spans, num_tokens):
    """For each window a list of bool: does this window give the token the most context?

    As Google's `_check_is_max_context`: the score is min(left, right) + 0.01 * length, and among
    equals the first window wins. Google scores all windows for each token of each; one pass over
    the windows does the same.
    """
    best_score = np.full(num_tokens, -1.0)
    best_span = np.zeros(num_tokens, dtype=np.int64)
    for index, (start, length) in enumerate(spans):
        covered = slice(start, start + length)
        left = np.arange(length)
        score = np.minimum(left, left[::-1]) + 0.01 * length
        better = score > best_score[covered]
        best_score[covered][better] = score[better]
        best_span[covered][better] = index
    return [
        (best_span[start : start + length] == index).tolist()
        for index, (start, length) in enumerate(spans)
    ]


def _improve_answer_span(doc_tokens, input_start, input_end, answer_tokens):
    """The first span within [input_start, input_end] that is the answer's tokens, else all of it.

    An answer "1895" given for the word "(1895-1943)." then is that token alone.
    """
    size = len(answer_tokens)
    for start in range(input_start, input_end - size + 2) if size else ():
        if doc_tokens[start : start + size] == answer_tokens:
            return start, start + size - 1
    return input_start, input_end


def convert_examples_to_features(
    examples, tokenizer, max_seq_length, doc_stride, max_query_length, is_training
):
    """Cuts each example into windows of at most `max_seq_length` tokens, `doc_stride` apart.

    Questions are cut at `max_query_length` tokens. Returns a list of `InputFeatures`; a paragraph
    without any token gives none. Time and memory are linear in the text's length.

    Raises ValueError where the windows cannot advance or a question leaves no room for them.
    """
    if doc_stride < 1:
        raise ValueError(f"--doc_stride {doc_stride} must be at least 1 token")
    # Every mask is a view of `ones`, and every row of segments one of `segments`.
    ones = np.ones(max(max_seq_length, 0), dtype=np.int32)
    segments = np.repeat(np.arange(2, dtype=np.int32), len(ones))
    ones.flags.writeable = segments.flags.writeable = False
    cls_id, sep_id = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    encode_word = functools.lru_cache(maxsize=2**16)(tokenizer.encode)  # words recur

    features, documents = [], {}
    for example_index, example in enumerate(examples):
        # The reader gives the questions of a paragraph the same list.
        key = id(example.doc_tokens)
        if key not in documents:
            documents[key] = _Document(example.doc_tokens, tokenizer, encode_word)
        document = documents[key]
        query_ids = tokenizer.encode(example.question_text)[:max_query_length]
        query_ids = np.array([cls_id, *query_ids, sep_id], dtype=np.int32)
        query_tokens = tokenizer.convert_ids_to_tokens(query_ids.tolist())
        doc_offset = len(query_ids)
        max_tokens_for_doc = max_seq_length - doc_offset - 1
        if max_tokens_for_doc < 1:
            raise ValueError(
                f"--max_seq_length {max_seq_length} has no room for the text beside the "
                f"{doc_offset - 2} tokens of question {example.qas_id!r} and 3 of BERT's; "
                "raise it, or lower --max_query_length"
            )
        answer_span = None
        if is_training and document.tokens and not example.is_impossible:
            answer_span = document.answer_span(example, tokenizer)
        windows = document.windows(max_tokens_for_doc, doc_stride)
        for doc_span_index, (span, is_max_context) in enumerate(windows):
            covered = slice(span.start, span.start + span.length)
            positions = range(doc_offset, doc_offset + span.length)
            num_tokens = doc_offset + span.length + 1
            start_position, end_position = None, None
            if is_training:
                start_position, end_position = _target(span, answer_span, doc_offset)
            features.append(InputFeatures(
                FIRST_UNIQUE_ID + len(features), example_index, doc_span_index,
                [*query_tokens, *document.tokens[covered], "[SEP]"],
                _SpanMap(positions, document.tok_to_orig_index, doc_offset - span.start),
                _SpanMap(positions, is_max_context, doc_offset),
                np.concatenate((query_ids, document.ids[covered], query_ids[-1:])),
                ones[:num_tokens], segments[len(ones) - doc_offset :][:num_tokens],
                start_position, end_position, example.is_impossible,
            ))  # fmt: skip
    return features


def _target(span, answer_span, doc_offset):
    """The answer's positions in the window's tokens; (0, 0) where the window does not hold it."""
    if answer_span is None:
        return 0, 0
    start, end = answer_span
    # As Google: a word without tokens can be the answer, and its end then lies before its start.
    if start < span.start or end > span.start + span.length - 1:
        return 0, 0
    return start - span.start + doc_offset, end - span.start + doc_offset


def write_predictions(
    all_examples, all_features, all_results, n_best_size, max_answer_length, do_lower_case,
    output_prediction_file, output_nbest_file, output_null_log_odds_file=None,
    verbose_logging=False, version_2_with_negative=False, null_score_diff_threshold=0.0,
    log=print, strip_accents=None,
):  # fmt: skip
    """Writes each question's best answer, its `n_best_size` best, and for 2.0 its null odds.

    Returns and raises, before anything is written, what `best_answers` does.
    """
    answers = best_answers(
        all_examples, all_features, all_results, n_best_size, max_answer_length, do_lower_case,
        verbose_logging, version_2_with_negative, null_score_diff_threshold, log, strip_accents,
    )  # fmt: skip
    paths = {"text": output_prediction_file, "nbest": output_nbest_file}
    if version_2_with_negative and output_null_log_odds_file:
        paths["null_odds"] = output_null_log_odds_file
    for field, path in paths.items():
        _write_json(path, {qas_id: getattr(answer, field) for qas_id, answer in answers.items()})
    return answers


def best_answers(
    all_examples, all_features, all_results, n_best_size, max_answer_length, do_lower_case,
    verbose_logging=False, version_2_with_negative=False, null_score_diff_threshold=0.0,
    log=print, strip_accents=None,
):  # fmt: skip
    """Each question's `Answer`: a dict by question id, in the order of `all_examples`.

    `all_results` has one `RawResult` for each feature, in any order; its logits (lists or arrays)
    are as long as the feature or padded: as Google, padding is ranked too. `max_answer_length` is
    in tokens; `do_lower_case` and `strip_accents` are the tokenizer's. A question without any
    window (a blank context) is answered with "", of which `log` tells the number; so is, with
    version 2.0, one that has no candidate but the null answer.

    Raises ValueError where a feature lacks its logits.
    """
    if n_best_size < 1 or max_answer_length < 1:
        given = f"--n_best_size {n_best_size} and --max_answer_length {max_answer_length}"
        raise ValueError(f"{given} must both be at least 1")
    features_of = defaultdict(list)
    for feature in all_features:
        features_of[feature.example_index].append(feature)
    results = {result.unique_id: result for result in all_results}
    options = do_lower_case, verbose_logging, strip_accents

    answers = {}
    for example_index, example in enumerate(all_examples):
        features = features_of[example_index]
        candidates, null = _rank_candidates(
            features, results, n_best_size, max_answer_length, version_2_with_negative
        )
        nbest = _choose_nbest(example, candidates, n_best_size, options)
        if version_2_with_negative and all(entry.text for entry in nbest):
            nbest.append(null)  # as Google: then there can be n_best_size + 1
        if not nbest:
            # Google answers "empty" in both cases, but a context without tokens has no answer.
            text = "empty" if features else ""
            nbest.append(_NbestPrediction(text, 0.0, 0.0))
        best, null_odds = nbest[0], None
        if version_2_with_negative:
            best, null_odds = _answer_or_null(nbest, null, null_score_diff_threshold)
        answers[example.qas_id] = Answer(best.text, best.first_word, _nbest_json(nbest), null_odds)

    blank = sum(not features_of[index] for index in range(len(all_examples)))
    if blank:
        note = 'questions have a context without tokens and are answered with ""'
        log(f"{blank} of {len(all_examples)} {note}")
    return answers


def _rank_candidates(features, results, n_best_size, max_answer_length, version_2_with_negative):
    """All spans between the best starts and ends of each window, best first.

    Returns tuples (score, start_logit, end_logit, feature, start, end), and the null answer with
    the logits of the window that scores it lowest. Version 2 has it among the candidates.
    """
    candidates = []
    null, score_null = _NbestPrediction("", 0.0, 0.0), LARGE_SCORE
    for feature in features:
        result = results.get(feature.unique_id, RawResult(feature.unique_id, (), ()))
        # float64, because Google adds Python's floats.
        start_logits = np.asarray(result.start_logits, dtype=np.float64)
        end_logits = np.asarray(result.end_logits, dtype=np.float64)
        num_logits = min(len(start_logits), len(end_logits))
        if num_logits < len(feature.tokens):
            tokens = f"{len(feature.tokens)} tokens of feature {feature.unique_id}"
            raise ValueError(f"the results have {num_logits} logits for the {tokens}")
        feature_null = _NbestPrediction("", float(start_logits[0]), float(end_logits[0]))
        if _score(feature_null) < score_null:
            null, score_null = feature_null, _score(feature_null)
        ends = [
            (end, logit)
            for end, logit in _get_best_indexes(end_logits, n_best_size)
            if end in feature.token_to_orig_map
        ]
        for start, start_logit in _get_best_indexes(start_logits, n_best_size):
            # As Google: of the end only the map is asked, not the context.
            if not feature.token_is_max_context.get(start, False):
                continue
            candidates += [
                (start_logit + end_logit, start_logit, end_logit, feature, start, end)
                for end, end_logit in ends
                if start <= end < start + max_answer_length
            ]
    if version_2_with_negative:
        candidates.append((_score(null), null.start_logit, null.end_logit, None, 0, 0))
    candidates.sort(key=itemgetter(0), reverse=True)  # stable: among equals the first wins
    return candidates, null


def _score(prediction):
    return prediction.start_logit + prediction.end_logit


def _get_best_indexes(logits, n_best_size):
    """(index, logit) of the greatest logits, greatest first; among equals the first wins."""
    order = np.argsort(-logits, kind="stable")[:n_best_size]
    return zip(order.tolist(), logits[order].tolist())


def _choose_nbest(example, candidates, n_best_size, options):
    """The best candidates of different text, at most `n_best_size`."""
    nbest, seen_predictions = [], set()
    for _, start_logit, end_logit, feature, start, end in candidates:
        if len(nbest) == n_best_size:
            break
        text, first_word = "", None
        if feature is not None:
            pred_text = " ".join(feature.tokens[start : end + 1])
            pred_text = " ".join(pred_text.replace(" ##", "").replace("##", "").split())
            first_word, last_word = feature.token_to_orig_map[start], feature.token_to_orig_map[end]
            orig_text = " ".join(example.doc_tokens[first_word : last_word + 1])
            text = get_final_text(pred_text, orig_text, *options)
            if text in seen_predictions:
                continue
        seen_predictions.add(text)
        nbest.append(_NbestPrediction(text, start_logit, end_logit, first_word))
    return nbest


def _nbest_json(nbest):
    probs = _compute_softmax([_score(entry) for entry in nbest])
    return [
        {"text": e.text, "probability": p, "start_logit": e.start_logit, "end_logit": e.end_logit}
        for e, p in zip(nbest, probs)
    ]


def _answer_or_null(nbest, null, null_score_diff_threshold):
    """The best entry for version 2, and the null odds: the null score less the best other's."""
    best_non_null = next((entry for entry in nbest if entry.text), None)
    if best_non_null is None:  # Google's code fails here
        return null, LARGE_SCORE
    score_diff = _score(null) - best_non_null.start_logit - best_non_null.end_logit
    return (null if score_diff > null_score_diff_threshold else best_non_null), score_diff


def _compute_softmax(scores):
    largest = max(scores)
    exp_scores = [math.exp(score - largest) for score in scores]
    total = 0.0
    for exp_score in exp_scores:  # not sum(), which rounds otherwise since Python 3.12
        total += exp_score
    return [exp_score / total for exp_score in exp_scores]


def _write_json(path, value):
    with atomic_write(path) as writer:
        writer.write(json.dumps(value, indent=4) + "\n")


def find_answer(context, answer):
    """The offset at which an `Answer` begins in its context, or None where it is no part of it."""
    if answer.first_word is None:
        return None
    word = next(islice(_WORD.finditer(context), answer.first_word, None))
    # Its words are joined by single spaces, the context's by white space of any kind.
    pattern = f"{_SPACE}+".join(map(re.escape, answer.text.split(" ")))
    return re.compile(pattern).search(context, word.start()).start()


def get_final_text(pred_text, orig_text, do_lower_case, verbose_logging=False, strip_accents=None):
    """The part of `orig_text` that became `pred_text` when it was tokenized.

    Tokenizing loses case, accents and where spaces were: tokens "steve smith" of the words "Steve
    Smith's" are to give "Steve Smith". Both texts are aligned by their characters that are no
    spaces. Where that fails (a combining accent was dropped, say) it is all of `orig_text`, as
    Google; `verbose_logging` prints why. `strip_accents` is the tokenizer's.
    """

    def give_up(reason):
        if verbose_logging:
            print(f"{reason}: {pred_text!r} in {orig_text!r}")
        return orig_text

    # A space ends a word for the tokenizer too, so words can be tokenized, and kept, one by one.
    words = (_basic_tokenize(word, do_lower_case, strip_accents) for word in orig_text.split(" "))
    tok_text = " ".join(filter(None, words))
    start_position = tok_text.find(pred_text)
    if start_position == -1:
        return give_up("Unable to find text")
    num_before = start_position - tok_text.count(" ", 0, start_position)
    num_chars = len(pred_text) - pred_text.count(" ")
    no_space = [index for index, char in enumerate(orig_text) if char != " "]
    if len(no_space) != len(tok_text) - tok_text.count(" "):
        return give_up("Length not equal after stripping spaces")
    if not pred_text or pred_text != pred_text.strip(" "):
        return give_up("Couldn't map start or end position")
    return orig_text[no_space[num_before] : no_space[num_before + num_chars - 1] + 1]


@functools.lru_cache(maxsize=2**16)
def _basic_tokenize(word, *casing):
    return " ".join(tokenization.BasicTokenizer(*casing).tokenize(word))
