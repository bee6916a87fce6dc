"""squad_metrics.py against the results of the official scripts, and as a command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import squad_metrics
from squad_metrics import evaluate, exact_match_score, f1_score, normalize_answer

SCRIPT = Path(squad_metrics.__file__)


def squad(*questions):
    """A dataset of one paragraph; each question is a dict, with an id if it has none: q0, q1, …."""
    qas = [{"id": f"q{index}", "question": "?", **qa} for index, qa in enumerate(questions)]
    found = [answer.get("text") for qa in qas for answer in qa.get("answers") or []]
    context = " ".join(text for text in found if isinstance(text, str))
    return {"data": [{"paragraphs": [{"context": context, "qas": qas}]}]}


def answers(*texts):
    return {"answers": [{"text": text, "answer_start": 0} for text in texts]}


def answers_2(*texts):
    return {**answers(*texts), "is_impossible": not texts}


@pytest.mark.parametrize("name", ["dev-v1.1.json", "multi-v1.1.json", "dev-v2.0.json"])
def test_official_scores(name, goldens, golden_tools, squad_dir, capsys):
    golden = golden_tools.load_json_gz(goldens / "squad_metrics.json.gz")[name]
    dataset = json.loads((squad_dir / name).read_text(encoding="utf-8"))
    predictions = golden["predictions"]
    result = evaluate(dataset, predictions)
    assert capsys.readouterr().err == ""
    if "official" in golden:
        assert result == pytest.approx(golden["official"], rel=1e-13)
        assert list(result) == list(golden["official"])
        return
    expected = {key: golden[key] for key in ("exact_match", "f1", "total")}
    # Not bit for bit: since Python 3.12, sum() rounds better than the official scripts' loops.
    assert result == pytest.approx(expected, rel=1e-13)
    fewer = dict(list(predictions.items())[7:])
    assert evaluate(dataset, fewer) == pytest.approx(golden["without_first_seven"], rel=1e-13)
    assert capsys.readouterr().err.startswith(f"7 of {result['total']} questions")


@pytest.mark.parametrize(
    "text, normalized",
    [
        ("The  Broncos!", "broncos"),
        ("a\tcat, an owl\nand the-end", "cat owl and theend"),
        ("theatre Anna", "theatre anna"),
        ("\u00a0A\u2003\u00c9t\u00e9\u2014", "\u00e9t\u00e9\u2014"),
        ("!?", ""),
    ],
)
def test_normalize_answer(text, normalized):
    assert normalize_answer(text) == normalized


def test_scores_of_one_answer():
    assert exact_match_score("The cat.", "cat") == 1
    assert exact_match_score("cats", "cat") == 0
    assert f1_score("a big big cat", "big cat cat") == pytest.approx(2 / 3)
    assert f1_score("dog", "cat") == 0
    assert f1_score("the", "an") == 0


def test_best_of_several_answers_counts():
    dataset = squad(answers("one two", "three"), answers("x", "y z"))
    result = evaluate(dataset, {"q0": "three", "q1": "z"})
    assert result == {"exact_match": 50.0, "f1": pytest.approx(100 * (1 + 2 / 3) / 2), "total": 2}


def test_version_2_empty_answers():
    dataset = squad(answers_2(), answers_2(), answers_2("cat"), answers_2("cat"), answers_2("the"))
    predictions = {"q0": "", "q1": "dog", "q2": "", "q3": "cat", "q4": "!"}
    result = evaluate(dataset, predictions)
    assert result == {
        "exact": 60.0,
        "f1": 60.0,  # q4: both have no words, which 2.0 counts as equal
        "total": 5,
        "HasAns_exact": pytest.approx(200 / 3),
        "HasAns_f1": pytest.approx(200 / 3),
        "HasAns_total": 3,
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
    }


def test_version_2_without_unanswerable_questions():
    result = evaluate(squad({**answers("cat"), "is_impossible": False}), {"q0": "cat"})
    assert "HasAns_exact" in result and "NoAns_exact" not in result


def test_an_impossible_question_needs_no_list_of_answers():
    dataset = squad({"is_impossible": True}, {"is_impossible": True, "answers": None}, answers("b"))
    result = evaluate(dataset, {"q0": "", "q1": "x", "q2": "b"})
    assert (result["NoAns_exact"], result["HasAns_exact"], result["total"]) == (50, 100, 3)


def test_version_2_unanswered_scores_0(capsys):
    result = evaluate(squad(answers_2(), answers_2("cat")), {})
    assert result["exact"] == result["f1"] == 0
    assert result["total"] == 2
    assert capsys.readouterr().err.startswith("2 of 2 questions")


def test_null_odds_best_threshold(goldens, golden_tools, squad_dir):
    """Compared with a search that evaluates the dataset at every threshold."""
    golden = golden_tools.load_json_gz(goldens / "squad_metrics.json.gz")["dev-v2.0.json"]
    dataset = json.loads((squad_dir / "dev-v2.0.json").read_text(encoding="utf-8"))
    dataset["data"] = dataset["data"][:1]
    ids = [q["id"] for a in dataset["data"] for p in a["paragraphs"] for q in p["qas"]]
    predictions = {qas_id: golden["predictions"][qas_id] for qas_id in ids}
    # Distinct odds, lower on average for questions with a prediction.
    odds = {qas_id: (i * 37 % 101 + i / 1000) / 100 for i, qas_id in enumerate(ids)}
    for qas_id in ids:
        if predictions[qas_id]:
            odds[qas_id] -= 0.5

    result = evaluate(dataset, predictions, odds)
    for name in "exact", "f1":
        score_at = {}
        for threshold in [-1.0, *odds.values()]:
            cut = {i: text if odds[i] <= threshold else "" for i, text in predictions.items()}
            score_at[threshold] = evaluate(dataset, cut)[name]
        assert result[f"best_{name}"] == pytest.approx(max(score_at.values()))
        threshold = result[f"best_{name}_thresh"]
        assert score_at[threshold] == pytest.approx(max(score_at.values()))
        assert max(score_at.values()) > min(score_at.values())


def test_null_odds_above_1_count_as_no_answer():
    dataset = squad(answers_2(), answers_2("cat"), answers_2("dog"))
    predictions = {"q0": "x", "q1": "cat", "q2": "dog"}
    result = evaluate(dataset, predictions, {"q0": 1.5, "q1": 1.25, "q2": 1})
    assert result["exact"] == pytest.approx(200 / 3)
    assert result["NoAns_exact"] == 100.0 and result["HasAns_exact"] == 50.0
    assert result["best_exact"] == 100.0 and result["best_exact_thresh"] == 1.25
    assert list(result)[-4:] == ["best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"]


def test_null_odds_if_answering_nothing_is_best():
    result = evaluate(squad(answers_2(), answers_2()), {"q0": "x", "q1": ""}, {"q0": 0, "q1": -1})
    assert result["best_f1"] == 100.0 and result["best_f1_thresh"] == 0.0


NOT_SQUAD = "the dataset is not a SQuAD file"


@pytest.mark.parametrize(
    "dataset, predictions, odds, message",
    [
        ([], {}, None, NOT_SQUAD),
        ({"version": "1.1"}, {}, None, "'data'"),
        ({"data": 5}, {}, None, NOT_SQUAD),
        ({"data": [{"paragraphs": ["x"]}]}, {}, None, NOT_SQUAD),
        ({"data": []}, {}, None, "no questions"),
        (squad({}), {}, None, "'answers'"),
        (squad({"answers": [{"text": 3}]}), {}, None, NOT_SQUAD),
        (squad(answers()), {"q0": ""}, None, "'q0' of the dataset has no answer"),
        (squad(answers("x")), ["x"], None, "predictions must"),
        (squad(answers("x")), {"q0": None}, None, "predictions must"),
        (squad(answers("x")), {"q0": "x"}, {"q0": 0.5}, "null odds are for SQuAD 2.0"),
        (squad(answers_2("x")), {"q0": "x"}, {"q1": 0.5}, "null odds lack question 'q0'"),
        (squad(answers_2("x")), {"q0": "x"}, {"q0": "y"}, "null odds must"),
    ],
)
def test_mistakes(dataset, predictions, odds, message):
    with pytest.raises(ValueError, match=message) as error:
        evaluate(dataset, predictions, odds)
    assert "\n" not in str(error.value)


def run(*args):
    command = [sys.executable, str(SCRIPT), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True)


def test_command(tmp_path):
    dataset, predictions, odds = (tmp_path / name for name in ("d.json", "p.json", "o.json"))
    # With a byte-order mark and Windows line ends, as some editors write.
    text = json.dumps(squad(answers_2("caf\u00e9"), answers_2()), ensure_ascii=False, indent=1)
    dataset.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    predictions.write_text('\ufeff{"q0": "caf\u00e9"}', encoding="utf-8")
    odds.write_text('{"q0": -3.5}', encoding="utf-8")
    done = run(dataset, predictions, "--na-prob-file", odds)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["HasAns_exact"] == 100.0 and result["exact"] == 50.0
    assert result["best_exact_thresh"] == -3.5
    assert done.stderr.startswith("1 of 2 questions")

    # A reader that has left, as head does, is not an error.
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(SCRIPT), str(dataset), str(predictions)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{}", b"[" * 100000, b"[]"])
def test_command_mistakes(tmp_path, content):
    dataset = tmp_path / "d.json"
    dataset.write_text(json.dumps(squad(answers("x"))))
    predictions = tmp_path / "p.json"
    predictions.write_bytes(content)
    absent = tmp_path / "absent.json"

    for arguments, named in (
        ((predictions, dataset), (predictions, dataset)),
        ((dataset, predictions), (dataset, predictions)),
        ((dataset, absent), (absent,)),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("squad_metrics.py: error: ")
        assert done.stderr.count("\n") == 1
        assert all(str(path) in done.stderr for path in named)


def test_whole_numbers_as_ids():
    dataset = squad({**answers("a cat"), "id": 262}, {**answers("b"), "id": "q"})
    assert evaluate(dataset, {"262": "a cat", "q": "b"})["exact_match"] == 100.0


# (prediction, answer, exact match, F1), the last by CMRC 2018's rules: the longest common run.
CHARACTERS = [
    (
        "\u6771\u4eac\u90fd\u6e2f",
        "\u6771\u4eac\u90fd\u6e2f\u533a",
        0,
        2 * (4 / 4) * (4 / 5) / (9 / 5),
    ),
    ("\u6771\u4eac\u3002", "\u300a\u6771\u4eac\u300b", 1, 1.0),
    ("\u6771\u5317", "\u5317\u6771", 0, 0.5),  # a run, not a bag
    ("NBA \u6bd4\u8d5b", "nba\u6bd4\u8d5b", 0, 1.0),  # words stay whole; spaces do not count
    ("\u3068\u3046\u304d\u3087", "\u3068\u3046\u304d\u3087\u3046", 0, 8 / 9),  # kana
    ("\u0e01\u0e02", "\u0e01\u0e02\u0e03\u0e04", 0, 2 / 3),  # Thai
    ("", "\u6771", 0, 0),
]


@pytest.mark.parametrize(("prediction", "answer", "exact", "f1"), CHARACTERS)
def test_by_characters(prediction, answer, exact, f1):
    dataset = squad(answers(answer))
    figures = evaluate(dataset, {"q0": prediction}, characters=True)
    assert figures["exact_match"] == 100 * exact
    assert figures["f1"] == pytest.approx(100 * f1)


def test_characters_and_unanswered_questions_as_a_command(tmp_path):
    dataset, predictions = tmp_path / "d.json", tmp_path / "p.json"
    fake = {"answers": [{"text": "FAKE_ANSWER", "answer_start": -1}]}
    data = squad(answers("\u6771\u4eac\u90fd"), fake)
    data["data"][0]["paragraphs"][0]["context"] = "\u6771\u4eac\u90fd"
    dataset.write_text(json.dumps(data))
    predictions.write_text(json.dumps({"q0": "\u6771\u4eac", "q1": "x"}))
    done = run(dataset, predictions, "--characters")
    assert json.loads(done.stdout) == pytest.approx({"exact_match": 0, "f1": 80, "total": 1})
    assert "1 of 2 questions have no answer that is in their context and are left" in done.stderr
    assert json.loads(run(dataset, predictions).stdout)["f1"] == 0  # by words, as SQuAD's own
    data["data"][0]["paragraphs"][0]["qas"][1]["answers"] = []
    dataset.write_text(json.dumps(data))
    done = run(dataset, predictions)
    assert json.loads(done.stdout)["total"] == 1 and "1 of 2 questions have no" in done.stderr

    del data["data"][0]["paragraphs"][0]["qas"][0]
    dataset.write_text(json.dumps(data))
    done = run(dataset, predictions)
    assert done.returncode == 2 and done.stdout == ""
    assert "no question has an answer that is in its context: nothing to score" in done.stderr
