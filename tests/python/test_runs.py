"""What a run promises whatever its memory, threads and luck: the same bits, one folder, resume."""

import json
import os
import signal
import subprocess

import numpy as np
import pytest
import torch
from conftest import BINARY, CONFIGS, hetmem, metrics, state_of, train, write_tokens

RUN = dict(batch_size=2, sequence_length=33, learning_rate=1e-3)


def bits(folder):
    return (folder / "final" / "model.safetensors").read_bytes()


def values(lines):
    return [(line["step"], line["loss"], line["grad_norm"], line["learning_rate"])
            for line in lines if "loss" in line]


def dropout_model(folder):
    from conftest import _gpt2, make_model

    make_model(_gpt2(resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("isa", ["avx2", "best"])
@pytest.mark.parametrize("name", ["gpt2", "llama_tied_rope3", "qwen3", "dropout"])
def test_no_bit_depends_on_the_threads(models, data, tmp_path, name, isa):
    model = dropout_model(tmp_path / "m") if name == "dropout" else models[name]
    env = {"HETMEM_ISA": "avx2"} if isa == "avx2" else {}
    runs = []
    for threads in (1, 2, 3, 8):
        out = tmp_path / str(threads)
        runs.append((values(train(model, data, out, steps=3, threads=threads, env=env, **RUN)),
                     bits(out)))
    assert all(run == runs[0] for run in runs[1:])


def test_dropout_is_honoured(models, data, tmp_path):
    model = dropout_model(tmp_path / "m")
    with_dropout = train(model, data, tmp_path / "a", steps=2, **RUN)
    other_seed = train(model, data, tmp_path / "b", steps=2, seed=43, shuffle="false", **RUN)
    same_windows = train(model, data, tmp_path / "c", steps=2, shuffle="false", **RUN)
    assert other_seed[0]["loss"] != same_windows[0]["loss"]
    assert with_dropout[0]["loss"] > 0
    evaluated = train(model, data, tmp_path / "d", steps=1, eval_data=data,
                      **(RUN | {"learning_rate": 0}))
    plain = train(model, data, tmp_path / "e", steps=1, eval_data=data, seed=1,
                  **(RUN | {"learning_rate": 0}))
    assert evaluated[-1]["eval_loss"] == plain[-1]["eval_loss"]  # none in evaluation


@pytest.mark.parametrize("name,optimizer", [("gpt2", "adamw"), ("qwen2", "sgd"),
                                            ("dropout", "adamw"), ("bf16", "adamw"),
                                            ("qwen3", "adamw_8bit")])
def test_resume_gives_the_same_bits(models, data, tmp_path, name, optimizer):
    if name == "dropout":
        model = dropout_model(tmp_path / "m")
    elif name == "bf16":
        import transformers

        model = tmp_path / "m"
        transformers.AutoModelForCausalLM.from_pretrained(
            models["llama"], dtype=torch.bfloat16).save_pretrained(model)
    else:
        model = models[name]
    flags = RUN | dict(optimizer=optimizer, steps=7, gradient_accumulation_steps=2)
    whole = train(model, data, tmp_path / "whole", **flags)
    train(model, data, tmp_path / "cut", save_steps=2, save_total_limit=2, **flags)
    kept = sorted(p.name for p in (tmp_path / "cut").glob("checkpoint-*"))
    assert kept == ["checkpoint-4", "checkpoint-6"]
    resumed = train(model, data, tmp_path / "cut", save_steps=2,
                    resume_from_checkpoint=tmp_path / "cut" / "checkpoint-4", **flags)
    assert values(resumed) == values(whole)
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")
    kept = sorted(p.name for p in (tmp_path / "cut").glob("checkpoint-*"))
    assert kept == ["checkpoint-4", "checkpoint-6", "checkpoint-6.abandoned"]
    latest = train(model, data, tmp_path / "cut", resume_from_checkpoint="latest", **flags)
    assert values(latest) == values(whole)


def dynamic_map(signed):
    """The code of Dettmers et al. 2022, as `create_dynamic_map` of bitsandbytes defines it."""
    values = [0.0, 1.0]
    for decade in range(7):
        edges = np.linspace(0.1, 1, ((1 if signed else 2) << decade) + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)
        values += [*middles, *(-middles if signed else [])]
    return np.sort(values)


def test_adamw_8bit_keeps_what_adamw_keeps_to_half_a_step_of_its_code(models, data, tmp_path):
    from safetensors.numpy import load_file

    moments = {}
    for optimizer in ("adamw", "adamw_8bit"):
        train(models["llama"], data, tmp_path / optimizer, steps=1, save_steps=1,
              optimizer=optimizer, learning_rate=0, batch_size=2, sequence_length=33)
        moments[optimizer] = load_file(
            tmp_path / optimizer / "checkpoint-1" / "optimizer.safetensors")
    assert moments["adamw"].keys() == moments["adamw_8bit"].keys()
    for name, exact in moments["adamw"].items():
        records = moments["adamw_8bit"][name]
        assert records.dtype == np.uint8 and records.shape == (-(-exact.size // 256), 260)
        scales = records[:, 256:].copy().view(np.float32)
        code = dynamic_map(signed=name.startswith("exp_avg."))
        kept = (code[records[:, :256]] * scales).reshape(-1)[:exact.size]
        blocks = np.pad(np.abs(exact.reshape(-1)), (0, -exact.size % 256)).reshape(-1, 256)
        assert np.array_equal(scales[:, 0], blocks.max(1)), name
        # Half of the widest step, that of the highest decade; of -1 there is no code.
        widest = 0.9 / (64 if name.startswith("exp_avg.") else 128)
        error = np.abs(np.pad(kept - exact.reshape(-1), (0, -exact.size % 256))).reshape(-1, 256)
        assert (error <= 0.5001 * widest * scales).all(), name


def test_adamw_8bit_ends_where_adamw_does(models, tmp_path):
    chances = 1 / np.arange(1, 129)
    tokens = np.random.RandomState(5).choice(128, 20001, p=chances / chances.sum())
    data = write_tokens(tmp_path / "zipf.bin", tokens)
    # Of split weights half would count as optimizer state.
    flags = RUN | dict(steps=200, compute_dtype="fp32")
    exact = train(models["gpt2"], data, tmp_path / "a", **flags)
    coded = train(models["gpt2"], data, tmp_path / "b", optimizer="adamw_8bit", **flags)
    assert exact[-1]["loss"] < 0.9 * exact[0]["loss"]
    assert abs(coded[-1]["loss"] / exact[-1]["loss"] - 1) < 0.01
    state = [json.loads((tmp_path / run / "plan.json").read_text())["tiers"]["device"]["by_kind"]
             for run in "ab"]
    assert state[1]["optimizer"] < state[0]["optimizer"] / 3.5


def test_a_damaged_checkpoint_is_refused(models, data, tmp_path):
    out = tmp_path / "o"
    train(models["gpt2"], data, out, steps=2, save_steps=1, **RUN)
    checkpoint = out / "checkpoint-1"
    manifest = json.loads((checkpoint / "manifest.json").read_text())["files"]
    assert set(manifest) == {p.name for p in checkpoint.iterdir()} - {"manifest.json"}
    path = checkpoint / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    assert manifest[path.name]["bytes"] == len(content)
    content[-5] ^= 1
    path.write_bytes(content)
    error = train(models["gpt2"], data, out, expect=4, steps=2, resume_from_checkpoint=checkpoint,
                  **RUN)
    assert "optimizer.safetensors" in error
    path.unlink()
    assert "missing" in train(models["gpt2"], data, out, expect=4, steps=2,
                              resume_from_checkpoint=checkpoint, **RUN)


@pytest.mark.parametrize("number,code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_run_goes_on(models, data, tmp_path, number, code):
    flags = ["--model", models["gpt2"], "--data", data, "--steps", "4000", "--batch-size", "2",
             "--sequence-length", "33"]
    process = subprocess.Popen([BINARY, "train", *map(str, flags), "--out", tmp_path / "o"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    done = metrics(tmp_path / "o")[-1]["step"]
    assert (tmp_path / "o" / f"checkpoint-{done}" / "trainer_state.json").exists()
    assert not (tmp_path / "o" / "final").exists()
    whole = train(models["gpt2"], data, tmp_path / "w", steps=4000, batch_size=2,
                  sequence_length=33)
    again = train(models["gpt2"], data, tmp_path / "o", steps=4000, batch_size=2,
                  sequence_length=33, resume_from_checkpoint="latest")
    assert values(again) == values(whole)


def test_windows_are_those_of_the_contract(models, tmp_path):
    """Unshuffled: step s takes the next windows; the last incomplete batch is dropped; then a new
    epoch begins. Losses at rate 0 name the windows."""
    tokens = np.random.RandomState(1).randint(0, 331, 5 * 8 + 1)
    data = write_tokens(tmp_path / "d.bin", tokens)
    flags = dict(batch_size=2, sequence_length=8, learning_rate=0, shuffle="false")
    lines = train(models["gpt2"], data, tmp_path / "o", steps=5, **flags)
    losses = [line["loss"] for line in lines]
    assert losses[2] == losses[0] and losses[3] == losses[1] and losses[4] == losses[0]
    assert losses[0] != losses[1]
    epochs = train(models["gpt2"], data, tmp_path / "e", epochs=2, **flags)
    assert len(epochs) == 4
    shuffled = train(models["gpt2"], data, tmp_path / "s", steps=5,
                     **(flags | {"shuffle": "true", "batch_size": 1}))
    ordered = train(models["gpt2"], data, tmp_path / "r", steps=5, **(flags | {"batch_size": 1}))
    assert sorted(line["loss"] for line in shuffled) == sorted(line["loss"] for line in ordered)
    assert [line["loss"] for line in shuffled] != [line["loss"] for line in ordered]


def test_files_are_one_stream_in_order(models, tmp_path):
    tokens = np.random.RandomState(1).randint(0, 331, 65)
    whole = write_tokens(tmp_path / "w.bin", tokens)
    parts = [write_tokens(tmp_path / "b.bin", tokens[:27]),
             write_tokens(tmp_path / "a.bin", tokens[27:])]
    flags = dict(batch_size=1, sequence_length=8, learning_rate=0, shuffle="false", epochs=1)
    one = train(models["gpt2"], whole, tmp_path / "1", **flags)
    words = ["--data", *parts]
    done = hetmem("train", "--model", models["gpt2"], *words, "--out", tmp_path / "2",
                  *[w for k, v in flags.items() for w in ("--" + k.replace("_", "-"), v)])
    assert done.returncode == 0, done.stderr
    assert values(metrics(tmp_path / "2")) == values(one)


def test_metrics_have_the_fields_of_the_contract(models, data, tmp_path):
    lines = train(models["gpt2"], data, tmp_path / "o", steps=2, **RUN)
    assert list(lines[0]) == [
        "step", "loss", "grad_norm", "learning_rate", "tokens", "seconds", "tokens_per_second",
        "memory", "traffic", "exposed_copy_seconds", "fraction_of_bound"]
    assert lines[0]["step"] == 1 and lines[0]["tokens"] == 66
    assert set(lines[0]["memory"]) == {"device", "host", "disk"}
    assert set(lines[0]["memory"]["device"]) == {"peak", "budget"}
    assert set(lines[0]["traffic"]) == {"to_device", "to_host", "disk_read", "disk_write"}
    out = tmp_path / "o"
    assert (out / "config.yaml").exists() and json.loads((out / "plan.json").read_text())["fits"]
    again = hetmem("train", "--config", out / "config.yaml", "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert values(metrics(tmp_path / "again")) == values(lines)


def test_json_lines_on_stdout_when_not_a_terminal(models, data, tmp_path):
    done = hetmem("train", "--model", models["gpt2"], "--data", data, "--steps", 2,
                  "--batch-size", 1, "--sequence-length", 8, "--out", tmp_path / "o")
    assert [json.loads(line)["step"] for line in done.stdout.splitlines()] == [1, 2]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_plan_is_what_is_reserved(models, data, tmp_path, name):
    flags = ["--model", models[name], "--batch-size", 2, "--sequence-length", 33]
    plan = json.loads(hetmem("plan", *flags, "--json").stdout)
    assert plan["fits"] and plan["tiers"]["device"]["peak"] == sum(
        plan["tiers"]["device"]["by_kind"].values())
    parameters = sum(value.numel() for value in state_of(models[name]).values())
    assert plan["parameters"] == parameters
    # fp32 weights, or the two halves of split ones, one of them with the moments.
    kinds = plan["tiers"]["device"]["by_kind"]
    assert kinds["weights"] + kinds["optimizer"] >= (4 + 8) * parameters
    lines = train(models[name], data, tmp_path / "o", steps=2, **RUN)
    assert lines[-1]["memory"]["device"]["peak"] == plan["tiers"]["device"]["peak"]


def test_a_budget_that_is_too_small(models, data, tmp_path):
    flags = ["--model", models["qwen2"], "--batch-size", 2, "--sequence-length", 33]
    small = hetmem("plan", *flags, "--device-memory", "300KiB", "--json")
    assert small.returncode == 3
    plan = json.loads(small.stdout)
    assert not plan["fits"] and plan["step_seconds"] is None
    least = plan["smallest_device_memory"]
    error = train(models["qwen2"], data, tmp_path / "o", expect=3, steps=1,
                  device_memory=least - 1, **RUN)
    assert str(least) in error.replace(",", "") or "smallest" in error
    assert not (tmp_path / "o").exists()
    lines = train(models["qwen2"], data, tmp_path / "o", steps=1, device_memory=least, **RUN)
    assert lines[0]["memory"]["device"] == {"peak": least, "budget": least}
    roomy = train(models["qwen2"], data, tmp_path / "r", steps=1, **RUN)
    assert values(roomy) == values(lines)


def test_from_scratch_draws_as_transformers_does(tmp_path, data):
    import transformers

    for name, config in {
        "gpt2": transformers.GPT2Config(vocab_size=331, n_positions=64, n_embd=96, n_layer=3,
                                        n_head=4),
        "llama": transformers.LlamaConfig(vocab_size=331, hidden_size=96, intermediate_size=200,
                                          num_hidden_layers=2, num_attention_heads=4,
                                          max_position_embeddings=64, initializer_range=0.05),
    }.items():
        config.save_pretrained(tmp_path / name)
        train(tmp_path / name, data, tmp_path / (name + "-o"), from_scratch=True, steps=1,
              batch_size=1, sequence_length=8, learning_rate=0)
        train(tmp_path / name, data, tmp_path / (name + "-p"), from_scratch=True, steps=1,
              batch_size=2, sequence_length=8, learning_rate=0)
        assert bits(tmp_path / (name + "-o")) == bits(tmp_path / (name + "-p"))
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        found = state_of(tmp_path / (name + "-o") / "final")
        for weight, value in model.state_dict().items():
            if weight not in found:
                continue
            drawn = found[weight]
            if value.ndim < 2:
                assert torch.equal(drawn, value), weight  # zeros and ones
                continue
            # Two samples of one normal: five standard errors of the difference of their deviations.
            n = value.numel()
            assert abs(drawn.std() / value.std() - 1) < 5 / np.sqrt(n), weight
            assert abs(drawn.mean()) < 5 * value.std() / np.sqrt(n), weight


def test_skip_non_finite_steps(models, data, tmp_path):
    """A rate that explodes: stop says so with exit code 5, skip goes on and leaves weights alone."""
    flags = RUN | dict(learning_rate=1e30, max_grad_norm=0, lr_scheduler_type="constant",
                       optimizer="sgd")
    error = train(models["gpt2"], data, tmp_path / "s", expect=5, steps=6, **flags)
    assert "not finite" in error
    lines = train(models["gpt2"], data, tmp_path / "k", steps=6, on_nonfinite="skip", **flags)
    skipped = [line for line in lines if line.get("skipped")]
    assert skipped and all(line["loss"] is None for line in skipped)
    assert [line["step"] for line in lines] == list(range(1, 7))


def test_a_trace_is_a_chrome_trace(models, data, tmp_path):
    train(models["gpt2"], data, tmp_path / "o", steps=2, trace=tmp_path / "t.json", **RUN)
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    names = {event["name"] for event in events if event["ph"] == "X"}
    assert {"attention", "linear_backward_weight", "optimizer"} <= names


def test_rss_stays_within_the_budgets(models, data, tmp_path):
    """Device budget plus 256 MiB, measured by the kernel."""
    words = ["--model", models["gpt2"], "--data", data, "--out", tmp_path / "o", "--steps", "4000",
             "--device-memory", "8MiB", "--host-memory", "1MiB"]
    process = subprocess.Popen([BINARY, "train", *map(str, words)], stdout=subprocess.PIPE,
                               text=True)
    for _ in range(3):
        line = json.loads(process.stdout.readline())
    with open(f"/proc/{process.pid}/status") as file:
        (peak,) = [int(text.split()[1]) * 1024 for text in file if text.startswith("VmHWM")]
    process.terminate()
    process.communicate(timeout=60)
    assert line["memory"]["device"]["budget"] == 8 << 20
    assert peak < (8 + 1 + 256) << 20


def test_quick_commands_are_quick(models):
    """Not a timing: these commands must not touch weights, so that they can be quick."""
    done = hetmem("plan", "--model", models["gpt2"], "--json")
    assert done.returncode == 0
    doctor = json.loads(hetmem("doctor", "--json").stdout)
    assert doctor["threads"] >= 1 and doctor["instruction_set"] in ("avx2", "avx512")
    assert (doctor["disk_backend"], doctor["no_io_uring_because"] == "") in (("io_uring", True),
                                                                             ("threads", False))
    assert f"disk           {doctor['disk_backend']}" in hetmem("doctor").stdout
    assert "compiler" in hetmem("--version").stdout
    assert hetmem("train", "--help").returncode == 0


@pytest.fixture
def old_run(models, data, tmp_path):
    """A folder with all that a run leaves."""
    out = tmp_path / "k"
    train(models["gpt2"], data, out, steps=3, save_steps=1, save_total_limit=0, tensorboard=True, **RUN)
    train(models["gpt2"], data, out, steps=2, tensorboard=True,
          resume_from_checkpoint=out / "checkpoint-1", **RUN)
    assert (out / "checkpoint-3.abandoned").exists()
    return out


def test_overwriting_replaces_a_run(models, data, old_run):
    train(models["gpt2"], data, old_run, steps=1, overwrite_output_dir=True, **RUN)
    assert sorted(path.name for path in old_run.iterdir()) == [
        "access_trace.json", "config.yaml", "final", "metrics.jsonl", "plan.json", "report.html"]
    assert len(metrics(old_run)) == 1


@pytest.mark.parametrize("name", ["checkpoint-mine", "notes", "tensorboard", "final.tmp-mine"])
def test_overwriting_leaves_what_no_run_has_written(models, data, old_run, name):
    (old_run / name).mkdir(exist_ok=True)
    (old_run / name / "thesis.txt").write_text("mine")
    train(models["gpt2"], data, old_run, steps=1, overwrite_output_dir=True, **RUN)
    assert [path.name for path in (old_run / name).iterdir()] == ["thesis.txt"]
    assert not (old_run / "checkpoint-2").exists()


@pytest.mark.parametrize("name", ["checkpoint-7", "final", "checkpoint-2", "checkpoint-3.abandoned",
                                  "plan.json"])
@pytest.mark.parametrize("way", ["command", "python"])
def test_overwriting_refuses_to_remove_it(models, data, old_run, name, way):
    """Before anything is removed."""
    if name == "plan.json":
        (old_run / name).unlink()
    (old_run / name).mkdir(exist_ok=True)
    (old_run / name / "thesis.txt").write_text("mine")
    before = sorted(old_run.rglob("*"))
    if way == "command":
        error = train(models["gpt2"], data, old_run, expect=2, steps=1, overwrite_output_dir=True, **RUN)
    else:
        import hetmem

        with hetmem.Trainer(models["gpt2"], out=old_run, overwrite_output_dir=True, **RUN) as trainer:
            with pytest.raises(ValueError) as raised:
                trainer.train(data, steps=1)
        error = str(raised.value)
    assert f"{name}/thesis.txt, which no run has written; move it away" in error
    assert sorted(old_run.rglob("*")) == before


def test_overwriting_leaves_the_configuration_of_somebody(models, data, tmp_path):
    out = tmp_path / "o"
    out.mkdir()
    (out / "config.yaml").write_text("# mine\nsteps: 1\n")
    error = train(models["gpt2"], data, out, expect=2, config=out / "config.yaml",
                  overwrite_output_dir=True, **RUN)
    assert "config.yaml, which is beside no metrics.jsonl" in error
    assert (out / "config.yaml").read_text() == "# mine\nsteps: 1\n"


def test_a_run_that_is_given_up_removes_nothing_of_others(models, data, tmp_path):
    """Another one has its folder beside it by then, in one that this run has made."""
    runs = tmp_path / "runs"
    words = ["--model", models["gpt2"], "--data", data, "--out", runs / "mine", "--steps", 1]
    process = subprocess.Popen(
        [BINARY, "train", *map(str, words)], stderr=subprocess.PIPE, text=True, env=os.environ | {
            "HETMEM_FAULTS": "memory.allocate:1=stop;file.write@plan.json:1+=EIO"})
    os.waitpid(process.pid, os.WUNTRACED)
    (runs / "yours").mkdir()
    process.send_signal(signal.SIGCONT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 4, error
    assert list(runs.iterdir()) == [runs / "yours"]


WRITTEN = "another run is writing into --out"


@pytest.mark.parametrize("more", [{"overwrite_output_dir": True}, {"resume_from_checkpoint": "latest"}, {}])
@pytest.mark.parametrize("point", ["step.begin:4", "checkpoint.tensor:5"])
def test_a_folder_has_one_run_at_a_time(models, data, tmp_path, point, more):
    """The first stands still, its checkpoint under way, while the second is tried."""
    flags = RUN | dict(steps=5, save_steps=2)
    whole = train(models["gpt2"], data, tmp_path / "whole", **flags)
    out = tmp_path / "o"
    words = [w for k, v in flags.items() for w in ("--" + k.replace("_", "-"), str(v))]
    first = subprocess.Popen(
        [BINARY, "train", "--model", models["gpt2"], "--data", data, "--out", out, *words],
        stdout=subprocess.DEVNULL, env=os.environ | {"HETMEM_FAULTS": point + "=stop"})
    os.waitpid(first.pid, os.WUNTRACED)
    error = train(models["gpt2"], data, out, expect=2, **flags, **more)
    assert WRITTEN in error and "choose another" in error
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=60) == 0
    assert values(metrics(out)) == values(whole) and bits(out) == bits(tmp_path / "whole")
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir())
    train(models["gpt2"], data, out, overwrite_output_dir=True, **flags)


def test_a_run_that_was_killed_leaves_no_lock(models, data, tmp_path):
    out = tmp_path / "o"
    train(models["gpt2"], data, out, expect=-9, steps=2, env={"HETMEM_FAULTS": "step.begin:2=kill"}, **RUN)
    train(models["gpt2"], data, out, steps=2, overwrite_output_dir=True, **RUN)


def test_trainers_of_one_process_take_turns_at_a_folder(models, data, tmp_path):
    import hetmem

    out = tmp_path / "o"
    refused = []
    with hetmem.Trainer(models["gpt2"], out=out, save_steps=1, **RUN) as one, hetmem.Trainer(
            models["gpt2"], out=out, overwrite_output_dir=True, **RUN) as other:
        def try_the_other(_):
            with pytest.raises(ValueError, match=WRITTEN):
                other.train(data, steps=1)
            refused.append(train(models["gpt2"], data, out, expect=2, resume_from_checkpoint="latest",
                                 **RUN) if (out / "checkpoint-1").exists() else WRITTEN)

        one.train(data, steps=3, callbacks=try_the_other)
        assert len(refused) == 3 and all(WRITTEN in error for error in refused)
        assert other.train(data, steps=1).steps == 1


def test_a_child_does_not_keep_the_lock(models, data, tmp_path):
    """That was forked in the middle of a run, and lives on."""
    import hetmem

    read, write = os.pipe()
    children = []

    def fork(_):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        children.append(child)

    with hetmem.Trainer(models["gpt2"], out=tmp_path / "o", **RUN) as trainer:
        trainer.train(data, steps=1, callbacks=fork)
        assert trainer.train(data, steps=1).steps == 2
    train(models["gpt2"], data, tmp_path / "o", steps=1, overwrite_output_dir=True, **RUN)
    os.close(write)
    assert [os.waitpid(child, 0)[1] for child in children] == [0]


def with_default_signals():
    """Whoever runs the tests in the background may have them ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(model, data, out, stdout, *stops, **flags):
    words = [w for k, v in (RUN | flags).items() for w in ("--" + k.replace("_", "-"), str(v))]
    process = subprocess.Popen(
        [BINARY, "train", "--model", model, "--data", data, "--out", out, *words], stdout=stdout,
        stderr=subprocess.PIPE, text=True, preexec_fn=with_default_signals,
        env=os.environ | {"HETMEM_FAULTS": ";".join(stop + "=stop" for stop in stops)})
    if stops:
        os.waitpid(process.pid, os.WUNTRACED)
    return process


@pytest.mark.parametrize("form", ["json", "plain"])
@pytest.mark.parametrize("reader", ["leaves", "full", "closed"])
def test_output_that_is_lost_costs_no_run(models, data, tmp_path, reader, form):
    whole = train(models["gpt2"], data, tmp_path / "whole", steps=4, save_steps=2, **RUN)
    out = tmp_path / "o"
    flags = dict(steps=4, save_steps=2, log_format=form)
    if reader == "leaves":
        process = start(models["gpt2"], data, out, subprocess.PIPE, "step.begin:3", **flags)
        process.stdout.close()
        process.send_signal(signal.SIGCONT)
        error, reason = process.stderr.read(), "Broken pipe"
        process.wait(timeout=60)
    elif reader == "full":
        with open("/dev/full", "w") as full:
            process = start(models["gpt2"], data, out, full, **flags)
            error, reason = process.communicate(timeout=60)[1], "No space left on device"
    else:
        words = [w for k, v in (RUN | flags).items() for w in ("--" + k.replace("_", "-"), str(v))]
        process = subprocess.run(
            ["sh", "-c", 'exec "$0" "$@" >&-', BINARY, "train", "--model", models["gpt2"], "--data", data,
             "--out", out, *words], stderr=subprocess.PIPE, text=True)
        error, reason = process.stderr, "Bad file descriptor"
    assert process.returncode == 0, error
    assert error == ("hetmem: note: nothing more is printed: cannot write to the standard output: "
                     f"{reason}; the run goes on\n")
    assert values(metrics(out)) == values(whole) and bits(out) == bits(tmp_path / "whole")
    assert (out / "checkpoint-4").exists()


@pytest.mark.parametrize("arguments", [["plan", "--json"], ["plan"], ["plan", "--dump-program"], ["doctor"],
                                       ["doctor", "--json"], ["train", "--help"], ["--version"]])
@pytest.mark.parametrize("reader", ["leaves", "full", "closed"])
def test_output_that_is_lost_is_an_error(models, arguments, reader):
    """Of a command that has nothing else to give."""
    if arguments[0] == "plan":
        arguments = [*arguments, "--model", models["gpt2"]]
    redirect = {"leaves": "", "full": " >/dev/full", "closed": " >&-"}[reader]
    process = subprocess.Popen(["sh", "-c", 'read go; exec "$0" "$@"' + redirect, BINARY, *arguments],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    process.stdin.write("go\n")
    process.stdin.close()
    error = process.stderr.read()
    assert process.wait(timeout=60) == 4, error
    assert error.startswith("hetmem: error: cannot write to the standard output") and error.count("\n") == 1


INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def signalled(models, data, out, first, then):
    """The exit code of a run that gets signals in its second step, and others at its end."""
    process = start(models["gpt2"], data, out, subprocess.DEVNULL, "step.begin:2", "step.done:2", steps=4)
    for number in first:
        process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    os.waitpid(process.pid, os.WUNTRACED)
    for number in then:
        process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    return process.wait(timeout=60)


@pytest.mark.parametrize("first,then,codes", [
    ([HUP], [], {129}), ([HUP], [HUP], {129}), ([HUP], [TERM], {129}), ([TERM], [HUP], {143}),
    ([HUP, TERM], [], {129, 143}), ([HUP, TERM], [HUP], {129, 143})])
def test_a_hangup_saves_as_other_signals_do(models, data, tmp_path, first, then, codes):
    """A session that is closed sends more than one; so do systems that end its processes. Of two at once
    either is the first: threads take them."""
    whole = train(models["gpt2"], data, tmp_path / "whole", steps=4, **RUN)
    out = tmp_path / "o"
    assert signalled(models, data, out, first, then) in codes
    assert (out / "checkpoint-2").exists() and len(metrics(out)) == 2
    lines = train(models["gpt2"], data, out, steps=4, resume_from_checkpoint="latest", **RUN)
    assert values(lines) == values(whole)


@pytest.mark.parametrize("first,then,code", [([HUP, TERM], [TERM], 143), ([HUP, TERM], [INT], 130), ([HUP], [INT], 130)])
def test_a_second_request_after_a_hangup_ends_at_once(models, data, tmp_path, first, then, code):
    assert signalled(models, data, tmp_path / "o", first, then) == code
    assert not (tmp_path / "o" / "checkpoint-2").exists()


def test_a_hangup_that_is_ignored_stays_so(models, data, tmp_path):
    """That of nohup."""
    words = [w for k, v in RUN.items() for w in ("--" + k.replace("_", "-"), v)]
    process = subprocess.Popen(
        ["nohup", BINARY, "train", "--model", models["gpt2"], "--data", data, "--out", tmp_path / "o",
         "--steps", "3", *map(str, words)], stdout=subprocess.DEVNULL,
        env=os.environ | {"HETMEM_FAULTS": "step.begin:2=stop"})
    os.waitpid(process.pid, os.WUNTRACED)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=60) == 0 and len(metrics(tmp_path / "o")) == 3
