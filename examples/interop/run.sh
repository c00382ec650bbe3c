#!/usr/bin/env bash
# Runs interop.py with the packages that it needs.
set -euo pipefail

HERE=$(cd -P "${BASH_SOURCE[0]%/*}" && pwd)
readonly HERE

exec "$HERE/../../scripts/python.sh" interop "$HERE/requirements.txt" "$HERE/interop.py" "$@"
