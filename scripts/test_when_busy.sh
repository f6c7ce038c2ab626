#!/usr/bin/env bash
# Runs `make test` beside busy processes (BUSY=4): a busy machine may only be slow. Arguments go to make.
set -euo pipefail
cd "$(dirname "$0")/.."
busy=()
trap 'kill "${busy[@]}"' EXIT
for _ in $(seq "${BUSY:-4}"); do
  (while :; do :; done) &
  busy+=($!)
done
make test "$@"
