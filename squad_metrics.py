"""The official metrics of SQuAD 1.1 and 2.0: exact match and F1, in percent.

    python squad_metrics.py DATASET PREDICTIONS [--na-prob-file NULL_ODDS]

DATASET is a SQuAD file, PREDICTIONS one JSON object of question id to answer, NULL_ODDS the same of
question id to score. Prints one JSON object. The rules are those of SQuAD's evaluate-v1.1.py and
evaluate-v2.0.py; a dataset whose questions carry `is_impossible` is scored by the second.
"""

import argparse
import json
import re
import string
import sys
from collections import Counter
from itertools import accumulate

NA_PROB_THRESH = 1.0  # the 2.0 script's default: null odds above it count as the answer ""


def normalize_answer(text):
    """Lower-cases, then drops punctuation, then articles, then superfluous white space."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match_score(prediction, ground_truth):
    """1 where both are the same text once normalized, else 0."""
    return int(normalize_answer(prediction) == normalize_answer(ground_truth))


def f1_score(prediction, ground_truth):
    """Harmonic mean of precision and recall over the two bags of normalized words (as 1.1)."""
    predicted, wanted = normalize_answer(prediction).split(), normalize_answer(ground_truth).split()
    num_same = sum((Counter(predicted) & Counter(wanted)).values())
    if num_same == 0:
        return 0
    precision, recall = num_same / len(predicted), num_same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def evaluate(dataset, predictions, null_odds=None):
    """Scores `predictions` (question id to text) on a parsed SQuAD file.

    Returns `exact_match`, `f1`, `total` for 1.1; for 2.0 `exact`, `f1`, `total`, the same for the
    answerable and the other questions as `HasAns_…` and `NoAns_…`, and with `null_odds` (question
    id to score) `best_exact`, `best_f1` and their `…_thresh`. A question without prediction scores
    0; how many there are is printed to stderr. Raises ValueError with what is wrong in its inputs.
    """
    questions = _questions(dataset)
    _check_values("predictions must give each question id a text", predictions, str)
    unanswered = sum(qas_id not in predictions for qas_id in questions)
    if unanswered:
        print(f"{unanswered} of {len(questions)} questions are unanswered: 0", file=sys.stderr)

    version_2 = any("is_impossible" in qa for qa in questions.values())
    exact, f1 = dict.fromkeys(questions, 0), dict.fromkeys(questions, 0)
    for qas_id, qa in questions.items():
        truths = [answer["text"] for answer in qa["answers"]]
        if version_2:
            truths = [text for text in truths if normalize_answer(text)] or [""]
        elif not truths:
            raise ValueError(f"question {qas_id!r} of the dataset has no answer to compare with")
        if qas_id in predictions:
            exact[qas_id] = max(exact_match_score(predictions[qas_id], t) for t in truths)
            f1[qas_id] = max(f1_score(predictions[qas_id], t) for t in truths)
            if version_2:  # its F1 of two texts without words is 1: both say "no answer"
                f1[qas_id] = max(f1[qas_id], exact[qas_id])
    if version_2:
        return _summarize_2(questions, exact, f1, predictions, null_odds)
    if null_odds:
        raise ValueError("null odds belong to SQuAD 2.0, and the dataset is SQuAD 1.1")
    return _means({"exact_match": exact, "f1": f1}, questions)


def _summarize_2(questions, exact, f1, predictions, null_odds):
    # As the 2.0 script: the list of answers says whether a question has any, not `is_impossible`.
    has_answer = {qas_id: bool(qa["answers"]) for qas_id, qa in questions.items()}
    scores, best = {"exact": exact, "f1": f1}, {}
    if null_odds:
        _check_values("null odds must give each question id a number", null_odds, (int, float))
        answered = questions.keys() & predictions
        if not answered <= null_odds.keys():
            raise ValueError(f"the null odds lack question {min(answered - null_odds.keys())!r}")
        # Stable, in the file's order: among equal odds the 2.0 script's threshold depends on it.
        ids = sorted((qas_id for qas_id in null_odds if qas_id in answered), key=null_odds.get)
        for name, values in scores.items():
            # Nothing is answered at first, then one question more: it brings its score, or where
            # there is no answer it costs the point of having said so.
            gains = [values[i] if has_answer[i] else -bool(predictions[i]) for i in ids]
            totals = list(accumulate(gains, initial=sum(not has_answer[i] for i in ids)))
            answers = totals.index(max(totals))
            best[f"best_{name}"] = 100.0 * totals[answers] / len(questions)
            best[f"best_{name}_thresh"] = null_odds[ids[answers - 1]] if answers else 0.0
        for qas_id in ids:
            if null_odds[qas_id] > NA_PROB_THRESH:
                exact[qas_id] = f1[qas_id] = int(not has_answer[qas_id])
    result = _means(scores, questions)
    for prefix, kind in ("HasAns_", True), ("NoAns_", False):
        ids = [qas_id for qas_id in questions if has_answer[qas_id] is kind]
        result |= _means(scores, ids, prefix) if ids else {}
    return result | best


def _means(scores, ids, prefix=""):
    means = {prefix + n: 100.0 * sum(s[i] for i in ids) / len(ids) for n, s in scores.items()}
    return {**means, prefix + "total": len(ids)}


def _questions(dataset):
    """Question id to question, in the file's order."""
    try:
        paragraphs = [p for article in dataset["data"] for p in article["paragraphs"]]
        questions = {qa["id"]: qa for paragraph in paragraphs for qa in paragraph["qas"]}
        "".join(answer["text"] for qa in questions.values() for answer in qa["answers"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"the dataset is not SQuAD with answers ({error!r})") from None
    if not questions:
        raise ValueError("the dataset has no questions")
    return questions


def _check_values(what, values, kinds):
    if not isinstance(values, dict) or not all(isinstance(v, kinds) for v in values.values()):
        raise ValueError(f"the {what}, as one JSON object")


def _load_json(path):
    try:
        with open(path, encoding="utf-8-sig") as reader:
            return json.load(reader)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON in UTF-8: {error}") from None


def main(argv=None):
    parser = argparse.ArgumentParser(description="SQuAD's exact match and F1, 1.1 and 2.0.")
    parser.error = lambda message: parser.exit(2, f"squad_metrics.py: error: {message}\n")
    parser.add_argument("dataset", help="SQuAD file with answers")
    parser.add_argument("predictions", help="JSON object: question id to answer")
    parser.add_argument("--na-prob-file", "--na_prob_file", help="JSON object: id to null odds")
    paths = list(filter(None, vars(parser.parse_args(argv)).values()))
    try:
        print(json.dumps(evaluate(*map(_load_json, paths)), indent=2))
    except (OSError, ValueError) as error:
        parser.exit(2, f"squad_metrics.py: error: {error} ({', '.join(paths)})\n")


if __name__ == "__main__":
    main()
