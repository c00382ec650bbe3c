#!/usr/bin/env bash
# Runs interop.py with its packages, which are kept in .services/interop (git-ignored).
set -euo pipefail

HERE=$(cd -P "${BASH_SOURCE[0]%/*}" && pwd)
readonly HERE VENV=$HERE/../../.services/interop STAMP=requirements.installed

if ! command -v python3 >/dev/null; then
  echo "run.sh: python3 is missing; install Python 3.9 or later" >&2
  exit 1
fi
mkdir -p "$VENV"
# Tests run side by side; one of them installs.
exec 9>"$VENV.lock"
flock 9
if ! cmp --silent "$HERE/requirements.txt" "$VENV/$STAMP"; then
  if ! python3 -m venv --clear "$VENV"; then
    echo "run.sh: python3 cannot make a virtual environment; install python3-venv" >&2
    exit 1
  fi
  "$VENV/bin/pip" install --quiet --disable-pip-version-check --requirement "$HERE/requirements.txt" >&2
  cp "$HERE/requirements.txt" "$VENV/$STAMP"
fi
exec 9>&-
export PYTHONDONTWRITEBYTECODE=1
exec "$VENV/bin/python" "$HERE/interop.py" "$@"
