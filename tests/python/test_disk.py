"""The disk tier, through the binary: the same numbers, what is planned is what moves, nothing is
left behind, and what was damaged is found."""

import contextlib
import json
import os
import re
import signal
import subprocess

import pytest
from conftest import BINARY, _gpt2, hetmem, make_model, metrics, train
from test_runs import RUN, bits, values
from test_tiers import SHAPE, _rss, budgets, plan

PAGE = 1 << 19  # elements of a list that pass to the disk at once


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_no_bit_depends_on_the_disk(models, data, tmp_path, disk, name):
    flags = RUN | dict(steps=6, eval_data=data, eval_steps=3, save_steps=2)
    whole = train(models[name], data, tmp_path / "whole", **flags)
    for folder in "abc":
        (disk / folder).mkdir()
    least = budgets(models[name], 2)[0]
    for i, more in enumerate([dict(disk=disk, host_memory=0),
                              dict(disk=f"{disk}/a,{disk}/b,{disk}/c", disk_memory="64MiB",
                                   host_memory="80MiB", encrypt_disk="true")]):
        out = tmp_path / str(i)
        lines = train(models[name], data, out, device_memory=least, **(flags | more))
        assert values(lines) == values(whole)
        assert bits(out) == bits(tmp_path / "whole")
        planned = json.loads((out / "plan.json").read_text())
        last = [line for line in lines if "loss" in line][5]  # no evaluation comes before it
        # Copies are counted when they are done, which may be in the step after.
        for passed in ("disk_read", "disk_write", "to_host"):
            assert last["traffic"][passed] == planned["traffic"][passed], passed
        for tier in ("device", "host", "disk"):
            memory, least_peak = last["memory"][tier], planned["tiers"][tier]["peak"]
            # The host may hold copies for the checkpoint that is being written.
            assert memory["peak"] == least_peak or (tier == "host" and memory["peak"] > least_peak)
            assert memory["peak"] <= memory["budget"]
        assert last["memory"]["host"]["peak"] <= (64 << 20 if more["host_memory"] == 0 else 80 << 20)
        again = train(models[name], data, out, device_memory=least,
                      resume_from_checkpoint=out / "checkpoint-4", **(flags | more))
        assert values(again) == values(whole)
        assert bits(out) == bits(tmp_path / "whole")
    assert sorted(p.name for p in disk.rglob("*")) == ["a", "b", "c"]


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_no_bit_depends_on_the_disk_where_lists_have_several_pages(data, tmp_path, disk, optimizer):
    folder = tmp_path / "model"
    make_model(_gpt2(n_embd=384)).save_pretrained(folder)
    flags = RUN | dict(steps=3, save_steps=1, optimizer=optimizer)
    whole = train(folder, data, tmp_path / "whole", **flags)
    least = budgets(folder, 2, *SHAPE, "--optimizer", optimizer)[0]
    more = dict(device_memory=least, host_memory=0, disk=disk)
    out = tmp_path / "out"
    assert values(train(folder, data, out, **(flags | more))) == values(whole)
    assert json.loads((out / "plan.json").read_text())["chunks"]["capacity"] > 2 * PAGE
    assert bits(out) == bits(tmp_path / "whole")
    again = train(folder, data, out, resume_from_checkpoint=out / "checkpoint-2", **(flags | more))
    assert values(again) == values(whole)
    assert bits(out) == bits(tmp_path / "whole")


def test_a_host_without_room_for_staging_is_planned_not_to_fit(models, tmp_path):
    done = hetmem("plan", "--model", models["llama"], "--host-memory", "30MiB", "--disk", tmp_path, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 3 and not report["fits"]
    assert report["smallest_device_memory"] is None and report["step_seconds"] is None
    host = report["tiers"]["host"]
    assert host["budget"] == 30 << 20 < host["by_kind"]["staging"]
    roomy = hetmem("plan", "--model", models["llama"], "--host-memory", host["by_kind"]["staging"],
                   "--disk", tmp_path, "--json")
    assert json.loads(roomy.stdout)["fits"]


@pytest.mark.parametrize("folders", [2, 3, 7, 16])
def test_staging_is_64_mebibytes_at_most(models, tmp_path, folders):
    names = [tmp_path / str(i) for i in range(folders)]
    for name in names:
        name.mkdir()
    found = plan(models["gpt2"], *SHAPE, "--device-memory", budgets(models["gpt2"], 2)[0],
                 "--host-memory", 0, "--disk", ",".join(map(str, names)))
    assert 32 << 20 < found["tiers"]["host"]["peak"] <= 64 << 20


def test_a_plan_has_the_disk(models):
    least = budgets(models["gpt2"], 2)[0]
    words = [*SHAPE, "--device-memory", least, "--host-memory", 0]
    found = plan(models["gpt2"], *words, "--disk-memory", "1GiB")  # without a folder that is there
    assert found["fits"] and found["tiers"]["disk"]["peak"] > 0
    host = found["tiers"]["host"]
    assert 0 < host["by_kind"]["staging"] == host["peak"] <= 64 << 20
    assert found["traffic"]["disk_read"] > found["traffic"]["disk_write"] > 0
    text = hetmem("plan", "--model", models["gpt2"], *words, "--disk-memory", "1GiB").stdout
    assert "to it, which wears it" in text
    without = plan(models["gpt2"], *words, expect=3)
    assert not without["fits"] and without["tiers"]["disk"]["peak"] == 0
    assert found["smallest_device_memory"] < without["smallest_device_memory"]


def test_doctor_measures_a_disk_for_plans(models, tmp_path, disk):
    """What it measured is in the machine file, and all plans reckon with it, as with a file's."""
    least = budgets(models["gpt2"], 2)[0]
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = ["--model", models["gpt2"], *SHAPE, "--device-memory", least, "--host-memory", 0, "--disk", disk]

    def rates(*more):
        text = hetmem("plan", *words, *more, env=env).stdout
        return re.search(r"Rates are (.*)[.]\n", text).group(1)

    def seconds(*more):
        return json.loads(hetmem("plan", "--json", *words, *more, env=env).stdout)["step_seconds"]

    def doctor(*more):
        done = hetmem("doctor", "--json", *more, env=env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["rates"]

    assert rates() == "assumed"
    assert "disk_read" not in doctor("--measure")
    assert rates() == "measured, those of the disk assumed"
    measured = doctor("--measure", "--disk", disk)
    assert not list(disk.iterdir())
    (file,) = (tmp_path / "cache" / "hetmem").iterdir()
    kept = json.loads(file.read_text())
    for key in ("disk_read", "disk_write", "disk_both"):
        assert measured[key] == kept[key] > 0 and kept[key] != 1e9
    assert measured["disk_from"] == kept["disk_from"] == f"measured in {disk}"
    assert rates() == f"measured, those of the disk measured in {disk}"
    assert "disk rates " in hetmem("doctor", env=env).stdout
    # A file of a disk that takes a thousandth of the time changes the plan, one without its rates is said to.
    fast = tmp_path / "fast.json"
    for key in ("disk_read", "disk_write", "disk_both"):
        kept[key] *= 1000
    fast.write_text(json.dumps(kept))
    assert seconds("--machine", fast) < seconds()
    assert rates("--machine", fast) == f"file, those of the disk measured in {disk}"
    del kept["disk_read"]
    fast.write_text(json.dumps(kept))
    assert rates("--machine", fast) == "file, those of the disk assumed"
    # Measured again without a disk, that of before stays.
    again = doctor("--measure")
    assert [again[key] for key in measured if "disk" in key] == [measured[key] for key in measured if "disk" in key]
    for more, says in ((["--disk", disk], "--measure"), (["--measure", "--disk", tmp_path / "none"], "none"),
                       (["--measure", "--disk", f"{disk},{disk}"], "once")):
        done = hetmem("doctor", *more, env=env)
        assert done.returncode == 2 and says in done.stderr


def test_disks_that_cannot_be_used(models, data, tmp_path, disk):
    least = budgets(models["gpt2"], 2)[0]
    flags = RUN | dict(steps=2, device_memory=least, host_memory=0, disk=disk)
    out = tmp_path / "o"
    other_name = tmp_path / "link"
    other_name.symlink_to(disk)
    for more, code, words in [
            (dict(disk_memory="2200000"), 3, ["--device-memory", "disk budget of 2.10 MiB"]),
            (dict(disk_memory="1GiB", host_memory="1MiB"), 3, ["--host-memory", "staging"]),
            *[(dict(disk=f"{disk},{same}"), 2, ["--disk", "once", f"{disk} and {same} are the same"])
              for same in (disk, f"{disk}/", f"{disk}/../disk", other_name)],
            (dict(disk_memory=0, encrypt_disk="true"), 2, ["--encrypt-disk"])]:
        said = train(models["gpt2"], data, out, expect=code, **(flags | more))
        assert all(word in said for word in words), said
        assert not out.exists() and not list(disk.iterdir())


def test_a_run_that_is_killed_leaves_nothing_for_long(models, data, tmp_path, disk):
    least = budgets(models["gpt2"], 2)[0]
    flags = RUN | dict(steps=2, device_memory=least, host_memory=0, disk=disk)
    killed = {"HETMEM_FAULTS": "step.done:1=kill"}
    train(models["gpt2"], data, tmp_path / "o", expect=-9, env=killed, **flags)
    assert list(disk.iterdir())
    train(models["gpt2"], data, tmp_path / "p", **flags)
    assert not list(disk.iterdir())


@pytest.mark.parametrize("encrypt", ["true", "false"])
def test_a_damaged_chunk_ends_the_run(models, data, tmp_path, disk, encrypt):
    least = budgets(models["gpt2"], 2)[0]
    words = ["--model", models["gpt2"], "--data", data, "--out", tmp_path / "o", "--steps", 100000,
             "--batch-size", 2, "--sequence-length", 33, "--device-memory", least,
             "--host-memory", 0, "--disk", disk, "--encrypt-disk", encrypt]
    process = subprocess.Popen([BINARY, "train", *map(str, words)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    for _ in range(3):
        process.stdout.readline()
    (file,) = [p for p in disk.rglob("*") if p.is_file() and p.stat().st_size > 4096]
    process.send_signal(signal.SIGSTOP)
    with file.open("r+b") as bytes_of_all:
        for block in range(0, file.stat().st_size, 4096):
            bytes_of_all.seek(block)
            byte = bytes_of_all.read(1)
            bytes_of_all.seek(block)
            bytes_of_all.write(bytes([byte[0] ^ 1]))
        bytes_of_all.flush()
        # A direct write that was still under way beside this one makes Linux report an error here.
        with contextlib.suppress(OSError):
            os.fsync(bytes_of_all.fileno())
    process.send_signal(signal.SIGCONT)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 4, error
    assert error.startswith("hetmem: error: ") and error.count("\n") == 1 and "chunk " in error
    assert not list(disk.iterdir())


def test_rss_stays_within_the_budgets(models, data, tmp_path, disk):
    peak = _rss(["train", "--model", models["gpt2"], "--data", data, "--out", tmp_path / "o",
                 "--steps", 3, *SHAPE, "--device-memory", budgets(models["gpt2"], 2)[0],
                 "--host-memory", 0, "--disk", disk], tmp_path)
    memory = metrics(tmp_path / "o")[1]["memory"]
    assert memory["device"]["peak"] + memory["host"]["peak"] <= peak < 256 << 20


def test_bench_memory_goes_down_three_tiers(models, disk):
    done = hetmem("bench", "memory", "--json", "--model", models["gpt2"], *SHAPE, "--disk", disk,
                  "--points", 4, "--steps", 1, "--repeats", 1)
    assert done.returncode == 0, done.stderr
    rows = [row["parameters"] for row in json.loads(done.stdout)["results"]]
    two, three = rows[:-3], rows[-3:]
    assert all("host_budget" not in row and row["disk"]["peak"] == 0 for row in two)
    assert three[0]["host_budget"] > three[1]["host_budget"] > three[2]["host_budget"] == 0
    on_disk = [row["disk"]["peak"] for row in three]
    assert 0 < on_disk[0] < on_disk[1] < on_disk[2]
    for row in rows:
        for tier in ("device", "host", "disk"):
            assert row[tier]["peak"] == row[tier]["predicted_peak"]
        assert row["device"]["peak"] <= row["device_budget"]
        assert row["disk_read"] > 0 if "host_budget" in row else row["disk_read"] == 0
    assert not list(disk.iterdir())


def test_slices_of_a_track_of_the_trace_nest(models, data, tmp_path, disk):
    budget = budgets(models["llama"], 2)[0]
    train(models["llama"], data, tmp_path / "o", device_memory=budget, host_memory=0, disk=disk,
          trace=tmp_path / "t.json", **(RUN | dict(steps=4)))
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert len(set(names.items())) == len({(pid, name) for (pid, _), name in names.items()})
    assert {"disk read", "disk write", "compute"} <= set(names.values())
    tracks = {}
    for e in events:
        if e["ph"] == "X":
            begin = round(e["ts"] * 1000)
            tracks.setdefault((e["pid"], e["tid"]), []).append((begin, -round(e["dur"] * 1000)))
    for track, slices in tracks.items():
        within = []  # the ends of the slices that are open
        for begin, less in sorted(slices):
            while within and within[-1] <= begin:
                within.pop()
            assert not within or begin - less <= within[-1], names[track]
            within.append(begin - less)
