"""Kernel Stein discrepancies: whether rows are draws of a model, from its scores alone, without log Z."""

import math

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.rng import AnyKey
from ebm_cli.yardstick.mmd import squared_distance

_AT_ONCE = 2**22  # signs drawn together


def real_terms(x: Tensor, score: Tensor, scale: float | None = None) -> Tensor:
    """u(x_i, x_j) of real rows x (n, D) with s = d log p / dx (n, D), in float64, (n, n); their mean is 0 if x ~ p.

    s.s' k + s.dk/dx' + s'.dk/dx + sum_i d^2 k / dx_i dx'_i (Liu, Lee, Jordan 2016, eq. 4) with the inverse
    multiquadric k = (1 + |x - x'|^2 / scale^2)^(-1/2), which tells any law with lighter tails than its own from p
    (Gorham & Mackey 2017). Without a scale it is the median distance of two rows.
    """
    x, score = x.double(), score.double()
    far = squared_distance(x, x).clamp_min(0)
    c2 = scale**2 if scale is not None else median_of_pairs(far)
    base = 1 + far / c2
    k, slope, bend = base**-0.5, base**-1.5 / c2, 3 * base**-2.5 / c2**2
    across = score @ x.T  # s_i . x_j
    along = across.diagonal()[:, None] - across  # s_i . (x_i - x_j)
    return score @ score.T * k + slope * (along + along.T) + x.shape[1] * slope - bend * far


def median_of_pairs(far: Tensor) -> float:
    """The median of the entries above the diagonal of (n, n); 1 where it is 0."""
    first, second = torch.triu_indices(len(far), len(far), 1, device=far.device)
    return far[first, second].median().item() or 1.0


def discrete_terms(table: Tensor, score: Tensor, scale: float = 1.0, common: float = 0.0) -> Tensor:
    """The same of one-hot rows (n, D, K) with the difference scores s (n, D), in float64, (n, n).

    s_i(x) = 1 - p(x with x_i + 1) / p(x), values taken in a circle; the inverse difference of f at site i is f(x) -
    f(x with x_i - 1), and s.s' k - s.D'k - s'.Dk + sum_i D_i D'_i k (Yang, Liu, Rao, Neville 2018, eq. 9) has the
    kernel k = exp(-scale * share of sites that differ). A site taken back changes k by a factor that depends on whether
    the two rows agree there before and after.

    That kernel has a function for each site. `common` adds one for all of them, with the kernel common k / D: the same
    summed over all pairs of sites, sum_ij (s_i s'_j k - s_i D'_j k - s'_j D_i k + D_i D'_j k). It sees what is wrong in
    the same direction everywhere, as a temperature is.
    """
    table, score = table.double(), score.double()
    sites, values = table.shape[1:]
    apart, together = math.expm1(-scale / sites), math.expm1(scale / sites)  # what a site adds to k, as a share of it
    flat, back = table.flatten(1), table.roll(-1, 2).flatten(1)  # of x, and of x with every site taken back
    weighted = (table * score[:, :, None]).flatten(1)
    alike, met = flat @ flat.T, flat @ back.T  # sites where x = x', and where x = x' - 1
    k = (scale * (alike / sites - 1)).exp()
    change = apart * weighted @ flat.T + together * weighted @ back.T  # sum_i s_i (k(x, x' with x'_i - 1) / k - 1)
    both = 2 * apart * alike + together * (met + met.T)
    found = score @ score.T + change + change.T - both
    if common:
        moved = apart * alike + together * met  # sum_j (k(x, x' with x'_j - 1) / k - 1)
        at_one_site = both + apart**2 * alike + (together**2 * met if values == 2 else 0)  # k with both taken back is k
        total = score.sum(1)
        found = found + common / sites * ((total[:, None] + moved.T) * (total + moved) - at_one_site)
    return k * found


def mean_of_pairs(terms: Tensor) -> float:
    """The unbiased estimate of the squared discrepancy: the mean of terms (n, n) off the diagonal."""
    n = len(terms)
    return ((terms.sum() - terms.diagonal().sum()) / (n * (n - 1))).item()


def wild_bootstrap(terms: Tensor, count: int, key: AnyKey) -> float:
    """The p-value of `mean_of_pairs` of independent rows: how often signs at random make it as large, of `count` times.

    sum_{i != j} e_i e_j u_ij with e_i = +-1 equally likely has, as n grows, the law of sum_{i != j} u_ij if the rows
    are draws of p (Chwialkowski, Strathmann, Gretton 2016); (1 + times) / (1 + count).
    """
    n, larger = len(terms), 0
    centred = terms - terms.diagonal().diag()
    found = centred.sum()
    for first in range(0, count, size := max(1, _AT_ONCE // n)):
        some = min(size, count - first)
        signs = 2.0 * (rng.uniform((some, n), key.fold(first), terms.device) < 0.5).double() - 1
        larger += int(((signs @ centred * signs).sum(1) >= found).sum())
    return (1 + larger) / (1 + count)
