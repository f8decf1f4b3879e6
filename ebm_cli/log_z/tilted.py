"""Models pulled towards one configuration: p_theta(x) proportional to exp(-E(x) + theta n(x))."""

from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli.log_z.paths import Tempered
from ebm_cli.model.base import Bipartite, EnergyModel, Normalised, Sites
from ebm_cli.model.exponential_family import BernoulliProduct, CategoricalProduct, product
from ebm_cli.rng import AnyKey
from ebm_cli.space import Discrete, TwoValued


def agreement(space: Discrete, x: Tensor, goal: Tensor) -> Tensor:
    """n(x): at how many sites x (batch, *shape) is as the goal (*shape), (batch,) float64."""
    return (space.decode(x) == space.decode(goal[None])).flatten(1).sum(1).double()


def pulling(space: Discrete, goal: Tensor, theta: float) -> Normalised:
    """Independent units of energy -theta n(x) + a constant: fields theta at the values of the goal (*shape)."""
    at = space.bits(goal[None]) if isinstance(space, TwoValued) else goal[None]
    units = cast(BernoulliProduct | CategoricalProduct, product(space, torch.full_like(at[0], 1 / space.values)))
    field = theta * (2 * at - 1 if isinstance(space, TwoValued) else at)
    units.b = nn.Parameter(field.reshape(units.b.shape), requires_grad=False)
    return units


def tilted(model: EnergyModel, goal: Tensor, theta: float) -> EnergyModel:
    """The model of E(x) - theta n(x), but for a constant: one of the same kind with other fields where there is one.

    A bipartite one keeps its two layers, with theta on the logits of its visible units.
    """
    assert isinstance(model.space, Discrete)
    units = pulling(model.space, goal, theta)
    own = model.mixed(units, 1.0, 1.0)
    if own is not None:
        return own
    return TiltedBipartite(units, model) if isinstance(model, Bipartite) else Tempered(units, model, 1.0, 1.0)


class TiltedBipartite(Tempered, Bipartite):
    """E(v, h) + E_units(v): p(h | v) stays, and p(v | h) has logits that are higher by the fields of the units."""

    target: Bipartite
    base: BernoulliProduct | CategoricalProduct

    def __init__(self, base: Normalised, target: Bipartite) -> None:
        super().__init__(base, target, 1.0, 1.0)
        self.hidden = target.hidden

    @override
    def hidden_logits(self, v: Tensor) -> Tensor:
        return self.target.hidden_logits(v)

    @override
    def visible_logits(self, h: Tensor) -> Tensor:
        """Those of the model and the fields."""
        return self.target.visible_logits(h) + self.base.b.flatten()

    @override
    def draw_visible(self, logits: Tensor, key: AnyKey) -> Tensor:
        return self.target.draw_visible(logits, key)

    @override
    def visible_log_z(self, logits: Tensor) -> Tensor:
        return self.target.visible_log_z(logits)

    @override
    def free_energy(self, v: Tensor, hidden_logits: Tensor) -> Tensor:
        """That of the model less v.b."""
        return self.target.free_energy(v, hidden_logits) + self.base.energy(v)

    @override
    def sites(self, x: Tensor) -> Sites:
        return Tempered.sites(self, x)
