# shellcheck shell=bash
# Brokers as processes of our own. What is particular to each is in native/<broker>.sh:
#   <broker>_installed, <broker>_install     is its software there; get it
#   <broker>_ports                           how many ports it takes
#   <broker>_prepare                         write its configuration; set COMMAND
#   <broker>_ready                           does it serve clients
#   <broker>_stop_signal                     what makes it stop without waiting for its clients

COMMAND=()

native_install() { install_software; }

native_up() {
  native_install
  take_ports "$("${BROKER}_ports")"
  native_run
}

native_start() {
  insist_on_ports
  native_run
}

native_run() {
  mkdir -p "$PLACE/data"
  "${BROKER}_prepare"
  spawn "${COMMAND[@]}"
  await_ready "${BROKER}_ready" live native_broken
}

live() { live_pid >/dev/null; }

native_broken() {
  local pid
  tail -n 25 "$PLACE/log" >&2
  if pid=$(live_pid); then kill_family "$pid"; fi
  fail "$1; log: $PLACE/log; $(way_out)"
}

native_state() { # ready, paused, starting or down
  local pid
  if ! pid=$(live_pid); then
    echo down
  elif stopped "$pid"; then
    echo paused
  elif "${BROKER}_ready"; then
    echo ready
  else
    echo starting
  fi
}

native_pid() { live_pid; }

native_kill9() {
  local port
  kill_family "$(live_pid)"
  for port in $(ports); do
    vacant_soon "$port" || fail "was killed, but port $port is still served by another process"
  done
}

native_pause() { freeze_family "$(live_pid)"; }
native_resume() { signal_family CONT "$(live_pid)"; }
native_logs() { tail -n 100 "$PLACE/log"; }

native_down() {
  local pid
  if pid=$(live_pid); then stop_family "$("${BROKER}_stop_signal")" "$pid"; fi
  rm -f "$PLACE/pid"
}

# Its data go too, so there is nothing to stop politely for.
native_wipe() {
  local pid
  if pid=$(live_pid); then kill_family "$pid"; fi
}
