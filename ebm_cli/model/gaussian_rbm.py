"""Restricted Boltzmann machine with Gaussian visible and binary hidden units (Liao et al. 2022)."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.errors import UserError
from ebm_cli.functional import sigmoid, softplus_sum
from ebm_cli.model.base import Gradients, MixtureRBM, ModelSpec, Normalised, Pullback
from ebm_cli.model.exponential_family import GaussianProduct
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Real, Space


class Start(NamedTuple):
    """Hidden units; standard deviations of weights and visible units at the start, and the bound of the latter."""

    hidden: int
    weight_std: float
    spread: float
    min_spread: float


class SpreadRBM(MixtureRBM):
    """Real visible units of variances s_i^2 = min_spread^2 + exp(r_i), which are learned."""

    compiles = True
    couplings = ("W",)
    hidden: int
    min_spread: float
    r: Tensor

    def precision(self) -> Tensor:
        """1 / s^2 of the real sites, (reals,)."""
        return 1 / (self.min_spread**2 + self.r.exp())

    @override
    def narrowest(self) -> Tensor:
        """s, (reals,)."""
        return self.precision().rsqrt()

    def with_weights(self, values: Mapping[str, Tensor]) -> Self:
        """Such a machine with these parameters, s^2 = exp(r)."""
        found = copy.copy(self)
        found.min_spread = 0.0
        found._parameters = {name: nn.Parameter(value, requires_grad=False) for name, value in values.items()}
        return found


class GaussianRBM(SpreadRBM):
    """E(v, h) = sum_i (v_i - b_i)^2 / (2 s_i^2) - c.h - (v / s^2).W h, h in {0, 1}^H (eq. 1).

    So p(h_j = 1 | v) = sigmoid(a_j), a = c + (v / s^2) W, and p(v | h) = N(b + W h, s^2); with h summed out
    E(v) = sum_i (v_i - b_i)^2 / (2 s_i^2) - sum_j softplus(a_j): a mixture of 2^H Gaussians of one shape. Not in the
    source: s_i^2 = min_spread^2 + exp(r_i), since the likelihood of a pixel that is always 0 grows without end as its s
    goes to 0.
    """

    called = "Gaussian-Bernoulli"

    def __init__(self, space: Space, start: Start, mean: Tensor, key: Key) -> None:
        super().__init__()
        self.space = space
        self.hidden, self.min_spread = start.hidden, start.min_spread
        self.W = nn.Parameter(start.weight_std * rng.normal((space.sites, start.hidden), key))
        self.b = nn.Parameter(mean.flatten().clone())
        self.c = nn.Parameter(torch.zeros(start.hidden))
        self.r = nn.Parameter(torch.full((space.sites,), math.log(start.spread**2 - start.min_spread**2)))

    @override
    def hidden_logits(self, v: Tensor) -> Tensor:
        """a = c + (v / s^2) W, (batch, hidden)."""
        return torch.addmm(self.c, v.flatten(1) * self.precision(), self.W)

    def visible_mean(self, h: Tensor) -> Tensor:
        """b + W h, (batch, sites)."""
        return torch.addmm(self.b, h, self.W.T)

    @override
    def at_rest(self, v: Tensor) -> Tensor:
        """sum_i (v_i - b_i)^2 / (2 s_i^2), (batch,)."""
        return 0.5 * ((v.flatten(1) - self.b).square() @ self.precision())

    @torch.no_grad()
    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dv = (v - b - W sigmoid(a)) / s^2, from the same hidden logits."""
        logits = self.hidden_logits(x)
        off = x.flatten(1) - self.visible_mean(sigmoid(logits))
        return self.at_rest(x) - softplus_sum(logits), (off * self.precision()).reshape(x.shape)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """dE/dW = -(v / s^2) sigmoid(a)^T, dE/db = -(v - b) / s^2, dE/dc = -sigmoid(a).

        dE/d(log s_i^2) = -(v_i - b_i)^2 / (2 s_i^2) + (v_i / s_i^2) (W sigmoid(a))_i, of which the last term is
        -sum_j W_ij dE/dW_ij, and d(log s_i^2)/dr_i = exp(r_i) / s_i^2.
        """
        logits, precision, coupling, v = self.hidden_logits(x), self.precision(), self.W.detach(), x.flatten(1)
        off, share = v - self.b, self.r.exp() * precision

        def pull(weight: Tensor) -> Gradients:
            activity = sigmoid(logits) * -weight[:, None]
            W = (v * precision).T @ activity
            r = -0.5 * precision * (weight @ off.square()) - (coupling * W).sum(1)
            return {"W": W, "b": -(weight @ off) * precision, "c": activity.sum(0), "r": share * r}

        return self.at_rest(x) - softplus_sum(logits), pull

    @override
    def sample_visible(self, h: Tensor, key: AnyKey) -> Tensor:
        """v ~ N(b + W h, s^2), (batch, *shape)."""
        mean = self.visible_mean(h)
        z = rng.normal(mean.shape, key, mean.device, mean.dtype)
        return (mean + self.precision().rsqrt() * z).reshape(-1, *self.space.shape)

    @override
    def log_marginal(self, h: Tensor) -> Tensor:
        """log of the integral of exp(-E(v, h)) over v, (batch,).

        c.h + sum_i (log(2 pi s_i^2) + ((b + W h)_i^2 - b_i^2) / s_i^2) / 2, by completing the square.
        """
        precision = self.precision()
        moved = (self.visible_mean(h).square() - self.b.square()) @ precision
        return h @ self.c + 0.5 * (moved + (math.log(2 * math.pi) - precision.log()).sum())

    @override
    def annealed(self, base: Normalised, beta: float | Tensor) -> "GaussianRBM":
        """E_beta(v, h) = (1 - beta) E_base(v) + beta E(v, h), again such a machine, but for a constant.

        The precisions of both add up, 1 / s'^2 = (1 - beta) exp(r_base) + beta / s^2, and b' = s'^2 times the sum of
        m_base and b with these weights; a' = beta a, hence c' = beta c and W' = beta (s' / s)^2 W.
        """
        assert isinstance(base, GaussianProduct)
        of_base, own = (1 - beta) * base.r.exp(), beta * self.precision()
        precision = of_base + own
        weights = {
            "W": (own / precision)[:, None] * self.W,
            "b": (of_base * base.m + own * self.b) / precision,
            "c": beta * self.c,
            "r": -precision.log(),
        }
        return self.with_weights(weights)


@dataclass(frozen=True, kw_only=True)
class SpreadSpec(ModelSpec):
    """The keys of machines whose variances are learned."""

    hidden: Annotated[int, Field(ge=1)]
    weight_std: Annotated[float, Field(ge=0)]
    spread: Annotated[float, Field(gt=0)]
    min_spread: Annotated[float, Field(ge=0)]

    def start(self) -> Start:
        """How training begins. Raises UserError if visible units are to be narrower than they may be."""
        if self.min_spread >= self.spread:
            raise UserError(f"model.min_spread = {self.min_spread}: must be below model.spread = {self.spread}")
        return Start(self.hidden, self.weight_std, self.spread, self.min_spread)


@register("model", "gaussian_rbm")
class GaussianRBMSpec(SpreadSpec):
    """Restricted Boltzmann machine with Gaussian visible units, whose variances are learned."""

    builds = GaussianRBM
    spaces = (Real,)

    @override
    def parameters(self, space: Space) -> int:
        return space.sites * (self.hidden + 2) + self.hidden

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> GaussianRBM:
        """W ~ N(0, weight_std^2), b the data mean, c = 0, every s = spread. Raises UserError if that is too small."""
        return GaussianRBM(space, self.start(), mean, key)
