#!/bin/sh
# A Dask scheduler for `galpipe run --dask tcp://HOST:PORT`; loopback unless HOST says otherwise.
# Whoever reaches the port can run code: only on loopback or a network of your own.
exec "${PYTHON:-python}" -m dask scheduler --host "${HOST:-127.0.0.1}" --port "${PORT:-8786}" \
  --dashboard-address "127.0.0.1:${DASHBOARD:-8787}" "$@"
