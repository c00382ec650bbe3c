#!/usr/bin/env bash
# Tests services.sh on real brokers, natively, on instances of its own.
# usage: test.sh [all | BROKER...]     default: redis
set -uo pipefail

here=$(cd -P "${BASH_SOURCE[0]%/*}" && pwd)
suffix=test-$$
passed=0 failed=0
output='' errors=''
export HYDRATECACHE_SERVICES_MODE=native
unset HYDRATECACHE_{REDIS,NATS,POSTGRES,KAFKA}_URL

services() { "$here/../services.sh" "$@"; }

expect() { # expect PROMISE COMMAND...
  local promise=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    printf 'FAILED: %s\n  stdout: %s\n  stderr: %s\n' "$promise" "$output" "$errors"
  fi
}

# exits CODE ARGUMENT...: runs services.sh; keeps what it printed
exits() {
  local code=$1 actual=0 captured
  shift
  captured=$(mktemp)
  output=$(services "$@" 2>"$captured") || actual=$?
  errors=$(<"$captured")
  rm -f "$captured"
  ((actual == code))
}

says() { [[ $errors == *"$1"* ]]; }
prints() { [[ $output == "$1" ]]; }
is_empty() { [[ -z $1 ]]; }
differ() { [[ -n $1 && -n $2 && $1 != "$2" ]]; }

answers() { # answers BROKER URL [SECONDS]
  local address=${2##*[/@]}
  [[ $1 != postgres ]] || { address=${2##*@} && address=${address%%/*}; }
  "$here/probe.sh" "$1" "${address%:*}" "${address##*:}" "${3:-10}" 2>/dev/null
}

refuses() { # refuses URL: nobody listens there any more
  local address=${1##*@}
  address=${address##*://}
  address=${address%%/*}
  ! (exec 3<>"/dev/tcp/${address%:*}/${address##*:}") 2>/dev/null
}

silent() { ! answers "$@" 1; }

has_gone() { ! kill -0 "$1" 2>/dev/null || [[ $(</proc/"$1"/stat) == *') Z '* ]]; }

life_of() { # life_of BROKER
  local broker=$1 one=(--instance "a-$suffix") two=(--instance "b-$suffix") url other pid
  expect "$broker: up" exits 0 up "$broker" "${one[@]}"
  expect "$broker: up prints nothing on stdout" is_empty "$output"
  expect "$broker: url" exits 0 url "$broker" "${one[@]}"
  url=$output
  expect "$broker: its url answers" answers "$broker" "$url"
  expect "$broker: up again does nothing" exits 0 up "$broker" "${one[@]}"
  expect "$broker: and says so" says already
  expect "$broker: env" exits 0 env "$broker" "${one[@]}"
  expect "$broker: env can be evaluated" prints "export HYDRATECACHE_${broker^^}_URL=$url"

  expect "$broker: a second instance" exits 0 up "$broker" "${two[@]}"
  expect "$broker: has a url" exits 0 url "$broker" "${two[@]}"
  other=$output
  expect "$broker: of its own" differ "$url" "$other"

  expect "$broker: pause" exits 0 pause "$broker" "${one[@]}"
  expect "$broker: no answer while paused" silent "$broker" "$url"
  expect "$broker: status of a paused broker is not success" exits 1 status "$broker" "${one[@]}"
  expect "$broker: the second instance still answers" answers "$broker" "$other"
  expect "$broker: resume" exits 0 resume "$broker" "${one[@]}"
  expect "$broker: answers again" answers "$broker" "$url"

  expect "$broker: pid" exits 0 pid "$broker" "${one[@]}"
  pid=$output
  expect "$broker: kill9" exits 0 kill9 "$broker" "${one[@]}"
  expect "$broker: its process has gone" has_gone "$pid"
  expect "$broker: its port is closed" refuses "$url"
  expect "$broker: kill9 of a killed broker is an error" exits 1 kill9 "$broker" "${one[@]}"
  expect "$broker: its url stays known" exits 0 url "$broker" "${one[@]}"
  expect "$broker: unchanged" prints "$url"
  expect "$broker: start" exits 0 start "$broker" "${one[@]}"
  expect "$broker: answers on the same port" answers "$broker" "$url"

  expect "$broker: pause before kill9" exits 0 pause "$broker" "${one[@]}"
  expect "$broker: kill9 while paused" exits 0 kill9 "$broker" "${one[@]}"
  expect "$broker: start after that" exits 0 start "$broker" "${one[@]}"

  expect "$broker: down" exits 0 down "$broker" "${one[@]}"
  expect "$broker: port closed after down" refuses "$url"
  expect "$broker: no url after down" exits 1 url "$broker" "${one[@]}"
  expect "$broker: which names the way out" says "up $broker"
  expect "$broker: the second instance outlives the first" answers "$broker" "$other"
  expect "$broker: down --wipe" exits 0 down "$broker" "${one[@]}" --wipe
  expect "$broker: down --wipe of the second" exits 0 down "$broker" "${two[@]}" --wipe
  expect "$broker: gone" refuses "$other"
}

wrong_usage() {
  expect "unknown verb" exits 2 explode
  expect "named" says "unknown verb 'explode'"
  expect "unknown broker" exits 2 up rabbit
  expect "named" says "unknown broker 'rabbit'"
  expect "bad instance name" exits 2 up redis --instance ../etc
  expect "named" says "bad instance name '../etc'"
  expect "unknown option" exits 2 up redis --fast
  expect "option without value" exits 2 up redis --instance
  expect "kill9 without broker" exits 2 kill9
  expect "--set for several brokers" exits 2 up redis nats --set 'debug true'
  expect "says whom it is for" says "--set is for one broker"
  expect "bad mode" env HYDRATECACHE_SERVICES_MODE=cloud bash -c "! '$here/../services.sh' up redis 2>/dev/null"
}

urls() {
  local HYDRATECACHE_SERVICES_MODE=auto HYDRATECACHE_START_TIMEOUT=1 HYDRATECACHE_REDIS_URL='redis://me:secret@127.0.0.1:1'
  export HYDRATECACHE_SERVICES_MODE HYDRATECACHE_START_TIMEOUT HYDRATECACHE_REDIS_URL
  expect "an unreachable URL is an error" exits 1 up redis
  expect "that names its variable" says HYDRATECACHE_REDIS_URL
  expect "and its address" says 127.0.0.1:1
  expect "without its password" eval '! says secret'
  expect "a supplied broker cannot be killed" exits 1 kill9 redis
  expect "and the way out is named" says --instance
  expect "url prints it" exits 0 url redis
  expect "as it was given" prints "$HYDRATECACHE_REDIS_URL"
  unset HYDRATECACHE_REDIS_URL
}

redis_options() {
  local one=(--instance "c-$suffix") url
  expect "--set" exits 0 up redis "${one[@]}" --set 'maxmemory 10mb' --set 'requirepass secret'
  expect "url" exits 0 url redis "${one[@]}"
  url=$output
  expect "a setting is in force" setting_is "$url" maxmemory 10485760
  expect "other options while it is up are an error" exits 1 up redis "${one[@]}" --set 'maxmemory 20mb'
  expect "kill9" exits 0 kill9 redis "${one[@]}"
  expect "start" exits 0 start redis "${one[@]}"
  expect "start keeps the setting" setting_is "$url" maxmemory 10485760
  expect "down" exits 0 down redis "${one[@]}"
  expect "a setting that Redis does not know is an error" exits 1 up redis "${one[@]}" --set 'nonsense 1'
  expect "with its log" says /log
  expect "down --wipe" exits 0 down redis "${one[@]}" --wipe
}

setting_is() { # setting_is URL NAME VALUE
  local line
  exec 3<>"/dev/tcp/127.0.0.1/${1##*:}"
  printf 'AUTH secret\r\nCONFIG GET %s\r\nQUIT\r\n' "$2" >&3
  line=$(tr -d '\r' <&3 | tr '\n' ' ')
  exec 3>&-
  [[ $line == *" $2 "*" $3 "* ]]
}

owners() {
  local one=(--instance "d-$suffix") owner url
  sleep 60 &
  owner=$!
  expect "up with an owner" exits 0 up redis "${one[@]}" --owner $owner
  expect "url" exits 0 url redis "${one[@]}"
  url=$output
  expect "up of another instance" exits 0 up redis --instance "e-$suffix"
  expect "leaves it alone while the owner lives" answers redis "$url"
  kill $owner
  wait $owner 2>/dev/null
  expect "up of another instance, after the owner's end," exits 0 up redis --instance "e-$suffix"
  expect "stops it" refuses "$url"
  expect "and removes it" exits 1 url redis "${one[@]}"
  expect "an owner that has gone is an error" exits 1 up redis "${one[@]}" --owner $owner
  expect "down" exits 0 down redis --instance "e-$suffix" --wipe
}

concurrent_calls() {
  local call calls=() failures=0
  for _ in {1..6}; do
    services up redis --instance "f-$suffix" 2>/dev/null &
    calls+=($!)
    services up redis --instance "g$BASHPID-$RANDOM-$suffix" --owner $$ 2>/dev/null &
    calls+=($!)
  done
  for call in "${calls[@]}"; do
    wait "$call" || failures=$((failures + 1))
  done
  expect "calls at the same time all succeed" test $failures = 0
}

clean_up() {
  local instance
  for instance in $(services status --all 2>/dev/null | awk -v suffix="$suffix" 'index($2, suffix) { print $2 }' | sort -u); do
    services down --instance "$instance" --wipe 2>/dev/null
  done
}

trap clean_up EXIT

brokers=("${@:-redis}")
[[ ${brokers[*]} != all ]] || brokers=(redis nats postgres kafka)
wrong_usage
urls
for broker in "${brokers[@]}"; do
  life_of "$broker"
done
redis_options
owners
concurrent_calls
printf '%d passed, %d failed\n' $passed $failed
((failed == 0))
