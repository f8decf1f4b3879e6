#!/usr/bin/env bash
# rbms: Gibbs sampling of a Bernoulli-Gaussian RBM draws hidden units of variance 1 where its energy has 1 / (number of visible units).
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
for python in python3 python3.12 python3.13; do # rbms 0.6.0 runs on these two
    "$python" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null && break
done
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet rbms==0.6.0 torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import itertools
import sys
from importlib.metadata import version

import torch
from rbms.bernoulli_gaussian.classes import BGRBM

CHAINS, SWEEPS = 100_000, 200
torch.manual_seed(0)
visible = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
model = BGRBM(torch.tensor([[2.0], [2.0], [-2.0], [-2.0]]), vbias=torch.zeros(4), hbias=torch.zeros(1))
exact = torch.softmax(-model.compute_energy_visibles(visible), 0)
chains = model.init_chains(CHAINS)
for _ in range(SWEEPS):
    chains = model.sample_visibles(model.sample_hiddens(chains))
code = (chains["visible"] @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
drawn = torch.bincount(code, minlength=16) / CHAINS
hidden = model.sample_hiddens({**chains, "visible": visible[:1].repeat(CHAINS, 1)})["hidden"]
ends = exact[[0b1100, 0b0011]].sum().item(), drawn[[0b1100, 0b0011]].sum().item()
distance = (exact - drawn).abs().sum().item() / 2
print(f"rbms {version('rbms')}, torch {version('torch')}; four visible units, one hidden, weights 2, 2, -2, -2, no biases")
print(f"expected: 1100 and 0011 come with probability {ends[0]:.3f}, the hidden unit given 0000 has variance 1/4")
print(f"seen: {ends[1]:.3f}, variance {hidden.var().item():.3f}; total variation distance of the visible units {distance:.3f}")
sys.exit(not (distance > 0.2 and abs(hidden.var().item() - 1) < 0.05))
PYTHON
