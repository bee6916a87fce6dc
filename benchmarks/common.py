"""What the benchmarks share: timing in turns, tables of ratios, the machine, the data.

Machines are shared and noisy, so contenders take turns (A B C, B C A, …) on the same input. The
figures are medians of the ratios within each round, with the range of the middle half.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import threading
import time
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def parse_args(description, **extra):
    """Parses --quick, --json FILE, --threads N and the benchmark's own flags.

    Those are given as name=(default, help).
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, small sizes only")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="number of PyTorch's threads"
    )
    for name, (default, text) in extra.items():
        kind = type(default)
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{text} ({default})")
    args = parser.parse_args()
    # Before the libraries are loaded, because they read these variables only once.
    os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if not getattr(args, "child", ""):  # The output of a child is read by its parent.
        threading.Thread(target=_repeat_progress, daemon=True).start()
    return args


PROGRESS = {"line": "", "time": float("-inf")}
SILENCE = 25  # seconds after which the last line of progress is printed again


def progress(line):
    """Prints to stderr what is measured next, at most twice a second."""
    now = time.monotonic()
    PROGRESS["line"] = line
    if now > PROGRESS["time"] + 0.5:
        PROGRESS["time"] = now
        print(f"… {line}", file=sys.stderr, flush=True)


def _repeat_progress():
    """Runs in a thread that sleeps almost all the time, so as not to disturb measurements."""
    while True:
        time.sleep(1)
        if PROGRESS["line"] and time.monotonic() > PROGRESS["time"] + SILENCE:
            progress(PROGRESS["line"])


def precisions(asked=""):
    """Names of the precisions to measure: `asked`, or both.

    Where bfloat16 is emulated it is left out, and the reason is printed. Exits if none is left.
    """
    names = [asked] if asked else ["float32", "bfloat16"]
    reason = why_not_bfloat16()
    if reason and "bfloat16" in names:
        print(f"bfloat16 is left out: {reason} (BERT_FORCE_BF16=1 measures it)", flush=True)
        names.remove("bfloat16")
    if not names:
        sys.exit("nothing is left to measure")
    return names


def why_not_bfloat16():
    """Why products in bfloat16 are emulated on the CPU; "" where they are native."""
    import precision

    return precision.emulation("cpu")


def machine(threads):
    """Date, processor, threads, and the versions of the libraries that are loaded."""
    import precision

    name = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        name = names[0] if names else name
    libraries = ("torch", "transformers", "tokenizers", "tensorflow", "numpy")
    versions = {
        library: getattr(sys.modules.get(library), "__version__", None) for library in libraries
    }
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": name,
        "instructions": precision.instruction_sets(),
        "threads": threads,
        "python": platform.python_version(),
        **{library: version for library, version in versions.items() if version},
    }


def interleave(contenders, rounds, warmup=1, before=lambda: None):
    """Times {name: function of the round's number} in turns; each round starts with another one.

    `before` is called before each call and is not timed. Returns {name: [seconds of each round]}.
    """
    seconds = {name: [] for name in contenders}
    order = deque(contenders)
    for number in range(-warmup, rounds):
        for name in order:
            round_name = f"round {number + 1} of {rounds}" if number >= 0 else "warm-up"
            progress(f"{name}, {round_name}")
            before()
            start = time.perf_counter()
            contenders[name](max(number, 0))
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
        order.rotate(-1)  # A contender that follows a large one finds its memory warm.
    return seconds


def spread(values):
    """The median of some figures, and the range of the middle half."""
    values = sorted(values)
    low, high = values[len(values) // 4], values[(3 * len(values) - 1) // 4]
    return {"median": statistics.median(values), "low": low, "high": high}


def ratios(seconds, baseline):
    """How many times as fast as `baseline` each contender is, from the ratios of all rounds."""
    return {
        name: spread([b / a for a, b in zip(times, seconds[baseline])])
        for name, times in seconds.items()
    }


def peak_memory():
    """The largest resident set of this process, in MB."""
    if os.path.exists("/proc/self/status"):
        # getrusage also counts what the parent held when it started this process.
        with open("/proc/self/status", encoding="utf-8") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def text(figure):
    return f"{figure['median']:.2f} ({figure['low']:.2f}–{figure['high']:.2f})"


def table(title, header, rows):
    """Prints a Markdown table, under its title and the CPU's instruction sets."""
    facts = machine(0)
    print(f"\n{title}\n\n{facts['processor']}: {facts['instructions']}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def finish(args, figures):
    """Prints the machine and writes the JSON file."""
    facts = machine(args.threads)
    print("\n" + ", ".join(f"{name} {value}" for name, value in facts.items()))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"machine": facts, "command": sys.argv, "figures": figures}, file, indent=1)


# The two shapes of the model, and where data and vocabulary come from.

SHAPES = {
    "384-wide": {
        "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    "BERT-Base": {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
}  # fmt: skip


def folder(variable, sample):
    return os.environ.get(variable) or str(ROOT / "samples" / sample)


def mrpc_dir():
    return (
        str(Path(os.environ["GLUE_DIR"]) / "MRPC")
        if "GLUE_DIR" in os.environ
        else folder("", "MRPC")
    )


def squad_dir():
    return folder("SQUAD_DIR", "SQuAD")


def vocab_file():
    """The vocabulary in $BERT_BASE_DIR, or that of the demo checkpoint (make checkpoint)."""
    base = os.environ.get("BERT_BASE_DIR") or ROOT / ".demo" / "tensorflow"
    path = Path(base) / "vocab.txt"
    if not path.exists():
        sys.exit(f"{path} does not exist: set BERT_BASE_DIR, or run make checkpoint")
    return str(path)
