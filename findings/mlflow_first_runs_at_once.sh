#!/usr/bin/env bash
# Processes that open a new SQLite store of MLflow at the same time fail: each makes the tables.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mlflow-skinny==3.17.2 sqlalchemy==2.1.9 alembic==1.20.1
cd "$folder"
cat > one.py <<'PYTHON'
import sys

import mlflow.store.tracking.sqlalchemy_store  # what it would import later
from mlflow import MlflowClient

print("ready", flush=True)
sys.stdin.readline()
try:
    MlflowClient(tracking_uri="sqlite:///mlflow.db").get_experiment_by_name("Default")
    print("opened")
except Exception as error:
    print(f"{type(error).__name__}: {str(error).splitlines()[0]}")
PYTHON
MLFLOW_DISABLE_TELEMETRY=true "$folder/venv/bin/python" - <<'PYTHON'
import subprocess
import sys

quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
several = [subprocess.Popen([sys.executable, "one.py"], **quiet) for _ in range(4)]
for one in several:
    one.stdout.readline()
for one in several:
    one.stdin.write("\n")
    one.stdin.flush()
seen = [one.communicate()[0].strip() for one in several]
print("mlflow-skinny 3.17.2; four processes open sqlite:///mlflow.db, which is not there yet, at the same time")
print("expected: one makes the tables, the others wait, all four open it")
print(f"seen: {seen}")
sys.exit(seen.count("opened") == 4)
PYTHON
