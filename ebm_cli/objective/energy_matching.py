"""Energy matching: one energy that carries noise to the data far from them, and is -log p of the data near them."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PlainValidator
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.noise.base import Noise
from ebm_cli.objective.base import Auxiliary, Batch, Gradient, Objective, slopes
from ebm_cli.registry import Nested, register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.sampler.base import Sampler, transitions
from ebm_cli.sampler.heating import descended
from ebm_cli.sampler.kernel import nested, refusal_of_needs, refusal_of_space
from ebm_cli.space import Real, Space

_AT = "objective.kernel"


def _kernel(settings: Any) -> Sampler[Any, Any]:
    return nested(settings, _AT)


class Source(Auxiliary):
    """The noise that is carried to the data."""

    def __init__(self, noise: Noise) -> None:
        super().__init__()
        self.noise = noise.requires_grad_(requires_grad=False)

    @property
    @override
    def compiles(self) -> bool:
        """Pairs are found on the host."""
        return False


@register("objective", "energy_matching")
class EnergyMatching(Objective):
    """loss = mean |dV/dx(x_t) + x_1 - x_0|^2 + weight (mean V(x_1) - mean V(y)), V = temperature E.

    x_t = (1 - t) x_0 + t x_1 with t uniform below `cutoff`, x_0 draws of `noise`, x_1 the rows, which are paired so
    that sum |x_1 - x_0|^2 over the batch is least (Balcerak et al. 2025, arXiv 2504.10612). The first term
    makes -dV/dx the velocity that carries noise to the data, the second, from update number `warmup` on, makes exp(-E)
    their density near them: p is proportional to exp(-V / temperature).

    y are the ends of as many chains as there are rows. The share `from_noise` of them starts at the noise and takes
    `steps` steps of `step_size` temperature down E, without noise up to the share `cutoff` of them and then ever warmer
    (`sampler=heating`); the others start at the rows. All then take `transitions` of `kernel` at temperature 1.

    temperature, in squared units of the data, says how deep the valleys of E are that one potential makes: a path of
    length d downhill at the speed d is d^2 / temperature nats high. Weights of modes that no chain leads between are in
    where chains from noise come to, not in E. `flow` and `contrast` are the two terms, the
    latter in nats, mean E(x_1) - mean E(y), 0 before `warmup`.
    """

    temperature: Annotated[float, Field(gt=0)]
    cutoff: Annotated[float, Field(gt=0, lt=1)]
    weight: Annotated[float, Field(gt=0)]
    warmup: Annotated[int, Field(ge=0)]
    from_noise: Annotated[float, Field(ge=0, le=1)]
    steps: Annotated[int, Field(ge=1)]
    step_size: Annotated[float, Field(gt=0)]
    transitions: Annotated[int, Field(ge=0)]
    kernel: Annotated[Sampler[Any, Any], PlainValidator(_kernel), Nested("sampler")]

    spaces = (Real,)

    @property
    @override
    def differentiates(self) -> bool:
        return True

    @property
    @override
    def places(self) -> int:
        """On the way, at the row, and at the end of a chain."""
        return 3

    @property
    @override
    def contrasts(self) -> Literal["nothing", "samples", "density"]:
        return "samples"

    @override
    def refusal_of_space(self, space: Space) -> str | None:
        """The kernel must move in it."""
        return refusal_of_space(self.kernel, space, _AT)

    @override
    def refusal_of_model(self, model: type[EnergyModel]) -> str | None:
        """The kernel asks for no more than energies and gradients."""
        return refusal_of_needs(self.kernel, _AT)

    @override
    def auxiliary(self, model: EnergyModel, noise: Noise | None, key: Key) -> Source:
        assert noise is not None
        return Source(noise)

    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """By automatic differentiation; chains stand still in it."""
        assert isinstance(batch.auxiliary, Source)
        noise, x, key = batch.auxiliary.noise, batch.x, key.after(batch.first)
        contrasted = bool(batch.step >= self.warmup)
        y = self.negatives_of(model, noise, x, key.fold("chains")) if contrasted else x
        with torch.enable_grad():
            flow = self.flow_loss(model, noise.sample(len(x), key.fold("noise")).to(x), x, key.fold("time"))
            energy, energy_y = model.energy(torch.cat([x, y])).split(len(x))
            gap = energy.mean() - energy_y.mean()
            loss = flow + self.weight * self.temperature * gap
            found = slopes(loss, dict(model.named_parameters()))
        metrics = {"loss": loss, "flow": flow, "contrast": gap}
        return Gradient(found, {name: value.detach() for name, value in metrics.items()}, {})

    def flow_loss(self, model: EnergyModel, x_0: Tensor, x_1: Tensor, key: AnyKey) -> Tensor:
        """mean |temperature dE/dx(x_t) + x_1 - x_0|^2, with its graph."""
        x_0 = x_0[nearest_pairs(x_0, x_1)]
        t = self.cutoff * rng.uniform((len(x_1), 1), key, x_1.device, x_1.dtype)
        way = (x_1 - x_0).flatten(1)
        x = (x_0 + (t * way).reshape(x_0.shape)).detach().requires_grad_()
        (slope,) = torch.autograd.grad(model.energy(x).sum(), x, create_graph=True)
        return (self.temperature * slope.flatten(1) + way).square().sum(1).mean()

    @torch.no_grad()
    def negatives_of(self, model: EnergyModel, noise: Noise, x: Tensor, key: AnyKey) -> Tensor:
        """Ends of the chains, as many as rows x (batch, *shape)."""
        count = round(self.from_noise * len(x))
        y = x[: len(x) - count]
        if count:
            begun = noise.sample(count, key.fold("noise")).to(x)
            s = self.temperature * self.step_size
            y = torch.cat([y, descended(model, begun, self.steps, s, self.cutoff, key.fold("down"))])
        keys = [key.fold("move", i) for i in range(self.transitions)]
        return transitions(self.kernel, model, y, keys)[0] if keys else y


def nearest_pairs(x_0: Tensor, x_1: Tensor) -> Tensor:
    """For each row of x_1 the number of one of x_0, each taken once, so that sum |x_1 - x_0|^2 is least; int64."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    cost = torch.cdist(x_1.flatten(1).double(), x_0.flatten(1).double()).square()
    _, pair = linear_sum_assignment(cost.cpu().numpy())
    return torch.from_numpy(pair).to(x_0.device)
