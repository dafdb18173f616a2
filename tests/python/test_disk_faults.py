"""Faults of the disk tier, through the binary and both of its ways to the disk: the run ends with the
chunk named, its checkpoints are whole, and taken up it has the numbers of a run that met nothing."""

import resource
import signal

import pytest
from conftest import hetmem, metrics, train
from kills import curve, final
from test_faults import Stopped
from test_runs import RUN
from test_tiers import budgets

FLAGS = RUN | dict(steps=6, save_steps=2)
WAYS = {"io_uring": "", "threads": "disk.ring:1+=EINVAL;"}
IN_STEP_5 = {"disk.read": 420, "disk.write": 245}


@pytest.fixture(scope="module")
def least(models):
    return budgets(models["gpt2"], 2)[0]


@pytest.fixture(scope="module")
def whole(models, data, tmp_path_factory):
    """The curve and the weights of a run that is all in memory."""
    out = tmp_path_factory.mktemp("whole") / "o"
    train(models["gpt2"], data, out, **FLAGS)
    return curve(out), final(out)


@pytest.fixture
def over_disk(tmp_path, least):
    """Flags of memory with which all that can be is on a disk."""
    (tmp_path / "disk").mkdir()
    return dict(device_memory=least, host_memory=0, disk=tmp_path / "disk")


@pytest.fixture
def run(models, data, over_disk):
    """run(faults, out) -> the ended process of one over a disk; its folder is then empty."""

    def start(faults, out, preexec_fn=None, **more):
        flags = FLAGS | over_disk | dict(model=models["gpt2"], data=data, out=out) | more
        words = [w for k, v in flags.items() for w in ("--" + k.replace("_", "-"), v)]
        done = hetmem("train", *words, env={"HETMEM_FAULTS": faults}, preexec_fn=preexec_fn)
        assert not list(over_disk["disk"].iterdir())
        return done

    return start


def checkpoints(out):
    return sorted(p.name for p in out.iterdir() if p.is_dir() and p.name != "final")


@pytest.mark.parametrize("way", ["io_uring", pytest.param("threads", marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault,texts", [
    ("disk.read:%=EIO", ["cannot read chunk", "Input/output error"]),
    ("disk.write:%=EIO", ["cannot write chunk", "Input/output error"]),
    ("disk.write:%=ENOSPC", ["cannot write chunk", "No space left on device"]),
    # From then on: a bit of what fills a block up is no one's.
    ("disk.read:%+=flip", ["came back wrong"]), ("disk.write:%+=flip", ["came back wrong"]),
    ("disk.write:%=stale", ["came back wrong"])])
def test_a_disk_that_fails_ends_the_run_and_no_checkpoint(models, data, tmp_path, whole, run, way,
                                                          fault, texts):
    """In the fifth step; what is written wrongly there is found in the sixth."""
    out = tmp_path / "o"
    done = run(WAYS[way] + fault.replace("%", str(IN_STEP_5[fault[:fault.index(":")]])), out)
    assert done.returncode == 4, (done.returncode, done.stderr)
    assert done.stderr.startswith("hetmem: error: ") and done.stderr.count("\n") == 1
    for text in [*texts, "chunk", "resume from a checkpoint and check that disk"]:
        assert text in done.stderr, done.stderr
    assert checkpoints(out) in (["checkpoint-2"], ["checkpoint-2", "checkpoint-4"])
    if way == "io_uring":
        done = run("", out, resume_from_checkpoint="latest")
        assert done.returncode == 0, done.stderr
    else:
        train(models["gpt2"], data, out, resume_from_checkpoint="latest", **FLAGS)
    assert (curve(out), final(out)) == whole


@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_moves_less_or_otherwise_changes_nothing(tmp_path, whole, run, way):
    out = tmp_path / "o"
    done = run(WAYS[way] + "disk.read:1+=short;disk.write:1+=short;disk.direct:1=EINVAL;"
               "disk.write:50=EINTR;disk.read:50=EINTR;disk.reserve:1=EINTR", out)
    assert done.returncode == 0, done.stderr
    assert (curve(out), final(out)) == whole


@pytest.mark.parametrize("call", [2, 3])
def test_a_ring_that_is_refused_is_no_loss(tmp_path, whole, run, call):
    done = run(f"disk.ring:{call}=EMFILE", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    assert (curve(tmp_path / "o"), final(tmp_path / "o")) == whole


@pytest.mark.parametrize("fault,texts", [
    ("disk.reserve:1=ENOSPC", ["--disk-memory", "free"]), ("disk.reserve:1=EDQUOT", ["--disk-memory"]),
    ("disk.reserve:1=EIO", ["--disk-memory", "Input/output error"]),
    ("disk.create:1=ENOSPC", ["--disk", "No space left"]),
    ("disk.create:2=EIO", ["--disk", "Input/output error"]),
    ("disk.write:1=EIO", ["chunk", "Input/output error"]),
    ("disk.read:1=flip", ["chunk", "came back wrong"])])
def test_a_disk_that_fails_at_once_is_found_before_the_first_step(tmp_path, run, fault, texts):
    done = run(fault, tmp_path / "o")
    assert done.returncode == 4 and done.stderr.count("\n") == 1, (done.returncode, done.stderr)
    for text in texts:
        assert text in done.stderr, done.stderr
    assert not (tmp_path / "o").exists()


def test_a_limit_on_the_size_of_files_is_a_disk_without_space(tmp_path, run):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = run("", tmp_path / "o", preexec_fn=limit)
    assert done.returncode == 4 and done.stderr.count("\n") == 1, (done.returncode, done.stderr)
    assert "File too large" in done.stderr and "--disk-memory" in done.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("point,number,code", [
    ("step.chunk:20=stop", signal.SIGINT, 130), ("checkpoint.tensor:5=stop", signal.SIGTERM, 143)])
def test_a_signal_saves_what_is_on_the_disk(models, data, tmp_path, whole, run, over_disk, point,
                                            number, code):
    out = tmp_path / "o"
    stopped = Stopped(models["gpt2"], data, out, point, **over_disk)
    stopped.send(number)
    assert stopped.end() == code
    assert not list(over_disk["disk"].iterdir())
    assert f"checkpoint-{len(metrics(out))}" in checkpoints(out)
    assert run("", out, resume_from_checkpoint="latest").returncode == 0
    assert (curve(out), final(out)) == whole


def test_a_second_signal_leaves_what_the_next_run_removes(models, data, tmp_path, whole, run,
                                                          over_disk):
    out = tmp_path / "o"
    stopped = Stopped(models["gpt2"], data, out, "step.begin:4=stop;checkpoint.begin:2=stop",
                      **over_disk)
    stopped.send(signal.SIGINT)
    stopped.wait_until_stopped()
    stopped.send(signal.SIGTERM)
    assert stopped.end() == 143
    assert list(over_disk["disk"].iterdir()) and "checkpoint-2" in checkpoints(out)
    assert run("", out, resume_from_checkpoint="latest").returncode == 0
    assert (curve(out), final(out)) == whole


def test_two_runs_share_a_folder(models, data, tmp_path, whole, over_disk):
    stopped = Stopped(models["gpt2"], data, tmp_path / "a", "step.begin:3=stop", **over_disk)
    train(models["gpt2"], data, tmp_path / "b", **(FLAGS | over_disk))
    (left,) = over_disk["disk"].iterdir()
    assert left.stat().st_mode & 0o777 == 0o700
    stopped.send(signal.SIGCONT)
    assert stopped.end() == 0
    assert not list(over_disk["disk"].iterdir())
    for out in (tmp_path / "a", tmp_path / "b"):
        assert (curve(out), final(out)) == whole


@pytest.mark.parametrize("policy,code", [("stop", 5), ("skip", 0)])
def test_a_loss_that_is_not_finite_spares_what_is_on_the_disk(models, data, tmp_path, over_disk,
                                                              policy, code):
    """Every checkpoint is, to the bit, that of the same run in memory."""
    flags = RUN | dict(steps=5, save_steps=1, save_total_limit=0, optimizer="sgd", max_grad_norm=0,
                       learning_rate=1e30, on_nonfinite=policy, lr_scheduler_type="constant")
    left = []
    for name, more in (("a", {}), ("b", over_disk)):
        out = tmp_path / name
        train(models["gpt2"], data, out, expect=code, **(flags | more))
        left.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*.safetensors")})
    assert left[0] == left[1]
    assert len(left[0]) >= (1 if code else 10)
    assert not list(over_disk["disk"].iterdir())
