"""What a training run shows and keeps of its steps: progress bar, JSON-lines log, TensorBoard."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from itertools import islice

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
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def set_postfix(self, figures: dict[str, str], refresh: bool = True) -> None:
        """Shows the figures, {name: text}, beside the count."""
        self.figures = figures
        self.bar.set_postfix(figures, refresh=refresh)

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
    """The log of a run that has done `start` of its `steps`.

    Rank 0 writes a line for each step to training_log.jsonl in --output_dir, and the same figures
    to --tensorboard. Lines beyond `start`, which an earlier process logged, are removed: those
    steps are computed again.
    """

    STEPS_BEFORE_ETA = 5

    def __init__(self, args: argparse.Namespace, runtime, start: int, steps: int):
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
            with open(path, "rb") as file:
                self.file.truncate(sum(map(len, islice(file, start))))
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

    def _write(self, step, loss, learning_rate, examples_per_second):
        if self.file:
            line = {
                "step": step,
                "loss": loss,
                "learning_rate": learning_rate,
                "examples_per_second": round(examples_per_second, 2),
            }
            try:
                self.file.write(f"{json.dumps(line)}\n".encode())
            except OSError as error:
                raise OSError(f"{self.file.name} could not be written: {error}") from None
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
