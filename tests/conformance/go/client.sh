#!/usr/bin/env bash
# Builds the Go client program and runs it.
#   client.sh prepare    builds into the cache; Go itself knows what is up to date
#   client.sh run        the environment is described in ../SCENARIOS.md
# Exit code 77: no Go on this machine.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -eq 1 ] || { sed -n '2,5p' "$0" >&2; exit 2; }
out=${APOGEE_CACHE:-$HOME/.cache/apogee}/conformance/go
command -v go >/dev/null || { echo "go-2.1.2: no go here" >&2; exit 77; }

prepare() {
  mkdir -p "$out"
  (
    flock 9
    cd "$here" && go build -o "$out/conformance" .
  ) 9>"$out/.lock"
}

run() {
  # The offset files of broadcasting consumers and the client's log go to a folder that is removed.
  local status=0
  home=$(mktemp -d)
  trap 'rm -rf "$home"' EXIT
  HOME=$home timeout -k 5 "${CLIENT_SECONDS:-240}" "$out/conformance" || status=$?
  [ $status -ne 124 ] || echo "case go-2.1.2 whole-run FAILED time limit"
  return $status
}

case $1 in
  prepare) prepare ;;
  run) prepare; run ;;
  *) exit 2 ;;
esac
