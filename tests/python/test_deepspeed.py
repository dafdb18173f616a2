"""--deepspeed: a run by a DeepSpeed configuration is, bit for bit, the run by the flags it stands for."""

import json

import pytest
from conftest import hetmem, metrics

FILE = {
    "train_batch_size": 4, "train_micro_batch_size_per_gpu": 2, "gradient_clipping": 0.5,
    "optimizer": {"type": "AdamW", "params": {
        "lr": 2e-3, "betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.1}},
    "scheduler": {"type": "WarmupDecayLR", "params": {
        "warmup_min_lr": 0, "warmup_max_lr": 2e-3, "warmup_num_steps": 2, "total_num_steps": 5,
        "warmup_type": "linear"}},
    "bf16": {"enabled": False}, "fp16": {"enabled": False},
    "zero_optimization": {
        "stage": 3, "offload_param": {"device": "cpu", "pin_memory": True},
        "offload_optimizer": {"device": "cpu"}, "overlap_comm": True},
    "steps_per_print": 100, "wall_clock_breakdown": False,
}
FLAGS = ["--batch-size", 2, "--gradient-accumulation-steps", 2, "--max-grad-norm", 0.5,
         "--optimizer", "adamw", "--learning-rate", 2e-3, "--adam-beta1", 0.8, "--adam-beta2", 0.95,
         "--adam-epsilon", 1e-6, "--weight-decay", 0.1, "--lr-scheduler-type", "linear",
         "--warmup-steps", 2, "--steps", 5, "--compute-dtype", "fp32"]
AUTO = {
    "bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {
        "lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupLR", "params": {
        "warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto",
        "warmup_type": "linear"}},
    "zero_optimization": {"stage": 2},
    "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
    "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto",
}


@pytest.fixture
def run(models, data, tmp_path):
    """run(name, configuration, flags...) -> (what the process was, the numbers of its steps)"""

    def run(name, configuration, *flags, code=0):
        words = ["--model", models["gpt2"], "--data", data, "--sequence-length", 16,
                 "--out", tmp_path / name]
        if configuration is not None:
            (tmp_path / "ds.json").write_text(json.dumps(configuration))
            words += ["--deepspeed", tmp_path / "ds.json"]
        done = hetmem("train", *words, *flags)
        assert done.returncode == code, (done.returncode, done.stderr)
        if code != 0:
            assert not (tmp_path / name).exists()
            return done, None
        return done, [(line["step"], line["loss"], line["grad_norm"], line["learning_rate"])
                      for line in metrics(tmp_path / name)]

    return run


def weights(folder):
    return (folder / "final" / "model.safetensors").read_bytes()


def test_a_file_is_the_flags_that_it_stands_for(run, tmp_path):
    done, by_file = run("file", FILE)
    _, by_flags = run("flags", None, *FLAGS)
    assert len(by_file) == 5 and by_file == by_flags
    assert weights(tmp_path / "file") == weights(tmp_path / "flags")
    # The resolved configuration needs the file no more.
    assert (tmp_path / "file/config.yaml").read_text() == (
        tmp_path / "flags/config.yaml").read_text().replace(str(tmp_path / "flags"),
                                                            str(tmp_path / "file"))
    notes = done.stderr.splitlines()
    assert all(note.startswith("hetmem: note: ") for note in notes), notes
    for name in ("steps_per_print", "wall_clock_breakdown", "zero_optimization.overlap_comm",
                 "zero_optimization.offload_param.pin_memory", "--device-memory"):
        assert done.stderr.count(name) == 1, done.stderr


def test_nvme_is_the_disk(run, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "other").mkdir()
    offload = {"device": "nvme", "nvme_path": str(tmp_path / "disk"), "buffer_count": 5}
    zero = {"stage": 3, "offload_param": offload, "offload_optimizer": offload}
    done, by_file = run("file", FILE | {"zero_optimization": zero}, "--device-memory", "1GiB")
    _, by_flags = run("flags", None, *FLAGS, "--device-memory", "1GiB", "--disk",
                      tmp_path / "disk")
    assert by_file == by_flags
    assert f"disk: {tmp_path / 'disk'}\n" in (tmp_path / "file/config.yaml").read_text()
    for text in ("parameters on nvme, optimizer on nvme", "--disk-memory", "buffer_count"):
        assert text in done.stderr
    zero["offload_optimizer"] = offload | {"nvme_path": str(tmp_path / "other")}
    run("both", FILE | {"zero_optimization": zero})
    assert (f"disk: {tmp_path / 'disk'},{tmp_path / 'other'}\n"
            in (tmp_path / "both/config.yaml").read_text())


def test_sgd_and_cosine(run):
    cosine = {"optimizer": {"type": "SGD", "params": {"lr": 0.1, "momentum": 0.8}},
              "scheduler": {"type": "WarmupCosineLR", "params": {
                  "total_num_steps": 4, "warmup_num_steps": 2, "cos_min_ratio": 0.25,
                  "warmup_type": "linear"}}}
    _, by_file = run("file", cosine)
    _, by_flags = run("flags", None, "--optimizer", "sgd", "--learning-rate", 0.1, "--momentum",
                      0.8, "--lr-scheduler-type", "cosine", "--warmup-steps", 2, "--min-lr-ratio",
                      0.25, "--steps", 4)
    assert by_file == by_flags and len(by_file) == 4


def test_auto_leaves_what_is_given(run):
    flags = ["--steps", 4, "--learning-rate", 3e-3, "--warmup-steps", 2, "--batch-size", 1,
             "--gradient-accumulation-steps", 2, "--weight-decay", 0.01]
    done, by_file = run("file", AUTO, *flags)
    _, by_flags = run("flags", None, *flags, "--lr-scheduler-type", "constant_with_warmup")
    assert by_file == by_flags
    assert "without a meaning" not in done.stderr


def test_what_disagrees_is_refused_as_a_list(run, tmp_path):
    # Equal values are no conflict, however they are written.
    run("same", FILE, "--learning-rate", "0.0020", "--steps", "5")
    done, _ = run("o", FILE, "--learning-rate", 1e-3, "--batch-size", 2, "--max-grad-norm", 1,
                  code=2)
    (line,) = done.stderr.splitlines()
    for text in ("scheduler.params.warmup_max_lr (0.002) against --learning-rate 0.001",
                 "gradient_clipping (0.5) against --max-grad-norm 1", "auto"):
        assert text in line, line
    assert "--batch-size" not in line
    done, _ = run("o", FILE, "--epochs", 1, code=2)
    assert "scheduler.params.total_num_steps (5) against --epochs 1" in done.stderr
    (tmp_path / "c.yaml").write_text("weight_decay: 0.2\nadam_beta1: 0.8\n")
    done, _ = run("o", FILE, "--config", tmp_path / "c.yaml", code=2)
    assert "weight_decay (0.1) against --weight-decay 0.2" in done.stderr
    assert "beta1" not in done.stderr


def test_bad_files(run, models, data, tmp_path):
    for configuration, says in [
        ([], "ds.json"), ({"optimizer": {"type": "Lion"}}, ["Lion", "AdamW"]),
        ({"fp16": {"enabled": True}}, ["fp16.enabled", "bf16"]),
        ({"train_batch_size": 7, "train_micro_batch_size_per_gpu": 2}, ["7", "2"]),
        ({"optimizer": {"type": "Adam", "params": {"betas": [1.5, 0.9]}}},
         ["optimizer.params.betas", "1.5"]),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
         ["offload_param.nvme_path", "absent"]),
        ({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "tape"}}},
         ["offload_optimizer.device", "tape"]),
        ({"scheduler": {"type": "OneCycle", "params": {}}}, ["OneCycle", "WarmupLR"]),
    ]:
        done, _ = run("o", configuration, "--steps", 1, code=2)
        (line,) = done.stderr.splitlines()
        for text in [says] if isinstance(says, str) else says:
            assert line.startswith("hetmem: error: ") and text in line, line
    for path, says in [(tmp_path / "none.json", "none.json"), (tmp_path, str(tmp_path))]:
        done = hetmem("train", "--model", models["gpt2"], "--data", data, "--deepspeed", path)
        assert done.returncode == 2 and says in done.stderr
    (tmp_path / "cut.json").write_text('{"optimizer": ')
    done = hetmem("plan", "--model", models["gpt2"], "--deepspeed", tmp_path / "cut.json")
    assert done.returncode == 2 and "cut.json is not valid JSON" in done.stderr


def test_plan_reads_it_too(models, tmp_path):
    words = ["plan", "--model", models["gpt2"], "--json", "--device-memory", "1GiB",
             "--host-memory", "1GiB"]  # what is free changes from one call to the next
    (tmp_path / "ds.json").write_text(json.dumps(FILE))
    by_file = hetmem(*words, "--deepspeed", tmp_path / "ds.json")
    by_flags = hetmem(*words, *FLAGS)
    assert by_file.returncode == 0 and "hetmem: note: " in by_file.stderr
    assert json.loads(by_file.stdout)["tiers"] == json.loads(by_flags.stdout)["tiers"]
    assert "--deepspeed" in hetmem("train", "--help").stdout
