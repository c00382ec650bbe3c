#!/usr/bin/env bash
# Builds the simulation so that seeds repeat, in a target folder of its own:
#   sim.sh run [ARGUMENT...]   runs it
#   sim.sh bugs [NAME...]      puts each bug of sim/bugs, or these, into a copy of the sources, one at a
#                              time, and checks that the simulation finds it
#   sim.sh fits                checks only that all of them apply to the sources, which takes no build
set -euo pipefail

ROOT=$(cd -P "${BASH_SOURCE[0]%/*}/.." && pwd)
readonly ROOT SEEDS_FOR_A_BUG=3000
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}/sim
# Tokio's order of several that could go on is seeded with this only.
export RUSTFLAGS="${RUSTFLAGS:-} --cfg tokio_unstable"

simulate() {
  cargo run --quiet --profile sim -p hydratecache-sim --bin sim -- "$@"
}

# Says how many seeds it took to find the bug in the current folder; fails if it was not found.
find_bug() {
  local log=$1 line
  if ! cargo build --quiet --profile sim -p hydratecache-sim 2>"$log"; then
    echo "it does not build:" >&2
    cat "$log" >&2
    return 1
  fi
  if line=$(simulate --seeds "$SEEDS_FOR_A_BUG" --stop 2>"$log"); then
    echo "not found: $line" >&2
    return 1
  fi
  # Exit code 1 is a broken promise; anything else is no finding.
  case $line in
    *"sim: seeds="*) grep --max-count 1 '^seed ' "$log" ;;
    *)
      cat "$log" >&2
      return 1
      ;;
  esac
}

does_not_fit() { # does_not_fit PATCH
  echo "sim.sh: $1 does not apply any more; make it anew" >&2
  failures=$((failures + 1))
}

fits() {
  local failures=0 bug
  for bug in "$ROOT"/sim/bugs/*.patch; do
    patch --dry-run --quiet --forward --strip=1 --directory="$ROOT" <"$bug" >/dev/null || does_not_fit "$bug"
  done
  ((failures == 0))
}

bugs() {
  local copy failures=0 name bug
  if (($# == 0)); then
    set -- "$ROOT"/sim/bugs/*.patch
  fi
  # A target folder of its own: Cargo tells two copies of a workspace apart by their files' times only.
  CARGO_TARGET_DIR+=-bugs
  copy=$CARGO_TARGET_DIR/sources
  mkdir -p "$copy"
  (cd "$ROOT" && git ls-files -z --cached --others --exclude-standard) |
    (cd "$ROOT" && xargs -0 tar -cf - --ignore-failed-read) | tar -xmf - -C "$copy"
  cd "$copy"
  for name; do
    name=$(basename "$name" .patch)
    bug=$ROOT/sim/bugs/$name.patch
    echo "== $name"
    if ! patch --quiet --forward --strip=1 <"$bug"; then
      does_not_fit "$bug"
      continue
    fi
    find_bug "$CARGO_TARGET_DIR/bug.log" || failures=$((failures + 1))
    patch --quiet --reverse --strip=1 <"$bug"
  done
  if ((failures > 0)); then
    echo "sim.sh: $failures bugs were not found" >&2
    exit 1
  fi
}

case ${1:-} in
  run)
    shift
    simulate "$@"
    ;;
  bugs)
    shift
    bugs "$@"
    ;;
  fits) fits ;;
  *)
    echo "sim.sh: usage: sim.sh run [ARGUMENT...] | bugs [NAME...] | fits" >&2
    exit 1
    ;;
esac
