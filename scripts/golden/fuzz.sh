#!/usr/bin/env bash
# usage: scripts/golden/fuzz.sh SECONDS
#
# Fuzzes each target of hydratecache/fuzz for that long, from the golden vectors. Needs a nightly
# toolchain, and cargo-fuzz, which it installs into the git-ignored .services/cargo-fuzz. Where
# either cannot be had, it runs the property tests with many more cases instead, and says so.
set -euo pipefail

ROOT=$(cd -P "${BASH_SOURCE[0]%/*}/../.." && pwd)
readonly ROOT FUZZ=$ROOT/hydratecache/fuzz TOOLS=$ROOT/.services/cargo-fuzz
readonly TARGETS=(decode_envelope decode_payload)

if [[ ! ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: scripts/golden/fuzz.sh SECONDS" >&2
  exit 2
fi
readonly SECONDS_EACH=$1

has_nightly() {
  cargo +nightly --version >/dev/null 2>&1
}

has_cargo_fuzz() {
  PATH=$TOOLS/bin:$PATH
  cargo fuzz --version >/dev/null 2>&1 && return
  echo "fuzz.sh: installing cargo-fuzz into $TOOLS" >&2
  cargo install cargo-fuzz --locked --quiet --root "$TOOLS"
}

fuzz() {
  local target
  cargo run --quiet --manifest-path "$FUZZ/Cargo.toml" --example seeds
  for target in "${TARGETS[@]}"; do
    # Safe code needs no address sanitizer, and runs twice as often without.
    cargo +nightly fuzz run --fuzz-dir "$FUZZ" --sanitizer none "$target" -- \
      -max_total_time="$SECONDS_EACH" -max_len=4096 -timeout=5 -malloc_limit_mb=64 -print_final_stats=1
  done
  echo "fuzzed with libFuzzer: ${TARGETS[*]}, $SECONDS_EACH seconds each, nothing found"
}

test_properties() {
  # Each of the two sets runs all of its properties for some 800 cases a second.
  local cases=$((SECONDS_EACH * 800))
  cd "$ROOT"
  PROPTEST_CASES=$cases cargo test --quiet -p hydratecache --test wire
  PROPTEST_CASES=$cases cargo test --quiet -p hydratecache --lib codec::
  echo "no nightly toolchain or no cargo-fuzz: property tests with $cases cases each, nothing found"
}

if has_nightly && has_cargo_fuzz; then
  fuzz
else
  test_properties
fi
