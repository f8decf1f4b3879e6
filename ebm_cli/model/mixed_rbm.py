"""Restricted Boltzmann machine whose visible units are bits, categories and real numbers, for tables."""

import math

import torch
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.functional import sigmoid, softplus_sum
from ebm_cli.model.base import Gradients, Normalised, Pullback
from ebm_cli.model.gaussian_rbm import SpreadRBM, SpreadSpec, Start
from ebm_cli.model.mixed_units import MixedProduct, MixedUnits, initial_bias
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Mixed, Space

_HALF = 0.5  # offset of hidden units, as likely on as off when training begins


class MixedRBM(SpreadRBM):
    """E(v, h) = sum_real (v_i - b_i)^2 / (2 s_i^2) - sum_discrete b_k u_k - c.h - ((u - mu) / s^2).W (h - 1/2).

    u are the units of v: bits and real numbers as they are, categories one-hot; h in {0, 1}^H, s = 1 for discrete
    units, s_i^2 = min_spread^2 + exp(r_i) for real ones. So p(h_j = 1 | v) = sigmoid(a_j), a = c + ((u - mu) / s^2) W;
    given h with f = b + W (h - 1/2) bits are on with probability sigmoid(f), categories have the softmax of their f,
    and real numbers are N(f, s^2). With h summed out E(v) = E(v, 0) - sum_j softplus(a_j): a mixture of 2^H products of
    independent columns. Units of an exponential family each (Welling, Rosen-Zvi, Hinton 2004), the mean mu of the
    training data and 1/2 taken off them, which leaves the family of laws as it is and makes the gradient better
    conditioned (Montavon & Mueller 2012).
    """

    called = "mixed RBM"

    space: Mixed
    mu: Tensor

    def __init__(self, space: Mixed, start: Start, mean: Tensor, key: Key) -> None:
        super().__init__()
        self.space, self.units = space, MixedUnits(space)
        self.hidden, self.min_spread = start.hidden, start.min_spread
        self.W = nn.Parameter(start.weight_std * rng.normal((space.width, start.hidden), key))
        self.b = nn.Parameter(initial_bias(self.units, mean, real=True))
        self.c = nn.Parameter(torch.zeros(start.hidden))
        log_variance = math.log(start.spread**2 - start.min_spread**2)
        self.r = nn.Parameter(torch.full((len(space.reals),), log_variance))
        self.register_buffer("mu", mean.clone())

    def inputs(self, units: Tensor) -> Tensor:
        """(u - mu) / s^2, (batch, units)."""
        return (units - self.mu) * self.units.spread(self.precision(), 1.0)

    @override
    def hidden_logits(self, v: Tensor) -> Tensor:
        """a = c + ((u - mu) / s^2) W, (batch, hidden)."""
        return torch.addmm(self.c, self.inputs(self.units.of(v)), self.W)

    def fields(self, h: Tensor) -> Tensor:
        """f = b + W (h - 1/2): logits of discrete units and means of real ones, (batch, units)."""
        return torch.addmm(self.b, h - _HALF, self.W.T)

    @override
    def at_rest(self, v: Tensor) -> Tensor:
        """sum_real (v - b)^2 / (2 s^2) - sum_discrete b u + sum_j (a_j - c_j) / 2, (batch,)."""
        return self._at_rest(v, self.units.of(v), self.hidden_logits(v))

    def _at_rest(self, v: Tensor, units: Tensor, logits: Tensor) -> Tensor:
        off = v[:, self.units.of_reals] - self.b[self.units.reals]
        own = 0.5 * (off.square() @ self.precision()) - units @ self.units.discrete(self.b)
        return own + _HALF * (logits - self.c).sum(1)

    @override
    def energy(self, x: Tensor) -> Tensor:
        """The free energy, from one product with W."""
        units = self.units.of(x)
        logits = torch.addmm(self.c, self.inputs(units), self.W)
        return self._at_rest(x, units, logits) - softplus_sum(logits)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """With t = (u - mu) / s^2 and g = sigmoid(a) - 1/2: dE/dW = -t g^T, dE/dc = -sigmoid(a), dE/db = -u of discrete
        units and -(v - b) / s^2 of real ones.

        dE/d(log s_i^2) = -(v_i - b_i)^2 / (2 s_i^2) + t_i (W g)_i, of which the last term is -sum_j W_ij dE/dW_ij, and
        d(log s_i^2)/dr_i = exp(r_i) / s_i^2.
        """
        units, coupling, precision = self.units.of(x), self.W.detach(), self.precision()
        inputs = self.inputs(units)
        logits = torch.addmm(self.c, inputs, self.W)
        off, reals = x[:, self.units.of_reals] - self.b[self.units.reals], self.units.reals
        share = self.r.exp() * precision

        def pull(weight: Tensor) -> Gradients:
            activity = sigmoid(logits)
            W = inputs.T @ ((_HALF - activity) * weight[:, None])
            b = -(weight @ units).index_copy(0, reals, (weight @ off) * precision)
            r = -0.5 * precision * (weight @ off.square()) - (coupling * W).sum(1)[reals]
            return {"W": W, "b": b, "c": -(weight @ activity), "r": share * r}

        return self._at_rest(x, units, logits) - softplus_sum(logits), pull

    @override
    def sample_visible(self, h: Tensor, key: AnyKey) -> Tensor:
        """Every column by its own law given h, (batch, sites)."""
        fields = self.fields(h)
        return self.units.draws(fields, fields[:, self.units.reals], self.precision().rsqrt(), key)

    @override
    def log_marginal(self, h: Tensor) -> Tensor:
        """log of the sum over discrete columns and the integral over real ones of exp(-E(v, h)), (batch,).

        c.h - (mu / s^2).W (h - 1/2), plus of each bit softplus(f), of each categorical column logsumexp(f), and of each
        real one (log(2 pi s^2) + (f^2 - b^2) / s^2) / 2, by completing the square.
        """
        fields, precision, reals = self.fields(h), self.precision(), self.units.reals
        constant = (fields - self.b) @ (self.mu * self.units.spread(precision, 1.0))
        moved = (fields[:, reals].square() - self.b[reals].square()) @ precision
        gaussian = 0.5 * (moved + (math.log(2 * math.pi) - precision.log()).sum())
        return h @ self.c - constant + self.units.log_sum(fields) + gaussian

    @override
    def annealed(self, base: Normalised, beta: float | Tensor) -> "MixedRBM":
        """E_beta(v, h) = (1 - beta) E_base(v) + beta E(v, h), again such a machine, but for a constant.

        Of real units the precisions add up, 1 / s'^2 = (1 - beta) exp(r_base) + beta / s^2, of discrete ones they stay
        1; with these weights b' is the mean of those of both, W' = beta (s' / s)^2 W, and a' = beta a, so c' = beta c.
        """
        assert isinstance(base, MixedProduct)
        of_base, own = (1 - beta) * base.r.exp(), beta * self.precision()
        share, reals = own / (of_base + own), self.units.reals
        b = (1 - beta) * base.b + beta * self.b
        weights = {
            "W": self.units.spread(share, beta)[:, None] * self.W,
            "b": b.index_copy(0, reals, (1 - share) * base.m + share * self.b[reals]),
            "c": beta * self.c,
            "r": -(of_base + own).log(),
        }
        return self.with_weights(weights)


@register("model", "mixed_rbm")
class MixedRBMSpec(SpreadSpec):
    """Restricted Boltzmann machine of a table: binary, categorical and Gaussian visible units, binary hidden ones."""

    builds = MixedRBM
    spaces = (Mixed,)

    @override
    def parameters(self, space: Space) -> int:
        assert isinstance(space, Mixed)
        return space.width * (self.hidden + 1) + self.hidden + len(space.reals)

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> MixedRBM:
        """W ~ N(0, weight_std^2), b by the mean of the data, c = 0, every s = spread. Raises UserError if that is too
        small."""
        assert isinstance(space, Mixed)
        return MixedRBM(space, self.start(), mean, key)
