#!/usr/bin/env bash
# Checks the golden vectors of the wire format with an independent reader in Python.
set -euo pipefail

HERE=$(cd -P "${BASH_SOURCE[0]%/*}" && pwd)
readonly HERE

python() {
  "$HERE/../python.sh" python "$HERE/requirements.txt" "$@"
}

python "$HERE/generate.py" --check
python "$HERE/check.py"
