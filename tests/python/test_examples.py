"""The examples and the tutorial run, and what they claim holds."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import BINARY, ROOT

ENVIRONMENT = os.environ | {"PYTHONPATH": str(pathlib.Path(BINARY).parent / "python")}


def run(*words, **more):
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=600,
                          env=ENVIRONMENT, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_fine_tune():
    first, last = map(float, re.search(r"loss (\S+) at first, (\S+) at last",
                                       run(ROOT / "examples" / "fine_tune.py")).groups())
    assert abs(first - 5.549) < 0.2  # log(257): nothing is known yet
    assert last < first - 1


def test_plan_7b():
    lines = run(ROOT / "examples" / "plan_7b.py").splitlines()
    assert len(lines) == 3
    by_name = {line.split(":")[0]: line for line in lines}
    # 16 bytes for each of 6.7e9 parameters are 107 GB: more than 64 GB of host memory.
    assert "does not fit" in by_name["rtx4090-64gb"]
    for name in ("a100-80gb-512gb", "h100-1tb"):
        assert "limited by" in by_name[name]


def test_every_example_is_here():
    here = pathlib.Path(__file__).read_text()
    for path in (ROOT / "examples").glob("*.py"):
        assert path.name == "tiny_model.py" or f'"{path.name}"' in here, path.name  # which the others use


def test_resume_smaller():
    assert "the same losses, bit for bit: True" in run(ROOT / "examples" / "resume_smaller.py")


def test_tutorial(tmp_path):
    cells = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    run("-c", "\n\n".join(code), cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_links_of_the_pages():
    """Every relative link of a page leads to a file of the checkout and to a heading that is there."""
    def anchors(page):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
                for title in re.findall(r"^#+ (.*)$", text, re.M)}

    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), (page.name, link)
            if anchor:
                assert anchor in anchors(target), (page.name, link)


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    pytest.importorskip("mkdocs")
    run("-m", "mkdocs", "build", "--quiet", "--site-dir", tmp_path / "site", cwd=ROOT)
    assert "batch-size" in (tmp_path / "site" / "command-line.html").read_text()
    assert "set_budget" in (tmp_path / "site" / "api" / "python.html").read_text()
    assert "class Trainer" in re.sub(
        r"<[^>]*>", "", (tmp_path / "site" / "api" / "cpp-runtime.html").read_text())
