"""Names and defaults of the options: the contract, the command line and Python agree; and what the
package says of itself is complete."""

import ast
import inspect
import pathlib
import re
import typing

import hetmem
import pytest
from conftest import hetmem as command
from hetmem._options import GenerateOptions, PlanOptions, TrainOptions

# The table of the contract: flag -> default, as its page has it; None where it gives none.
CONTRACT = {
    "model": None, "from-scratch": "off", "data": None, "eval-data": "none", "data-glob": None,
    "out": "runs/<time>", "overwrite-output-dir": "off", "device": "auto", "device-memory": "auto",
    "host-memory": "auto", "disk-memory": "0", "disk": "none", "encrypt-disk": "off",
    "batch-size": "4", "sequence-length": "min(1024, model)",
    "gradient-accumulation-steps": "1", "steps": None, "epochs": "1", "eval-steps": "0",
    "freeze": "none", "learning-rate": "5e-5", "lr-scheduler-type": "linear", "warmup-steps": "0",
    "min-lr-ratio": "0", "decay-steps": "10 %", "optimizer": "adamw", "momentum": "0.9",
    "compute-dtype": "auto", "weight-decay": "0", "adam-beta1": "0.9", "adam-beta2": "0.999",
    "adam-epsilon": "1e-8", "max-grad-norm": "1.0", "optimizer-overlap": "on", "shuffle": "true", "seed": "42",
    "save-steps": "0", "save-total-limit": "2", "resume-from-checkpoint": "none",
    "on-nonfinite": "stop", "machine": "measured", "deepspeed": "none", "tensorboard": "off",
    "log-format": "auto", "trace": "none", "threads": "all",
}
# Those of the table that this version does not serve.
LATER = {"activations": "auto", "allow-lossy": "false", "error-bound": "adaptive"}
GENERATE = {"model": None, "prompt": None, "max-new-tokens": None, "temperature": None, "top-p": None,
            "seed": None, "threads": None, "device": None, "device-memory": None}


def keywords(function):
    return {name.replace("_", "-") for name in inspect.signature(function).parameters}


def shown_by_help(name):
    """flag -> (what its value looks like, help with the default)"""
    text = command(name, "--help").stdout
    found = re.findall(r"^  --([a-z0-9-]+)(?: (\S+))?(.*(?:\n {20,}\S.*)*)", text, re.M)
    return {flag: (value, " ".join(rest.split())) for flag, value, rest in found}


@pytest.mark.parametrize("name,contract", [("train", CONTRACT), ("generate", GENERATE)])
def test_the_tables_are_the_contract(name, contract):
    table = {row["name"]: row for row in hetmem.option_table(name)}
    later = hetmem._hetmem.later_options() if name == "train" else {}
    # What a version does not serve yet is named as such, until it is: then it moves to the contract's.
    assert set(table) == set(contract)
    assert set(later) == (set(LATER) if name == "train" else set())
    for flag, default in contract.items():
        if default is not None:
            assert table[flag]["default"] == default, flag
    for flag, default in later.items():
        assert LATER[flag] == default


@pytest.mark.parametrize("name", ["train", "generate"])
def test_help_shows_the_table(name):
    shown = shown_by_help(name)
    for row in hetmem.option_table(name):
        value, text = shown.pop(row["name"])
        default = f"[{row['default']}]" if row["default"] else ""
        assert text.endswith(" ".join(f"{row['help']} {default}".split())), row["name"]
        assert value == row["value"] or not row["value"]
    assert set(shown) <= {"help", "config"}


def test_keywords_are_the_table():
    train = {row["name"] for row in hetmem.option_table()}
    data = {row["name"] for row in hetmem.option_table() if row["group"] == "Data"}
    assert data == {"data", "eval-data", "data-glob"}  # they "belong to `train` alone"
    assert keywords(hetmem.Trainer) == train | {"config"}
    assert keywords(hetmem.plan) == train - data | {"config"}
    assert keywords(hetmem.generate) == {row["name"] for row in hetmem.option_table("generate")}
    typed = {name.replace("_", "-") for name in TrainOptions.__annotations__}
    assert typed == train - {"model"}
    typed = {name.replace("_", "-") for name in PlanOptions.__annotations__}
    assert typed == train - data - {"model"}
    typed = {name.replace("_", "-") for name in GenerateOptions.__annotations__}
    assert typed == keywords(hetmem.generate) - {"model", "prompt"}


@pytest.mark.parametrize("options", [TrainOptions, PlanOptions, GenerateOptions])
def test_every_keyword_may_be_none(options):
    for name, kinds in typing.get_type_hints(options).items():
        assert type(None) in typing.get_args(kinds), name


def test_the_stub_is_the_module():
    """Every name and every method, none more."""
    compiled = hetmem._hetmem
    stub = ast.parse(pathlib.Path(hetmem.__file__).with_name("_hetmem.pyi").read_text())
    named = {node.name: node for node in stub.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    assert set(named) == {name for name in vars(compiled) if not name.startswith("_")}
    for name, node in named.items():
        if isinstance(node, ast.ClassDef):
            methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)} - {"__init__"}
            assert methods == {name for name in vars(getattr(compiled, name)) if not name.startswith("_")}


def test_everything_public_says_what_it_is():
    for name in set(hetmem.__all__) - {"__version__"}:
        thing = getattr(hetmem, name)
        assert thing.__doc__, name
        for method, function in vars(thing).items() if inspect.isclass(thing) else [(name, thing)]:
            if method.startswith("_") or not inspect.isfunction(function):
                continue
            assert function.__doc__ or method in ("keys", "values", "items"), (name, method)
            arguments = set(inspect.getfullargspec(function).args) - {"self"}
            assert arguments | {"return"} <= set(function.__annotations__), (name, method)


def test_docstrings_show_the_table():
    for function, name in ((hetmem.Trainer, "train"), (hetmem.generate, "generate")):
        for row in hetmem.option_table(name):
            assert f"{row['name'].replace('-', '_')}: {row['value'] or 'true|false'}" in function.__doc__
