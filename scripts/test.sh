#!/usr/bin/env bash
# Everything that must hold before a change goes in: set-up, lint, format, types, tests.
# Arguments go to pytest, for instance: bash scripts/test.sh tests/test_cli.py -x
#   MTKD_INSTALL_TOOLS=0   leave the system's packages alone (tests with a real camera, broker or browser then skip)
#   MTKD_REQUIRE=data      a test that needs the real photos beside the checkout fails without them, instead of skipping
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "${MTKD_INSTALL_TOOLS:-1}" != 0 ]; then
  bash scripts/install_test_tools.sh & # beside the set-up: both wait for downloads
fi
bash scripts/setup.sh
wait
bin=${MTKD_VENV:-.venv}/bin
if [ -d ../shared/data ]; then
  export MTKD_REQUIRE=${MTKD_REQUIRE:-data}
fi

# threads of torch that wait for each other would spin, which costs several times as long beside other programs
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

"$bin/ruff" check .
"$bin/ruff" format --check .

if [ $# -gt 0 ]; then
  "$bin/mypy"
  exec "$bin/python" -m pytest --durations=10 "$@"
fi

# the soak mostly waits, for minutes: beside the other tests it costs no time, and the types are checked as well
said=$(mktemp)
typed=$(mktemp)
"$bin/mypy" >"$typed" 2>&1 &
types=$!
MTKD_SOAK_MINUTES=${MTKD_SOAK_MINUTES:-3} setsid "$bin/python" -m pytest -m soak tests/test_soak.py >"$said" 2>&1 &
soak=$!
trap 'kill "$types" 2>/dev/null || true; kill -- "-$soak" 2>/dev/null || true; rm -f "$said" "$typed"' EXIT
code=0
"$bin/python" -m pytest --durations=20 -m "not soak" || code=$?
wait "$soak" || code=$?
cat "$said"
wait "$types" || code=$?
cat "$typed"
exit "$code"
