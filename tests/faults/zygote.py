"""Runs drivers one after another, each in a fork of a process that has already imported PyTorch.

Its argument is the file descriptor to which the runs print. It reads one request per line,
{"argv", "hold", "limit"}, and writes "pid N", then "phase NAME SECONDS" whenever the run enters
another phase, then "exit STATUS" (minus the signal's number for a killed run). A run is the script,
executed as __main__ in its own process, so that SIGKILL affects it as it would the command. Its
phase is recognised from outside, by the files that it opens, renames and removes.
"""

import importlib
import json
import os
import resource
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

FEATURISING, STEP, CHECKPOINT, BETWEEN, WEIGHTS, EVALUATION = PHASES = (
    "featurising", "inside a step", "in a checkpoint's write", "between rename and removal",
    "in the weights' write", "in evaluation or prediction",
)  # fmt: skip
DESCRIPTIONS = (
    "bert_config.json", "vocab.txt", "config.json", "tokenizer_config.json", "run.json",
)  # fmt: skip


class Watch:
    """An audit hook that reports each new phase of a run and can hold the run at one of them.

    hold: [phase, n] or None: the run sleeps when it enters the phase for the n-th time, so that it
    can be killed there.
    """

    def __init__(self, argv, hold):
        flags = dict(flag.split("=", 1) for flag in argv if "=" in flag)
        self.out = flags["--output_dir"]
        self.sources = tuple(
            flags[n] for n in ("--data_dir", "--train_file", "--input_file") if n in flags
        )
        self.keep = int(flags["--keep_checkpoints"])
        self.hold, self.phase, self.busy = hold, "start", False
        self.renamed, self.counts = None, dict.fromkeys(PHASES, 0)

    def __call__(self, event, values):
        if self.busy or event not in ("open", "os.rename", "os.remove", "os.scandir", "os.listdir"):
            return
        self.busy = True
        try:
            self._on_event(event, values)
        finally:
            self.busy = False

    def _on_event(self, event, values):
        if self.renamed:  # the hook runs before a rename; by now it is done
            if self.renamed.endswith(".pt"):
                found = [n for n in os.listdir(self.out) if n.endswith(".pt")]
                self.enter(BETWEEN if len(found) > self.keep else STEP)
            else:
                self.enter(EVALUATION)
            self.renamed = None
        path = values[0] if values else None
        if not isinstance(path, str):
            return
        inside, name = path.startswith(self.out), os.path.basename(path)
        if event == "open" and path.startswith(self.sources) and self.phase == "start":
            self.enter(FEATURISING)
        elif event == "os.rename" and inside:
            if name.startswith("checkpoint-") or name == "pytorch_model.bin.tmp":
                self.renamed = values[1]
        elif event == "os.remove" and inside and name.endswith(".pt"):
            self.enter(STEP)
        elif event == "open" and inside and set(values[1] or "r") & set("wa+x"):
            if name == "training_log.jsonl" or name.endswith(".jsonl.tmp"):
                self.enter(STEP)
            elif name.startswith("checkpoint-"):
                self.enter(CHECKPOINT)
            elif name.removesuffix(".tmp") in DESCRIPTIONS:
                pass  # with each checkpoint and with the weights
            elif self.phase == STEP and name.endswith(".tmp"):
                self.enter(WEIGHTS)

    def enter(self, phase):
        if phase == self.phase:
            return
        self.phase = phase
        self.counts[phase] += 1
        tell(f"phase {phase} {time.monotonic()}")
        if self.hold == [phase, self.counts[phase]]:
            time.sleep(600)


def tell(line):
    """Writes a line to the process that reads the events."""
    os.write(EVENTS, f"{line}\n".encode())


def run(request):
    """Runs the driver in this process; returns its exit status."""
    for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), OUTPUT, OUTPUT)):
        os.dup2(file, number)
    os.chdir(ROOT)
    sys.argv = request["argv"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"],) * 2)
    sys.addaudithook(Watch(sys.argv, request["hold"]))
    try:
        runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main():
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            status = run(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        tell(f"pid {pid}")
        _, status = os.waitpid(pid, 0)
        tell(f"exit {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    EVENTS, OUTPUT = os.dup(1), int(sys.argv[1])
    sys.path.insert(0, str(ROOT))
    # torch._dynamo because PyTorch's optimizers import it, which takes a second.
    for module in (*(path.stem for path in ROOT.glob("run_*.py")), "torch._dynamo"):
        importlib.import_module(module)
    main()
