"""Orchestration: Prefect, Dask and the servers, wired around `galpipe.chain`; no science in here.

Importing anything from here first tells Prefect and MLflow to send nothing about their use.
"""

import os

for _name, _value in {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}.items():
    os.environ.setdefault(_name, _value)
