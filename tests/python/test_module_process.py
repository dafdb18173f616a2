"""The Python package in its process: errors, threads, signals, forks, memory that is given back."""

import builtins
import gc
import os
import signal
import sys
import threading
import types

import hetmem
import numpy as np
import pytest
from conftest import add_tokenizer, python, write_tokens
from conftest import hetmem as command

RUN = dict(batch_size=2, sequence_length=33, learning_rate=1e-3)
TIGHT = dict(device_memory="700KiB", host_memory="2MiB")


def words_of(stderr):
    return stderr.removeprefix("hetmem: error: ").rstrip("\n")


@pytest.mark.parametrize("options,error,code", [
    ({"device_memory": 1000, "host_memory": "2MiB"}, "OutOfBudget", 3),
    ({"batch_size": 0}, "ValueError", 2),
    ({"learning_rate": "fast"}, "ValueError", 2),
    ({"lr_scheduler_type": "polynomial"}, "ValueError", 2),
    ({"sequence_length": 1000}, "ValueError", 2),
    ({"activations": "swap"}, "ValueError", 2),
    ({"model": "/nowhere"}, "ValueError", 2),
    ({"min_lr_ratio": 0.1}, "ValueError", 2),
    ({"device": "cuda:7"}, "ValueError", 2),
    ({"resume_from_checkpoint": "/nowhere"}, "ValueError", 2),
])
def test_errors_have_the_words_of_the_command_line(models, data, tmp_path, options, error, code):
    given = {"model": models["qwen3"], "steps": 2} | options
    words = []
    for name, value in given.items():
        words += ["--" + name.replace("_", "-"), value]
    done = command("train", "--data", data, "--out", tmp_path / "out", *words)
    assert done.returncode == code
    kind = getattr(hetmem, error, None) or getattr(builtins, error)
    with pytest.raises(kind) as raised:
        hetmem.Trainer(**given)
    assert type(raised.value) is kind
    assert str(raised.value) == words_of(done.stderr)


def test_unknown_options_and_values_that_are_none(models):
    with pytest.raises(ValueError, match='unknown option "batchsize"'):
        hetmem.Trainer(models["gpt2"], batchsize=2)
    with pytest.raises(TypeError, match="learning_rate"):
        hetmem.Trainer(models["gpt2"], learning_rate=object())
    with pytest.raises(TypeError, match="give model"):
        hetmem.Trainer()
    hetmem.Trainer(models["gpt2"], learning_rate=np.float64(1e-3), batch_size=np.int32(2), steps=None,
                   sequence_length=33).close()


@pytest.mark.parametrize("options,near", [
    ({"batchsize": 2}, "batch_size"), ({"learning_rates": 1e-3}, "learning_rate"), ({"gpu": True}, None)])
def test_an_unknown_option_is_told_of_the_nearest(models, options, near):
    name = next(iter(options))
    hint = f"did you mean {near}[?] " if near else ""
    match = f'^unknown option "{name}"; {hint}hetmem.option_table.. lists them$'
    model = models["gpt2"]
    for call in (lambda: hetmem.Trainer(model, **options), lambda: hetmem.plan(model, **options),
                 lambda: hetmem.Trainer(config={"model": model} | options)):
        with pytest.raises(ValueError, match=match):
            call()
    match = '"max_token"; did you mean max_new_tokens[?] hetmem.option_table."generate". lists them'
    with pytest.raises(ValueError, match=match):
        hetmem.generate(model, "text", max_token=2)


SURROGATE = "a\udcff"  # what Python makes of a file name that is no UTF-8


@pytest.mark.parametrize("call,error,match", [
    (lambda h: h.tokenizer.encode(5), TypeError, "text is a str; got 5 of type int"),
    (lambda h: h.tokenizer.encode(b"text"), TypeError, "text is a str; got b'text' of type bytes"),
    (lambda h: h.tokenizer.encode(SURROGATE), ValueError, "surrogates not allowed"),
    (lambda h: h.tokenizer.token_to_id(5), TypeError, "token is a str; got 5 of type int"),
    (lambda h: h.tokens[1.0], TypeError, "a position in Tokens is an int or a slice; got 1.0 of type float"),
    (lambda h: h.tokens["1"], TypeError, "a position in Tokens is an int or a slice; got '1' of type str"),
    (lambda h: hetmem.load_tokens([]), ValueError, "load_tokens got no path; give files or folders"),
    (lambda h: hetmem.load_tokens(5), TypeError, "load_tokens takes a path or several, .*; got 5 of type int"),
    (lambda h: hetmem.load_tokens(["a", 5]), TypeError, "load_tokens takes paths, .*; got 5 of type int"),
    (lambda h: hetmem.load_tokens("a", glob=5), TypeError, "glob is a str; got 5 of type int"),
    (lambda h: hetmem.load_tokens(SURROGATE), ValueError, "surrogates not allowed"),
    (lambda h: hetmem.load_tokens(h.empty), ValueError, "0 tokens, a window needs 2; give more data$"),
    (lambda h: hetmem.generate(h.model, 5), TypeError, "prompt is a str; got 5 of type int"),
    (lambda h: hetmem.generate(h.model, None), TypeError, "prompt is a str; got None of type NoneType"),
    (lambda h: hetmem.Trainer(SURROGATE), ValueError, "model: .* surrogates not allowed"),
    (lambda h: hetmem.Trainer(config={5: 5}), TypeError, "config: 5 of type int is no name of an option"),
    (lambda h: h.trainer.generate(5), TypeError, "prompt is a str; got 5 of type int"),
    (lambda h: h.trainer.train([]), ValueError, "data got no path; give files or folders"),
    (lambda h: h.trainer.train(5), ValueError, "data are one stream of tokens, an array .n.; got shape "),
    (lambda h: h.trainer.train(h.tokens, callbacks=5), TypeError, "callbacks are .*; got 5 of type int"),
    (lambda h: h.trainer.train(h.tokens, callbacks=[5]), TypeError, "callbacks are .*; got .5. of type list"),
    (lambda h: h.trainer.evaluate([]), ValueError, "got no path; give files or folders"),
    (lambda h: next(h.trainer.batches("texts/")), TypeError, "load_tokens makes them of files"),
    (lambda h: next(h.trainer.batches(h.tokens, first=-1)), ValueError, "first is -1"),
    (lambda h: h.trainer.parameters()[5], KeyError, "5"),
])
def test_what_is_of_another_kind_is_said(holder, call, error, match):
    """In words of the package, not of what binds it to C++; and before anything is done."""
    with pytest.raises(error, match=match) as raised:
        call(holder)
    assert "incompatible" not in str(raised.value)
    assert holder.trainer.steps_done == 0


@pytest.fixture(scope="module")
def holder(models, tmp_path_factory):
    """One of each thing."""
    base = tmp_path_factory.mktemp("holder")
    model = add_tokenizer(base / "model", models["gpt2"])
    with hetmem.Trainer(model, **RUN) as trainer:
        yield types.SimpleNamespace(
            model=model, trainer=trainer, tokenizer=hetmem.Tokenizer(model),
            tokens=hetmem.load_tokens(write_tokens(base / "a.bin", np.arange(200))),
            empty=write_tokens(base / "empty.bin", np.arange(0)))


def test_a_loss_that_is_not_finite(models, data):
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        batch = next(trainer.batches(hetmem.load_tokens(data)))
        weights = trainer.parameters()
        name = "transformer.ln_f.weight"
        norm = weights[name]
        weights[name] = np.full_like(norm, np.nan)
        with pytest.raises(hetmem.NonFinite, match="step 1 is not finite"):
            trainer.step(batch)
        weights[name] = norm
        assert np.isfinite(trainer.step(batch).loss)  # goes on
    assert issubclass(hetmem.NonFinite, FloatingPointError)


def test_a_damaged_checkpoint_is_corrupt_data(models, data, tmp_path):
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        trainer.save(tmp_path / "checkpoint", checkpoint=True)
    file = tmp_path / "checkpoint" / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(hetmem.CorruptData, match="optimizer.safetensors is not what was written"):
        hetmem.Trainer(models["gpt2"], resume_from_checkpoint=tmp_path / "checkpoint", **RUN)
    assert issubclass(hetmem.CorruptData, OSError)


def test_a_disk_that_is_full_is_an_oserror(models, tmp_path):
    done = python("""
import resource, sys, hetmem
trainer = hetmem.Trainer(sys.argv[1], batch_size=2, sequence_length=33)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    trainer.save(sys.argv[2])
except OSError as error:
    print(type(error).__name__, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
trainer.save(sys.argv[2])
""", models["gpt2"], tmp_path / "saved")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("OSError") and "model.safetensors" in done.stdout
    assert (tmp_path / "saved" / "manifest.json").exists()


def test_a_closed_trainer_says_so(models, data):
    trainer = hetmem.Trainer(models["gpt2"], **RUN)
    weights = trainer.parameters()
    trainer.close()
    trainer.close()
    for call in (lambda: trainer.step(np.zeros((2, 34), np.int32)), lambda: trainer.plan,
                 lambda: weights["transformer.ln_f.weight"], lambda: trainer.train(data)):
        with pytest.raises(ValueError, match="this Trainer is closed"):
            call()


def released_during(call):
    """Whether another thread runs Python while `call` does. Without a switch interval, threads change
    only where the GIL is given up."""
    state = {"inside": False, "seen": False, "done": False}

    def work():
        for _ in range(20_000):  # the other one may not run when the GIL is there
            state["inside"] = True
            call()
            state["inside"] = False
            if state["seen"]:
                break
        state["done"] = True

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        worker = threading.Thread(target=work)
        worker.start()
        while not state["done"] and not state["seen"]:
            state["seen"] = state["inside"]
            os.sched_yield()  # gives up the GIL
        worker.join()
    finally:
        sys.setswitchinterval(interval)
    return state["seen"]


def test_blocking_calls_give_up_the_gil(models, data, tmp_path):
    assert not released_during(lambda: None)  # the test itself
    add_tokenizer(tmp_path / "m", models["gpt2"])
    stream = hetmem.load_tokens(data)
    with hetmem.Trainer(tmp_path / "m", **RUN) as trainer:
        batch = next(trainer.batches(stream))
        weights = trainer.parameters()
        name = "transformer.wte.weight"
        array = weights[name]
        calls = {
            "step": lambda: trainer.step(batch),
            "evaluate": lambda: trainer.evaluate(batch),
            "train": lambda: trainer.train(stream, steps=1),
            "save": lambda: trainer.save(tmp_path / "saved", overwrite=True),
            "generate": lambda: trainer.generate("a", max_new_tokens=2),
            "read": lambda: weights[name],
            "write": lambda: weights.__setitem__(name, array),
            "set_budget": lambda: trainer.set_budget(device_memory="2MiB", host_memory="2MiB"),
            "plan": lambda: hetmem.plan(tmp_path / "m", **RUN),
            "make": lambda: hetmem.Trainer(tmp_path / "m", **RUN),
            "tokenizer": lambda: hetmem.Tokenizer(tmp_path / "m"),
            "load_tokens": lambda: hetmem.load_tokens(data),
        }
        held = [name for name, call in calls.items() if not released_during(call)]
    assert held == []


def test_two_trainers_in_two_threads(models, data):
    def losses(name, into):
        with hetmem.Trainer(models[name], **RUN, **TIGHT) as trainer:
            into[name] = trainer.train(data, steps=8).losses

    alone, together = {}, {}
    for name in ("llama", "qwen3"):
        losses(name, alone)
    threads = [threading.Thread(target=losses, args=(name, together)) for name in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_threads_take_turns_at_one_trainer(models, data):
    with hetmem.Trainer(models["gpt2"], **RUN) as trainer:
        batch = next(trainer.batches(hetmem.load_tokens(data)))
        steps = []
        threads = [threading.Thread(target=lambda: steps.extend(trainer.step(batch).step for _ in range(5)))
                   for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(steps) == list(range(1, 16))


def test_threads_have_turns_during_a_training(models, data):
    with hetmem.Trainer(models["gpt2"], lr_scheduler_type="constant", **RUN) as trainer:
        seen = []

        def look():
            while not seen or seen[-1] < 5:
                seen.append(trainer.steps_done)
                repr(trainer)
            trainer.step(batch)  # a step of this thread's, between those of train()
            seen.append("stepped")

        batch = next(trainer.batches(hetmem.load_tokens(data)))
        looking = threading.Thread(target=look)
        looking.start()
        result = trainer.train(data, steps=2000,
                               callbacks=lambda result: "stepped" not in seen or result.step < 8)
        looking.join()
        assert result.interrupted and seen[-1] == "stepped" and result.steps < 2000
        # Another train() waits for the first one; close() waits for both.
        started, second = threading.Event(), []

        def train_too():
            started.wait()
            second.append(trainer.train(data, steps=3))

        other = threading.Thread(target=train_too)
        closing = threading.Thread(target=lambda: (other.join(), trainer.close()))
        other.start()
        closing.start()
        first = trainer.train(data, steps=3, callbacks=lambda result: started.set())
        other.join()
        closing.join()
        assert second[0].steps == first.steps + 3 and repr(trainer) == "Trainer(closed)"


def interrupted(call, started):
    """Calls it and, once it has begun, presses Ctrl-C."""
    # A shell's background jobs begin with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=lambda: (started.wait(), os.kill(os.getpid(), signal.SIGINT)))
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        started.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("writes", [False, True])
def test_ctrl_c_ends_a_run_after_the_step_and_it_can_go_on(models, data, tmp_path, writes):
    out = {"out": tmp_path / "out"} if writes else {}
    losses = []
    started = threading.Event()

    def look(result):
        losses.append(result.loss)
        if result.step == 2:
            started.set()

    with hetmem.Trainer(models["gpt2"], lr_scheduler_type="constant", **RUN, **out) as trainer:
        interrupted(lambda: trainer.train(data, steps=100_000, callbacks=look), started)
        done = trainer.steps_done
        assert len(losses) in (done, done - 1)  # the signal may come before the callback is told
        if writes:
            assert [p.name for p in (tmp_path / "out").glob("checkpoint-*")] == [f"checkpoint-{done}"]
        after = trainer.evaluate(data)
    with hetmem.Trainer(models["gpt2"], lr_scheduler_type="constant", **RUN) as trainer:
        assert trainer.train(data, steps=done).losses[: len(losses)] == losses
        assert trainer.evaluate(data) == after


def test_ctrl_c_during_an_evaluation_of_a_training(models, data, tmp_path):
    large = tmp_path / "large.bin"
    write_tokens(large, np.zeros(5_000_000, np.uint16))  # minutes of evaluation
    with hetmem.Trainer(models["gpt2"], out=tmp_path / "out", **RUN) as trainer:
        started = threading.Event()
        interrupted(lambda: trainer.train(
            data, steps=3, eval_data=large, eval_steps=2,
            callbacks=lambda result: started.set() if result.step == 2 else None), started)
        assert trainer.steps_done == 2
        assert [p.name for p in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-2"]
        assert "eval_loss" not in (tmp_path / "out" / "metrics.jsonl").read_text()
        assert trainer.train(data, steps=1).steps == 3


def test_ctrl_c_ends_an_evaluation_and_a_text(models, data, tmp_path):
    add_tokenizer(tmp_path / "m", models["gpt2"])
    with hetmem.Trainer(tmp_path / "m", **RUN) as trainer:
        many = np.zeros((200_000, 34), np.int32)
        # Without an end in sight: the batches of the first, the tokens of the second take minutes.
        for call in (lambda: trainer.evaluate(many),
                     lambda: [trainer.generate("a", max_new_tokens=60) for _ in range(100_000)]):
            started = threading.Event()
            interrupted(lambda: (started.set(), call()), started)
            assert np.isfinite(trainer.evaluate(many[:2]))
        assert trainer.steps_done == 0


def test_a_run_stays_in_its_folder_when_the_process_goes_to_another(models, data, tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with hetmem.Trainer(models["gpt2"], out="runs/o", save_steps=1, batch_size=2, sequence_length=33) as trainer:
        result = trainer.train(data, steps=3, callbacks=lambda _: os.chdir(tmp_path / "there"))
        trainer.train(data, steps=1)
    assert result.out == "runs/o" and not list((tmp_path / "there").iterdir())
    written = {path.name for path in (tmp_path / "here" / "runs" / "o").iterdir()}
    assert written >= {"checkpoint-3", "checkpoint-4", "final", "report.html", "access_trace.json"}


def test_paths_are_those_of_where_the_trainer_was_made(models, data, tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    add_tokenizer(tmp_path / "here" / "m", models["llama"])
    (tmp_path / "here" / "m" / "generation_config.json").write_text('{"temperature": 0.5}')
    (tmp_path / "here" / "t.txt").write_text("some text " * 400)
    (tmp_path / "here" / "d").mkdir()
    write_tokens(tmp_path / "here" / "d.bin", np.arange(2000) % 257)
    monkeypatch.chdir(tmp_path / "here")
    given = dict(data="d.bin", eval_data=["d.bin", "t.txt"], out="o", trace="t.json", disk="d",
                 disk_memory="64MiB", steps=3)
    with hetmem.Trainer("m", **given, **RUN) as trainer:
        monkeypatch.chdir(tmp_path / "there")
        trainer.save(tmp_path / "saved")
        assert {"tokenizer.json", "generation_config.json"} <= {f.name for f in (tmp_path / "saved").iterdir()}
        assert np.isfinite(trainer.evaluate(tmp_path / "here" / "t.txt"))
        assert isinstance(trainer.generate("some", max_new_tokens=2), str)
        assert trainer.train().out == "o"
        assert {name: trainer.options[name] for name in ("model", "data", "out", "disk")} == {
            "model": ["m"], "data": ["d.bin"], "out": ["o"], "disk": ["d"]}
        trainer.train("../here/t.txt", steps=1)
        assert "'m'" in repr(trainer)
    assert not list((tmp_path / "there").iterdir()) and not list((tmp_path / "here" / "d").iterdir())
    assert (tmp_path / "here" / "t.json").exists()
    assert (tmp_path / "here" / "o" / "final" / "tokenizer.json").exists()
    lines = (tmp_path / "here" / "o" / "config.yaml").read_text().splitlines()
    assert {"model: m", "out: o", "disk: d", "trace: t.json"} <= set(lines)


def test_a_fork_is_refused_and_ends_well(models, data):
    done = python("""
import os, sys, hetmem
trainer = hetmem.Trainer(sys.argv[1], batch_size=2, sequence_length=33)
batch = next(trainer.batches(hetmem.load_tokens(sys.argv[2])))
first = trainer.step(batch).loss
child = os.fork()
if child == 0:
    trainer.close()  # as at the end of a `with` block
    for call in (lambda: trainer.step(batch), lambda: trainer.plan,
                 lambda: trainer.parameters()["transformer.ln_f.weight"]):
        try:
            call()
        except RuntimeError as error:
            print("child:", error, flush=True)
    with hetmem.Trainer(sys.argv[1], batch_size=2, sequence_length=33) as own:
        print("own:", own.step(batch).loss == first, flush=True)
    sys.exit(7)  # the trainer of the parent is let go of
_, status = os.waitpid(child, 0)
print("status:", os.waitstatus_to_exitcode(status), "parent:", trainer.step(batch).step)
""", models["gpt2"], data)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum("was made by process" in line and "spawn" in line for line in lines) == 3, lines
    assert lines[-2:] == ["own: True", "status: 7 parent: 2"]


def test_nothing_is_left_of_200_trainers(models, data):
    done = python("""
import gc, os, sys, hetmem

def held():
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1])
    return (pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/task")),
            len(os.listdir("/proc/self/fd")))

def cycle(closed):
    trainer = hetmem.Trainer(sys.argv[1], batch_size=2, sequence_length=33, device_memory="2MiB",
                             host_memory="2MiB")
    trainer.step(next(trainer.batches(stream)))
    if closed: trainer.close()

stream = hetmem.load_tokens(sys.argv[2])
for i in range(40): cycle(i % 2)
before = held()
for i in range(200): cycle(i % 2)
after = held()
print((after[0] - before[0]) / 200, after[1] - before[1], after[2] - before[2])
""", models["gpt2"], data)
    assert done.returncode == 0, done.stderr
    grown, threads, files = map(float, done.stdout.split())
    # One trainer holds about 2 MiB; the allocator's own wandering is some KiB.
    assert (threads, files) == (0, 0)
    assert grown < 8 << 10, grown


def test_generate_is_that_of_the_command_line(models, data, tmp_path):
    add_tokenizer(tmp_path / "m", models["llama"])
    flags = ["--prompt", "hello", "--max-new-tokens", 20, "--seed", 3]
    options = dict(max_new_tokens=20, seed=3)

    def of_command(folder):
        return command("generate", "--model", folder, *flags).stdout.removesuffix("\n")

    assert hetmem.generate(tmp_path / "m", "hello", **options) == of_command(tmp_path / "m")
    with hetmem.Trainer(tmp_path / "m", **(RUN | {"learning_rate": 0.05}), **TIGHT) as trainer:
        before = trainer.generate("hello", **options)
        assert before == of_command(tmp_path / "m")
        trainer.train(data, steps=5)
        after = trainer.generate("hello", **options)
        trainer.save(tmp_path / "tuned")
        assert after == of_command(tmp_path / "tuned") != before
        with pytest.raises(hetmem.OutOfBudget, match="device-memory"):
            trainer.generate("hello", device_memory=1000)
        with pytest.raises(ValueError, match="temperature"):
            trainer.generate("hello", temperature=-1)


def test_tokenizer_and_text(models, tmp_path):
    from tokenizers import Tokenizer

    add_tokenizer(tmp_path / "m", models["llama"])
    theirs = Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    ours = hetmem.Tokenizer(tmp_path / "m")
    text = "def main():\n    return 'zwölf ☃'"
    ids = ours.encode(text)
    assert ids.dtype == np.int32 and ids.tolist() == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids) == text and len(ours) == theirs.get_vocab_size()
    assert ours.decode(ids[-2:-1]) != "" and ours.token_to_id("a") == theirs.token_to_id("a")
    (tmp_path / "texts").mkdir()
    for name in ("b.txt", "a.txt", "skipped.md"):
        (tmp_path / "texts" / name).write_text(text + name)
    stream = hetmem.load_tokens(tmp_path / "texts", model=tmp_path / "m", glob="*.txt")
    done = command("tokenize", "--model", tmp_path / "m", tmp_path / "texts", "--data-glob", "*.txt",
                   "-o", tmp_path / "t.bin")
    assert done.returncode == 0, done.stderr
    assert np.array_equal(stream[:], hetmem.load_tokens(tmp_path / "t.bin")[:])
    temporary = stream.files[0]
    assert os.path.exists(temporary)
    del stream
    gc.collect()
    assert not os.path.exists(temporary)
