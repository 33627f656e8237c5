#!/usr/bin/env bash
# The whole way on a generated production line, offline once installed: set up, then `mtkd-edge demo`.
# Arguments go to the demo, for instance: bash scripts/demo.sh --out ./my-demo
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$project/scripts/setup.sh"
venv=${MTKD_VENV:-.venv}
cd "$project"
exec "$venv/bin/mtkd-edge" demo "$@"
