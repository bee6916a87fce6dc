"""Runs that are killed at random instants and started again must end as if nothing had happened."""

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
MOST = 4  # kills in the life of one output folder
CONVENTIONAL = {  # A shell shows a death by signal N as 128 + N.
    signal.SIGTERM: (143, -signal.SIGTERM),
    signal.SIGINT: (130, -signal.SIGINT),
}


class Attack:
    def __init__(self, zygote, jobs, folder, seed):
        self.zygote, self.jobs, self.folder = zygote, jobs, folder
        self.rng, self.tally = random.Random(seed), Tally()

    def next_folder(self):
        """A job, and a folder for its output; the jobs take turns."""
        number = self.tally.done[FOLDERS]
        self.tally.done[FOLDERS] += 1
        return self.jobs[number % len(self.jobs)], self.folder / f"attacked-{number}"

    def plan(self, job, phase, first):
        """When to kill: in which entry of a phase, how long after it, and whether it waits."""
        durations = job.durations(phase)
        entry = self.rng.randrange(len(durations)) if first else 0
        hold = phase == BETWEEN or self.rng.random() < 0.2
        # The beginning of a phase, where files change their names, is hit more often.
        share = self.rng.random() ** self.rng.choice((1, 4))
        return entry + 1, share * (0.002 if hold else durations[entry]), hold

    def life(self, job, out, phases):
        """Kills one output folder's run in these phases, one after the other, then lets it end."""
        story = [job.name]
        for phase in phases:
            entry, delay, hold = self.plan(job, phase, first=len(story) == 1)
            ended = self.zygote.run(job.command(out), [(phase, entry, delay, signal.SIGKILL)], hold)
            hit = ended.phases[-1][0]
            story.append(f"{phase} {entry}{' held' * hold} +{delay:.6f} s: hit {hit}")
            if ended.status != -signal.SIGKILL:  # It was over before.
                if ended.status:
                    self.tally.fail("unusable", story, f"{ended.status}: {ended.last_line}")
                break
            self.tally.done[hit] += 1
        self.zygote.finish(job, out, story, self.tally)

    def kill(self, total, each):
        """At least `total` kills, and `each` in every named phase of all jobs together."""
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
        """SIGTERM and SIGINT inside a step; then SIGKILLs while their checkpoint is written."""
        for index in range(times):
            job, out = self.next_folder()
            number = (signal.SIGTERM, signal.SIGINT)[index // len(self.jobs) % 2]
            command = job.command(out, "--save_checkpoints_steps=1000")  # none but the signal's
            training = sum(job.durations(STEP))
            delay = self.rng.uniform(0, training)
            ended = self.zygote.run(command, [(STEP, 1, delay, number)])
            story = [job.name, f"{number.name} after {delay:.6f} s"]
            done = len(losses(out)) if (out / LOG).exists() else 0
            saved = [path.name for path in out.glob("checkpoint-*")]
            told = f"after step {done} of {STEPS}: the same command goes on from {out}"
            early = ended.phases[-1][0] in (STEP, CHECKPOINT)
            kept = told in ended.output and saved == [f"checkpoint-{done}.pt"]
            over = done == STEPS and ended.status == -number  # training is; its handlers are gone
            if ended.status not in CONVENTIONAL[number] and (early or ended.status):
                self.tally.fail("unusable", story, f"status {ended.status}: {ended.last_line}")
            elif early and not over and not kept:
                self.tally.fail("differing", story, f"{ended.last_line}; {', '.join(saved)}")
            self.tally.done[SIGNALS] += early
            for _ in range(2):  # An impatient machine.
                blows = [(STEP, 1, self.rng.uniform(0, training / 3), signal.SIGTERM),
                         (CHECKPOINT, 1, self.rng.uniform(0, 0.006), signal.SIGKILL)]  # fmt: skip
                ended = self.zygote.run(command, blows)
                self.tally.done[ended.phases[-1][0]] += ended.status == -signal.SIGKILL
            self.zygote.finish(job, out, story, self.tally)

    def kill_commands(self, times):
        """The same with the commands themselves, at any instant from their start on."""
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
    """All of these attacks; returns a Tally."""
    attack = Attack(zygote, jobs, folder, seed)
    attack.kill(kills, each)
    attack.interrupt(interrupts)
    attack.kill_commands(commands)
    return attack.tally
