#!/usr/bin/env bash
# Renders the guide into target/guide, with the mdBook on PATH or else with one of its own under .services.
set -euo pipefail

ROOT=$(cd -P "${BASH_SOURCE[0]%/*}/.." && pwd)
readonly ROOT GUIDE=$ROOT/docs/guide

if ! mdbook=$(command -v mdbook); then
  if ! "$ROOT/scripts/python.sh" mdbook "$GUIDE/requirements.txt" -c pass; then
    echo "guide.sh: there is no mdBook for this machine; cargo install mdbook" >&2
    exit 1
  fi
  mdbook=$ROOT/.services/mdbook/bin/mdbook
fi
"$mdbook" build "$GUIDE"
