# shellcheck shell=bash
# Processes. A process id alone may have passed to a stranger, so the pid file also keeps the start
# time, and nothing is signalled unless both fit.

# start_time PID: in clock ticks since boot; fails for a process that has ended, also as a zombie.
# While a zombie has other threads, it has not ended: they keep its ports open.
start_time() {
  local stat fields threads
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  read -ra fields <<<"${stat##*) }" # the second field is a name and may hold spaces
  if [[ ${fields[0]} == [ZX] ]]; then
    threads=("/proc/$1/task/"*)
    ((${#threads[@]} > 1)) || return 1
  fi
  printf '%s\n' "${fields[19]}"
}

live_pid() {
  local pid born now
  { read -r pid born <"$PLACE/pid"; } 2>/dev/null || return 1
  now=$(start_time "$pid") && [[ $now == "$born" ]] && printf '%s\n' "$pid"
}

stopped() { # stopped PID
  local stat
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null && [[ ${stat##*) } == [Tt]* ]]
}

# exec_bare COMMAND...: replaces this shell, which is always a subshell, by a command without any file
# of ours but 0 to 2. What it leaves running in the background would otherwise hold our locks, and
# the pipes of our caller, who would wait for their end.
exec_bare() {
  local descriptor
  for descriptor in "/proc/$BASHPID/fd/"*; do
    descriptor=${descriptor##*/}
    if ((descriptor > 2 && descriptor != 255)); then exec {descriptor}>&-; fi
  done
  exec "$@"
}

# spawn COMMAND...: in a session of its own, so that it outlives this script
spawn() {
  if [[ -f $PLACE/log ]]; then mv -f "$PLACE/log" "$PLACE/log.1"; fi
  exec_bare setsid "$@" </dev/null >"$PLACE/log" 2>&1 &
  printf '%s %s\n' $! "$(start_time $! || true)" >"$PLACE/pid"
}

family() { # family PID: the process and all its descendants
  local child children
  printf '%s\n' "$1"
  read -ra children -d '' < <(cat "/proc/$1/task/"*/children 2>/dev/null) || true
  for child in "${children[@]}"; do
    family "$child"
  done
}

# A stopped server forks no more, so the list of its children is complete.
freeze_family() {
  kill -STOP "$1" 2>/dev/null || return 0
  signal_family STOP "$1"
}

signal_family() { # signal_family SIGNAL PID
  local members
  mapfile -t members < <(family "$2")
  kill "-$1" "${members[@]}" 2>/dev/null || true
}

kill_family() {
  local members member
  kill -STOP "$1" 2>/dev/null || return 0
  mapfile -t members < <(family "$1")
  kill -KILL "${members[@]}" 2>/dev/null || true
  for member in "${members[@]}"; do
    while start_time "$member" >/dev/null; do sleep 0.01; done
  done
}

# stop_family SIGNAL PID: politely at first, by SIGKILL after 20 seconds
stop_family() {
  local deadline=$((SECONDS + 20))
  signal_family CONT "$2"
  kill "-$1" "$2" 2>/dev/null || return 0
  while live_pid >/dev/null; do
    if ((SECONDS >= deadline)); then
      say "did not stop on SIG$1 within 20 s: SIGKILL"
      kill_family "$2"
    fi
    sleep 0.01
  done
}
