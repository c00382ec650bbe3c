#!/usr/bin/env bash
# usage: probe.sh PROTOCOL HOST PORT [SECONDS]     protocols: redis nats postgres kafka tcp
#
# Exit 0 when the broker answers in its own protocol within the time limit (default: 1 second). A
# process of its own, because bash has no time limit for a connect.
set -euo pipefail

if [[ ${5:-} != limited ]]; then
  exec timeout "${4:-1}" bash "$0" "$1" "$2" "$3" "${4:-1}" limited
fi

{ exec 3<>"/dev/tcp/$2/$3"; } 2>/dev/null

answer() { # answer BYTES
  local text
  IFS= read -r -N "$1" -u 3 text
  printf '%s' "$text"
}

case $1 in
  tcp) ;;
  redis) # -NOAUTH comes from a server that is ready but wants a password; -LOADING is not ready
    printf 'PING\r\n' >&3
    [[ $(answer 5) =~ ^(\+PONG|-NOAU)$ ]]
    ;;
  nats) # the greeting
    [[ $(answer 4) == INFO ]]
    ;;
  postgres) # SSLRequest: answered by S or N
    printf '\x00\x00\x00\x08\x04\xd2\x16\x2f' >&3
    [[ $(answer 1) == [SN] ]]
    ;;
  kafka) # ApiVersions v0 with correlation id 1, which comes back after the length
    printf '\x00\x00\x00\x0a\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff' >&3
    [[ $(head -c 8 <&3 | od -An -tx1) == *' 00 00 00 01' ]]
    ;;
  *)
    printf 'probe.sh: unknown protocol %s\n' "$1" >&2
    exit 2
    ;;
esac
