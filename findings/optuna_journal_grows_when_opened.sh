#!/usr/bin/env bash
# Opening a study of optuna that is there, by create_study(load_if_exists=True), writes to its journal each time.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0 numpy==2.2.6
FOLDER="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import os
import sys
import warnings

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)
path = os.path.join(os.environ["FOLDER"], "journal.log")


def bytes_after(opened):
    """Size of the journal once the study was opened so by a process of its own storage."""
    opened(storage=JournalStorage(JournalFileBackend(path)), study_name="study")
    return os.path.getsize(path)


first = bytes_after(optuna.create_study)
again = [bytes_after(lambda **named: optuna.create_study(load_if_exists=True, **named)) for _ in range(3)]
loaded = bytes_after(optuna.load_study)
print(f"optuna {optuna.__version__}, a journal of one study without trials: {first} bytes")
print("expected: as many after it was opened again, which changes nothing")
print(f"seen: {again} bytes after create_study(load_if_exists=True) once, twice, three times; load_study adds none")
sys.exit(not (first < again[0] < again[1] < again[2] == loaded))
PYTHON
