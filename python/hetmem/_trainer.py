"""Trainer and what stands beside it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Callable, Iterator, Union

import numpy as np

from hetmem import _hetmem
from hetmem._data import (Tokens, absolute, are_paths, data_paths, load_tokens, named, numpy_of, text_given,
                          token_array, token_stream)
from hetmem._options import configured, known, options_text, signature_of, values_of
from hetmem._results import EvalResult, Plan, StepResult, TrainResult, size_text

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from hetmem._options import GenerateOptions, PlanOptions, TrainOptions

    Path = Union[str, "os.PathLike[str]"]
    Config = Union[Path, Mapping[str, Any]]
    Callback = Callable[[Union[StepResult, EvalResult]], Union[None, bool]]


def plan(model: Path | None = None, *, config: Config | None = None,
         **options: Unpack[PlanOptions]) -> Plan:
    """Says what a run would take, without running it: reads config.json alone, allocates nothing.

    Args:
        model: a model folder; its config.json is enough.
        config: as of Trainer; what it says of data is passed over.
        **options: those of Trainer, but for `data`, `eval_data` and `data_glob`: a plan reads none.
            `machine` describes a machine that is not here.

    Returns:
        A Plan. One that does not fit says so (`fits`) and names the smallest device memory that works.

    Raises:
        ValueError: an option or the model is not what it must be.
    """
    _require_model(model, config)
    _hetmem.refuse_data_options(values_of(options))
    return Plan(*_hetmem.plan(configured(config, {"model": model, **options})))


def generate(model: Path, prompt: str, **options: Unpack[GenerateOptions]) -> str:
    """Continues a text, as `hetmem generate` does; gives the continuation alone.

    Args:
        model: a model folder.
        prompt: the text to continue.
        **options: the flags of `hetmem generate`:
{options}

    Raises:
        OutOfBudget: weights and cache are larger than device_memory.
        TypeError: the prompt is no text.
        ValueError: an option, the model or its tokenizer is not what it must be.
    """
    text_given(prompt, "prompt")
    return _hetmem.generate(known(values_of({"model": model, "prompt": prompt, **options}), "generate"))


class Parameters(Mapping[str, "NDArray[np.float32]"]):
    """The weights by the names that the model folder has for them. Reading gives a copy, float32,
    out of whatever tier the weight is in; writing puts an array of the same shape there:

        weights = trainer.parameters()
        norm = weights["model.norm.weight"]           # float32 [width]
        weights["model.norm.weight"] = 1.01 * norm
        torch.from_dlpack(norm)                       # arrays speak DLPack
        weights["model.norm.weight"] = torch_tensor   # and so may what is written
    """

    def __init__(self, trainer: _hetmem.Trainer):
        self._trainer = trainer
        self._shapes = {name: shape for name, shape, _ in trainer.tensors()}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        self.shape(name)  # KeyError where there is none
        return self._trainer.read(name)

    def __setitem__(self, name: str, value: Any) -> None:
        shape = self.shape(name)
        if str(getattr(value, "dtype", None)) == "torch.bfloat16":  # which NumPy does not have
            value = value.detach().float()
        array = numpy_of(value, name)
        if array.dtype not in (np.float32, np.float16) and array.dtype.name != "bfloat16":
            raise TypeError(f"{name} is float32; {array.dtype} is not cast to it (float16 and bfloat16 are, "
                            "exactly)")
        if array.shape != shape:
            raise ValueError(f"{name} has shape {list(shape)}, got {list(array.shape)}")
        self._trainer.write(name, np.ascontiguousarray(array, dtype=np.float32))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, without reading the weight."""
        return self._shapes[name]

    def trained(self, name: str) -> bool:
        """Whether the optimizer changes it (not: `freeze`)."""
        return {name: trained for name, _, trained in self._trainer.tensors()}[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __eq__(self, other: object) -> bool:
        """Whether they are the weights of one trainer; arrays are compared one by one."""
        return isinstance(other, Parameters) and self._trainer is other._trainer

    def __hash__(self) -> int:
        return hash(self._trainer)

    def __repr__(self) -> str:
        return f"Parameters({len(self)} weights)"


class Trainer:
    """A model, its optimizer and their memory; one call of step() is one optimizer step.

        trainer = hetmem.Trainer(model="dir", device_memory="2GiB", learning_rate=5e-5)
        result = trainer.step(tokens)                 # int32 or int64 [sequences, T + 1]
        trainer.save("tuned")

    Losses and weights depend on the model, the data and the options alone, to the last bit: neither on
    budgets nor on threads, and they are those of `hetmem train`. Without `steps` the length of the run
    is not known, and learning rates stay where the warm-up has brought them; train() sets it for the
    steps that it takes.

    Threads may share a trainer: they take turns. After a fork the child cannot use it. Ctrl-C ends a
    call after the step under way, and the trainer can go on. Memory is given back by close(), at the
    end of a `with` block, or with the last reference.

    Args:
        model: a Hugging Face folder.
        config: options in one, which the keywords win over: a mapping, or a YAML file, as `--config`
            takes it and a run leaves it (`config.yaml`). It may name the model.
        **options: the flags of `hetmem train`, sizes as text ("1.5GiB") or bytes:
{options}

    Raises:
        OutOfBudget: the budgets are too small; the message names the smallest that works.
        ValueError: an option, the model or a checkpoint is not what it must be.
        CorruptData: a checkpoint is not what was written.
        OSError: storage failed.
    """

    def __init__(self, model: Path | None = None, *, config: Config | None = None,
                 **options: Unpack[TrainOptions]):
        _require_model(model, config)
        values = configured(config, {"model": model, **options})
        resolved, notes = _hetmem.resolve(values)
        for note in notes:
            warnings.warn(note, stacklevel=2)
        for name, idle in (("save-steps", "0"), ("tensorboard", "false")):
            if resolved[name] != [idle] and resolved["out"] == [""]:
                warnings.warn(f"{name.replace('-', '_')} without out: train() writes nothing", stacklevel=2)
        self._options = resolved
        self._model = absolute(resolved["model"][0])  # options as they were given are for showing
        self._trainer = _hetmem.Trainer(values)
        for note in self._trainer.notes():
            warnings.warn(note, stacklevel=2)
        self._sequences = self._trainer.sequences_per_step()
        self._width = self._trainer.sequence_length() + 1

    @property
    def plan(self) -> Plan:
        """The plan that the next step runs on; after two steps with measured times."""
        return Plan(*self._trainer.plan())

    @property
    def steps_done(self) -> int:
        """Optimizer steps taken, skipped ones included."""
        return self._trainer.steps_done()

    @property
    def step_shape(self) -> tuple[int, int]:
        """What step() takes: (batch_size x gradient_accumulation_steps, sequence_length + 1)."""
        return (self._sequences, self._width)

    @property
    def options(self) -> dict[str, list[str]]:
        """The resolved options, as texts."""
        return self._trainer.options()

    def step(self, tokens: Any) -> StepResult:
        """Takes one optimizer step.

        Args:
            tokens: token ids, int32 or int64, of shape `step_shape`; in each row the first T are the
                inputs and the last T the labels. NumPy, DLPack, or lists of int.

        Raises:
            TypeError: the tokens are no integers.
            ValueError: they have another shape, or an id is outside the vocabulary.
            NonFinite: loss or gradient is not finite; weights, moments and counts are as before.
        """
        array = token_array(tokens, "the tokens of a step")
        if array.shape != (self._sequences, self._width):
            raise ValueError(
                f"a step takes {self._sequences} sequences of {self._width} tokens, an array "
                f"[{self._sequences}, {self._width}]; got shape {list(array.shape)}")
        return StepResult.of(self._trainer.step(array))

    def evaluate(self, data: Any) -> float:
        """The mean loss over data, without dropout; the training state stays as it is.

        Args:
            data: token ids [sequences, T + 1], any number of sequences; or what train() takes.
        """
        if not isinstance(data, Tokens) and not are_paths(data):
            array = token_array(data, "the tokens of an evaluation")
            if array.ndim == 2:
                if array.shape[1] != self._width:
                    raise ValueError(f"an evaluation takes sequences of {self._width} tokens, an array "
                                     f"[n, {self._width}]; got shape {list(array.shape)}")
                return self._trainer.evaluate(array)
        with data_paths(data, "the data of an evaluation", self._trainer.vocabulary()) as paths:
            stream = load_tokens(paths, self._model, self._options["data-glob"][0])
            return self._trainer.evaluate_files(stream.files)

    def batches(self, data: Any, steps: int | None = None, first: int = 0) -> Iterator[NDArray[np.int32]]:
        """The batches that train() takes, in its order, for step().

        Args:
            data: Tokens, or an array [n] of token ids.
            steps: how many. Default: an epoch of them.
            first: those of how many steps are left out; `steps_done` where a run is gone on with.

        Raises:
            ValueError: the data are shorter than a step, or no stream.
        """
        if are_paths(data):
            raise TypeError("batches takes tokens; hetmem.load_tokens makes them of files")
        if first < 0:
            raise ValueError(f"first is {first}; it must be a whole number of at least 0")
        if steps is not None and steps < 0:
            raise ValueError(f"steps is {steps}; it must be a whole number of at least 0")
        stream = data if isinstance(data, Tokens) else token_stream(data, "data")
        length = self._width - 1
        windows = (len(stream) - 1) // length
        if windows < self._sequences:
            raise ValueError(f"a step takes {self._sequences} sequences of {self._width} tokens; the "
                             f"data have {len(stream)} tokens")
        shuffle = self._options["shuffle"][0] == "true"
        seed = int(self._options["seed"][0])
        count = windows // self._sequences if steps is None else steps
        for step in range(first, first + count):
            taken = _hetmem.windows_of_step(windows, self._sequences, shuffle, seed, step)
            yield np.stack([stream[w * length : w * length + self._width] for w in taken])

    def train(
        self,
        data: Any = None,
        *,
        steps: int | None = None,
        epochs: float | None = None,
        eval_data: Any = None,
        eval_steps: int | None = None,
        callbacks: Callback | Iterable[Callback] = (),
        progress: bool | None = None,
    ) -> TrainResult:
        """Trains on data, as `hetmem train` does. With `out` among the trainer's options it writes what
        a run writes (metrics, checkpoints, the model), else nothing.

        Args:
            data: paths of token files, text, .jsonl or folders; Tokens; or an array [n] of token ids.
                Default: the trainer's option `data`. The data of the last call, or of the checkpoint
                that the trainer was resumed from, go on where they stopped; others begin.
            steps: further steps to take. Default: up to the trainer's option `steps`, counted from the
                run's first; a resumed trainer without that option goes to the end that the run of the
                checkpoint had.
            epochs: further passes over the data. Default: the trainer's option `epochs` [1].
            eval_data: evaluated at the end, and every `eval_steps` steps.
            callbacks: called with each StepResult and EvalResult; one that returns False ends the
                training after that step. They may use the trainer, but not train() or close() it; a
                step() of theirs takes none of the data, and is none of the further ones.
            progress: a progress bar (of tqdm where it is installed). Default: where it can be seen.

        Raises:
            KeyboardInterrupt: after Ctrl-C, when the step under way is done; with `out` a checkpoint
                is written. The trainer can go on.
            ValueError: an option or the data are not what they must be; no step is left; another run has
                written into `out` since the last call; or a resumed run is to be ended with other data
                than those of its checkpoint (with `steps` or `epochs` given here, others may follow).
            NonFinite: as of step().
            OSError: the data or `out` failed.
        """
        one = callable(callbacks) or not isinstance(callbacks, Iterable)
        calls: list[Any] = [callbacks] if one else list(callbacks)  # type: ignore[arg-type]
        if not all(map(callable, calls)):
            raise TypeError(f"callbacks are a function or several; got {named(callbacks)}")
        from_here, values = self._span(steps, epochs)
        if eval_steps is not None:
            values |= values_of({"eval-steps": eval_steps})
        losses: list[float] = []
        evaluations: list[tuple[int, float]] = []
        bar = _Progress(progress)

        def on_progress(report: Any, step: int, total: int, eval_loss: float) -> bool:
            result: StepResult | EvalResult
            if report is None:
                result = EvalResult(step, eval_loss)
                evaluations.append((step, eval_loss))
            else:
                result = StepResult.of(report)
                losses.append(result.loss)
                bar.show(result, total)
            # Every callback is told, also after one that ends the training.
            return not any([_is_false(call(result)) for call in calls])

        vocabulary = self._trainer.vocabulary()
        with ExitStack() as held:
            for name, given in (("data", data), ("eval-data", eval_data)):
                if given is not None:
                    values[name] = held.enter_context(data_paths(given, name, vocabulary))
            held.callback(bar.close)
            ended = self._trainer.train(values, from_here, on_progress)
        return TrainResult(ended["steps"], ended["loss"], losses, evaluations, ended["interrupted"],
                           ended["out"] or None)

    def _span(self, steps: Any, epochs: Any) -> tuple[bool, dict[str, list[str]]]:
        """Whether steps count from here (else from the run's first), and the options that say how many
        there are."""
        if steps is not None and epochs is not None:
            raise ValueError("steps and epochs are both given; give one")
        if steps is not None or epochs is not None:
            return True, values_of({"steps": steps, "epochs": epochs})
        own = {name: self._options[name] for name in ("steps", "epochs") if self._options[name]}
        resumed = bool(self._options["resume-from-checkpoint"][0])
        return not ("steps" in own or resumed), own

    def generate(self, prompt: str, **options: Unpack[GenerateOptions]) -> str:
        """Continues a text with the weights as they are now; gives the continuation alone.

        A copy of the weights and the cache are held beside the trainer's budgets while this runs;
        `device_memory` bounds them.

        Args:
            prompt: the text to continue; the model folder holds its tokenizer.
            **options: those of hetmem.generate; device and threads are by default the trainer's.
        """
        own = {name: self._options[name] for name in ("device", "threads") if self._options[name]}
        text_given(prompt, "prompt")
        values = values_of({"model": self._model, "prompt": prompt, **options})
        return self._trainer.generate(own | known(values, "generate"))

    def save(self, folder: Path, *, checkpoint: bool = False, overwrite: bool = False) -> None:
        """Writes a model folder, which `from_pretrained` reads. It appears complete or not at all.

        Args:
            folder: must not be there, or be empty.
            checkpoint: with optimizer state and counts, for `resume_from_checkpoint`.
            overwrite: a folder that holds what hetmem has written, and nothing else, is replaced.

        Raises:
            ValueError: the folder is there and holds something.
            OSError: storage failed; what was there is still there.
        """
        path = os.fspath(folder)
        if os.path.isdir(path) and os.listdir(path):
            foreign = _hetmem.unlisted_entry(path)
            if foreign:
                raise ValueError(f"{path} is not empty, and {foreign} in it was not written by hetmem; move "
                                 "it away or choose another folder")
            if not overwrite:
                raise ValueError(f"{path} is not empty; choose another folder, or give overwrite=True")
        self._trainer.save(path, checkpoint)

    def set_budget(self, device_memory: str | int | None = None,
                   host_memory: str | int | None = None) -> Plan:
        """Changes the budgets from the next step on; losses and weights stay the same, bit for bit.

        Args:
            device_memory: as of Trainer. Default: as it was given; `auto` stays `auto`, which is what
                is free now.
            host_memory: the same.

        Returns:
            The plan for them.

        Raises:
            OutOfBudget: they are too small; the trainer goes on with those of before.
        """
        self._trainer.set_budget(
            values_of({"device-memory": device_memory, "host-memory": host_memory}))
        return self.plan

    def parameters(self) -> Parameters:
        """The weights by name."""
        return Parameters(self._trainer)

    def close(self) -> None:
        """Gives the memory back; a closed trainer can do nothing more."""
        self._trainer.close()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _repr_html_(self) -> str:
        return self.plan._repr_html_()

    def __repr__(self) -> str:
        try:
            parameters, done = self._trainer.parameter_count(), self.steps_done
        except ValueError:
            return "Trainer(closed)"
        except RuntimeError:
            return "Trainer(of another process)"
        tiers = self.plan.tiers
        disk = f", disk {size_text(tiers.disk.budget)}" if tiers.disk.budget > 0 else ""
        return (f"Trainer({self._options['model'][0]!r}, {parameters / 1e6:.1f} M parameters, "
                f"{done} steps done, device {size_text(tiers.device.budget)}, "
                f"host {size_text(tiers.host.budget)}{disk})")


def _require_model(model: Path | None, config: Config | None) -> None:
    if model is None and config is None:
        raise TypeError("give model, a model folder, or config, options that name one")


def _is_false(answer: Any) -> bool:
    """Of Python or of NumPy; None and everything else let a training go on."""
    return isinstance(answer, (bool, np.bool_)) and not answer


class _Progress:
    """A bar of tqdm, or a line on a terminal."""

    def __init__(self, wanted: bool | None):
        seen = sys.stderr is not None and sys.stderr.isatty() or "ipykernel" in sys.modules
        self._on = seen if wanted is None else wanted
        self._bar: Any = None
        self._line = False

    def show(self, result: StepResult, total: int) -> None:
        if not self._on:
            return
        text = f"loss {result.loss:.4f}, {result.tokens_per_second:.0f} tokens/s"
        if self._bar is None and not self._line:
            self._start(total, result.step - 1)
        if self._line:
            print(f"\r\033[Kstep {result.step}/{total}: {text}", end="", file=sys.stderr, flush=True)
        else:
            self._bar.update(result.step - self._bar.n)
            self._bar.set_postfix_str(text)

    def _start(self, total: int, done: int) -> None:
        try:
            with warnings.catch_warnings():  # a notebook without widgets gets a plain bar
                warnings.simplefilter("ignore")
                from tqdm.auto import tqdm  # type: ignore[import-untyped]

                self._bar = tqdm(total=total, initial=done, unit="step")
        except ImportError:
            self._line = True

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._line:
            print(file=sys.stderr)


for _documented, _command in ((Trainer, "train"), (generate, "generate")):
    if _documented.__doc__:  # not under -OO
        _documented.__doc__ = _documented.__doc__.replace("{options}", options_text(_command))
Trainer.__signature__ = signature_of(["model"], "train", ["config"])  # type: ignore[attr-defined]
plan.__signature__ = signature_of(["model"], "train", ["config"], "Data")  # type: ignore[attr-defined]
generate.__signature__ = signature_of(["model", "prompt"], "generate")  # type: ignore[attr-defined]
