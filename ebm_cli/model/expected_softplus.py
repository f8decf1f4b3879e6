"""Means of a hidden unit's free energy over what many sites add to it when all their values are equally likely."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ebm_cli.functional import softplus

_POINTS = 20  # of the quadrature
_LEAST = 1e-30  # of what is divided by, where nothing is added
_ERROR = 1e-7  # of the interpolation, far below that of the expansion in cumulants
_MOST_NODES = 64  # more cost as much as the means themselves


def cumulants(levels: Tensor) -> Tensor:
    """The second, third and fourth of what each site adds, `levels` (D, K, hidden) of mean 0 over K: (3, D, hidden)."""
    second, third, fourth = (levels.pow(power).mean(1) for power in (2, 3, 4))
    return torch.stack([second, third, fourth - 3 * second**2])


def expected(inputs: Tensor, others: Tensor, gamma: Callable[[Tensor], Tensor] = softplus) -> Tensor:
    """E gamma(inputs + X), (n, ..., hidden) as the inputs, for the cumulants `others` (3, n, hidden) of X.

    By Gauss-Hermite over z with X = sigma z, its density normal times 1 + k_3 He_3(z) / 6 + k_4 He_4(z) / 24, k_i the
    cumulants of z (Edgeworth; the term in k_3^2 is left out).
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(_POINTS)
    around = (1,) * (inputs.dim() - 2)
    second, third, fourth = (part.reshape(len(part), *around, -1) for part in others)
    spread = second.clamp_min(0).sqrt()
    skew, tails = third / spread.pow(3).clamp_min(_LEAST) / 6, fourth / spread.pow(4).clamp_min(_LEAST) / 24
    total = torch.zeros_like(inputs)
    for z, weight in zip(nodes.tolist(), (weights / weights.sum()).tolist(), strict=True):
        density = 1 + skew * (z**3 - 3 * z) + tails * (z**4 - 6 * z**2 + 3)
        total += weight * density * gamma(inputs + spread * z)
    return total


class Interpolation(NamedTuple):
    """How a function f_m of x + y, by its values at P Chebyshev nodes, is had at the values of any two sites.

    Of degree P - 1 in x + y it is so in x and in y, so that its values at the P x P nodes of (x, y) have all of it.
    """

    inputs: Tensor  # of the hidden units at the nodes, (P, hidden)
    apart: Tensor  # from the nodes of x + y to those of (x, y), (P, P P)
    of_site: Tensor  # ell_p at each value of each site, (D, hidden, K, P)

    @property
    def size(self) -> int:
        """How many numbers a pair takes for each hidden unit."""
        return self.apart.shape[1]

    def of_pairs(self, pairs: Tensor, values: Tensor) -> Tensor:
        """sum_m f_m(w_im(a) + w_jm(b)) of pairs (n, 2), (n, K, K), by `values` (n, P, hidden) at the nodes."""
        first, second = self.of_site[pairs].unbind(1)
        (n, hidden, size, nodes), whole = first.shape, values.transpose(1, 2) @ self.apart
        half = first @ whole.reshape(n, hidden, nodes, nodes)
        flat = half.transpose(1, 2).reshape(n, size, hidden * nodes)
        return flat @ second.transpose(1, 2).reshape(n, size, hidden * nodes).transpose(1, 2)


def interpolation(levels: Tensor, inputs: Tensor, strip: float = math.pi) -> Interpolation | None:
    """That of E gamma(inputs_m + x + y), x and y any of `levels` (D, K, hidden); None where it repays nothing.

    gamma has no singularity nearer to the real line than `strip`, softplus none nearer than pi: of inputs within +-R
    the error falls as rho^-P with rho = strip / R + sqrt(1 + (strip / R)^2) (Trefethen 2019, Approximation Theory and
    Approximation Practice, theorem 8.2).
    """
    low, high = levels.amin((0, 1)), levels.amax((0, 1))
    middle, radius = (high + low) / 2, ((high - low) / 2).clamp_min(_LEAST)
    slope = strip / (2 * radius.max().item())
    count = math.ceil(-math.log(_ERROR) / math.asinh(slope))
    if count > min(_MOST_NODES, levels.shape[1] ** 2 // 2):
        return None
    t = _nodes(count).to(levels.device)
    of_site = _lagrange((levels - middle) / radius, count).transpose(1, 2).contiguous()
    apart = _lagrange((t[:, None] + t) / 2, count).reshape(count**2, count).T.contiguous()
    return Interpolation(inputs + 2 * middle + 2 * radius * t[:, None], apart, of_site)


def _nodes(count: int) -> Tensor:
    return torch.cos((torch.arange(count, dtype=torch.float64) + 0.5) * (math.pi / count))


def _lagrange(t: Tensor, count: int) -> Tensor:
    """ell_p(t) (..., P) = (1 + 2 sum_k>0 T_k(t_p) T_k(t)) / P of the Chebyshev nodes t_p."""
    order = torch.arange(count, dtype=t.dtype, device=t.device)
    weights = torch.where(order > 0, 2.0, 1.0).to(t) / count
    at_nodes = torch.cos(order * torch.arccos(_nodes(count).to(t))[:, None])
    return torch.cos(order * torch.arccos(t.clamp(-1, 1))[..., None]) @ (at_nodes * weights).T
