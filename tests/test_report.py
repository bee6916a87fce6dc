"""report.py: the page shows the results as they are, and nothing in the data is executed."""

import json
import math
import re

import numpy as np
import pytest
from helpers import Page
from hypothesis import given
from hypothesis import strategies as st

import report

NASTY = (
    """</style><script>alert(1)</script> "quotes" 'and' <img src=x onerror=alert(2)> & $name ${"""
)


def write_log(folder, steps, tail=""):
    lines = [
        {"step": step, "loss": 1 / step, "learning_rate": 2e-5 * step, "examples_per_second": 9.0}
        for step in range(1, steps + 1)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "training_log.jsonl").write_text(text + tail, "utf-8")


def write_run(folder, **facts):
    (folder / "run.json").write_text(json.dumps({"script": "run_squad.py", **facts}), "utf-8")


def read(folder, results=None, sections=()):
    path = report.write_report(folder, results or {}, sections, is_trained=True)
    assert path == str(folder / "report.html")
    assert not list(folder.glob("*.tmp"))
    return (folder / "report.html").read_text("utf-8")


def question(**values):
    return {
        "id": "q1", "question": "Who?", "context": "Jim made Kermit.", "gold": [(0, "Jim")],
        "predicted": "Kermit", "start": 9, "exact": False, "f1": 0.0, **values,
    }  # fmt: skip


# The whole page


def test_figures_that_are_not_finite(tmp_path):
    """Nor numbers, in a log that was edited: what can be shown is."""
    write_log(tmp_path, 2)
    with open(tmp_path / "training_log.jsonl", "a") as log:
        for loss in ("NaN", "Infinity", '"x"'):
            log.write(f'{{"step": 3, "loss": {loss}, "learning_rate": 1e-5}}\n')
    figures = {"eval_f1": [math.nan, 0.5]}
    summary = {
        "metric": "eval_f1", "best": 2, "one_class": [], "mean": {"eval_f1": math.nan},
        "standard_deviation": {"eval_f1": math.nan},
        "seeds": {seed: {"eval_f1": f} for seed, f in zip((1, 2), figures["eval_f1"])},
    }  # fmt: skip
    (tmp_path / "seeds_results.json").write_text(json.dumps(summary))
    section = report.classification([], [1.0, 2.0], [[math.nan], [2.5]], [("a", None)] * 2)
    text = read(tmp_path, {"eval_loss": math.inf}, [section])
    page = Page(text)
    assert "Damaged lines of the log, not shown: 3" in page.text
    assert all(len(points) == 2 for name, points in page.curves() if name in ("raw", "smooth"))
    assert ["1", "nan", ""] in page.rows and ["2", "0.5000", "the best"] in page.rows
    places = re.findall(r' (?:points|cx|cy|x|y)="([^"]*)"', text)
    assert places and not any("nan" in place or "inf" in place for place in places)


def test_predictions_made_later_leave_the_runs_page(tmp_path):
    """In a new folder they are the report; beside a run's they have a page of their own."""
    section = report.predictions(["a", "b"], [[0.0, 1.0]], [("x", None)], "Predictions for t", "t")
    assert report.write_report(tmp_path, {}, [section]) == str(tmp_path / "report.html")
    write_run(tmp_path, flags={})
    page = read(tmp_path, {"eval_accuracy": 0.5})
    later = report.write_report(tmp_path, {}, [section])
    assert later == str(tmp_path / "predictions.html")
    assert "Predictions for t" in (tmp_path / "predictions.html").read_text("utf-8")
    assert (tmp_path / "report.html").read_text("utf-8") == page
    report.write_report(tmp_path, {"eval_accuracy": 0.25})  # evaluation replaces evaluation
    assert "0.25" in (tmp_path / "report.html").read_text("utf-8")


def test_nothing_in_the_data_is_executed(tmp_path):
    folder = tmp_path / "<b>out"
    folder.mkdir()
    write_run(folder, flags={"task_name": NASTY, NASTY: NASTY}, labels=[NASTY])
    write_log(folder, 3)
    sections = [
        report.classification([NASTY, "b"], [0, 1], [[0.0, 1.0]] * 2, [(NASTY, NASTY)] * 2, NASTY),
        report.answers([question(id=NASTY, question=NASTY, context=NASTY, gold=[(3, NASTY[3:9])],
                                 predicted=NASTY[20:40], start=20)]),
    ]  # fmt: skip
    page = Page(read(folder, {NASTY: 1.0}, sections))
    assert {"script", "img", "b"} & {tag for tag, _ in page.elements} == {"b"}
    assert all(own.keys() <= {"class"} for own in page.all("b"))
    assert not [name for _, own in page.elements for name in own if name.startswith("on")]
    # title, task, result, flag (twice), label in versions and matrix, section, two texts, …
    assert page.text.count(NASTY) >= 10
    assert page.marks[-2:] == [["gold", NASTY[3:9]], ["predicted", NASTY[20:40]]]
    assert "<b>out" in page.text


def test_the_page_needs_no_network(tmp_path):
    write_run(tmp_path, flags={})
    write_log(tmp_path, 3)
    text = read(tmp_path, {"f1": 1.0}, [report.answers([question()])])
    page = Page(text)
    assert not [own for _, own in page.elements if own.keys() & {"src", "href", "srcset", "action"}]
    assert not re.search(r"@import|url\(|https?:", text)
    assert page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"] == (
        "default-src 'none'; style-src 'unsafe-inline'"
    )


def test_the_page_is_for_everyone(tmp_path):
    """What accessibility checkers and phones require."""
    write_run(tmp_path, flags={"seed": 1})
    write_log(tmp_path, 30)
    sections = [
        report.classification(["a", "b"], [0, 1, 1], np.eye(2)[[0, 1, 0]], [("x", "y")] * 3),
        report.answers([question()]),
    ]
    text = read(tmp_path, {"f1": 1.0}, sections)
    page = Page(text)
    assert page.all("html", lang="en") and len(page.all("main")) == len(page.all("h1")) == 1
    assert page.all("meta", name="viewport")[0]["content"].startswith("width=device-width")
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:]))
    assert all(own.get("scope") in ("row", "col") for own in page.all("th"))
    assert len(page.all("th", scope="col")) == 4 + 5 and len(page.all("caption")) == 2
    assert len(page.all("svg", role="img")) == 2
    assert text.count("<svg") == text.count("<title>") - 1 == text.count("<desc>")
    assert text.count("<label><input ") == len(page.all("input", type="radio", name="show")) == 4
    assert page.all("legend") and page.all("div", role="region", tabindex="0")
    for rule in ("@media (max-width: 30rem)", "@media (prefers-color-scheme: dark)", ":focus-vis"):
        assert rule in text


def test_results_are_the_figures(tmp_path):
    results = {"global_step": 343, "eval_loss": np.float32(0.4582114), "f1": 86.76716917922948,
               "total": np.int64(10570)}  # fmt: skip
    rows = dict(row for row in Page(read(tmp_path, results)).rows if row[0] in results)
    assert rows.keys() == results.keys()
    assert rows["global_step"] == "343" and rows["total"] == "10570"
    for name, value in results.items():
        assert float(rows[name]) == pytest.approx(float(value), rel=1e-6)


def test_flags_and_versions(tmp_path):
    flags = {"task_name": "mrpc", "seed": 3, "init_checkpoint": None, "bf16": True, "a": [1, "é"]}
    write_run(tmp_path, flags=flags, torch="2.13.0", global_step=7)
    page = Page(read(tmp_path))
    rows = dict(page.rows)
    assert rows.items() >= {
        "task_name": "mrpc", "seed": "3", "init_checkpoint": "null", "bf16": "true",
        "a": '[1, "é"]', "torch": "2.13.0", "global_step": "7", "script": "run_squad.py",
    }.items()  # fmt: skip
    assert tmp_path.name in page.text and "run_squad.py · mrpc" in page.text


def test_a_folder_with_nothing_in_it(tmp_path):
    page = Page(read(tmp_path))
    assert not page.all("svg") and [row[0] for row in page.rows] == ["python"]


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path):
    page = Page(read(tmp_path, {}, [report.answers([question(question="a\ud800b")])]))
    assert "a?b" in page.text


def test_the_same_run_gives_the_same_bytes(tmp_path):
    write_log(tmp_path, 3)
    assert read(tmp_path) == read(tmp_path)


# Curves


@pytest.mark.parametrize("steps", (1, 2, 43, 500))
def test_curves_have_a_point_for_each_step(tmp_path, steps):
    write_log(tmp_path, steps)
    curves = Page(read(tmp_path)).curves()
    assert [name for name, _ in curves] == ["raw", "smooth", "rate"]
    for _, points in curves:
        assert len(points) == steps
        assert all(54 <= x <= 388 and 15 <= y <= 205 for x, y in points)
        assert points == sorted(points)
    # 1 / step falls from the first, highest value; the rate rises to the last one.
    raw, smooth, rate = (points for _, points in curves)
    assert raw[0] == smooth[0]
    if steps > 1:
        assert raw[0][1] < smooth[-1][1] <= raw[-1][1] and rate[-1][1] < rate[0][1]
        assert (raw[0][0], raw[-1][0]) == (54, 388)


def test_curves_of_long_runs_are_thinned_and_keep_the_peaks(tmp_path):
    write_log(tmp_path, 7 * report.MAX_POINTS + 3)
    lines = (tmp_path / "training_log.jsonl").read_text("utf-8").splitlines()
    for number in (1234, 2000, 3001):
        lines[number] = json.dumps(json.loads(lines[number]) | {"loss": 5.0})
    (tmp_path / "training_log.jsonl").write_text("\n".join(lines), "utf-8")
    text = read(tmp_path)
    curves = Page(text).curves()
    for _, points in curves:
        assert 0.9 * report.MAX_POINTS < len(points) <= report.MAX_POINTS
        assert [x for x, _ in points] == sorted(x for x, _ in points)
    heights = [y for _, y in curves[0][1]]
    assert heights.count(min(heights)) == 3
    assert len(text) < 40000


def test_a_killed_runs_log(tmp_path):
    write_log(tmp_path, 20, tail='{"step": 21, "loss": 0.0')
    page = Page(read(tmp_path))
    assert "Damaged lines of the log, not shown: 1" in page.text
    assert [len(points) for _, points in page.curves()] == [20, 20, 20]
    (tmp_path / "training_log.jsonl").write_bytes(b'\xff\x00\n{}\n[]\n7\n{"step": 1')
    page = Page(read(tmp_path))
    assert not page.curves() and not page.all("svg")
    (tmp_path / "training_log.jsonl").write_text("", "utf-8")
    assert not Page(read(tmp_path)).all("svg")


def test_evaluations_have_curves(tmp_path):
    """Beside those of the steps, with a mark at the weights that were kept."""
    write_log(tmp_path, 6)
    write_run(tmp_path, global_step=4, flags={"train_batch_size": 18})
    with open(tmp_path / "training_log.jsonl", "a", encoding="utf-8") as log:
        for step, value in ((2, 0.5), (4, 0.75), (6, None)):
            log.write(json.dumps({"step": step, "<f1>": value, "total": 7}) + "\n")
    page = Page(read(tmp_path))
    assert [name for name, _ in page.curves()] == ["raw", "smooth", "rate", "evaluated"]
    ((x, y), (x2, y2)) = page.curves()[-1][1]
    assert x < x2 and y > y2
    assert [own["class"] for own in page.all("circle")] == ["dots", "dots", "kept"]
    kept = page.all("circle", **{"class": "kept"})[0]
    assert (float(kept["cx"]), float(kept["cy"])) == (x2, y2)
    assert "<f1> the weights of this run" in page.text and "Damaged" not in page.text
    rows = dict(row for row in page.rows if len(row) == 2)
    # Two seconds a step, at 9 examples a second.
    assert rows["training"] == "6 steps in 0:00:12 (h:mm:ss), 9 examples per second"
    assert rows["weights"] == "those after step 4, which had the best evaluation"


def test_facts_of_the_run(tmp_path):
    report.write_report(tmp_path, {}, facts={"date": "28 November 2026", "device": "CPU <1>"})
    rows = Page((tmp_path / "report.html").read_text("utf-8")).rows
    assert rows[:2] == [["date", "28 November 2026"], ["device", "CPU <1>"]]


def test_seeds(tmp_path):
    figures = {3: 0.5, 42: 0.75, 1: 0.25}
    summary = {
        "metric": "eval_<f1>", "best": 42, "one_class": [1], "mean": {"eval_<f1>": 0.5},
        "standard_deviation": {"eval_<f1>": 0.25},
        "seeds": {seed: {"eval_<f1>": value} for seed, value in figures.items()},
    }  # fmt: skip
    logs = {}
    for seed in figures:
        folder = tmp_path / str(seed)
        folder.mkdir()
        write_log(folder, 5, tail='{"step": 5, "eval_<f1>": 0.5}\n')
        logs[seed] = folder / "training_log.jsonl"
    page = Page(read(tmp_path, {}, [report.seeds(summary, logs)]))
    assert page.rows[:6] == [
        ["seed", "eval_<f1>", "note"], ["3", "0.5000", ""], ["42", "0.7500", "the best"],
        ["1", "0.2500", "one class"], ["mean", "0.5000", ""], ["standard deviation", "0.2500", ""],
    ]  # fmt: skip
    assert (
        "With seed 1 every example is given the same" in page.text
        and "those of seed 42" in page.text
    )
    assert [own["class"] for own in page.all("circle")] == ["kept", "seed", "seed", "seed"]
    assert [name for name, _ in page.curves()] == ["raw"] + ["raw", "raw", "best"] * 2
    summary["one_class"] = []
    page = Page(read(tmp_path, {}, [report.seeds(summary, dict.fromkeys(figures, "nowhere"))]))
    assert "No seed gives every example the same label" in page.text
    assert [name for name, _ in page.curves()] == ["raw"]


@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1e6))
def test_ticks_cover_the_range(low, size):
    high = low + size + abs(low) * 1e-9  # Between closer floats there is no room for ticks.
    ticks = report._ticks(low, high)
    step = (high - low) / 5
    assert 1 <= len(ticks) <= 7
    assert ticks[0] <= low + 0.01 * step and ticks[-1] >= high - 0.01 * step


@pytest.mark.parametrize(
    "low, high, labels",
    ((0, 0.74, "0 0.2 0.4 0.6 0.8"), (0, 2e-5, "0 5e-6 1e-5 1.5e-5 2e-5"), (0, 0, "0"),
     (1, 29999, "0 10,000 20,000 30,000"), (0, 0.3, "0 0.1 0.2 0.3"),
     (-3, -1, "-3 -2.5 -2 -1.5 -1")),
)  # fmt: skip
def test_ticks_are_round(low, high, labels):
    assert " ".join(map(report._number, report._ticks(low, high))) == labels


# Classifier


def test_confusion_matrix_and_mistakes(tmp_path):
    labels, truth = ["no", "maybe", "yes"], [0, 0, 1, 2, 2, 2]
    logits = np.log([[6, 2, 2], [2, 6, 2], [1, 8, 1], [1, 1, 8], [0.5, 9, 0.5], [7, 2, 1]])
    texts = [(f"first {n}", f"second {n}" if n % 2 else None) for n in range(6)]
    places = [f"dev.tsv:{n + 1}" for n in range(6)]
    logits = logits.astype(np.float32)
    section = report.classification(labels, np.array(truth), logits, texts, "Dev", places)
    page = Page(read(tmp_path, {}, [section]))
    assert page.rows[:4] == [
        ["true \\ predicted", "no", "maybe", "yes", "all"],
        ["no", "150.0%", "150.0%", "00.0%", "2"],
        ["maybe", "00.0%", "1100.0%", "00.0%", "1"],
        ["yes", "133.3%", "133.3%", "133.3%", "3"],
    ]
    assert len(page.all("td", **{"class": "hit"})) == 3
    assert page.rows[4:] == [
        ["class", "precision", "recall", "F1", "examples"],
        ["no", "50.0%", "50.0%", "50.0%", "2"],
        ["maybe", "33.3%", "100.0%", "50.0%", "1"],
        ["yes", "100.0%", "33.3%", "50.0%", "3"],
        ["python", report.platform.python_version()],
    ]
    shown = page.text[page.text.index("3 of 6 examples are wrong") :]
    places = [shown.index(words) for words in (
        "the most confident first", "predicted “maybe” (90.0%) instead of “yes”", "first 4",
        "predicted “no” (70.0%) instead of “yes” dev.tsv:6", "first 5", "second 5",
        "predicted “maybe” (60.0%) instead of “no”", "first 1", "second 1",
    )]  # fmt: skip
    assert places == sorted(places) and "first 0" not in shown


def test_all_mistakes_are_there_and_most_are_folded_away(tmp_path):
    number = report.MAX_EXAMPLES + 9
    labels = [f"label {n}" for n in range(report.MAX_MATRIX_LABELS + 1)]
    logits = np.eye(len(labels))[[1] * number] * np.arange(number)[:, None] / 10
    texts = [(f"text {n};", "") for n in range(number)]
    section = report.classification(labels, [0] * number, logits, texts)
    text = read(tmp_path, {}, [section])
    page = Page(text)
    # All logits of the first example are 0, so its prediction is the first label, which is right.
    assert f"{number - 1} of {number} examples are wrong" in page.text
    assert "the other 8" in page.text
    shown = [int(n) for n in re.findall(r"text (\d+);", page.text)]
    assert shown == list(range(number - 1, 0, -1))
    folded = text[text.index("<details>") : text.index("</details>")]
    assert [int(n) for n in re.findall(r"text (\d+);", folded)] == list(range(8, 0, -1))
    # Too many labels for a matrix; each has its figures, "–" where one is not defined.
    assert not page.all("table", **{"class": "matrix"})
    rows = {row[0]: row[1:] for row in page.rows}
    assert rows["label 0"] == [
        "100.0%",
        f"{1 / number:.1%}",
        f"{2 / (number + 1):.1%}",
        str(number),
    ]
    assert rows["label 1"] == ["0.0%", "–", "0.0%", "0"] and rows["label 2"] == ["–"] * 3 + ["0"]


def test_majority():
    assert report.majority(["a", "b"], np.array([0, 1, 1, 1])) == (
        "0.75 if every example were given “b”"
    )
    assert report.majority([], [0.5]) == report.majority(["a", "b"], []) == ""


def test_notes_stand_beside_their_figures(tmp_path):
    path = report.write_report(tmp_path, {"eval_accuracy": 0.5, "loss": 1}, notes={
        "eval_accuracy": "0.75 if every example were given “<b>”", "gone": "x"})  # fmt: skip
    rows = Page((tmp_path / "report.html").read_text("utf-8")).rows
    assert path and rows[:2] == [
        ["eval_accuracy 0.75 if every example were given “<b>”", "0.5"], ["loss", "1"]
    ]  # fmt: skip


def test_predictions(tmp_path):
    logits = np.log([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    texts = [("one <b>", "two"), ("three", None), ("", "")]
    section = report.predictions(["no", "yes"], logits, texts, "Predictions for test.tsv", "t.tsv")
    page = Page(read(tmp_path, {}, [section]))
    assert "3 examples: 2 yes, 1 no\n" in page.text
    places = [page.text.index(words) for words in
              ("no (90.0%)", "one <b>", "two", "yes (80.0%)", "three", "yes (70.0%)")]  # fmt: skip
    assert places == sorted(places)
    number = report.MAX_PREDICTIONS + 1
    section = report.predictions([], np.ones((number, 1)), [("x", None)] * number, "P", "t.tsv")
    page = Page(read(tmp_path, {}, [section]))
    assert len(page.all("li")) == report.MAX_PREDICTIONS and "all are in t.tsv" in page.text


def test_all_right(tmp_path):
    section = report.classification(["a", "b"], [0, 1], np.eye(2), [("x", "y")] * 2)
    assert "0 of 2 examples are wrong" in Page(read(tmp_path, {}, [section])).text


def test_regression(tmp_path):
    scores, logits = [0.0, 2.5, 5.0], np.array([[0.5], [0.25], [5.1]], np.float32)
    texts = [(f"first {n}", f"second {n}") for n in range(3)]
    page = Page(read(tmp_path, {}, [report.classification([], scores, logits, texts, "STS-B")]))
    dots = [(float(own["cx"]), float(own["cy"])) for own in page.all("circle")]
    assert [x for x, _ in dots] == [54, 221, 388]
    assert dots[1][1] > dots[0][1] > dots[2][1]  # SVG counts from the top
    found = re.findall(r"predicted ([\d.]+) instead of ([\d.]+)", page.text)
    assert found == [("0.250", "2.500"), ("0.500", "0.000"), ("5.100", "5.000")]
    assert not page.all("table", **{"class": "matrix"})
    assert report.classification([], [], np.zeros((0, 1)), [])


def test_lengths_must_agree():
    with pytest.raises(ValueError):
        report.classification(["a", "b"], [0], np.eye(2), [("x", None)] * 2)


# SQuAD


@pytest.mark.parametrize(
    "context, gold, predicted, start, marks",
    (
        ("😀😀 Jim\tmade  Kermit.", [(3, "Jim")], "made Kermit.", 7,
         [["gold", "Jim"], ["predicted", "made  Kermit."]]),
        ("Jim Jim Jim", [(4, "Jim"), (4, "Jim")], "Jim", 8,
         [["gold", "Jim"], ["predicted", "Jim"]]),
        ("the big 🐸 frog", [(4, "big 🐸"), (8, "🐸 frog")], "the big", 0,
         [["predicted", "the "], ["gold predicted", "big"], ["gold", " "], ["gold", "🐸"],
          ["gold", " frog"]]),
        ("a\n\tb\u202fc", [(0, "a")], "a b c", 0,
         [["gold predicted", "a"], ["predicted", "\n\tb\u202fc"]]),
        ("<i>é</i>", [(3, "é")], "<i>é</i>", 0,
         [["predicted", "<i>"], ["gold predicted", "é"], ["predicted", "</i>"]]),
        ("Jim", [(1, "Jim"), (7, "Jim"), (-1, "m")], "", None, []),
        ("Jim", [], "empty", None, []),
    ),
)  # fmt: skip
def test_spans(tmp_path, context, gold, predicted, start, marks):
    asked = question(context=context, gold=gold, predicted=predicted, start=start)
    page = Page(read(tmp_path, {}, [report.answers([asked])]))
    assert page.marks[2:] == marks  # after the two of the legend
    assert page.text.count(context)  # nothing of it is lost


def test_questions_are_scored_and_sorted(tmp_path):
    asked = [
        question(id="a", predicted="Jim", start=0, exact=True, f1=1.0),
        question(id="b", predicted="", start=None, exact=False, f1=0.0),
        question(id="c", predicted="", start=None, gold=[], exact=True, f1=1.0),
        question(id="d", predicted="Jim made", start=0, exact=False, f1=2 / 3),
    ]
    page = Page(read(tmp_path, {}, [report.answers(asked)]))
    assert [own["class"] for own in page.all("li")] == [
        "wrong empty", "wrong", "right", "right empty"
    ]  # fmt: skip
    assert re.findall(r"F1 ([\d.]+)%, (\w)", page.text) == [
        ("0.0", "b"), ("66.7", "d"), ("100.0", "a"), ("100.0", "c")
    ]  # fmt: skip
    assert "gold: no answer" in page.text and "predicted: no answer" in page.text
    for choice in ("all 4\n", "wrong 2\n", "right 2\n", "empty 2\n"):
        assert choice in page.text


def test_the_number_of_right_answers_is_limited(tmp_path):
    """The first ones of each kind are shown, so that every filter has some; no wrong one lacks."""
    number = report.MAX_ANSWERS + 30
    asked = [question(id=f"w{n}") for n in range(number)]
    asked += [question(id=f"r{n}", exact=True, f1=1.0) for n in range(number)]
    asked += [question(id=f"e{n}", exact=True, f1=1.0, predicted="") for n in range(7)]
    text = read(tmp_path, {}, [report.answers(asked)])
    page = Page(text)
    assert len(page.all("li")) == 2 * report.MAX_ANSWERS + 7 + 30
    assert f"{2 * number + 7} questions" in page.text
    assert f"wrong {number}\n" in page.text and "30 more wrong answers" in page.text
    assert f"right {number + 7} ({report.MAX_ANSWERS + 7} shown)" in page.text
    folded = text[text.index("<details>") : text.index("</details>")]
    assert re.findall(r", (\w+)</span>", folded) == [
        f"w{n}" for n in range(report.MAX_ANSWERS, number)
    ]
    assert page.all("li")[0] == {"class": "wrong"}
    assert "empty 7\n" in page.text


def test_questions_of_a_file_without_answers(tmp_path):
    asked = [question(id="a"), question(id="b", predicted="", start=None)]
    asked = [
        {key: value for key, value in one.items() if key not in ("gold", "exact", "f1")}
        for one in asked
    ]
    page = Page(read(tmp_path, {}, [report.answers(asked)]))
    assert "2 questions, 2 shown" in page.text and page.marks[1:] == [["predicted", "Kermit"]]
    assert "wrong" not in page.text and "gold" not in page.text and not page.all("input")
    assert "predicted: no answer" in page.text


def test_long_paragraphs_are_cut_between_marks(tmp_path):
    context = "x" * 9000 + " Jim " + "y" * 9000
    asked = question(context=context, gold=[(9001, "Jim")], predicted="Jim", start=9001)
    text = read(tmp_path, {}, [report.answers([asked])])
    assert Page(text).marks[-1] == ["gold predicted", "Jim"]
    assert text.count("[…]") == 2 and text.count("x" * 700) == text.count("y" * 700) == 2
    assert len(text) < 20000
