"""Two tiers of memory, through the binary: what is planned is what runs, and nothing of it shows in
the numbers."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import BINARY, hetmem, metrics, train, write_tokens
from test_runs import RUN, bits, values

SHAPE = ["--batch-size", 2, "--sequence-length", 33]
GUARD = {"HETMEM_MEMORY_GUARD": "1"}


def plan(model, *flags, expect=0, **more):
    done = hetmem("plan", "--model", model, *flags, "--json", **more)
    assert done.returncode == expect, done.stderr
    return json.loads(done.stdout)


def budgets(model, count, *flags):
    """From the smallest that works to all that is of use."""
    roomy = plan(model, *(flags or SHAPE), "--host-memory", "1GiB", "--device-memory", "1GiB")
    least, most = roomy["smallest_device_memory"], roomy["tiers"]["device"]["peak"]
    return [least + (most - least) * i // (count - 1) for i in range(count)]


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "qwen3"])
def test_no_bit_depends_on_the_budgets(models, data, tmp_path, name):
    flags = RUN | dict(steps=20, gradient_accumulation_steps=2)
    words = [*SHAPE, "--gradient-accumulation-steps", 2]
    whole = train(models[name], data, tmp_path / "whole", **flags)
    for i, budget in enumerate(budgets(models[name], 4, *words)):
        lines = train(models[name], data, tmp_path / str(i), device_memory=budget,
                      host_memory="64MiB", threads=1 + i % 3, **flags)
        assert values(lines) == values(whole)
        assert bits(tmp_path / str(i)) == bits(tmp_path / "whole")
        if i == 0:
            assert lines[-1]["traffic"]["to_device"] > 10 * whole[-1]["traffic"]["to_device"]


@pytest.mark.parametrize("host", ["1GiB", "700KiB", 0])
def test_the_smallest_device_memory_is_exact(models, data, tmp_path, host):
    """`plan` names it beside any host memory, for accumulated steps too; 1 % less is refused before
    anything but headers is read."""
    model = models["qwen2"]
    words = [*SHAPE, "--gradient-accumulation-steps", 4, "--host-memory", host]
    flags = RUN | dict(steps=2, gradient_accumulation_steps=4, host_memory=host)
    least = plan(model, *words)["smallest_device_memory"]
    lines = train(model, data, tmp_path / "o", device_memory=least, eval_data=data, **flags)
    memory = lines[0]["memory"]
    assert memory["device"]["budget"] == least and memory["device"]["peak"] <= least
    assert memory["host"]["peak"] <= memory["host"]["budget"]
    assert values(lines) == values(train(model, data, tmp_path / "r", **(
        flags | dict(host_memory="1GiB"))))
    for less in (least * 99 // 100, least - 1):
        small = plan(model, *words, "--device-memory", less, expect=3)
        assert small["smallest_device_memory"] == least and not small["fits"]
        error = train(model, data, tmp_path / "s", expect=3, device_memory=less, **flags)
        assert str(least) in error
        assert not (tmp_path / "s").exists()


def test_the_smallest_device_memory_is_that_of_the_best_group(tmp_path):
    """With two micro-batches of this model in one group no gradient has to come back, and less is
    needed than where each is a group of its own."""
    config = {"model_type": "llama", "vocab_size": 4001, "hidden_size": 256, "intermediate_size": 704,
              "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
              "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = ["--batch-size", 1, "--sequence-length", 128, "--gradient-accumulation-steps", 2,
             "--host-memory", 0]
    least = plan(tmp_path, *words, "--device-memory", 1, expect=3)["smallest_device_memory"]
    assert plan(tmp_path, *words, "--device-memory", least)["fits"]
    below = plan(tmp_path, *words, "--device-memory", least - 1, expect=3)
    assert not below["fits"] and below["smallest_device_memory"] == least


@pytest.mark.parametrize("flags,said", [
    (["--batch-size", 2**31 - 1], "--batch-size 2147483647 of 33 tokens"),
    (["--batch-size", 2, "--gradient-accumulation-steps", 10**8], "at most 65536, not 100000000")])
def test_steps_that_no_machine_takes_are_refused_at_once(models, flags, said):
    done = hetmem("plan", "--model", models["llama"], "--sequence-length", 33, *flags)
    assert done.returncode == 2 and said in done.stderr


def test_a_refusal_reads_no_weights(models, data, tmp_path):
    """Where the budget is too small, weights that hold nothing but a header change nothing; where it
    is enough, they are found out."""
    folder = tmp_path / "m"
    folder.mkdir()
    for path in models["llama"].iterdir():
        content = path.read_bytes()
        if path.name == "model.safetensors":
            end = 8 + int.from_bytes(content[:8], "little")
            content = content[:end] + b"\xff" * (len(content) - end)
        (folder / path.name).write_bytes(content)
    flags = RUN | dict(steps=1, host_memory="1GiB")
    least = plan(folder, *SHAPE, "--host-memory", "1GiB")["smallest_device_memory"]
    error = train(folder, data, tmp_path / "o", expect=3, device_memory=least * 99 // 100, **flags)
    assert str(least) in error
    assert not (tmp_path / "o").exists()
    error = train(folder, data, tmp_path / "o", expect=2, device_memory=least, **flags)
    assert "NaN" in error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["gpt2", "llama_tied_rope3"])
def test_traffic_and_peaks_are_those_of_the_plan(models, data, tmp_path, name):
    for i, budget in enumerate(budgets(models[name], 3)):
        # With overlap some of what the next step begins with may be under way when a step ends.
        lines = train(models[name], data, tmp_path / str(i), steps=4, device_memory=budget,
                      optimizer_overlap="off", **RUN)
        before = plan(models[name], *SHAPE, "--device-memory", budget, "--optimizer-overlap", "off")
        after = json.loads((tmp_path / str(i) / "plan.json").read_text())
        assert lines[0]["traffic"]["to_host"] == before["traffic"]["to_host"]
        assert lines[-1]["traffic"] == after["traffic"]
        for tier in ("device", "host"):
            tiers = after["tiers"][tier]
            assert lines[-1]["memory"][tier]["peak"] == tiers["peak"] <= tiers["budget"]
            assert tiers["peak"] == sum(tiers["by_kind"].values())


def test_resume_under_other_budgets(models, data, tmp_path):
    model = models["qwen3"]
    flags = RUN | dict(steps=6, gradient_accumulation_steps=2)
    words = [*SHAPE, "--gradient-accumulation-steps", 2]
    whole = train(model, data, tmp_path / "whole", **flags)
    least, middle, most = budgets(model, 3, *words)
    train(model, data, tmp_path / "cut", save_steps=2, save_total_limit=9, device_memory=most,
          **flags)
    for i, (step, device, host) in enumerate([(2, least, "1GiB"), (4, middle, "64MiB"),
                                              (2, "1GiB", 0), (4, least, "1GiB")]):
        lines = train(model, data, tmp_path / "cut", save_steps=2, save_total_limit=9,
                      resume_from_checkpoint=tmp_path / "cut" / f"checkpoint-{step}",
                      device_memory=device, host_memory=host, **flags)
        assert values(lines) == values(whole), i
        assert bits(tmp_path / "cut") == bits(tmp_path / "whole"), i


def test_the_guard_finds_nothing(models, data, tmp_path):
    """Training, evaluation, checkpoint and resume with each memory taken away in turn: code that
    touches what an accelerator could not dies by a signal."""
    for name in ("gpt2", "llama_tied_rope3"):
        model = models[name]
        flags = RUN | dict(steps=4, eval_steps=2, eval_data=data, save_steps=2, threads=2)
        whole = train(model, data, tmp_path / name, **flags)
        for i, budget in enumerate(budgets(model, 2)):
            out = tmp_path / f"{name}{i}"
            lines = train(model, data, out, device_memory=budget, env=GUARD, **flags)
            assert values(lines) == values(whole)
            assert lines[-1] == whole[-1]  # the evaluation
            again = train(model, data, out, device_memory=budget, env=GUARD,
                          resume_from_checkpoint=out / "checkpoint-2", **flags)
            assert values(again) == values(whole)
            assert bits(out) == bits(tmp_path / name)


def _rss(arguments, tmp_path):
    """The peak of the resident set of one process, as the kernel counts it. It begins with that of the
    process that starts it, so that a small one has to."""
    script = ("import os, sys; log = open(sys.argv[1], 'w'); os.dup2(log.fileno(), 1); "
              "os.dup2(log.fileno(), 2); pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ); "
              "_, status, usage = os.wait4(pid, 0); "
              "print(os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024, flush=True)")
    subprocess.run([sys.executable, "-S", "-c", script, tmp_path / "log", BINARY,
                    *map(str, arguments)], check=True)
    log = (tmp_path / "log").read_text()
    code, peak = map(int, log.splitlines()[-1].split())
    assert code == 0, log
    return peak


@pytest.mark.slow
def test_rss_of_thirty_million_parameters(tmp_path):
    """Device plus host budget plus 256 MiB, whatever the device has: state of 12 and gradients of 4
    bytes a parameter are elsewhere in the process never twice."""
    import transformers

    config = transformers.Qwen2Config(
        vocab_size=16384, hidden_size=512, intermediate_size=1408, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=256,
        tie_word_embeddings=True)
    config.save_pretrained(tmp_path / "m")
    tokens = np.random.RandomState(3).randint(0, 16384, 20001)
    data = write_tokens(tmp_path / "d.bin", tokens)
    shape = ["--batch-size", 2, "--sequence-length", 128]
    least, most = budgets(tmp_path / "m", 2, *shape)
    parameters = plan(tmp_path / "m", *shape)["parameters"]
    assert parameters > 28e6
    host = 17 * parameters
    seen = []
    for device in (least, (least + most) // 2, most):
        out = tmp_path / str(device)
        peak = _rss(["train", "--model", tmp_path / "m", "--from-scratch", "--data", data, "--out",
                     out, "--steps", 3, *shape, "--device-memory", device, "--host-memory", host,
                     "--save-steps", 2, "--eval-data", data], tmp_path)
        memory = metrics(out)[1]["memory"]
        used = memory["device"]["peak"] + memory["host"]["peak"]
        assert peak < device + host + (256 << 20)
        # Budgets alone could hide it: what is really used bounds the process as well.
        assert peak < used + (256 << 20), (peak, used)
        seen.append(bits(out))
    assert seen[1:] == seen[:-1]
