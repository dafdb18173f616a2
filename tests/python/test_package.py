"""An installed hetmem serves find_package(hetmem): a small program is built against it and run."""

import math
import os
import subprocess

from conftest import BINARY, CONFIGS, ROOT, VOCABULARY, make_model


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_installed_hetmem_is_found(models, tmp_path):
    build = BINARY.rsplit("/", 1)[0]
    run("cmake", "--install", build, "--prefix", tmp_path / "prefix")
    run("cmake", "-S", ROOT / "tests" / "consumer", "-B", tmp_path / "build", "-G", "Ninja",
        f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}", "-DCMAKE_BUILD_TYPE=Release")
    run("cmake", "--build", tmp_path / "build")
    parameters, loss = run(tmp_path / "build" / "consumer", models["llama"]).split()
    assert int(parameters) == sum(p.numel() for p in make_model(CONFIGS["llama"]()).parameters())
    assert abs(float(loss) - math.log(VOCABULARY)) < 1  # random weights: near uniform
    assert run(tmp_path / "prefix" / "bin" / "hetmem", "--version").startswith("hetmem 0.1.0")


def test_the_slow_tests_have_what_they_need():
    """One of them builds the site, and would be skipped where nothing does."""
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    lines = subprocess.run(["make", "-n", "test-slow"], cwd=ROOT, env=environment, capture_output=True,
                           text=True, check=True).stdout
    before = lines[:lines.index("pytest -q -m slow")]
    assert "scripts/make_venv.sh test\n" in before and "scripts/make_venv.sh docs\n" in before


def test_layers():
    run("python3", ROOT / "scripts" / "layers.py")
