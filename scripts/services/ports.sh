# shellcheck shell=bash
# Free ports, chosen once and remembered.

# Below the range from which the kernel takes ports for outgoing connections: from within it, a
# client's connection could sit on the port of a killed broker.
readonly FIRST_PORT=20000 PORTS=12000

listening() { # listening PORT
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# take_ports COUNT: keeps the ports of an earlier start, unless a stranger listens there by now
take_ports() {
  local port taken=''
  for port in $(ports); do
    if ! vacant_soon "$port"; then taken=$port; fi
  done
  if [[ -n $taken ]]; then
    say "port $taken is in use by another process: choosing another"
    release_ports
  fi
  if [[ -z $(ports) ]]; then
    choose_ports "$1"
  fi
}

choose_ports() {
  local chosen=()
  while ((${#chosen[@]} < $1)); do
    chosen+=("$(claim_port)")
  done
  printf '%s\n' "${chosen[*]}" >"$PLACE/ports"
}

# Other instances of this checkout are kept off by a file for each port (its creation is atomic and
# holds while that broker is down), everybody else by looking who listens.
claim_port() {
  local port
  for _ in {1..1000}; do
    port=$((FIRST_PORT + RANDOM % PORTS))
    if (set -o noclobber && printf '%s\n' "$INSTANCE/$BROKER" >"$SERVICES_DIR/ports/$port") 2>/dev/null; then
      if ! listening "$port"; then
        printf '%s\n' "$port"
        return
      fi
      rm -f "$SERVICES_DIR/ports/$port"
    fi
  done
  fail "no free port found from $FIRST_PORT to $((FIRST_PORT + PORTS - 1))"
}

# A killed JVM holds its port for a moment.
vacant_soon() {
  for _ in {1..100}; do
    listening "$1" || return 0
    sleep 0.05
  done
  return 1
}

insist_on_ports() {
  local port
  for port in $(ports); do
    vacant_soon "$port" || fail "port $port, which it has to come back on, is in use by another process"
  done
}

release_ports() {
  local port
  for port in $(ports); do
    rm -f "$SERVICES_DIR/ports/$port"
  done
  rm -f "$PLACE/ports"
}
