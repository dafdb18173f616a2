"""What calls give back: plans, and reports of steps and runs. Plain values, shown as text and, in a
notebook, with the tiers as bars."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Iterator, Mapping


def size_text(count: float) -> str:
    """Bytes for people: 1.50 GiB."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(count) >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{int(count)} B"


@dataclass(frozen=True)
class Tier:
    """A memory during a step, in bytes: its hard budget, the peak, and the peak by kind of use
    (weights, gradients, optimizer, activations_saved, activations_temporary, staging, workspace)."""

    budget: int
    peak: int
    by_kind: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Tier(peak={size_text(self.peak)}, budget={size_text(self.budget)})"

    def _repr_html_(self) -> str:
        return bars_html({"": self})


@dataclass(frozen=True)
class Memory:
    """The three tiers. Also a mapping: memory["device"] is memory.device."""

    device: Tier
    host: Tier
    disk: Tier

    @classmethod
    def of(cls, tiers: Mapping[str, Mapping[str, Any]]) -> Memory:
        return cls(**{name: Tier(tier["budget"], tier["peak"], dict(tier.get("by_kind", {})))
                      for name, tier in tiers.items()})

    def __getitem__(self, name: str) -> Tier:
        if name not in ("device", "host", "disk"):
            raise KeyError(name)
        tier: Tier = getattr(self, name)
        return tier

    def __iter__(self) -> Iterator[str]:
        return iter(("device", "host", "disk"))

    def __len__(self) -> int:
        return 3

    def keys(self) -> tuple[str, ...]:
        return tuple(self)

    def values(self) -> tuple[Tier, ...]:
        return tuple(self[name] for name in self)

    def items(self) -> tuple[tuple[str, Tier], ...]:
        return tuple((name, self[name]) for name in self)

    def __repr__(self) -> str:
        used = [f"{name}={size_text(tier.peak)} of {size_text(tier.budget)}"
                for name, tier in self.items() if tier.budget or tier.peak]
        return f"Memory({', '.join(used)})"

    def _repr_html_(self) -> str:
        return bars_html(dict(self.items()))


@dataclass(frozen=True)
class Traffic:
    """Bytes that a step moves between the tiers."""

    to_device: int
    to_host: int
    disk_read: int = 0
    disk_write: int = 0

    def __repr__(self) -> str:
        moved = [f"{name}={size_text(count)}" for name, count in asdict(self).items() if count]
        return f"Traffic({', '.join(moved)})"

    def _repr_html_(self) -> str:
        rows = "".join(f'<tr><td style="text-align:left">{name.replace("_", " ")}</td>'
                       f"<td>{size_text(count)}</td></tr>" for name, count in asdict(self).items())
        return f"<table>{rows}</table>"


@dataclass(frozen=True)
class StepResult:
    """An optimizer step.

    Attributes:
        step: its number, from 1.
        loss: mean over the label tokens of the whole batch, before the step. Exact: the double that
            the command line writes into metrics.jsonl.
        grad_norm: global norm before clipping.
        learning_rate: that the step was taken with.
        tokens: label tokens of the batch.
        seconds: wall time.
        skipped: loss or gradient was not finite and on_nonfinite is "skip"; the weights are as before.
        memory: peak and budget of each tier during the step.
        traffic: bytes moved.
        exposed_copy_seconds: how long compute stood still for a copy.
        fraction_of_bound: the plan's lower bound over the seconds.
    """

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    seconds: float
    skipped: bool
    memory: Memory
    traffic: Traffic
    exposed_copy_seconds: float
    fraction_of_bound: float

    @classmethod
    def of(cls, report: dict[str, Any]) -> StepResult:
        return cls(**(report | {"memory": Memory.of(report["memory"]),
                                "traffic": Traffic(**report["traffic"])}))

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """The object of metrics.jsonl (None for null), with the tiers by kind."""
        line = asdict(self) | {"tokens_per_second": self.tokens_per_second}
        for name, value in line.items():
            if isinstance(value, float) and not math.isfinite(value):
                line[name] = None
        if self.skipped:
            line["loss"] = None
        else:
            del line["skipped"]
        return line

    def __repr__(self) -> str:
        skipped = ", skipped" if self.skipped else ""
        return (f"StepResult(step={self.step}, loss={self.loss:.6g}, grad_norm={self.grad_norm:.4g}, "
                f"learning_rate={self.learning_rate:.3g}, {self.tokens_per_second:.0f} tokens/s, "
                f"{self.memory!r}{skipped})")

    def _repr_html_(self) -> str:
        return (f"<div><b>step {self.step}</b> &nbsp; loss {self.loss:.4f} &nbsp; "
                f"norm {self.grad_norm:.3f} &nbsp; {self.tokens_per_second:.0f} tokens/s</div>"
                + self.memory._repr_html_())


@dataclass(frozen=True)
class EvalResult:
    """An evaluation during train(): the mean loss over the evaluation data after `step` steps."""

    step: int
    eval_loss: float

    def __repr__(self) -> str:
        return f"EvalResult(step={self.step}, eval_loss={self.eval_loss:.6g})"

    def _repr_html_(self) -> str:
        return f"<div><b>step {self.step}</b> &nbsp; eval loss {self.eval_loss:.4f}</div>"


@dataclass(frozen=True)
class TrainResult:
    """What train() did.

    Attributes:
        steps: steps that the trainer has taken, those of before included.
        loss: of the last step.
        losses: of each step of this call.
        eval_losses: (step, loss) of each evaluation.
        interrupted: a callback ended it before its last step.
        out: the folder that was written, or None.
    """

    steps: int
    loss: float
    losses: list[float]
    eval_losses: list[tuple[int, float]]
    interrupted: bool
    out: str | None

    def __repr__(self) -> str:
        fell = f"{self.losses[0]:.4f} -> {self.loss:.4f}" if self.losses else "none"
        out = f", out={self.out!r}" if self.out else ""
        return f"TrainResult(steps={self.steps}, loss {fell}{out})"

    def _repr_html_(self) -> str:
        from html import escape  # where it is used: it takes its time to import

        return f"<div>{escape(repr(self))}</div>{curve_html(self.losses)}"


class Plan:
    """What a run would take, or takes: made before anything runs.

    Attributes:
        fits: whether the peaks are within the budgets.
        parameters: of the model.
        tiers: Memory; the predicted peak of each tier, by kind, in bytes.
        step_seconds: predicted time of a step; None where it does not fit.
        lower_bound_seconds: what no order of the plan's work can beat on this machine.
        limited_by: what shortens a step most where it is twice as fast ("compute", "copies to the
            device", ...).
        smallest_device_memory: bytes, given the other budgets; None where none is enough.
        traffic: bytes that a step moves.
        rates_from: "measured", "file" or "assumed".
    """

    def __init__(self, text: str, shown: str):
        self._object: dict[str, Any] = json.loads(text)
        self._shown = shown
        self.fits: bool = self._object["fits"]
        self.parameters: int = self._object["parameters"]
        self.tiers = Memory.of(self._object["tiers"])
        self.step_seconds: float | None = self._object["step_seconds"]
        self.lower_bound_seconds: float = self._object["lower_bound_seconds"]
        self.limited_by: str = self._object["limited_by"]
        self.smallest_device_memory: int | None = self._object["smallest_device_memory"]
        self.traffic = Traffic(**self._object["traffic"])
        self.rates_from: str = self._object["rates_from"]

    def to_dict(self) -> dict[str, Any]:
        """The object that `hetmem plan --json` prints."""
        copy: dict[str, Any] = json.loads(json.dumps(self._object))
        return copy

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self._object == other._object

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self._shown.rstrip("\n")

    def __repr__(self) -> str:
        if not self.fits:
            least = self.smallest_device_memory
            return (f"Plan(fits=False, {self.tiers!r}, smallest_device_memory="
                    f"{size_text(least) if least is not None else None})")
        return (f"Plan(fits=True, {self.tiers!r}, step_seconds={self.step_seconds:.3g}, "
                f"limited_by={self.limited_by!r})")

    def _repr_html_(self) -> str:
        from html import escape

        verdict = (f"fits; a step takes about {self.step_seconds:.3g} s, limited by {self.limited_by}"
                   if self.fits else "does not fit")
        return (f"<div><b>{self.parameters / 1e6:.1f} M parameters</b>: {escape(verdict)}</div>"
                + self.tiers._repr_html_())


COLOURS = {
    "weights": "#4e79a7", "gradients": "#f28e2b", "optimizer": "#59a14f",
    "activations_saved": "#e15759", "activations_temporary": "#ff9da7", "staging": "#9c755f",
    "workspace": "#bab0ac",
}


def bars_html(tiers: Mapping[str, Tier]) -> str:
    """A bar for each tier that is used: its budget, filled by kind of use."""
    rows = []
    for name, tier in tiers.items():
        whole = max(tier.budget, tier.peak, sum(tier.by_kind.values()))
        if whole == 0:
            continue
        parts = "".join(
            f'<div title="{kind.replace("_", " ")}: {size_text(count)}" '
            f'style="width:{100 * count / whole:.2f}%;background:{COLOURS.get(kind, "#888")}"></div>'
            for kind, count in tier.by_kind.items() if count)
        rows.append(
            f'<tr><td style="text-align:left">{name}</td><td><div style="display:flex;width:320px;'
            f'height:14px;background:#eee">{parts}</div></td><td style="text-align:left">'
            f"{size_text(tier.peak)} of {size_text(tier.budget)}</td></tr>")
    used = {kind for tier in tiers.values() for kind, count in tier.by_kind.items() if count}
    legend = " ".join(
        f'<span style="color:{colour}">&#9632;</span> {kind.replace("_", " ")}'
        for kind, colour in COLOURS.items() if kind in used)
    return f"<table>{''.join(rows)}</table><div><small>{legend}</small></div>"


def curve_html(losses: list[float]) -> str:
    """The losses as a line."""
    finite = [(i, loss) for i, loss in enumerate(losses) if loss == loss]
    if len(finite) < 2:
        return ""
    low, high = min(loss for _, loss in finite), max(loss for _, loss in finite)
    points = " ".join(
        f"{320 * i / (len(losses) - 1):.1f},{4 + 72 * (high - loss) / ((high - low) or 1):.1f}"
        for i, loss in finite)
    return (f'<svg width="320" height="80" role="img" aria-label="loss by step"><polyline '
            f'points="{points}" fill="none" stroke="#4e79a7" stroke-width="1.5"/></svg>')
