"""A disk that fills up at a random moment: one line reports it, and the run can be resumed."""

import random
import re
import signal
import subprocess
import sys

from jobs import Tally
from zygote import EVALUATION, WEIGHTS

import checkpoint

LIMITS, DISKS = "limits on a file's size", "full disks"
ROOM = "16m"
PAGE = 4096
TOLD = re.compile(r"run_\w+\.py: error: (\S+) could not be written( \([\d,.]+ MB\))?: "
                  r"(?:\[Errno \d+\] )?(File too large|No space left on device)")  # fmt: skip


def mount(folder, *options):
    """Mounts a disk in memory on the folder; returns whether that is possible here."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    try:
        return not subprocess.run(command, capture_output=True).returncode
    except FileNotFoundError:
        return False


def fill(zygote, job, out, story, tally, limit=None):
    """Runs a job until the disk is full; checks its message and the checkpoints it leaves.

    Returns False if the job succeeded, otherwise the path of its newest checkpoint, or True if it
    has none.
    """
    ended = zygote.run(job.command(out), limit=limit)
    story.append(ended.last_line.replace(str(out), "OUT"))
    if ended.status == 0:
        return False
    told = TOLD.fullmatch(ended.last_line)
    if ended.status != 2 or not told or not told[1].startswith(str(out)):
        tally.fail("badly told", story, f"status {ended.status}")
    elif "Traceback" in ended.output:
        tally.fail("badly told", story, "a traceback")
    found = list(checkpoint.checkpoints(str(out)).values())
    for path in found:
        checkpoint.read_tensors(path)
    return found[0] if found else True


def go_on(zygote, job, out, story, tally, newest):
    """Runs the job again, with room, and checks that it resumes from the newest checkpoint."""
    ended = zygote.finish(job, out, story, tally)
    if isinstance(newest, str) and f"resuming from {newest}" not in ended.output:
        tally.fail("differing", story, f"did not resume from {newest}")


def attack(zygote, jobs, folder, seed, times):
    """Runs each job `times` times with a limit on file sizes and `times` times on a small disk.

    Returns a Tally.
    """
    rng, tally, disk = random.Random(seed), Tally(), folder / "disk"
    disk.mkdir()
    for job in [job for job in jobs for _ in range(times)]:
        sizes = sorted(path.stat().st_size for path in job.reference.iterdir())
        out, limit = folder / "limited", rng.randrange(rng.choice(sizes))
        story = [job.name, f"no file beyond {limit} bytes"]
        if phase := rng.choice((None, WEIGHTS, EVALUATION)):
            zygote.run(job.command(out), [(phase, 1, 0.0, signal.SIGKILL)], hold=True)
            story.append(phase)
        if newest := fill(zygote, job, out, story, tally, limit):
            tally.done[LIMITS] += 1
        go_on(zygote, job, out, story, tally, newest)
        pages = rng.randrange(1, (sum(sizes) + sizes[-1]) // PAGE)
        story = [job.name, f"a disk of {pages * PAGE} bytes"]
        if sys.platform != "linux" or not mount(disk, f"size={pages * PAGE}"):
            continue
        try:
            if newest := fill(zygote, job, disk / "out", story, tally):
                tally.done[DISKS] += 1
            mount(disk, "remount", f"size={ROOM}")
            go_on(zygote, job, disk / "out", story, tally, newest)
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return tally
