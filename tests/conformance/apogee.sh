#!/usr/bin/env bash
# Runs our server with the commands that reference/reference.sh has for the original, so that the
# runner and the client programs need not know which of the two they talk to.
#   apogee.sh start --home DIR --ns PORT --broker PORT [--conf EXTRA_PROPERTIES]    returns when it accepts
#   apogee.sh stop --home DIR                             SIGTERM, then waits
#   apogee.sh kill --home DIR                             SIGKILL
#   apogee.sh restart-broker --home DIR                   stop if it runs, start as before
# The program is $APOGEE_BIN, by default target/release/apogee of this checkout.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${APOGEE_BIN:-$here/../../target/release/apogee}
start_seconds=${START_SECONDS:-60}
stop_seconds=${STOP_SECONDS:-60}

die() { echo "apogee.sh: $*" >&2; exit 1; }

alive() { # prints the process id while it is still the process that was started here
  local pid
  pid=$(cat "$home/pid" 2>/dev/null) || return 1
  tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF -- "$home/data" && echo "$pid"
}

launch() {
  local end=$((SECONDS + start_seconds))
  alive >/dev/null && die "runs already in $home"
  # A file of its own for each start: the line that is waited for must be a new one.
  : >"$home/stdout.log"
  setsid "$bin" --data "$home/data" -c "$home/broker.properties" \
    --namesrv-listen "127.0.0.1:$(cat "$home/ns")" \
    >>"$home/stdout.log" 2>>"$home/stderr.log" </dev/null &
  echo $! >"$home/pid"
  until grep -q ready "$home/stdout.log"; do
    kill -0 "$(cat "$home/pid")" 2>/dev/null || die "died: $(tail -n 3 "$home/stderr.log")"
    [ $SECONDS -lt $end ] || { end KILL; die "not ready in $start_seconds s"; }
    sleep 0.05
  done
}

end() { # signal
  local pid limit=$((SECONDS + stop_seconds))
  if pid=$(alive); then
    kill "-$1" "$pid" || true
    while alive >/dev/null; do
      if [ $SECONDS -ge $limit ]; then
        echo "apogee.sh: does not end in $stop_seconds s: kill -9" >&2
        kill -9 "$pid" || true
      fi
      sleep 0.05
    done
  fi
  rm -f "$home/pid"
}

main() { # one function, read as a whole, so that editing the file does not disturb a run
  local cmd=${1:-help} home="" ns="" broker="" conf=""
  [ $# -eq 0 ] || shift
  while [ $# -gt 0 ]; do
    case $1 in
      --home) home=$2 ;; --ns) ns=$2 ;; --broker) broker=$2 ;; --conf) conf=$2 ;;
      *) die "unknown option $1" ;;
    esac
    shift 2
  done
  [ -n "$home" ] || { sed -n '2,9p' "$0" >&2; exit 2; }
  mkdir -p "$home"
  home=$(cd "$home" && pwd)
  case $cmd in
    start)
      { [ -n "$ns" ] && [ -n "$broker" ]; } || die "start needs --ns and --broker"
      [ -x "$bin" ] || die "no program $bin: build it first"
      echo "$ns" >"$home/ns"
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
mappedFileSizeCommitLog=104857600
diskMaxUsedSpaceRatio=95
autoCreateTopicEnable=true
enablePropertyFilter=true
transactionTimeOut=2000
transactionCheckInterval=2000
enableLmq=true
enableMultiDispatch=true
C
      [ -z "$conf" ] || cat "$conf" >>"$home/broker.properties"
      launch ;;
    stop) end TERM ;;
    kill) end KILL ;;
    restart-broker) end TERM; launch ;;
    *) sed -n '2,9p' "$0" >&2; exit 2 ;;
  esac
}
main "$@"
exit $?
