"""A finished run as one HTML page, report.html: figures, curves, errors, flags.

The page needs neither a network nor scripts; report_template.html is its frame and style.
Everything that comes from data and flags is escaped. The page shows a limited part of the data, so
that the file stays small.
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
from html import escape
from operator import itemgetter
from pathlib import Path

from files import LOG, REPORT, RUN, atomic_write

# Caps on how much of the data a page shows.
MAX_POINTS = 500  # of a curve
MAX_DOTS = 1000  # of a regression's chart
MAX_EXAMPLES = 50  # wrong examples of a classifier
MAX_ANSWERS = 100  # SQuAD answers of each kind: wrong, right, empty
MAX_MATRIX_LABELS = 40  # with more labels there is no confusion matrix
MAX_UNMARKED_CHARS = 1500  # of a stretch of a paragraph in which nothing is marked

# A chart in the units of its SVG: 400 wide, 244 high, y counted from the top.
CHART_LEFT = 54
CHART_RIGHT = 388
CHART_TOP = 15
CHART_BOTTOM = 205


def write_report(
    output_dir: str,
    results: Mapping[str, float],
    sections: Iterable[str] = (),
    evaluated_in: str | None = None,
) -> str:
    """Writes report.html to `output_dir` and returns its path.

    `results` maps names to numbers and may be empty. `sections` are what `classification` and
    `answers` return, and `evaluated_in` is the precision of both. Also shows run.json and
    training_log.jsonl of `output_dir` if they exist. Raises OSError.
    """
    run = {}
    with suppress(FileNotFoundError), open(os.path.join(output_dir, RUN), "rb") as file:
        run = json.load(file)
    flags = run.pop("flags", {})

    results = {name: f"{value:.7g}" for name, value in results.items()}
    if evaluated_in:  # It may differ from the precision of training, which is in run.json.
        run["evaluated_in"] = evaluated_in
    versions = {**run, "python": platform.python_version()}
    body = [
        _table("Results", "results", results),
        _training(os.path.join(output_dir, LOG)),
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

    path = os.path.join(output_dir, REPORT)
    # JSON can contain half of a surrogate pair, which UTF-8 cannot: it becomes "?".
    with atomic_write(path, "wb") as file:
        file.write(page.encode("utf-8", errors="replace"))
    return path


def _section(title, *parts):
    return f"<section>\n<h2>{escape(title)}</h2>\n{''.join(parts)}</section>\n"


def _table(title, kind, entries):
    """A section with a table of names and values; "" if there are none. `kind` is its class."""
    if not entries:
        return ""
    body = ""
    for name, value in entries.items():
        if not isinstance(value, str):
            value = json.dumps(value, ensure_ascii=False)
        body += f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>\n'
    return _section(title, f'<table class="{kind}"><tbody>\n{body}</tbody></table>\n')


def _training(path):
    """The section with the curves of a training log; "" if there is no log."""
    rows = []
    num_damaged = 0
    with suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
                rows.append((entry["step"], entry["loss"], entry["learning_rate"]))
            except (ValueError, TypeError, KeyError):  # e.g. the last line of a killed run
                num_damaged += 1
    if not rows:
        return ""

    steps, losses, rates = zip(*rows)
    curves = {
        "raw": list(zip(steps, losses)),
        "smooth": list(zip(steps, _smoothed(losses))),
    }
    key = ' <span class="key raw"></span>each step <span class="key"></span>smoothed'
    charts = _chart("Loss", "step", curves, key)
    charts += _chart("Learning rate", "step", {"rate": list(zip(steps, rates))})

    note = ""
    if num_damaged:
        note = f"<p>Damaged lines of the log, not shown: {num_damaged}</p>\n"
    return _section("Training", f'<div class="charts">\n{charts}</div>\n{note}')


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


def _chart(title, x_name, series, key=""):
    """A figure with axes and `series`: {CSS class: points (x, y)}; "dots" are not joined."""
    xs, ys = zip(*(point for points in series.values() for point in points))
    x_low = min(xs)
    x_high = max(xs)
    y_ticks = _ticks(min(0.0, *ys), max(0.0, *ys))
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
    for x in _ticks(x_low, x_high):
        if x_low <= x <= x_high:
            place = at_x(x)
            marks += f'<line x1="{place}" x2="{place}" y1="{CHART_BOTTOM}" y2="210"/>'
            marks += f'<text class="x" x="{place}" y="224">{_number(x)}</text>\n'

    for kind, points in series.items():
        if kind == "dots":
            for x, y in points:
                marks += f'<circle cx="{at_x(x)}" cy="{at_y(y)}" r="3"/>'
        else:
            line = " ".join(f"{at_x(x)},{at_y(y)}" for x, y in _thin(points))
            marks += f'<polyline class="{kind}" points="{line}"/>\n'

    # The description, for a screen reader, is that of the last series.
    first_x, first_y = points[0]
    last_x, last_y = points[-1]
    return (
        f"<figure><figcaption>{title}{key}</figcaption>\n"
        f'<svg viewBox="0 0 400 244" role="img"><title>{title} by {x_name}</title>'
        f"<desc>{len(points)} points, from {_number(first_y)} at {_number(first_x)} to "
        f"{_number(last_y)} at {_number(last_x)}; lowest {_number(min(ys))}, "
        f"highest {_number(max(ys))}.</desc>\n{marks}"
        f'<text class="x" x="221" y="241">{x_name}</text></svg></figure>\n'
    )


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


def classification(
    labels: Sequence[str],
    label_ids: Sequence[float],
    logits: Sequence[Sequence[float]],
    texts: Sequence[tuple[str, str | None]],
    title: str = "Evaluation",
) -> str:
    """A section with the confusion matrix, and the wrong examples with the highest confidence.

    `labels` are the names in the order of the model's outputs, `label_ids` [n] are their indices,
    `logits` are [n, labels], and `texts` are n pairs of a text and either a second one or None.
    Without `labels` it is a regression: `label_ids` are the scores, `logits` are [n, 1], and the
    examples with the largest errors are shown. Raises ValueError if the lengths differ.
    """
    counts = Counter()  # (label, prediction) to their number
    dots = []  # of a regression: (true score, predicted score)
    wrong = []  # (how wrong, for sorting; what was predicted; texts)
    for label, row, pair in zip(label_ids, map(list, logits), texts, strict=True):
        if not labels:
            dots.append((label, row[0]))
            wrong.append((abs(row[0] - label), f"{row[0]:.3f} instead of {label:.3f}", pair))
            continue

        guess = row.index(max(row))
        counts[label, guess] += 1
        if guess != label:
            probability = 1 / sum(math.exp(logit - row[guess]) for logit in row)
            verdict = f"“{labels[guess]}” ({probability:.1%}) instead of “{labels[label]}”"
            wrong.append((probability, verdict, pair))

    picture = ""
    if dots:
        interval = len(dots) // MAX_DOTS + 1
        picture = _chart("Predicted scores", "true score", {"dots": dots[::interval]})
    elif 0 < len(labels) <= MAX_MATRIX_LABELS:
        picture = _matrix(title, labels, counts)

    shown = sorted(wrong, key=itemgetter(0), reverse=True)[:MAX_EXAMPLES]
    if dots:
        summary = f"{len(texts)} examples, the largest error first; {len(shown)} shown"
    else:
        summary = (
            f"{len(wrong)} of {len(texts)} examples are wrong, the most confident first; "
            f"{len(shown)} shown"
        )

    items = ""
    for _, verdict, pair in shown:
        items += f'<li><p class="no">predicted {escape(verdict)}</p>\n'
        for text in filter(None, pair):
            items += f'<p dir="auto">{escape(text)}</p>\n'
        items += "</li>\n"
    return _section(title, picture, f"<p>{summary}</p>\n<ol>{items}</ol>\n")


def multi_label(
    labels: Sequence[str],
    label_ids: Sequence[Sequence[float]],
    logits: Sequence[Sequence[float]],
    texts: Sequence[tuple[str, str | None]],
    title: str = "Evaluation",
) -> str:
    """A section for examples with several labels: figures of each label, and the wrong examples.

    As `classification`, but `label_ids` are [n, labels] of 1 and 0. First come the examples in
    which the decision on a label is wrong with the highest confidence.
    """
    counts = Counter()  # (label, what): number of examples
    wrong = []  # (how wrong, for sorting; what was predicted; texts)
    for truth, row, pair in zip(label_ids, map(list, logits), texts, strict=True):
        mistakes = []
        guessed = []
        wanted = []
        for label, is_true, logit in zip(labels, truth, row):
            is_true = bool(is_true)
            is_guessed = bool(logit > 0)
            if is_guessed:
                guessed.append(f"“{label}”")
            if is_true:
                wanted.append(f"“{label}”")
            if is_true != is_guessed:
                mistakes.append(abs(logit))
            counts[label, "true"] += is_true
            counts[label, "predicted"] += is_guessed
            counts[label, "both"] += is_true and is_guessed
        if mistakes:
            said = ", ".join(guessed) or "no label"
            verdict = f"{said} instead of {', '.join(wanted) or 'no label'}"
            wrong.append((max(mistakes), verdict, pair))

    body = ""
    for label in labels:
        true, predicted, both = (counts[label, what] for what in ("true", "predicted", "both"))
        score = 2 * both / (true + predicted) if true + predicted else 0.0
        body += f'<tr><th scope="row">{escape(label)}</th><td>{true}</td><td>{predicted}</td>'
        body += f"<td>{both}</td><td>{score:.1%}</td></tr>\n"
    names = ("label", "true", "predicted", "both", "F1")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    table = f'<table class="facts"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>'

    shown = sorted(wrong, key=itemgetter(0), reverse=True)[:MAX_EXAMPLES]
    items = ""
    for _, verdict, pair in shown:
        both_texts = "".join(f'<p dir="auto">{escape(text)}</p>\n' for text in pair if text)
        items += f'<li><p class="no">predicted {escape(verdict)}</p>\n{both_texts}</li>\n'
    summary = (
        f"{len(wrong)} of {len(texts)} examples are wrong, the most confident first; "
        f"{len(shown)} shown"
    )
    return _section(title, f"{table}\n<p>{summary}</p>\n<ol>{items}</ol>\n")


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

    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in labels)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}: matrix">'
        '<table class="matrix"><caption>Confusion matrix: a row for each true label, a column for '
        "each predicted one</caption>\n<thead><tr>"
        f'<th scope="col">true \\ predicted</th>{names}<th scope="col">all</th></tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def answers(questions: Iterable[dict]) -> str:
    """A section with each question and its paragraph, the gold and predicted answers marked in it.

    `questions` are dicts with these keys: id, question, context; gold, a list of (offset in the
    context, text); predicted, a text; start, the prediction's offset in the context or None; exact,
    a bool; f1, from 0 to 1. At most MAX_ANSWERS of each kind are shown, wrong ones first.
    """
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

    choices = ""
    for kind, members in kinds.items():
        checked = " checked" if kind == "all" else ""
        num_shown = sum(question["id"] in shown for question in members)
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
    )


def _question(id, question, context, gold, predicted, start, exact, f1):
    """The list item of one question; its arguments are the keys that `answers` names."""
    spans = []
    for offset, text in gold:
        end = offset + len(text)
        if context[offset:end] == text:
            spans.append((offset, end, "gold"))
    if predicted and start is not None:
        # The paragraph can have any white space where the answer has one space.
        pattern = re.compile(r"\s+".join(map(re.escape, predicted.split())))
        found = pattern.match(context, start)
        if found:
            spans.append((*found.span(), "predicted"))

    if exact:
        css_class, verdict = "right", '<b class="ok">✓ right</b>'
    else:
        css_class, verdict = "wrong", '<b class="no">✗ wrong</b>'
    if not predicted:
        css_class += " empty"
    gold_texts = " · ".join(dict.fromkeys(text for _, text in gold))  # each text once
    return (
        f'<li class="{css_class}"><h3 dir="auto">{escape(question)}</h3>\n'
        f'<p>{verdict} <span class="soft">F1 {f1:.1%}, {escape(id)}</span>\n'
        f'<span class="soft">predicted:</span> {escape(predicted) or "no answer"}\n'
        f'<span class="soft">gold:</span> {escape(gold_texts) or "no answer"}</p>\n'
        f'<p dir="auto">{_marked(context, spans)}</p></li>\n'
    )


def _marked(text, spans):
    """The text as HTML, with `spans` (start, end, class) marked. Spans may overlap."""
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
        if len(piece) > MAX_UNMARKED_CHARS:
            half = MAX_UNMARKED_CHARS // 2
            piece = f"{piece[:half]} […] {piece[-half:]}"
        html += escape(piece)
    return html
