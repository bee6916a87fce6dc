"""What a training run shows and keeps of its steps: progress bar, JSON-lines log, TensorBoard."""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from tqdm import tqdm

from files import LOG


def summary_writer() -> type:
    """The class that writes TensorBoard's files. Raises ValueError if the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "--tensorboard needs the package tensorboard: pip install tensorboard"
        ) from None
    return SummaryWriter


class Bar:
    """Shows on stderr how much of `total` is done: a bar on a terminal, else a line now and then.

    `unit` is what is counted. A context manager with tqdm's methods; `quiet` shows nothing.
    """

    SECONDS_BETWEEN_LINES = 30
    # What matters comes first: a narrow terminal cuts off the end.
    FORMAT = "{desc}{n_fmt}/{total_fmt}, {remaining} left{postfix} |{bar}| {elapsed}"

    def __init__(
        self,
        total: int,
        unit: str,
        title: str | None = None,
        initial: int = 0,
        quiet: bool = False,
    ):
        self.unit = unit
        self.title = f"{title}: " if title else ""
        self.done = self.initial = self.written = initial
        self.total = total
        self.figures = {}
        self.started = self.shown = time.monotonic()
        quiet = quiet or sys.stderr is None  # as in a process that was started without it
        self.lines = not (quiet or sys.stderr.isatty())
        self.bar = tqdm(
            total=total, initial=initial, desc=self.title, unit=unit, disable=quiet or self.lines,
            bar_format=self.FORMAT, ncols=columns(), mininterval=0.5,
            leave=None,  # a bar below another one vanishes when it is done
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def set_postfix(self, figures: dict[str, str], refresh: bool = True) -> None:
        """Shows the figures, {name: text}, beside the count, with those shown before."""
        self.figures |= figures
        self.bar.set_postfix(self.figures, refresh=refresh)

    def update(self, number: int) -> None:
        """Counts `number` more."""
        self.done += number
        self.bar.ncols = columns()
        self.bar.update(number)
        if self.lines and time.monotonic() - self.shown >= self.SECONDS_BETWEEN_LINES:
            self._write_line()

    def write(self, line: str) -> None:
        """Prints a line above the bar."""
        tqdm.write(line)

    def _write_line(self):
        self.shown = time.monotonic()
        self.written = self.done
        parts = [f"{self.title}{self.unit} {self.done:,} of {self.total:,}"]
        if self.initial < self.done < self.total:
            seconds = (self.shown - self.started) / (self.done - self.initial)
            parts.append(f"{duration(seconds * (self.total - self.done))} left")
        parts += [f"{name}={text}" for name, text in self.figures.items()]
        print(", ".join(parts), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Shows the last count, unless it took too short to be of interest."""
        if self.done > self.written and self.lines and (self.figures or self.shown > self.started):
            self._write_line()
        self.bar.close()


def columns() -> int:
    """The width of the terminal that shows stderr, without the last column; $COLUMNS wins."""
    try:
        width = int(os.environ.get("COLUMNS") or os.get_terminal_size(2).columns)
    except (ValueError, OSError):
        width = 0
    return (width or 80) - 1


class Log:
    """The log of a run that has done `start` of its `steps`, and evaluated after step `evaluated`.

    Rank 0 writes a line for each step and for each evaluation to training_log.jsonl in
    --output_dir, and the same figures to --tensorboard. Lines that an earlier process logged beyond
    `start` and `evaluated` are removed: those steps are computed again.
    """

    STEPS_BEFORE_ETA = 5

    def __init__(
        self, args: argparse.Namespace, runtime, start: int, steps: int, evaluated: int = 0
    ):
        self.batch_size = args.train_batch_size
        self.is_main = runtime.is_main
        self.start = start
        self.steps = steps
        self.started = time.monotonic()
        self.last_added = self.started
        self.eta_shown = False
        self.file = None
        self.events = None
        self.bar = Bar(steps, "step", initial=start, quiet=not self.is_main)
        if self.is_main:
            path = os.path.join(args.output_dir, LOG)
            self.file = open(path, "ab", buffering=0)
            # Truncated in place rather than rewritten, since a kill may come at any time.
            self.file.truncate(size_until(path, start, evaluated))
            if args.tensorboard:
                # TensorBoard then hides what earlier event files hold of these steps.
                self.events = summary_writer()(args.tensorboard, purge_step=start + 1)

    def add(
        self, steps: Sequence[int], losses: Sequence[float], learning_rates: Sequence[float]
    ) -> None:
        """Logs steps (counted from 1) that have been computed since the last call."""
        now = time.monotonic()
        examples_per_second = len(steps) * self.batch_size / max(now - self.last_added, 1e-9)
        self.last_added = now

        for step, loss, learning_rate in zip(steps, losses, learning_rates):
            self._write(step, loss, float(learning_rate), examples_per_second)
        figures = {
            "loss": f"{losses[-1]:.4f}",
            "lr": f"{learning_rates[-1]:.2e}",
            "ex_s": f"{examples_per_second:.1f}",
        }
        self.bar.set_postfix(figures, refresh=False)
        self.bar.update(len(steps))
        self._show_eta(steps[-1], now)

    def add_evaluation(self, step, figures, metric, note):
        """Logs and shows the `figures` after `step`, of which `metric` is the main one, and a note.

        The time since the last step counts as the evaluation's, not as the next step's.
        """
        seconds = time.monotonic() - self.last_added
        self.last_added += seconds
        self.started += seconds

        finite = {name: x if math.isfinite(x) else None for name, x in figures.items()}
        self._write_line({"step": step, **finite})
        for name, figure in figures.items() if self.events else ():
            self.events.add_scalar(name, figure, step)

        self.bar.set_postfix({metric: f"{figures[metric]:.4f}"})
        shown = ", ".join(
            f"{name} {x}" if isinstance(x, int) else f"{name} {x:.4f}"
            for name, x in figures.items()
        )
        if self.is_main:
            self.bar.write(f"step {step} of {self.steps}: {shown} ({duration(seconds)}{note})")

    def _write_line(self, values):
        if self.file:
            try:
                self.file.write(f"{json.dumps(values)}\n".encode())
            except OSError as error:
                raise OSError(f"{self.file.name} could not be written: {error}") from None

    def _write(self, step, loss, learning_rate, examples_per_second):
        self._write_line({
            "step": step,
            "loss": loss,
            "learning_rate": learning_rate,
            "examples_per_second": round(examples_per_second, 2),
        })  # fmt: skip
        if self.events:
            self.events.add_scalar("loss", loss, step)
            self.events.add_scalar("learning_rate", learning_rate, step)
            self.events.add_scalar("examples/s", examples_per_second, step)

    def _show_eta(self, done, now):
        """Prints once, from the time of the first steps, how long the rest will take."""
        if self.eta_shown or done - self.start < self.STEPS_BEFORE_ETA or done == self.steps:
            return
        self.eta_shown = True
        seconds = (now - self.started) / (done - self.start)
        remaining = self.steps - done
        if self.is_main:
            self.bar.write(
                f"{seconds:.3g} s per step: the remaining {remaining:,} steps will take about "
                f"{duration(seconds * remaining)}"
            )

    def flush(self) -> None:
        """Puts everything that was added on the disk."""
        if self.events:
            self.events.flush()

    def close(self) -> None:
        self.bar.close()
        for file in (self.file, self.events):
            if file:
                file.close()


def size_until(path: str, step: int, evaluated: int) -> int:
    """How many bytes of a log are of steps up to `step` and of evaluations up to `evaluated`.

    A step's line has a loss, an evaluation's has none. A damaged line counts as one to keep, unless
    its end is missing.
    """
    size = 0
    with open(path, "rb") as file:
        for line in file:
            with suppress(ValueError, TypeError, KeyError):
                entry = json.loads(line)
                if entry["step"] > (step if "loss" in entry else evaluated):
                    break
            if not line.endswith(b"\n"):
                break
            size += len(line)
    return size


def duration(seconds: float) -> str:
    """Seconds in the two units that matter: "40 s", "12 min", "3 h 20 min", "2 d 5 h"."""
    minutes = seconds / 60
    hours = seconds // 3600
    days = seconds // 86400
    if minutes < 2:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes:.0f} min"
    if days < 2:
        return f"{hours:.0f} h {minutes % 60:.0f} min"
    return f"{days:.0f} d {hours % 24:.0f} h"
