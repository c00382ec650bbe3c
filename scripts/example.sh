#!/usr/bin/env bash
# Runs one of the programs in examples/, with a broker of its own that is gone when it ends:
# example.sh NAME. Where the variable that the program reads is set already, it uses that.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1-} in
  axum-moka | outbox-free-postgres) broker=postgres variable=DATABASE_URL ;;
  custom-codec) broker=redis variable=REDIS_URL ;;
  custom-transport) broker='' variable='' ;;
  kafka-warm-start) broker=kafka variable=KAFKA_URL ;;
  *)
    echo "usage: example.sh axum-moka | custom-codec | custom-transport | kafka-warm-start | outbox-free-postgres" >&2
    exit 2
    ;;
esac

cargo build --package "$1"
if [ -n "$broker" ] && [ -z "${!variable-}" ]; then
  instance=example-$$
  trap 'scripts/services.sh down "$broker" --instance "$instance" --wipe >/dev/null 2>&1' EXIT
  scripts/services.sh up "$broker" --instance "$instance" --owner $$ >&2
  url=$(scripts/services.sh url "$broker" --instance "$instance")
  export "$variable=$url"
fi
cargo run --quiet --package "$1"
