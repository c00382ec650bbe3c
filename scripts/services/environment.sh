# shellcheck shell=bash
# The environment, checked when this file is read: the files after it build on it.

readonly MODE=${HYDRATECACHE_SERVICES_MODE:-auto}
[[ $MODE =~ ^(auto|docker|native)$ ]] ||
  refuse "HYDRATECACHE_SERVICES_MODE is '$MODE'; it can be auto, docker or native"

readonly START_TIMEOUT=${HYDRATECACHE_START_TIMEOUT:-60}
[[ $START_TIMEOUT =~ ^[1-9][0-9]{0,4}$ ]] ||
  refuse "HYDRATECACHE_START_TIMEOUT is '$START_TIMEOUT'; it is a whole number of seconds"

# PostgreSQL refuses to run as root, so a root's checkout must be open to other users (/root is not).
default_services_dir() {
  if ((EUID == 0)) && ! open_to_others "$ROOT"; then
    printf '/var/lib/hydratecache-services-%s\n' "$(path_number "$ROOT")"
  else
    printf '%s\n' "$ROOT/.services"
  fi
}

open_to_others() {
  local folder=$1 folders=()
  while [[ -n $folder ]]; do
    folders+=("$folder")
    folder=${folder%/*}
  done
  ! stat --format %A "${folders[@]}" | grep -qv '[xt]$'
}

path_number() {
  local number
  number=$(printf '%s' "$1" | cksum)
  printf '%s\n' "${number%% *}"
}

SERVICES_DIR=${HYDRATECACHE_SERVICES_DIR:-$(default_services_dir)}
[[ $SERVICES_DIR == /* ]] || SERVICES_DIR=$PWD/$SERVICES_DIR
readonly SERVICES_DIR
