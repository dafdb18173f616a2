"""SmolLM2-135M-Instruct itself, from the package that the demo takes it from: the tokenizer, a loss and
greedy text are those of Hugging Face."""

import subprocess
import sys

import pytest
import torch
import transformers
from conftest import ROOT, hetmem, loss_of, train, windows
from test_tokenizer import read_tokens
from tokenizers import Tokenizer

PROMPTS = ["def read_json(path):\n", "The capital of France is"]
NEW = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("smollm2") / "model"
    subprocess.run([sys.executable, ROOT / "scripts" / "make_smollm2.py", path], check=True)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_is_that_of_transformers(folder, model, tokenizer, prompt):
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW,
                             do_sample=False)[0, ids.shape[1]:]
    done = hetmem("generate", "--model", folder, "--prompt", prompt, "--max-new-tokens", NEW,
                  "--temperature", 0)
    assert done.returncode == 0, done.stderr
    assert done.stdout[:-1] == tokenizer.decode(out.tolist())


def test_tokens_and_loss(folder, model, tokenizer, tmp_path):
    path, length = ROOT / "README.md", 128
    done = hetmem("tokenize", "--model", folder, path, "-o", tmp_path / "t.bin")
    assert done.returncode == 0, done.stderr
    ids = tokenizer.encode(path.read_text()).ids + [tokenizer.token_to_id("<|endoftext|>")]
    assert read_tokens(tmp_path / "t.bin") == ids
    (line,) = train(folder, tmp_path / "t.bin", tmp_path / "o", steps=1, batch_size=2,
                    sequence_length=length, shuffle="false", compute_dtype="fp32")
    with torch.no_grad():
        expected = loss_of(model, windows(ids, 0, 2, length)).item()
    # Two orders of summation, in fp32 both: the bar for losses is 1e-4.
    assert line["loss"] == pytest.approx(expected, rel=1e-5)
