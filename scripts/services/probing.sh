# shellcheck shell=bash
# Waiting for a broker of our own to answer.

answers() { "$SCRIPTS/probe.sh" "$BROKER" 127.0.0.1 "$(client_port)" 2>/dev/null; }

# await_ready READY ALIVE GIVE_UP: three functions. A broker that cannot be had is always an error.
await_ready() {
  local deadline=$((SECONDS + START_TIMEOUT))
  until "$1"; do
    "$2" || "$3" "ended while starting"
    ((SECONDS < deadline)) || "$3" "was not ready within $START_TIMEOUT s"
    sleep 0.01
  done
  "$2" || "$3" "ended while starting" # and what answered was a stranger
}
