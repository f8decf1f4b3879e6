"""Learned Stein discrepancies: a critic finds where the scores of the model are not those of the data."""

import itertools
import math
from typing import Annotated, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import skip_init
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset.base import Data
from ebm_cli.model.base import EnergyModel
from ebm_cli.noise.base import Noise
from ebm_cli.objective.base import Auxiliary, Batch, Gradient, Objective, slopes, some_sites
from ebm_cli.objective.divergence import along, axes, random_directions, refusal_by_parts, slope
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary, Categorical, Discrete, Real, Space, Spin

_FEW = 4  # sites, whose derivatives are all taken


class Critic(Auxiliary):
    """f: x -> R^D, a network of layers `widths` with SiLU between them, of a x, a = `input_scale`; f = 0 at first."""

    def __init__(self, space: Space, widths: list[int], input_scale: float, key: Key) -> None:
        super().__init__()
        self.input_scale = input_scale
        sizes = [math.prod(space.shape), *widths, space.sites]
        self.layers = nn.ModuleList(skip_init(nn.Linear, a, b) for a, b in itertools.pairwise(sizes))
        with torch.no_grad():
            for i, layer in enumerate(self.layers):
                for name, parameter in layer.named_parameters():
                    draw = 2 * rng.uniform(parameter.shape, key.fold(i, name)) - 1
                    wide = input_scale if i == 0 and name == "bias" else 1.0  # so that units bend all over the data
                    parameter.copy_(wide * draw / math.sqrt(sizes[i]) if i < len(widths) else torch.zeros_like(draw))

    @property
    @override
    def compiles(self) -> bool:
        """It learns by automatic differentiation."""
        return False

    @override
    def forward(self, x: Tensor) -> Tensor:
        """f(x), (batch, D)."""
        units = self.input_scale * x.flatten(1)
        for layer in self.layers[:-1]:
            units = F.silu(layer(units))
        found: Tensor = self.layers[-1](units)
        return found


class Operated(NamedTuple):
    """The operator of Stein on a critic, A f, and the square of f that is held down; (batch,) each."""

    value: Tensor
    square: Tensor


@register("objective", "stein")
class LearnedStein(Objective):
    """min over the model, max over a critic f of V = E_data[A f(x) - `penalty` |f(x)|^2] (Grathwohl et al. 2020).

    E_data A f is 0 for every f if the data are draws of the model. Of real numbers A f = s.f + tr df/dx, s = -dE/dx
    (their eq. 5). The best critic is (s - s_data) / (2 penalty), where V = E_data |s - s_data|^2 / (4 penalty): with
    `penalty` 1/2 the loss of explicit score matching up to a constant, without the trace of d^2E/dx^2.

    Of discrete sites A f = sum_i a(x, x-) f_i(x-) - a(x, x+) f_i(x), where x+ and x- have the site one value further up
    and down, in a circle, and a(x, y) = p(y) / (p(x) + p(y)). That is the difference operator of `evaluation=stein`
    (Yang, Liu, Rao, Neville 2018) of f_i(x) a(x+, x), so bounded: the operator of f itself has no best critic where a
    row is in the data and its neighbour is not. |f|^2 is sum_i f_i(x)^2 + f_i(x-)^2, and the best critic is
    (a_data(x, x+) - a(x, x+)) / (2 penalty): of two values with `penalty` 1/2 V is the loss of ratio matching up to a
    constant. The sums are over `sites` sites drawn anew for each update, times D / sites; null: over all.

    `trace` exact takes D derivatives of f, hutchinson `projections` along random signs; auto: exact up to 4 sites. The
    critic, layers `widths` with SiLU of x times `input_scale`, learns at every update, the model at every
    `critic_steps`-th.
    """

    penalty: Annotated[float, Field(gt=0)]
    critic_steps: Annotated[int, Field(ge=1)]
    widths: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    input_scale: Annotated[float, Field(gt=0)]
    trace: Literal["auto", "exact", "hutchinson"]
    projections: Annotated[int, Field(ge=1)]
    sites: Annotated[int, Field(ge=1)] | None

    spaces = (Real, Binary, Spin, Categorical)

    @property
    @override
    def differentiates(self) -> bool:
        return True

    @property
    @override
    def places(self) -> int:
        """The row, and of discrete ones so many neighbours on either side."""
        return 1 + 2 * (self.sites or 0)

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        """Real numbers are integrated by parts."""
        if isinstance(data.space, Discrete):
            return None
        return refusal_by_parts(data, "objective=stein", "take objective=score_matching")

    @override
    def updates(self, name: str, step: float | Tensor) -> bool:
        """The critic always."""
        return name.startswith("auxiliary.") or (int(step) + 1) % self.critic_steps == 0

    @override
    def auxiliary(self, model: EnergyModel, noise: Noise | None, key: Key) -> Critic:
        return Critic(model.space, self.widths, self.input_scale, key.fold("critic"))

    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """dV of the model at its turn, -dV of the critic; `loss` is V, `stein` mean A f, `critic_norm` |f|, r.m.s."""
        critic, turn = batch.auxiliary, self.updates("model", batch.step)
        assert isinstance(critic, Critic)
        mine = {f"auxiliary.{name}": p for name, p in critic.named_parameters()}
        with torch.enable_grad():
            value, square = (part.mean() for part in self.operated(model, critic, batch.x, key, batch.first))
            loss = value - self.penalty * square
            of_critic = slopes(-loss, mine, retain=turn)
            found = slopes(loss if turn else loss.new_zeros((), requires_grad=True), dict(model.named_parameters()))
        metrics = {"loss": loss, "stein": value, "critic_norm": square.sqrt()}
        return Gradient(found | of_critic, {name: number.detach() for name, number in metrics.items()}, {})

    def operated(self, model: EnergyModel, critic: Critic, x: Tensor, key: AnyKey, first: int = 0) -> Operated:
        """A f, or an estimate of it, of rows of which the first has the number `first` in its batch."""
        if isinstance(model.space, Discrete):
            sites = some_sites(model.space, self.sites, key.fold("sites"), x.device)
            return discrete_operator(model, critic, x, sites)
        x, of_energy = slope(model, x)
        f = critic(x)
        vs = axes(f)
        if self.trace == "hutchinson" or (self.trace == "auto" and f.shape[1] > _FEW):
            vs = random_directions(f, self.projections, "rademacher", key.after(first).fold("projection"))
            vs = (v / math.sqrt(self.projections) for v in vs)
        value = sum((along(f, x, v) for v in vs), -(of_energy * f).sum(1))
        return Operated(value, f.square().sum(1))


def discrete_operator(model: EnergyModel, critic: nn.Module, x: Tensor, sites: Tensor) -> Operated:
    """Of some sites (int64, distinct), times D / len(sites)."""
    n, space, each = len(x), cast(Discrete, model.space), torch.arange(len(sites), device=x.device)
    sides = [shifted(space, x, sites, by) for by in ((1,) if space.values == 2 else (1, -1))]
    energy, *others = model.energy(torch.cat([x, *sides])).split([n, *[len(side) for side in sides]])
    up, *_, down = [(energy[:, None] - other.reshape(n, -1)).sigmoid() for other in (others[0], *others)]
    here = critic(x)[:, sites]
    back = critic(sides[-1]).reshape(n, len(sites), -1)[:, each, sites]
    scale = space.sites / len(sites)
    return Operated(scale * (down * back - up * here).sum(1), scale * (back.square() + here.square()).sum(1))


def shifted(space: Discrete, x: Tensor, sites: Tensor, by: int) -> Tensor:
    """x (n, *shape) with one of the sites at the value `by` further, in a circle, row after row: (n sites, *shape)."""
    n, each = len(x), torch.arange(len(sites), device=x.device)
    values = space.decode(x).flatten(1).long()[:, None].repeat(1, len(sites), 1)
    values[:, each, sites] = (values[:, each, sites] + by) % space.values
    return space.encode(values.reshape(n * len(sites), *space.site_shape).to(torch.float32)).to(x.dtype)
