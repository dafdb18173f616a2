#!/bin/sh
# Checks a CUDA build on a machine with a GPU: the tests that need one, then training against the
# processor's and under several budgets. Exits 1 where anything differs. About two minutes.
#
#   scripts/gpu_check.sh [BUILD]     BUILD: the folder of the build [build-cuda]
#
# HETMEM_LIBS  a folder with libraries that this machine lacks, wherever they are in it
# OUT          a folder for logs and gpu_check.json [a new one under /tmp]
# LARGE=1      also trains GPT-2 124M at two budgets, for its speed
set -u
cd "$(dirname "$0")/.."
build=${1:-build-cuda}
OUT=${OUT:-$(mktemp -d)}
export OUT
failed=

# cuBLAS comes with PyTorch where there is no toolkit.
cublas=$(python3 - <<'PYTHON'
import glob, importlib.util
spec = importlib.util.find_spec("nvidia")
roots = list(spec.submodule_search_locations) if spec else []
found = [path for root in roots for path in glob.glob(root + "/*/lib/libcublasLt.so.13")]
print(found[0].rsplit("/", 1)[0] if found else "")
PYTHON
)
libs=
if [ -n "${HETMEM_LIBS:-}" ]; then
  libs=$(find "$PWD/$HETMEM_LIBS" "$HETMEM_LIBS" -name '*.so*' 2>/dev/null | sed 's|/[^/]*$||' | sort -u | tr '\n' ':')
fi
# For the binaries alone: Python has libraries of its own.
HETMEM_LIBRARY_PATH="$libs$cublas:${LD_LIBRARY_PATH:-}"
HETMEM_BINARY="$PWD/$build/hetmem"
export HETMEM_LIBRARY_PATH HETMEM_BINARY

nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used --format=csv,noheader
echo "cuBLAS: ${cublas:-of the loader}"
chmod +x "$HETMEM_BINARY" "$build"/tests/test_* "$build"/tests/ops_cuda/test_ops_cuda 2>/dev/null
LD_LIBRARY_PATH=$HETMEM_LIBRARY_PATH ldd "$HETMEM_BINARY" | grep 'not found' && exit 1
LD_LIBRARY_PATH=$HETMEM_LIBRARY_PATH "$HETMEM_BINARY" doctor || exit 1

# Tests that need a GPU must not be skipped here.
run_tests() {
  log="$OUT/$(basename "$1").log"
  LD_LIBRARY_PATH=$HETMEM_LIBRARY_PATH timeout "${3:-60}" "$1" --gtest_filter="$2" \
    >"$log" 2>&1
  code=$?
  echo "$(basename "$1"): exit $code, $(grep -E '^\[==========\].*ran' "$log" | tail -1)"
  if [ $code -ne 0 ] || grep -q 'SKIPPED' "$log" || ! grep -q 'PASSED' "$log"; then
    failed="$failed $(basename "$1")"
    grep -E -A 8 'Failure|error:|Error|SKIPPED' "$log" | head -40
    grep -E '^\[  FAILED' "$log" | sort -u | head -40
    [ $code -gt 1 ] && tail -5 "$log"
  fi
}

run_tests "$build/tests/ops_cuda/test_ops_cuda" '*gpu*' 90
for folder in device offload chunk_manager runtime; do
  run_tests "$build/tests/test_$folder" '*Cuda*:Device.*' 90
done

timeout 150 python3 scripts/gpu_check.py || failed="$failed training"
if [ -n "$failed" ]; then
  echo "gpu_check: FAILED:$failed (logs in $OUT)"
  exit 1
fi
echo "gpu_check: all passed"
