"""Gibbs-Langevin sampling of Gaussian-Bernoulli machines (Liao et al. 2022, alg. 1)."""

import math
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.gaussian_rbm import GaussianRBM
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.space import Real


class GibbsLangevinState(NamedTuple):
    """Positions; hidden units are drawn afresh in every step."""

    x: Tensor


@register("sampler", "gibbs_langevin")
class GibbsLangevin(Sampler[GaussianRBM, GibbsLangevinState]):
    """h ~ p(h | v), then `steps` Langevin steps v' = v - e dE/dv(v, h) + sqrt(2 e) z given h, e = `step_size`.

    dE/dv(v, h) = (v - b - W h) / s^2, so that steps shrink the distance to the mean while e < 2 s^2. `adjust` accepts
    each step with min(1, p(v' | h) q(v | v') / (p(v | h) q(v' | v))), which leaves p invariant and the transition
    reversible; without, chains only approximate p. The source anneals e within a transition, and tests v and h together
    at the end of it.
    """

    steps: Annotated[int, Field(ge=1)]
    step_size: Annotated[float, Field(gt=0)]
    adjust: bool

    spaces = (Real,)
    compiles = True
    needs = (GaussianRBM,)

    @property
    @override
    def leaves_invariant(self) -> bool:
        """Only with the acceptance test."""
        return self.adjust

    @property
    @override
    def rejects(self) -> bool:
        """Only with the acceptance test."""
        return self.adjust

    @override
    def init(self, model: GaussianRBM, x: Tensor) -> GibbsLangevinState:
        return GibbsLangevinState(x)

    @override
    def step(self, model: GaussianRBM, state: GibbsLangevinState, key: AnyKey) -> tuple[GibbsLangevinState, Info]:
        """One draw of h and the steps given it; `acceptance` is the share of them that were accepted."""
        h = model.sample_hidden(state.x, key.fold("hidden"))
        mean, precision = model.visible_mean(h), model.precision()
        v = state.x.flatten(1)
        accepted = v.new_zeros(len(v))
        for i in range(self.steps):
            proposal = self._proposed(v, mean, precision, key.fold("noise", i))
            if not self.adjust:
                v = proposal
                continue
            taken = self._taken((v, proposal), mean, precision, key.fold("accept", i))
            v = torch.where(taken[:, None], proposal, v)
            accepted = accepted + taken.to(v.dtype) / self.steps
        info = {"acceptance": accepted} if self.adjust else {}
        return GibbsLangevinState(v.reshape(state.x.shape)), info

    def _proposed(self, v: Tensor, mean: Tensor, precision: Tensor, key: AnyKey) -> Tensor:
        z = rng.normal(v.shape, key, v.device, v.dtype)
        return v - self.step_size * (v - mean) * precision + math.sqrt(2 * self.step_size) * z

    def _taken(self, ends: tuple[Tensor, Tensor], mean: Tensor, precision: Tensor, key: AnyKey) -> Tensor:
        """Which proposals are accepted, (chains,).

        With d = v - b - W h the ratio of p q forth and back is exp(e sum_i (d_i^2 - d'_i^2) / (4 s_i^4)): all else of
        the two Gaussians cancels.
        """
        before, after = ((v - mean).square() @ precision.square() for v in ends)
        log_ratio = self.step_size / 4 * (before - after)
        return rng.uniform(log_ratio.shape, key, log_ratio.device, log_ratio.dtype) < log_ratio.exp()
