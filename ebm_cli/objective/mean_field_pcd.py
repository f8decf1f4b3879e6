"""Training of a deep Boltzmann machine: its hidden layers by mean field on the data, by persistent chains without."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import EnergyModel, Gradients
from ebm_cli.model.dbm import DBM
from ebm_cli.noise.base import Noise
from ebm_cli.objective.base import Auxiliary, Batch, Gradient, Objective
from ebm_cli.objective.likelihood import center, contrast
from ebm_cli.registry import Later, register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary

_PREFIX = "rbm."  # of the names of its parameters


class Particles(Auxiliary):
    """Persistent chains (v, g) of the machine, (chains, sites + second), which begin as noise."""

    x: Tensor

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.register_buffer("x", x)

    @property
    @override
    def of_rows(self) -> list[Tensor]:
        return [self.x]


@register("objective", "mean_field_pcd")
class MeanFieldPCD(Objective):
    """mean E(v, q) - mean E(chains), E with the first hidden layer summed out (Salakhutdinov & Hinton 2009, alg. 1).

    `positive` mean_field: q of the second layer by `sweeps` of mean field given the data, so that this is the gradient
    of the bound on the log-likelihood; gibbs: a draw of it by as many block Gibbs sweeps given the data, which come to
    the posterior. The chains, one for each row of the batch, take `k` block Gibbs steps: the first hidden layer, then
    all else. `centered`: the centred gradient (Montavon & Mueller 2012), by which both layers learn at once without
    training one after the other before; `offset_rate` is how fast the means of hidden units follow the data.

    In the first `first_steps` updates v and h learn alone, by the same of their RBM, and J stays as it is: hardly
    different from 0, so that the deep machine goes on where that RBM ends, at a fraction of its own cost.
    """

    positive: Literal["mean_field", "gibbs"]
    sweeps: Annotated[int, Field(ge=1)]
    k: Annotated[int, Field(ge=1)]
    chains: Annotated[int, Field(ge=1)]
    centered: bool
    offset_rate: Annotated[float, Field(gt=0, le=1)]
    first_steps: Annotated[int, Field(ge=0), Later(0)]

    spaces = (Binary,)
    requires = (DBM,)
    ways: ClassVar[Mapping[str, str]] = {"gap": "take more objective.k, or a lower optimizer.lr"}

    @override
    def refusal_of_batch(self, batch_size: int) -> str | None:
        if self.chains == batch_size:
            return None
        return f"objective.chains = {self.chains}: must be batch_size, {batch_size}: one for each row"

    @override
    def auxiliary(self, model: EnergyModel, noise: Noise | None, key: Key) -> Particles:
        assert isinstance(model, DBM)
        return Particles(model.top.space.noise(self.chains, key))

    @override
    def remark(self, model: EnergyModel, steps: int) -> str | None:
        """Steps that do not reach the second layer."""
        if steps > self.first_steps:
            return None
        return f"steps = {steps}: the second layer never learns, objective.first_steps = {self.first_steps}"

    @torch.no_grad()
    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """That of the RBM between the first hidden layer and all else, with the second layer filled in."""
        particles, n = batch.auxiliary, len(batch.x)
        assert isinstance(model, DBM)
        assert isinstance(particles, Particles)
        own, sites, alone = key.after(batch.first), model.space.sites, bool(batch.step < self.first_steps)
        rbm = model.first if alone else model.top
        x = batch.x.flatten(1) if alone else self._filled(model, batch.x, own)
        chains = particles.x[batch.first : batch.first + n, : x.shape[1]]
        for i in range(self.k):
            chains.copy_(rbm.sweep(chains.to(x.dtype), own.fold("sweep", i), backwards=False))
        rows = torch.cat([x, chains.to(x.dtype)])
        logits = rbm.hidden_logits(rows)
        energy = rbm.free_energy(rows, logits)
        weight, metrics = contrast(energy[:n], energy[n:], 0)
        found = {_PREFIX + name: grad for name, grad in rbm.pull(rows, logits, weight).items()}
        means = {"hidden_mean": logits[:n].sigmoid().mean(0), "second_mean": x[:, sites:].mean(0)}
        return Gradient(found, metrics, means)

    def _filled(self, model: DBM, v: Tensor, key: AnyKey) -> Tensor:
        if self.positive == "mean_field":
            return model.mean_field(v, self.sweeps)
        return model.drawn_given(v, self.sweeps, key.fold("positive"))

    @torch.no_grad()
    @override
    def finish(self, model: EnergyModel, gradient: Gradient) -> Gradients:
        """Offsets, and centring; of v and h alone, whose gradient is that of their weights, the others' is 0."""
        assert isinstance(model, DBM)
        found, sites = gradient.parameters, model.space.sites
        alone = len(found[_PREFIX + "b"]) == sites
        rbm = model.first if alone else model.top
        rbm.hidden_offset.lerp_(gradient.statistics["hidden_mean"], self.offset_rate)
        rbm.visible_offset[sites:].lerp_(gradient.statistics["second_mean"], self.offset_rate)
        if self.centered:
            own = {name.removeprefix(_PREFIX): grad for name, grad in found.items()}
            centred = center(own, rbm.visible_offset, rbm.hidden_offset)
            found = {_PREFIX + name: grad for name, grad in centred.items()}
        return _with_second(model, found) if alone else found


def _with_second(model: DBM, gradients: Gradients) -> Gradients:
    """Of v and h, with 0 for J and a."""
    W, b = (gradients[_PREFIX + name] for name in ("W", "b"))
    return gradients | {_PREFIX + "W": F.pad(W, (0, 0, 0, model.second)), _PREFIX + "b": F.pad(b, (0, model.second))}
