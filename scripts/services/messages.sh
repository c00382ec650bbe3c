# shellcheck shell=bash
# What people read. Stdout belongs to answers alone, so that programs can use it.

say() { printf '%s: %s\n' "${LABEL:-services}" "$*" >&2; }

fail() {
  say "error: $*"
  exit 1
}

refuse() {
  printf 'services: error: %s\nTry: scripts/services.sh help\n' "$*" >&2
  exit 2
}

microseconds() { printf '%s\n' "${EPOCHREALTIME//[.,]/}"; }

# seconds_since MICROSECONDS
seconds_since() {
  local elapsed=$(($(microseconds) - $1))
  printf '%d.%02d\n' $((elapsed / 1000000)) $((elapsed / 10000 % 100))
}
