#!python
"""The command `hetmem` of an installed package: becomes the binary that the package holds."""

import importlib.util
import os
import sys

folder = importlib.util.find_spec("hetmem").submodule_search_locations[0]
os.execv(os.path.join(folder, "bin", "hetmem"), ["hetmem", *sys.argv[1:]])
