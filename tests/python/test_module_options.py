"""Options of the Python package: what plan() and Trainer take, and what a run says that it took."""

import json

import hetmem
import pytest
from conftest import metrics, train
from conftest import hetmem as command
from test_module import RUN, TIGHT


def test_plan_is_that_of_the_command_line(models):
    flags = ["--batch-size", 2, "--sequence-length", 33, "--device-memory", "700KiB", "--host-memory", "2MiB"]
    done = command("plan", "--model", models["qwen3"], "--json", *flags)
    shape = dict(batch_size=2, sequence_length=33)
    plan = hetmem.plan(models["qwen3"], **shape, **TIGHT)
    assert plan.to_dict() == json.loads(done.stdout)
    assert str(plan) == command("plan", "--model", models["qwen3"], *flags).stdout.rstrip("\n")
    assert plan.fits and plan.tiers["device"].budget == 700 << 10 >= plan.tiers.device.peak
    small = hetmem.plan(models["qwen3"], **shape, device_memory=1000, host_memory="2MiB")
    assert not small.fits and small.step_seconds is None
    fits = small.smallest_device_memory
    assert hetmem.plan(models["qwen3"], **shape, device_memory=fits, host_memory="2MiB").fits
    assert not hetmem.plan(models["qwen3"], **shape, device_memory=fits - 1, host_memory="2MiB").fits


def test_a_plan_reads_no_data(models, data, tmp_path):
    """The flags of train serve plan, but for those that name data."""
    shape = dict(batch_size=2, sequence_length=33, device_memory="16MiB", host_memory="16MiB")
    train(models["gpt2"], data, tmp_path / "run", steps=1, **shape)  # keeps rates, once
    want = hetmem.plan(models["gpt2"], **shape)
    assert hetmem.plan(models["gpt2"], steps=3, save_steps=1, shuffle=False, **shape) == want
    for name in ("data", "eval_data", "data_glob"):
        done = command("plan", "--model", models["gpt2"], "--" + name.replace("_", "-"), data)
        assert done.returncode == 2
        with pytest.raises(ValueError) as raised:
            hetmem.plan(models["gpt2"], **{name: data})
        assert done.stderr == f"hetmem: error: {raised.value}\n"
    # The configuration that a run leaves names its data; both pass over them.
    config = tmp_path / "run" / "config.yaml"
    assert "data:" in config.read_text()
    assert hetmem.plan(config=config) == want
    done = command("plan", "--config", config, "--json")
    assert json.loads(done.stdout) == want.to_dict()


def test_options_in_one(models, data, tmp_path):
    train(models["gpt2"], data, tmp_path / "run", steps=3, **RUN)
    config = {"model": models["gpt2"], "data": [data], "steps": 3} | RUN
    dashed = {name.replace("_", "-"): value for name, value in config.items()}
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    for given in (config, dashed):
        with hetmem.Trainer(config=given) as trainer:
            assert trainer.train().losses == losses
    # The file that a run leaves; keywords win.
    with hetmem.Trainer(config=tmp_path / "run" / "config.yaml", out=tmp_path / "again", batch_size=1,
                        steps=2) as trainer:
        assert trainer.step_shape == (1, 34)
        assert len(trainer.train().losses) == 2
    with pytest.raises(TypeError, match="give model"):
        hetmem.Trainer(batch_size=2)
    with pytest.raises(ValueError, match='unknown option "batchsize"'):
        hetmem.Trainer(config={"model": models["gpt2"], "batchsize": 2})
    with pytest.raises(ValueError, match="nowhere.yaml"):
        hetmem.Trainer(config=tmp_path / "nowhere.yaml")


def test_the_configuration_of_a_run_as_others_read_it(models, data, tmp_path, monkeypatch):
    import yaml

    monkeypatch.chdir(tmp_path)
    given = dict(model=models["llama"], adam_epsilon=1e-20, learning_rate=5e-5, seed=12, momentum=0.5,
                 weight_decay=1e20, device_memory="2GiB", steps=1, sequence_length=33, trace="off")
    with hetmem.Trainer(**given, out="y", freeze="null", optimizer_overlap=False, data_glob="0o7") as trainer:
        trainer.train(data)
    text = (tmp_path / "y" / "config.yaml").read_text()
    read = yaml.safe_load(text)
    assert {name: read[name] for name in given} == given | {
        "model": str(models["llama"]), "device_memory": 2 << 30}
    assert read["out"] == "y" and read["freeze"] == "null" and read["optimizer_overlap"] == "off"
    assert read["data_glob"] == "0o7" and read["shuffle"] is True
    assert "learning_rate: 5.0e-05\n" in text
    del read["out"], read["trace"]
    with hetmem.Trainer(config=read) as trainer:
        again = trainer.options
    with hetmem.Trainer(config=tmp_path / "y" / "config.yaml", out="", trace="") as trainer:
        own = trainer.options
    for name in ("out", "trace"):
        del again[name], own[name]
    assert again == own and again["learning-rate"] == ["5e-05"]


@pytest.mark.parametrize("word", ["on", "No", "null", "~", "12", "0x1F", "1_000", "1:30", "2024-01-01", "1e3",
                                  "5.0e-05", ".inf", "=", "-1", "+1", "y", "N", "True", "<<"])
def test_words_of_a_configuration_are_words_to_others(models, tmp_path, monkeypatch, word, data):
    import yaml

    monkeypatch.chdir(tmp_path)
    with hetmem.Trainer(models["gpt2"], out=word, **RUN) as trainer:
        trainer.train([data, data], steps=1)
    assert yaml.safe_load((tmp_path / word / "config.yaml").read_text())["out"] == word
    lines = [line for line in (tmp_path / word / "config.yaml").read_text().splitlines() if line.startswith("out")]
    assert lines == [f'out: "{word}"']  # also to readers of YAML 1.1 that know more words than this one


@pytest.mark.parametrize("given,means", [(True, "on"), (False, "off"), ("true", "on"), ("off", "off")])
def test_overlap_is_a_switch(models, tmp_path, given, means):
    path = tmp_path / "c.yaml"
    path.write_text(f"optimizer_overlap: {str(given).lower()}\n")
    for more in ({"optimizer_overlap": given}, {"config": path}):
        with hetmem.Trainer(models["gpt2"], **more, **RUN) as trainer:
            assert trainer.options["optimizer-overlap"] == [means]


def test_the_plan_of_a_trainer(models, data):
    with hetmem.Trainer(models["qwen3"], **RUN, **TIGHT) as trainer:
        for batch in trainer.batches(hetmem.load_tokens(data), steps=3):
            planned = trainer.plan.tiers
            result = trainer.step(batch)
        for tier in ("device", "host"):
            assert result.memory[tier].budget == planned[tier].budget
            assert result.memory[tier].peak <= planned[tier].peak
