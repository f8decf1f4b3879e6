"""Diffusion recovery likelihood: what each level of noise is given the next."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PlainValidator
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel, Gradients
from ebm_cli.model.from_above import FromAbove
from ebm_cli.model.levels import Leveled, per_row
from ebm_cli.objective.base import Batch, Gradient, Metrics, Objective, slopes
from ebm_cli.registry import Nested, register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Sampler, transitions
from ebm_cli.sampler.kernel import nested, refusal_of_needs, refusal_of_space
from ebm_cli.space import Real, Space

_AT = "objective.kernel"


def _kernel(settings: Any) -> Sampler[Any, Any]:
    return nested(settings, _AT)


@register("objective", "recovery")
class Recovery(Objective):
    """-log p(x_k | x_(k+1)) = E(x_k, k) + |(x_(k+1) - m - t (x_k - m)) / r|^2 / (2 q^2) + log Z(x_(k+1)) of two levels.

    Of each row of data one pair, k drawn from all levels but the last (Gao et al. 2021, eq. 6 and 13). The gradient is
    that of E(x_k, k) less that of E(y, k), y the end of `steps` transitions of `kernel` on p(x_k | x_(k+1)), which
    begin at a draw of it as if the data were Gaussian; lengths are in units of the width of `model.from_above`. The
    noise between two levels makes a density of one mode, or of few near each other, of which short chains are draws.

    With `model.initializer` they begin around the mean that a network says of x_k, in units of that width, which learns
    from where they end, by mean |start - y|^2 / 2 (cooperative learning: Zhu et al. 2024, sec. 3.2); `start_distance`
    is the root of the mean of |start - y|^2 over sites.

    A row at level k counts s_k / a_k times, so that all levels teach the network alike. `energy_gap` is the mean of
    E(x_k, k) - E(y, k), the loss the same so weighted; its height says nothing.
    """

    kernel: Annotated[Sampler[Any, Any], PlainValidator(_kernel), Nested("sampler")]
    steps: Annotated[int, Field(ge=1)]

    spaces = (Real,)
    requires = (Leveled,)
    ways: ClassVar[Mapping[str, str]] = {"acceptance": "take a smaller objective.kernel.step_size"}

    @property
    @override
    def compares(self) -> bool:
        return False

    @property
    @override
    def differentiates(self) -> bool:
        """Not compiled: its transitions would be unrolled into one region, which takes longer than it saves."""
        return True

    @property
    @override
    def places(self) -> int:
        return 2

    @override
    def refusal_of_space(self, space: Space) -> str | None:
        """The kernel must move in it."""
        return refusal_of_space(self.kernel, space, _AT)

    @override
    def refusal_of_model(self, model: type[EnergyModel]) -> str | None:
        """The kernel asks for no more than energies and gradients."""
        return refusal_of_needs(self.kernel, _AT)

    @torch.no_grad()
    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """One pass over both ends of all pairs; `acceptance` is that of the kernel, where it has one."""
        assert isinstance(model, Leveled)
        key, n = key.after(batch.first), len(batch.x)
        x, level, given = pairs(model, batch.x, key)
        keys = [key.fold("move", i) for i in range(self.steps)]
        end, info = transitions(self.kernel, given, given.begun(key.fold("begin")), keys)
        y = given.outside(end)
        energy, pull = model.energy_vjp_at(torch.cat([x, y]), torch.cat([level, level]))
        weight = (model.s / model.a)[level]
        gap = energy[:n] - energy[n:]
        metrics = {"loss": (weight * gap).mean(), "energy_gap": gap.mean()}
        if "acceptance" in info:
            metrics["acceptance"] = info["acceptance"].mean()
        found = {**pull(torch.cat([weight, -weight]) / n)}
        of_start, distance = _cooperative(model, given, end)
        return Gradient({**found, **of_start}, {**metrics, **distance}, {})


def _cooperative(model: Leveled, given: FromAbove, end: Tensor) -> tuple[Gradients, Metrics]:
    """The gradient of mean |start - y|^2 / 2 in the initializer, if there is one, and how far that is."""
    own = {name: p for name, p in model.named_parameters() if name.startswith("initializer.")}
    with torch.set_grad_enabled(bool(own)):
        loss = (given.start - end).flatten(1).square().sum(1).mean() / 2
        found = slopes(loss, own) if own else {}
    return found, {"start_distance": (2 * loss.detach() / model.space.sites).sqrt()}


def pairs(model: Leveled, x: Tensor, key: AnyKey) -> tuple[Tensor, Tensor, FromAbove]:
    """Data x (batch, *shape) with the noise of a level k drawn for each, k, and the model of x_k given one x_(k+1)."""
    level = rng.integers(model.levels - 1, (len(x), 1), key.fold("level"), x.device).squeeze(1)
    z, more = (rng.normal(x.shape, key.fold(name), x.device, x.dtype) for name in ("noise", "more"))
    x = model.noised(x, level, z)
    given = FromAbove(model, x, level)
    above = model.mean + per_row(given.shrunk, x) * (x - model.mean)
    return x, level, FromAbove(model, above + model.scale * per_row(given.noise.sqrt(), x) * more, level)
