#!/usr/bin/env bash
# Runs every fuzz target of the module for a while: tools/fuzz.sh [TIME], e.g. 10s. Stops at the first failure, whose
# input go test has then written to testdata/fuzz/ beside the target.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-10s}

found=0
while IFS=: read -r file target; do
  found=1
  package=./$(dirname "$file")
  echo "fuzz: $target in $package for $time"
  go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x
done < <(git ls-files -z --cached --others --exclude-standard -- '*_test.go' |
  xargs -0 -r grep -HoE '^func Fuzz[A-Za-z0-9_]+' | sed 's/:func /:/' | sort)

if [ "$found" = 0 ]; then
  echo "fuzz: no target found" >&2
  exit 1
fi
