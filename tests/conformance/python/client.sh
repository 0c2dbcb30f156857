#!/usr/bin/env bash
# Installs the Python client into an environment of its own and runs the scenarios with it.
#   client.sh prepare    makes the environment in the cache, once
#   client.sh run        the environment variables are described in ../SCENARIOS.md
# Exit code 77: no Python 3 on this machine.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -eq 1 ] || { sed -n '2,5p' "$0" >&2; exit 2; }
version=0.4.4
out=${APOGEE_CACHE:-$HOME/.cache/apogee}/conformance/python-$version
command -v python3 >/dev/null || { echo "python-$version: no python3 here" >&2; exit 77; }

prepare() {
  [ -f "$out/.complete" ] && return 0
  mkdir -p "$out"
  (
    flock 9
    [ -f "$out/.complete" ] && exit 0
    rm -rf "$out/venv"
    python3 -m venv "$out/venv" && "$out/venv/bin/pip" -q install "rocketmq==$version" >&2 || exit 1
    # The wheel holds a native library: it must load, else nothing here means anything.
    "$out/venv/bin/python" -c "import rocketmq.client" || exit 1
    touch "$out/.complete"
  ) 9>"$out/.lock"
}

run() {
  # The native core logs below HOME.
  local status=0
  home=$(mktemp -d)
  trap 'rm -rf "$home"' EXIT
  HOME=$home timeout -k 5 "${CLIENT_SECONDS:-240}" "$out/venv/bin/python" "$here/run.py" || status=$?
  [ $status -ne 124 ] || echo "case python-$version whole-run FAILED time limit"
  return $status
}

case $1 in
  prepare) prepare ;;
  run) prepare; run ;;
  *) exit 2 ;;
esac
