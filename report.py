"""A finished run as one HTML page, report.html: figures, curves, errors, flags.

The page needs neither network nor script; report_template.html is its frame and style. All that
comes from data and flags is escaped. How much of the data is shown is capped: the file stays small.
"""

import json
import math
import os
import platform
import re
import string
from collections import Counter
from contextlib import suppress
from html import escape
from operator import itemgetter
from pathlib import Path

from weights import replacing

POINTS = 500  # of a curve
EXAMPLES, ANSWERS = 50, 100  # of a classifier the wrong ones; wrong, right and empty ones of SQuAD
LABELS = 40  # with more there is no confusion matrix
UNMARKED = 1500  # characters of a paragraph shown in one piece where nothing is marked


def write_report(output_dir, results, sections=(), evaluated_in=None):
    """Writes report.html to `output_dir` and returns its path. Raises OSError.

    `results` gives names their numbers and may be empty; `sections` are what `classification` and
    `answers` return; `evaluated_in` is the precision of both, None where there are none. Reads
    run.json and training_log.jsonl of `output_dir` where they are there.
    """
    run = {}
    with suppress(FileNotFoundError), open(os.path.join(output_dir, "run.json"), "rb") as file:
        run = json.load(file)
    flags = run.pop("flags", {})
    if evaluated_in:  # It may be another one than training's, which run.json has.
        run["evaluated_in"] = evaluated_in
    parts = [
        _table("Results", "results", {name: f"{value:.7g}" for name, value in results.items()}),
        _training(os.path.join(output_dir, "training_log.jsonl")),
        *sections,
        _table("Versions", "facts", {**run, "python": platform.python_version()}),
        _table("Flags", "facts", flags),
    ]
    template = Path(__file__).with_name("report_template.html").read_text("utf-8")
    page = string.Template(template).substitute(
        name=escape(os.path.basename(os.path.abspath(output_dir))), body="".join(parts),
        about=escape(" · ".join(filter(None, (run.get("script"), flags.get("task_name"))))),
    )  # fmt: skip
    path = os.path.join(output_dir, "report.html")
    # Half of a surrogate pair, which JSON can hold, is no UTF-8 and becomes "?".
    with replacing(path, "wb") as file:
        file.write(page.encode("utf-8", errors="replace"))
    return path


def _section(title, *parts):
    return f"<section>\n<h2>{escape(title)}</h2>\n{''.join(parts)}</section>\n"


def _table(title, kind, facts):
    """A section with a table of names and values; "" where there are none."""
    body = ""
    for name, value in facts.items():
        value = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        body += f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>\n'
    table = f'<table class="{kind}"><tbody>\n{body}</tbody></table>\n'
    return _section(title, table) if facts else ""


def _training(path):
    """The section with the curves of a training log; "" where there is none."""
    rows, broken = [], 0
    with suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
                rows.append([entry[name] for name in ("step", "loss", "learning_rate")])
            except (ValueError, TypeError, KeyError):  # a killed run's last line
                broken += 1
    if not rows:
        return ""
    steps, losses, rates = zip(*rows)
    keep = 1 - 1 / max(1.0, len(rows) / 20)  # of the mean before, at a step
    total, weight, smooth = 0.0, 0.0, []
    for loss in losses:
        total, weight = total * keep + loss, weight * keep + 1
        smooth.append(total / weight)
    curves = {"raw": [*zip(steps, losses)], "smooth": [*zip(steps, smooth)]}
    key = ' <span class="key raw"></span>each step <span class="key"></span>smoothed'
    charts = _chart("Loss", "step", curves, key)
    charts += _chart("Learning rate", "step", {"rate": [*zip(steps, rates)]})
    note = f"<p>{broken} lines of the log are broken and left out.</p>\n" if broken else ""
    return _section("Training", f'<div class="charts">\n{charts}</div>\n{note}')


def _chart(title, x_name, series, key=""):
    """A figure of axes and `series`: class ("dots" are no curve) to points (x, y)."""
    xs, ys = zip(*(point for points in series.values() for point in points))
    x_low, x_high, y_ticks = min(xs), max(xs), _ticks(min(0.0, *ys), max(0.0, *ys))
    y_low, y_high = y_ticks[0], y_ticks[-1]
    at_x = lambda x: f"{54 + (x - x_low) * 334 / (x_high - x_low or 1):.1f}"  # noqa: E731
    at_y = lambda y: f"{205 - (y - y_low) * 190 / (y_high - y_low or 1):.1f}"  # noqa: E731
    marks = ""
    for y in y_ticks:
        marks += f'<line x1="54" x2="388" y1="{at_y(y)}" y2="{at_y(y)}"/>'
        marks += f'<text class="y" x="48" y="{at_y(y)}">{_tick(y)}</text>\n'
    for x in (x for x in _ticks(x_low, x_high) if x_low <= x <= x_high):
        marks += f'<line x1="{at_x(x)}" x2="{at_x(x)}" y1="205" y2="210"/>'
        marks += f'<text class="x" x="{at_x(x)}" y="224">{_tick(x)}</text>\n'
    for kind, points in series.items():
        if kind == "dots":
            marks += "".join(f'<circle cx="{at_x(x)}" cy="{at_y(y)}" r="3"/>' for x, y in points)
        else:
            line = " ".join(f"{at_x(x)},{at_y(y)}" for x, y in _thin(points))
            marks += f'<polyline class="{kind}" points="{line}"/>\n'
    (x, y), (last_x, last_y) = points[0], points[-1]
    return (
        f"<figure><figcaption>{title}{key}</figcaption>\n"
        f'<svg viewBox="0 0 400 244" role="img"><title>{title} by {x_name}</title>'
        f"<desc>{len(points)} points, from {_tick(y)} at {_tick(x)} to {_tick(last_y)} at "
        f"{_tick(last_x)}; lowest {_tick(min(ys))}, highest {_tick(max(ys))}.</desc>\n{marks}"
        f'<text class="x" x="221" y="241">{x_name}</text></svg></figure>\n'
    )


def _thin(points):
    """At most POINTS of the points: the lowest and the highest of so many parts, peaks included."""
    if len(points) <= POINTS:
        return points
    size = math.ceil(2 * len(points) / POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    ends = ((f(part, key=itemgetter(1)) for f in (min, max)) for part in parts)
    return [point for pair in ends for point in sorted(pair)]


def _ticks(low, high):
    """Round numbers, 7 at most, from the last one below `low` to the first above `high`."""
    size = 10.0 ** math.floor(math.log10((high - low or 1) / 5))
    size *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (size * factor) <= 5.001)
    return [n * size for n in range(math.floor(low / size + 0.001), math.ceil(high / size + 0.999))]


def _tick(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}".replace("e-0", "e-")


def classification(labels, label_ids, logits, texts, title="Evaluation"):
    """A section: confusion matrix, and the wrong examples of the highest confidence.

    `labels` are names in the order of the model's outputs, `label_ids` [n] their indices, `logits`
    [n, labels], `texts` n pairs of a text and a second one or None. Without `labels` it is a
    regression: `label_ids` are scores, `logits` [n, 1], and the largest errors are shown.
    """
    counts, dots, wrong = Counter(), [], []
    for label, row, pair in zip(label_ids, map(list, logits), texts, strict=True):
        if not labels:
            dots.append((label, row[0]))
            wrong.append((abs(row[0] - label), f"{row[0]:.3f} instead of {label:.3f}", pair))
            continue
        guess = row.index(max(row))
        counts[label, guess] += 1
        if guess != label:
            share = 1 / sum(math.exp(logit - row[guess]) for logit in row)
            told = f"“{labels[guess]}” ({share:.1%}) instead of “{labels[label]}”"
            wrong.append((share, told, pair))
    told = f"{len(wrong)} of {len(texts)} examples are wrong, the most confident first"
    picture = _matrix(title, labels, counts) if 0 < len(labels) <= LABELS else ""
    if dots:
        picture = _chart("Predicted scores", "true score", {"dots": dots[:: len(dots) // 1000 + 1]})
        told = f"{len(texts)} examples, the largest error first"
    shown = sorted(wrong, key=itemgetter(0), reverse=True)[:EXAMPLES]
    items = ""
    for _, verdict, pair in shown:
        items += f'<li><p class="no">predicted {escape(verdict)}</p>\n'
        items += "".join(f'<p dir="auto">{escape(text)}</p>\n' for text in pair if text) + "</li>\n"
    return _section(title, picture, f"<p>{told}; {len(shown)} shown</p>\n<ol>{items}</ol>\n")


def _matrix(title, labels, counts):
    body = ""
    for label, name in enumerate(labels):
        row = [counts[label, guess] for guess in range(len(labels))]
        body += f'<tr><th scope="row">{escape(name)}</th>'
        for guess, count in enumerate(row):
            share, hit = count / max(sum(row), 1), ' class="hit"' if guess == label else ""
            body += f'<td{hit} style="--share:{share:.3f}">{count}<small>{share:.1%}</small></td>'
        body += f"<td>{sum(row)}</td></tr>\n"
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in labels)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}: matrix">'
        '<table class="matrix"><caption>Confusion matrix: how often a true label (row) was '
        "predicted to be which (column)</caption>\n<thead><tr>"
        f'<th scope="col">true \\ predicted</th>{names}<th scope="col">all</th></tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def answers(questions):
    """A section: each question, its paragraph, and there the gold and the predicted answers marked.

    `questions` are dicts with id, question, context, gold [(offset in context, text)], predicted
    (text), start (its offset in context, or None), exact (bool), f1 (0 to 1). At most ANSWERS of
    each kind are shown, wrong ones first.
    """
    ranked = sorted(questions, key=lambda q: q["f1"])  # stable: equal ones as in the file
    kinds = {
        "all": ranked, "wrong": [q for q in ranked if not q["exact"]],
        "right": [q for q in ranked if q["exact"]],
        "empty": [q for q in ranked if not q["predicted"]],
    }  # fmt: skip
    shown = {q["id"]: q for kind in ("wrong", "right", "empty") for q in kinds[kind][:ANSWERS]}
    choices = ""
    for kind, members in kinds.items():
        there, checked = sum(q["id"] in shown for q in members), " checked" * (kind == "all")
        choices += f'<label><input type="radio" name="show" value="{kind}"{checked}> {kind} '
        choices += f"{len(members)}{f' ({there} shown)' * (there < len(members))}</label>\n"
    return _section(
        "Answers",
        f'<p>{len(ranked)} questions. Marked: <mark class="gold">gold answers</mark>, '
        '<mark class="predicted">predicted answer</mark></p>\n'
        f"<form><fieldset><legend>Show</legend>\n{choices}</fieldset></form>\n<ol>",
        *(_question(**q) for q in shown.values()),
        "</ol>\n",
    )


def _question(id, question, context, gold, predicted, start, exact, f1):
    spans = [(a, a + len(text), "gold") for a, text in gold if context[a : a + len(text)] == text]
    words = re.compile(r"\s+".join(map(re.escape, predicted.split())))  # any white space
    found = words.match(context, start) if predicted and start is not None else None
    spans += [(*found.span(), "predicted")] if found else []
    texts = " · ".join(dict.fromkeys(text for _, text in gold))
    mark, verdict = ("ok", "✓ right") if exact else ("no", "✗ wrong")
    return (
        f'<li class="{verdict[2:]}{"" if predicted else " empty"}">'
        f'<h3 dir="auto">{escape(question)}</h3>\n'
        f'<p><b class="{mark}">{verdict}</b> <span class="soft">F1 {f1:.1%}, {escape(id)}</span>\n'
        f'<span class="soft">predicted:</span> {escape(predicted) or "no answer"}\n'
        f'<span class="soft">gold:</span> {escape(texts) or "no answer"}</p>\n'
        f'<p dir="auto">{_marked(context, spans)}</p></li>\n'
    )


def _marked(text, spans):
    """The text as HTML, with `spans` (start, end, class) marked; they may overlap."""
    edges, html = sorted({0, len(text), *(edge for *span, _ in spans for edge in span)}), ""
    for start, end in zip(edges, edges[1:]):
        piece = text[start:end]
        kinds = {kind for low, high, kind in spans if low <= start and end <= high}
        if len(piece) > UNMARKED and not kinds:
            piece = f"{piece[: UNMARKED // 2]} […] {piece[-UNMARKED // 2 :]}"
        piece = escape(piece)
        html += f'<mark class="{" ".join(sorted(kinds))}">{piece}</mark>' if kinds else piece
    return html
