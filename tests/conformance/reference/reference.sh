#!/usr/bin/env bash
# Runs the original RocketMQ (Java) from its published artifacts: one name server and one broker on
# 127.0.0.1. The client programs are proven against it. "reference.sh help" lists the commands.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=${ROCKETMQ_VERSION:-$(sed -n 's:.*<rocketmq.version>\(.*\)</rocketmq.version>.*:\1:p' "$here/pom.xml")}
cache=${APOGEE_CACHE:-$HOME/.cache/apogee}/reference/$version
lib=$cache/lib
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
start_seconds=${START_SECONDS:-180}
stop_seconds=${STOP_SECONDS:-90}

# The store maps and unmaps buffers by JDK internals, which Java 17 hides unless told otherwise.
open_jdk=(
  --add-exports=java.base/sun.nio.ch=ALL-UNNAMED --add-exports=java.base/jdk.internal.ref=ALL-UNNAMED
  --add-opens=java.base/java.nio=ALL-UNNAMED --add-opens=java.base/java.lang=ALL-UNNAMED
  --add-opens=java.base/sun.nio.ch=ALL-UNNAMED
)

say() { echo "reference: $*" >&2; }
die() { say "$*"; exit 1; }

usage() {
  cat <<'U'
reference.sh start --home DIR --ns PORT --broker PORT [--conf EXTRA_PROPERTIES]
reference.sh stop --home DIR             broker first, then name server, both gracefully
reference.sh kill --home DIR             kill -9 the broker
reference.sh restart-broker --home DIR   graceful stop if it runs, start, return when it accepts
reference.sh mqadmin ARGS...
reference.sh run MAINCLASS ARGS...       CLASSPATH_EXTRA goes in front, RUN_OPTS to the JVM
reference.sh lib                         fetches if needed and prints the class path
The broker uses PORT, PORT-2 (fast) and PORT+1 (replication). DIR keeps store, logs and settings.
U
}

fetch() {
  [ -f "$cache/.complete" ] && return 0
  mkdir -p "$cache"
  (
    flock 9
    [ -f "$cache/.complete" ] && exit 0
    say "fetching RocketMQ $version"
    mvn -q -B -f "$here/pom.xml" "-Drocketmq.version=$version" dependency:copy-dependencies \
      -DincludeScope=runtime "-DoutputDirectory=$lib" >&2 || exit 1
    touch "$cache/.complete"
  ) 9>"$cache/.lock" || die "fetching failed"
}

alive() { # part: prints the process id while it is still the process that was started here
  local pid
  pid=$(cat "$home/$1.pid" 2>/dev/null) || return 1
  tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qx -- "-Duser.home=$home/$1" && echo "$pid"
}

launch() { # part marker heap-options main arguments...: returns once the marker was printed
  local part=$1 marker=$2 heap=$3 end log=$home/$1/stdout.log
  shift 3
  alive "$part" >/dev/null && die "$part runs already in $home"
  mkdir -p "$home/$part"
  # Made here: the process in the background may not have opened it when it is first looked into.
  : >"$log"
  # shellcheck disable=SC2086  # heap holds several options
  ROCKETMQ_HOME=$home/$part setsid "$java" "${open_jdk[@]}" $heap "-Duser.home=$home/$part" \
    "-Drmq.logback.configurationFile=rmq.$part.logback.xml" -cp "$lib/*" "$@" \
    >"$log" 2>&1 </dev/null &
  echo $! >"$home/$part.pid"
  end=$((SECONDS + start_seconds))
  until grep -q "$marker" "$log"; do
    kill -0 "$(cat "$home/$part.pid")" 2>/dev/null || die "$part died, see $log"
    [ $SECONDS -lt $end ] || { end_part KILL "$part"; die "$part is not up in $start_seconds s"; }
    sleep 0.1
  done
}

end_part() { # signal part
  local pid end=$((SECONDS + stop_seconds))
  if pid=$(alive "$2"); then
    kill "-$1" "$pid" || true
    while alive "$2" >/dev/null; do
      if [ $SECONDS -ge $end ]; then
        say "$2 does not end in $stop_seconds s: kill -9"
        kill -9 "$pid" || true
      fi
      sleep 0.05
    done
  fi
  rm -f "$home/$2.pid"
}

start_broker() {
  launch broker "boot success" "-Xms256m -Xmx1g -XX:MaxDirectMemorySize=1g" \
    org.apache.rocketmq.broker.BrokerStartup -c "$home/broker.properties"
}

start() {
  local ns="" broker="" conf=""
  while [ $# -gt 0 ]; do
    case $1 in
      --ns) ns=$2 ;; --broker) broker=$2 ;; --conf) conf=$2 ;;
      *) usage >&2; die "unknown option $1" ;;
    esac
    shift 2
  done
  { [ -n "$ns" ] && [ -n "$broker" ]; } || die "start needs --ns and --broker"
  fetch
  cat >"$home/namesrv.properties" <<C
listenPort=$ns
bindAddress=127.0.0.1
C
  # transactionOp*: version 5.5.0 otherwise keeps one core busy after the first half message.
  # waitTime*: a cold broker on a busy machine otherwise turns sends away after 200 ms in its queue.
  cat >"$home/broker.properties" <<C
brokerClusterName=DefaultCluster
brokerName=broker-a
brokerId=0
namesrvAddr=127.0.0.1:$ns
listenPort=$broker
haListenPort=$((broker + 1))
bindAddress=127.0.0.1
brokerIP1=127.0.0.1
brokerIP2=127.0.0.1
storePathRootDir=$home/broker/store
storePathCommitLog=$home/broker/store/commitlog
mappedFileSizeCommitLog=104857600
diskMaxUsedSpaceRatio=95
autoCreateTopicEnable=true
enablePropertyFilter=true
transactionTimeOut=2000
transactionCheckInterval=2000
enableLmq=true
enableMultiDispatch=true
transactionOpBatchInterval=2000000000
transactionOpMsgMaxSize=1
waitTimeMillsInSendQueue=10000
C
  [ -z "$conf" ] || cat "$conf" >>"$home/broker.properties"
  launch namesrv "boot success" "-Xms64m -Xmx256m" \
    org.apache.rocketmq.namesrv.NamesrvStartup -c "$home/namesrv.properties"
  # A broker that fails must not leave the name server behind: die ends only a subshell here.
  (start_broker) || { end_part TERM namesrv; exit 1; }
  say "RocketMQ $version is up: name server 127.0.0.1:$ns, broker 127.0.0.1:$broker"
}

main() { # one function, read as a whole, so that editing the file does not disturb a run
  local cmd=${1:-help} home="" rest=()
  [ $# -eq 0 ] || shift
  case $cmd in
    start | stop | kill | restart-broker)
      while [ $# -gt 0 ]; do
        if [ "$1" = --home ]; then home=$2; shift 2; else rest+=("$1"); shift; fi
      done
      [ -n "$home" ] || die "$cmd needs --home DIR"
      mkdir -p "$home"
      home=$(cd "$home" && pwd)
      ;;
  esac
  case $cmd in
    start) start "${rest[@]}" ;;
    stop) end_part TERM broker; end_part TERM namesrv ;;
    kill) end_part KILL broker ;;
    restart-broker) fetch; end_part TERM broker; start_broker ;;
    mqadmin) fetch
      exec "$java" "${open_jdk[@]}" -Xmx256m "-Duser.home=$cache/tools" \
        -Drmq.logback.configurationFile=rmq.tools.logback.xml \
        -cp "$lib/*" org.apache.rocketmq.tools.command.MQAdminStartup "$@" ;;
    run) fetch
      # shellcheck disable=SC2086
      exec "$java" "${open_jdk[@]}" ${RUN_OPTS:--Xmx512m} "-Duser.home=$cache/tools" \
        -cp "${CLASSPATH_EXTRA:+$CLASSPATH_EXTRA:}$lib/*" "$@" ;;
    lib) fetch; echo "$lib/*" ;;
    *) usage ;;
  esac
}
main "$@"
exit $?
