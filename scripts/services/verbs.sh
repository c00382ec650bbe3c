# shellcheck shell=bash
# The verbs. Each runs in a shell of its own for each broker, which ends its locks with it.

# Waiting for a background shell, rather than `(...) || failed=1`, keeps `set -e` alive in it.
in_turn() { # in_turn VERB
  local broker failed=0
  for broker in "${BROKERS[@]}"; do
    (select_broker "$broker" "$INSTANCE" && "$1") &
    wait $! || failed=1
  done
  return $failed
}

in_parallel() { # in_parallel VERB
  local broker shell shells=() failed=0
  for broker in "${BROKERS[@]}"; do
    (select_broker "$broker" "$INSTANCE" && "$1") &
    shells+=($!)
  done
  for shell in "${shells[@]}"; do
    wait "$shell" || failed=1
  done
  return $failed
}

# known_way: sets WAY for a broker that is up. A URL comes before what was started earlier.
known_way() {
  if external_url >/dev/null; then
    WAY=external
  elif [[ -n $(recorded_url) ]]; then
    WAY=$(recorded_way)
  else
    fail "is not up: scripts/services.sh up $BROKER$(instance_option)"
  fi
}

instance_option() { [[ $INSTANCE == main ]] || printf ' --instance %s' "$INSTANCE"; }

choose_way() {
  if external_url >/dev/null; then
    WAY=external
  elif [[ $MODE == native ]]; then
    WAY=native
  elif docker_usable; then
    WAY=docker
  elif [[ $MODE == docker ]]; then
    fail "HYDRATECACHE_SERVICES_MODE is docker, but no Docker engine with Compose answers: start it, or unset the variable"
  else
    WAY=native
  fi
}

install_broker() {
  choose_way
  make_services_dir
  "${WAY}_install"
}

up_broker() {
  local url
  if url=$(external_url); then
    external_up "$url"
    return
  fi
  check_owner
  make_services_dir
  lock_place
  mkdir -p "$PLACE"
  if running; then keep_up; else start_afresh; fi
}

running() { [[ -n $(recorded_url) && $("$(recorded_way)_state") != down ]]; }

start_afresh() {
  local begin
  begin=$(microseconds)
  choose_way
  leave_other_way
  record_options
  rm -f "$PLACE/owners" "$PLACE/address"
  add_owner
  printf '%s\n' "$WAY" >"$PLACE/way"
  "${WAY}_up"
  url_at "$(client_port)" >"$PLACE/address"
  say "up in $(seconds_since "$begin") s ($WAY, 127.0.0.1:$(client_port))"
}

# Data of one way are of no use to the other.
leave_other_way() {
  local old
  old=$(recorded_way) || return 0
  [[ $old != "$WAY" ]] || return 0
  say "was started by $old before: removing its data"
  "${old}_wipe" || say "could not remove what $old has left"
  rm -rf "$PLACE/data"
}

keep_up() {
  WAY=$(recorded_way)
  [[ $MODE == auto || $MODE == "$WAY" ]] ||
    fail "is up by $WAY, but HYDRATECACHE_SERVICES_MODE is $MODE: scripts/services.sh down $BROKER$(instance_option) first"
  same_options ||
    fail "is up with other options: scripts/services.sh down $BROKER$(instance_option) first, or use another --instance"
  if [[ $("${WAY}_state") == paused ]]; then
    say "was paused: resuming it"
    "${WAY}_resume"
  fi
  await_ready answers running "${WAY}_broken"
  share_ownership
  say "is up already ($WAY, 127.0.0.1:$(client_port))"
}

record_options() {
  rm -f "$PLACE/options"
  ((${#SETTINGS[@]} == 0)) || printf '%s\n' "${SETTINGS[@]}" >"$PLACE/options"
}

same_options() {
  ((${#SETTINGS[@]} == 0)) || [[ $(printf '%s\n' "${SETTINGS[@]}") == "$(cat "$PLACE/options" 2>/dev/null)" ]]
}

# --- what makes and mends faults -------------------------------------------------------------------

kill9_broker() {
  control
  running || fail "is not running; scripts/services.sh start $BROKER$(instance_option) starts it again"
  "${WAY}_kill9"
  say "killed"
}

start_broker() {
  local begin
  control
  if running; then
    say "runs already"
    return
  fi
  begin=$(microseconds)
  "${WAY}_start"
  say "started again in $(seconds_since "$begin") s"
}

pause_broker() {
  control
  running || fail "is not running; scripts/services.sh start $BROKER$(instance_option) starts it again"
  [[ $("${WAY}_state") == paused ]] || "${WAY}_pause"
  say "paused"
}

resume_broker() {
  control
  running || fail "is not running; scripts/services.sh start $BROKER$(instance_option) starts it again"
  [[ $("${WAY}_state") != paused ]] || "${WAY}_resume"
  say "resumed"
}

control() {
  known_way
  [[ $WAY != external ]] || external_refuse
  lock_place
  known_way
}

# --- what tells ------------------------------------------------------------------------------------

url_broker() {
  known_way
  if [[ $WAY == external ]]; then external_url; else recorded_url; fi
}

env_broker() {
  local url
  if ! url=$(external_url); then
    if ! running; then
      say "is not up"
      return
    fi
    url=$(recorded_url)
  fi
  printf 'export %s=%q\n' "$(url_variable)" "$url"
}

pid_broker() {
  known_way
  [[ $WAY != external ]] || external_refuse
  "${WAY}_pid" || fail "is not running"
}

logs_broker() {
  [[ -e $PLACE/way ]] || known_way
  [[ ${WAY:-} != external ]] || external_refuse
  "$(recorded_way)_logs"
}

status() {
  if [[ -z $EVERY_INSTANCE ]]; then
    in_turn status_broker
  else
    at_every_instance status_broker
  fi
}

status_broker() {
  local url state
  if url=$(external_url); then
    state=unreachable
    if external_answers "$url"; then state=ready; fi
    show_status "$state" "url  $(external_address "$url")"
  elif [[ -z $(recorded_url) ]]; then
    state=down
    show_status $state
  else
    WAY=$(recorded_way)
    state=$("${WAY}_state")
    [[ $state != down ]] || state=killed
    show_status "$state" "$WAY  127.0.0.1:$(client_port)  pid $("${WAY}_pid" || echo -)"
  fi
  [[ $state == ready ]]
}

show_status() { printf '%-9s %-12s %-11s %s\n' "$BROKER" "$INSTANCE" "$1" "${2:-}"; }

# --- what ends -------------------------------------------------------------------------------------

down() {
  if [[ -z $EVERY_INSTANCE ]]; then
    in_parallel down_broker
  else
    reap_orphans
    at_every_instance down_broker
  fi
}

# A broker of our own goes down even where a URL has taken its part since.
down_broker() {
  if [[ ! -d $PLACE ]]; then
    say "is not up"
    return
  fi
  lock_place
  [[ -d $PLACE ]] || return 0
  if WAY=$(recorded_way); then
    if [[ -n $WIPE ]]; then "${WAY}_wipe"; else "${WAY}_down"; fi
  fi
  rm -f "$PLACE/address" "$PLACE/owners"
  if [[ -n $WIPE ]]; then forget; fi
  say "down"
}

at_every_instance() { # at_every_instance VERB
  local place instance failed=0
  for place in "$SERVICES_DIR"/instances/*/*/; do
    place=${place%/}
    [[ -d $place && " ${BROKERS[*]} " == *" ${place##*/} "* ]] || continue
    instance=${place%/*}
    (select_broker "${place##*/}" "${instance##*/}" && "$1") &
    wait $! || failed=1
  done
  return $failed
}

# Only what this script has made: the folder itself may be somebody's choice.
wipe() {
  WIPE=yes
  at_every_instance down_broker
  rm -rf "$SERVICES_DIR"/{opt,instances,ports,locks,.gitignore}
  rmdir "$SERVICES_DIR" 2>/dev/null || true
}
