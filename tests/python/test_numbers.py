"""hetmem against PyTorch on the same weights, data and optimizer.

Tolerances: PyTorch in float64 is the truth; hetmem's distance from it may be a few times that of
PyTorch's own float32 run (two correct orders of summation differ by as much), with the loss bound of
1e-4 always on top."""

import copy
import functools

import numpy as np
import pytest
import torch
import transformers
from conftest import CONFIGS, decay_groups, hetmem, loss_of, state_of, torch_train, train, windows

STEPS, BATCH, LENGTH = 5, 2, 33
train_fp32 = functools.partial(train, compute_dtype="fp32")
TIMES_TORCH = 8  # how many times PyTorch's own rounding error is allowed


def load(folder, dtype=torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def names_of(model):
    """Parameter by the name that the folder's file has for it."""
    tied = getattr(model.config, "tie_word_embeddings", False)
    return {n: p for n, p in model.named_parameters() if not (tied and n == "lm_head.weight")}


def assert_as_good_as_torch(found, single, double, what):
    scale = np.abs(double).max() + 1e-30
    allowed = TIMES_TORCH * np.abs(single - double).max() + 4 * np.finfo(np.float32).eps * scale
    assert np.abs(found - double).max() <= allowed, what


@pytest.mark.parametrize("name", CONFIGS)
def test_every_gradient(models, data, tokens, tmp_path, name):
    """One SGD step at a rate so large that the difference of the weights is the gradient."""
    rate = 2.0**20
    train_fp32(models[name], data, tmp_path / "o", steps=1, batch_size=BATCH, sequence_length=LENGTH,
          shuffle="false", optimizer="sgd", momentum=0, learning_rate=rate, max_grad_norm=0,
          lr_scheduler_type="constant")
    batch = windows(tokens, 0, BATCH, LENGTH)
    gradients = {}
    for dtype in (torch.float32, torch.float64):
        model = load(models[name], dtype)
        loss_of(model, batch).backward()
        gradients[dtype] = {n: p.grad.double().numpy() for n, p in names_of(model).items()}
    before, after = state_of(models[name]), state_of(tmp_path / "o" / "final")
    assert set(gradients[torch.float32]) == set(after)
    for weight, double in gradients[torch.float64].items():
        found = (before[weight].double() - after[weight].double()).numpy() / rate
        assert_as_good_as_torch(found, gradients[torch.float32][weight], double, weight)


@pytest.mark.parametrize("name", CONFIGS)
def test_five_adamw_steps(models, data, tokens, tmp_path, name):
    rate, decay, epsilon = 1e-2, 0.1, 1e-3
    lines = train_fp32(models[name], data, tmp_path / "o", steps=STEPS, batch_size=BATCH,
                  sequence_length=LENGTH, shuffle="false", learning_rate=rate, weight_decay=decay,
                  adam_epsilon=epsilon, max_grad_norm=0.5)
    runs = {}
    for dtype in (torch.float32, torch.float64):
        model = load(models[name], dtype)
        optimizer = torch.optim.AdamW(decay_groups(model, decay), lr=rate, eps=epsilon)
        losses, norms = torch_train(model, tokens, optimizer, STEPS, BATCH, LENGTH, clip=0.5,
                                    rate=lambda k: rate * (STEPS - k) / STEPS)
        runs[dtype] = (losses, norms, {n: p.detach().double().numpy()
                                       for n, p in names_of(model).items()})
    single, double = runs[torch.float32], runs[torch.float64]
    for line, loss, norm in zip(lines, double[0], double[1], strict=True):
        assert line["loss"] == pytest.approx(loss, rel=1e-5)
        assert line["grad_norm"] == pytest.approx(norm, rel=1e-4)
    after = state_of(tmp_path / "o" / "final")
    for weight, value in double[2].items():
        assert_as_good_as_torch(after[weight].double().numpy(), single[2][weight], value, weight)


def test_accumulation_is_one_large_batch(models, data, tokens, tmp_path):
    lines = train_fp32(models["llama"], data, tmp_path / "o", steps=3, batch_size=2,
                  gradient_accumulation_steps=3, sequence_length=LENGTH, shuffle="false",
                  learning_rate=1e-3, lr_scheduler_type="constant")
    model = load(models["llama"], torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)
    losses, norms = torch_train(model, tokens, optimizer, 3, 6, LENGTH)
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-5)
    assert [line["grad_norm"] for line in lines] == pytest.approx(norms, rel=1e-4)


def test_sgd_with_momentum(models, data, tokens, tmp_path):
    lines = train_fp32(models["gpt2"], data, tmp_path / "o", steps=STEPS, batch_size=BATCH,
                  sequence_length=LENGTH, shuffle="false", optimizer="sgd", momentum=0.8,
                  learning_rate=0.05, weight_decay=0.01, lr_scheduler_type="constant",
                  max_grad_norm=0)
    model = load(models["gpt2"], torch.float64)
    optimizer = torch.optim.SGD(decay_groups(model, 0.01), lr=0.05, momentum=0.8)
    losses, _ = torch_train(model, tokens, optimizer, STEPS, BATCH, LENGTH, clip=0)
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-5)


def test_freeze(models, data, tokens, tmp_path):
    pattern = r"embed|layers\.0\.|norm"
    lines = train_fp32(models["qwen2"], data, tmp_path / "o", steps=STEPS, batch_size=BATCH,
                  sequence_length=LENGTH, shuffle="false", learning_rate=1e-2, freeze=pattern,
                  lr_scheduler_type="constant")
    model = load(models["qwen2"], torch.float64)
    import re

    for name, parameter in names_of(model).items():
        parameter.requires_grad = re.search(pattern, name) is None
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2,
                                  weight_decay=0)
    losses, norms = torch_train(model, tokens, optimizer, STEPS, BATCH, LENGTH)
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-5)
    assert [line["grad_norm"] for line in lines] == pytest.approx(norms, rel=1e-4)
    before, after = state_of(models["qwen2"]), state_of(tmp_path / "o" / "final")
    for name in before:
        frozen = re.search(pattern, name) is not None
        assert torch.equal(before[name], after[name]) == frozen, name
    whole = train_fp32(models["qwen2"], data, tmp_path / "w", steps=1, batch_size=BATCH,
                  sequence_length=LENGTH)
    assert lines[0]["memory"]["device"]["peak"] < whole[0]["memory"]["device"]["peak"]


SCHEDULES = {
    "linear": ({}, lambda o, w, n: transformers.get_linear_schedule_with_warmup(o, w, n)),
    "cosine": ({}, lambda o, w, n: transformers.get_cosine_schedule_with_warmup(o, w, n)),
    "cosine floor": (
        {"min_lr_ratio": 0.1},
        lambda o, w, n: transformers.get_cosine_with_min_lr_schedule_with_warmup(
            o, w, n, min_lr_rate=0.1),
    ),
    "constant": ({}, lambda o, w, n: transformers.get_constant_schedule(o)),
    "constant_with_warmup": (
        {}, lambda o, w, n: transformers.get_constant_schedule_with_warmup(o, w)),
    "wsd": (
        {"decay_steps": 4, "min_lr_ratio": 0.2},
        lambda o, w, n: transformers.get_wsd_schedule(
            o, w, 4, num_training_steps=n, decay_type="cosine", min_lr_ratio=0.2),
    ),
}


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_transformers(models, data, tmp_path, name, warmup):
    flags, make = SCHEDULES[name]
    steps, rate = 12, 3e-4
    lines = train_fp32(models["gpt2"], data, tmp_path / "o", steps=steps, batch_size=1,
                  sequence_length=4, learning_rate=rate, warmup_steps=warmup,
                  lr_scheduler_type=name.split()[0], **flags)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = make(optimizer, warmup, steps)
    expected = [rate * schedule.lr_lambdas[0](k) for k in range(steps)]
    assert [line["learning_rate"] for line in lines] == pytest.approx(expected, rel=1e-12, abs=0)


def test_warmup_ratio_is_rounded_up(models, data, tmp_path):
    lines = train_fp32(models["gpt2"], data, tmp_path / "o", steps=11, batch_size=1, sequence_length=4,
                  learning_rate=1.0, warmup_steps=0.1, lr_scheduler_type="constant_with_warmup",
                  max_grad_norm=1e-6)
    # ceil(1.1) = 2 steps of warm-up: 0, 1/2, 1, 1, ...
    assert [line["learning_rate"] for line in lines[:3]] == [0.0, 0.5, 1.0]


def test_evaluation_and_the_final_folder(models, data, tokens, tmp_path):
    """The loss that hetmem reports of the final weights is the loss of what transformers loads."""
    lines = train_fp32(models["qwen3"], data, tmp_path / "o", steps=3, batch_size=4,
                  sequence_length=LENGTH, learning_rate=1e-3, eval_data=data)
    model = load(tmp_path / "o" / "final", torch.float64)
    count = (len(tokens) - 1) // LENGTH
    with torch.no_grad():
        expected = loss_of(model, windows(tokens, 0, count, LENGTH)).item()
    assert lines[-1] == {"step": 3, "eval_loss": pytest.approx(expected, rel=1e-5)}


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_nothing_is_lost_on_the_way_through(models, data, tmp_path, name):
    """At rate 0 the final folder is the model that was given, and its logits are equal."""
    train_fp32(models[name], data, tmp_path / "o", steps=1, batch_size=1, sequence_length=8,
          learning_rate=0)
    before, after = state_of(models[name]), state_of(tmp_path / "o" / "final")
    assert set(before) == set(after)
    assert all(torch.equal(before[n], after[n]) for n in before)
    batch = torch.arange(16).reshape(1, 16)
    with torch.no_grad():
        assert torch.equal(load(models[name])(batch).logits,
                           load(tmp_path / "o" / "final")(batch).logits)


def test_bfloat16_folder_keeps_its_dtype_and_an_exact_master(models, data, tmp_path):
    model = copy.deepcopy(load(models["llama"])).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "m")
    train_fp32(tmp_path / "m", data, tmp_path / "o", steps=2, save_steps=2, batch_size=1,
          sequence_length=8, learning_rate=1e-3)
    from safetensors.torch import load_file

    weights = state_of(tmp_path / "o" / "final")
    checkpoint = tmp_path / "o" / "checkpoint-2"
    masters = load_file(str(checkpoint / "optimizer.safetensors"))
    moved = 0
    for name, value in weights.items():
        master = masters["master." + name]
        assert value.dtype == torch.bfloat16 and master.dtype == torch.float32
        assert torch.equal(master.to(torch.bfloat16), value)  # round to nearest even
        moved += int((master != value.float()).sum())
    assert moved > 0


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "qwen3"])
def test_products_in_bf16(models, data, tokens, tmp_path, name, monkeypatch):
    """Rounding matrices and tables, and the other operand of every product, of a PyTorch model in
    double gives the same loss; what is left is that operands computed in fp32 may round to the
    other neighbour."""
    flags = dict(steps=1, batch_size=BATCH, sequence_length=LENGTH, shuffle="false")
    found = {dtype: train(models[name], data, tmp_path / dtype, compute_dtype=dtype, **flags)[0]["loss"]
             for dtype in ("bf16", "fp32")}

    def rounded(x):
        return x.to(torch.bfloat16).to(torch.float64)

    def high_half(w):  # nearest, half up in the magnitude
        bits = (w.to(torch.float32).view(torch.int32).to(torch.int64) + 0x8000) >> 16 << 16
        return bits.to(torch.int32).view(torch.float32).to(torch.float64)

    model = load(models[name], torch.float64)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(high_half(weight))
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, w, b=None: (
        rounded(x) @ w.T + (0 if b is None else b)))
    monkeypatch.setattr(torch, "addmm", lambda b, x, w: b + rounded(x) @ w)
    with torch.no_grad():
        expected = loss_of(model, windows(tokens, 0, BATCH, LENGTH)).item()
    assert abs(found["bf16"] - expected) < 0.1 * abs(found["fp32"] - expected)
    assert found["bf16"] == pytest.approx(expected, rel=1e-5)
