#!/usr/bin/env bash
# Runs the original's mqadmin, one command after the other in one JVM, against a server.
#   client.sh prepare VERSION    fetches the tools and builds the runner into the cache
#   client.sh run VERSION        the environment is described in ../SCENARIOS.md
# SHOW=1 prints what every command printed. Exit code 77: no Java or Maven on this machine.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -eq 2 ] || { sed -n '2,5p' "$0" >&2; exit 2; }
version=$2
out=${APOGEE_CACHE:-$HOME/.cache/apogee}/conformance/mqadmin-$version
java=${JAVA_HOME:+$JAVA_HOME/bin/}java

for tool in "$java" "${java}c" mvn; do
  command -v "$tool" >/dev/null || { echo "mqadmin-$version: no $tool here" >&2; exit 77; }
done

lib() { ROCKETMQ_VERSION=$version "$here/../reference/reference.sh" lib; }

prepare() {
  local stamp
  stamp=$(cat "$here"/*.java | sha256sum)
  [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && return 0
  mkdir -p "$out"
  (
    flock 9
    [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
    rm -rf "$out/build" "$out/stamp"
    "${java}c" -nowarn -d "$out/build" -cp "$(lib)" "$here"/*.java || exit 1
    echo "$stamp" >"$out/stamp"
  ) 9>"$out/.lock"
}

run() {
  # Some commands write files where they are run; all of them go to a folder that is removed.
  local status=0 jars
  jars=$(lib)
  home=$(mktemp -d)
  trap 'rm -rf "$home"' EXIT
  cd "$home"
  timeout -k 5 "${CLIENT_SECONDS:-240}" "$java" -Xmx512m -XX:+UseSerialGC \
    -XX:TieredStopAtLevel=1 -Djava.net.preferIPv4Stack=true -Dfile.encoding=UTF-8 \
    "-Duser.home=$home" "-Djava.io.tmpdir=$home" -Drocketmq.client.logUseSlf4j=false \
    -Drmq.logback.configurationFile=rmq.tools.logback.xml -Dlabel="mqadmin-$version" \
    "-Dtable=$here/../../../docs/mqadmin.md" -cp "$out/build:$jars" Main || status=$?
  [ $status -ne 124 ] || echo "case mqadmin-$version whole-run FAILED time limit"
  return $status
}

case $1 in
  prepare) prepare ;;
  run) prepare; run ;;
  *) exit 2 ;;
esac
