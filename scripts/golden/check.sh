#!/usr/bin/env bash
# Checks the golden vectors of the wire format with an independent reader in Python. Keeps its
# packages in .services/python, which is git-ignored.
set -euo pipefail

HERE=$(cd -P "${BASH_SOURCE[0]%/*}" && pwd)
readonly HERE VENV=$HERE/../../.services/python STAMP=requirements.installed

if ! command -v python3 >/dev/null; then
  echo "check.sh: python3 is missing; install Python 3.9 or later" >&2
  exit 1
fi
if ! cmp --silent "$HERE/requirements.txt" "$VENV/$STAMP"; then
  if ! python3 -m venv --clear "$VENV"; then
    echo "check.sh: python3 cannot make a virtual environment; install python3-venv" >&2
    exit 1
  fi
  "$VENV/bin/pip" install --quiet --disable-pip-version-check --requirement "$HERE/requirements.txt"
  cp "$HERE/requirements.txt" "$VENV/$STAMP"
fi
export PYTHONDONTWRITEBYTECODE=1
"$VENV/bin/python" "$HERE/generate.py" --check
"$VENV/bin/python" "$HERE/check.py"
