#!/bin/sh
# Formatting, layers, shell and Python syntax, and clang-tidy over the sources (warnings are errors).
# LINT_FILES="a.cpp b.cpp" limits clang-tidy to some files.
set -eu
cd "$(dirname "$0")/.."
git ls-files '*.h' '*.cpp' '*.cu' | xargs clang-format --dry-run --Werror
scripts/layers.py
for script in scripts/*.sh; do sh -n "$script"; done
.venv/bin/python -m compileall -q scripts tests benchmarks examples python
files=${LINT_FILES:-$(git ls-files 'core/*.cpp' 'device/*.cpp' 'io/*.cpp' 'ops/*.cpp' 'graph/*.cpp' \
  'models/*.cpp' 'planner/*.cpp' 'offload/*.cpp' 'chunk_manager/*.cpp' 'runtime/*.cpp' 'apps/*.cpp' 'python/*.cpp')}
# Files of folders cuda/ can be looked at where the build has them.
echo "$files" | tr ' ' '\n' | while read -r file; do
  grep -qF "/$file\"" build/compile_commands.json && echo "$file"
done | xargs -P "$(nproc)" -n 1 clang-tidy -p build --quiet 2>/dev/null
echo "lint: clean"
