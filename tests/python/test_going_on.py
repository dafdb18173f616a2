"""Trainings that go on: in a second call, after a checkpoint, in another process, with other data.

Data that are trained on again go on where they stopped; other data begin. Both are in a checkpoint."""

import json
import shutil
import warnings

import hetmem
import numpy as np
import pytest
from conftest import VOCABULARY, metrics, python, train, write_tokens
from conftest import hetmem as command

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


def test_the_length_of_a_training_ends_with_it(models, data, tmp_path):
    """Single steps after it have the rate of a run whose length is not known, before and after a
    checkpoint; those after one that was cut short are within it."""
    batch = np.arange(2 * 34, dtype=np.int32).reshape(2, 34)
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        trainer.train(data, steps=2)
        trainer.save(tmp_path / "ended", checkpoint=True)
        results = [trainer.step(batch), trainer.step(batch)]
        assert [r.learning_rate for r in results] == [1e-3, 1e-3]
        trainer.save(tmp_path / "later", checkpoint=True)
        results.append(trainer.step(batch))
        rates = []
        trainer.train(data, steps=10, callbacks=lambda r: rates.append(r.learning_rate) or len(rates) < 2)
        assert rates == [1e-3 * (10 / 15), 1e-3 * (9 / 15)]
        assert trainer.step(batch).learning_rate == 1e-3 * (8 / 15)
    for checkpoint, first in (("ended", 0), ("later", 2)):
        with hetmem.Trainer(models["gpt2"], resume_from_checkpoint=tmp_path / checkpoint, **RUN) as trainer:
            for want in results[first:]:
                again = trainer.step(batch)
                assert (again.loss, again.learning_rate) == (want.loss, want.learning_rate)
    # Where `steps` is given it is the length again.
    with hetmem.Trainer(models["gpt2"], steps=4, **RUN) as trainer:
        trainer.train(data, steps=2)
        assert [trainer.step(batch).learning_rate for _ in range(3)] == [0.5e-3, 0.25e-3, 0]
    # A step that is refused changes nothing.
    with hetmem.Trainer(models["gpt2"], warmup_steps=0.5, **RUN) as trainer:
        trainer.train(data, steps=2)
        with pytest.raises(ValueError, match="ratio of all steps"):
            trainer.step(batch)
        trainer.save(tmp_path / "refused", checkpoint=True)
    assert json.loads((tmp_path / "refused" / "trainer_state.json").read_text())["total_steps"] == 2


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


def files_in(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("more", [dict(overwrite_output_dir=True), dict(resume_from_checkpoint="latest", steps=4)])
def test_a_folder_that_another_run_has_taken_is_left_to_it(models, data, tmp_path, more):
    """Between two calls, by replacing what the first has written or by going on with it."""
    out = tmp_path / "out"
    flags = RUN | dict(save_steps=1)
    with hetmem.Trainer(models["gpt2"], out=out, **flags) as trainer:
        trainer.train(data, steps=2)
        trainer.train(data, steps=1)
        train(models["gpt2"], data, out, **(flags | dict(steps=2) | more))
        theirs = files_in(out)
        with pytest.raises(ValueError, match=f"--out {out} is no longer what this run wrote"):
            trainer.train(data, steps=1)
        assert files_in(out) == theirs
        trainer.save(tmp_path / "mine", checkpoint=True)
        shutil.rmtree(out)
        trainer.train(data, steps=1)  # where there is nothing, nothing is lost
        assert trainer.steps_done == 4 and [line["step"] for line in metrics(out)] == [4]
        trainer.train(data, steps=1)
    with hetmem.Trainer(models["gpt2"], resume_from_checkpoint=tmp_path / "mine", **RUN) as trainer:
        assert trainer.steps_done == 3


def test_a_folder_of_a_call_that_failed_is_taken_again(models, data, tmp_path):
    """It was there, and holds what the run had begun to write."""
    (tmp_path / "out").mkdir()
    with hetmem.Trainer(models["gpt2"], out=tmp_path / "out", **RUN) as trainer:
        weight = trainer.parameters()["transformer.wte.weight"]
        trainer.parameters()["transformer.wte.weight"] = np.full_like(weight, np.inf)
        with pytest.raises(hetmem.NonFinite):
            trainer.train(data, steps=1)
        trainer.parameters()["transformer.wte.weight"] = weight
        trainer.train(data, steps=1)
    assert (tmp_path / "out" / "final").exists()


def test_a_callback_that_fails_loses_no_place(models, data):
    def fail(result):
        raise ZeroDivisionError

    with hetmem.Trainer(models["gpt2"], **RUN, **STEADY) as trainer:
        whole = trainer.train(data, steps=4).losses
    with hetmem.Trainer(models["gpt2"], **RUN, **STEADY) as trainer:
        with pytest.raises(ZeroDivisionError):
            trainer.train(data, steps=9, callbacks=fail)
        assert trainer.train(data, steps=3).losses == whole[1:]


def test_single_steps_take_none_of_the_data(models, data, tmp_path):
    batch = np.arange(2 * 34, dtype=np.int32).reshape(2, 34)
    with hetmem.Trainer(models["gpt2"], **RUN, **STEADY) as trainer:
        first = trainer.train(data, steps=3).losses
        trainer.step(batch)
        trainer.save(tmp_path / "cut", checkpoint=True)
        whole = first + trainer.train(data, steps=2).losses
    state = json.loads((tmp_path / "cut" / "trainer_state.json").read_text())
    assert state["step"] == 4 and state["data"]["first_step"] == 1
    assert state["sampler"]["next_window"] == 3 * 2
    calls = [(data, {"steps": 2})]
    assert resumed(models["gpt2"], tmp_path / "cut", calls, **RUN, **STEADY) == whole[3:]


@pytest.mark.parametrize("on", ["steps", "evaluations"])
def test_steps_of_a_callback_take_none_of_the_data(models, data, tmp_path, on):
    """train() sees all of its windows, and so does what goes on from a checkpoint of it."""
    other = np.arange(2 * 34, dtype=np.int32).reshape(2, 34)
    kind = {"steps": hetmem.StepResult, "evaluations": hetmem.EvalResult}[on]
    options = RUN | STEADY | dict(out=tmp_path / "out", save_steps=3, save_total_limit=0)
    stream = hetmem.load_tokens(data)
    with hetmem.Trainer(models["gpt2"], **RUN, **STEADY) as trainer:
        whole = []
        for batch in trainer.batches(stream, steps=6):
            whole.append(trainer.step(batch).loss)
            trainer.step(other)
    with hetmem.Trainer(models["gpt2"], **options) as trainer:
        def step_too(result):
            if isinstance(result, kind):
                trainer.step(other)

        first = trainer.train(data, steps=4, eval_data=data, eval_steps=1, callbacks=step_too)
        assert first.losses == whole[:4] and trainer.steps_done >= 8
        assert trainer.train(data, steps=2, eval_data=data, eval_steps=1,
                             callbacks=step_too).losses == whole[4:]
        assert trainer.steps_done == 12
    # After 3 of the steps, and later with each third of all.
    assert {int(path.name.split("-")[1]) for path in (tmp_path / "out").glob("checkpoint-*")} == {4, 6, 10, 12}
    checkpoint = tmp_path / "out" / "checkpoint-4"
    with hetmem.Trainer(models["gpt2"], resume_from_checkpoint=checkpoint, **RUN, **STEADY) as trainer:
        steps = [trainer.step(batch).loss for batch in trainer.batches(stream, steps=2, first=2)]
    assert resumed(models["gpt2"], checkpoint, [(data, {"steps": 2})], **RUN, **STEADY) == steps


def test_steps_of_a_callback_are_steps_of_the_run(models, data, tokens):
    """A length that is given in steps counts them; one in epochs is one of the data."""
    other = np.arange(2 * 34, dtype=np.int32).reshape(2, 34)
    short = tokens[: 33 * 2 * 4 + 1]
    for options, given, steps in [(dict(steps=6), data, 3), ({}, short, 4), (dict(epochs=2), short, 8)]:
        with hetmem.Trainer(models["gpt2"], **RUN, **options) as trainer:
            result = trainer.train(given, callbacks=lambda _: trainer.step(other) and None)
            assert (len(result.losses), result.steps, result.interrupted) == (steps, 2 * steps, False)


@pytest.mark.parametrize("given", [dict(steps=3), dict(epochs=3), {}])
def test_steps_of_a_callback_are_within_the_schedule(models, tokens, given):
    """Each makes it longer by itself before it is taken: the rate is linear in what is left and 0 after the
    last step."""
    other = np.arange(2 * 34, dtype=np.int32).reshape(2, 34)
    epoch = tokens[: 33 * 2 + 1]
    rates = []

    def step_too(result):
        rates.extend((result.learning_rate, trainer.step(other).learning_rate))

    with hetmem.Trainer(models["gpt2"], **RUN, **({} if given else dict(epochs=3))) as trainer:
        trainer.train(epoch, callbacks=step_too, **given)
    lengths = [3, 4, 4, 5, 5, 6]
    assert rates == [1e-3 * ((length - k) / length) for k, length in enumerate(lengths)]


def test_what_fails_after_a_step_leaves_its_place(models, data, others, tmp_path):
    """The file of metrics meets a limit on the size of files: the step is taken, its line is not."""
    done = python("""
import json, resource, signal, sys, hetmem
model, data, others, out, options = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with hetmem.Trainer(model, out=out + "/run", **json.loads(options)) as trainer:
    trainer.train(data, steps=40)
    size = len(open(out + "/run/metrics.jsonl", "rb").read())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1, limits[1]))
    try:
        trainer.train(others, steps=4)
        sys.exit("it did not fail")
    except OSError:
        pass
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    trainer.save(out + "/cut", checkpoint=True)
""", models["gpt2"], data, others, tmp_path, json.dumps(RUN))
    assert done.returncode == 0, done.stderr
    state = json.loads((tmp_path / "cut" / "trainer_state.json").read_text())
    assert state["step"] == 41 and state["data"]["first_step"] == 40
    assert state["data"]["tokens"] == 3001


def test_both_ways_in_go_on_to_the_end_of_the_run(models, data, tmp_path):
    lines = train(models["gpt2"], data, tmp_path / "run", steps=6, save_steps=3, **RUN)
    checkpoint = tmp_path / "run" / "checkpoint-3"
    again = train(models["gpt2"], data, tmp_path / "again", resume_from_checkpoint=checkpoint, **RUN)
    losses = [line["loss"] for line in lines[3:]]
    assert [line["loss"] for line in again] == losses
    assert resumed(models["gpt2"], checkpoint, [(data, {})], **RUN) == losses


def test_a_run_that_is_over_says_so(models, data, tmp_path):
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        trainer.train(data, steps=2)
        trainer.save(tmp_path / "over", checkpoint=True)
    with hetmem.Trainer(models["gpt2"], resume_from_checkpoint=tmp_path / "over", **RUN) as trainer:
        with pytest.raises(ValueError, match="all 2 steps are taken"):
            trainer.train(data)


@pytest.fixture(scope="module")
def checkpoint(models, data, tmp_path_factory):
    """Of a run of 6 steps, after 4."""
    out = tmp_path_factory.mktemp("checkpoint") / "o"
    train(models["gpt2"], data, out, steps=6, save_steps=4, freeze="wpe", compute_dtype="fp32", **RUN)
    return out / "checkpoint-4"


def go_on(model, data, checkpoint, out, way, **flags):
    """What is said of the options."""
    flags = RUN | dict(freeze="wpe", compute_dtype="fp32", resume_from_checkpoint=checkpoint) | flags
    if way == "python":
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with hetmem.Trainer(model, out=out, **flags) as trainer:
                trainer.train(data)
        assert all(warning.filename == __file__ for warning in caught)
        return [str(warning.message) for warning in caught]
    words = [w for k, v in flags.items() for w in ("--" + k, str(v).lower() if isinstance(v, bool) else v)]
    done = command("train", "--model", model, "--data", data, "--out", out, *words)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("hetmem: note: ") for line in lines), lines
    return [line[len("hetmem: note: "):] for line in lines]


@pytest.mark.parametrize("way", ["command", "python"])
@pytest.mark.parametrize("name,value,before", [
    ("seed", 7, "with 42"), ("batch_size", 1, "with 2"), ("sequence_length", 16, "with 33"),
    ("shuffle", False, "with true"), ("gradient_accumulation_steps", 2, "with 1"),
    ("learning_rate", 0.002, "with 0.001"), ("compute_dtype", "bf16", "with fp32"),
    ("freeze", "wpe|h.0", "with wpe"), ("weight_decay", 0.5, "with 0"), ("adam_beta2", 0.99, "with 0.999"),
    ("lr_scheduler_type", "cosine", "with linear"), ("warmup_steps", 2, "with 0"),
    ("decay_steps", 3, "without it"), ("max_grad_norm", 2, "with 1"), ("steps", 8, "with 6")])
def test_options_that_were_others_are_named(models, data, checkpoint, tmp_path, name, value, before, way):
    text = "false" if value is False else value
    assert go_on(models["gpt2"], data, checkpoint, tmp_path / "o", way, **{name: value}) == [
        f"--{name.replace('_', '-')} is {text}; the checkpoint was written {before}"]


@pytest.mark.parametrize("way", ["command", "python"])
@pytest.mark.parametrize("flags", [
    dict(), dict(steps=6), dict(device_memory="64MiB", host_memory="64MiB", threads=1, save_steps=1,
                                optimizer_overlap="off", tensorboard=True)])
def test_options_that_change_nothing_are_not(models, data, checkpoint, tmp_path, flags, way):
    assert go_on(models["gpt2"], data, checkpoint, tmp_path / "o", way, **flags) == []


def test_defaults_are_what_they_come_to(models, data, tmp_path):
    """The length of a sequence, that of the model, given and not given; a rate without an end."""
    steady = dict(batch_size=1, lr_scheduler_type="constant")
    train(models["gpt2"], data, tmp_path / "a", steps=2, save_steps=1, **steady)
    for number, (given, notes) in enumerate([
            (dict(sequence_length=64), []), (dict(sequence_length=64, steps=5), []),
            (dict(sequence_length=32), ["--sequence-length is 32; the checkpoint was written with 64"])]):
        words = [w for k, v in (dict(steps=2) | steady | given).items()
                 for w in ("--" + k.replace("_", "-"), v)]
        done = command("train", "--model", models["gpt2"], "--data", data, "--out", tmp_path / str(number),
                       "--resume-from-checkpoint", tmp_path / "a" / "checkpoint-1", *words)
        assert done.returncode == 0 and done.stderr.splitlines() == [
            "hetmem: note: " + note for note in notes], done.stderr


def test_a_checkpoint_without_options_goes_on(models, data, checkpoint, tmp_path):
    """Of another program or version: nothing is known, so that nothing is said."""
    for number, old in enumerate([None, 7, "- a", "a: [", "speed: 9\nseed: many\n"]):
        folder = tmp_path / f"checkpoint-{number}"
        shutil.copytree(checkpoint, folder)
        state = json.loads((folder / "trainer_state.json").read_text())
        state["configuration"] = old
        if old is None:
            del state["configuration"]
        (folder / "trainer_state.json").write_text(json.dumps(state))
        (folder / "manifest.json").write_text('{\n "files": {}\n}\n')
        notes = go_on(models["gpt2"], data, folder, tmp_path / str(number), "command")
        # Of the last one it is known that nothing was given but what there was not then.
        assert notes == [] if number < 4 else "--freeze is wpe; the checkpoint was written without it" in notes


@pytest.mark.parametrize("form", ["plain", "json"])
@pytest.mark.parametrize("steps", [6, 3])
def test_a_command_that_takes_no_step_says_so(models, data, tmp_path, steps, form):
    """And writes the model all the same."""
    lines = train(models["gpt2"], data, tmp_path / "o", steps=6, save_steps=3, save_total_limit=0, **RUN)
    whole = (tmp_path / "o" / "final" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "o" / "final")
    words = [w for k, v in RUN.items() for w in ("--" + k.replace("_", "-"), v)]
    done = command("train", "--model", models["gpt2"], "--data", data, "--out", tmp_path / "o",
                   "--resume-from-checkpoint", "latest", "--steps", steps, "--log-format", form, *words)
    assert done.returncode == 0
    assert done.stderr == (f"hetmem: note: no step is taken: the checkpoint is of step 6, the run has "
                           f"{steps}; give more --steps to go on\n")
    assert "measured" not in done.stdout and ("the model is in" in done.stdout) == (form == "plain")
    assert (tmp_path / "o" / "final" / "model.safetensors").read_bytes() == whole
    assert metrics(tmp_path / "o") == lines
