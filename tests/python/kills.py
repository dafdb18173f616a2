"""Runs that are killed at a point or a call, and taken up again: what the tests of kills share."""

import hashlib
import itertools
import json
import pathlib

from conftest import hetmem
from test_tiers import SHAPE, budgets, plan

STEPS, EVERY = 6, 2
POINTS = ["checkpoint.begin", "checkpoint.tensor", "checkpoint.tensors", "checkpoint.state",
          "checkpoint.manifest", "checkpoint.pruned", "directory.synced", "directory.committed",
          "step.begin", "step.backward", "step.chunk", "step.done", "step.reported"]
CALLS = ["file.open", "file.create", "file.read", "file.write", "file.sync", "file.rename",
         "tier.reserve", "memory.allocate", "copy"]
DISK_CALLS = ["disk.create", "disk.reserve", "disk.direct", "disk.ring", "disk.read", "disk.write"]


def curve(out):
    lines = map(json.loads, (pathlib.Path(out) / "metrics.jsonl").open())
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]


def final(out):
    return hashlib.sha256((pathlib.Path(out) / "final" / "model.safetensors").read_bytes()).digest()


def in_memory(model, *flags):
    """Flags of memory for the starts of a run, one after the other: device and host."""
    few = budgets(model, 3, *SHAPE, *flags)
    return [dict(device_memory=budget, host_memory="64MiB") for budget in (*few, "64MiB")]


def over_disk(model, disk, *flags):
    """The same with a disk: all but what must be elsewhere is there; nothing; some; all, hidden."""
    least, middle, _ = budgets(model, 3, *SHAPE, *flags)
    all_of_it = dict(device_memory=least, host_memory=0, disk=disk)
    staging = plan(model, *SHAPE, *flags, "--device-memory", least, "--host-memory", 0,
                   "--disk-memory", "1GiB")["tiers"]["host"]["peak"]
    some = dict(device_memory=least, host_memory=staging + 400_000, disk=disk,
                optimizer_overlap="off")
    return [all_of_it, dict(device_memory=middle, host_memory="64MiB"), some,
            all_of_it | dict(encrypt_disk="true")]


class Run:
    """One training job that may be cut off and taken up, each time with other memory."""

    def __init__(self, model, data, out, memory, limit, first=0, **flags):
        self.out = pathlib.Path(out)
        self.flags = dict(model=model, data=data, out=out, steps=STEPS, batch_size=2,
                          sequence_length=33, learning_rate=1e-3, save_steps=EVERY,
                          save_total_limit=limit) | flags
        self.memory = itertools.cycle(memory[first:] + memory[:first])
        self.threads = itertools.cycle([1, 2, 3])
        self.disks = {flags["disk"] for flags in memory if "disk" in flags}
        self.now = {}

    def checkpoints(self):
        return sorted(int(p.name.split("-")[1]) for p in self.out.glob("checkpoint-*")
                      if p.name.split("-")[1].isdigit())

    def arguments(self):
        self.now = next(self.memory)
        flags = self.flags | self.now | dict(threads=next(self.threads))
        if self.checkpoints():
            flags["resume_from_checkpoint"] = "latest"
        words = [w for k, v in flags.items() for w in ("--" + k.replace("_", "-"), str(v))]
        fresh = not self.checkpoints() and self.out.exists()
        return ["train", *words, *(["--overwrite-output-dir"] if fresh else [])]

    def start(self, faults=""):
        return hetmem(*self.arguments(), env={"HETMEM_FAULTS": faults})

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
        if "disk" in self.now:
            assert not list(self.now["disk"].iterdir())
        return curve(self.out), final(self.out)


def random_fault(generator, disk):
    """Any call or point, from the first to one that may come too late."""
    site = generator.choice(POINTS + CALLS + (DISK_CALLS if disk else []))
    most = {"file.read": 400, "file.write": 250, "copy": 400, "step.chunk": 60,
            "checkpoint.tensor": 100, "tier.reserve": 60, "memory.allocate": 40,
            "file.sync": 60, "file.open": 60, "file.create": 60, "disk.create": 2,
            "disk.reserve": 1, "disk.direct": 1, "disk.ring": 3, "disk.read": 400,
            "disk.write": 200}.get(site, 8)
    return f"{site}:{generator.randint(1, most)}=kill"
