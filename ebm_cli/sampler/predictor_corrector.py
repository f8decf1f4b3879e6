"""The walk down the levels of noise of a leveled model, from a Gaussian to the data."""

from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, PlainValidator
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.from_above import FromAbove
from ebm_cli.model.levels import Leveled
from ebm_cli.registry import Nested, register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler, transitions
from ebm_cli.sampler.kernel import below, nested
from ebm_cli.space import Real, Space

Predictor = Literal["none", "ancestral", "flow", "recovery"]


class Walk(NamedTuple):
    """Positions (chains, *shape), and the number of steps taken."""

    x: Tensor
    taken: int


@register("sampler", "predictor_corrector")
class PredictorCorrector(Sampler[Leveled, Walk]):
    """From a draw of the last level, a Gaussian, one level further down with each step, and at level 0 from then on.

    A step to level k is the `predictor` and then `transitions` of `kernel` on p_k, whose lengths are in units of r s_k,
    the deviation of the noise there. Without a predictor and with langevin as the kernel it is annealed Langevin
    dynamics (Song & Ermon 2019, alg. 1), with mala its adjusted form; with one the predictor-corrector of Song et al.
    (2021, alg. 1). In units y = (x - m) / r, with x_0(y) = (y - r s^2 dE/dx) / a the mean of the data that y at level
    k + 1 comes from (Tweedie's formula):

    none: u = y / sqrt(a^2 + s^2) stays.
    ancestral: y_k ~ N((t s_k^2 y + a_k (s_(k+1)^2 - t^2 s_k^2) x_0) / s_(k+1)^2, s_k^2 (s_(k+1)^2 - t^2 s_k^2) /
    s_(k+1)^2), t = a_(k+1) / a_k (Ho, Jain, Abbeel 2020, eq. 6 and 7).
    flow: a step of the probability flow (Song et al. 2021, eq. 13) by Heun's rule, which draws nothing:
    du/dl = (s^2 / (a^2 + s^2)) (dE/du - u) in l = log s / a, which stands still for Gaussian data. With `transitions`
    0 the walk is this flow alone.

    recovery: a draw of p(x_k | x_(k+1)) as if the data were N(m, r^2), and `transitions` of the kernel on this density
    itself in place of those on p_k, in units of its width (`model.from_above`; Gao et al. 2021, alg. 2).

    Wherever chains start, the first step forgets it. From level 0 on each step is `transitions` of the kernel, which
    leave p invariant if the kernel does. Info: `level`, and what the kernel says.
    """

    kernel: Annotated[Sampler[Any, Any], PlainValidator(nested), Nested("sampler")]
    transitions: Annotated[int, Field(ge=0)]
    predictor: Predictor

    spaces = (Real,)
    needs = (Leveled,)

    @property
    @override
    def leaves_invariant(self) -> bool:
        return False

    @property
    @override
    def draws_given(self) -> bool:
        return False

    @property
    @override
    def inner(self) -> Sampler[Any, Any]:
        return self.kernel

    @property
    @override
    def moves_per_step(self) -> int:
        return max(1, self.transitions)

    @override
    def refusal(self, space: Space) -> str | None:
        """A walk moves, and what the kernel says."""
        if not self.transitions and self.predictor in ("none", "recovery"):
            return "sampler.transitions = 0: is for sampler.predictor = ancestral or flow, without which nothing moves"
        found = self.kernel.refusal(space)
        return found and below(found)

    @override
    def too_few(self, model: Leveled, steps: int) -> str | None:
        """The walk has as many steps as there are levels below the last."""
        whole = model.levels - 1
        if steps >= whole:
            return None
        return f"the walk comes to level {whole - steps} of {whole} alone, with its noise; take {whole} or more"

    @override
    def init(self, model: Leveled, x: Tensor) -> Walk:
        """Before the first step."""
        return Walk(x, 0)

    @override
    def step(self, model: Leveled, state: Walk, key: AnyKey) -> tuple[Walk, Info]:
        """One level further down, or at level 0 where it has come there."""
        above = model.levels - 1 - state.taken
        level, x = max(0, above - 1), state.x
        if not state.taken:
            x = model.last().sample(len(x), key.fold("last"))
        if above > 0 and self.predictor == "recovery":
            x, info = recovered(self.kernel, model, x, above, self.transitions, key.fold("recover"))
        else:
            x = predicted(self.predictor, model, x, above, key.fold("predict")) if above > 0 else x
            x, info = corrected(self.kernel, model, x, level, self.transitions, key)
        return Walk(x, state.taken + 1), {**info, "level": torch.full((len(x),), float(level), device=x.device)}


def corrected(
    kernel: Sampler[Any, Any], model: Leveled, x: Tensor, level: int, count: int, key: AnyKey
) -> tuple[Tensor, Info]:
    """x (chains, *shape) after so many transitions on p_k, with lengths in units of r s_k; what the kernel says."""
    if not count:
        return x, {}
    inside = model.in_noise(level)
    y, info = transitions(kernel, inside, inside.inside(x), [key.fold("correct", i) for i in range(count)])
    return inside.outside(y), info


def recovered(
    kernel: Sampler[Any, Any], model: Leveled, x: Tensor, above: int, count: int, key: AnyKey
) -> tuple[Tensor, Info]:
    """x (chains, *shape) of level `above` brought to the level below it by transitions on p(x_k | x_(k+1))."""
    given = FromAbove(model, x, torch.full((len(x),), above - 1, dtype=torch.int64, device=x.device))
    keys = [key.fold("move", i) for i in range(count)]
    y, info = transitions(kernel, given, given.begun(key.fold("begin")), keys)
    return given.outside(y), info


def predicted(how: Predictor, model: Leveled, x: Tensor, above: int, key: AnyKey) -> Tensor:
    """x (chains, *shape) of level `above` brought to the level below it."""
    if how == "none":
        return model.mean + (model.variance[above - 1] / model.variance[above]).sqrt() * (x - model.mean)
    return _ancestral(model, x, above, key) if how == "ancestral" else _flowed(model, x, above)


def _ancestral(model: Leveled, x: Tensor, above: int, key: AnyKey) -> Tensor:
    (a, a_next), (s, s_next) = model.a[above - 1 : above + 1].unbind(), model.s[above - 1 : above + 1].unbind()
    y, clean, t = (x - model.mean) / model.scale, model.denoised(x, above), a_next / a
    between = (s_next.square() - t.square() * s.square()).clamp_min(0)
    mean = (t * s.square() * y + a * between * clean) / s_next.square()
    z = rng.normal(x.shape, key, x.device, x.dtype)
    return model.mean + model.scale * (mean + s * between.sqrt() / s_next * z)


def _flowed(model: Leveled, x: Tensor, above: int) -> Tensor:
    way = model.log_ratio[above - 1] - model.log_ratio[above]
    width, wide = model.width(torch.tensor([above - 1, above]))
    u = (x - model.mean) / wide
    slope = _flow(model, u, above)
    end = u - way / 2 * (slope + _flow(model, u - way * slope, above - 1))
    return model.mean + width * end


def _flow(model: Leveled, u: Tensor, level: int) -> Tensor:
    """(s^2 / v) (dE/du - u)."""
    width = model.scale * model.variance[level].sqrt()
    _, grad = model.at(level).energy_and_grad(model.mean + width * u)
    return model.s[level].square() / model.variance[level] * (width * grad - u)
