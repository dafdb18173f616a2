"""Keywords as the options of the command line: one table, which the compiled part holds, has their
names, defaults, help and validation."""

from __future__ import annotations

import inspect
import os
from typing import Any, Iterable, Mapping, Sequence, TypedDict, Union

from hetmem import _hetmem

Path = Union[str, "os.PathLike[str]"]
Size = Union[str, int]


class MachineOptions(TypedDict, total=False):
    """Types of the keywords that say what is computed and with what memory; None: not given."""

    from_scratch: bool | None
    freeze: str | None
    batch_size: int | None
    sequence_length: int | None
    gradient_accumulation_steps: int | None
    seed: int | None
    learning_rate: float | None
    lr_scheduler_type: str | None
    warmup_steps: float | None
    min_lr_ratio: float | None
    decay_steps: float | None
    optimizer: str | None
    momentum: float | None
    weight_decay: float | None
    adam_beta1: float | None
    adam_beta2: float | None
    adam_epsilon: float | None
    max_grad_norm: float | None
    optimizer_overlap: str | bool | None
    on_nonfinite: str | None
    deepspeed: Path | None
    device: str | None
    device_memory: Size | None
    host_memory: Size | None
    disk: Path | Sequence[Path] | None
    disk_memory: Size | None
    encrypt_disk: bool | None
    compute_dtype: str | None
    machine: Path | None
    threads: int | None


class RunOptions(TypedDict, total=False):
    """Types of the keywords that say how long a run is and what it writes."""

    steps: int | None
    epochs: float | None
    eval_steps: int | None
    shuffle: bool | None
    out: Path | None
    overwrite_output_dir: bool | None
    save_steps: int | None
    save_total_limit: int | None
    resume_from_checkpoint: Path | None
    log_format: str | None
    tensorboard: bool | None
    trace: Path | None


class PlanOptions(MachineOptions, RunOptions, total=False):
    """Types of the keywords of plan: the flags of `hetmem plan`, and those of `train` that change no
    plan."""


class TrainOptions(PlanOptions, total=False):
    """Types of the keywords of Trainer: the flags of `hetmem train`."""

    data: Path | Sequence[Path] | None
    eval_data: Path | Sequence[Path] | None
    data_glob: str | None


class GenerateOptions(TypedDict, total=False):
    """Types of the keywords of generate: the flags of `hetmem generate`."""

    max_new_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    threads: int | None
    device: str | None
    device_memory: Size | None


def option_table(command: str = "train") -> list[dict[str, Any]]:
    """The options of a command, as its `--help` has them.

    Args:
        command: "train" (whose options Trainer and plan take as keywords) or "generate".

    Returns:
        A dict for each option: name (with '-'), group, value (what it looks like; empty for a
        switch), default (as text), help, many (takes a list), train_only (says nothing to plan).
    """
    tables = {"train": _hetmem.train_options, "generate": _hetmem.generate_options}
    if command not in tables:
        raise ValueError(f"there is no table of options of {command!r}; give one of {sorted(tables)}")
    return tables[command]()


def text_of(value: Any) -> str:
    """A value as the command line would have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
        if isinstance(text, str):
            text.encode()  # refuses surrogates, which UTF-8 does not have
            return text
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a number of NumPy
        return text_of(value.item())
    if isinstance(value, (int, float)):
        return repr(value)
    raise TypeError(f"{value!r} of type {type(value).__name__} is no value of an option")


def values_of(options: Mapping[str, Any]) -> dict[str, list[str]]:
    """Keywords as named texts. None stands for an option that is not given."""
    values: dict[str, list[str]] = {}
    for name, value in options.items():
        if value is None:
            continue
        try:
            many = isinstance(value, Iterable) and not isinstance(value, (str, bytes))
            many = many and getattr(value, "ndim", 1) > 0
            values[name] = [text_of(item) for item in value] if many else [text_of(value)]
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        except UnicodeEncodeError as error:
            raise ValueError(f"{name}: {error}") from None
    return values


def known(values: dict[str, list[str]], command: str) -> dict[str, list[str]]:
    """The values, if each is of an option of the command.

    Raises:
        ValueError: one is not; the message names the option that is nearest.
    """
    names = {row["name"] for row in option_table(command)}
    if command == "train":
        names |= set(_hetmem.later_options())  # which are refused in other words
    names = {name.replace("-", "_") for name in names}
    for name in (given.replace("-", "_") for given in values):
        if name in names:
            continue
        near = _hetmem.nearest_name(name, sorted(names))
        hint = f"did you mean {near}? " if near else ""
        table = "" if command == "train" else f'"{command}"'
        raise ValueError(f'unknown option "{name}"; {hint}hetmem.option_table({table}) lists them')
    return values


def configured(config: Path | Mapping[str, Any] | None, options: Mapping[str, Any]) -> dict[str, list[str]]:
    """values_of() keywords over those of a configuration: a YAML file of options, or a mapping."""
    if config is None:
        return known(values_of(options), "train")
    if isinstance(config, Mapping):
        for name in config:
            if not isinstance(name, str):
                raise TypeError(f"config: {name!r} of type {type(name).__name__} is no name of an option")
        names: dict[str, list[str]] = {name.replace("_", "-"): [] for name in config}
        if len(names) < len(config):
            raise ValueError("config gives an option twice, with _ and with -; give it once")
        known(names, "train")  # those of None, too
        given = {name.replace("_", "-"): texts for name, texts in values_of(config).items()}
    else:
        given = _hetmem.read_config_file(os.fspath(config))
    own = {name.replace("_", "-"): texts for name, texts in values_of(options).items()}
    return known(given | own, "train")


def signature_of(positional: list[str], command: str, optional: Iterable[str] = (),
                 but: str = "") -> inspect.Signature:
    """What help() and editors show of a function that takes the options of a command, and
    `optional` ones; without those of the group `but`."""
    kinds = inspect.Parameter
    parameters = [kinds(name, kinds.POSITIONAL_OR_KEYWORD, default=None if optional else kinds.empty)
                  for name in positional]
    names = [option["name"].replace("-", "_") for option in option_table(command) if option["group"] != but]
    for name in [*optional, *names]:
        if name not in positional:
            parameters.append(kinds(name, kinds.KEYWORD_ONLY, default=None))
    return inspect.Signature(parameters)


def options_text(command: str) -> str:
    """The options of a command for a docstring, from the table."""
    lines = []
    for option in option_table(command):
        name = option["name"].replace("-", "_")
        shown = f" [{option['default']}]" if option["default"] else ""
        what = option["value"] or "true|false"
        lines.append(f"        {name}: {what}. {option['help'] or 'as PyTorch has it'}{shown}")
    return "\n".join(lines)
