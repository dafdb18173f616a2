"""Faults drawn at random over every site that has any, one a run: it ends with a code and a line that
say so or with the numbers of a run that met nothing, and what it leaves is taken up to the same end.

Bits that turn in memory, in the data or in `final` are not among them: nothing there has a sum that a
run looks at again."""

import random
import shutil

import pytest
from conftest import hetmem
from kills import curve, final
from test_runs import RUN
from test_tiers import budgets

FLAGS = RUN | dict(steps=4, save_steps=2)
ERRORS = ["EIO", "ENOSPC", "EDQUOT", "EINTR", "EINVAL", "EMFILE"]
FAULTS = {
    "file.open": ERRORS, "file.create": ERRORS, "file.sync": ERRORS, "file.rename": ERRORS,
    "file.read": [*ERRORS, "short"], "file.write": [*ERRORS, "short"],
    "file.read@checkpoint-": ["flip"], "file.write@checkpoint-": ["flip", "stale"],
    "tier.reserve": ["fail"], "memory.allocate": ["fail"],
    "copy@to_device": ["fail"], "copy@to_host": ["fail"], "copy@within": ["fail"],
}
FAULTS_OF_DISK = {
    "disk.create": ERRORS, "disk.reserve": ERRORS, "disk.direct": ERRORS, "disk.ring": ERRORS,
    "disk.read": [*ERRORS, "short", "flip"], "disk.write": [*ERRORS, "short", "flip", "stale"],
}


class Scene:
    """A run of four steps in memory, over a disk, or over a disk from the checkpoint of step 2."""

    def __init__(self, name, model, data, base, begun):
        least, middle = budgets(model, 3)[:2]
        self.over_disk = name != "memory"
        self.sites = FAULTS | (FAULTS_OF_DISK if self.over_disk else {})
        self.begun = begun if name == "taken up" else None
        self.base = base
        self.disk = base / "disk"
        self.disk.mkdir(exist_ok=True)
        self.in_memory = FLAGS | dict(model=model, data=data, device_memory=middle,
                                      host_memory="64MiB")
        self.flags = self.in_memory
        if self.over_disk:
            self.flags = self.flags | dict(device_memory=least, host_memory=0, disk=self.disk)
        self.calls = {}

    def start(self, out, flags, faults=""):
        words = [w for k, v in flags.items() for w in ("--" + k.replace("_", "-"), v)]
        if any(out.glob("checkpoint-?")):
            words += ["--resume-from-checkpoint", "latest"]
        elif out.exists():
            words += ["--overwrite-output-dir"]
        done = hetmem("train", *words, "--out", out, env={"HETMEM_FAULTS": faults})
        assert done.returncode == -9 or not list(self.disk.iterdir())
        return done

    def fresh(self):
        out = self.base / "o"
        shutil.rmtree(out, ignore_errors=True)
        if self.begun:
            shutil.copytree(self.begun, out)
        return out

    def calls_of(self, site):
        """How many calls of a site there are at least, found by where a run can be killed."""
        if site not in self.calls:
            calls, next_one = 0, 1
            while self.start(self.fresh(), self.flags, f"{site}:{next_one}=kill").returncode == -9:
                calls, next_one = next_one, next_one + 1 + next_one // 2
            self.calls[site] = calls
        return self.calls[site]

    def draw(self, generator):
        while True:
            site = generator.choice([*self.sites])
            if calls := self.calls_of(site):
                fault = generator.choice(self.sites[site])
                return f"{site}:{generator.randint(1, calls)}={fault}"

    def meet(self, fault, whole, by_threads):
        """The run with the fault; then, where it did not reach its end or may have left something
        else than it meant to, what takes it up."""
        out = self.fresh()
        faults = fault + (";disk.ring:1+=EINVAL" if by_threads else "")
        done = self.start(out, self.flags, faults)
        said = (faults, done.returncode, done.stderr)
        if done.returncode == 0:
            assert done.stderr == "", said
            assert (curve(out), final(out)) == whole, said
        else:
            assert done.returncode in (2, 3, 4), said
            assert done.stderr.startswith("hetmem: error: "), said
            assert done.stderr.count("\n") == 1 and len(done.stderr) > 40, said
        on_its_way = fault.startswith("file.write") and fault.endswith(("flip", "stale"))
        if done.returncode == 0 and not on_its_way:
            return
        shutil.rmtree(out / "final", ignore_errors=True)
        again = self.start(out, self.in_memory)
        if on_its_way and again.returncode != 0:
            # The checkpoint that it was in is refused by name; that before it is not.
            newest = max(out.glob("checkpoint-?"))
            assert again.returncode == 4 and str(newest) in again.stderr, (said, again.stderr)
            shutil.rmtree(newest)
            again = self.start(out, self.in_memory)
        assert again.returncode == 0, (said, again.stderr)
        assert (curve(out), final(out)) == whole, said
        left = [p.name for p in out.iterdir() if ".tmp" in p.name or ".old" in p.name]
        assert not left, (said, left)


@pytest.fixture(scope="module")
def scenes(models, data, tmp_path_factory):
    """The scenes, and the curve and the weights of a run that met nothing."""
    base = tmp_path_factory.mktemp("scenes")
    scenes = [Scene(name, models["gpt2"], data, base, base / "begun")
              for name in ("memory", "disk", "taken up")]
    done = scenes[0].start(base / "whole", scenes[0].in_memory)
    assert done.returncode == 0, done.stderr
    done = scenes[0].start(base / "begun", scenes[0].in_memory, "step.begin:4=kill")
    assert done.returncode == -9 and [*(base / "begun").glob("checkpoint-*")]
    return scenes, (curve(base / "whole"), final(base / "whole"))


def meet_many(scenes, seed, count):
    generator = random.Random(seed)
    for i in range(count):
        scene = scenes[0][i % 3]
        scene.meet(scene.draw(generator), scenes[1], by_threads=scene.over_disk and i % 2 == 0)


def test_a_few_faults(scenes):
    generator = random.Random(1)
    for scene in scenes[0]:
        scene.calls = dict.fromkeys(scene.sites, 1)  # the first of each
        for _ in range(4):
            scene.meet(scene.draw(generator), scenes[1], by_threads=False)
        scene.calls = {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_faults(scenes, seed):
    meet_many(scenes, seed, 100)
