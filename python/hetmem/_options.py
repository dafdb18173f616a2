"""Keywords as the options of the command line: one table, which the compiled part holds, has their
names, defaults, help and validation."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any, Iterable, Mapping, Sequence, TypedDict, Union

from hetmem import _hetmem

if TYPE_CHECKING:
    Path = Union[str, "os.PathLike[str]"]
    Size = Union[str, int]


class MachineOptions(TypedDict, total=False):
    """Types of the keywords that say what is computed and with what memory."""

    from_scratch: bool
    freeze: str
    batch_size: int
    sequence_length: int
    gradient_accumulation_steps: int
    seed: int
    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: float
    min_lr_ratio: float
    decay_steps: float
    optimizer: str
    momentum: float
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    max_grad_norm: float
    optimizer_overlap: str
    on_nonfinite: str
    deepspeed: Path
    device: str
    device_memory: Size
    host_memory: Size
    disk: Path | Sequence[Path]
    disk_memory: Size
    encrypt_disk: bool
    compute_dtype: str
    machine: Path
    threads: int


class RunOptions(TypedDict, total=False):
    """Types of the keywords that say how long a run is and what it writes."""

    steps: int
    epochs: float
    eval_steps: int
    shuffle: bool
    out: Path
    overwrite_output_dir: bool
    save_steps: int
    save_total_limit: int
    resume_from_checkpoint: Path
    log_format: str
    tensorboard: bool
    trace: Path


class PlanOptions(MachineOptions, RunOptions, total=False):
    """Types of the keywords of plan: the flags of `hetmem plan`, and those of `train` that change no
    plan."""


class TrainOptions(PlanOptions, total=False):
    """Types of the keywords of Trainer: the flags of `hetmem train`."""

    data: Path | Sequence[Path]
    eval_data: Path | Sequence[Path]
    data_glob: str


class GenerateOptions(TypedDict, total=False):
    """Types of the keywords of generate: the flags of `hetmem generate`."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    threads: int
    device: str
    device_memory: Size


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
        return os.fspath(value)
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
    return values


def configured(config: Path | Mapping[str, Any] | None, options: Mapping[str, Any]) -> dict[str, list[str]]:
    """values_of() keywords over those of a configuration: a YAML file of options, or a mapping."""
    if config is None:
        return values_of(options)
    if isinstance(config, Mapping):
        given = {name.replace("_", "-"): texts for name, texts in values_of(config).items()}
        if len(given) < len(config):
            raise ValueError("config gives an option twice, with _ and with -; give it once")
    else:
        given = _hetmem.read_config_file(os.fspath(config))
    return given | {name.replace("_", "-"): texts for name, texts in values_of(options).items()}


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
