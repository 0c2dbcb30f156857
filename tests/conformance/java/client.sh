#!/usr/bin/env bash
# Builds the Java client program against one client version and runs it.
#   client.sh prepare VERSION    builds into the cache, only when sources changed
#   client.sh run VERSION        the environment is described in ../SCENARIOS.md
# Exit code 77: no Java or Maven on this machine.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -eq 2 ] || { sed -n '2,5p' "$0" >&2; exit 2; }
version=$2
out=${APOGEE_CACHE:-$HOME/.cache/apogee}/conformance/java-$version
java=${JAVA_HOME:+$JAVA_HOME/bin/}java

for tool in "$java" mvn; do
  command -v "$tool" >/dev/null || { echo "java-$version: no $tool here" >&2; exit 77; }
done

prepare() {
  local stamp
  stamp=$(cd "$here" && find pom.xml src -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)
  [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && return 0
  mkdir -p "$out"
  (
    flock 9
    [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
    rm -rf "$out/lib" "$out/build" "$out/stamp"
    local left_out=none
    case $version in 4.*) left_out='**/PopScenarios.java' ;; esac
    mvn -q -B -f "$here/pom.xml" "-Drocketmq.version=$version" "-DleftOut=$left_out" "-DbuildDirectory=$out/build" \
      -DincludeScope=runtime "-DoutputDirectory=$out/lib" \
      package dependency:copy-dependencies >&2 || exit 1
    echo "$stamp" >"$out/stamp"
  ) 9>"$out/.lock"
}

run() {
  # Client logs and the offset files of broadcasting consumers go to a folder that is removed.
  local status=0
  home=$(mktemp -d)
  trap 'rm -rf "$home"' EXIT
  timeout -k 5 "${CLIENT_SECONDS:-240}" "$java" -Xmx768m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    -Djava.net.preferIPv4Stack=true -Dfile.encoding=UTF-8 "-Duser.home=$home" \
    "-Drocketmq.client.localOffsetStoreDir=$home/offsets" "-Drocketmq.client.logRoot=$home/logs" \
    -Drocketmq.client.logLevel=ERROR -Dlabel="java-$version" \
    -cp "$out/build/conformance.jar:$out/lib/*" apogee.conformance.Main || status=$?
  [ $status -ne 124 ] || echo "case java-$version whole-run FAILED time limit"
  return $status
}

case $1 in
  prepare) prepare ;;
  run) prepare; run ;;
  *) exit 2 ;;
esac
