#!/usr/bin/env bash
# Where the best value lies at the end of an interval, optuna's GPSampler proposes that very point for ever.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0 torch==2.14.1 scipy==1.16.0 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import optuna

warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(sampler=optuna.samplers.GPSampler(seed=0))
study.optimize(lambda trial: (trial.suggest_float("x", 0.0, 1.0) + 0.5) ** 2, n_trials=25)
proposed = [trial.params["x"] for trial in study.trials[10:]]
print(f"optuna {optuna.__version__}, GPSampler, 25 trials of (x + 0.5)^2 for x in [0, 1], lowest at 0; 10 of them at random")
print("expected: 0 once, then other points, since the function has no noise")
print(f"seen: {proposed.count(0.0)} of the 15 proposals are exactly 0.0, {len(set(proposed))} different ones")
sys.exit(not proposed.count(0.0) >= 10)
PYTHON
