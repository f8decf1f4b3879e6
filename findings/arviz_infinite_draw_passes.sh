#!/usr/bin/env bash
# A chain that ran away to infinity passes R-hat and the effective sample size, one that became NaN does not.
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


def measured(draws):
    return [float(f(draws, chain_axis=0, draw_axis=1)) for f in (array_stats.rhat, array_stats.ess)]


draws = np.random.default_rng(0).normal(size=(4, 500))
finite = measured(draws)
draws[0, 3] = np.inf
infinite = measured(draws)
draws[0, 3] = np.nan
none = measured(draws)
print(f"arviz-stats {version('arviz-stats')}; R-hat and effective sample size of 4 chains of 500 draws")
print("expected: no number once a draw is infinite: neither the mean nor the variance of the draws exists")
print(f"seen: all finite {finite}, one infinite {infinite}, one NaN {none}")
sys.exit(not (np.allclose(finite, infinite, rtol=0.01) and np.isnan(none).all()))
PYTHON
