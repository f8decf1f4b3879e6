#!/usr/bin/env bash
# The slope of model against data correlations that adabmDCA logs has no sign: a model whose correlations are all reversed has slope 1.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet adabmdca==1.0.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from adabmDCA.stats import get_correlation_two_points, get_freq_single_point, get_freq_two_points


def frequencies(pairs):
    """Of one and of two sites with two letters each, of these sequences."""
    sequences = torch.nn.functional.one_hot(torch.tensor(pairs), 2).float()
    return get_freq_single_point(sequences, weights=None), get_freq_two_points(sequences, weights=None)


data = frequencies([[0, 0]] * 4 + [[1, 1]] * 4 + [[0, 1], [1, 0]])
chains = frequencies([[0, 1]] * 4 + [[1, 0]] * 4 + [[0, 0], [1, 1]])
pearson, slope = get_correlation_two_points(fi=data[0], pi=chains[0], fij=data[1], pij=chains[1])
print(f"adabmDCA {version('adabmDCA')}, torch {version('torch')}; sites that agree in 8 of 10 sequences of the data and in 2 of 10 of the chains")
print("expected: Pearson -1, slope of the line -1")
print(f"seen: Pearson {pearson:.3f}, slope {slope:.3f}")
sys.exit(not (abs(pearson + 1) < 1e-5 and abs(slope - 1) < 1e-5))
PYTHON
