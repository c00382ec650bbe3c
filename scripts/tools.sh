#!/usr/bin/env bash
# Installs command-line tools that tests run, unless they are there: tools.sh COMMAND:PACKAGE ...
# Needs Debian or a relative of it; elsewhere, put the commands on PATH.
set -euo pipefail
PATH=$PATH:/usr/sbin # where Debian keeps servers

packages=()
for pair in "$@"; do
  command -v "${pair%%:*}" >/dev/null || packages+=("${pair#*:}")
done
((${#packages[@]})) || exit 0

if ! command -v apt-get >/dev/null; then
  echo "tools.sh: ${packages[*]} is missing, and there is no apt-get to install it with: put it on PATH" >&2
  exit 1
fi
as_root=()
((EUID == 0)) || as_root=(sudo -n)
# RUNLEVEL=1 keeps a package from starting a service of its own.
install=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get --quiet --quiet --yes -o Acquire::Retries=3 install --no-install-recommends)
if ! "${as_root[@]}" "${install[@]}" "${packages[@]}" >/dev/null; then
  "${as_root[@]}" apt-get --quiet --quiet -o Acquire::Retries=3 update
  "${as_root[@]}" "${install[@]}" "${packages[@]}" >/dev/null
fi
