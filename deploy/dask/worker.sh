#!/bin/sh
# Workers for a scheduler: worker.sh tcp://HOST:PORT.  CORES processes of one thread (default: all).
scheduler=${1:?usage: worker.sh tcp://HOST:PORT}
shift
# 64 KiB, Dask's own setting, gives memory back after every temporary array: 3 to 5 times slower.
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-134217728}"
# The memory is not limited: shards are small, and a paused worker helps nobody.
exec "${PYTHON:-python}" -m dask worker "$scheduler" \
  --nworkers "${CORES:--1}" --nthreads 1 --memory-limit 0 \
  --dashboard-address 127.0.0.1:0 --no-dashboard --local-directory "${TMPDIR:-/tmp}" "$@"
