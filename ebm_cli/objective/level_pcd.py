"""Maximum likelihood at all levels of noise of a leveled model, by persistent chains that exchange between them."""

from typing import Annotated, Any

import torch
from pydantic import Field, PlainValidator
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import EnergyModel, Gradients
from ebm_cli.model.level_ladder import ladder_of
from ebm_cli.model.levels import Leveled
from ebm_cli.noise.base import Noise
from ebm_cli.objective.base import Auxiliary, Batch, Gradient, Metrics
from ebm_cli.objective.denoising import noised
from ebm_cli.objective.diffusive_classification import DiffusiveClassification
from ebm_cli.registry import Nested, register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.kernel import exact, refusal_of_needs, refusal_of_space
from ebm_cli.sampler.level_exchange import Exchange
from ebm_cli.space import Real, Space

_AT = "objective.kernel"


def _kernel(settings: Any) -> Sampler[Any, Any]:
    return exact(settings, _AT)


class Walkers(Auxiliary):
    """Replicas w of each chain from the last level to level 0, (chains, K, *shape), as `sampler.level_exchange` has."""

    w: Tensor

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.register_buffer("w", w)


@register("objective", "level_pcd")
class LevelPCD(DiffusiveClassification):
    """`likelihood` times mean E(x_k, k) - mean E(y_k, k), beside the loss of `diffusive_classification` of such keys.

    x_k are data with the noise of a level k, all but the last equally likely; y_k are `chains` replicas of each of
    these levels, which take one round of `sampler.level_exchange` with each update: `transitions` of `kernel` and
    exchanges of every other pair of levels, from a fresh draw of the last. So the gradient is that of the likelihood at
    every level (Tieleman 2008, by chains that leave their modes). A row at level k counts 1 / g_k times, for g_k
    = a_k / s_k or what the model multiplies its network by, so that all levels teach this alike.

    Slopes and classes are learned where noisy data are; what the energies are elsewhere they do not say, and a place of
    low energy there is a hole that takes the whole of exp(-E). Chains find holes and fill them. The chains begin to
    count after `begin` updates: before, levels are learned without. `energy_gap` is the mean of E(x_k, k) - E(y_k, k),
    0 until then.
    """

    likelihood: Annotated[float, Field(gt=0)]
    kernel: Annotated[Sampler[Any, Any], PlainValidator(_kernel), Nested("sampler")]
    transitions: Annotated[int, Field(ge=1)]
    chains: Annotated[int, Field(ge=1)]
    begin: Annotated[int, Field(ge=0)]

    spaces = (Real,)

    @property
    @override
    def alone(self) -> bool:
        return True

    @override
    def refusal_of_space(self, space: Space) -> str | None:
        """The kernel must move in it."""
        return refusal_of_space(self.kernel, space, _AT)

    @override
    def refusal_of_model(self, model: type[EnergyModel]) -> str | None:
        """The kernel asks for no more than energies and gradients."""
        return refusal_of_needs(self.kernel, _AT)

    @override
    def remark(self, model: EnergyModel, steps: int) -> str | None:
        """Chains that never count, and levels that there are not."""
        if steps > self.begin:
            return super().remark(model, steps)
        return f"steps = {steps}: the chains never count, objective.begin = {self.begin}"

    @override
    def auxiliary(self, model: EnergyModel, noise: Noise | None, key: Key) -> Walkers:
        """Draws of the Gaussian that is every level where the model begins."""
        assert isinstance(model, Leveled)
        w = ladder_of(model).last(self.chains * model.levels, key.fold("walkers"))
        return Walkers(w.reshape(self.chains, model.levels, *model.space.shape))

    @torch.no_grad()
    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """That of the levels told apart, and of both ends of the likelihood once the chains count."""
        assert isinstance(model, Leveled)
        told, walkers = super().gradient(model, batch, key), batch.auxiliary
        assert isinstance(walkers, Walkers)
        if batch.step < self.begin:
            nothing = dict.fromkeys(("likelihood_loss", "energy_gap"), torch.zeros_like(told.metrics["loss"]))
            return told._replace(metrics={**told.metrics, **nothing})
        found, metrics = self._of_chains(model, batch, walkers, key.after(batch.first))
        parameters = {name: grad + self.likelihood * found[name] for name, grad in told.parameters.items()}
        gap = self.likelihood * metrics["likelihood_loss"]
        return Gradient(parameters, {**told.metrics, **metrics, "loss": told.metrics["loss"] + gap}, {})

    def _of_chains(self, model: Leveled, batch: Batch, walkers: Walkers, key: AnyKey) -> tuple[Gradients, Metrics]:
        """The weighted gradient of E(x_k, k) less that of E(y_k, k), after the chains have moved."""
        if not batch.first:  # other parts of the batch meet the same chains
            exchange = Exchange(ladder_of(model), self.kernel, self.transitions)
            walkers.w.copy_(exchange.round(walkers.w, int(batch.step), key.fold("chains"))[0])
        w = walkers.w
        x, level, _ = noised(model, batch, model.levels - 1, key.fold("data"))
        below = torch.arange(model.levels - 2, -1, -1, device=w.device).repeat(len(w))
        y = model.stretched(w[:, 1:].flatten(0, 1), below)
        energy, pull = model.energy_vjp_at(torch.cat([x, y]), torch.cat([level, below]))
        n, weight = len(x), 1 / model.gain
        signed = torch.cat([weight[level] / n, -weight[below] / len(y)])
        gap = energy[:n].mean() - energy[n:].mean()
        return pull(signed), {"likelihood_loss": signed @ energy, "energy_gap": gap}
