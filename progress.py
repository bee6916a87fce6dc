"""What a training run shows and keeps of its steps: progress bar, JSON-lines log, TensorBoard.

And what stops it between two checkpoints: a loss that is no number, or a signal.
"""

import json
import math
import os
import signal
import sys
import time
from itertools import islice

import torch
from tqdm import tqdm

from files import LOG


def summary_writer():
    """The class that writes TensorBoard's files. Raises ValueError where the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "--tensorboard needs the package tensorboard: pip install tensorboard"
        ) from None
    return SummaryWriter


class Log:
    """The log of a run that has done `first` of its `steps`.

    Rank 0 writes training_log.jsonl to --output_dir, a line for each step, and the same figures to
    --tensorboard. What an earlier process logged beyond `first` is done again, and replaced.
    """

    EVERY = 10  # steps between two looks at a GPU, each of which waits for it
    TIMED = 5  # steps after which the time that is left is told

    def __init__(self, args, runtime, first, steps):
        self.runtime, self.batch_size, self.steps = runtime, args.train_batch_size, steps
        self.pending, self.signal, self.output_dir = [], 0, args.output_dir
        self.first, self.begin = first, time.monotonic()
        self.last_look, self.told = self.begin, False
        self.file = self.events = None
        self.handlers = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        self.bar = tqdm(
            total=steps, initial=first, unit="step", disable=not runtime.is_main,
            dynamic_ncols=True, mininterval=0.5,
        )  # fmt: skip
        if runtime.is_main:
            path = os.path.join(args.output_dir, LOG)
            self.file = open(path, "ab", buffering=0)
            with open(path, "rb") as file:  # Cut, not written anew: a kill may come at any time.
                self.file.truncate(sum(map(len, islice(file, first))))
            if args.tensorboard:
                # TensorBoard hides what earlier files hold of these steps.
                self.events = summary_writer()(args.tensorboard, purge_step=first + 1)

    def _on_signal(self, number, _):
        if self.signal:  # asked twice
            raise KeyboardInterrupt
        self.signal = number

    def add(self, step, loss, learning_rate, look):
        """Notes a step; returns whether the run was asked to stop. Raises ValueError for a NaN.

        `look`: a checkpoint follows, so that everything up to here must be known and on the disk.
        """
        self.pending.append((step, learning_rate, loss))
        if self.runtime.device.type == "cuda" and not look and (step + 1) % self.EVERY:
            return False
        numbers = torch.stack([loss for *_, loss in self.pending] + [loss.new_tensor(self.signal)])
        *losses, signals = self.runtime.sum(numbers).tolist()
        now = time.monotonic()
        rate = len(losses) * self.batch_size / max(now - self.last_look, 1e-9)
        self.last_look = now
        for (step, learning_rate, _), loss in zip(self.pending, losses):
            if not math.isfinite(loss):
                raise ValueError(
                    f"the loss at step {step + 1} is {loss}: stopped; the last checkpoint is kept. "
                    f"Lower --learning_rate, or use float32"
                )
            self._write(step + 1, loss, float(learning_rate), rate)
        if self.events and look:
            self.events.flush()
        self.bar.set_postfix(
            loss=f"{losses[-1]:.4f}", lr=f"{learning_rate:.2e}", ex_s=f"{rate:.1f}", refresh=False
        )
        self.bar.update(len(losses))
        self._tell_time(step + 1, now)
        self.pending.clear()
        return signals > 0

    def _write(self, step, loss, learning_rate, rate):
        if self.file:
            line = {
                "step": step, "loss": loss, "learning_rate": learning_rate,
                "examples_per_second": round(rate, 2),
            }  # fmt: skip
            try:
                self.file.write(f"{json.dumps(line)}\n".encode())
            except OSError as error:
                raise OSError(f"{self.file.name} could not be written: {error}") from None
        if self.events:
            figures = {"loss": loss, "learning_rate": learning_rate, "examples/s": rate}
            for name, value in figures.items():
                self.events.add_scalar(name, value, step)

    def _tell_time(self, done, now):
        """Says once how long the rest will take, from the first steps' time."""
        if self.told or done - self.first < self.TIMED or done == self.steps:
            return
        self.told = True
        each = (now - self.begin) / (done - self.first)
        if self.runtime.is_main:
            self.bar.write(
                f"{each:.3g} s a step: the other {self.steps - done:,} steps will take about "
                f"{duration(each * (self.steps - done))}"
            )

    def stopped(self, step):
        """Ends the process that a signal asked to stop, with the conventional exit status."""
        self.close()
        self.runtime.print(
            f"stopped by a signal after step {step} of {self.steps}: "
            f"the same command goes on from {self.output_dir}"
        )
        sys.exit(128 + (self.signal or signal.SIGTERM))

    def close(self):
        self.bar.close()
        for file in (self.file, self.events):
            if file:
                file.close()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


def duration(seconds):
    """Seconds in the two units that matter: "40 s", "12 min", "3 h 20 min", "2 d 5 h"."""
    minutes, hours, days = seconds / 60, seconds // 3600, seconds // 86400
    if minutes < 2:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes:.0f} min"
    if days < 2:
        return f"{hours:.0f} h {minutes % 60:.0f} min"
    return f"{days:.0f} d {hours % 24:.0f} h"
