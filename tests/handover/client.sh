#!/usr/bin/env bash
# Builds the program of this folder against the original's own client library and runs it.
#   client.sh prepare             builds into the cache
#   client.sh run ARGUMENTS...    see Main.java; NAMESRV_ADDR and BROKER_ADDR name the server
# Exit code 77: no Java or Maven on this machine.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${APOGEE_CACHE:-$HOME/.cache/apogee}/handover
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
reference=$here/../conformance/reference/reference.sh

for tool in "$java" "${java}c" mvn; do
  command -v "$tool" >/dev/null || { echo "handover: no $tool here" >&2; exit 77; }
done

prepare() {
  local stamp
  stamp=$(cat "$here"/*.java | sha256sum)
  [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && return 0
  mkdir -p "$out"
  (
    flock 9
    [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
    rm -rf "$out/build" "$out/stamp"
    "${java}c" -nowarn -d "$out/build" -cp "$("$reference" lib)" "$here"/*.java || exit 1
    echo "$stamp" >"$out/stamp"
  ) 9>"$out/.lock"
}

case ${1:-} in
  prepare) prepare ;;
  run) shift
    prepare
    CLASSPATH_EXTRA=$out/build \
      RUN_OPTS="-Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Drocketmq.client.logLevel=ERROR
        -Drocketmq.client.logUseSlf4j=false -Dfile.encoding=UTF-8" \
      exec "$reference" run Main "$@" ;;
  *) sed -n '2,5p' "$0" >&2; exit 2 ;;
esac
