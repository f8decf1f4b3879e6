#!/usr/bin/env bash
# mlflow-skinny as it is installed can write to none of the stores on this machine, its own default among them.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mlflow-skinny==3.17.2
cd "$folder"
env -u MLFLOW_TRACKING_URI -u MLFLOW_ALLOW_FILE_STORE MLFLOW_DISABLE_TELEMETRY=true "$folder/venv/bin/python" - <<'PYTHON'
import sys

import mlflow


def answer(uri):
    if uri:
        mlflow.set_tracking_uri(uri)
    try:
        with mlflow.start_run():
            mlflow.log_metric("loss", 1.0)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:170]}"
    return "written"


seen = {uri or f"default {mlflow.get_tracking_uri()}": answer(uri) for uri in (None, "sqlite:///x.db", "./mlruns")}
print(f"mlflow-skinny {mlflow.__version__}; mlflow.start_run and log_metric in an empty folder, nothing set")
print("expected: the default store takes the run, or one sentence says which package is missing (sqlalchemy, alembic)")
for uri, said in seen.items():
    print(f"seen: {uri}: {said}")
sys.exit("written" in seen.values() or not any("sqlite" in uri and "got unsupported URI" in seen[uri] for uri in seen))
PYTHON
