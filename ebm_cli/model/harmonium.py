"""Two-layer machines with hidden units of any law (exponential family harmoniums, Welling, Rosen-Zvi, Hinton 2004)."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model import visible_units
from ebm_cli.model.base import Blocked, EnergyModel, Gradients, Normalised, Pullback, Sites, put_free
from ebm_cli.model.centred import Centred, HiddenMoments
from ebm_cli.model.exponential_family import BernoulliProduct, CategoricalProduct
from ebm_cli.model.harmonium_sites import HarmoniumCategories, HarmoniumSites, Layers
from ebm_cli.model.hidden_units import BinaryHidden, HiddenUnits
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Categorical, Discrete, Spin, TwoValued


class Harmonium(Blocked):
    """E(v, h) = E(v) - t(v).W h - c.h + U(h), so that p(h | v) is proportional to exp(a.h - U(h)), a = c + t(v) W.

    With h summed out, E(v) = E_0(v) - sum_j Gamma_j(a_j), Gamma the `log_sum` of the `HiddenUnits`.
    """

    called = "harmonium"
    energy_is = "free_energy"
    compiles = True
    couplings = ("W",)
    tempers = False
    sweeps_given = True
    W: nn.Parameter
    c: nn.Parameter

    def __init__(self, units: HiddenUnits, hidden: int) -> None:
        super().__init__()
        self.units, self.hidden = units, hidden
        for name in units.shape_names:
            self.register_parameter(name, nn.Parameter(torch.zeros(hidden)))

    @property
    @override
    def drawn(self) -> int:
        return self.space.sites + self.hidden

    @property
    def potential(self) -> dict[str, Tensor]:
        """Parameters of the hidden units beside c, by name."""
        return {name: getattr(self, name) for name in self.units.shape_names}

    @abstractmethod
    def hidden_inputs(self, v: Tensor) -> Tensor:
        """a(v) = c + t(v) W, (batch, hidden)."""

    @abstractmethod
    def at_rest(self, v: Tensor) -> Tensor:
        """E_0(v), that of v alone, (batch,)."""

    @abstractmethod
    def middle_inputs(self, base: Normalised) -> Tensor:
        """a at the mean of the data, or of independent units near them, (hidden,)."""

    @abstractmethod
    def draw_between(self, base: Normalised, beta: float | Tensor, fields: Tensor, key: AnyKey) -> Tensor:
        """v from exp(-(1 - beta) E_base(v) - beta (E_0(v) - t(v).f)) with the fields f = W h, (batch, *shape)."""

    @abstractmethod
    def draw_visible(self, fields: Tensor, key: AnyKey) -> Tensor:
        """v from exp(t(v).f - E_0(v)), (batch, *shape)."""

    @abstractmethod
    def log_sum_visible(self, fields: Tensor) -> Tensor:
        """log of the sum or integral over v of exp(t(v).f - E_0(v)), (batch,)."""

    def log_sum_hidden(self, a: Tensor) -> Tensor:
        """sum_j Gamma_j(a_j), (batch,)."""
        return self.units.log_sum(a, self.potential).sum(1)

    def mean_hidden(self, a: Tensor) -> Tensor:
        """E[h | v] of the inputs, (batch, hidden)."""
        return self.units.mean(a, self.potential)

    def draw_hidden(self, a: Tensor, key: AnyKey) -> Tensor:
        """h of the inputs, (batch, hidden)."""
        return self.units.draws(a, self.potential, key)

    @override
    def energy(self, x: Tensor) -> Tensor:
        """The free energy, hidden units summed out, (batch,)."""
        return self.at_rest(x) - self.log_sum_hidden(self.hidden_inputs(x))

    @override
    def sweep(self, x: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """h ~ p(h | v), then v ~ p(v | h), which is reversible as a kernel on v."""
        h = self.draw_hidden(self.hidden_inputs(x), key.fold("hidden"))
        return self.draw_visible(h @ self.W.T, key.fold("visible"))

    @override
    def sweep_given(self, x: Tensor, free: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        return put_free(x, free, self.sweep(x, key, backwards=backwards))

    @override
    def hidden_states(self) -> Discrete | None:
        return self.units.states(self.hidden)

    @override
    def log_marginal(self, h: Tensor) -> Tensor:
        """c.h + log of the sum or integral over v, (batch,); U(h) = 0 where there are states."""
        return h @ self.c + self.log_sum_visible(h @ self.W.T)

    @override
    def activities(self, x: Tensor) -> list[Tensor]:
        """Of hidden bits alone."""
        return [self.mean_hidden(self.hidden_inputs(x))] if isinstance(self.units, BinaryHidden) else []

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`hidden`: E[h | v]."""
        return {"hidden": self.mean_hidden(self.hidden_inputs(x))}

    def slopes_hidden(self, a: Tensor, weight: Tensor) -> Gradients:
        """sum_n w_n dE(v_n) by the parameters of the potential, by name."""
        return {name: -(weight @ slope) for name, slope in self.units.slopes(a, self.potential).items()}


class DiscreteHarmonium(Harmonium, Centred):
    """Visible bits, spins or categories: t(v) = v, one-hot where categorical, and E_0(v) = -b.v.

    p(v_i | h) is proportional to exp(v_i f_i), f = b + W h. Buffers `visible_offset`, `hidden_offset` and
    `hidden_square` are mu, lambda and E h^2 of the centred and the standardised gradient.
    """

    space: Discrete
    b: nn.Parameter
    hidden_square: Tensor

    def __init__(
        self, space: Discrete, units: HiddenUnits, hidden: int, weight_std: float, mean: Tensor, key: Key
    ) -> None:
        super().__init__(units, hidden)
        self.space = space
        self.W = nn.Parameter(weight_std * rng.normal((mean.numel(), hidden), key))
        self.b = nn.Parameter(visible_units.fields_of_mean(space, mean).flatten())
        self.c = nn.Parameter(torch.zeros(hidden))
        offset = 2 * mean - 1 if isinstance(space, Spin) else mean
        self.register_buffer("visible_offset", offset.flatten().clone())
        rest = torch.zeros(hidden)
        self.register_buffer("hidden_offset", units.mean(rest, self.potential).detach())
        self.register_buffer("hidden_square", units.square(rest, self.potential).detach())

    @override
    def visible_variance(self) -> Tensor:
        """Of spins 1 - mu^2."""
        if isinstance(self.space, Spin):
            return 1 - self.visible_offset.square()
        return super().visible_variance()

    @override
    def hidden_variance(self) -> Tensor:
        return self.hidden_square - self.hidden_offset.square()

    @override
    def follow(self, moments: HiddenMoments, rate: float) -> None:
        """E h^2 in the same way."""
        super().follow(moments, rate)
        self.hidden_square.lerp_(moments.square, rate)

    @override
    def hidden_inputs(self, v: Tensor) -> Tensor:
        return torch.addmm(self.c, v.flatten(1), self.W)

    @override
    def at_rest(self, v: Tensor) -> Tensor:
        """-b.v, (batch,)."""
        return -(v.flatten(1) @ self.b)

    @override
    def middle_inputs(self, base: Normalised) -> Tensor:
        return self.c + self.visible_offset @ self.W

    @override
    def draw_visible(self, fields: Tensor, key: AnyKey) -> Tensor:
        return visible_units.draw(self.space, self.b + fields, key)

    @override
    def draw_between(self, base: Normalised, beta: float | Tensor, fields: Tensor, key: AnyKey) -> Tensor:
        assert isinstance(base, BernoulliProduct | CategoricalProduct)
        between = (1 - beta) * visible_units.fields_of(base) + beta * (self.b + fields)
        return visible_units.draw(self.space, between, key)

    @override
    def log_sum_visible(self, fields: Tensor) -> Tensor:
        return visible_units.log_sum(self.space, self.b + fields)

    @torch.no_grad()
    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dv = -b - E[h | v] W^T, from the same inputs."""
        a = self.hidden_inputs(x)
        slope = torch.addmm(-self.b, self.mean_hidden(a), self.W.T, alpha=-1)
        return self.at_rest(x) - self.log_sum_hidden(a), slope.reshape(x.shape)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The free energy; dE/dW = -v E[h | v]^T, dE/db = -v, dE/dc = -E[h | v], from the same inputs."""
        a = self.hidden_inputs(x)
        mean = self.mean_hidden(a)

        def pull(weight: Tensor) -> Gradients:
            v, activity = x.flatten(1), mean * -weight[:, None]
            return {"W": v.T @ activity, "b": -(weight @ v), "c": activity.sum(0), **self.slopes_hidden(a, weight)}

        return self.at_rest(x) - self.log_sum_hidden(a), pull

    @torch.no_grad()
    @override
    def centred_vjp(self, x: Tensor, n: int) -> tuple[Tensor, Pullback, HiddenMoments]:
        energy, pull = self.energy_vjp(x)
        a = self.hidden_inputs(x[:n])
        square = self.units.square(a, self.potential)
        return energy, pull, HiddenMoments(self.mean_hidden(a).mean(0), square.mean(0))

    @override
    def log_conditionals(self, x: Tensor, sites: Tensor) -> Tensor:
        """Of two values v = low and high: log sigmoid of +-((high - low) b_i + sum_j Gamma_j(high) - Gamma_j(low))."""
        if not isinstance(self.space, TwoValued):
            return EnergyModel.log_conditionals(self, x, sites)
        v, weight, potential = x.flatten(1)[:, sites], self.W[sites], self.potential
        off = self.hidden_inputs(x)[:, None] - v[:, :, None] * weight
        up, down = (self.units.log_sum(off + value * weight, potential) for value in (self.space.high, self.space.low))
        logit = visible_units.width(self.space) * self.b[sites] + (up - down).sum(2)
        return F.logsigmoid(torch.where(v == self.space.high, logit, -logit))

    @override
    def sites(self, x: Tensor) -> Sites:
        """Conditionals from cached inputs of the hidden units."""
        layers, inputs = Layers(self.units, self.potential, self.W, self.b), self.hidden_inputs(x)
        if isinstance(self.space, Categorical):
            return HarmoniumCategories(self.space, layers, x, inputs)
        assert isinstance(self.space, TwoValued)
        return HarmoniumSites(self.space, layers, x, inputs)
