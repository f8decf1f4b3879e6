#!/usr/bin/env bash
# The mixing time of adabmDCA is that of chance: chains that have forgotten all after one sweep count as mixed much later.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet adabmdca==1.0.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib
import io
import statistics
import sys
from importlib.metadata import version

import torch
from adabmDCA.resampling import compute_mixing_time
from adabmDCA.sampling import gibbs_sampling

SITES, LETTERS = 10, 4
CHAINS = range(300, 320)
nothing = {"bias": torch.zeros(SITES, LETTERS), "coupling_matrix": torch.zeros(SITES, LETTERS, SITES, LETTERS)}


def mixed_after(chains):
    """Sweeps after which so many chains from random sequences count as mixed: all letters are alike likely."""
    letters = torch.randint(LETTERS, (chains, SITES), generator=torch.Generator().manual_seed(chains))
    start = torch.nn.functional.one_hot(letters, LETTERS).float()
    with contextlib.redirect_stderr(io.StringIO()):
        return compute_mixing_time(gibbs_sampling, start, nothing, 400, 1.0)["t_half"][-1]


found = sorted(mixed_after(chains) for chains in CHAINS)
print(f"adabmDCA {version('adabmDCA')}, torch {version('torch')}; no couplings: a sweep draws every site anew, whatever it was")
print("expected: chains have forgotten their start after 1 sweep, or 2 where not every site is visited")
print(f"seen: 300 to 319 random chains count as mixed after {found[0]} to {found[-1]} sweeps, {statistics.median(found)} in the median")
sys.exit(not (statistics.median(found) >= 4 and found[-1] >= 15))
PYTHON
