"""Faults that a run meets on one machine: what it promises for each. (Kills are in test_kills.py, and
what needs no process in the C++ tests.)"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess

import numpy as np
import pytest
from conftest import BINARY, hetmem, metrics, train, write_tokens
from kills import curve, final
from test_runs import RUN
from test_tiers import budgets

FLAGS = RUN | dict(steps=6, save_steps=2, host_memory="64MiB")


def faults(text):
    return {"HETMEM_FAULTS": text}


@pytest.fixture(scope="module")
def middle(models):
    return budgets(models["gpt2"], 3)[1]


@pytest.fixture(scope="module")
def whole(models, data, tmp_path_factory, middle):
    """A run that met nothing, with its checkpoints 4 and 6."""
    out = tmp_path_factory.mktemp("whole") / "o"
    train(models["gpt2"], data, out, device_memory=middle, **FLAGS)
    return out


def folders(out):
    return sorted(p.name for p in out.iterdir() if p.is_dir())


def checkpoints(out):
    return [name for name in folders(out) if name != "final"]


def resumed(model, data, out, **flags):
    train(model, data, out, resume_from_checkpoint="latest", **(FLAGS | flags))
    return curve(out), final(out)


@pytest.mark.parametrize("text", ["x", "file.write:1=fail", "file.write:0=EIO", "step.done:1=EIO"])
def test_a_plan_of_faults_is_checked(models, data, tmp_path, text):
    error = train(models["gpt2"], data, tmp_path / "o", expect=2, env=faults(text), **FLAGS)
    assert "fault" in error and not (tmp_path / "o").exists()


@pytest.mark.parametrize("fault", [
    "file.create@checkpoint-4:2=ENOSPC", "file.write@checkpoint-4:1=ENOSPC",
    "file.write@checkpoint-4.tmp:60+=ENOSPC", "file.write@checkpoint-4:20=EIO",
    "file.sync@checkpoint-4:3=EIO", "file.rename@checkpoint-4:1+=EIO",
    "file.write@checkpoint-4:9=EDQUOT"])
def test_a_checkpoint_that_cannot_be_written(models, data, tmp_path, whole, middle, fault):
    """The run ends at the next step (where that is the last, with its model); the checkpoint before is
    whole, and the run goes on from it."""
    out = tmp_path / "o"
    error = train(models["gpt2"], data, out, expect=4, env=faults(fault), device_memory=middle,
                  **FLAGS)
    assert "checkpoint-4" in error and str(out / "checkpoint-2") in error
    assert error.count("\n") == 1
    assert checkpoints(out) == ["checkpoint-2"]
    assert resumed(models["gpt2"], data, out) == (curve(whole), final(whole))


def test_a_checkpoint_that_cannot_be_removed_costs_no_model(models, data, tmp_path, whole, middle):
    """The last one: the model at the end is written all the same."""
    out = tmp_path / "o"
    error = train(models["gpt2"], data, out, expect=4, device_memory=middle,
                  env=faults("file.rename@checkpoint-2.tmp-:2=EIO"), **FLAGS)
    assert "an old checkpoint could not be removed" in error and error.count("\n") == 1
    assert folders(out) == ["checkpoint-2", "checkpoint-4", "checkpoint-6", "final"]
    assert (curve(out), final(out)) == (curve(whole), final(whole))


def test_a_disk_that_is_full_from_the_start(models, data, tmp_path):
    for site, code in (("file.write@checkpoint", 4), ("file.write@metrics", 4),
                       ("file.write@config.yaml", 4), ("file.write@final", 4)):
        out = tmp_path / site[11:]
        error = train(models["gpt2"], data, out, expect=code, env=faults(f"{site}:1+=ENOSPC"),
                      **FLAGS)
        assert "No space left on device; free space there, or choose another folder" in error
        assert not out.exists() or ".tmp-" not in " ".join(folders(out))
    out = tmp_path / "o"
    error = train(models["gpt2"], data, out, expect=4, env=faults("file.write@/final.tmp:1+=ENOSPC"), **FLAGS)
    assert f"the last complete checkpoint is {out / 'checkpoint-6'}" in error


def test_a_limit_on_the_size_of_files_is_a_full_disk(models, data, tmp_path):
    """What the system says by a signal is an error, too."""
    out = tmp_path / "o"
    words = [w for k, v in FLAGS.items() for w in ("--" + k.replace("_", "-"), v)]
    done = hetmem("train", "--model", models["gpt2"], "--data", data, "--out", out, *words,
                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)))
    assert done.returncode == 4 and done.stderr.count("\n") == 1, (done.returncode, done.stderr)
    assert "File too large" in done.stderr and "checkpoint-2" in done.stderr
    assert folders(out) == []


def test_calls_that_move_less_change_nothing(models, data, tmp_path, whole, middle):
    out = tmp_path / "o"
    flaky = faults("file.read:1+=short;file.write:1+=short;file.write:7=EINTR;file.read:5=EINTR")
    train(models["gpt2"], data, out, env=flaky, device_memory=middle, **FLAGS)
    assert (curve(out), final(out)) == (curve(whole), final(whole))
    for name in ("checkpoint-4", "checkpoint-6"):
        for path in (whole / name).iterdir():
            if path.name not in ("trainer_state.json", "manifest.json"):  # they name --out
                assert (out / name / path.name).read_bytes() == path.read_bytes()
    shutil.rmtree(out / "checkpoint-6")
    train(models["gpt2"], data, out, env=flaky, resume_from_checkpoint="latest", **FLAGS)
    assert (curve(out), final(out)) == (curve(whole), final(whole))


@pytest.mark.parametrize("part,call", [("data.bin", 1), ("data.bin", 7), ("model.safetensors", 2),
                                       ("config.json", 1)])
def test_input_that_cannot_be_read(models, data, tmp_path, part, call):
    error = train(models["gpt2"], data, tmp_path / "o", expect=4,
                  env=faults(f"file.read@{part}:{call}=EIO"), **FLAGS)
    assert part in error and "Input/output error" in error


@pytest.mark.parametrize("fault", ["file.read@optimizer.safetensors:3=EIO",
                                   "file.read@model.safetensors:20=EIO",
                                   "file.read@manifest.json:1=EIO",
                                   "file.open@trainer_state.json:1=EIO",
                                   "file.read@optimizer.safetensors:1=flip"])
def test_a_checkpoint_that_cannot_be_read(models, data, tmp_path, whole, fault):
    out = tmp_path / "o"
    shutil.copytree(whole, out)
    error = train(models["gpt2"], data, out, expect=4, env=faults(fault),
                  resume_from_checkpoint="latest", **FLAGS)
    assert fault.split("@")[1].split(":")[0] in error
    assert folders(out) == folders(whole)


@pytest.mark.parametrize("site", ["tier.reserve@device", "tier.reserve@host", "memory.allocate"])
def test_memory_that_is_refused(models, data, tmp_path, whole, middle, site):
    """Whatever is asked for in vain: exit 3 before the first step, or the same numbers without it."""
    codes = []
    for call in (1, 2, 5, 12, 20, 24, 30, 60, 200):
        out = tmp_path / f"{call}"
        done = hetmem("train", "--model", models["gpt2"], "--data", data, "--out", out,
                      "--device-memory", middle,
                      *[w for k, v in FLAGS.items() for w in ("--" + k.replace("_", "-"), v)],
                      env=faults(f"{site}:{call}=fail"))
        codes.append(done.returncode)
        if done.returncode == 0:
            assert (curve(out), final(out)) == (curve(whole), final(whole))
        else:
            assert done.returncode == 3 and "memory" in done.stderr, done.stderr
            assert not out.exists()
    assert codes[0] == 3 and codes[-1] == 0


@pytest.mark.parametrize("direction", ["to_device", "to_host"])
def test_a_copy_that_fails_ends_the_run_and_no_checkpoint(models, data, tmp_path, whole, middle,
                                                         direction):
    """Earlier and earlier copies, until one of training: it ends the run, and no checkpoint."""
    for call in range(150, 30, -10):
        out = tmp_path / str(call)
        done = hetmem("train", "--model", models["gpt2"], "--data", data, "--out", out,
                      "--device-memory", middle,
                      *[w for k, v in FLAGS.items() for w in ("--" + k.replace("_", "-"), v)],
                      env=faults(f"copy@{direction}:{call}=fail"))
        if done.returncode == 0:
            continue
        assert done.returncode == 4 and "copy" in done.stderr, done.stderr
        assert "go on from a checkpoint" in done.stderr and done.stderr.count("\n") == 1
        assert checkpoints(out) in (["checkpoint-2"], ["checkpoint-2", "checkpoint-4"],
                                    ["checkpoint-4"], ["checkpoint-4", "checkpoint-6"])
        assert resumed(models["gpt2"], data, out) == (curve(whole), final(whole))
        return
    pytest.fail("no copy of training was met")


def refuses(model, data, folder, name, position, value):
    """Changes a byte of a checkpoint in `folder`; the resumed run must say so."""
    path = folder / name
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[position] = value
    path.write_bytes(damaged)
    done = hetmem("train", "--model", model, "--data", data, "--out", folder.parent / "o",
                  "--resume-from-checkpoint", folder, "--steps", 6, "--batch-size", 2,
                  "--sequence-length", 33)
    path.write_bytes(content)
    assert done.returncode in (2, 4), (name, position, value, done.returncode)
    assert str(folder) in done.stderr, done.stderr
    assert not (folder.parent / "o").exists()


def sweep(model, data, whole, tmp_path, count, seed):
    folder = tmp_path / "checkpoint-4"
    shutil.copytree(whole / "checkpoint-4", folder)
    generator = random.Random(seed)
    names = sorted(p.name for p in folder.iterdir())
    for i in range(count):
        name = names[i % len(names)]
        content = (folder / name).read_bytes()
        position = generator.randrange(len(content))
        refuses(model, data, folder, name, position, content[position] ^ generator.randint(1, 255))


def test_a_byte_that_changed_is_found(models, data, whole, tmp_path):
    sweep(models["gpt2"], data, whole, tmp_path, 30, seed=1)
    # What JSON would not notice.
    text = (whole / "checkpoint-4" / "manifest.json").read_bytes()
    for position in (text.index(b" "), len(text) - 1):
        refuses(models["gpt2"], data, tmp_path / "checkpoint-4", "manifest.json", position, 9)


@pytest.mark.slow
def test_a_thousand_bytes_that_changed_are_found(models, data, whole, tmp_path):
    sweep(models["gpt2"], data, whole, tmp_path, 1000, seed=2)


def test_a_damaged_checkpoint_is_not_exported(whole, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(whole / "checkpoint-4", folder)
    assert hetmem("export", "--checkpoint", folder, "--out", tmp_path / "a").returncode == 0
    with (folder / "optimizer.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x99")
    done = hetmem("export", "--checkpoint", folder, "--out", tmp_path / "b")
    assert done.returncode == 4 and "optimizer.safetensors" in done.stderr


def test_latest_is_the_newest_that_is_complete(models, data, tmp_path, whole):
    out = tmp_path / "o"
    shutil.copytree(whole, out)
    (out / "checkpoint-6" / "manifest.json").unlink()
    (out / "checkpoint-9").mkdir()
    (out / "checkpoint-9.tmp-999999999-1").mkdir()
    assert resumed(models["gpt2"], data, out) == (curve(whole), final(whole))
    assert folders(out) == ["checkpoint-4", "checkpoint-6", "checkpoint-9", "final"]
    # From an older one: what is newer is not gone on from again, whenever the run is cut off.
    train(models["gpt2"], data, out, expect=-9, env=faults("step.begin:1=kill"),
          resume_from_checkpoint=out / "checkpoint-4", **FLAGS)
    assert folders(out) == ["checkpoint-4", "checkpoint-6.abandoned", "checkpoint-9", "final"]
    assert resumed(models["gpt2"], data, out) == (curve(whole), final(whole))


def test_other_data_is_refused(models, data, tokens, tmp_path, whole):
    out = tmp_path / "o"
    shutil.copytree(whole, out)
    changed = np.array(tokens)
    changed[2000] = (changed[2000] + 1) % 331
    for i, other in enumerate((changed, tokens[:-1], np.append(tokens, 5))):
        path = write_tokens(tmp_path / f"{i}.bin", other)
        error = train(models["gpt2"], path, out, expect=2, resume_from_checkpoint="latest",
                      **FLAGS)
        assert "--data" in error and "checkpoint-6" in error
        assert ("both have 4001 tokens, but their contents differ" in error if i == 0 else
                f"{len(other)} tokens, not 4001" in error)
    same = write_tokens(tmp_path / "same.bin", tokens)  # elsewhere
    assert resumed(models["gpt2"], same, out) == (curve(whole), final(whole))


def test_more_steps_than_the_run_was_cut_off_at(models, data, tmp_path):
    """Resumed with --steps raised, from either checkpoint, under other budgets and threads."""
    flags = FLAGS | dict(lr_scheduler_type="constant_with_warmup", warmup_steps=3)
    train(models["qwen3"], data, tmp_path / "w", **(flags | dict(steps=11)))
    want = (curve(tmp_path / "w"), final(tmp_path / "w"))
    train(models["qwen3"], data, tmp_path / "o", **flags)
    least, middle, _ = budgets(models["qwen3"], 3)
    for step, device, host, threads in ((4, least, "64MiB", 3), (6, middle, "64MiB", 1),
                                        (4, "64MiB", 0, 2)):
        out = tmp_path / f"{step}-{threads}"
        shutil.copytree(tmp_path / "o", out)
        train(models["qwen3"], data, out, resume_from_checkpoint=out / f"checkpoint-{step}",
              device_memory=device, threads=threads,
              **(flags | dict(steps=11, host_memory=host)))
        assert (curve(out), final(out)) == want, (step, threads)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_loss_that_is_not_finite_spares_the_checkpoints(models, data, tmp_path, policy):
    out = tmp_path / "o"
    flags = RUN | dict(save_steps=1, save_total_limit=0, optimizer="sgd", max_grad_norm=0,
                       learning_rate=1e30, on_nonfinite=policy, lr_scheduler_type="constant")
    if policy == "stop":
        error = train(models["gpt2"], data, out, expect=5, steps=6, **flags)
        assert "not finite" in error and "final" not in folders(out)
        step = len(metrics(out))
        assert folders(out) == [f"checkpoint-{k}" for k in range(1, step + 1)]
        return
    lines = train(models["gpt2"], data, out, steps=6, **flags)
    first = next(i for i, line in enumerate(lines) if line.get("skipped"))
    assert all(line["loss"] is None and line["skipped"] for line in lines[first:])
    stored = [(out / f"checkpoint-{k}" / "optimizer.safetensors").read_bytes()
              for k in range(max(first, 1), 7)]
    assert all(content == stored[0] for content in stored)
    states = [json.loads((out / f"checkpoint-{k}" / "trainer_state.json").read_text())
              for k in (first, 6) if k > 0]
    assert {state["optimizer_count"] for state in states} == {first}


class Stopped:
    """A run that stops itself at points, so that signals come when they are meant to."""

    def __init__(self, model, data, out, points, **more):
        words = ["train", "--model", model, "--data", data, "--out", out]
        for name, value in (FLAGS | more).items():
            words += ["--" + name.replace("_", "-"), value]
        self.process = subprocess.Popen(
            [BINARY, *map(str, words)], env=os.environ | faults(points), stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True)
        self.wait_until_stopped()

    def wait_until_stopped(self):
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), status

    def send(self, *numbers):
        for number in numbers:
            self.process.send_signal(number)
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        _, errors = self.process.communicate(timeout=60)
        assert errors == ""
        return self.process.returncode


@pytest.mark.parametrize("point,number,code", [
    ("checkpoint.tensor:5=stop", signal.SIGTERM, 143),  # while checkpoint-2 is being written
    ("step.begin:3=stop", signal.SIGINT, 130), ("step.begin:5=stop", signal.SIGINT, 130),
    ("step.backward:3=stop", signal.SIGINT, 130),
    ("checkpoint.manifest:1=stop", signal.SIGINT, 130), ("step.chunk:2=stop", signal.SIGTERM, 143)])
def test_a_signal_lets_the_writer_finish_and_saves(models, data, tmp_path, whole, point, number,
                                                   code):
    out = tmp_path / "o"
    run = Stopped(models["gpt2"], data, out, point)
    run.send(number)
    assert run.end() == code
    done = len(metrics(out))
    assert 1 <= done < 6
    # Of those before it, the newest: --save-total-limit is 2.
    wanted = {f"checkpoint-{done}"} | {f"checkpoint-{k}" for k in (2, 4) if done - 2 <= k <= done}
    assert set(folders(out)) == wanted
    assert resumed(models["gpt2"], data, out) == (curve(whole), final(whole))


def test_a_second_signal_ends_at_once(models, data, tmp_path, whole):
    """In the middle of the checkpoint that the first asked for: the one before stays."""
    out = tmp_path / "o"
    count = len(json.loads((whole / "checkpoint-4" / "manifest.json").read_text())["files"])
    assert count >= 4
    run = Stopped(models["gpt2"], data, out, "step.begin:4=stop;checkpoint.begin:2=stop")
    run.send(signal.SIGINT)
    run.wait_until_stopped()
    run.send(signal.SIGTERM)
    assert run.end() == 143
    assert folders(out)[0] == "checkpoint-2" and ".tmp-" in folders(out)[1]
    assert len(folders(out)) == 2
    assert resumed(models["gpt2"], data, out) == (curve(whole), final(whole))
    assert not any(".tmp-" in name for name in folders(out))
