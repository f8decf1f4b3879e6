"""Training of a deep Boltzmann machine: its hidden layers by mean field on the data, by persistent chains without."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import EnergyModel, Gradients
from ebm_cli.model.dbm import DBM
from ebm_cli.noise.base import Noise
from ebm_cli.objective.base import Auxiliary, Batch, Gradient, Objective
from ebm_cli.objective.likelihood import center, contrast
from ebm_cli.registry import register
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
    """

    positive: Literal["mean_field", "gibbs"]
    sweeps: Annotated[int, Field(ge=1)]
    k: Annotated[int, Field(ge=1)]
    chains: Annotated[int, Field(ge=1)]
    centered: bool
    offset_rate: Annotated[float, Field(gt=0, le=1)]

    spaces = (Binary,)
    requires = (DBM,)

    @override
    def refusal_of_batch(self, batch_size: int) -> str | None:
        if self.chains == batch_size:
            return None
        return f"objective.chains = {self.chains}: must be batch_size, {batch_size}: one for each row"

    @override
    def auxiliary(self, model: EnergyModel, noise: Noise | None, key: Key) -> Particles:
        assert isinstance(model, DBM)
        return Particles(model.top.space.noise(self.chains, key))

    @torch.no_grad()
    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """That of the RBM between the first hidden layer and all else, with the second layer filled in."""
        particles, n = batch.auxiliary, len(batch.x)
        assert isinstance(model, DBM)
        assert isinstance(particles, Particles)
        rbm, own = model.top, key.after(batch.first)
        x = self._filled(model, batch.x, own)
        chains = particles.x[batch.first : batch.first + n]
        for i in range(self.k):
            chains.copy_(rbm.sweep(chains.to(x.dtype), own.fold("sweep", i), backwards=False))
        rows = torch.cat([x, chains.to(x.dtype)])
        logits = rbm.hidden_logits(rows)
        energy = rbm.free_energy(rows, logits)
        weight, metrics = contrast(energy[:n], energy[n:], 0)
        found = {_PREFIX + name: grad for name, grad in rbm.pull(rows, logits, weight).items()}
        means = {"hidden_mean": logits[:n].sigmoid().mean(0), "second_mean": x[:, model.space.sites :].mean(0)}
        return Gradient(found, metrics, means)

    def _filled(self, model: DBM, v: Tensor, key: AnyKey) -> Tensor:
        if self.positive == "mean_field":
            return model.mean_field(v, self.sweeps)
        return model.drawn_given(v, self.sweeps, key.fold("positive"))

    @torch.no_grad()
    @override
    def finish(self, model: EnergyModel, gradient: Gradient) -> Gradients:
        """Offsets, and centring."""
        assert isinstance(model, DBM)
        rbm, sites = model.top, model.space.sites
        rbm.hidden_offset.lerp_(gradient.statistics["hidden_mean"], self.offset_rate)
        rbm.visible_offset[sites:].lerp_(gradient.statistics["second_mean"], self.offset_rate)
        if not self.centered:
            return gradient.parameters
        own = {name.removeprefix(_PREFIX): grad for name, grad in gradient.parameters.items()}
        centred = center(own, rbm.visible_offset, rbm.hidden_offset)
        return {_PREFIX + name: grad for name, grad in centred.items()}
