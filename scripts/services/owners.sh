# shellcheck shell=bash
# `up --owner PID` ties an instance to a process: the file `owners` holds id and start time of each.
# When the last of them has gone, the instance is stopped and wiped by whoever calls `up` or
# `down --all` next. No process watches meanwhile: there is nothing that could itself be left over.
# An instance that was started without an owner stays until `down`, whoever uses it besides.

add_owner() {
  [[ -n $OWNER ]] || return 0
  printf '%s %s\n' "$OWNER" "$(start_time "$OWNER")" >>"$PLACE/owners"
}

check_owner() {
  [[ -z $OWNER ]] || start_time "$OWNER" >/dev/null || fail "--owner: there is no process $OWNER"
}

share_ownership() {
  [[ -f $PLACE/owners ]] || return 0
  if [[ -n $OWNER ]]; then add_owner; else rm -f "$PLACE/owners"; fi
}

orphaned() {
  local pid born now
  [[ -f $PLACE/owners ]] || return 1
  while read -r pid born; do
    if now=$(start_time "$pid") && [[ $now == "$born" ]]; then return 1; fi
  done <"$PLACE/owners"
}

reap_orphans() {
  local owners place instance
  for owners in "$SERVICES_DIR"/instances/*/*/owners; do
    [[ -e $owners ]] || continue
    place=${owners%/owners}
    instance=${place%/*}
    (select_broker "${place##*/}" "${instance##*/}" && reap_if_orphaned) &
    wait $! || say "could not remove what a dead owner left in $place"
  done
}

reap_if_orphaned() {
  orphaned || return 0
  lock "$INSTANCE.$BROKER" --nonblock || return 0
  orphaned || return 0
  "$(recorded_way)_wipe"
  forget
  say "its owner has gone: stopped and removed"
}
