"""Runs that are killed at a point or a call, and taken up again: what the tests of kills share."""

import hashlib
import itertools
import json
import pathlib

from conftest import hetmem

STEPS, EVERY = 6, 2
POINTS = ["checkpoint.begin", "checkpoint.tensor", "checkpoint.tensors", "checkpoint.state",
          "checkpoint.manifest", "checkpoint.pruned", "directory.synced", "directory.committed",
          "step.begin", "step.backward", "step.chunk", "step.done", "step.reported"]
CALLS = ["file.open", "file.create", "file.read", "file.write", "file.sync", "file.rename",
         "tier.reserve", "memory.allocate", "copy"]


def curve(out):
    lines = map(json.loads, (pathlib.Path(out) / "metrics.jsonl").open())
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]


def final(out):
    return hashlib.sha256((pathlib.Path(out) / "final" / "model.safetensors").read_bytes()).digest()


class Run:
    """One training job that may be cut off and taken up, each time with other budgets."""

    def __init__(self, model, data, out, budgets, limit):
        self.out = pathlib.Path(out)
        self.words = ["train", "--model", model, "--data", data, "--out", out, "--steps", STEPS,
                      "--batch-size", 2, "--sequence-length", 33, "--learning-rate", 1e-3,
                      "--save-steps", EVERY, "--save-total-limit", limit, "--host-memory", "64MiB"]
        self.budgets = itertools.cycle(budgets)
        self.threads = itertools.cycle([1, 2, 3])

    def checkpoints(self):
        return sorted(int(p.name.split("-")[1]) for p in self.out.glob("checkpoint-*")
                      if p.name.split("-")[1].isdigit())

    def arguments(self):
        words = [*self.words, "--device-memory", next(self.budgets), "--threads",
                 next(self.threads)]
        if self.checkpoints():
            words += ["--resume-from-checkpoint", "latest"]
        elif self.out.exists():
            words += ["--overwrite-output-dir"]
        return list(map(str, words))

    def start(self, faults=""):
        return hetmem(*self.arguments(), env={"HETMEM_FAULTS": faults}, timeout=120)

    def cut_off(self, faults):
        """Returns whether the run was killed; what it leaves is whole."""
        before = self.checkpoints()
        done = self.start(faults)
        if done.returncode == 0:
            return False
        assert done.returncode == -9, (faults, done.returncode, done.stderr)
        after = self.checkpoints()
        assert after[-1:] >= before[-1:], (faults, before, after)
        for step in after:
            self.expect_whole(step)
        return True

    def expect_whole(self, step):
        folder = self.out / f"checkpoint-{step}"
        files = json.loads((folder / "manifest.json").read_text())["files"]
        assert {p.name for p in folder.iterdir()} == set(files) | {"manifest.json"}
        for name, entry in files.items():
            assert (folder / name).stat().st_size == entry["bytes"]
        assert json.loads((folder / "trainer_state.json").read_text())["step"] == step

    def finish(self):
        done = self.start()
        assert done.returncode == 0, done.stderr
        left = [p.name for p in self.out.iterdir() if ".tmp" in p.name]
        assert not left, left
        return curve(self.out), final(self.out)


def random_fault(generator):
    """Any call or point, from the first to one that may come too late."""
    site = generator.choice(POINTS + CALLS)
    most = {"file.read": 400, "file.write": 250, "copy": 400, "step.chunk": 60,
            "checkpoint.tensor": 100, "tier.reserve": 60, "memory.allocate": 40,
            "file.sync": 60, "file.open": 60, "file.create": 60}.get(site, 8)
    return f"{site}:{generator.randint(1, most)}=kill"
