# shellcheck shell=bash
# Brokers in containers, from docker-compose.yml.

# A client without an engine is common, and an engine that hangs must not hold up everything.
docker_usable() {
  command -v docker >/dev/null &&
    [[ -n $(timeout 5 docker info --format '{{.ServerVersion}}' 2>/dev/null) ]] &&
    # Older ones cannot read the file.
    timeout 5 docker compose --file "$ROOT/docker-compose.yml" config --quiet >/dev/null 2>&1
}

# A project for each broker of an instance: calls for different ones then share nothing that Compose
# could trip over. The number keeps checkouts apart. What one broker is given stays out of the others' settings,
# which Compose reads as well.
compose() {
  local project
  local settings=(HYDRATECACHE_REDIS_OPTIONS= HYDRATECACHE_POSTGRES_OPTIONS= HYDRATECACHE_NATS_CONFIGURATION=)
  case $BROKER in
    redis) settings+=(HYDRATECACHE_REDIS_OPTIONS="$(redis_arguments)") ;;
    postgres) settings+=(HYDRATECACHE_POSTGRES_OPTIONS="$(postgres_arguments)") ;;
    nats) settings+=(HYDRATECACHE_NATS_CONFIGURATION="$(nats_configuration /data)") ;;
  esac
  project=hydratecache-$(path_number "$SERVICES_DIR")-$(small_letters "$INSTANCE")-$BROKER
  (exec_bare env COMPOSE_PROJECT_NAME="$project" \
    "HYDRATECACHE_${BROKER^^}_PORT=$(client_port)" \
    "${settings[@]}" \
    docker compose --file "$ROOT/docker-compose.yml" "$@")
}

small_letters() { sed 's/[A-Z]/_\l&/g' < <(printf '%s' "$1"); } # `_` occurs in no instance name

# 'maxmemory 10mb' becomes --maxmemory 10mb; Compose splits the line as a shell would.
redis_arguments() {
  local line
  [[ -f $PLACE/options ]] || return 0
  while read -r line; do
    printf -- '--%s ' "$line"
  done <"$PLACE/options"
}

# 'max_connections=500' becomes -c 'max_connections=500'.
postgres_arguments() {
  local line
  [[ -f $PLACE/options ]] || return 0
  while IFS= read -r line; do
    printf -- "-c '%s' " "${line//\'/\'\\\'\'}"
  done <"$PLACE/options"
}

docker_install() { compose pull --quiet "$BROKER" >&2; }

docker_up() {
  [[ $BROKER != kafka || ! -f $PLACE/options ]] ||
    fail "settings for Kafka need a process of our own: HYDRATECACHE_SERVICES_MODE=native"
  take_ports 1
  docker_run
}

docker_start() {
  insist_on_ports
  docker_run
}

docker_run() {
  compose up --detach --wait --wait-timeout "$START_TIMEOUT" "$BROKER" >"$PLACE/log" 2>&1 ||
    docker_broken "could not be started"
  await_ready answers true docker_broken
}

docker_broken() {
  compose logs --no-color >>"$PLACE/log" 2>&1 || true
  tail -n 25 "$PLACE/log" >&2
  fail "$1; log: $PLACE/log; $(way_out)"
}

docker_state() { # ready, paused, starting or down
  case $(docker_container_field '{{.State.Status}}') in
    paused) echo paused ;;
    running) if answers; then echo ready; else echo starting; fi ;;
    *) echo down ;;
  esac
}

docker_container_field() {
  local container
  container=$(compose ps --all --quiet "$BROKER") && [[ -n $container ]] &&
    docker inspect --format "$1" "$container"
}

docker_pid() {
  local pid
  pid=$(docker_container_field '{{.State.Pid}}') && ((pid > 0)) && printf '%s\n' "$pid"
}

docker_kill9() {
  if [[ $(docker_state) == paused ]]; then compose unpause "$BROKER" >&2; fi # no signal reaches it otherwise
  compose kill --signal KILL "$BROKER" >&2
}

docker_pause() { compose pause "$BROKER" >&2; }
docker_resume() { compose unpause "$BROKER" >&2; }
docker_logs() { compose logs --no-color --tail 100 "$BROKER"; }

# The stopped container keeps the data.
docker_down() {
  if [[ $(docker_state) == paused ]]; then compose unpause "$BROKER" >&2; fi
  compose stop "$BROKER" >&2
}

docker_wipe() { compose down --volumes --timeout 1 >&2; }
