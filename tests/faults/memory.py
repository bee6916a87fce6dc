"""Long runs must not leak: compares memory and open files at one step and at a much later one."""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from jobs import ENVIRONMENT, LOG, Tally, make_jobs
from zygote import ROOT

GROWTH = 0.02  # growth of memory that is allowed, as a fraction
WINDOW = 20  # steps over which each figure is measured


def look(process):
    """(resident memory in MB, number of open files) of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0]) / 1e3
    return resident, len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def figures(process, log, first, last):
    """[(MB, open files)] at the steps first and last; kills the run afterwards."""
    found, done = {first: [], last: []}, 0
    while not log.exists() and process.poll() is None:
        time.sleep(0.01)
    with open(log, "rb") as lines:
        while process.poll() is None and done < last + WINDOW:
            done += lines.read().count(b"\n")
            for step, seen in found.items():
                if step <= done < step + WINDOW:
                    seen.append(look(process))
            time.sleep(0.002)
    process.kill()
    process.wait()
    # The minimum, because a checkpoint that is being written is one more open file.
    return [(median(m for m, _ in seen), min(n for _, n in seen)) for seen in found.values()]


def attack(folder, first, last):
    """Measures each job at the steps first and last.

    Returns a Tally of {(job, step): (MB, open files)}, empty on systems without /proc.
    """
    tally = Tally()
    if not Path("/proc/self/fd").is_dir():
        return tally
    for job in make_jobs(folder, steps=last + 2 * WINDOW):
        out = folder / f"{job.name}-long"
        command = [sys.executable, *job.command(out, "--save_checkpoints_steps=50")]
        process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            early, late = figures(process, out / LOG, first, last)
        finally:
            process.kill()
        tally.done[job.name, first], tally.done[job.name, last] = early, late
        if late[0] > early[0] * (1 + GROWTH):
            tally.fail("memory", [job.name], f"{early[0]:.1f} MB grow to {late[0]:.1f}")
        if late[1] > early[1]:
            tally.fail("open files", [job.name], f"{early[1]} grow to {late[1]}")
    return tally
