#!/usr/bin/env bash
# Makes the Python environment `.venv` and installs what requirements.lock names, with its hashes, and this checkout.
# The Makefile runs it when the lock or pyproject.toml is newer than the mark that it leaves at its very end, so that an
# interrupted installation is done again.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
mark=$venv/.installed

fail() { printf '%s\n' "$*" >&2; exit 1; }

fits() { # is this a Python of a version that we support?
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
  local name
  for name in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if fits "$name"; then echo "$name"; return; fi
  done
  if [ -n "${PYTHON:-}" ]; then fail "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13 that runs; name one that is."; fi
  fail "Weft needs Python 3.11, 3.12 or 3.13 and found $(python3 --version 2>/dev/null || echo none); install one (Debian:" \
    "apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3.12 …"
}

if [ ! -x $venv/bin/python ] || ! fits $venv/bin/python || ! $venv/bin/python -m pip --version >/dev/null 2>&1; then
  python=$(find_python)
  # Debian's python3 has the module venv but not ensurepip, until python3-venv is there.
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$("$python" --version) cannot make virtual environments; install the rest of it (Debian: apt-get install" \
      "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')) and try again."
  echo "Making the environment $venv with $("$python" --version) …" >&2
  "$python" -m venv --clear $venv
fi

rm -f $mark
echo "Installing what requirements.lock names into $venv, once; this takes a minute or two …" >&2
$venv/bin/python -m pip --disable-pip-version-check install --require-hashes -r requirements.lock |
  awk '/^Collecting / { print "  " $2; fflush() } /^Installing collected/ { print "  … unpacking them"; fflush() }' >&2
echo "Installing this checkout …" >&2
$venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation -e .
touch $mark
