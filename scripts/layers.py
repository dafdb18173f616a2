#!/usr/bin/env python3
"""The layers of hetmem: a folder includes itself and folders of lower layers, never its peers.

    scripts/layers.py            # lists includes that break the rule; exit 1 if there are any
                                 # (and those of CUDA's headers outside of the folders cuda/)
    scripts/layers.py --draw F   # writes the folders and who includes whom as a Mermaid graph
"""

import collections
import pathlib
import re
import sys

LAYERS = [
    ["core"],
    ["device"],
    ["io", "ops", "graph"],
    ["models", "planner", "offload"],
    ["chunk_manager"],
    ["runtime"],
    ["apps", "benchmarks", "python"],
]
# What a folder may not include although its layer would allow it.
FORBIDDEN = {"graph": {"device"}, "planner": {"device"}, "models": {"device"}, "io": {"device"}}
# CUDA's own headers, and ours that include them; the backend's declarations need none.
CUDA = re.compile(r'^\s*#\s*include\s+(<cu(?:da|blas|dnn)\w*\.h>|"[a-z_]+/cuda/(?!backend\.h")[^"]+")',
                  re.MULTILINE)
INCLUDE = re.compile(r'^\s*#\s*include\s+"([a-z_]+)/', re.MULTILINE)

root = pathlib.Path(__file__).resolve().parent.parent
layer_of = {folder: i for i, folders in enumerate(LAYERS) for folder in folders}


def sources(folder):
    return sorted(p for p in (root / folder).rglob("*") if p.suffix in (".h", ".cpp", ".cu"))


def edges():
    """(folder, included folder) -> files that include it"""
    found = collections.defaultdict(list)
    for folder in layer_of:
        for path in sources(folder):
            for target in INCLUDE.findall(path.read_text(encoding="utf-8")):
                if target != folder:
                    found[folder, target].append(path.relative_to(root))
    return found


def cuda_outside():
    """(file, include) of CUDA headers in files that are in no folder cuda/"""
    for folder in layer_of:
        for path in sources(folder):
            if "cuda" not in path.relative_to(root).parts:
                for header in CUDA.findall(path.read_text(encoding="utf-8")):
                    yield path.relative_to(root), header


def broken(folder, target):
    if target not in layer_of or target in FORBIDDEN.get(folder, ()):
        return True
    return layer_of[target] >= layer_of[folder]


def main(arguments):
    present = {p.parent.name for p in root.glob("*/CMakeLists.txt")} - {"tests"}
    unknown = present - set(layer_of)
    for folder in sorted(unknown):
        print(f"{folder}: has no layer in scripts/layers.py")
    if arguments[:1] == ["--draw"]:
        lines = ["# Who includes whom", "", "```mermaid", "graph BT"]
        lines += [f"  {folder} --> {target}" for folder, target in sorted(edges())]
        pathlib.Path(arguments[1]).write_text("\n".join(lines + ["```", ""]), encoding="utf-8")
        return 0
    wrong = [(f, t, paths) for (f, t), paths in sorted(edges().items()) if broken(f, t)]
    for folder, target, paths in wrong:
        print(f"{folder} must not include {target}: {', '.join(map(str, paths))}")
    outside = list(cuda_outside())
    for path, header in outside:
        print(f"{path} must not include {header}: CUDA stays in the folders cuda/")
    return 1 if wrong or unknown or outside else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
