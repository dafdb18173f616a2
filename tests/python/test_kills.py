"""SIGKILL at any moment: the run is taken up from its newest complete checkpoint, under other
budgets and threads each time, and its curve is that of a run that was never cut off."""

import random
import subprocess

import pytest
from conftest import BINARY
from kills import CALLS, POINTS, Run, random_fault
from test_tiers import budgets

# A dozen, so that each kind of moment is among them: the first and a later call of some.
FEW = ["checkpoint.begin:1", "checkpoint.tensor:9", "checkpoint.manifest:2", "directory.synced:2",
       "directory.committed:2", "checkpoint.pruned:1", "step.chunk:20", "step.reported:4",
       "file.write@optimizer.safetensors:30", "file.sync:9", "file.rename:5", "copy:99"]


@pytest.fixture(scope="module")
def killable(models, data):
    """make(out, limit) -> Run, and the curve and weights of one that was left alone."""
    few = budgets(models["gpt2"], 3)

    def make(out, limit=1):
        return Run(models["gpt2"], data, out, [*few, "64MiB"], limit)

    return make


@pytest.fixture(scope="module")
def whole(killable, tmp_path_factory):
    return killable(tmp_path_factory.mktemp("whole") / "o").finish()


def test_a_dozen_kills(killable, whole, tmp_path):
    """One after the other on the same job, until it is done; then on the next."""
    killed, job = 0, 0
    faults = list(FEW)
    while faults:
        run = killable(tmp_path / str(job), limit=1 + job % 2)
        job += 1
        while faults and run.cut_off(faults.pop() + "=kill"):
            killed += 1
        assert run.finish() == whole
    assert killed >= 11  # the last of a job may come when it is done


@pytest.mark.slow
def test_kills_at_every_point_and_call(killable, whole, tmp_path):
    """Each point and each kind of call, at its first, second, ... occurrence, on a fresh job."""
    killed = 0
    for site in POINTS + CALLS:
        for call in (1, 2, 3, 5, 8, 13, 21, 34):
            run = killable(tmp_path / f"{site}-{call}", limit=1 + call % 2)
            killed += run.cut_off(f"{site}:{call}=kill")
            assert run.finish() == whole, (site, call)
    assert killed >= 130


@pytest.mark.slow
def test_kills_at_random(killable, whole, tmp_path):
    generator = random.Random(20)
    killed, job = 0, 0
    while killed < 200:
        run = killable(tmp_path / str(job), limit=1 + job % 2)
        job += 1
        for _ in range(generator.randint(1, 6)):
            fault = random_fault(generator)
            if not run.cut_off(fault):
                break
            killed += 1
        assert run.finish() == whole, job


@pytest.mark.slow
def test_kills_by_the_clock(killable, whole, tmp_path):
    """Moments that no seam has: a signal from outside, at a random time."""
    generator = random.Random(21)
    killed, job = 0, 0
    while killed < 60:
        run = killable(tmp_path / str(job), limit=1 + job % 2)
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
        assert run.finish() == whole, job
