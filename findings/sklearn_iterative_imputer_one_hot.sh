#!/usr/bin/env bash
# IterativeImputer on an indicator for each value of a category leaves every gap at the mean.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 numpy==2.4.6 scipy==1.16.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

VALUES, ROWS = 3, 5000
random = np.random.default_rng(0)
colour = random.integers(VALUES, size=ROWS)
shape = np.where(random.random(ROWS) < 0.9, colour, random.integers(VALUES, size=ROWS))  # mostly as the colour
gaps = random.random(ROWS) < 0.2  # rows whose shape is not known


def right(first):
    """Share of gaps filled with the right shape, and how far its indicators are from their means at most."""
    known = (colour[:, None] == np.arange(first, VALUES)).astype(float)
    asked = np.where(gaps[:, None], np.nan, shape[:, None] == np.arange(first, VALUES))
    found = IterativeImputer(max_iter=20, random_state=0).fit_transform(np.hstack([known, asked]))
    found = found[gaps, VALUES - first :]
    whole = found if first == 0 else np.hstack([1 - found.sum(1, keepdims=True), found])
    return (whole.argmax(1) == shape[gaps]).mean(), np.abs(found - np.nanmean(asked, 0)).max()


every, off = right(0)
fewer, moved = right(1)
print(f"scikit-learn {version('scikit-learn')}; a shape that is that of the colour in 93 of 100 rows, missing in a fifth")
print("expected: of two categories as indicators, whether of all values or of all but one, gaps are filled by the colour")
print(f"seen: all indicators: {every:.3f} of the gaps right, none further than {off:.1e} from the mean of its column;")
print(f"      all but the first: {fewer:.3f} right, up to {moved:.2f} from the mean")
sys.exit(not (off < 1e-3 and every < 0.5 and fewer > 0.9))
PYTHON
