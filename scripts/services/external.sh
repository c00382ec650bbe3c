# shellcheck shell=bash
# A broker that the caller supplies by HYDRATECACHE_<BROKER>_URL: checked, never controlled.

# Fails where no URL applies. A URL that is our own address (from `eval "$(services.sh env)"`) still
# means our own broker.
external_url() {
  local variable url
  [[ $MODE == auto && $INSTANCE == main ]] || return 1
  variable=$(url_variable)
  url=${!variable:-}
  [[ -n $url && $url != "$(recorded_url)" && ! $url =~ ^[a-z]+://([^@/]*@)?127\.0\.0\.1:$(client_port)(/|$) ]] || return 1
  printf '%s\n' "$url"
}

# The address without credentials, which is all that may be printed.
external_address() {
  local address=${1#*://}
  address=${address%%[/?]*}
  printf '%s\n' "${address##*@}"
}

external_up() { # external_up URL
  local limit=${HYDRATECACHE_START_TIMEOUT:-5} deadline
  refuse_options "$1"
  deadline=$((SECONDS + limit))
  until external_answers "$1"; do
    if ((SECONDS >= deadline)); then
      fail "nothing that speaks $BROKER answers at $(external_address "$1") within $limit s, where" \
        "$(url_variable) points; correct it, start that broker, or unset it to get one of our own"
    fi
    sleep 0.1
  done
  say "answers at $(external_address "$1") (from $(url_variable))"
}

refuse_options() {
  ((${#SETTINGS[@]} == 0)) || fail "--set cannot reach the broker of $(url_variable); unset it, or add --instance NAME"
}

# Any one of several servers is enough.
external_answers() {
  local server servers protocol=$BROKER
  [[ ${1%%://*} =~ ^(rediss|tls|wss?|.*ssl)$ ]] && protocol=tcp # it answers in TLS only
  IFS=, read -ra servers <<<"$(external_address "$1")"
  for server in "${servers[@]}"; do
    if probe_server "$protocol" "$server"; then return 0; fi
  done
  return 1
}

probe_server() {
  local host=${2##*://} port
  host=${host##*@}
  port=$(default_port)
  if [[ $host =~ ^(.*[^:]|\[.*\]):([0-9]+)$ ]]; then
    host=${BASH_REMATCH[1]} port=${BASH_REMATCH[2]}
  fi
  host=${host#[} host=${host%]}
  "$SCRIPTS/probe.sh" "$1" "$host" "$port" 3 2>/dev/null
}

default_port() {
  case $BROKER in
    redis) echo 6379 ;;
    nats) echo 4222 ;;
    postgres) echo 5432 ;;
    kafka) echo 9092 ;;
  esac
}

external_refuse() {
  fail "cannot $VERB: it is not ours, but the one of $(url_variable); add --instance NAME (after up" \
    "$BROKER --instance NAME) to have one that can be killed, or unset $(url_variable)"
}
