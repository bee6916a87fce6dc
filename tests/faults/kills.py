"""Runs that are killed at random instants and restarted must end as if nothing had happened."""

import random
import shutil
import signal
import subprocess
import sys
import time

from jobs import ENVIRONMENT, LOG, STEPS, Tally, losses
from zygote import BETWEEN, CHECKPOINT, EVALUATION, FEATURISING, ROOT, STEP, WEIGHTS

NAMED = FEATURISING, STEP, CHECKPOINT, BETWEEN, EVALUATION
COMMAND, SIGNALS, FOLDERS = "at any instant of the command", "SIGTERM and SIGINT", "folders"
MOST = 4  # kills per output folder
# Exit statuses after a signal N: 128 + N, as shells report it, or -N, as subprocess does.
CONVENTIONAL = {
    signal.SIGTERM: (143, -signal.SIGTERM),
    signal.SIGINT: (130, -signal.SIGINT),
}


class Attack:
    """Kills runs of the jobs, each in a new output folder; the results are in self.tally."""

    def __init__(self, zygote, jobs, folder, seed):
        self.zygote, self.jobs, self.folder = zygote, jobs, folder
        self.rng, self.tally = random.Random(seed), Tally()

    def next_folder(self):
        """The next job, in turn, and a new output folder for it."""
        number = self.tally.done[FOLDERS]
        self.tally.done[FOLDERS] += 1
        return self.jobs[number % len(self.jobs)], self.folder / f"attacked-{number}"

    def plan(self, job, phase, first):
        """When to kill: at which entry into the phase, seconds after it, and whether to hold."""
        durations = job.durations(phase)
        entry = self.rng.randrange(len(durations)) if first else 0
        hold = phase == BETWEEN or self.rng.random() < 0.2
        # Kills are more frequent at the beginning of a phase, where files are renamed.
        share = self.rng.random() ** self.rng.choice((1, 4))
        return entry + 1, share * (0.002 if hold else durations[entry]), hold

    def life(self, job, out, phases):
        """Kills a run in each of these phases, restarting it in between, then lets it finish."""
        story = [job.name]
        for phase in phases:
            entry, delay, hold = self.plan(job, phase, first=len(story) == 1)
            ended = self.zygote.run(job.command(out), [(phase, entry, delay, signal.SIGKILL)], hold)
            hit = ended.phases[-1][0]
            story.append(f"{phase} {entry}{' held' * hold} +{delay:.6f} s: hit {hit}")
            if ended.status != -signal.SIGKILL:  # it ended before the kill
                if ended.status:
                    self.tally.fail("unusable", story, f"{ended.status}: {ended.last_line}")
                break
            self.tally.done[hit] += 1
        self.zygote.finish(job, out, story, self.tally)

    def kill(self, total, each):
        """Kills at least `total` times, and at least `each` times in every phase of NAMED."""
        done, phases = self.tally.done, [*NAMED, WEIGHTS]
        limit = done[FOLDERS] + 2 * total + 50
        while sum(done[p] for p in phases) < total or min(done[p] for p in NAMED) < each:
            if done[FOLDERS] > limit:
                raise RuntimeError(f"phases that cannot be hit: {dict(done)}")
            rarest = min(phases, key=lambda phase: (done[phase], self.rng.random()))
            chosen = [rarest, *self.rng.choices(phases, k=self.rng.randrange(MOST))]
            self.rng.shuffle(chosen)
            self.life(*self.next_folder(), chosen)

    def interrupt(self, times):
        """Sends SIGTERM or SIGINT inside a step; then SIGTERM and, in its checkpoint, SIGKILL."""
        for index in range(times):
            job, out = self.next_folder()
            number = (signal.SIGTERM, signal.SIGINT)[index // len(self.jobs) % 2]
            command = job.command(out, "--save_checkpoints_steps=1000")  # only the signal's
            training = sum(job.durations(STEP))
            delay = self.rng.uniform(0, training)
            ended = self.zygote.run(command, [(STEP, 1, delay, number)])
            story = [job.name, f"{number.name} after {delay:.6f} s"]
            done = len(losses(out)) if (out / LOG).exists() else 0
            saved = [path.name for path in out.glob("checkpoint-*")]
            told = f"after step {done} of {STEPS}: the same command resumes from {out}"
            early = ended.phases[-1][0] in (STEP, CHECKPOINT)
            kept = told in ended.output and saved == [f"checkpoint-{done}.pt"]
            over = done == STEPS and ended.status in CONVENTIONAL[number]  # it came after training
            if ended.status not in CONVENTIONAL[number] and (early or ended.status):
                self.tally.fail("unusable", story, f"status {ended.status}: {ended.last_line}")
            elif early and not over and not kept:
                self.tally.fail("differing", story, f"{ended.last_line}; {', '.join(saved)}")
            self.tally.done[SIGNALS] += early
            for _ in range(2):  # a scheduler that stops a run, then kills it soon after
                blows = [(STEP, 1, self.rng.uniform(0, training / 3), signal.SIGTERM),
                         (CHECKPOINT, 1, self.rng.uniform(0, 0.006), signal.SIGKILL)]  # fmt: skip
                ended = self.zygote.run(command, blows)
                self.tally.done[ended.phases[-1][0]] += ended.status == -signal.SIGKILL
            self.zygote.finish(job, out, story, self.tally)

    def kill_commands(self, times):
        """Kills commands started without the zygote, at any instant, then lets each finish."""
        for _ in range(times):
            job, out = self.next_folder()
            seconds = []
            for share in (1, self.rng.uniform(0.3, 0.95)):
                began = time.monotonic()
                process = subprocess.Popen([sys.executable, *job.command(out)], cwd=ROOT,
                                           env=ENVIRONMENT, stdout=subprocess.DEVNULL,
                                           stderr=subprocess.DEVNULL)  # fmt: skip
                try:
                    process.wait(share * seconds[0] if seconds else 120)
                except subprocess.TimeoutExpired:
                    process.kill()
                seconds.append(time.monotonic() - began)
                if process.wait() == -signal.SIGKILL:
                    self.tally.done[COMMAND] += 1
                else:
                    shutil.rmtree(out)
            self.zygote.finish(job, out, [job.name, f"killed after {seconds[1]:.3f} s"], self.tally)


def attack(zygote, jobs, folder, seed, kills, each, interrupts, commands):
    """Makes all of these attacks; returns a Tally."""
    attack = Attack(zygote, jobs, folder, seed)
    attack.kill(kills, each)
    attack.interrupt(interrupts)
    attack.kill_commands(commands)
    return attack.tally
