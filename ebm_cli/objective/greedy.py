"""Greedy training of a deep belief network: one RBM after the other, each on what the one below makes of the data."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import EnergyModel, Gradients
from ebm_cli.model.dbn import DBN
from ebm_cli.model.rbm import RBM
from ebm_cli.noise.base import Noise
from ebm_cli.objective.base import Auxiliary, Batch, Gradient, Objective
from ebm_cli.objective.likelihood import center, contrast
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary


class Fantasies(Auxiliary):
    """Persistent chains of each RBM, of its visible units, (chains, units); those of the first begin as noise."""

    def __init__(self, model: DBN, count: int, key: Key) -> None:
        super().__init__()
        for i in range(len(model.layers)):
            self.register_buffer(f"layer_{i}", model.rbm(i).space.noise(count, key.fold(i)).flatten(1))

    @property
    @override
    def of_rows(self) -> list[Tensor]:
        return [*self.buffers()]

    def of(self, layer: int) -> Tensor:
        """Those of one RBM."""
        return self.get_buffer(f"layer_{layer}")

    def rise(self, model: DBN, key: AnyKey) -> None:
        """Chains of the top go on in the RBM that is to be stacked: hidden units, drawn, become visible ones there."""
        self.of(model.depth).copy_(model.top.sample_hidden(self.of(model.depth - 1), key))


@register("objective", "greedy")
class Greedy(Objective):
    """Layer by layer (Hinton, Osindero, Teh 2006): RBM i learns for `layer_steps` updates, the last one till the end.

    Data of RBM i are draws x_i ~ q of the layers below, which stay as they are; its loss is that of contrastive
    divergence, mean E(x_i) - mean E(negatives). These are `k` block Gibbs steps from the data (`chains` 0, CD-k) or
    from persistent chains (PCD-k), one for each row of the batch, which go on in the next RBM when this is stacked.
    With `warm_start` an RBM begins as the transpose of the one below, where it has hidden units enough (`DBN.stack`).

    `centered`: the centred gradient, as of objective=pcd; `offset_rate` is how fast the mean hidden activity follows
    the data, which gives the next RBM its biases too. `decay`: within the updates of each RBM the gradient falls
    linearly to 0, as a learning rate would with one schedule for each; more updates of the last one are then in vain.
    """

    layer_steps: Annotated[int, Field(ge=1)]
    k: Annotated[int, Field(ge=1)]
    chains: Annotated[int, Field(ge=0)]
    warm_start: bool
    centered: bool
    offset_rate: Annotated[float, Field(gt=0, le=1)]
    decay: bool

    spaces = (Binary,)
    requires = (DBN,)
    ways: ClassVar[Mapping[str, str]] = {"gap": "take more objective.k, or a lower optimizer.lr"}

    @override
    def refusal_of_batch(self, batch_size: int) -> str | None:
        if self.chains in (0, batch_size):
            return None
        return f"objective.chains = {self.chains}: must be batch_size, {batch_size}, or 0 for chains from the data"

    @override
    def remark(self, model: EnergyModel, steps: int) -> str | None:
        """Steps that do not reach all layers, or lead nowhere."""
        assert isinstance(model, DBN)
        count = len(model.layers)
        if steps <= (count - 1) * self.layer_steps:
            reached = 1 + max(0, steps - 1) // self.layer_steps
            return f"steps = {steps}: only {reached} of {count} RBMs learn, objective.layer_steps = {self.layer_steps}"
        if self.decay and steps > count * self.layer_steps:
            spent = count * self.layer_steps
            return f"steps = {steps}: nothing is learned after step {spent}, objective.decay has then ended at 0"
        return None

    @override
    def auxiliary(self, model: EnergyModel, noise: Noise | None, key: Key) -> Fantasies | None:
        """Persistent chains, unless there are none."""
        assert isinstance(model, DBN)
        return Fantasies(model, self.chains, key) if self.chains else None

    @torch.no_grad()
    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """Of the RBM that is learning, after one more is stacked if that is due."""
        assert isinstance(model, DBN)
        fantasies = batch.auxiliary
        assert fantasies is None or isinstance(fantasies, Fantasies)
        while self._due(model):
            if fantasies is not None:
                fantasies.rise(model, key.fold("rise", model.depth))
            model.stack(warm=self.warm_start)
        rbm, n, own = model.top, len(batch.x), key.after(batch.first)
        x = model.recognise(batch.x, own.fold("recognise"))[-1].flatten(1)
        start = x if fantasies is None else fantasies.of(model.depth - 1)[batch.first : batch.first + n]
        x_neg = self._moved(rbm, start, own)
        if fantasies is not None:
            start.copy_(x_neg)
        rows = torch.cat([x, x_neg.to(x.dtype)])
        logits = rbm.hidden_logits(rows)
        energy = rbm.free_energy(rows, logits)
        weight, metrics = contrast(energy[:n], energy[n:], 0)
        metrics["layer"] = model.stacked.clone()
        statistics = {"hidden_mean": logits[:n].sigmoid().mean(0)}
        return Gradient(_named(model, rbm.pull(rows, logits, weight)), metrics, statistics)

    def _due(self, model: DBN) -> bool:
        """Whether the top RBM has had its updates and another one is to come."""
        return model.depth < len(model.layers) and model.updates.item() >= model.depth * self.layer_steps

    def _moved(self, rbm: RBM, x: Tensor, key: AnyKey) -> Tensor:
        """k sweeps, (chains, units)."""
        for i in range(self.k):
            x = rbm.sweep(x, key.fold("sweep", i), backwards=False).flatten(1)
        return x

    @torch.no_grad()
    @override
    def finish(self, model: EnergyModel, gradient: Gradient) -> Gradients:
        """Offset, centring and decay; the update is counted."""
        assert isinstance(model, DBN)
        rbm, prefix = model.top, _prefix(model)
        found = {name.removeprefix(prefix): grad for name, grad in gradient.parameters.items()}
        rbm.hidden_offset.lerp_(gradient.statistics["hidden_mean"], self.offset_rate)
        if self.centered:
            found = center(found, rbm.visible_offset, rbm.hidden_offset)
        if self.decay:
            share = model.updates.item() / self.layer_steps - (model.depth - 1)
            found = {name: grad * max(0.0, 1 - share) for name, grad in found.items()}
        model.updates += 1
        return _named(model, found)


def _prefix(model: DBN) -> str:
    """Of the names of the top RBM's parameters."""
    return f"layers.{model.depth - 1}."


def _named(model: DBN, gradients: Gradients) -> Gradients:
    """Gradients of the top RBM by the names that the network has for its parameters."""
    return {_prefix(model) + name: grad for name, grad in gradients.items()}
