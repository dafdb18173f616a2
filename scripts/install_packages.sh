#!/bin/sh
# Installs the Debian/Ubuntu packages that hetmem is built and checked with, and those that are named
# (`scripts/install_packages.sh fio`); says which. Without root and with packages missing, prints the
# line to paste and exits 1.
set -eu
packages="g++ cmake ninja-build ccache pkg-config git libdnnl-dev libopenblas-openmp-dev
  libgtest-dev libcli11-dev libyaml-cpp-dev nlohmann-json3-dev libfmt-dev libxxhash-dev
  libpcre2-dev libutf8proc-dev liburing-dev libssl-dev clang clang-format clang-tidy
  libclang-rt-14-dev libomp-dev $*"
# A Python that can make virtual environments and compile against itself (torch.compile does, in the
# benchmarks) needs no package for it.
python3 -c 'import ensurepip, os, sysconfig, venv
os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
  packages="$packages python3 python3-venv python3-dev"

missing=""
for package in $packages; do
  status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
  [ "$status" = "install ok installed" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
  if sudo -n true 2>/dev/null; then
    as_root="sudo -n"
  else
    echo "Packages are missing. Run: sudo apt-get install -y$missing" >&2
    exit 1
  fi
else
  as_root=""
fi
echo "Installing packages:$missing"
export DEBIAN_FRONTEND=noninteractive
# A list of packages that is old or was never fetched makes the first try fail.
$as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 || {
  $as_root apt-get update -qq
  $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
}
