#!/usr/bin/env bash
# Makes the virtual environment ($MTKD_VENV, by default .venv beside this project) and installs mtkd-edge in it with
# everything that training and the tests need. A second run finds that nothing changed and ends at once.
# Packages come from wherever pip is configured to look: a proxy or a mirror needs nothing here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${MTKD_VENV:-.venv}
extras=train,dev
# one fingerprint of all that decides what is installed; __init__.py holds the version
wanted=$(cat pyproject.toml mtkd_edge/__init__.py scripts/setup.sh | sha256sum | cut -c1-64)
stamp=$venv/.mtkd-edge-setup

if [ -x "$venv/bin/mtkd-edge" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi

if [ ! -x "$venv/bin/python" ]; then
  python=
  for candidate in ${MTKD_PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
      python=$candidate
      break
    fi
  done
  if [ -z "$python" ]; then
    echo "error: no Python 3.10 or newer found" >&2
    echo "hint: install one, or name it: MTKD_PYTHON=/path/to/python3.12 bash scripts/setup.sh" >&2
    exit 2
  fi
  echo "making $venv with $($python --version)" >&2
  "$python" -m venv "$venv" || {
    echo "hint: on Debian and Ubuntu the module is a package of its own: sudo apt-get install python3-venv" >&2
    exit 2
  }
fi

echo "installing mtkd-edge with [$extras] in $venv: a few minutes the first time, most of it torch" >&2
"$venv/bin/python" -m pip install --quiet --editable ".[$extras]" >&2

# NVIDIA's real parser and builder run without a GPU; where there is no wheel for this machine, its tests skip
if ! "$venv/bin/python" -m pip install --quiet --editable ".[rtx-builder]" >&2; then
  echo "note: tensorrt-rtx has no package for this machine; the tests of the TensorRT builder will be skipped" >&2
fi
echo "$wanted" >"$stamp"
