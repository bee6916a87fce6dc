"""A finished run as one HTML page, report.html: figures, curves, errors, flags.

The page needs neither a network nor scripts; report_template.html is its frame and style.
Everything that comes from data and flags is escaped. All wrong answers are in the page, most of
them folded away; of what is right it shows a limited part, so that the file stays small.
"""

import json
import math
import os
import platform
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from html import escape
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from files import LOG, PREDICTIONS_REPORT, REPORT, RUN, SEEDS_RESULTS, atomic_write, read_json

# Caps on how much of the data a page shows.
MAX_POINTS = 500  # of a curve
MAX_DOTS = 1000  # of a regression's chart
MAX_EXAMPLES = 50  # wrong examples of a classifier that are not folded away
MAX_ANSWERS = 100  # SQuAD answers of each kind: wrong, right, empty; further wrong ones are folded
MAX_PREDICTIONS = 1000  # of a file without labels
MAX_MATRIX_LABELS = 40  # with more labels there is no confusion matrix
MAX_MARKED_EVALUATIONS = 60  # with more of them, no dots on their curve
MAX_UNMARKED_CHARS = 1500  # of a stretch of a paragraph in which nothing is marked
MAX_FOLDED_CHARS = 200  # the same for an answer that is folded away

# A chart in the units of its SVG: 400 wide, 244 high, y counted from the top.
CHART_LEFT = 54
CHART_RIGHT = 388
CHART_TOP = 15
CHART_BOTTOM = 205
# CSS class of a series whose points are dots, not joined to a line: their radius
DOTS = {"dots": 3, "seed": 4, "kept": 6}


def write_report(
    output_dir: str,
    results: Mapping[str, float],
    sections: Iterable[str] = (),
    evaluated_in: str | None = None,
    facts: Mapping[str, str] | None = None,
    notes: Mapping[str, str] | None = None,
    is_trained: bool = False,
) -> str:
    """Writes report.html to `output_dir` and returns its path.

    If this command has neither trained the model (`is_trained`) nor evaluated it, but only
    predicted in the folder of the run that did, the page is predictions.html, so that the run's
    stays.

    `results` maps names to numbers and may be empty; `notes` says for some of the names what stands
    below them. `sections` are what the public functions below return, and `evaluated_in` is
    the precision of both. `facts` are lines about this run, e.g. date and device. Also shows
    run.json, training_log.jsonl and seeds_results.json of `output_dir` if they exist. Raises
    OSError.
    """
    run = _read_json(os.path.join(output_dir, RUN))
    name = REPORT if is_trained or results or not run else PREDICTIONS_REPORT
    path = os.path.join(output_dir, name)
    flags = run.pop("flags", {})
    log = read_log(os.path.join(output_dir, LOG))

    results = {name: f"{value:.7g}" for name, value in results.items()}
    if evaluated_in:  # It may differ from the precision of training, which is in run.json.
        run["evaluated_in"] = evaluated_in
    versions = {**run, "python": platform.python_version()}
    kept = run.get("global_step")
    facts = {**(facts or {}), **_training_facts(log, flags.get("train_batch_size"), kept)}
    body = [
        _table("Results", "results", results, notes or {}),
        _table("Run", "facts", facts),
        _training(log, kept),
        _seeds_of(output_dir),
        *sections,
        _table("Versions", "facts", versions),
        _table("Flags", "facts", flags),
    ]

    template = Path(__file__).with_name("report_template.html").read_text("utf-8")
    name = os.path.basename(os.path.abspath(output_dir))
    about = " · ".join(filter(None, (run.get("script"), flags.get("task_name"))))
    page = string.Template(template).substitute(
        name=escape(name), about=escape(about), body="".join(body)
    )

    # JSON can contain half of a surrogate pair, which UTF-8 cannot: it becomes "?".
    with atomic_write(path, "wb") as file:
        file.write(page.encode("utf-8", errors="replace"))
    return path


def _read_json(path):
    """The object in a file, or {} without the file."""
    with suppress(FileNotFoundError):
        return read_json(path)
    return {}


def _section(title, *parts):
    return f"<section>\n<h2>{escape(title)}</h2>\n{''.join(parts)}</section>\n"


def _table(title, kind, entries, notes=None):
    """A section with a table of names, values and notes; "" if there are none.

    `kind` is the table's class.
    """
    if not entries:
        return ""
    body = ""
    for name, value in entries.items():
        if not isinstance(value, str):
            value = json.dumps(value, ensure_ascii=False)
        note = f"<small> {escape(notes[name])}</small>" if notes and name in notes else ""
        body += f'<tr><th scope="row">{escape(name)}{note}</th><td>{escape(value)}</td></tr>\n'
    return _section(title, f'<table class="{kind}"><tbody>\n{body}</tbody></table>\n')


def _folded(summary, items):
    """A list that a click unfolds; "" if it is empty."""
    if not items:
        return ""
    return f"<details><summary>{summary}</summary>\n<ol>{items}</ol>\n</details>\n"


# --- training ------------------------------------------------------------------------------------


class TrainingLog(NamedTuple):
    """What a training_log.jsonl holds; nothing without one."""

    steps: list[tuple[int, float, float]]  # step, loss, learning rate
    speeds: list[float]  # examples per second of each step, where the log has them
    evaluations: dict[str, list[tuple[int, float]]]  # name of a figure -> (step, value)
    num_damaged: int


def read_log(path: str) -> TrainingLog:
    """Reads a log that may have been cut off or damaged. Raises OSError."""
    steps = []
    speeds = []
    evaluations = {}
    num_damaged = 0
    with suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
                if "loss" in entry:
                    point = [float(entry[name]) for name in ("step", "loss", "learning_rate")]
                    if not _is_finite(point):
                        raise ValueError
                    steps.append((entry["step"], *point[1:]))
                    speeds.append(entry.get("examples_per_second") or 0)
                    continue
                step = entry.pop("step")
                for name, value in entry.items():
                    if value is not None and math.isfinite(value):  # null: it was not finite
                        evaluations.setdefault(name, []).append((step, value))
            except (ValueError, TypeError, KeyError, AttributeError):
                num_damaged += 1  # e.g. the last line of a killed run
    return TrainingLog(steps, speeds, evaluations, num_damaged)


def _training_facts(log, batch_size, kept):
    """How long training took, and of which step the weights are, as {name: text}."""
    facts = {}
    num_steps = len(log.steps)
    if num_steps and batch_size and min(log.speeds) > 0:
        seconds = sum(batch_size / speed for speed in log.speeds)
        facts["training"] = (
            f"{num_steps:,} steps in {timedelta(seconds=round(seconds))} (h:mm:ss), "
            f"{num_steps * batch_size / seconds:.4g} examples per second"
        )
    if num_steps and log.evaluations and kept and kept != log.steps[-1][0]:
        facts["weights"] = f"those after step {kept}, which had the best evaluation"
    return facts


def _training(log, kept):
    """The section with the curves of a training log; "" if there is no log.

    `kept` is the step of the weights, which is marked on the curves of the evaluations.
    """
    if not log.steps:
        return ""
    steps, losses, rates = zip(*log.steps)
    curves = [
        ("raw", list(zip(steps, losses))),
        ("smooth", list(zip(steps, _smoothed(losses)))),
    ]
    key = ' <span class="key raw"></span>each step <span class="key"></span>smoothed'
    charts = _chart("Loss", "step", curves, key)
    charts += _chart("Learning rate", "step", [("rate", list(zip(steps, rates)))])
    for name, points in log.evaluations.items():
        if not name.endswith("total"):  # SQuAD's numbers of questions
            charts += _evaluation_chart(name, points, kept)

    note = ""
    if log.num_damaged:
        note = f"<p>Damaged lines of the log, not shown: {log.num_damaged}</p>\n"
    return _section("Training", f'<div class="charts">\n{charts}</div>\n{note}')


def _evaluation_chart(name, points, kept):
    """A figure's curve over the evaluations, with the point of the weights that were kept."""
    series = []
    key = ""
    if len(points) <= MAX_MARKED_EVALUATIONS:
        series.append(("dots", points))
    if best := [point for point in points if point[0] == kept]:
        series.append(("kept", best))
        key = ' <span class="key kept"></span>the weights of this run'
    return _chart(name, "step", [*series, ("evaluated", points)], key)


def _smoothed(losses):
    """The exponential moving average of the losses, over about a twentieth of the run.

    Dividing by the sum of the weights removes the bias toward 0 at the beginning.
    """
    keep = 1 - 1 / max(1.0, len(losses) / 20)
    total = 0.0
    weight = 0.0
    smooth = []
    for loss in losses:
        total = total * keep + loss
        weight = weight * keep + 1
        smooth.append(total / weight)
    return smooth


def _chart(title, x_name, series, key="", x_labels=None):
    """A figure with axes and `series`: (CSS class, points (x, y)); those of DOTS are not joined.

    The vertical axis begins at 0, unless there are `x_labels`, {x: text}, instead of numbers. `key`
    is HTML, all else is text. Points that are not finite are left out; without others it is "".
    """
    series = [(kind, [point for point in points if _is_finite(point)]) for kind, points in series]
    series = [(kind, points) for kind, points in series if points]
    if not series:
        return ""
    xs, ys = zip(*(point for _, points in series for point in points))
    x_low = min(xs)
    x_high = max(xs)
    y_ticks = _ticks(min(ys), max(ys)) if x_labels else _ticks(min(0.0, *ys), max(0.0, *ys))
    y_low = y_ticks[0]
    y_high = y_ticks[-1]

    def at_x(x):
        offset = (x - x_low) * (CHART_RIGHT - CHART_LEFT) / (x_high - x_low or 1)
        return f"{CHART_LEFT + offset:.1f}"

    def at_y(y):
        offset = (y - y_low) * (CHART_BOTTOM - CHART_TOP) / (y_high - y_low or 1)
        return f"{CHART_BOTTOM - offset:.1f}"

    marks = ""
    for y in y_ticks:
        height = at_y(y)
        marks += f'<line x1="{CHART_LEFT}" x2="{CHART_RIGHT}" y1="{height}" y2="{height}"/>'
        marks += f'<text class="y" x="48" y="{height}">{_number(y)}</text>\n'
    if not x_labels:
        x_labels = {x: _number(x) for x in _ticks(x_low, x_high) if x_low <= x <= x_high}
    for x, text in x_labels.items():
        place = at_x(x)
        marks += f'<line x1="{place}" x2="{place}" y1="{CHART_BOTTOM}" y2="210"/>'
        marks += f'<text class="x" x="{place}" y="224">{escape(text)}</text>\n'

    for kind, points in series:
        if kind in DOTS:
            for x, y in points:
                marks += f'<circle class="{kind}" cx="{at_x(x)}" cy="{at_y(y)}" r="{DOTS[kind]}"/>'
        else:
            line = " ".join(f"{at_x(x)},{at_y(y)}" for x, y in _thin(points))
            marks += f'<polyline class="{kind}" points="{line}"/>\n'

    # The description, for a screen reader, is that of the last series.
    first_x, first_y = points[0]
    last_x, last_y = points[-1]
    return (
        f"<figure><figcaption>{escape(title)}{key}</figcaption>\n"
        f'<svg viewBox="0 0 400 244" role="img"><title>{escape(title)} by {x_name}</title>'
        f"<desc>{len(points)} points, from {_number(first_y)} at {_number(first_x)} to "
        f"{_number(last_y)} at {_number(last_x)}; lowest {_number(min(ys))}, "
        f"highest {_number(max(ys))}.</desc>\n{marks}"
        f'<text class="x" x="221" y="241">{x_name}</text></svg></figure>\n'
    )


def _is_finite(point):
    return all(map(math.isfinite, point))


def _thin(points):
    """At most MAX_POINTS of the points: the lowest and the highest of each of equal parts.

    In this way the curve keeps its peaks.
    """
    if len(points) <= MAX_POINTS:
        return points
    size = math.ceil(2 * len(points) / MAX_POINTS)
    kept = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        lowest = min(part, key=itemgetter(1))
        highest = max(part, key=itemgetter(1))
        kept += sorted((lowest, highest))
    return kept


def _ticks(low, high):
    """At most 7 round numbers, from the last one below `low` to the first one above `high`."""
    size = 10.0 ** math.floor(math.log10((high - low or 1) / 5))
    size *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (size * factor) <= 5.001)
    first = math.floor(low / size + 0.001)
    last = math.ceil(high / size - 0.001)
    return [number * size for number in range(first, last + 1)]


def _number(value):
    """A number as the axes show it."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}".replace("e-0", "e-")


# --- classification ------------------------------------------------------------------------------


def classification(
    labels: Sequence[str],
    label_ids: Sequence[float],
    logits: Sequence[Sequence[float]],
    texts: Sequence[tuple[str, str | None]],
    title: str = "Evaluation",
    places: Sequence[str] | None = None,
) -> str:
    """A section with the confusion matrix, the figures of each class, and all wrong examples.

    `labels` are the names in the order of the model's outputs, `label_ids` [n] are their indices,
    `logits` are [n, labels], and `texts` are n pairs of a text and either a second one or None;
    `places` say where each of them stands, e.g. "dev.tsv:7". Without `labels` it is a regression:
    `label_ids` are the scores, `logits` are [n, 1], and all examples are shown, those with the
    largest errors first. Raises ValueError if the lengths differ.
    """
    counts = Counter()  # (label, prediction) to their number
    dots = []  # of a regression: (true score, predicted score)
    wrong = []  # (how wrong, for sorting; what was predicted; place; texts)
    places = places or [""] * len(texts)
    examples = zip(label_ids, map(list, logits), texts, places, strict=True)
    for label, row, pair, place in examples:
        if not labels:
            dots.append((label, row[0]))
            wrong.append((abs(row[0] - label), f"{row[0]:.3f} instead of {label:.3f}", place, pair))
            continue

        guess = row.index(max(row))
        counts[label, guess] += 1
        if guess != label:
            verdict = f"“{labels[guess]}” ({_share(row):.1%}) instead of “{labels[label]}”"
            wrong.append((_share(row), verdict, place, pair))

    picture = ""
    if dots:
        interval = len(dots) // MAX_DOTS + 1
        picture = _chart("Predicted scores", "true score", [("dots", dots[::interval])])
    elif labels:
        if len(labels) <= MAX_MATRIX_LABELS:
            picture = _matrix(title, labels, counts)
        picture += _classes(title, labels, counts)

    if dots:
        summary = f"{len(texts)} examples, the largest error first"
    else:
        summary = f"{len(wrong)} of {len(texts)} examples are wrong, the most confident first"
    return _mistakes(title, picture, summary, wrong)


def _mistakes(title, picture, summary, wrong):
    """A section with a picture and the wrong examples, each (how wrong, verdict, place, texts)."""
    wrong = sorted(wrong, key=itemgetter(0), reverse=True)
    items = [_example(*example) for _, *example in wrong]
    rest = items[MAX_EXAMPLES:]
    return _section(
        title,
        picture,
        f"<p>{summary}</p>\n<ol>{''.join(items[:MAX_EXAMPLES])}</ol>\n",
        _folded(f"the other {len(rest)}", "".join(rest)),
    )


def majority(labels: Sequence[str], label_ids: Sequence[int]) -> str:
    """What the accuracy of the most frequent label would be, as a note on the accuracy; or ""."""
    if not labels or not len(label_ids):
        return ""
    label, number = Counter(map(int, label_ids)).most_common(1)[0]
    return f"{number / len(label_ids):.7g} if every example were given “{labels[label]}”"


def _share(row):
    """The probability of the likeliest class."""
    return 1 / sum(math.exp(logit - max(row)) for logit in row)


def _example(verdict, place, pair):
    """The list item of one example of a classification."""
    where = f' <span class="soft">{escape(place)}</span>' if place else ""
    item = f'<li><p><span class="no">predicted {escape(verdict)}</span>{where}</p>\n'
    for text in filter(None, pair):
        item += f'<p dir="auto">{escape(text)}</p>\n'
    return item + "</li>\n"


def predictions(
    labels: Sequence[str],
    logits: Sequence[Sequence[float]],
    texts: Sequence[tuple[str, str | None]],
    title: str,
    file: str,
    multi_label: bool = False,
) -> str:
    """A section with what was predicted for a file without labels, in its order.

    Arguments as those of `classification`; `file` is the one with all predictions. With
    `multi_label` an example may have several labels.
    """
    numbers = Counter()
    items = ""
    for index, (row, pair) in enumerate(zip(map(list, logits), texts, strict=True)):
        verdict = f"{row[0]:.3f}"
        if multi_label:
            chosen = [label for label, logit in zip(labels, row) if logit > 0]
            numbers.update(chosen or ["no label"])
            verdict = _named(labels, [logit > 0 for logit in row])
        elif labels:
            label = labels[row.index(max(row))]
            numbers[label] += 1
            verdict = f"{label} ({_share(row):.1%})"
        if index < MAX_PREDICTIONS:
            items += f"<li><p><b>{escape(verdict)}</b></p>\n"
            items += "".join(f'<p dir="auto">{escape(text)}</p>\n' for text in pair if text)
            items += "</li>\n"

    summary = f"{len(texts)} examples"
    if labels:
        summary += ": " + ", ".join(f"{count} {label}" for label, count in numbers.most_common())
    if len(texts) > MAX_PREDICTIONS:
        summary += f". The first {MAX_PREDICTIONS} are shown, all are in {file}"
    return _section(title, f"<p>{escape(summary)}</p>\n<ol>{items}</ol>\n")


def _classes(title, labels, counts):
    """The table of figures of each class, from {(label, prediction): number}."""
    truths = Counter()
    guesses = Counter()
    for (label, guess), number in counts.items():
        truths[label] += number
        guesses[guess] += number
    rows = [(counts[n, n], guesses[n], truths[n]) for n in range(len(labels))]
    return _figures_of_classes(title, labels, rows)


def _figures_of_classes(title, labels, rows):
    """Precision, recall and F1 of each class as a table; "–" where one is not defined.

    `rows` has for each class how often it was predicted rightly, how often at all, and how many
    examples have it.
    """

    def share(part, whole):
        return f"{part / whole:.1%}" if whole else "–"

    body = ""
    for name, (right, guessed, true) in zip(labels, rows, strict=True):
        cells = (share(right, guessed), share(right, true), share(2 * right, guessed + true), true)
        body += f'<tr><th scope="row">{escape(name)}</th>'
        body += "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
    columns = ("class", "precision", "recall", "F1", "examples")
    return _scrolled(f"{title}: classes", "classes", "Figures of each class", columns, body)


def _scrolled(name, kind, caption, columns, body):
    """A table that scrolls sideways where it is too wide. `body` is HTML, the rest is text."""
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">'
        f'<table class="{kind}"><caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def multi_label(
    labels: Sequence[str],
    label_ids: Sequence[Sequence[float]],
    logits: Sequence[Sequence[float]],
    texts: Sequence[tuple[str, str | None]],
    title: str = "Evaluation",
    places: Sequence[str] | None = None,
) -> str:
    """A section for examples with several labels: figures of each label, and all wrong examples.

    As `classification`, but `label_ids` are [n, labels] of 1 and 0. First come the examples in
    which the decision on a label is wrong with the highest confidence.
    """
    counts = [[0, 0, 0] for _ in labels]  # rightly predicted, predicted, true
    wrong = []  # (how wrong, for sorting; what was predicted; place; texts)
    places = places or [""] * len(texts)
    for truth, row, pair, place in zip(label_ids, map(list, logits), texts, places, strict=True):
        guesses = [logit > 0 for logit in row]
        mistakes = [abs(x) for x, guess, true in zip(row, guesses, truth) if guess != bool(true)]
        for count, guess, true in zip(counts, guesses, truth):
            count[0] += bool(guess and true)
            count[1] += bool(guess)
            count[2] += bool(true)
        if mistakes:
            verdict = f"{_named(labels, guesses)} instead of {_named(labels, truth)}"
            wrong.append((max(mistakes), verdict, place, pair))

    picture = _figures_of_classes(title, labels, counts)
    summary = f"{len(wrong)} of {len(texts)} examples are wrong, the most confident first"
    return _mistakes(title, picture, summary, wrong)


def _named(labels, chosen):
    """The chosen labels in words."""
    names = [f"“{label}”" for label, is_chosen in zip(labels, chosen) if is_chosen]
    return ", ".join(names) or "no label"


def _matrix(title, labels, counts):
    """The confusion matrix as a table; the darker a cell, the larger its share of the row."""
    body = ""
    for label, name in enumerate(labels):
        row = [counts[label, guess] for guess in range(len(labels))]
        body += f'<tr><th scope="row">{escape(name)}</th>'
        for guess, count in enumerate(row):
            share = count / max(sum(row), 1)
            css_class = ' class="hit"' if guess == label else ""
            body += f'<td{css_class} style="--share:{share:.3f}">'
            body += f"{count}<small>{share:.1%}</small></td>"
        body += f"<td>{sum(row)}</td></tr>\n"

    return _scrolled(
        f"{title}: matrix",
        "matrix",
        "Confusion matrix: a row for each true label, a column for each predicted one",
        ("true \\ predicted", *labels, "all"),
        body,
    )


# --- several seeds -------------------------------------------------------------------------------


def _seeds_of(output_dir):
    """The section of a run with --seeds; "" for another one."""
    summary = _read_json(os.path.join(output_dir, SEEDS_RESULTS))
    if "seeds" not in summary:
        return ""
    summary["seeds"] = {int(seed): figures for seed, figures in summary["seeds"].items()}
    logs = {seed: os.path.join(output_dir, f"seed-{seed}", LOG) for seed in summary["seeds"]}
    return seeds(summary, logs)


def seeds(summary: Mapping, logs: Mapping[int, str]) -> str:
    """A section with the figures of every seed, their spread and all curves.

    `summary` is the content of seeds_results.json with numbers as seeds, and `logs` are the paths
    of the seeds' training logs.
    """
    metric = summary["metric"]
    best = summary["best"]
    names = list(summary["mean"])
    rows = {
        **summary["seeds"],
        "mean": summary["mean"],
        "standard deviation": summary["standard_deviation"],
    }
    body = ""
    for row, figures in rows.items():
        notes = ["the best"] * (row == best) + ["one class"] * (row in summary["one_class"])
        cells = "".join(f"<td>{figures[name]:.4f}</td>" for name in names)
        css_class = ' class="best"' if row == best else ""
        body += f'<tr{css_class}><th scope="row">{row}</th>{cells}'
        body += f"<td>{', '.join(notes)}</td></tr>\n"
    table = _scrolled("Seeds", "seeds", "Figures of each seed", ("seed", *names, "note"), body)

    collapsed = ", ".join(map(str, summary["one_class"]))
    verdict = "No seed gives every example the same label."
    if collapsed:
        noun = "seed" if len(summary["one_class"]) == 1 else "seeds"
        verdict = f"With {noun} {collapsed} every example is given the same label."
    verdict += f" The weights of this folder are those of seed {best}, the best by {metric}."

    charts = _spread(summary)
    read = {seed: read_log(path) for seed, path in logs.items()}
    losses = {}
    for seed, log in read.items():
        steps = [step for step, _, _ in log.steps]
        losses[seed] = list(zip(steps, _smoothed([loss for _, loss, _ in log.steps])))
    evaluated = {seed: log.evaluations.get(metric) for seed, log in read.items()}
    charts += _curves_of_seeds("Loss, smoothed", losses, best)
    charts += _curves_of_seeds(f"{metric} during training", evaluated, best)
    return _section(
        "Seeds", table, f"<p>{escape(verdict)}</p>\n", f'<div class="charts">\n{charts}</div>\n'
    )


def _spread(summary):
    """A chart with the main figure of each seed as a dot, and their mean as a line."""
    metric = summary["metric"]
    names = {place: str(seed) for place, seed in enumerate(summary["seeds"])}
    points = [(place, figures[metric]) for place, figures in enumerate(summary["seeds"].values())]
    best = [point for point in points if names[point[0]] == str(summary["best"])]
    mean = summary["mean"][metric]
    line = [(-0.5, mean), (len(points) - 0.5, mean)]  # so that no dot lies on the edge
    series = [("raw", line), ("kept", best), ("seed", points)]
    key = ' <span class="key raw"></span>mean <span class="key kept"></span>the best'
    return _chart(metric, "seed", series, key, names)


def _curves_of_seeds(title, curves, best):
    """A chart of {seed: points} in which the best seed's curve stands out; "" without points."""
    others = [("raw", points) for seed, points in curves.items() if points and seed != best]
    if not curves.get(best):
        return ""
    key = ' <span class="key"></span>the best <span class="key raw"></span>the others'
    return _chart(title, "step", [*others, ("best", curves[best])], key)


# --- answers to questions ------------------------------------------------------------------------


def answers(questions: Iterable[dict]) -> str:
    """A section with each question and its paragraph, the gold and predicted answers marked in it.

    `questions` are dicts with these keys: id, question, context; predicted, a text; start, the
    prediction's offset in the context or None; and of a file with answers gold, a list of (offset
    in the context, text); exact, a bool; f1, from 0 to 1. At most MAX_ANSWERS of each kind are
    shown, wrong ones first, and further wrong ones are folded away. Without gold answers the first
    MAX_PREDICTIONS are shown.
    """
    questions = list(questions)
    if not all("gold" in question for question in questions):
        shown = questions[:MAX_PREDICTIONS]
        summary = f"{len(questions)} questions, {len(shown)} shown. Marked: "
        items = [_question(**question, max_unmarked=MAX_FOLDED_CHARS) for question in shown]
        mark = '<mark class="predicted">predicted answer</mark>'
        return _section("Answers", f"<p>{summary}{mark}</p>\n<ol>", *items, "</ol>\n")

    ranked = sorted(questions, key=itemgetter("f1"))  # stable: equal ones stay in the file's order
    kinds = {
        "all": ranked,
        "wrong": [q for q in ranked if not q["exact"]],
        "right": [q for q in ranked if q["exact"]],
        "empty": [q for q in ranked if not q["predicted"]],
    }

    shown = {}
    for kind in ("wrong", "right", "empty"):
        for question in kinds[kind][:MAX_ANSWERS]:
            shown[question["id"]] = question
    folded = [question for question in kinds["wrong"] if question["id"] not in shown]
    in_page = shown.keys() | {question["id"] for question in folded}

    choices = ""
    for kind, members in kinds.items():
        checked = " checked" if kind == "all" else ""
        num_shown = sum(question["id"] in in_page for question in members)
        note = f" ({num_shown} shown)" if num_shown < len(members) else ""
        choices += f'<label><input type="radio" name="show" value="{kind}"{checked}> {kind} '
        choices += f"{len(members)}{note}</label>\n"

    return _section(
        "Answers",
        f'<p>{len(ranked)} questions. Marked: <mark class="gold">gold answers</mark>, '
        '<mark class="predicted">predicted answer</mark></p>\n'
        f"<form><fieldset><legend>Show</legend>\n{choices}</fieldset></form>\n<ol>",
        *(_question(**question) for question in shown.values()),
        "</ol>\n",
        _folded(
            f"{len(folded)} more wrong answers",
            "".join(_question(**q, max_unmarked=MAX_FOLDED_CHARS) for q in folded),
        ),
    )


def _question(
    id, question, context, predicted, start, gold=None, exact=False, f1=0.0, max_unmarked=None
):
    """The list item of one question; its arguments are the keys that `answers` names."""
    spans = []
    for offset, text in gold or ():
        end = offset + len(text)
        if context[offset:end] == text:
            spans.append((offset, end, "gold"))
    if predicted and start is not None:
        # The paragraph can have any white space where the answer has one space.
        pattern = re.compile(r"\s+".join(map(re.escape, predicted.split())))
        found = pattern.match(context, start)
        if found:
            spans.append((*found.span(), "predicted"))

    css_class = "predicted"
    verdict = f'<span class="soft">{escape(id)}</span>'
    wanted = ""
    if gold is not None:
        css_class = "right" if exact else "wrong"
        mark = '<b class="ok">✓ right</b>' if exact else '<b class="no">✗ wrong</b>'
        verdict = f'{mark} <span class="soft">F1 {f1:.1%}, {escape(id)}</span>'
        texts = " · ".join(dict.fromkeys(text for _, text in gold))  # each text once
        wanted = f'\n<span class="soft">gold:</span> {escape(texts) or "no answer"}'
    if not predicted:
        css_class += " empty"
    return (
        f'<li class="{css_class}"><h3 dir="auto">{escape(question)}</h3>\n'
        f"<p>{verdict}\n"
        f'<span class="soft">predicted:</span> {escape(predicted) or "no answer"}{wanted}</p>\n'
        f'<p dir="auto">{_marked(context, spans, max_unmarked or MAX_UNMARKED_CHARS)}</p></li>\n'
    )


def _marked(text, spans, max_unmarked):
    """The text as HTML, with `spans` (start, end, class) marked, which may overlap.

    Of a stretch of more than `max_unmarked` characters without a mark the middle is left out.
    """
    edges = {0, len(text)}
    for start, end, _ in spans:
        edges |= {start, end}
    edges = sorted(edges)

    html = ""
    for start, end in zip(edges, edges[1:]):
        piece = text[start:end]
        kinds = {kind for low, high, kind in spans if low <= start and end <= high}
        if kinds:
            html += f'<mark class="{" ".join(sorted(kinds))}">{escape(piece)}</mark>'
            continue
        if len(piece) > max_unmarked:
            half = max_unmarked // 2
            piece = f"{piece[:half]} […] {piece[-half:]}"
        html += escape(piece)
    return html
