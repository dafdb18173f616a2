"""hetmem export: the folder it writes is the same model for transformers, rounded as asked."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from conftest import hetmem, make_model, state_of, train, CONFIGS
from safetensors.torch import load_file, save_file

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def export(source, out, *words, code=0):
    done = hetmem("export", "--checkpoint", source, "--out", out, *words)
    assert done.returncode == code, (done.returncode, done.stderr)
    if code != 0:
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("hetmem: error: "), done.stderr
    return done.stderr


def logits(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.arange(24).reshape(1, 24) * 7 % 331).logits


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_same_logits(models, tmp_path, name):
    export(models[name], tmp_path / "out")
    assert torch.equal(logits(models[name]), logits(tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == json.loads((models[name] / "config.json").read_text())


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_rounds_to_nearest_even(models, tmp_path, dtype):
    source = tmp_path / "source"
    shutil.copytree(models["llama"], source)
    state = state_of(source)
    # Halves between two neighbours of either dtype, which go to the even one.
    ties = np.array([0x3F808000, 0x3F818000, 0xBF808000, 0x3F801000, 0x3F803000], np.uint32)
    state["model.norm.weight"][:5] = torch.from_numpy(ties.view(np.float32))
    save_file(state, source / "model.safetensors", {"format": "pt"})
    export(source, tmp_path / "out", "--dtype", dtype)
    written = state_of(tmp_path / "out")
    assert written.keys() == state.keys()
    for key, tensor in state.items():
        assert written[key].dtype == DTYPES[dtype]
        assert torch.equal(written[key], tensor.to(DTYPES[dtype])), key
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    name = str(DTYPES[dtype]).removeprefix("torch.")
    assert {config[k] for k in ("dtype", "torch_dtype") if k in config} == {name}
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == DTYPES[dtype]


def test_checkpoint_gives_the_master(tmp_path, data):
    source = tmp_path / "source"
    make_model(CONFIGS["qwen2"]()).to(torch.bfloat16).save_pretrained(source)
    train(source, data, tmp_path / "run", batch_size=2, sequence_length=16, steps=2, save_steps=2,
          learning_rate=1e-4)
    checkpoint = tmp_path / "run" / "checkpoint-2"
    masters = load_file(str(checkpoint / "optimizer.safetensors"))
    export(checkpoint, tmp_path / "fp32", "--dtype", "fp32")
    assert {p.name for p in (tmp_path / "fp32").iterdir()} <= {
        "config.json", "generation_config.json", "model.safetensors"}
    exported = state_of(tmp_path / "fp32")
    assert exported
    for key, tensor in exported.items():
        assert torch.equal(tensor, masters["master." + key]), key
    export(checkpoint, tmp_path / "own")
    for key, tensor in state_of(tmp_path / "own").items():
        assert torch.equal(tensor, exported[key].to(torch.bfloat16)), key
        assert torch.equal(tensor, state_of(checkpoint)[key]), key


def test_shards_and_tokenizer_files(models, tmp_path):
    source = tmp_path / "source"
    model = transformers.AutoModelForCausalLM.from_pretrained(models["gpt2"])
    model.save_pretrained(source, max_shard_size="40KB")
    assert len(list(source.glob("*.safetensors"))) > 1
    (source / "tokenizer.json").write_text("{}")
    (source / "notes.txt").write_text("not part of a model")
    export(source, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    assert not (tmp_path / "out" / "notes.txt").exists()
    assert torch.equal(logits(source), logits(tmp_path / "out"))


def test_an_empty_folder_is_filled_and_a_full_one_is_not(models, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export(models["gpt2"], out)
    before = sorted(out.iterdir())
    assert "not empty" in export(models["llama"], out, code=2)
    assert sorted(out.iterdir()) == before
    assert "not empty" in export(out, out, code=2)


def test_refusals_leave_nothing(models, tmp_path):
    out = tmp_path / "out"
    assert "none" in export(tmp_path / "none", out, code=2)
    assert "--dtype" in export(models["gpt2"], out, "--dtype", "int4", code=2)
    large = tmp_path / "large"
    shutil.copytree(models["llama"], large)
    state = state_of(large)
    state["lm_head.weight"][3, 3] = 70000.0
    save_file(state, large / "model.safetensors", {"format": "pt"})
    assert "lm_head.weight" in export(large, out, "--dtype", "fp16", code=2)
    assert not list(tmp_path.glob("out*"))
    for missing in ("--checkpoint", "--out"):
        words = [w for w in ("--checkpoint", "--out") if w != missing]
        done = hetmem("export", *[x for w in words for x in (w, tmp_path / "x")])
        assert done.returncode == 2 and missing in done.stderr


def test_config_file(models, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"checkpoint: {models['gpt2']}\nout: {tmp_path / 'wrong'}\ndtype: bf16\n")
    done = hetmem("export", "--config", path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "wrong").exists()
    assert state_of(tmp_path / "out")["transformer.wte.weight"].dtype == torch.bfloat16


def test_out_is_a_folder_or_none(models, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nowhere").symlink_to("none")
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    for name in ("file", "nowhere"):
        assert name in export(models["gpt2"], tmp_path / name, code=2)
    export(models["gpt2"], tmp_path / "link")
    assert (tmp_path / "file").read_text() == "mine" and (tmp_path / "nowhere").is_symlink()
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "config.json").exists()
