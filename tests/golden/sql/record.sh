#!/usr/bin/env bash
# Writes table.tsv anew from the original's own filter.
set -euo pipefail
cd "$(dirname "$0")"
lib=$(../../conformance/reference/reference.sh lib)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
javac -encoding UTF-8 -cp "$lib" -d "$out" SqlTable.java
java -Dfile.encoding=UTF-8 -Dstdout.encoding=UTF-8 -cp "$out:$lib" SqlTable >table.tsv
wc -l table.tsv
