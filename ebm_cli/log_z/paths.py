"""Geometric paths p_beta ~ p_base^(1-beta) p_target^beta from a base with known log Z to a model, for AIS and RAISE.

f_beta is the unnormalised density at beta, f_0 that of the base, f_1 = exp(-E) of the model.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.functional import softplus
from ebm_cli.model.base import (
    Bipartite,
    CategoricalSites,
    EnergyModel,
    MixtureRBM,
    Normalised,
    Site,
    Sites,
    TwoValuedSites,
)
from ebm_cli.model.exponential_family import BernoulliProduct, CategoricalProduct
from ebm_cli.rng import AnyKey, Key
from ebm_cli.sampler.base import Sampler

S = TypeVar("S")
Beta = float | Tensor  # an inverse temperature; in a compiled region a scalar tensor


class Path(ABC, Generic[S]):
    """States S are chain positions with whatever makes the next density ratio and move cheap."""

    log_z_base: float
    compiles: bool = False

    @abstractmethod
    def start(self, n: int, key: Key) -> Tensor:
        """n exact draws from the base, (n, *shape)."""

    @abstractmethod
    def observe(self, x: Tensor) -> S:
        """The state at positions x."""

    @abstractmethod
    def log_base(self, state: S) -> Tensor:
        """log f_0(x), (chains,)."""

    @abstractmethod
    def log_ratio(self, state: S, to: Beta, origin: Beta) -> Tensor:
        """log f_to(x) - log f_origin(x), (chains,)."""

    def log_target(self, state: S) -> Tensor:
        """log f_1(x), (chains,) float64: of the base, plus the whole ratio from it."""
        return (self.log_base(state) + self.log_ratio(state, 1.0, 0.0)).double()

    @abstractmethod
    def move(self, state: S, beta: Beta, key: AnyKey) -> S:
        """A transition that leaves p_beta invariant."""

    @abstractmethod
    def move_back(self, state: S, beta: Beta, key: AnyKey) -> S:
        """The time reversal of `move` at the same beta."""


class BipartiteState(NamedTuple):
    """Visible units v, E_A(v) - E(v, h = 0), and the model's hidden logits a."""

    x: Tensor
    tilt: Tensor
    hidden_logits: Tensor


class JointPath(Path[BipartiteState]):
    """E_beta(v, h) = (1 - beta) E_A(v) + beta E(v, h), E(v, h) = E(v, 0) - h.a(v), with binary hidden units h.

    They stay, uncoupled at beta = 0, so log Z_base is that of E_A and H log 2. Each move draws them and then v, which
    is reversible.
    """

    def __init__(self, base: Normalised, hidden: int) -> None:
        self.base = base
        self.log_z_hidden = hidden * math.log(2)
        self.log_z_base = base.log_z().item() + self.log_z_hidden

    @override
    def start(self, n: int, key: Key) -> Tensor:
        """Independent units at the base's mean."""
        return self.base.sample(n, key)

    @override
    def log_base(self, state: BipartiteState) -> Tensor:
        """-E_A(v) + H log 2: the hidden units are summed out."""
        return self.log_z_hidden - self.base.energy(state.x)

    @override
    def log_ratio(self, state: BipartiteState, to: Beta, origin: Beta) -> Tensor:
        """(to - origin) (E_A(v) - E(v, 0)) + sum_j softplus(to a_j) - softplus(origin a_j)."""
        logits = state.hidden_logits
        hidden = softplus(to * logits).sum(1) - softplus(origin * logits).sum(1)
        return (to - origin) * state.tilt + hidden

    @override
    def move_back(self, state: BipartiteState, beta: Beta, key: AnyKey) -> BipartiteState:
        """The same: v -> h -> v' satisfies detailed balance."""
        return self.move(state, beta, key)


class BipartitePath(JointPath):
    """Salakhutdinov & Murray 2008, eq. 17-19, with E_A(v) = -a.v, log Z_base = sum_i softplus(a_i) + H log 2.

    Each move is the block Gibbs sweep of p_beta; one product v W serves the weight and the next hidden draw.
    """

    def __init__(self, base: BernoulliProduct | CategoricalProduct, model: Bipartite) -> None:
        super().__init__(base, model.hidden)
        self.model = model
        nothing = torch.zeros(1, model.hidden, device=base.b.device, dtype=base.b.dtype)
        self.b = base.b.flatten()
        self.tilt = model.visible_logits(nothing).squeeze(0) - self.b
        self.compiles = model.compiles

    @override
    def observe(self, x: Tensor) -> BipartiteState:
        """One product with W; the tilt is v.(b - a)."""
        return BipartiteState(x, x.flatten(1) @ self.tilt, self.model.hidden_logits(x))

    @override
    def move(self, state: BipartiteState, beta: Beta, key: AnyKey) -> BipartiteState:
        """h ~ p_beta(h | v), then v ~ p_beta(v | h)."""
        h = rng.bernoulli(beta * state.hidden_logits, key.fold("hidden"))
        logits = (1 - beta) * self.b + beta * self.model.visible_logits(h)
        return self.observe(self.model.draw_visible(logits, key.fold("visible")))


class MixtureRBMPath(JointPath):
    """The same where some visible units are real, from independent units of the same kinds.

    Moves are one step of `sampler`, which draws h, on p_beta. It is not compiled, since it makes a model for each beta.
    """

    def __init__(self, base: Normalised, model: MixtureRBM, sampler: Sampler[Any, Any]) -> None:
        super().__init__(base, model.hidden)
        self.model, self.sampler = model, sampler

    @override
    def observe(self, x: Tensor) -> BipartiteState:
        """One product with W; the tilt is a difference of energies of independent units."""
        return BipartiteState(x, self.base.energy(x) - self.model.at_rest(x), self.model.hidden_logits(x))

    @override
    def move(self, state: BipartiteState, beta: Beta, key: AnyKey) -> BipartiteState:
        """One step on the machine that p_beta is."""
        model = self.model.annealed(self.base, beta)
        moved, _ = self.sampler.step(model, self.sampler.init(model, state.x), key)
        return self.observe(moved.x)


class Tempered(EnergyModel):
    """The model p_beta itself: E_beta = share E_base + beta E_target; the share is 1 - beta unless another is given."""

    def __init__(self, base: EnergyModel, target: EnergyModel, beta: Beta, share: Beta | None = None) -> None:
        super().__init__()
        self.space = target.space
        self.base, self.target, self.beta = base, target, beta
        self.share = 1 - beta if share is None else share

    @override
    def energy(self, x: Tensor) -> Tensor:
        """share E_base(x) + beta E_target(x), (batch,)."""
        return self.share * self.base.energy(x) + self.beta * self.target.energy(x)

    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        (base, base_grad), (target, target_grad) = self.base.energy_and_grad(x), self.target.energy_and_grad(x)
        mixed = self.share * base + self.beta * target
        return mixed, self.share * base_grad + self.beta * target_grad

    @override
    def sites(self, x: Tensor) -> Sites:
        """Conditionals of both ends, mixed, or what the target has in their place."""
        own = self.target.mixed_sites(self.base, self.share, self.beta, x)
        if own is not None:
            return own
        base, target = self.base.sites(x), self.target.sites(x)
        if isinstance(base, CategoricalSites) and isinstance(target, CategoricalSites):
            return TemperedCategoricalSites(self.share, self.beta, base, target)
        assert isinstance(base, TwoValuedSites)
        assert isinstance(target, TwoValuedSites)
        return TemperedSites(self.share, self.beta, base, target)


def tempered(base: EnergyModel, target: EnergyModel, beta: Beta) -> EnergyModel:
    """The model p_beta; of the target's own kind where that is closed under mixing with such a base."""
    return target.mixed(base, 1 - beta, beta) or Tempered(base, target, beta)


class TemperedSites(TwoValuedSites):
    """logit_beta = share logit_base + beta logit_target."""

    def __init__(self, share: Beta, beta: Beta, base: TwoValuedSites, target: TwoValuedSites) -> None:
        self.share, self.beta, self.base, self.target = share, beta, base, target
        self.x, self.low = target.x, target.low

    @override
    def logit(self, site: Site) -> Tensor:
        """share logit_base + beta logit_target, (chains,)."""
        return self.share * self.base.logit(site) + self.beta * self.target.logit(site)

    @override
    def assign(self, site: Site, value: Tensor) -> None:
        self.base.assign(site, value)
        self.target.assign(site, value)


class TemperedCategoricalSites(CategoricalSites):
    """The same for sites of several values."""

    def __init__(self, share: Beta, beta: Beta, base: CategoricalSites, target: CategoricalSites) -> None:
        self.share, self.beta, self.base, self.target = share, beta, base, target
        self.x = target.x

    @override
    def logits(self, site: Site) -> Tensor:
        """share logits_base + beta logits_target, (chains, K)."""
        return self.share * self.base.logits(site) + self.beta * self.target.logits(site)

    @override
    def assign(self, site: Site, value: Tensor) -> None:
        self.base.assign(site, value)
        self.target.assign(site, value)


class GeometricState(NamedTuple):
    """Positions and E_base(x) - E_target(x), the derivative of log f_beta in beta."""

    x: Tensor
    slope: Tensor


class GeometricPath(Path[GeometricState]):
    """Any model, any sampler that fits it: moves are one step of `sampler` on the tempered model."""

    def __init__(self, base: Normalised, model: EnergyModel, sampler: Sampler[Any, Any]) -> None:
        self.base, self.model = base, model
        self.forward, self.backward = sampler, sampler.reversal()
        self.log_z_base = base.log_z().item()

    @override
    def start(self, n: int, key: Key) -> Tensor:
        return self.base.sample(n, key)

    @override
    def observe(self, x: Tensor) -> GeometricState:
        return GeometricState(x, self.base.energy(x) - self.model.energy(x))

    @override
    def log_base(self, state: GeometricState) -> Tensor:
        """-E_base(x)."""
        return -self.base.energy(state.x)

    @override
    def log_ratio(self, state: GeometricState, to: Beta, origin: Beta) -> Tensor:
        """(to - origin) (E_base(x) - E_target(x))."""
        return (to - origin) * state.slope

    @override
    def move(self, state: GeometricState, beta: Beta, key: AnyKey) -> GeometricState:
        """One step of the sampler at beta."""
        return self._step(self.forward, state, beta, key)

    @override
    def move_back(self, state: GeometricState, beta: Beta, key: AnyKey) -> GeometricState:
        return self._step(self.backward, state, beta, key)

    def _step(self, sampler: Sampler[Any, Any], state: GeometricState, beta: Beta, key: AnyKey) -> GeometricState:
        model = tempered(self.base, self.model, beta)
        moved, _ = sampler.step(model, sampler.init(model, state.x), key)
        return self.observe(moved.x)
