"""The official metrics of SQuAD 1.1 and 2.0: exact match and F1, in percent.

    python squad_metrics.py DATASET PREDICTIONS [--na-prob-file NULL_ODDS] [--characters]

DATASET is a SQuAD file. PREDICTIONS is a JSON object that maps question ids to answers, NULL_ODDS
one that maps question ids to scores. Prints the figures as a JSON object. The rules are those of
SQuAD's evaluate-v1.1.py and evaluate-v2.0.py; a dataset whose questions have the field
`is_impossible` is scored by those of 2.0. These compare words, so in a text without spaces an
answer is right or wrong as a whole: --characters compares as the evaluator of CMRC 2018 does.
"""

import argparse
import json
import os
import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable

# The default of evaluate-v2.0.py: a question whose null odds exceed it counts as answered "".
NA_PROB_THRESH = 1.0

# The characters of scripts that put no spaces between words: ideographs, kana, Thai, Lao, Tibetan,
# Burmese, Khmer.
UNSPACED = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f\u3040-\u30ff\u31f0-\u31ff"
    "\uff66-\uff9f\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
)


def normalize_answer(text: str) -> str:
    """Lower-cases; then removes punctuation, then articles, then superfluous white space."""
    text = "".join(char for char in text.lower() if char not in string.punctuation)
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


def exact_match_score(prediction: str, ground_truth: str) -> int:
    """1 if both are the same text once normalized, else 0."""
    return int(normalize_answer(prediction) == normalize_answer(ground_truth))


def f1_score(prediction: str, ground_truth: str) -> float:
    """Harmonic mean of precision and recall over the two bags of normalized words (as in 1.1)."""
    predicted = normalize_answer(prediction).split()
    wanted = normalize_answer(ground_truth).split()

    num_same = sum((Counter(predicted) & Counter(wanted)).values())
    if num_same == 0:
        return 0
    precision = num_same / len(predicted)
    recall = num_same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def mixed_segments(text: str) -> list[str]:
    """The parts that `character_f1` compares: single characters of texts without spaces, and words.

    As `mixed_segmentation` of CMRC 2018's evaluator, except that its single characters are the
    ideographs alone, and that it cuts the rest with NLTK.
    """
    text = remove_punctuation(text)
    return re.findall(rf"[{UNSPACED}]|[^\s{UNSPACED}]+", text)


def remove_punctuation(text: str) -> str:
    """Lower-cases; then removes all punctuation, ASCII's and Unicode's."""
    return "".join(
        char
        for char in text.lower().strip()
        if char not in string.punctuation and not unicodedata.category(char).startswith("P")
    )


def character_exact_match(prediction: str, ground_truth: str) -> int:
    """1 if both are the same text without punctuation, else 0."""
    return int(remove_punctuation(prediction) == remove_punctuation(ground_truth))


def character_f1(prediction: str, ground_truth: str) -> float:
    """F1 of the longest run of segments that both texts have, as CMRC 2018's evaluator."""
    predicted = mixed_segments(prediction)
    wanted = mixed_segments(ground_truth)

    longest = 0
    lengths = [0] * (len(wanted) + 1)  # of the common runs that end at each segment of `wanted`
    for segment in predicted:
        lengths = [0] + [
            length + 1 if segment == other else 0 for length, other in zip(lengths, wanted)
        ]
        longest = max(longest, *lengths)
    if not longest:
        return 0
    precision = longest / len(predicted)
    recall = longest / len(wanted)
    return 2 * precision * recall / (precision + recall)


def question_id(qa: dict) -> str:
    """The id of a question as text; some datasets have whole numbers."""
    return str(qa["id"])


def without_placeholders(dataset: dict) -> tuple[dict, int]:
    """The dataset without questions that have no answer to compare with, and how many these are.

    An answer that is not in the context is none, e.g. "FAKE_ANSWER" in a file for a blind test. A
    question with one answer that is in the context stays. So does one of SQuAD 2.0 without any,
    which evaluate-v2.0.py counts as unanswerable.
    """
    scorable = select_questions(dataset, lambda qa, paragraph: not _lacks_answer(qa, paragraph))
    before, after = (
        sum(len(p["qas"]) for article in part["data"] for p in article["paragraphs"])
        for part in (dataset, scorable)
    )
    return scorable, before - after


def select_questions(dataset: dict, is_kept: Callable[[dict, dict], bool]) -> dict:
    """The dataset with those of its questions alone for which is_kept(question, paragraph).

    Each of them has a list of answers, which may be empty.
    """
    articles = []
    for article in dataset["data"]:
        paragraphs = []
        for paragraph in article["paragraphs"]:
            kept = [
                {**qa, "answers": qa.get("answers") or []}
                for qa in paragraph["qas"]
                if is_kept(qa, paragraph)
            ]
            paragraphs.append({**paragraph, "qas": kept})
        articles.append({**article, "paragraphs": paragraphs})
    return {**dataset, "data": articles}


def _lacks_answer(qa, paragraph):
    """Whether a question should have an answer, and none is in the context."""
    texts = [answer["text"] for answer in qa.get("answers") or []]
    if not texts:
        return "is_impossible" not in qa
    context = paragraph.get("context", "".join(texts))
    if qa.get("is_impossible") or any(text and text in context for text in texts):
        return False
    # An annotator's spelling may differ in what the metric ignores.
    context = normalize_answer(context)
    return not any(text and text in context for text in map(normalize_answer, texts))


def evaluate(
    dataset: dict,
    predictions: dict[str, str],
    null_odds: dict[str, float] | None = None,
    characters: bool = False,
) -> dict[str, float]:
    """Scores `predictions` (question id to text) on a parsed SQuAD file.

    For SQuAD 1.1, returns `exact_match`, `f1` and `total`. For 2.0, returns `exact`, `f1` and
    `total`, the same for the answerable and the unanswerable questions as `HasAns_…` and `NoAns_…`,
    and with `null_odds` (question id to score) also `best_exact`, `best_f1` and their `…_thresh`.
    Scores are percentages. A question without a prediction scores 0; the number of these is printed
    to stderr. With `characters` texts are compared by `character_exact_match` and `character_f1`.

    Raises ValueError if the dataset, the predictions or the null odds are not what is expected.
    """
    questions = _questions(dataset)
    _check_mapping("predictions", predictions, str, "text")
    num_missing = sum(qas_id not in predictions for qas_id in questions)
    if num_missing:
        print(
            f"{num_missing} of {len(questions)} questions have no prediction and score 0",
            file=sys.stderr,
        )

    exact_score, f1_of = exact_match_score, f1_score
    if characters:
        exact_score, f1_of = character_exact_match, character_f1
    version_2 = any("is_impossible" in qa for qa in questions.values())
    exact = dict.fromkeys(questions, 0)
    f1 = dict.fromkeys(questions, 0)
    for qas_id, qa in questions.items():
        truths = [answer["text"] for answer in qa["answers"]]
        if version_2:
            # As evaluate-v2.0.py: only answers with words count, and without any the answer is "".
            truths = [text for text in truths if normalize_answer(text)] or [""]
        elif not truths:
            raise ValueError(f"question {qas_id!r} of the dataset has no answer to compare with")

        if qas_id in predictions:
            prediction = predictions[qas_id]
            exact[qas_id] = max(exact_score(prediction, truth) for truth in truths)
            f1[qas_id] = max(f1_of(prediction, truth) for truth in truths)
            if version_2:
                # As evaluate-v2.0.py: F1 is 1 if neither text has any words: both say "no answer".
                f1[qas_id] = max(f1[qas_id], exact[qas_id])

    if version_2:
        return _summarize_2(questions, exact, f1, predictions, null_odds)
    if null_odds:
        raise ValueError("null odds are for SQuAD 2.0, but the dataset is SQuAD 1.1")
    return _means({"exact_match": exact, "f1": f1}, questions)


def _summarize_2(questions, exact, f1, predictions, null_odds):
    """The result of `evaluate` for version 2.0, from the scores of each question."""
    # As evaluate-v2.0.py: a question has an answer if its list of answers is not empty, whatever
    # `is_impossible` says.
    has_answer = {qas_id: bool(qa["answers"]) for qas_id, qa in questions.items()}
    scores = {"exact": exact, "f1": f1}

    best = {}
    if null_odds:
        _check_mapping("null odds", null_odds, (int, float), "number")
        answered = questions.keys() & predictions
        if not answered <= null_odds.keys():
            raise ValueError(f"the null odds lack question {min(answered - null_odds.keys())!r}")

        # The sort is stable, from the order of the null odds file: where odds are equal, the
        # threshold that evaluate-v2.0.py finds depends on that order.
        ids = [qas_id for qas_id in null_odds if qas_id in answered]
        ids.sort(key=null_odds.get)
        for name, values in scores.items():
            total, threshold = _best_threshold(ids, values, has_answer, predictions, null_odds)
            best[f"best_{name}"] = 100.0 * total / len(questions)
            best[f"best_{name}_thresh"] = threshold

        for qas_id in ids:
            if null_odds[qas_id] > NA_PROB_THRESH:
                score = int(not has_answer[qas_id])
                exact[qas_id] = score
                f1[qas_id] = score

    result = _means(scores, questions)
    answerable = [qas_id for qas_id in questions if has_answer[qas_id]]
    unanswerable = [qas_id for qas_id in questions if not has_answer[qas_id]]
    if answerable:
        result |= _means(scores, answerable, "HasAns_")
    if unanswerable:
        result |= _means(scores, unanswerable, "NoAns_")
    return result | best


def _best_threshold(ids, scores, has_answer, predictions, null_odds):
    """The highest total score that a threshold on the null odds can reach, and that threshold.

    `ids` are sorted by null odds. Raising the threshold past a question's null odds means giving
    its prediction instead of "".
    """
    # With no prediction given, every question without an answer scores 1.
    total = sum(not has_answer[qas_id] for qas_id in ids)
    best_total = total
    threshold = 0.0
    for qas_id in ids:
        if has_answer[qas_id]:
            total += scores[qas_id]
        elif predictions[qas_id]:
            total -= 1
        if total > best_total:
            best_total = total
            threshold = null_odds[qas_id]
    return best_total, threshold


def _means(scores, ids, prefix=""):
    """The mean of each score over the questions `ids`, in percent, and their number."""
    means = {}
    for name, values in scores.items():
        means[prefix + name] = 100.0 * sum(values[qas_id] for qas_id in ids) / len(ids)
    means[prefix + "total"] = len(ids)
    return means


def _questions(dataset):
    """Question id to question, in the file's order. Raises ValueError if it is not SQuAD."""
    try:
        paragraphs = [p for article in dataset["data"] for p in article["paragraphs"]]
        questions = {question_id(qa): qa for paragraph in paragraphs for qa in paragraph["qas"]}
        for qas_id, qa in questions.items():
            if qa.get("is_impossible") and qa.get("answers") is None:
                questions[qas_id] = {**qa, "answers": []}
        # Joining fails with a TypeError if any answer is not a text.
        "".join(answer["text"] for qa in questions.values() for answer in qa["answers"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the dataset is not a SQuAD file with answers ({error!r})") from None
    if not questions:
        raise ValueError("the dataset has no questions")
    return questions


def _check_mapping(name, values, kinds, kind_name):
    """Raises ValueError unless `values` is a dict whose values are all of `kinds`."""
    if not isinstance(values, dict) or not all(isinstance(v, kinds) for v in values.values()):
        raise ValueError(f"the {name} must be a JSON object that maps each id to a {kind_name}")


def _scorable(dataset):
    """The dataset without placeholders, whose number is printed to stderr.

    Raises ValueError if nothing else is left.
    """
    num_questions = len(_questions(dataset))
    dataset, num_left_out = without_placeholders(dataset)
    if num_left_out == num_questions:
        raise ValueError("no question has an answer that is in its context: nothing to score")
    if num_left_out:
        print(
            f"{num_left_out} of {num_questions} questions have no answer that is in their context "
            f"and are left out",
            file=sys.stderr,
        )
    return dataset


def _load_json(path):
    try:
        with open(path, encoding="utf-8-sig") as reader:
            return json.load(reader)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON in UTF-8: {error}") from None


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as one line."""

    def error(self, message):
        self.exit(2, f"squad_metrics.py: error: {message}\n")


def main(argv: list[str] | None = None) -> None:
    """Executes the command line `argv`, or else the process's; a mistake gives exit status 2."""
    parser = Parser(
        usage="%(prog)s DATASET PREDICTIONS [--na-prob-file NULL_ODDS] [--characters]",
        description="Compute SQuAD's exact match and F1, for versions 1.1 and 2.0.",
        allow_abbrev=False,
    )
    parser.add_argument("dataset", metavar="DATASET", help="SQuAD file with answers")
    parser.add_argument(
        "predictions", metavar="PREDICTIONS", help="JSON object that maps question ids to answers"
    )
    parser.add_argument(
        "--na-prob-file",
        "--na_prob_file",
        metavar="NULL_ODDS",
        help="JSON object that maps question ids to the null odds of SQuAD 2.0, for the best "
        "threshold",
    )
    parser.add_argument(
        "--characters",
        action="store_true",
        help="compare by characters where a script has no spaces between words, as CMRC 2018's "
        "evaluator does",
    )
    args = parser.parse_args(argv)

    paths = [args.dataset, args.predictions]
    if args.na_prob_file:
        paths.append(args.na_prob_file)
    try:
        dataset, predictions, *null_odds = (_load_json(path) for path in paths)
        figures = evaluate(_scorable(dataset), predictions, *null_odds, characters=args.characters)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        parser.error(f"{error} ({', '.join(paths)})")
    try:
        print(json.dumps(figures, indent=2), flush=True)
    except BrokenPipeError:  # The reader, as head, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
