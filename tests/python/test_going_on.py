"""Trainings that go on: in a second call, after a checkpoint, in another process, with other data.

Data that are trained on again go on where they stopped; other data begin. Both are in a checkpoint."""

import json

import hetmem
import numpy as np
import pytest
from conftest import VOCABULARY, metrics, python, train, write_tokens

RUN = dict(batch_size=2, sequence_length=33, learning_rate=1e-3)
STEADY = dict(lr_scheduler_type="constant")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Other data."""
    return write_tokens(tmp_path_factory.mktemp("others") / "others.bin",
                        np.random.RandomState(8).randint(0, VOCABULARY, 3001))


def before(step):
    """A callback that ends a training, so that `step` is not taken."""
    return lambda result: result.step < step - 1


def resumed(model, checkpoint, calls, **options):
    """The losses of calls of train() in a process of its own, each a (data, keywords)."""
    done = python("""
import json, sys, hetmem
model, checkpoint, calls, options = sys.argv[1:]
with hetmem.Trainer(model, resume_from_checkpoint=checkpoint, **json.loads(options)) as trainer:
    print(json.dumps([trainer.train(data, **more).losses for data, more in json.loads(calls)]))
""", model, checkpoint, json.dumps([(str(data), more) for data, more in calls]), json.dumps(options))
    assert done.returncode == 0, done.stderr
    return sum(json.loads(done.stdout), [])


def test_two_calls_take_the_batches_of_one(models, data):
    with hetmem.Trainer(models["llama"], **RUN, **STEADY) as trainer:
        whole = trainer.train(data, steps=7).losses
    with hetmem.Trainer(models["llama"], **RUN, **STEADY) as trainer:
        assert trainer.train(data, steps=3).losses + trainer.train(data, steps=4).losses == whole


def test_epochs_follow_each_other(models, tokens):
    """The second has an order of its own."""
    short = tokens[: 33 * 2 * 4 + 1]
    with hetmem.Trainer(models["gpt2"], **RUN, **STEADY) as trainer:
        whole = trainer.train(short, epochs=2).losses
    with hetmem.Trainer(models["gpt2"], **RUN, **STEADY) as trainer:
        assert trainer.train(short).losses + trainer.train(short).losses == whole


@pytest.mark.parametrize("second", ["data", "others"])
def test_a_checkpoint_of_the_second_call_goes_on(models, data, others, tmp_path, second):
    """In a process that knows nothing but the checkpoint, to the end that the call had: the rate falls
    linearly to it."""
    then = {"data": data, "others": others}[second]
    with hetmem.Trainer(models["llama"], **RUN) as trainer:
        first = trainer.train(data, steps=3).losses
        whole = first + trainer.train(then, steps=6).losses
    with hetmem.Trainer(models["llama"], **RUN) as trainer:
        losses = trainer.train(data, steps=3).losses
        losses += trainer.train(then, steps=6, callbacks=before(6)).losses
        trainer.save(tmp_path / "cut", checkpoint=True)
    assert losses == whole[:5]
    state = json.loads((tmp_path / "cut" / "trainer_state.json").read_text())
    assert state["total_steps"] == 9 and state["data"]["first_step"] == (3 if then is others else 0)
    assert resumed(models["llama"], tmp_path / "cut", [(then, {})], **RUN) == whole[5:]
    assert resumed(models["llama"], tmp_path / "cut", [(then, {"steps": 4})], **RUN) == whole[5:]
    # The command line reads the same checkpoint.
    lines = train(models["llama"], then, tmp_path / "cli", steps=9,
                  resume_from_checkpoint=tmp_path / "cut", **RUN)
    assert [line["loss"] for line in lines] == whole[5:]


def test_a_checkpoint_after_two_calls_goes_on(models, data, tmp_path):
    with hetmem.Trainer(models["llama"], **RUN, **STEADY) as trainer:
        whole = trainer.train(data, steps=9).losses
    with hetmem.Trainer(models["llama"], **RUN, **STEADY) as trainer:
        trainer.train(data, steps=2)
        trainer.train(data, steps=3)
        trainer.save(tmp_path / "saved", checkpoint=True)
    calls = [(data, {"steps": 1}), (data, {"steps": 3})]
    assert resumed(models["llama"], tmp_path / "saved", calls, **RUN, **STEADY) == whole[5:]


def test_checkpoints_of_a_run_say_the_same(models, data, others, tmp_path):
    """Those that train() writes beside training, too."""
    with hetmem.Trainer(models["gpt2"], out=tmp_path / "out", save_steps=1, save_total_limit=0,
                        **RUN) as trainer:
        trainer.train(data, steps=2)
        whole = trainer.train(others, steps=4).losses
    assert len(metrics(tmp_path / "out")) == 6
    checkpoint = tmp_path / "out" / "checkpoint-4"
    assert resumed(models["gpt2"], checkpoint, [(others, {})], **RUN) == whole[2:]


def test_a_callback_that_fails_loses_no_place(models, data):
    def fail(result):
        raise ZeroDivisionError

    with hetmem.Trainer(models["gpt2"], **RUN, **STEADY) as trainer:
        whole = trainer.train(data, steps=4).losses
    with hetmem.Trainer(models["gpt2"], **RUN, **STEADY) as trainer:
        with pytest.raises(ZeroDivisionError):
            trainer.train(data, steps=9, callbacks=fail)
        assert trainer.train(data, steps=3).losses == whole[1:]


def test_a_run_that_is_over_says_so(models, data, tmp_path):
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        trainer.train(data, steps=2)
        trainer.save(tmp_path / "over", checkpoint=True)
    with hetmem.Trainer(models["gpt2"], resume_from_checkpoint=tmp_path / "over", **RUN) as trainer:
        with pytest.raises(ValueError, match="all 2 steps are taken"):
            trainer.train(data)
