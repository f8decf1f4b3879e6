"""The annealing path of a class RBM, along which couplings and classes come in together."""

import math

from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.functional import softplus
from ebm_cli.log_z.paths import Beta, BipartiteState, JointPath
from ebm_cli.model import visible_units
from ebm_cli.model.class_rbm import ClassRBM
from ebm_cli.model.exponential_family import BernoulliProduct, CategoricalProduct
from ebm_cli.rng import AnyKey


class ClassPath(JointPath):
    """E_beta(v, y, h) = (1 - beta) E_A(v) + beta E(v, y, h): log Z_base is that of E_A, H log 2 and log of the classes.

    Salakhutdinov & Murray 2008, eq. 17-19, with a class that is summed out as the hidden units are. Each move draws it
    and them, and then v, which is reversible.
    """

    def __init__(self, base: BernoulliProduct | CategoricalProduct, model: ClassRBM) -> None:
        super().__init__(base, model.hidden)
        self.model, self.b = model, visible_units.fields_of(base)
        self.log_z_hidden += math.log(model.classes)
        self.log_z_base += math.log(model.classes)
        self.compiles = model.compiles

    @override
    def observe(self, x: Tensor) -> BipartiteState:
        """One product with W; the tilt is a difference of energies of independent units."""
        return BipartiteState(x, self.base.energy(x) + x.flatten(1) @ self.model.b, self.model.inputs(x))

    @override
    def log_ratio(self, state: BipartiteState, to: Beta, origin: Beta) -> Tensor:
        """(to - origin) (E_A(v) - E(v, 0)) and the logarithms of the sums over classes and hidden units."""
        hidden = self._classes(state, to).logsumexp(1) - self._classes(state, origin).logsumexp(1)
        return (to - origin) * state.tilt + hidden

    @override
    def move(self, state: BipartiteState, beta: Beta, key: AnyKey) -> BipartiteState:
        """(y, h) ~ p_beta(y, h | v), then v ~ p_beta(v | h)."""
        y = rng.categorical(self._classes(state, beta), key.fold("label"))
        h = rng.bernoulli(beta * (state.hidden_logits + self.model.U[y]), key.fold("hidden"))
        fields = self.b + beta * (self.model.b - self.b + h @ self.model.W.T)
        return self.observe(visible_units.draw(self.model.space, fields, key.fold("visible")))

    def _classes(self, state: BipartiteState, beta: Beta) -> Tensor:
        """log p_beta(y | v) up to a constant of each row, (chains, classes)."""
        return beta * self.model.d + softplus(beta * self.model.of_classes(state.hidden_logits)).sum(2)
