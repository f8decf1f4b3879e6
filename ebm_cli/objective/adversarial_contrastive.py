"""Adversarial contrastive estimation: noise-contrastive estimation with noise that learns to be hard to tell."""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel, Normalised
from ebm_cli.noise.base import Noise
from ebm_cli.objective import adversary
from ebm_cli.objective.base import Batch, Gradient, Objective, slopes
from ebm_cli.objective.nce import Contrast, begun, told_apart
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary, Categorical, Discrete, Real, Spin

_ROWS = 1000  # of the noise, that the adversary begins from


class Mixed(Noise):
    """share q_fixed + (1 - share) q_learned."""

    compiles = False

    def __init__(self, fixed: Noise, learned: Normalised, share: float) -> None:
        super().__init__()
        self.fixed, self.learned, self.share = fixed, learned, share

    @torch.no_grad()
    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """Each from either by a coin of its own."""
        fixed = self.fixed.sample(n, key.fold("fixed"))
        learned = self.learned.sample(n, key.fold("learned"))
        coin = rng.uniform((n, 1), key.fold("which"), fixed.device) < self.share
        return torch.where(coin.reshape(n, *[1] * (fixed.dim() - 1)), fixed, learned)

    @override
    def log_prob(self, x: Tensor) -> Tensor:
        """log of the sum of the two densities."""
        learned = math.log1p(-self.share) - self.learned.energy(x) - self.learned.log_z()
        if not self.share:
            return learned
        return torch.logaddexp(math.log(self.share) + self.fixed.log_prob(x).to(learned.dtype), learned)


@register("objective", "adversarial_contrastive")
class AdversarialContrastive(Objective):
    """Noise-contrastive estimation whose noise is share q_fixed + (1 - share) q_learned (Bose et al. 2018).

    The model and c minimise the loss of `nce` with k = `ratio` draws of that mixture. q_learned maximises its part of
    it, E_q[-log sigmoid(-G(y))] + entropy H(q), G held fixed: for discrete data, independent units, by their score
    function with the mean of the other draws as baseline; for real data, a normalising flow, through its draws. The
    density of the mixture is known and is part of G, so that exp(-E - c) comes to be a density and c to be log Z; in
    the paper scores are compared without it. `entropy` keeps q_learned from one point: at 0 it is drawn there.
    """

    ratio: Annotated[int, Field(ge=2)]
    share: Annotated[float, Field(ge=0, lt=1)]
    entropy: Annotated[float, Field(ge=0)]

    spaces = (Binary, Spin, Categorical, Real)

    @property
    @override
    def places(self) -> int:
        """The row, its noise, and what is drawn against the model."""
        return 2 + self.ratio

    @property
    @override
    def contrasts(self) -> Literal["nothing", "samples", "density"]:
        """The fixed part, with its density."""
        return "density"

    @property
    @override
    def differentiates(self) -> bool:
        """What learns against the model."""
        return True

    @override
    def auxiliary(self, model: EnergyModel, noise: Noise | None, key: Key) -> Contrast:
        """Both noises, the learned one with the moments of the fixed one, and c. Raises UserError if both learn."""
        assert noise is not None
        if any(p.requires_grad for p in noise.parameters()):
            raise UserError(
                "objective=adversarial_contrastive: its fixed noise must not learn, since a noise of its own does; "
                "use noise=fitted or gaussian"
            )
        rows, space = noise.sample(_ROWS, key.fold("rows")), model.space
        discrete = isinstance(space, Discrete)
        learned = adversary.independent(space, rows) if discrete else adversary.flow(space, rows, key.fold("flow"))
        mixed = Mixed(noise, learned.to(rows), self.share)
        return Contrast(mixed, self.ratio, begun(model, mixed, key, known=True))

    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """That of the loss in the model and c, and of minus the adversary's gain in the adversary."""
        contrast = batch.auxiliary
        assert isinstance(contrast, Contrast)
        assert isinstance(contrast.noise, Mixed)
        x, n, key = batch.x, len(batch.x), key.after(batch.first)
        mine = {**dict(model.named_parameters()), "auxiliary.shift": contrast.shift}
        noise = contrast.noise.beside(x, self.ratio, key.fold("noise")).to(x.dtype)
        rows = torch.cat([x, noise])
        with torch.enable_grad():
            logits = contrast.logits(model.energy(rows), rows)
            metrics = told_apart(logits[:n], logits[n:], self.ratio)
            found = slopes(metrics["loss"], mine)
        of_learned, entropy = self._against(model, contrast, n, key.fold("adversary"))
        metrics = {name: value.detach() for name, value in metrics.items()}
        said = {"entropy_learned": entropy, "c": contrast.c.detach()}
        return Gradient(found | of_learned, {**metrics, **said}, {})

    def _against(
        self, model: EnergyModel, contrast: Contrast, count: int, key: AnyKey
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The gradient of minus the gain of the learned noise, and its entropy."""
        mixed = contrast.noise
        assert isinstance(mixed, Mixed)
        learned = mixed.learned
        with torch.enable_grad():
            y, log_q = adversary.drawn(learned, count, key)
            scores = adversary.frozen(model, y) + contrast.c.detach() + adversary.frozen(mixed, y)
            odds = -scores - math.log(self.ratio)
            gain = F.softplus(odds) - self.entropy * log_q
            gained = gain.mean() if y.requires_grad else adversary.reinforced(gain, log_q)
            parameters = {f"auxiliary.noise.learned.{name}": p for name, p in learned.named_parameters()}
            return slopes(-gained, parameters), -log_q.detach().mean()
