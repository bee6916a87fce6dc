"""The commands under attack: the real drivers on a tiny model and the project's samples."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent.parent)]

from helpers import SAMPLES, model_flags, write_tiny_model  # noqa: E402

import create_pretraining_data  # noqa: E402

STEPS, SAVED, BATCH = 12, 3, 4  # steps of a job, between checkpoints; batch size
WEIGHTS, LOG, INSTANCES = "pytorch_model.bin", "training_log.jsonl", "text.instances"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@dataclass
class Job:
    """A command without --output_dir, and the files that it must reproduce bit for bit.

    reference: the output folder of a run that was never stopped; phases: that run's phases.
    """

    name: str
    argv: list
    files: tuple
    reference: Path = None
    phases: list = None

    def command(self, out, *more):
        return [*self.argv, f"--output_dir={out}", *map(str, more)]

    def differences(self, out):
        """The names of what differs between a finished run and one that was never stopped."""
        reference = self.reference
        ours, theirs = (torch.load(f / WEIGHTS, weights_only=True) for f in (out, reference))
        bits = lambda tensor: tensor.contiguous().view(torch.uint8)  # noqa: E731
        found = [n for n in theirs if n not in ours or not bits(ours[n]).equal(bits(theirs[n]))]
        found += ours.keys() - theirs.keys()
        found += [n for n in self.files if (out / n).read_bytes() != (reference / n).read_bytes()]
        return found + ([LOG] if losses(out) != losses(reference) else [])

    def durations(self, phase):
        """How many seconds the reference run spent in a phase, for each time it entered it."""
        return [seconds for name, seconds in self.phases if name == phase]


def losses(out):
    """(step, loss) of every line of a training log; fails if a line was cut short."""
    entries = map(json.loads, (out / LOG).read_text("utf-8").splitlines())
    return [(entry["step"], entry["loss"]) for entry in entries]


def epochs(examples, steps):
    """The flag with which a job of this many examples takes this many steps."""
    return f"--num_train_epochs={(steps + 0.01) * BATCH / examples}"


def write_instances(folder):
    """Writes pre-training instances made from the contexts of the SQuAD sample."""
    dataset = json.loads((SAMPLES / "SQuAD" / "train-v1.1.json").read_text("utf-8"))
    contexts = [p["context"] for article in dataset["data"] for p in article["paragraphs"]]
    text = "\n\n".join(context.replace(". ", ".\n") for context in contexts)
    (folder / "text.txt").write_text(text, "utf-8")
    with contextlib.redirect_stdout(None):
        create_pretraining_data.main([
            f"--input_file={folder / 'text.txt'}", f"--output_file={folder / INSTANCES}",
            f"--vocab_file={folder / 'model' / 'vocab.txt'}", "--max_seq_length=32",
            "--max_predictions_per_seq=5", "--dupe_factor=1",
        ])  # fmt: skip


def make_jobs(folder, steps=STEPS):
    """A Job for every driver that trains. Their model and instances are written to `folder`."""
    model = folder / "model"
    if not model.exists():
        write_tiny_model(model, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        write_instances(folder)
    small = [f"--train_batch_size={BATCH}", f"--save_checkpoints_steps={SAVED}", "--no_cuda",
             "--keep_checkpoints=2", "--learning_rate=1e-3", *model_flags(model)]  # fmt: skip
    squad = SAMPLES / "SQuAD"
    return [
        Job("classifier", [
            "run_classifier.py", "--task_name=MRPC", f"--data_dir={SAMPLES / 'MRPC'}",
            "--do_train", "--do_eval", "--do_predict", "--max_seq_length=32", *small,
            epochs(300, steps),
        ], ("eval_results.txt", "test_results.tsv")),
        Job("squad", [
            "run_squad.py", "--do_train", f"--train_file={squad / 'train-v1.1.json'}",
            "--do_predict", f"--predict_file={squad / 'dev-v1.1.json'}", "--max_seq_length=64",
            "--max_query_length=24", "--doc_stride=32", *small, epochs(110, steps),
        ], ("eval_results.txt", "predictions.json", "nbest_predictions.json")),
        Job("pre-training", [
            "run_pretraining.py", "--do_train", "--do_eval", f"--input_file={folder / INSTANCES}",
            "--max_seq_length=32", "--max_predictions_per_seq=5", f"--num_train_steps={steps}",
            "--num_warmup_steps=2", "--max_eval_steps=20", *small,
        ], ("eval_results.txt",)),
    ]  # fmt: skip


@dataclass
class Ended:
    """How a run ended.

    status: the exit status, or minus the signal's number; output: stdout and stderr; phases:
    [(name, seconds spent in it)], the last one being where the run ended.
    """

    status: int
    output: str
    phases: list

    @property
    def last_line(self):
        return self.output.rstrip().rpartition("\n")[2]


class Zygote:
    """Runs commands in forks of one process that has already imported PyTorch; see zygote.py."""

    TIMEOUT = 120

    def __init__(self):
        # Runs print to a pipe, because a limit on file sizes does not apply to pipes.
        self.output, output = os.pipe()
        os.set_blocking(self.output, False)
        self.process = subprocess.Popen(
            [sys.executable, str(FOLDER / "zygote.py"), str(output)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=ENVIRONMENT, pass_fds=[output], bufsize=0,
        )  # fmt: skip
        os.close(output)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(self.TIMEOUT)
        self.process.stdout.close()
        os.close(self.output)

    def _line(self, deadline):
        """The zygote's next line, or None if the deadline passes first."""
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return None
            if not (data := os.read(self.process.stdout.fileno(), 2**16)):
                raise RuntimeError("the zygote has died")
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode()

    def run(self, argv, blows=(), hold=False, limit=None):
        """Runs a command; returns an Ended.

        blows: (phase, n, delay, signal) in order: the run gets the signal `delay` seconds after it
        enters the phase for the n-th time. With `hold` the run waits there for the last of them.
        limit: the largest size of a file, in bytes.
        """
        request = {"argv": argv, "hold": blows[-1][:2] if hold else None, "limit": limit}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        blows, entered, counts, pid = list(blows), [], Counter(), 0
        end = due = time.monotonic() + self.TIMEOUT
        while True:
            line = self._line(due)
            kind, _, value = (line or "").partition(" ")
            if line is None:  # a blow is due; if none is left, the run hangs
                number = blows.pop(0)[3] if due < end else signal.SIGKILL
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                due = end = max(end, time.monotonic() + self.TIMEOUT)
            elif kind == "pid":
                pid = int(value)
            elif kind == "phase":
                phase, _, seconds = value.rpartition(" ")
                entered.append((phase, float(seconds)))
                counts[phase] += 1
                if blows and blows[0][:2] == (phase, counts[phase]):
                    due = time.monotonic() + blows[0][2]
            else:
                entered.append(("", time.monotonic()))
                phases = [(p, b - a) for (p, a), (_, b) in zip(entered, entered[1:])]
                return Ended(int(value), self._printed(), phases)

    def _printed(self):
        parts = []
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.output, 2**16):
                parts.append(part)
        return b"".join(parts).decode("utf-8", "replace")

    def run_references(self, jobs, folder):
        """Runs each job without an attack, to get its reference output and its phases."""
        for job in jobs:
            job.reference = folder / f"{job.name}-never-stopped"
            ended = self.run(job.command(job.reference))
            if ended.status:
                raise RuntimeError(f"{job.name} fails without any attack: {ended.output}")
            job.phases = ended.phases

    def finish(self, job, out, story, tally):
        """Resumes an attacked job, compares its output with the reference and removes its folder.

        Returns the Ended; failures go to the tally.
        """
        ended = self.run(job.command(out))
        if ended.status:
            tally.fail("unusable", story, f"status {ended.status}: {ended.last_line}")
            return ended
        if different := job.differences(out):
            tally.fail("differing", story, f"other {', '.join(different)}")
        if left := [path.name for path in out.iterdir() if path.name.endswith(".tmp")]:
            tally.fail("leftovers", story, f"left behind: {', '.join(left)}")
        shutil.rmtree(out)
        return ended


class Tally:
    """What was done, counted by name, and what failed, as (kind, line)."""

    def __init__(self):
        self.done, self.failures = Counter(), []

    def fail(self, kind, story, what):
        self.failures.append((kind, f"{'; '.join(story)}: {what}"))

    def failed(self, kind):
        return sum(k == kind for k, _ in self.failures)
