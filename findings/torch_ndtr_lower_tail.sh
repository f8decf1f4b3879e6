#!/usr/bin/env bash
# The normal distribution function of torch has no lower tail.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6 scipy==1.16.0
"$folder/venv/bin/python" - <<'PYTHON'
import math
import sys

import scipy.special
import torch

z = torch.tensor([-5.0, -8.0, -8.5, -10.0], dtype=torch.float64)
truth = torch.from_numpy(scipy.special.ndtr(z.numpy()))
kinds = {
    "special.ndtr": torch.special.ndtr(z),
    "Normal.cdf": torch.distributions.Normal(0.0, 1.0).cdf(z),
    "erfc": 0.5 * torch.erfc(-z * math.sqrt(0.5)),
    "exp(log_ndtr)": torch.special.log_ndtr(z).exp(),
}
print(f"torch {torch.__version__}; relative error against scipy {scipy.__version__} at z = {z.tolist()}, float64")
print("expected: some 1e-14 in all of them")
errors = {name: ((value - truth) / truth).abs() for name, value in kinds.items()}
for name, error in errors.items():
    print(f"seen: {name:14s}" + "  ".join(f"{e:.1e}" for e in error.tolist()))
lost = all((errors[name][2:] == 1).all() and errors[name][0] > 1e-12 for name in ("special.ndtr", "Normal.cdf"))
kept = all((errors[name] < 1e-12).all() for name in ("erfc", "exp(log_ndtr)"))
sys.exit(not (lost and kept))
PYTHON
