#!/usr/bin/env bash
# R-hat and the effective sample size do not see that one chain of many stands still.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet arviz-stats==0.8.0 numpy==2.4.6 scipy==1.16.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from arviz_stats.base import array_stats

draws = np.random.default_rng(0).normal(size=(20, 500))
draws[0] = 0.3  # this chain never moves, at a place where the others often are
r_hat = float(array_stats.rhat(draws, chain_axis=0, draw_axis=1))
ess = float(array_stats.ess(draws, chain_axis=0, draw_axis=1))
print(f"arviz-stats {version('arviz-stats')}; 20 chains of 500 draws, 19 of independent normal ones, one constant")
print("expected: R-hat far above 1.01, or no number, for chains of which one does not move")
print(f"seen: R-hat {r_hat:.3f}, effective sample size {ess:.0f} of {draws.size}")
sys.exit(not (r_hat < 1.05 and ess > 9000))
PYTHON
