#!/usr/bin/env bash
# Records what the original writes for a BatchCQ topic: make.sh NAMESRV_PORT BROKER_PORT >store.hex
# Starts RocketMQ 5.5.0 on these free ports, sends three records and prints the log and the batch
# consume queue as hexadecimal digits. Ids, times and ports differ from run to run.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
reference=$here/../../../../tests/conformance/reference/reference.sh
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
lib=$("$reference" lib)
"$reference" start --home "$home/run" --ns "$1" --broker "$2" >/dev/null
java -cp "$lib" "$here/Send.java" "127.0.0.1:$1" "127.0.0.1:$2" >/dev/null 2>&1 || failed=1
"$reference" stop --home "$home/run"
[ -z "${failed:-}" ]

digits() { # name file bytes
  echo "$1"
  xxd -p -c 48 -l "$3" "$2"
}
log=$home/run/broker/store/commitlog/00000000000000000000
queue=$home/run/broker/store/batchconsumequeue/Cq/0/00000000000000000000
# The first four bytes of each record are its length.
length=0
for _ in 1 2 3; do
  length=$((length + $(od -An -tu4 --endian=big -j "$length" -N 4 "$log")))
done
echo "# Written by RocketMQ 5.5.0; see make.sh."
digits log "$log" "$length"
digits queue "$queue" 138
