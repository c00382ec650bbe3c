# shellcheck shell=bash
# One broker of one instance lives in one folder, PLACE:
#   way      native or docker: how it was started last; kept until its data is wiped
#   address  its URL, from `up` to `down`, also while it is killed or paused
#   ports    the ports it has been given; kept, so that it comes back on the same ones
#   pid      process id and start time of a native server
#   options  lines given by --set
#   owners   processes it belongs to (owners.sh)
#   log, log.1, data/ and the broker's own configuration file

BROKER='' PLACE='' LABEL='' WAY=''

# select_broker BROKER INSTANCE: what all later calls in this shell are about
select_broker() {
  BROKER=$1 INSTANCE=$2
  PLACE=$SERVICES_DIR/instances/$INSTANCE/$BROKER
  LABEL=$BROKER
  [[ $INSTANCE == main ]] || LABEL="$BROKER ($INSTANCE)"
}

make_services_dir() {
  [[ -d $SERVICES_DIR/locks ]] && return
  mkdir -p "$SERVICES_DIR/locks" "$SERVICES_DIR/ports" "$SERVICES_DIR/instances" "$SERVICES_DIR/opt"
  printf '*\n' >"$SERVICES_DIR/.gitignore"
}

recorded_way() { cat "$PLACE/way" 2>/dev/null; }
recorded_url() { cat "$PLACE/address" 2>/dev/null; }

# The client port comes first; Kafka has a second one for its controller.
ports() { cat "$PLACE/ports" 2>/dev/null; }
client_port() {
  local given
  given=$(ports) && printf '%s\n' "${given%% *}"
}

# The role, its password and the database, in every way that starts PostgreSQL.
readonly POSTGRES_NAME=hydratecache

url_at() { # url_at PORT
  case $BROKER in
    postgres) printf 'postgres://%s:%s@127.0.0.1:%s/%s\n' $POSTGRES_NAME $POSTGRES_NAME "$1" $POSTGRES_NAME ;;
    *) printf '%s://127.0.0.1:%s\n' "$BROKER" "$1" ;;
  esac
}

url_variable() { printf 'HYDRATECACHE_%s_URL\n' "${BROKER^^}"; }

way_out() {
  printf 'install what the log asks for, raise HYDRATECACHE_START_TIMEOUT, or set %s to a broker that runs\n' \
    "$(url_variable)"
}

# lock NAME [--nonblock]: held until this shell ends. Whoever wipes an instance removes its lock file
# while holding it, so a lock on a file that is no longer there is worth nothing: try again.
lock() {
  local file=$SERVICES_DIR/locks/$1 limit=${2:---timeout=$((START_TIMEOUT + 30))} descriptor
  make_services_dir
  while :; do
    exec {descriptor}>"$file"
    flock "$limit" "$descriptor" || return 1
    [[ $file -ef /proc/self/fd/$descriptor ]] && return
    exec {descriptor}>&-
  done
}

lock_place() {
  lock "$INSTANCE.$BROKER" || fail "another call of services.sh has been busy with it for too long"
}

# forget: removes what is left of a stopped instance. Only while its lock is held.
forget() {
  release_ports
  if [[ -e $PLACE ]]; then rm -rf "$PLACE"; fi
  rmdir "${PLACE%/*}" 2>/dev/null || true
  rm -f "$SERVICES_DIR/locks/$INSTANCE.$BROKER"
}
