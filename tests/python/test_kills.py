"""SIGKILL at any moment: the run is taken up from its newest complete checkpoint, with other memory
and threads each time, and its curve is that of a run that was never cut off."""

import functools
import random
import subprocess

import pytest
from conftest import BINARY
from kills import CALLS, DISK_CALLS, POINTS, Run, in_memory, over_disk, random_fault

# A dozen, so that each kind of moment is among them: the first and a later call of some. Taken from
# the end; the jobs are in turn in memory and over a disk.
FEW = ["checkpoint.begin:1", "checkpoint.tensor:9", "checkpoint.manifest:2", "directory.synced:2",
       "directory.committed:2", "checkpoint.pruned:1", "step.chunk:20", "step.reported:4",
       "file.write@optimizer.safetensors:30", "file.sync:9", "file.rename:5", "copy:99"]

OPTIMIZERS = {"memory": "adamw", "disk": "adamw", "disk_8bit": "adamw_8bit"}


class Jobs:
    """Jobs by where their chunks are: `memory`, `disk` and `disk_8bit`."""

    def __init__(self, model, data, base):
        self.model, self.data, self.base = model, data, base

    @functools.cache
    def memory(self, place):
        flags = ["--optimizer", OPTIMIZERS[place]]
        if place == "memory":
            return in_memory(self.model, *flags)
        (self.base / place).mkdir()
        return over_disk(self.model, self.base / place, *flags)

    def make(self, place, out, limit=1, first=0):
        return Run(self.model, self.data, out, self.memory(place), limit, first,
                   optimizer=OPTIMIZERS[place])

    @functools.cache
    def whole(self, optimizer):
        """Curve and weights of one that was left alone, all of it in memory."""
        run = Run(self.model, self.data, self.base / optimizer,
                  in_memory(self.model, "--optimizer", optimizer)[-1:], 1, optimizer=optimizer)
        return run.finish()

    def expect_whole(self, place, run):
        assert run.finish() == self.whole(OPTIMIZERS[place])


@pytest.fixture(scope="module")
def jobs(models, data, tmp_path_factory):
    return Jobs(models["gpt2"], data, tmp_path_factory.mktemp("jobs"))


def test_a_dozen_kills(jobs, tmp_path):
    """One after the other on the same job, until it is done; then on the next."""
    killed, job = 0, 0
    faults = list(FEW)
    while faults:
        place = "disk" if job % 2 else "memory"
        run = jobs.make(place, tmp_path / str(job), limit=1 + job % 2)
        job += 1
        while faults and run.cut_off(faults.pop() + "=kill"):
            killed += 1
        jobs.expect_whole(place, run)
    assert killed >= 11  # the last of a job may come when it is done


@pytest.mark.slow
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_kills_at_every_point_and_call(jobs, tmp_path, place):
    """Each point and each kind of call, at its first, second, ... occurrence, on a fresh job; from
    the disk taken up in memory, and from some of it there by all of it."""
    killed = 0
    for site in POINTS + CALLS + (DISK_CALLS if place == "disk" else []):
        for call in (1, 2, 3, 4, 5, 6, 8, 13, 21, 34):
            run = jobs.make(place, tmp_path / f"{site}-{call}", limit=1 + call % 2,
                            first=2 * (call % 2))
            killed += run.cut_off(f"{site}:{call}=kill")
            jobs.expect_whole(place, run)
    assert killed >= (130 if place == "memory" else 145), killed


@pytest.mark.slow
@pytest.mark.parametrize("place,count", [("memory", 100), ("disk", 120), ("disk_8bit", 80)])
def test_kills_at_random(jobs, tmp_path, place, count):
    generator = random.Random(place)
    killed, job = 0, 0
    while killed < count:
        run = jobs.make(place, tmp_path / str(job), limit=1 + job % 2, first=job % 4)
        job += 1
        for _ in range(generator.randint(1, 6)):
            fault = random_fault(generator, disk=place != "memory")
            if not run.cut_off(fault):
                break
            killed += 1
        jobs.expect_whole(place, run)


@pytest.mark.slow
@pytest.mark.parametrize("place,count", [("memory", 40), ("disk", 40)])
def test_kills_by_the_clock(jobs, tmp_path, place, count):
    """Moments that no seam has: a signal from outside, at a random time."""
    generator = random.Random(21)
    killed, job = 0, 0
    while killed < count:
        run = jobs.make(place, tmp_path / str(job), limit=1 + job % 2, first=job % 4)
        job += 1
        for _ in range(4):
            before = run.checkpoints()
            process = subprocess.Popen([BINARY, *run.arguments()], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE)
            try:
                process.communicate(timeout=generator.uniform(0.01, 0.6))
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
            assert run.checkpoints()[-1:] >= before[-1:]
            for step in run.checkpoints():
                run.expect_whole(step)
        jobs.expect_whole(place, run)
