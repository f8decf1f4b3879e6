"""Statistics that judge draws."""

import itertools

import numpy as np
import torch

from ebm_cli.model.base import EnergyModel
from ebm_cli.model.exponential_family import GaussianProduct, TruncatedProduct
from ebm_cli.model.gaussian_rbm import GaussianRBM
from ebm_cli.space import Discrete
from helpers.components import FALSE_ALARM, SIGMAS
from helpers.models import exact_p


def chi_square(count, expected, cells_lost: int = 1) -> float:
    """p-value of counts (..., cells) against expected ones; cells_lost are the constraints (one per row of draws).

    Cells where fewer than 5 are expected are pooled: below that the statistic has no chi-square distribution.
    """
    count, expected = np.asarray(count, float).ravel(), np.asarray(expected, float).ravel()
    assert (count[expected == 0] == 0).all(), "an impossible outcome was drawn"
    rare = expected < 5
    pooled_count = np.append(count[~rare], count[rare].sum())
    pooled = np.append(expected[~rare], expected[rare].sum())
    pooled_count, pooled = pooled_count[pooled > 0], pooled[pooled > 0]
    statistic = ((pooled_count - pooled) ** 2 / pooled).sum()
    return chi_square_tail(statistic, len(pooled) - cells_lost)


def chi_square_tail(statistic: float, freedom: int) -> float:
    """P(chi-square > statistic); scipy.stats has it too, and takes longer to import than most tests to run."""
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return torch.special.gammaincc(half[0], half[1]).item()


def assert_close(found: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    """|found - expected| <= atol + rtol |expected| in one shape and type.

    As `torch.testing.assert_close`, whose first use imports sympy and torch.distributed for two seconds.
    """
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    error = (found - expected).abs()
    good = (found == expected) | (error <= atol + rtol * expected.abs())
    assert good.all(), f"{(~good).sum()} of {good.numel()} differ, by up to {error.max():.3g}: {found}, not {expected}"


def cells(model: EnergyModel, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Draws x counted in cells, and the probability of each cell under the model.

    Discrete: one cell per configuration. Mixtures of Gaussians: all combinations of eight intervals in each coordinate,
    which are equally likely under the normal distribution of the same mean and variance. Gaussians between walls: eight
    intervals that are equally likely.
    """
    assert model.space.contains(x)
    if isinstance(model.space, Discrete):
        return np.bincount(model.space.code(x), minlength=model.space.states), exact_p(model).numpy()
    if isinstance(model, TruncatedProduct):
        ends = truncated_quantiles(model, torch.linspace(0, 1, 9, dtype=torch.float64))
        return _counted(x, ends), np.full(8**model.space.sites, 8.0**-model.space.sites)
    weight, mean, std = mixture(model)
    centre = weight @ mean
    spread = (weight @ (mean - centre).square() + std.square()).sqrt()
    ends = torch.special.ndtri(torch.linspace(0, 1, 9, dtype=torch.float64))[:, None] * spread + centre
    shares = torch.special.ndtr((ends - mean[:, None]) / std).diff(dim=1)  # (components, 8, sites)
    p = torch.zeros(8**model.space.sites, dtype=torch.float64)
    for cell, each in enumerate(itertools.product(range(8), repeat=model.space.sites)):
        p[cell] = weight @ torch.stack([shares[:, k, i] for i, k in enumerate(reversed(each))]).prod(0)
    return _counted(x, ends), p.numpy()


def _counted(x: torch.Tensor, ends: torch.Tensor) -> np.ndarray:
    """How many rows of x are in each combination of the eight intervals between `ends` (9, sites)."""
    interval = (x.flatten(1).double()[:, None] > ends[1:-1]).sum(1)
    code = (interval * 8 ** torch.arange(ends.shape[1])).sum(1)
    return np.bincount(code, minlength=8 ** ends.shape[1])


def truncated_quantiles(model: TruncatedProduct, p: torch.Tensor) -> torch.Tensor:
    """Quantiles (levels, sites) of Gaussians between walls, by the distribution function."""
    m, s = model.m.detach().double(), (-model.r.detach() / 2).exp().double()
    low, high = (torch.special.ndtr((wall - m) / s) for wall in (model.space.low, model.space.high))
    return m + s * torch.special.ndtri(low + p[:, None] * (high - low))


def mixture(model: EnergyModel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights (components,), means (components, sites) and standard deviations (sites,) of the Gaussians that p mixes.

    Of a Gaussian-Bernoulli machine one for each state h: exp(-E(v, h)) at its top, b + W h, times the volume below it.
    """
    if isinstance(model, GaussianProduct):
        return (
            torch.ones(1, dtype=torch.float64),
            model.m.detach().double()[None],
            (-model.r / 2).exp().detach().double(),
        )
    assert isinstance(model, GaussianRBM), f"say here which Gaussians {type(model).__name__} mixes"
    std = (model.r.exp() + model.min_spread**2).sqrt()
    W, b, c, std = (t.detach().double() for t in (model.W, model.b, model.c, std))
    h = torch.tensor(list(itertools.product((0.0, 1.0), repeat=model.hidden)), dtype=torch.float64)
    mean = b + h @ W.T
    top = h @ c - ((mean - b) / std).square().sum(1) / 2 + (mean / std**2 * (h @ W.T)).sum(1)
    return top.softmax(0), mean, std


def known_log_p(model: EnergyModel, x: torch.Tensor) -> torch.Tensor:
    """log p(x) of real numbers by the mixture, (rows,)."""
    weight, mean, std = mixture(model)
    each = torch.distributions.Normal(mean, std).log_prob(x.flatten(1).double()[:, None]).sum(2)
    return (each + weight.log()).logsumexp(1)


def assert_distributed(model: EnergyModel, x: torch.Tensor) -> None:
    """x are independent draws from the model, as far as a chi-square test can tell."""
    count, p = cells(model, x)
    assert chi_square(count, p * len(x)) > FALSE_ALARM


def assert_mean(values: torch.Tensor, expected: float) -> None:
    """The mean of independent values is the expected one, within SIGMAS standard errors."""
    values = values.double()
    error = values.std().item() / len(values) ** 0.5
    assert abs(values.mean().item() - expected) < SIGMAS * error, (values.mean().item(), expected, error)


def assert_uncorrelated(x: torch.Tensor) -> None:
    """Rows of numbers of mean 0 and variance 1 are independent of each other, at lags 0 and 1.

    Correlations of n numbers are N(0, 1/n) under independence; there are hundreds of pairs, so 6 rather than 5.
    """
    n = x.shape[1] - 1
    for a, b in ((x[:, :-1], x[:, :-1]), (x[:, :-1], x[:, 1:])):
        correlation = (a @ b.T) / n
        if a is b or torch.equal(a, b):
            correlation.fill_diagonal_(0)
        assert correlation.abs().max() < 6 / n**0.5
