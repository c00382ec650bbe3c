# shellcheck shell=bash
# Redis from the system's packages.

redis_installed() { command -v redis-server >/dev/null; }
redis_install() { install_packages redis-server; }
redis_ports() { echo 1; }
redis_ready() { answers; }
redis_stop_signal() { echo TERM; }

redis_prepare() {
  {
    cat <<END
bind 127.0.0.1
port $(client_port)
dir "$PLACE/data"
daemonize no
save ""
appendonly no
enable-debug-command local
END
    if [[ -f $PLACE/options ]]; then cat "$PLACE/options"; fi
  } >"$PLACE/redis.conf"
  COMMAND=(redis-server "$PLACE/redis.conf")
}
