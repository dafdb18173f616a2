"""What `pip install .` installs: a wheel that holds all it needs, and runs where NumPy alone is."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import venv
import zipfile

import hetmem
import numpy
import pytest
from conftest import BINARY, ROOT, metrics, train

# It is compiled anew, which takes minutes.
pytestmark = pytest.mark.slow

RUN = dict(batch_size=2, sequence_length=33, learning_rate=1e-3, steps=3)
# What every Linux of the wheel's age has (PEP 600), and nothing else.
ASSUMED = re.compile(r"ld-linux-x86-64\.so\.2|lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so\.\d")


def run(*words, **more):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def build_wheel(source, folder, built):
    """As `pip install` does, with the build packages of this environment; nothing is downloaded, and
    nothing warns. `built`: the folder of what is compiled."""
    env = dict(os.environ)
    # With the compiler of the build: ccache, where it is, has most of it already.
    cache = (pathlib.Path(BINARY).parent / "CMakeCache.txt").read_text()
    env["CXX"] = re.search("^CMAKE_CXX_COMPILER:[A-Z]+=(.*)$", cache, re.M)[1]
    if shutil.which("ccache"):
        env["CMAKE_CXX_COMPILER_LAUNCHER"] = "ccache"
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index",
        "--disable-pip-version-check", "-C", f"build-dir={built}", "-C", "cmake.define.HETMEM_WERROR=ON",
        "-w", folder, source, env=env)
    wheels = list(folder.glob("*.whl"))
    assert len(wheels) == 1
    return wheels[0]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"), ROOT / "build-wheel")


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """bin/ of a fresh environment with the wheel and NumPy."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    for path in (numpy.__path__[0], numpy.__path__[0] + ".libs"):
        if os.path.exists(path):
            (site / os.path.basename(path)).symlink_to(path)
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder / "bin" / "python",
        "install", "--no-deps", "--no-index", wheel)
    return folder / "bin"


def elf_files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]


def dynamic(path, tag):
    return re.findall(rf"\({tag}\).*\[(.*)\]", run("readelf", "-d", path))


def test_what_it_needs_is_inside_or_assumed(unpacked):
    files = elf_files(unpacked)
    inside = {path.name for path in files}
    assert any(name.startswith("_hetmem.") for name in inside) and "hetmem" in inside
    for path in files:
        for needed in dynamic(path, "NEEDED"):
            assert needed in inside or ASSUMED.fullmatch(needed), (path.name, needed)
        for tag in ("RPATH", "RUNPATH"):
            for folders in dynamic(path, tag):
                assert all(place.startswith("$ORIGIN") for place in folders.split(":")), (path, folders)


def test_it_knows_nothing_of_where_it_was_built(unpacked):
    for path in unpacked.rglob("*"):
        if path.is_file():
            assert str(ROOT).encode() not in path.read_bytes(), path


def test_what_is_in_it(wheel, unpacked):
    assert wheel.stat().st_size < 40e6
    package = unpacked / "hetmem"
    assert (package / "py.typed").exists() and (package / "_hetmem.pyi").exists()
    assert not list(unpacked.rglob("__pycache__"))
    metadata = next(unpacked.glob("*.dist-info/METADATA")).read_text()
    assert re.findall("^Requires-Dist: (.*)$", metadata, re.M)[0].startswith("numpy")
    assert list(unpacked.glob("*.dist-info/licenses/LICENSE"))
    notices = [path.name for path in (package / "lib/licenses").iterdir()]
    for name in ("libdnnl", "libopenblas", "libssl", "nlohmann", "libcli11", "libxxhash", "pybind11"):
        assert any(notice.startswith(name) for notice in notices), (name, notices)


def test_it_gives_the_losses_of_the_binary(environment, models, data, tmp_path):
    """In an environment with NumPy alone, away from the checkout."""
    want = [line["loss"] for line in train(models["llama"], data, tmp_path / "cli", **RUN)]
    script = """
import json, sys, hetmem
options = json.loads(sys.argv[3])
with hetmem.Trainer(sys.argv[1], **options) as trainer:
    print(json.dumps(trainer.train(sys.argv[2]).losses))
assert not {"torch", "tqdm"} & set(sys.modules)
"""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LD_"))}
    out = run(environment / "python", "-c", script, models["llama"], data, json.dumps(RUN),
              cwd=tmp_path, env=env)
    assert json.loads(out) == want
    # The command of the environment is the binary.
    env["PATH"] = str(environment)
    words = ["train", "--model", models["llama"], "--data", data, "--out", tmp_path / "wheel"]
    for name, value in RUN.items():
        words += ["--" + name.replace("_", "-"), value]
    run(environment / "hetmem", *words, cwd=tmp_path, env=env)
    assert [line["loss"] for line in metrics(tmp_path / "wheel")] == want
    assert run(environment / "hetmem", "--version", env=env) == run(BINARY, "--version")


def test_the_source_archive_builds_the_same_wheel(wheel, tmp_path):
    run(sys.executable, "-c", "import sys, scikit_build_core.build as b; b.build_sdist(sys.argv[1])",
        tmp_path, cwd=ROOT)
    again = build_wheel(next(tmp_path.glob("*.tar.gz")), tmp_path / "wheel", tmp_path / "built")

    def contents(path):
        archive = zipfile.ZipFile(path)
        return {info.filename: info.CRC for info in archive.infolist() if not info.filename.endswith("RECORD")}

    assert contents(again) == contents(wheel)


# Of what is declared in headers of the standard library there is one in a process, on purpose.
SHARED_OF_STANDARD_LIBRARY = re.compile("_ZZ?N?K?St")


@pytest.mark.parametrize("first", ["import ssl, torch, hetmem", "import hetmem, torch, ssl"])
def test_its_libraries_are_its_own(unpacked, models, data, tmp_path, first):
    """Beside PyTorch, which has an OpenMP of its own and shows it to all, and beside Python's own
    OpenSSL, whichever comes first: the loader itself says what it binds to what."""
    want = [line["loss"] for line in train(models["llama"], data, tmp_path / "cli", **RUN)]
    script = f"""
import json, sys
{first}
ssl.create_default_context()
torch.ones(300, 300) @ torch.ones(300, 300)
with hetmem.Trainer(sys.argv[1], **json.loads(sys.argv[3])) as trainer:
    print(json.dumps(trainer.train(sys.argv[2]).losses))
    assert trainer.plan.tiers.disk.peak > 0
torch.ones(300, 300) @ torch.ones(300, 300)
"""
    options = RUN | dict(host_memory=0, disk=[str(tmp_path)], disk_memory="64MiB", encrypt_disk=True,
                         device_memory=hetmem.plan(models["llama"], host_memory=0, disk_memory="64MiB",
                                                   **RUN).smallest_device_memory)
    out = run(sys.executable, "-c", script, models["llama"], data, json.dumps(options), cwd=tmp_path,
              env=os.environ | {"PYTHONPATH": str(unpacked), "LD_BIND_NOW": "1", "LD_DEBUG": "bindings",
                                "LD_DEBUG_OUTPUT": str(tmp_path / "loader")})
    assert json.loads(out) == want
    bound = re.compile(rf"binding file {unpacked}/\S+ \[0\] to (\S+) \[0\]: \w+ symbol `(\w+)'")
    found = set()
    for path in tmp_path.glob("loader.*"):
        with path.open() as lines:
            found.update(match.groups() for match in map(bound.search, lines) if match)
    own = {symbol for path, symbol in found if path.startswith(str(unpacked))}
    assert own >= {"hetmem_GOMP_parallel", "hetmem_EVP_aes_256_gcm", "hetmem_cblas_sgemm"}
    others = {(path, symbol) for path, symbol in found
              if not path.startswith(str(unpacked)) and not symbol.startswith("Py") and symbol[:3] != "_Py"
              and not ASSUMED.fullmatch(os.path.basename(path))}
    assert not [pair for pair in others if not SHARED_OF_STANDARD_LIBRARY.match(pair[1])]


def test_names_of_its_libraries_are_its_own(unpacked):
    libraries = elf_files(unpacked / "hetmem" / "lib")
    assert len(libraries) > 5
    for path in libraries:
        assert re.fullmatch(r"lib[\w-]+-[0-9a-f]{8}\.so[.\d]*", path.name), path.name
        assert dynamic(path, "SONAME") == [path.name]
