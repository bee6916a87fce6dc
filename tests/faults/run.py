"""Attacks the drivers and the parsers, and prints how they held up.

    python tests/faults/run.py [--quick] [--only kills,disk,flips,fuzz,memory] [--kills 200] …

The exit status is 1 if anything failed. The seed is printed. The same seed chooses the same
attacks, but a kill after the same delay need not hit the same instruction.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import disk
import flips
import fuzz
import kills
import memory
from jobs import Zygote, make_jobs

PARTS = "kills", "disk", "flips", "fuzz", "memory"
LONG = {"kills": 240, "each": 25, "commands": 12, "disks": 20, "flips": 60_000,
        "inputs": 1_000_000, "steps": 2000}  # fmt: skip
QUICK = {"kills": 24, "each": 2, "commands": 2, "disks": 3, "flips": 3000, "inputs": 40_000,
         "steps": 400}  # fmt: skip


def parse_args():
    parser = argparse.ArgumentParser(description="Attacks on the drivers and the parsers.")
    parser.add_argument("--quick", action="store_true", help="the short version of everything")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, comma-separated")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of all random choices")
    for name, number in LONG.items():
        parser.add_argument(f"--{name}", type=int, help=f"{number}; with --quick {QUICK[name]}")
    args = parser.parse_args()
    args.only = args.only.split(",")
    if unknown := set(args.only) - set(PARTS):
        parser.error(f"--only {unknown.pop()}: one of {', '.join(PARTS)}")
    for name, number in (QUICK if args.quick else LONG).items():
        if getattr(args, name) is None:
            setattr(args, name, number)
    return args


def table(*rows):
    """Prints rows of cells as a Markdown table; the first row is the heading."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
    print(flush=True)


def run_kills(args, folder):
    jobs = make_jobs(folder)
    with Zygote() as zygote:
        zygote.run_references(jobs, folder)
        tally = kills.attack(
            zygote, jobs, folder, args.seed, args.kills, args.each, args.kills // 8, args.commands
        )
    folders = tally.done.pop(kills.FOLDERS)
    signals = tally.done.pop(kills.SIGNALS)
    print(f"{tally.done.total()} kills (SIGKILL) of {', '.join(job.name for job in jobs)}:")
    table(("phase", "kills"), *tally.done.most_common())
    table(
        ("output folders", "SIGTERM, SIGINT", "differing", "unusable", "with leftovers"),
        (folders, signals, *map(tally.failed, ("differing", "unusable", "leftovers"))),
    )
    return tally


def run_disk(args, folder):
    jobs = make_jobs(folder)
    with Zygote() as zygote:
        zygote.run_references(jobs, folder)
        tally = disk.attack(zygote, jobs, folder, args.seed, args.disks)
    if not tally.done[disk.DISKS]:
        print("no small disk: mounting one is not permitted here")
    kinds = "badly told", "differing", "unusable", "leftovers"
    table(("the disk is full", "times"), *tally.done.items())
    table(kinds, map(tally.failed, kinds))
    return tally


def run_flips(args, folder):
    tally = flips.attack(folder, args.seed, args.flips)
    outcomes = flips.REFUSED, flips.HARMLESS, flips.SILENT
    rows = [
        (kind, damage, counts.total(), *(counts[outcome] for outcome in outcomes))
        for (kind, damage), counts in flips.count(tally).items()
    ]
    table(("file", "damage", "times", *outcomes), *rows)
    return tally


def run_fuzz(args, folder):
    tally = fuzz.attack(folder, args.seed, args.inputs)
    rows = [
        (name, f"{facts['inputs']:,}", len(facts["failures"]), f"{facts['slowest']:.2f}",
         "{:.0f} ({:+.0f})".format(facts["memory"][1], facts["memory"][1] - facts["memory"][0]))
        for name, facts in tally.done.items()
    ]  # fmt: skip
    total = sum(facts["inputs"] for facts in tally.done.values())
    heading = "parser", "inputs", "undocumented", "slowest, s", "peak memory, MB (above the start)"
    table(heading, *rows, ("all", f"{total:,}", len(tally.failures), "", ""))
    return tally


def run_memory(args, folder):
    tally = memory.attack(folder, 100, args.steps)
    rows = [(*key, f"{size:.1f}", files) for key, (size, files) in tally.done.items()]
    table(("run", "step", "memory, MB", "open files"), *rows)
    return tally


def main():
    args, failures, seconds = parse_args(), [], []
    print(f"seed {args.seed}\n", flush=True)
    shared = Path("/dev/shm")  # in memory, so that syncing is fast
    for part in args.only:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as f:
            print(f"== {part}", flush=True)
            tally = globals()[f"run_{part}"](args, Path(f).resolve())
        failures += [f"{part}: {kind}: {line}" for kind, line in tally.failures]
        seconds.append((part, f"{time.monotonic() - began:.0f}"))
    table(("part", "seconds"), *seconds)
    print("\n".join(failures) or "nothing failed")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
