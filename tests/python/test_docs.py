"""The code of the pages runs: Python blocks, in one namespace a page, and shell lines of `hetmem`, in
their order, in a folder that holds what the pages speak of, with a model that is tiny."""

import json
import re
import shlex
import subprocess

import pytest
import transformers
from conftest import ROOT, add_tokenizer, hetmem, make_model, python

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page):
    """Indented blocks."""
    found = re.findall(r"(?:^|\n\n)((?:    .*\n|\n(?=    ))+)", page.read_text(encoding="utf-8"))
    return ["\n".join(line[4:] for line in block.splitlines()) for block in found]


def is_python(block):
    try:
        compile(block, "page", "exec")
    except SyntaxError:
        return False
    return True


def commands(page):
    """The lines of `hetmem`, as words; of an overview (`plan | train`) the words alone are looked at."""
    shell = "\n".join(block for block in blocks(page) if not is_python(block))
    lines = shell.replace("\\\n", " ").splitlines()
    lines = [re.sub(r"^build/(?=hetmem )", "", line) for line in lines]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("hetmem ")]


WITH_PYTHON = [page for page in PAGES if any(map(is_python, blocks(page)))]
WITH_COMMANDS = [page for page in PAGES if commands(page)]


def test_pages_are_found():
    assert {page.name for page in WITH_PYTHON} >= {"README.md", "python.md"}
    assert {page.name for page in WITH_COMMANDS} >= {
        "README.md", "benchmarks.md", "command-line.md", "deepspeed.md"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder that may stand for any model: its tokens are bytes."""
    config = transformers.LlamaConfig(
        vocab_size=257, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, bos_token_id=0, eos_token_id=0)
    base = tmp_path_factory.mktemp("tiny")
    make_model(config).save_pretrained(base / "model")
    return add_tokenizer(base / "with-tokenizer", base / "model")


@pytest.fixture
def place(tiny, tmp_path, monkeypatch):
    """The current folder of a reader: models, data and a configuration."""
    for name in ("DIR", "SmolLM2-135M"):
        (tmp_path / name).symlink_to(tiny)
    text = "All happy families are alike; each unhappy family is unhappy in its own way.\n"
    for folder in ("texts", "more", "nvme"):
        (tmp_path / folder).mkdir()
    for name in ("texts/a.txt", "texts/b.txt", "more/c.txt", "a.txt", "held-out.txt"):
        (tmp_path / name).write_text(text * 60)
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": text * 60}) + "\n")
    (tmp_path / "ds.json").write_text(json.dumps({"train_micro_batch_size_per_gpu": 2}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # rates that are measured here
    return tmp_path


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python(place, page):
    done = python("\n\n".join(filter(is_python, blocks(page))))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_commands(place, page):
    for words in commands(page):
        if "|" in words:
            assert_named(words)
        elif words[1] == "bench":  # it takes its time
            assert_named(words[:3])
            assert_flags(words)
        elif "cuda" in words:
            assert_flags(words)
        else:
            done = hetmem(*[re.sub("^/nvme$", "nvme", word) for word in words[1:]])
            assert done.returncode == 0, (words, done.stderr)


def assert_named(words):
    """hetmem a | b, or hetmem bench a | b."""
    command = words[1:2] if words[1] == "bench" else []
    known = hetmem(*command, "--help").stdout
    for name in words[1 + len(command):]:
        assert name == "|" or re.search(rf"\b{name}\b", known), name


def assert_flags(words):
    known = hetmem(words[1], "--help").stdout
    for flag in [word for word in words if word.startswith("--")]:
        assert f"  {flag} " in known or f"  {flag}\n" in known, flag
