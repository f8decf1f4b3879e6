"""The annealing path of a harmonium, whose hidden units stay what they are while their couplings come in."""

from typing import NamedTuple

from torch import Tensor
from typing_extensions import override

from ebm_cli.log_z.paths import Beta, Path
from ebm_cli.model.base import Normalised
from ebm_cli.model.harmonium import Harmonium
from ebm_cli.rng import AnyKey, Key


class HarmoniumState(NamedTuple):
    """Visible units v, E_A(v) - E_0(v), and the inputs a of the hidden units in the model."""

    x: Tensor
    tilt: Tensor
    inputs: Tensor


class HarmoniumPath(Path[HarmoniumState]):
    """E_beta(v, h) = (1 - beta) E_A(v) + beta E_0(v) - h.a_beta(v) + U(h), a_beta = m + beta (a(v) - m).

    m are the inputs at the mean of the data, so that the hidden units, uncoupled at beta = 0, have the law there that
    they have at this mean: log Z_base is that of E_A and sum_j Gamma_j(m_j). Salakhutdinov & Murray 2008, eq. 17-19,
    for bits, who let U and c come in with the couplings; of real hidden units such a density would not be one at
    beta = 0. Each move draws h and then v, which is reversible.
    """

    def __init__(self, base: Normalised, model: Harmonium) -> None:
        self.base, self.model = base, model
        self.middle = model.middle_inputs(base).detach()
        self.log_z_hidden = model.log_sum_hidden(self.middle[None]).item()
        self.log_z_base = base.log_z().item() + self.log_z_hidden
        self.compiles = model.compiles

    @override
    def start(self, n: int, key: Key) -> Tensor:
        """Independent units at the base's mean."""
        return self.base.sample(n, key)

    @override
    def observe(self, x: Tensor) -> HarmoniumState:
        """One product with W."""
        return HarmoniumState(x, self.base.energy(x) - self.model.at_rest(x), self.model.hidden_inputs(x))

    @override
    def log_base(self, state: HarmoniumState) -> Tensor:
        """-E_A(v) + sum_j Gamma_j(m_j): the hidden units are summed out."""
        return self.log_z_hidden - self.base.energy(state.x)

    @override
    def log_ratio(self, state: HarmoniumState, to: Beta, origin: Beta) -> Tensor:
        """(to - origin) (E_A(v) - E_0(v)) + sum_j Gamma_j at a_to - Gamma_j at a_origin."""
        at_to, at_origin = (self.model.log_sum_hidden(self._inputs(state, beta)) for beta in (to, origin))
        return (to - origin) * state.tilt + at_to - at_origin

    @override
    def move(self, state: HarmoniumState, beta: Beta, key: AnyKey) -> HarmoniumState:
        """h ~ p_beta(h | v), then v ~ p_beta(v | h)."""
        h = self.model.draw_hidden(self._inputs(state, beta), key.fold("hidden"))
        return self.observe(self.model.draw_between(self.base, beta, h @ self.model.W.T, key.fold("visible")))

    @override
    def move_back(self, state: HarmoniumState, beta: Beta, key: AnyKey) -> HarmoniumState:
        """The same: v -> h -> v' satisfies detailed balance."""
        return self.move(state, beta, key)

    def _inputs(self, state: HarmoniumState, beta: Beta) -> Tensor:
        return self.middle + beta * (state.inputs - self.middle)
