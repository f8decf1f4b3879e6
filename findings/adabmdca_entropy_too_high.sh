#!/usr/bin/env bash
# The entropy of adabmDCA is too high by a part of its integral: n points make n - 1 intervals, and n are counted.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet adabmdca==1.0.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import math
import sys
import warnings
from importlib.metadata import version

import torch

warnings.simplefilter("ignore")
from adabmDCA.api.entropy import estimate_entropy
from adabmDCA.fasta import get_tokens
from adabmDCA.io import save_params

SITES, LETTERS, THETA = 10, 21, 8.0
mask = torch.ones(SITES, LETTERS, SITES, LETTERS, dtype=torch.bool)
nothing = {"bias": torch.zeros(SITES, LETTERS), "coupling_matrix": torch.zeros(SITES, LETTERS, SITES, LETTERS)}
save_params("params.dat", nothing, tokens=get_tokens("protein"), mask=mask)
with open("one.fasta", "w") as file:
    file.write(">one\n" + "A" * SITES + "\n")


def entropy(steps):
    """Of a model that draws all letters alike, by so many points of theta."""
    found = estimate_entropy(
        model="params.dat", natural_alignment="one.fasta", target_alignment="one.fasta", n_chains=2000, n_sweeps=15,
        theta_sweeps=30, zero_sweeps=5, n_steps=steps, theta_max=THETA, sampler="gibbs", device="cpu",
    )  # fmt: skip
    return found.entropy


exact = SITES * math.log(LETTERS)
integral = SITES * (math.log(math.exp(THETA) + LETTERS - 1) - math.log(LETTERS))
found = {steps: entropy(steps) for steps in (20, 40)}
print(f"adabmDCA {version('adabmDCA')}, torch {version('torch')}; {SITES} sites, {LETTERS} letters, no fields and no couplings")
print(f"expected: {exact:.2f} nats, {SITES} ln {LETTERS}, whatever the number of points; the trapezoid itself adds less than 0.05")
for steps, value in found.items():
    print(f"seen: {value:.2f} by {steps} points, {value - exact:.2f} too high; the integral over theta / {steps} is {integral / steps:.2f}")
sys.exit(not all(abs(value - exact - integral / steps) < 0.15 * integral / steps for steps, value in found.items()))
PYTHON
