"""hetmem generate: greedy text equals that of transformers, samples follow the softmax, and bad input
is refused in one line."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
import transformers
from conftest import BINARY, CONFIGS, VOCABULARY, hetmem, make_model
from tokenizers import Tokenizer, decoders, models as bpe_models, pre_tokenizers, processors, trainers

PROMPTS = ["def main():", "The quick brown fox", "x", "Ünïcödé 你好 🙂 and so on, 1234"]
NEW = 44
# What the tokenizer learns its merges from: fixed, so that ids and with them near ties are.
TEXT = ["def main(): return the brown fox", "the quick fox and the other thing", "    print(thing)",
        "for the main thing in range(10): print(thing, the)", "and so on, 1234"] * 3


@pytest.fixture(scope="session")
def tokenizer():
    trained = Tokenizer(bpe_models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|endoftext|>", "<|begin|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    assert trained.get_vocab_size() <= VOCABULARY
    return trained


class Model:
    """A folder with a tokenizer, and what transformers makes of it."""

    def __init__(self, folder, config, tokenizer, eos=None, dtype=torch.float32, seed=1,
                 **generation):
        model = make_model(config, seed=seed, scale=1.0)
        with torch.no_grad():  # large enough that greedy text wanders instead of repeating itself
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    table = any(word in name for word in ("wte", "wpe", "embed", "lm_head"))
                    parameter.mul_(30.0 if table else 12.0)
        model.to(dtype)
        model.generation_config = transformers.GenerationConfig(
            bos_token_id=0, eos_token_id=eos, pad_token_id=0, **generation)
        model.config.eos_token_id = eos
        model.save_pretrained(folder)
        tokenizer.save(str(folder / "tokenizer.json"))
        self.folder, self.tokenizer = folder, tokenizer
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def ids(self, prompt):
        return torch.tensor([self.tokenizer.encode(prompt).ids])

    def greedy(self, prompt, new=NEW):
        ids = self.ids(prompt)
        with torch.no_grad():
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False,
                output_scores=True, return_dict_in_generate=True)
        best = torch.stack(out.scores).topk(2, dim=-1).values
        # Otherwise the last bits of a logit would choose the token.
        assert (best[..., 0] - best[..., 1]).min() > 3e-4, "take another seed"
        return out.sequences[0, ids.shape[1]:].tolist()

    def text(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def probabilities(self, prompt, temperature):
        with torch.no_grad():
            logits = self.model(self.ids(prompt)).logits[0, -1].double()
        return torch.softmax(logits / temperature, dim=-1).numpy()

    def generate(self, prompt, new=NEW, env=None, **flags):
        words = ["--model", self.folder, "--prompt", prompt, "--max-new-tokens", new]
        for name, value in flags.items():
            words += ["--" + name.replace("_", "-"), value]
        done = subprocess.run([BINARY, "generate", *map(str, words)], capture_output=True,
                              timeout=120, env=os.environ | (env or {}))
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode("utf-8")
        assert text.endswith("\n")
        return text[:-1]


@pytest.fixture(scope="session")
def generators(tmp_path_factory, tokenizer):
    base = tmp_path_factory.mktemp("generators")
    made = {}

    def get(name):
        if name not in made:
            made[name] = Model(base / name, CONFIGS[name](), tokenizer)
        return made[name]

    return get


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_greedy_is_that_of_transformers(generators, name, prompt):
    model = generators(name)
    room = 64 - model.ids(prompt).shape[1]
    expected = model.greedy(prompt, min(NEW, room))
    assert len(set(expected)) > 5, "a model that repeats itself tests little"
    for threads in (1, 2):
        text = model.generate(prompt, len(expected), temperature=0, threads=threads)
        assert text == model.text(expected)
    assert model.generate(prompt, len(expected), {"HETMEM_ISA": "avx2"}, temperature=0) == text


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_long_prompts_go_through_in_pieces(tmp_path, tokenizer, name):
    config = CONFIGS[name]()
    config.max_position_embeddings = 700
    if name == "gpt2":
        config.n_positions = 700
    model = Model(tmp_path / "model", config, tokenizer)
    prompt = " ".join(TEXT * 4 + PROMPTS)
    assert 512 < model.ids(prompt).shape[1] < 650
    assert model.generate(prompt, temperature=0) == model.text(model.greedy(prompt))


def test_bf16_weights_and_repetition_penalty(tmp_path, tokenizer):
    model = Model(tmp_path / "model", CONFIGS["llama"](), tokenizer, dtype=torch.bfloat16,
                  repetition_penalty=1.3)
    plain = model.greedy("def main():")
    assert model.generate("def main():", temperature=0) == model.text(plain)
    model.model.generation_config.repetition_penalty = 1.0
    assert model.greedy("def main():") != plain


def test_stops_at_any_end_of_text_token(tmp_path, tokenizer, generators):
    ids = generators("qwen2").greedy("def main():")
    stop = next(i for i in range(9, NEW) if ids[i] not in ids[:i])
    model = Model(tmp_path / "model", CONFIGS["qwen2"](), tokenizer, eos=[1, ids[stop]])
    assert model.greedy("def main():") == ids[: stop + 1]
    # An end-of-text token that is no special one of the tokenizer is text, as for transformers.
    assert model.generate("def main():", temperature=0) == model.text(ids[: stop + 1])
    (model.folder / "generation_config.json").unlink()
    edit(model.folder / "config.json", eos_token_id=ids[stop])
    assert model.generate("def main():", temperature=0) == model.text(ids[: stop + 1])


def test_template_and_special_tokens(tmp_path, tokenizer):
    with_template = Tokenizer.from_str(tokenizer.to_str())
    with_template.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 1)])])
    model = Model(tmp_path / "model", CONFIGS["llama"](), with_template)
    for prompt in ("print", "a<|endoftext|>b", ""):
        assert model.ids(prompt)[0, 0] == 1
        assert model.generate(prompt, temperature=0) == model.text(model.greedy(prompt))


def test_empty_prompt_begins_with_bos(generators):
    model = generators("llama")
    with torch.no_grad():
        ids = model.model.generate(
            torch.tensor([[0]]), attention_mask=torch.tensor([[1]]), do_sample=False,
            max_new_tokens=9)[0, 1:]
    assert model.generate("", 9, temperature=0) == model.text(ids.tolist())


def test_sampling_is_a_function_of_the_seed(generators):
    model = generators("qwen3")
    texts = [model.generate("x", seed=seed, temperature=1.2, top_p=0.9) for seed in (1, 2, 3)]
    assert len(set(texts)) == 3
    for threads in (1, 2):
        again = model.generate("x", seed=2, temperature=1.2, top_p=0.9, threads=threads)
        assert again == texts[1]


def nucleus(probabilities, top_p):
    order = np.argsort(-probabilities, kind="stable")
    kept = order[: np.searchsorted(np.cumsum(probabilities[order]), top_p) + 1]
    result = np.zeros_like(probabilities)
    result[kept] = probabilities[kept] / probabilities[kept].sum()
    return result


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_samples_follow_the_softmax(tmp_path, tokenizer, top_p):
    model = Model(tmp_path / "model", CONFIGS["llama"](), tokenizer, seed=0)
    temperature, runs = 2.5, 300
    expected = {}
    for i, p in enumerate(nucleus(model.probabilities("x", temperature), top_p)):
        if p > 0:
            expected[model.text([i])] = expected.get(model.text([i]), 0) + p * runs
    counts = {}
    for seed in range(runs):
        text = model.generate("x", 1, seed=seed, temperature=temperature, top_p=top_p)
        assert text in expected
        counts[text] = counts.get(text, 0) + 1
    often = [text for text in expected if expected[text] >= 6]
    assert len(often) >= 4
    bins = [(expected[text], counts.get(text, 0)) for text in often]
    rest = runs - sum(e for e, _ in bins)
    if rest > 6:
        bins.append((rest, runs - sum(c for _, c in bins)))
    statistic = sum((c - e) ** 2 / e for e, c in bins)
    freedom = len(bins) - 1
    # What chance passes once in a thousand (Wilson and Hilferty 1931).
    bound = freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert statistic < bound, (statistic, bound)


def test_text_comes_in_whole_characters(generators):
    model = generators("gpt2")
    process = subprocess.Popen(
        [BINARY, "generate", "--model", model.folder, "--prompt", "x", "--max-new-tokens", "50",
         "--temperature", "5"], stdout=subprocess.PIPE)
    pieces = []
    while piece := os.read(process.stdout.fileno(), 1 << 16):
        pieces.append(piece.decode("utf-8"))  # strict: half a character is an error
    assert process.wait() == 0
    assert "".join(pieces)[:-1] == model.generate("x", 50, temperature=5)


def test_config_file(generators, tmp_path):
    model = generators("llama")
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {model.folder}\nprompt: x\nmax_new_tokens: 5\ntemperature: 0\n")
    done = hetmem("generate", "--config", path)
    assert done.stdout[:-1] == model.generate("x", 5, temperature=0)
    done = hetmem("generate", "--config", path, "--max_new_tokens", 9)
    assert done.stdout[:-1] == model.generate("x", 9, temperature=0)
    path.write_text("temprature: 0\n")
    assert "temprature" in refused("--config", path, "--model", model.folder, "--prompt", "x")


def test_stops_where_positions_end(generators):
    model = generators("gpt2")
    length = model.ids("x").shape[1]
    done = hetmem("generate", "--model", model.folder, "--prompt", "x", "--temperature", 0)
    assert done.returncode == 0 and "64" in done.stderr and len(done.stderr.splitlines()) == 1
    # The last position still gives a token, which is not read.
    assert done.stdout[:-1] == model.text(model.greedy("x", 64 - length + 1))


def edit(path, **changes):
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(config))


def refused(*words, code=2):
    done = hetmem("generate", *words)
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("hetmem: error: "), done.stderr
    return lines[0]


def test_refusals(generators, models, tmp_path):
    good = {"--model": generators("gpt2").folder, "--prompt": "x"}
    cases = [
        ("--max-new-tokens", -1, "--max-new-tokens"), ("--max-new-tokens", 0, "--max-new-tokens"),
        ("--max-new-tokens", "many", "--max-new-tokens"), ("--temperature", -0.5, "--temperature"),
        ("--temperature", "nan", "--temperature"), ("--top-p", 0, "--top-p"),
        ("--top-p", 1.01, "--top-p"), ("--top-p", -1, "--top-p"), ("--seed", -1, "--seed"),
        ("--threads", 0, "--threads"), ("--model", tmp_path / "none", "none"),
        ("--model", models["gpt2"], "tokenizer.json"), ("--prompt", "x" * 65, "64 positions"),
        ("--device-memory", "lots", "--device-memory"), ("--config", tmp_path / "no", "no"),
        ("--no-such-flag", 1, "--no-such-flag"),
    ]
    for flag, value, says in cases:
        words = [w for k, v in (good | {flag: value}).items() for w in (k, v)]
        assert says in refused(*words), flag
    for missing in good:
        words = [w for k, v in good.items() if k != missing for w in (k, v)]
        assert missing in refused(*words)


def test_prompts_that_look_like_something_else(generators):
    model = generators("llama")
    for prompt in ("--model", "-x", "[1, 2]", "{a}", '"quoted"', "a\nb", "%%", "$(x)", "\\n"):
        assert model.generate(prompt, 5, temperature=0) == model.text(model.greedy(prompt, 5))


def test_broken_folders(generators, tmp_path):
    for change in (dict(eos_token_id="x"), dict(repetition_penalty=0), dict(bos_token_id=[1.5])):
        folder = tmp_path / next(iter(change))
        shutil.copytree(generators("llama").folder, folder)
        edit(folder / "generation_config.json", **change)
        line = refused("--model", folder, "--prompt", "x")
        assert "generation_config.json" in line and next(iter(change)) in line


def test_memory_budget(generators):
    model = generators("qwen3")
    words = ["--model", model.folder, "--prompt", "a prompt", "--max-new-tokens", 30,
             "--temperature", 0]
    line = refused(*words, "--device-memory", 1000, code=3)
    smallest = int(line.split()[-1])
    refused(*words, "--device-memory", smallest - 1, code=3)
    done = hetmem("generate", *words, "--device-memory", smallest)
    assert done.returncode == 0
    assert done.stdout[:-1] == model.text(model.greedy("a prompt", 30))


def test_the_guard_finds_nothing(generators):
    """With host memory taken away from kernels and device memory from all else."""
    for name in ("gpt2", "qwen3"):
        model = generators(name)
        done = hetmem("generate", "--model", model.folder, "--prompt", "a prompt",
                      "--max-new-tokens", 20, "--temperature", 0,
                      env={"HETMEM_MEMORY_GUARD": "1"})
        assert done.returncode == 0, done.stderr
        assert done.stdout[:-1] == model.text(model.greedy("a prompt", 20))
