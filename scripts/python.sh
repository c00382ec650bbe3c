#!/usr/bin/env bash
# Runs Python with the packages that a requirements.txt names, in an environment of their own under
# .services (git-ignored): python.sh NAME REQUIREMENTS [ARGUMENT...]
set -euo pipefail

ROOT=$(cd -P "${BASH_SOURCE[0]%/*}/.." && pwd)
readonly ROOT

if (($# < 2)); then
  echo "python.sh: usage: python.sh NAME REQUIREMENTS [ARGUMENT...]" >&2
  exit 1
fi
readonly VENV=$ROOT/.services/$1 REQUIREMENTS=$2 STAMP=requirements.installed
shift 2

if ! command -v python3 >/dev/null; then
  echo "python.sh: python3 is missing; install Python 3.9 or later" >&2
  exit 1
fi
mkdir -p "$VENV"
# Tests run side by side; one of them installs.
exec 9>"$VENV.lock"
flock 9
if ! cmp --silent "$REQUIREMENTS" "$VENV/$STAMP"; then
  if ! python3 -m venv --clear "$VENV"; then
    echo "python.sh: python3 cannot make a virtual environment; install python3-venv" >&2
    exit 1
  fi
  "$VENV/bin/pip" install --quiet --disable-pip-version-check --requirement "$REQUIREMENTS" >&2
  cp "$REQUIREMENTS" "$VENV/$STAMP"
fi
exec 9>&-
export PYTHONDONTWRITEBYTECODE=1
exec "$VENV/bin/python" "$@"
