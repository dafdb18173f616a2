"""What the Python tests share: tiny models made by transformers, token files, the binary, and the
same training done by PyTorch."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("HETMEM_BINARY", str(ROOT / "build" / "hetmem"))
# The Python package, as the same build has it.
sys.path.insert(0, str(pathlib.Path(BINARY).parent / "python"))
VOCABULARY = 331  # odd, so that no kernel meets a width that it likes

torch.set_num_threads(2)
transformers.logging.set_verbosity_error()
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _gpt2(**changes):
    values = dict(
        vocab_size=VOCABULARY, n_positions=64, n_embd=48, n_layer=2, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )
    return transformers.GPT2Config(**(values | changes))


def _llama_like(config_class, **changes):
    values = dict(
        vocab_size=VOCABULARY, hidden_size=48, intermediate_size=104, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )
    return config_class(**(values | changes))


LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}

CONFIGS = {
    "gpt2": lambda: _gpt2(),
    "gpt2_erf_untied": lambda: _gpt2(activation_function="gelu", tie_word_embeddings=False),
    "llama": lambda: _llama_like(transformers.LlamaConfig),
    "llama_tied_rope3": lambda: _llama_like(
        transformers.LlamaConfig, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE,
        num_key_value_heads=1, attention_bias=True,
    ),
    "qwen2": lambda: _llama_like(transformers.Qwen2Config, tie_word_embeddings=True),
    "qwen3": lambda: _llama_like(transformers.Qwen3Config, head_dim=20),
}


def make_model(config, seed=0, scale=2.0):
    """Random weights, biases and norms too, so that a wrong use of any of them shows."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


class Folders:
    def __init__(self, base):
        self.base = base
        self.made = {}

    def __getitem__(self, name):
        if name not in self.made:
            folder = self.base / name
            make_model(CONFIGS[name]()).save_pretrained(folder)
            self.made[name] = folder
        return self.made[name]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of tiny models by the names of CONFIGS."""
    return Folders(tmp_path_factory.mktemp("models"))


def write_tokens(path, tokens):
    tokens = np.asarray(tokens)
    header = np.zeros(256, np.int32)
    header[:3] = (20240520, 1, len(tokens))
    path.write_bytes(header.tobytes() + tokens.astype(np.uint16).tobytes())
    return path


def add_tokenizer(folder, model):
    """`folder`: the model's, with a tokenizer whose tokens are bytes beside it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    shutil.copytree(model, folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {letter: i + 1 for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def tokens():
    return np.random.RandomState(7).randint(0, VOCABULARY, 4001)


@pytest.fixture(scope="session")
def data(tmp_path_factory, tokens):
    return write_tokens(tmp_path_factory.mktemp("data") / "data.bin", tokens)


def hetmem(*arguments, timeout=300, env=None, **more):
    return subprocess.run(
        [BINARY, *map(str, arguments)], capture_output=True, text=True, errors="replace",
        timeout=timeout, env=os.environ | (env or {}), **more,
    )


def python(script, *arguments, **more):
    """The script in a process of its own, with the package on its path."""
    path = str(pathlib.Path(BINARY).parent / "python")
    return subprocess.run([sys.executable, "-c", script, *map(str, arguments)], text=True, timeout=300,
                          capture_output=True, env=os.environ | {"PYTHONPATH": path}, **more)


def train(model, data, out, expect=0, env=None, **flags):
    """Runs `hetmem train`; gives the lines of metrics.jsonl."""
    words = ["--model", model, "--out", out]
    if data is not None:
        words += ["--data", data]
    for name, value in flags.items():
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words += value if isinstance(value, list) else [value]
    done = hetmem("train", *words, env=env)
    assert done.returncode == expect, (done.returncode, done.stderr)
    return metrics(out) if expect == 0 else done.stderr


def metrics(out):
    return [json.loads(line) for line in (pathlib.Path(out) / "metrics.jsonl").open()]


def windows(tokens, first, count, length):
    rows = [tokens[w * length : w * length + length + 1] for w in range(first, first + count)]
    return torch.tensor(np.stack(rows), dtype=torch.long)


def loss_of(model, batch):
    logits = model(batch[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), batch[:, 1:].reshape(-1)
    )


def decay_groups(model, decay):
    """Decay on matrices alone, as the contract has it: not on biases and norm weights."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]


def torch_train(model, tokens, optimizer, steps, batch, length, clip=1.0, rate=None,
                accumulation=1):
    """The same steps by PyTorch: (losses, norms). `rate(k)` is the learning rate of step k."""
    losses, norms = [], []
    for step in range(steps):
        for group in optimizer.param_groups:
            if rate is not None:
                group["lr"] = rate(step)
        optimizer.zero_grad()
        rows = windows(tokens, step * batch * accumulation, batch * accumulation, length)
        total = 0.0
        for part in rows.split(batch):
            loss = loss_of(model, part) / accumulation
            loss.backward()
            total += loss.item()
        parameters = [p for p in model.parameters() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip if clip > 0 else float("inf"))
        optimizer.step()
        losses.append(total)
        norms.append(norm.item())
    return losses, norms


def state_of(folder):
    from safetensors.torch import load_file

    return load_file(str(pathlib.Path(folder) / "model.safetensors"))
