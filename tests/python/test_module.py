"""The Python package: the numbers of the binary, bit for bit, and what its calls give and take."""

import json
import os
import shutil
import sys

import hetmem
import numpy as np
import pytest
import torch
from conftest import VOCABULARY, add_tokenizer, metrics, state_of, train, write_tokens
from conftest import hetmem as command

RUN = dict(batch_size=2, sequence_length=33, learning_rate=1e-3)
TIGHT = dict(device_memory="700KiB", host_memory="2MiB")


def values(lines):
    return [(line["step"], line["loss"], line["grad_norm"], line["learning_rate"])
            for line in lines if "loss" in line]


def values_of(results):
    return [(r.step, r.loss, r.grad_norm, r.learning_rate) for r in results]


def bits(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name,options", [
    ("gpt2", {}), ("llama", {"optimizer": "sgd"}), ("qwen3", TIGHT), ("llama", {"compute_dtype": "bf16"}),
    ("qwen3", {"optimizer_overlap": "off"} | TIGHT),
    ("qwen2", {"gradient_accumulation_steps": 2, "warmup_steps": 0.5, "freeze": "embed"}),
])
def test_steps_are_those_of_the_binary(models, data, tmp_path, name, options):
    lines = train(models[name], data, tmp_path / "cli", steps=6, **RUN, **options)
    with hetmem.Trainer(models[name], steps=6, **RUN, **options) as trainer:
        stream = hetmem.load_tokens(data)
        results = [trainer.step(batch) for batch in trainer.batches(stream, steps=6)]
        trainer.save(tmp_path / "saved")
    assert values_of(results) == values(lines)
    assert bits(tmp_path / "saved") == bits(tmp_path / "cli" / "final")


def test_a_run_is_that_of_the_binary(models, data, tokens, tmp_path):
    options = RUN | dict(eval_steps=2, save_steps=3, save_total_limit=1)
    lines = train(models["llama"], data, tmp_path / "cli", steps=7, eval_data=data, **options)
    with hetmem.Trainer(models["llama"], out=tmp_path / "py", steps=7, **options) as trainer:
        result = trainer.train(data, eval_data=tokens[:4001])
        assert trainer.evaluate(data) == result.eval_losses[-1][1]
    again = metrics(tmp_path / "py")
    assert values(again) == values(lines)
    assert [x for x in again if "eval_loss" in x] == [x for x in lines if "eval_loss" in x]
    assert result.losses == [line["loss"] for line in lines if "loss" in line]
    assert result.eval_losses == [(x["step"], x["eval_loss"]) for x in lines if "eval_loss" in x]
    assert result.out == str(tmp_path / "py")
    assert bits(tmp_path / "py" / "final") == bits(tmp_path / "cli" / "final")
    names = [sorted(p.name for p in (tmp_path / run).iterdir()) for run in ("cli", "py")]
    assert names[0] == names[1]
    for file in ("model.safetensors", "optimizer.safetensors"):
        kept = [(tmp_path / run / "checkpoint-6" / file).read_bytes() for run in ("cli", "py")]
        assert kept[0] == kept[1], file


@pytest.mark.parametrize("change,error,match", [
    (lambda t: t.astype(np.float64), TypeError, "float64"),
    (lambda t: np.where(t == t[0], -1, t).astype(np.int32), ValueError, "token id -1"),
    (lambda t: np.where(t == t[0], VOCABULARY, t), ValueError,
     "token id 331 at position 0 of the data is outside the vocabulary of 331"),
    (lambda t: t[:33], ValueError, "window"),
    (lambda t: t[:100].reshape(2, 50), ValueError, "one stream of tokens"),
])
def test_data_that_are_none(models, tokens, change, error, match):
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        with pytest.raises(error, match=match):
            trainer.train(change(tokens), steps=1)
        assert trainer.steps_done == 0


@pytest.mark.parametrize("form", ["path", "list", "stream", "int64", "int32", "option"])
def test_data_in_every_form(models, data, tokens, form):
    given = {"path": data, "list": [str(data)], "stream": hetmem.load_tokens(data),
             "int64": tokens.astype(np.int64), "int32": tokens.astype(np.int32), "option": None}[form]
    more = {"data": data} if form == "option" else {}
    with hetmem.Trainer(models["gpt2"], **RUN, **more) as trainer:
        losses = trainer.train(given, steps=3).losses
    with hetmem.Trainer(models["gpt2"], steps=3, **RUN) as trainer:
        stream = hetmem.load_tokens(data)
        assert losses == [trainer.step(b).loss for b in trainer.batches(stream, steps=3)]


def test_an_epoch_is_the_default_and_training_goes_on(models, tokens):
    short = tokens[: 33 * 2 * 4 + 1]
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        assert len(trainer.train(short).losses) == 4
        result = trainer.train(short, steps=2)
        assert (len(result.losses), result.steps, trainer.steps_done) == (2, 6, 6)
    with hetmem.Trainer(models["gpt2"], steps=2, **RUN) as trainer:
        trainer.train(short)
        with pytest.raises(ValueError, match="all 2 steps are taken"):
            trainer.train(short)


def test_what_a_callback_of_numpy_says_counts(models, data):
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        assert trainer.train(data, steps=9, callbacks=lambda result: np.bool_(result.step < 2)).steps == 2
        assert trainer.train(data, steps=2, callbacks=lambda result: np.float32(0)).steps == 4


def test_what_a_first_callback_leaves_is_kept_when_it_fails(models, data, tmp_path):
    def fail(result):
        (tmp_path / "out" / "mine.txt").write_text("mine")
        raise LookupError

    with hetmem.Trainer(models["gpt2"], out=tmp_path / "out", **RUN) as trainer:
        with pytest.raises(LookupError):
            trainer.train(data, steps=2, callbacks=fail)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_batches_go_on_where_they_are_told_to(models, data):
    stream = hetmem.load_tokens(data)
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        all_of_them = list(trainer.batches(stream, steps=5))
        for batch, again in zip(all_of_them[2:], trainer.batches(stream, steps=3, first=2), strict=True):
            assert (batch == again).all()
        with pytest.raises(ValueError, match="one stream of tokens"):
            next(trainer.batches(np.zeros((4, 99), np.int32)))
        with pytest.raises(ValueError, match="the data have 9 tokens"):
            next(trainer.batches(stream[:9]))


def test_files_to_be_written_nowhere_are_told_of(models):
    with pytest.warns(UserWarning, match="save_steps without out"):
        hetmem.Trainer(models["gpt2"], save_steps=2, **RUN).close()


def test_without_a_length_the_rate_stays(models, data):
    stream = hetmem.load_tokens(data)
    with hetmem.Trainer(models["gpt2"], warmup_steps=2, **RUN) as trainer:
        rates = [trainer.step(b).learning_rate for b in trainer.batches(stream, steps=4)]
    assert rates == [0, 0.5e-3, 1e-3, 1e-3]
    with hetmem.Trainer(models["gpt2"], warmup_steps=0.5, **RUN) as trainer:
        with pytest.raises(ValueError, match="ratio of all steps"):
            trainer.step(next(trainer.batches(stream)))
        trainer.train(stream, steps=4)  # which says how many there are


def test_resume_under_a_smaller_budget(models, data, tmp_path):
    stream = hetmem.load_tokens(data)
    with hetmem.Trainer(models["llama"], steps=6, **RUN) as trainer:
        whole = trainer.train(stream).losses
        trainer.save(tmp_path / "whole")
    with hetmem.Trainer(models["llama"], steps=6, **RUN) as trainer:
        losses = trainer.train(stream, callbacks=lambda result: result.step < 3).losses
        trainer.save(tmp_path / "cut", checkpoint=True)
    assert len(losses) == 3
    with hetmem.Trainer(models["llama"], steps=6, resume_from_checkpoint=tmp_path / "cut", **RUN,
                        **TIGHT) as trainer:
        assert trainer.steps_done == 3
        losses += trainer.train(stream).losses
        trainer.save(tmp_path / "resumed")
    assert losses == whole
    assert bits(tmp_path / "resumed") == bits(tmp_path / "whole")


def test_other_data_are_refused_where_a_run_is_resumed(models, tokens, tmp_path):
    changed = np.array(tokens)
    changed[100] = (changed[100] + 1) % VOCABULARY
    with hetmem.Trainer(models["gpt2"], steps=6, **RUN) as trainer:
        trainer.train(tokens, callbacks=lambda result: result.step < 3)
        trainer.save(tmp_path / "run", checkpoint=True)
        trainer.step(next(trainer.batches(tokens)))
        trainer.save(tmp_path / "steps", checkpoint=True)  # the run's data go on after it
    options = RUN | dict(steps=6, resume_from_checkpoint=tmp_path / "run")
    with hetmem.Trainer(models["gpt2"], **options) as trainer:
        with pytest.raises(ValueError, match="--data is not what .*run was trained on"):
            trainer.train(changed)
        assert trainer.steps_done == 3
        assert len(trainer.train(tokens).losses) == 3
        trainer.train(changed, steps=1)  # new data from here on
    with hetmem.Trainer(models["gpt2"], **(options | dict(resume_from_checkpoint=tmp_path / "steps"))) as trainer:
        with pytest.raises(ValueError, match="--data is not what .*steps was trained on"):
            trainer.train(changed)
        assert len(trainer.train(tokens).losses) == 2


def test_checkpoints_are_complete_when_a_callback_fails(models, data, tmp_path):
    """They are written beside training: what is under way is finished first."""
    def fail_at_three(result):
        if result.step == 3:
            raise ZeroDivisionError

    with hetmem.Trainer(models["llama"], out=tmp_path / "out", save_steps=1, save_total_limit=0, steps=5,
                        **RUN, **TIGHT) as trainer:
        with pytest.raises(ZeroDivisionError):
            trainer.train(data, callbacks=fail_at_three)
        assert sorted(p.name for p in (tmp_path / "out").glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
        trainer.train(data)
        assert {p.name for p in (tmp_path / "out").glob("checkpoint-*")} == {
            f"checkpoint-{step}" for step in (1, 2, 4, 5)}
    lines = train(models["llama"], data, tmp_path / "cli", steps=5, **RUN)
    assert values(metrics(tmp_path / "out")) == values(lines)


def test_budgets_change_between_steps_and_no_bit_does(models, data):
    losses = []
    for change in (False, True):
        with hetmem.Trainer(models["qwen3"], steps=6, device_memory="2MiB", host_memory="2MiB",
                            **RUN) as trainer:
            results = []
            for batch in trainer.batches(hetmem.load_tokens(data), steps=6):
                if change and len(results) == 3:
                    changed = trainer.set_budget(device_memory="700KiB")
                    assert changed.tiers.device.budget == 700 << 10
                    assert changed.tiers.host.budget == 2 << 20
                results.append(trainer.step(batch))
            if change:
                assert results[-1].memory.device.peak <= 700 << 10
                assert results[-1].traffic.to_device > 0
                with pytest.raises(hetmem.OutOfBudget, match="smallest"):
                    trainer.set_budget(device_memory=1000)
                trainer.step(batch)  # goes on with the budgets of before
        losses.append([r.loss for r in results])
    assert losses[0] == losses[1]


def test_a_budget_is_of_whole_bytes(models):
    with hetmem.Trainer(models["gpt2"], device_memory=2.0 ** 21, host_memory="2MiB", **RUN) as trainer:
        for budget in (1.5, 700000.5, float("nan"), float("inf"), -1.0):
            with pytest.raises(ValueError, match="--device-memory: .* is not a size; .* whole bytes"):
                trainer.set_budget(budget)
        assert trainer.plan.tiers.device.budget == 2 << 20
    with pytest.raises(ValueError, match='--host-memory: "0.5" is not a size'):
        hetmem.plan(models["gpt2"], host_memory=0.5)


def test_a_budget_that_is_not_changed_stays_auto(models, data):
    """On a processor the device takes all at first: what it gives up is the host's."""
    with hetmem.Trainer(models["qwen3"], **RUN) as trainer:
        assert trainer.plan.tiers.host.budget == 0
        batch = next(trainer.batches(hetmem.load_tokens(data)))
        trainer.step(batch)
        smaller = trainer.set_budget(device_memory="700KiB")
        assert smaller.tiers.device.budget == 700 << 10 and smaller.tiers.host.budget > 0
        assert trainer.options["host-memory"] == ["auto"]
        assert trainer.step(batch).traffic.to_device > 0
        larger = trainer.set_budget(device_memory="auto")
        assert larger.tiers.device.budget > 700 << 10 and larger.tiers.host.budget == 0
        both = trainer.set_budget(host_memory="2MiB")
        assert both.tiers.device.budget > 700 << 10 and both.tiers.host.budget == 2 << 20
        assert trainer.options["device-memory"] == ["auto"]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_parameters_are_those_of_the_folder(models, dtype):
    want = state_of(models["llama"])
    with hetmem.Trainer(models["llama"], compute_dtype=dtype, **RUN, **TIGHT) as trainer:
        weights = trainer.parameters()
        assert sorted(weights) == sorted(want)
        for name, array in weights.items():
            assert array.dtype == np.float32 and array.shape == weights.shape(name)
            assert np.array_equal(array, want[name].numpy())


def test_what_is_written_into_parameters_is_used(models, data, tmp_path):
    batch = None
    losses = []
    with hetmem.Trainer(models["llama"], steps=3, **RUN, **TIGHT) as trainer:
        batch = next(trainer.batches(hetmem.load_tokens(data)))
        weights = trainer.parameters()
        weights["model.norm.weight"] = 1.5 * weights["model.norm.weight"]
        name = "model.layers.1.mlp.up_proj.weight"
        weights[name] = torch.from_dlpack(weights[name]) * 0.5  # DLPack both ways
        losses.append(trainer.step(batch).loss)
    model = tmp_path / "model"
    import transformers

    loaded = transformers.AutoModelForCausalLM.from_pretrained(models["llama"])
    with torch.no_grad():
        loaded.model.norm.weight.mul_(1.5)
        loaded.model.layers[1].mlp.up_proj.weight.mul_(0.5)
    loaded.save_pretrained(model)
    with hetmem.Trainer(model, steps=3, **RUN) as trainer:
        losses.append(trainer.step(batch).loss)
    assert losses[0] == losses[1]


def test_parameters_refuse_what_would_be_cast(models):
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        weights = trainer.parameters()
        name = "transformer.ln_f.weight"
        before = weights[name]
        with pytest.raises(TypeError, match="float64"):
            weights[name] = before.astype(np.float64)
        with pytest.raises(ValueError, match="shape"):
            weights[name] = before[:-1]
        with pytest.raises(KeyError):
            weights["transformer.ln_g.weight"]
        assert np.array_equal(weights[name], before)
        weights[name] = np.ones(before.shape, np.float16)
        assert np.array_equal(weights[name], np.ones_like(before))
        copy = weights[name]
        copy[:] = 7  # a copy: nothing of the trainer's
        assert np.array_equal(weights[name], np.ones_like(before))


@pytest.mark.parametrize("form", ["bfloat16", "float16", "parameter", "bfloat16 parameter", "float"])
def test_parameters_take_tensors_of_torch(models, form):
    """As a model of Hugging Face has them."""
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        weights = trainer.parameters()
        name = "transformer.ln_f.weight"
        want = torch.linspace(-2, 2, len(weights[name]))
        if form != "parameter":
            want = want.to(getattr(torch, form.split()[0]))
        weights[name] = torch.nn.Parameter(want) if "parameter" in form else want
        assert np.array_equal(weights[name], want.float().numpy())


@pytest.mark.parametrize("value,match", [
    (torch.ones(32, dtype=torch.float64, requires_grad=True), "float32; float64 is not cast"),
    (torch.ones(32, dtype=torch.int32), "float32; int32 is not cast"),
    (torch.ones(32, device="meta"), "ln_f.weight: a Tensor .torch.float32 meta. cannot be read by NumPy"),
    (torch.ones(32).to_sparse(), "ln_f.weight: a Tensor .torch.float32 cpu. cannot be read by NumPy"),
    ("ones", "is not cast"),
    (None, "is not cast"),
])
def test_tensors_of_torch_that_are_no_weights(models, value, match):
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        with pytest.raises(TypeError, match=match):
            trainer.parameters()["transformer.ln_f.weight"] = value


@pytest.mark.parametrize("form", [np.int64, np.uint16, "list", "torch", "strided"])
def test_tokens_of_other_integer_types(models, data, form):
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        batch = next(trainer.batches(hetmem.load_tokens(data)))
        loss = trainer.evaluate(batch)
        if form == "list":
            given = batch.tolist()
        elif form == "torch":
            given = torch.from_numpy(batch)
        elif form == "strided":
            given = np.repeat(batch, 2, axis=1)[:, ::2]
        else:
            given = batch.astype(form)
        assert trainer.evaluate(given) == loss
        assert trainer.step(given).loss == loss  # no dropout here: the same batch, the same sums


@pytest.mark.parametrize("change,error,match", [
    (lambda b: b.astype(np.float32), TypeError, "float32"),
    (lambda b: b.astype(bool), TypeError, "bool"),
    (lambda b: b[:, :-1], ValueError, r"\[2, 34\]; got shape \[2, 33\]"),
    (lambda b: b[:1], ValueError, "got shape"),
    (lambda b: b.reshape(-1), ValueError, "got shape"),
    (lambda b: np.where(b == b[0, 0], VOCABULARY, b), ValueError, "outside the vocabulary of 331"),
    (lambda b: np.where(b == b[0, 0], -1, b), ValueError, "token id -1"),
    (lambda b: b.astype(np.int64) + 2**32, ValueError, "outside of every vocabulary"),
])
def test_tokens_that_are_none(models, data, change, error, match):
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        batch = next(trainer.batches(hetmem.load_tokens(data)))
        with pytest.raises(error, match=match):
            trainer.step(change(batch))
        assert trainer.steps_done == 0
        assert np.isfinite(trainer.step(batch).loss)


def test_results_show_themselves(models, data):
    import html.parser

    class Bars(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.titles = [], []

        def handle_starttag(self, tag, attributes):
            self.open.append(tag)
            self.titles += [value for name, value in attributes if name == "title"]

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    with hetmem.Trainer(models["gpt2"], **RUN, **TIGHT) as trainer:
        result = trainer.step(next(trainer.batches(hetmem.load_tokens(data))))
        told = []
        trained = trainer.train(data, steps=3, eval_data=data, callbacks=told.append)
        plan = trainer.plan
        assert "steps done" in repr(trainer)
    assert repr(trainer) == "Trainer(closed)"
    assert f"loss={result.loss:.6g}" in repr(result) and "700.00 KiB" in repr(result)
    assert "fits=True" in repr(plan) and "steps=4" in repr(trained)
    for shown, kinds in ((plan, plan.tiers), (result, result.memory)):
        bars = Bars()
        bars.feed(shown._repr_html_())
        assert not bars.open
        used = [kind.replace("_", " ") for tier in kinds.values() for kind, n in tier.by_kind.items() if n]
        assert [title.split(":")[0] for title in bars.titles] == used
    assert "<svg" in trained._repr_html_()
    evaluated = told[-1]
    assert repr(evaluated) == f"EvalResult(step=4, eval_loss={evaluated.eval_loss:.6g})"
    assert f"{evaluated.eval_loss:.4f}" in evaluated._repr_html_()
    assert "to_device=" in repr(result.traffic) and "to device" in result.traffic._repr_html_()
    assert result.to_dict()["memory"]["device"]["peak"] == result.memory.device.peak


def test_callbacks_may_use_the_trainer_and_end_the_training(models, data):
    seen = []
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        def look(result):
            if isinstance(result, hetmem.StepResult):
                seen.append(trainer.evaluate(data))
                assert trainer.steps_done == result.step
                with pytest.raises(ValueError, match="closed by a callback"):
                    trainer.close()
                with pytest.raises(ValueError, match="a callback of train.. cannot train"):
                    trainer.train(data, steps=1)
            return len(seen) < 3

        result = trainer.train(data, steps=10, callbacks=[look])
        assert result.interrupted and len(result.losses) == 3
        with pytest.raises(ZeroDivisionError):
            trainer.train(data, steps=2, callbacks=lambda _: 1 / 0)
        assert trainer.steps_done == 4  # the step before the callback was taken
        trainer.train(data, steps=1)
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:  # evaluating in between changes no bit
        assert trainer.train(data, steps=10).losses[:3] == result.losses


def test_save_refuses_what_it_would_remove(models, tmp_path):
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("mine")
        for overwrite in (False, True):
            with pytest.raises(ValueError, match="not empty"):
                trainer.save(tmp_path / "mine", overwrite=overwrite)
        trainer.save(tmp_path / "ours")
        with pytest.raises(ValueError, match="overwrite=True"):
            trainer.save(tmp_path / "ours")
        trainer.save(tmp_path / "ours", overwrite=True)
        # What others have put there since is no part of it.
        for checkpoint in (False, True):
            (tmp_path / "ours" / "notes.txt").write_text("mine")
            with pytest.raises(ValueError, match="not empty, and notes.txt in it was not written by hetmem"):
                trainer.save(tmp_path / "ours", checkpoint=checkpoint, overwrite=True)
            (tmp_path / "ours" / "notes.txt").unlink()
            trainer.save(tmp_path / "ours", checkpoint=checkpoint, overwrite=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_save_replaces_folders_alone(models, tmp_path):
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to("none")
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        for checkpoint in (False, True):
            for name, says in (("file", "a file"), ("pipe", "a pipe"), ("nowhere", "leads nowhere")):
                with pytest.raises(ValueError, match=says):
                    trainer.save(tmp_path / name, checkpoint=checkpoint, overwrite=True)
            with pytest.raises(ValueError, match="empty"):
                trainer.save("", checkpoint=checkpoint)
            trainer.save(tmp_path / "link", checkpoint=checkpoint, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine" and (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "trainer_state.json").exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "link", "nowhere", "pipe", "there"]


def test_progress_is_a_bar(models, data, capsys):
    pytest.importorskip("tqdm")
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        trainer.train(data, steps=3, progress=True)
        assert "3/3" in capsys.readouterr().err
        trainer.train(data, steps=3)
        assert capsys.readouterr().err == ""  # no terminal


def test_without_tqdm_progress_is_a_line(models, data, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        losses = trainer.train(data, steps=2, progress=True).losses
    shown = capsys.readouterr().err
    assert f"step 1/2: loss {losses[0]:.4f}" in shown and f"step 2/2: loss {losses[1]:.4f}" in shown


def test_data_sets_in_three_lines(tmp_path, models):
    write_tokens(tmp_path / "a.bin", np.arange(100))
    write_tokens(tmp_path / "b.bin", np.arange(100, 150))
    stream = hetmem.load_tokens(tmp_path)
    assert len(stream) == 150 and stream[120] == 120 and stream[-1] == 149
    assert np.array_equal(stream[90:110], np.arange(90, 110)) and stream[:].dtype == np.int32
    assert np.array_equal(np.asarray(stream), np.arange(150))
    assert np.array_equal(stream[10:2:1], []) and np.array_equal(stream[::50], [0, 50, 100])
    with pytest.raises(IndexError):
        stream[150]
    (tmp_path / "c.txt").write_text("text")
    with pytest.raises(ValueError, match="c.txt is text"):
        hetmem.load_tokens(tmp_path / "c.txt")
    with pytest.raises(ValueError, match="nowhere"):
        hetmem.load_tokens(tmp_path / "nowhere.bin")


def test_disks_are_options_too(models, data, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        want = trainer.train(data, steps=3).losses
    least = hetmem.plan(models["gpt2"], **RUN, host_memory=0, disk_memory="64MiB").smallest_device_memory
    with hetmem.Trainer(models["gpt2"], device_memory=least, host_memory=0, disk=folders, disk_memory="64MiB",
                        encrypt_disk=True, **RUN) as trainer:
        result = trainer.train(data, steps=3)
        assert result.losses == want and trainer.plan.tiers.disk.peak > 0
        assert "disk" in repr(trainer)
    assert not any(list(folder.iterdir()) for folder in folders)


def test_a_skipped_step_is_the_object_of_the_metrics(models, data, tmp_path):
    with hetmem.Trainer(models["gpt2"], out=tmp_path / "o", on_nonfinite="skip", **RUN) as trainer:
        seen = []
        weights = trainer.parameters()["transformer.ln_f.weight"]
        trainer.train(data, steps=1, callbacks=seen.append)
        trainer.parameters()["transformer.ln_f.weight"] = weights * np.float32(np.nan)
        trainer.train(data, steps=1, callbacks=seen.append)
    lines = metrics(tmp_path / "o")
    assert lines[1]["loss"] is None and lines[1]["skipped"]
    for result, line in zip(seen, lines, strict=True):
        own = result.to_dict()
        for tier in own["memory"].values():
            del tier["by_kind"]
        assert own == line
        json.dumps(own, allow_nan=False)


def test_parameters_are_equal_where_they_are_of_one_trainer(models):
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer, hetmem.Trainer(models["gpt2"], **RUN) as other:
        parameters = trainer.parameters()
        assert parameters == trainer.parameters() and len({parameters, trainer.parameters()}) == 1
        assert parameters != other.parameters() and parameters != dict(parameters)


def test_no_tokens_and_no_batches(models, data, tmp_path):
    tokenizer = hetmem.Tokenizer(add_tokenizer(tmp_path / "m", models["gpt2"]))
    assert tokenizer.decode([]) == "" == tokenizer.decode(())
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        stream = hetmem.load_tokens(data)
        assert not list(trainer.batches(stream, steps=0))
        with pytest.raises(ValueError, match="steps is -1"):
            list(trainer.batches(stream, steps=-1))
        with pytest.raises(ValueError, match="got shape"):
            trainer.step([])


def test_token_files_beside_text_are_of_the_models_vocabulary(models, data, tmp_path):
    model = add_tokenizer(tmp_path / "m", models["llama"])  # of 257 tokens; the model has 331
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "t.txt").write_text("some text " * 40)
    shutil.copy(data, tmp_path / "d" / "s.bin")
    text = hetmem.load_tokens(tmp_path / "d" / "t.txt", model)[:]
    wanted = np.concatenate([hetmem.load_tokens(data)[:], text])
    for i, paths in enumerate(([data, tmp_path / "d" / "t.txt"], [tmp_path / "d"], [data])):
        out = tmp_path / f"{i}.bin"
        done = command("tokenize", *paths, "--model", model, "--out", out)
        assert done.returncode == 0, done.stderr
        assert np.array_equal(hetmem.load_tokens(out)[:], wanted[: 4001 if i == 2 else None])
        assert np.array_equal(hetmem.load_tokens(paths, model)[:], wanted[: 4001 if i == 2 else None])
        done = command("train", "--model", model, "--data", *paths, "--out", tmp_path / f"o{i}", "--steps", 1,
                       "--sequence-length", 33)
        assert done.returncode == 0, done.stderr
    wrong = write_tokens(tmp_path / "d" / "u.bin", [1, 331, 2])
    for words in (["tokenize", tmp_path / "d", "--out", tmp_path / "no.bin"],
                  ["train", "--data", tmp_path / "d", "--out", tmp_path / "no"]):
        done = command(*words, "--model", model)
        assert done.returncode == 2
        assert f"{wrong} holds token id 331 at position 1, the model's vocabulary has 331" in done.stderr


@pytest.mark.parametrize("name", ["pipe.bin", "pipe.txt", "pipe.jsonl"])
def test_what_is_no_regular_file_is_no_data(models, tmp_path, name):
    model = add_tokenizer(tmp_path / "m", models["llama"])
    os.mkfifo(tmp_path / name)
    for words in (["train", "--data", tmp_path / name, "--out", tmp_path / "o"],
                  ["tokenize", tmp_path / name, "--out", tmp_path / "o"]):
        done = command(*words, "--model", model, timeout=20)
        assert done.returncode == 2
        assert f"{tmp_path / name}: neither a regular file nor a folder" in done.stderr
