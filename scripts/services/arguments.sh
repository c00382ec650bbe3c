# shellcheck shell=bash
# The command line, checked in full before anything is done.

VERB='' INSTANCE=main OWNER='' WIPE='' EVERY_INSTANCE=''
BROKERS=() SETTINGS=()

parse_arguments() {
  VERB=${1:-help}
  shift || true
  while (($#)); do
    case $1 in
      --instance) need_value "$@" && INSTANCE=$2 && shift ;;
      --owner) need_value "$@" && OWNER=$2 && shift ;;
      --set) need_value "$@" && SETTINGS+=("$2") && shift ;;
      --wipe) WIPE=yes ;;
      --all) EVERY_INSTANCE=yes ;;
      --help | -h) VERB=help ;;
      -*) refuse "unknown option '$1'" ;;
      *) BROKERS+=("$1") ;;
    esac
    shift
  done
  check_verb
  check_brokers
  check_options
}

need_value() {
  [[ $# -ge 2 && -n $2 ]] || refuse "$1 needs a value"
}

check_verb() {
  case $VERB in
    help | --help | -h) VERB=help ;;
    up | down | status | env | install) ;;
    wipe) ((${#BROKERS[@]} == 0)) || refuse "wipe takes no broker; for one: down BROKER --wipe" ;;
    url | pid | logs | kill9 | start | pause | resume)
      ((${#BROKERS[@]} == 1)) || refuse "$VERB needs exactly one broker: ${ALL_BROKERS[*]}"
      ;;
    *) refuse "unknown verb '$VERB'" ;;
  esac
}

check_brokers() {
  local broker
  for broker in "${BROKERS[@]}"; do
    [[ " ${ALL_BROKERS[*]} " == *" $broker "* ]] ||
      refuse "unknown broker '$broker'; there are: ${ALL_BROKERS[*]}"
  done
  ((${#BROKERS[@]})) || BROKERS=("${ALL_BROKERS[@]}")
}

check_options() {
  [[ $INSTANCE =~ ^[A-Za-z0-9][A-Za-z0-9-]{0,62}$ ]] ||
    refuse "bad instance name '$INSTANCE': 1 to 63 letters, digits and '-', not beginning with '-'"
  [[ -z $OWNER || $OWNER =~ ^[1-9][0-9]*$ ]] || refuse "--owner needs a process id, not '$OWNER'"
  [[ -z $OWNER || $VERB == up ]] || refuse "--owner goes with up only"
  [[ -z $WIPE || $VERB == down ]] || refuse "--wipe goes with down only"
  [[ -z $EVERY_INSTANCE || $VERB == down || $VERB == status ]] ||
    refuse "--all goes with down and status only"
  ((${#SETTINGS[@]} == 0)) && return
  [[ $VERB == up ]] || refuse "--set goes with up only"
  ((${#BROKERS[@]} == 1)) || refuse "--set is for one broker: services.sh up redis --set 'LINE'"
  [[ "${SETTINGS[*]}" != *$'\n'* ]] || refuse "--set takes one line; repeat it for more"
}
