"""Bad input: one line that names what is wrong, the exit code of the contract, nothing left behind."""

import json
import shutil
import struct
import subprocess

import numpy as np
import hetmem as module
import pytest
from conftest import BINARY, hetmem, train, write_tokens

RUN = ["--batch-size", 1, "--sequence-length", 8, "--steps", 1]


def copy(models, tmp_path, name="llama"):
    folder = tmp_path / "model"
    shutil.copytree(models[name], folder)
    return folder


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value
    path.write_text(json.dumps(config))
    return folder


def refused(*words, says, code=2, out=None):
    done = hetmem("train", *words)
    assert done.returncode == code, (done.returncode, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("hetmem: error: "), done.stderr
    for text in [says] if isinstance(says, str) else says:
        assert text in lines[0], lines[0]
    if out is not None:
        assert not out.exists(), list(out.iterdir())


def test_bad_flags(models, data, tmp_path):
    good = {"--model": models["gpt2"], "--data": data, "--out": tmp_path / "o",
            "--batch-size": 1, "--sequence-length": 8, "--steps": 1}
    cases = [
        ("--steps", 0, "--steps"), ("--steps", -3, "--steps"), ("--steps", "many", "--steps"),
        ("--batch-size", 0, "--batch-size"), ("--sequence-length", 65, "--sequence-length"),
        ("--learning-rate", "fast", "--learning-rate"), ("--learning-rate", -1, "--learning-rate"),
        ("--learning-rate", "nan", "--learning-rate"), ("--threads", -1, "--threads"),
        ("--lr-scheduler-type", "polynomial", "--lr-scheduler-type"),
        ("--device", "cuda:900", "cannot be used"), ("--device", "gpu", "cuda:N"),
        ("--device-memory", "12parsecs", "12parsecs"),
        ("--freeze", "(", "--freeze"), ("--freeze", ".*", "--freeze"), ("--no-such-flag", 1, "--no-such-flag"),
        ("--disk-memory", "1GiB", "--disk DIR"), ("--disk-memory", "auto", "--disk DIR"),
        ("--disk", tmp_path / "none", "none"), ("--disk", "a,,b", "--disk"), ("--seed", "x", "--seed"),
        ("--activations", "swap", "not in this version"), ("--adam-beta1", 1, "--adam-beta1"),
        ("--min-lr-ratio", 0.5, "--min-lr-ratio"), ("--epochs", 0, "--epochs"),
        ("--model", tmp_path / "none", "none"), ("--data", tmp_path / "none.bin", "none.bin"),
        ("--resume-from-checkpoint", "latest", "checkpoint"),
        ("--resume-from-checkpoint", tmp_path / "ckpt", "ckpt"),
        ("--config", tmp_path / "no.yaml", "no.yaml"),
        ("--learning_rat", 1, "--learning-rat; did you mean --learning-rate?"),
        ("--trace", tmp_path / "none" / "t.json", "--trace"), ("--trace", tmp_path, "--trace"),
    ]
    for flag, value, says in cases:
        words = [w for k, v in (good | {flag: value}).items() for w in (k, v)]
        refused(*words, says=says, out=tmp_path / "o")


def test_what_is_empty_is_said(models, data, tmp_path):
    given = ["--model", models["gpt2"], "--data", data]
    refused(*given, "--allow-lossy", "", says='--allow-lossy "" is not in this version')
    refused(*given, "--resume-from-checkpoint", "latest", says="--out is missing")
    with pytest.raises(ValueError, match="out is missing"):
        module.Trainer(models["gpt2"], resume_from_checkpoint="latest")


def test_disks_that_are_given_apart_are_joined(models, data, tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
    folders = [str(tmp_path / name) for name in "abc"]
    train(models["gpt2"], data, tmp_path / "o", batch_size=1, sequence_length=8, steps=1,
          disk=[folders[0] + "," + folders[1], "--disk", folders[2]])
    assert f"disk: {','.join(folders)}" in (tmp_path / "o" / "config.yaml").read_text()
    refused("--model", models["gpt2"], "--data", data, "--disk", folders[0], "--disk", folders[0],
            "--out", tmp_path / "p", says="the same one", out=tmp_path / "p")


def test_the_limit_is_named(models, data, tmp_path):
    most = str(2**40)
    cases = [("--steps", 2**63 - 1, most), ("--steps", 10**30, most), ("--steps", 0, "at least 1"),
             ("--steps", -10**30, "at least 1"), ("--batch-size", 10**14, most), ("--save-steps", 10**14, most),
             ("--seed", 2**64, str(2**64 - 1)), ("--epochs", "1e17", "1e12"), ("--epochs", "1e999", "1e12"),
             ("--learning-rate", "1e308", "1e300"), ("--learning-rate", "inf", "1e300"),
             ("--device-memory", 2**63 - 1, "2^62 bytes"), ("--device-memory", "9" * 400, "2^62 bytes"),
             ("--host-memory", "5000000TiB", "2^62 bytes")]
    for flag, value, says in cases:
        refused("--model", models["gpt2"], "--data", data, "--out", tmp_path / "o", flag, value,
                says=[flag, says], out=tmp_path / "o")
    for name in ("n_embd", "n_layer"):
        (tmp_path / name).mkdir()
        folder = edit_config(copy(models, tmp_path / name, "gpt2"), **{name: 2**40})
        refused("--model", folder, "--data", data, "--out", tmp_path / "o", says=[name, str(2**31)])


def test_config_file(models, data, tmp_path):
    path = tmp_path / "c.yaml"
    for text, says in [("steps: 0\n", "steps"), ("speed: 9\n", "speed"), ("- a\n", "c.yaml"),
                       ("steps: [1\n", "c.yaml"), ("steps: {a: 1}\n", "steps"),
                       ("batchsize: 1\n", "batchsize; did you mean --batch-size?"),
                       ("gpu: 1\n", "unknown option --gpu; --help"), ("gpu:\n", "unknown option --gpu"),
                       ("learningrate: ~\n", "did you mean --learning-rate?"), ("gpu: []\n", "--gpu"),
                       ("gpu: ''\n", "--gpu")]:
        path.write_text(text)
        refused("--config", path, "--model", models["gpt2"], "--data", data, "--out",
                tmp_path / "o", says=says, out=tmp_path / "o")
        with pytest.raises(ValueError):
            module.plan(models["gpt2"], config=path)
    for text in ("foo:\n", "foo: ~\n"):
        path.write_text(text)
        for words in (["tokenize", "--model", models["gpt2"], data, "-o", tmp_path / "t"], ["bench", "adam"],
                      ["generate", "--model", models["gpt2"], "--prompt", "a"], ["plan", "--model", models["gpt2"]],
                      ["export", "--checkpoint", models["gpt2"], "--out", tmp_path / "e"]):
            done = hetmem(*words, "--config", path)
            assert done.returncode == 2 and "unknown option --foo" in done.stderr, done
    path.write_text("steps:\nlearning_rate: ~\nallow_lossy:\nout: null\n")  # as if they were not there
    assert hetmem("plan", "--model", models["gpt2"], "--config", path).returncode == 0
    assert module.plan(models["gpt2"], config=path).fits
    with pytest.raises(ValueError, match="unknown option"):
        module.plan(models["gpt2"], config={"foo": None})
    assert module.plan(models["gpt2"], config={"steps": None}).fits
    path.write_text("data_glob:\nout: ~\n")
    done = hetmem("tokenize", "--model", models["gpt2"], data, "--config", path)
    assert done.returncode == 2 and "--out is required" in done.stderr, done


def test_out_is_not_overwritten(models, data, tmp_path):
    out = tmp_path / "o"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    words = ["--model", models["gpt2"], "--data", data, "--out", out, *RUN]
    refused(*words, says=["--overwrite-output-dir", str(out)])
    assert (out / "thesis.txt").read_text() == "mine" and len(list(out.iterdir())) == 1
    refused(*words[:-1], 0, "--overwrite-output-dir", says="--steps")
    assert (out / "thesis.txt").exists()
    # A run that cannot begin must not have emptied the folder either.
    refused("--model", models["gpt2"], "--data", tmp_path / "none.bin", "--out", out, *RUN,
            "--overwrite-output-dir", says="none.bin")
    assert (out / "thesis.txt").exists()
    # What runs wrote is replaced; what others wrote stays; what the run reads is not removed.
    (out / "checkpoint-7").mkdir()
    train(models["gpt2"], data, out, steps=1, batch_size=2, sequence_length=8,
          overwrite_output_dir=True)
    assert not (out / "checkpoint-7").exists() and (out / "thesis.txt").read_text() == "mine"
    refused("--model", out / "final", "--data", data, "--out", out, *RUN, "--overwrite-output-dir",
            says=["--out", str(out / "final")])
    assert (out / "final" / "model.safetensors").exists()
    # Nor does a run that goes on from a checkpoint elsewhere take the place of what is there.
    train(models["gpt2"], data, tmp_path / "r", steps=1, save_steps=1, batch_size=1, sequence_length=8)
    refused(*words, "--resume-from-checkpoint", tmp_path / "r" / "checkpoint-1",
            says="--overwrite-output-dir")
    file = tmp_path / "file"
    file.write_text("")
    refused("--model", models["gpt2"], "--data", data, "--out", file, *RUN, says=str(file))
    refused("--model", models["gpt2"], "--data", data, "--out", "/proc/nowhere/o", *RUN,
            says="/proc/nowhere/o")


def test_bad_data(models, tmp_path):
    words = ["--model", models["gpt2"], "--out", tmp_path / "o", *RUN]

    def case(name, content, says):
        path = tmp_path / name
        path.write_bytes(content)
        refused(*words, "--data", path, says=[name, *says], out=tmp_path / "o")

    header = np.zeros(256, np.int32)
    header[:3] = (20240520, 1, 10)
    tokens = np.arange(10, dtype=np.uint16)
    case("empty.bin", b"", [])
    case("short.bin", header.tobytes() + tokens[:4].tobytes(), [])
    case("magic.bin", b"x" * 2048, [])
    negative = header.copy()
    negative[2] = -5
    case("negative.bin", negative.tobytes(), [])
    write_tokens(tmp_path / "few.bin", [1, 2, 3])
    refused(*words, "--data", tmp_path / "few.bin", says="token", out=tmp_path / "o")
    write_tokens(tmp_path / "wide.bin", [1, 2, 3, 4, 331, 6, 7, 8, 9])
    refused(*words, "--data", tmp_path / "wide.bin", says=["331"], out=tmp_path / "o")
    # Wherever the id is, and in the data of the evaluation, it is found before the first step.
    late = [1] * 5000 + [331] + [1] * 20
    write_tokens(tmp_path / "late.bin", late)
    write_tokens(tmp_path / "good.bin", late[:5000])
    for flag, other in (("--data", []), ("--eval-data", ["--data", tmp_path / "good.bin"])):
        refused(*words, *other, flag, tmp_path / "late.bin",
                says=["331", "5000", "late.bin"], out=tmp_path / "o")
    # Folders above that were made for the run go with it.
    refused(*words[:2], "--out", tmp_path / "new" / "deep" / "o", *RUN, "--data", tmp_path / "late.bin",
            says="late.bin", out=tmp_path / "new")


def test_bad_config(models, data, tmp_path):
    folder = copy(models, tmp_path)
    good = (folder / "config.json").read_text()
    words = ["--model", folder, "--data", data, "--out", tmp_path / "o", *RUN]
    cases = [
        (dict(model_type="mamba", architectures=["MambaForCausalLM"]), "mamba"),
        (dict(hidden_size=None), "hidden_size"), (dict(hidden_size=-4), "hidden_size"),
        (dict(hidden_size="wide"), "hidden_size"), (dict(num_hidden_layers=0), "num_hidden_layers"),
        (dict(num_key_value_heads=3), "num_key_value_heads"), (dict(hidden_act="relu2"), "relu2"),
        (dict(rope_parameters={"rope_type": "yarn", "factor": 4.0}), "yarn"),
        (dict(rope_scaling={"type": "dynamic", "factor": 2.0}, rope_parameters=None), "dynamic"),
        (dict(vocab_size=10**12), "vocab_size"), (dict(quantization_config={"bits": 4}), "quant"),
    ]
    for changes, says in cases:
        (folder / "config.json").write_text(good)
        edit_config(folder, **changes)
        refused(*words, says=says, out=tmp_path / "o")
    for text in ("", "{", "[]", '{"model_type": 3}', "\0"):
        (folder / "config.json").write_text(text)
        refused(*words, says="config.json", out=tmp_path / "o")
    (folder / "config.json").unlink()
    wanted = "--model takes a Hugging Face folder"
    refused(*words, says=[f"{folder}/config.json is not there", wanted], out=tmp_path / "o")
    refused("--model", "some/name", *words[2:], says=["no folder some/name", wanted], out=tmp_path / "o")


def rewrite(path, change):
    """Passes the header of a safetensors file through `change`."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    body = change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text
                     + (content[8 + length :] if body is None else body))


def test_bad_weights(models, data, tmp_path):
    folder = copy(models, tmp_path)
    path = folder / "model.safetensors"
    good = path.read_bytes()
    words = ["--model", folder, "--data", data, "--out", tmp_path / "o", *RUN]
    name = "model.norm.weight"

    def reject(says):
        refused(*words, says=says, out=tmp_path / "o")
        path.write_bytes(good)

    for size in (0, 7, 100, len(good) - 4):
        path.write_bytes(good[:size])
        reject("model.safetensors")
    path.write_bytes(good + b"tail")
    reject("model.safetensors")
    path.write_bytes(struct.pack("<Q", 2**62) + good[8:])
    reject("model.safetensors")

    def shift(header):
        begin, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = [begin - 4, end - 4]

    def lie(header):
        header[name]["shape"] = [47]

    def overflow(header):
        header[name]["shape"] = [2**33, 2**33]

    def dtype(header):
        header[name]["dtype"] = "I32"

    def missing(header):
        header["other"] = header.pop(name)

    for change in (shift, lie, overflow):
        rewrite(path, change)
        reject("model.safetensors")
    rewrite(path, dtype)
    reject(name)
    rewrite(path, missing)
    reject(name)

    begin, _ = json.loads(good[8 : 8 + struct.unpack("<Q", good[:8])[0]])[name]["data_offsets"]
    at = 8 + struct.unpack("<Q", good[:8])[0] + begin
    path.write_bytes(good[:at] + struct.pack("<f", float("nan")) + good[at + 4 :])
    reject(name)


def test_bad_index(models, data, tmp_path):
    folder = copy(models, tmp_path)
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    words = ["--model", folder, "--data", data, "--out", tmp_path / "o", *RUN]
    refused(*words, says="safetensors", out=tmp_path / "o")
    index = folder / "model.safetensors.index.json"
    for target in ("../outside.safetensors", str(tmp_path / "outside.safetensors")):
        index.write_text(json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": target}}))
        refused(*words, says="index", out=tmp_path / "o")
    index.write_text("{")
    refused(*words, says="index", out=tmp_path / "o")


def test_shards_are_read(models, data, tmp_path):
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(models["llama"])
    model.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    flags = dict(steps=2, batch_size=1, sequence_length=8)
    one = train(models["llama"], data, tmp_path / "a", **flags)
    many = train(tmp_path / "shards", data, tmp_path / "b", **flags)
    assert [line["loss"] for line in one] == [line["loss"] for line in many]


@pytest.mark.parametrize("words", [[], ["fly"], ["train"], ["plan"], ["train", "--model"]])
def test_usage(words):
    done = hetmem(*words)
    assert done.returncode == 2 and done.stderr.startswith("hetmem: error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command,given,meant", [
    ("plan", "modle", "model"), ("generate", "max_token", "max-new-tokens"),
    ("export", "checkpiont", "checkpoint"), ("bench", "repeat", "repeats"), ("doctor", "measured", "measure")])
def test_an_unknown_flag_is_told_of_the_nearest(tmp_path, command, given, meant):
    says = f"hetmem: error: unknown option --{given.replace('_', '-')}; did you mean --{meant}? --help lists them\n"
    positional = ["gemm"] if command == "bench" else []
    done = hetmem(command, *positional, f"--{given}=1")
    assert done.returncode == 2 and done.stderr == says
    if command != "doctor":
        path = tmp_path / "c.yaml"
        path.write_text(f"{given}: 1\n")
        done = hetmem(command, *positional, "--config", path)
        assert done.returncode == 2 and done.stderr == says


def test_bench_disk_needs_folders(tmp_path):
    done = hetmem("bench", "disk", "--disk", f"{tmp_path},{tmp_path / 'none'}")
    assert done.returncode == 2 and f"--disk {tmp_path / 'none'} is not a folder" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_places_that_are_not_there(models, tmp_path):
    for file in models["gpt2"].iterdir():
        assert file.name != "tokenizer.json"  # the temporary folder is made before it is asked for
    (tmp_path / "a.txt").write_text("text")
    words = ["--model", models["gpt2"], "--data", tmp_path / "a.txt", "--out", tmp_path / "o"]
    for folder, says in ((tmp_path / "none", "TMPDIR is"), (tmp_path / "a.txt", "TMPDIR is"), ("/proc", "TMPDIR")):
        done = hetmem("train", *words, env={"TMPDIR": str(folder)})
        assert done.returncode == 2 and says in done.stderr and str(folder) in done.stderr, done
    done = hetmem("bench", "step", "--repeats", 1, env={"TMPDIR": str(tmp_path / "none")})
    assert done.returncode == 2 and "TMPDIR is" in done.stderr, done
    write_tokens(tmp_path / "d.bin", np.arange(100))
    words = ["--model", models["gpt2"], "--data", tmp_path / "d.bin", *RUN]
    for more in (["--out", "o"], ["--out", tmp_path / "o", "--trace", "t.json"], []):
        (tmp_path / "gone").mkdir()
        done = subprocess.run(["sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', tmp_path / "gone", BINARY,
                               "train", *map(str, words + more)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 2 and "working directory" in done.stderr, done
        assert len(done.stderr.splitlines()) == 1, done
