"""Noise-contrastive estimation: the model learns to tell data from noise, and log Z as a parameter."""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel
from ebm_cli.noise.base import Noise
from ebm_cli.objective.base import Auxiliary, Batch, Gradient, Metrics, Objective, slopes
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary, Box, Categorical, Real, Spin, Words

_FIRST = 1000  # draws of the noise that c begins from


class Contrast(Auxiliary):
    """The noise, and c = start + shift, which comes to be log Z; `shift` is learned, near 0 where float32 is fine."""

    start: Tensor
    undecayed = ("shift",)

    def __init__(self, noise: Noise, ratio: int, c: Tensor, *, learned: bool = True, known: bool = True) -> None:
        super().__init__()
        self.noise, self.ratio, self.learned, self.known = noise, ratio, learned, known
        self.register_buffer("start", c)
        self.shift = nn.Parameter(torch.zeros_like(c), requires_grad=learned)

    @property
    def c(self) -> Tensor:
        """As it has been learned, a scalar."""
        return self.start + self.shift

    @property
    @override
    def compiles(self) -> bool:
        return self.noise.compiles

    @override
    def log_z(self) -> Tensor | None:
        """c, if it was learned against a density."""
        return self.c if self.learned and self.known else None

    def logits(self, energy: Tensor, x: Tensor) -> Tensor:
        """G(x) = -E(x) - c - log q(x) - log ratio, log q = 0 where it is taken so; (batch,)."""
        found = -energy - self.start - math.log(self.ratio)
        return (found - self.noise.log_prob(x).to(energy.dtype) if self.known else found) - self.shift


@register("objective", "nce")
class NoiseContrastive(Objective):
    """loss = -mean log sigmoid(G(x)) - k mean log sigmoid(-G(y)), k = `ratio` draws y of the noise q for each datum x.

    G(x) = -E(x) - c - log q(x) - log k is the log-odds that x is a datum (Gutmann & Hyvarinen 2010, sect. 2, there k =
    1; 2012, sect. 2, with k). As the data grow, exp(-E(x) - c) comes to be their density and c, a parameter, to
    be log Z. `density` one: log q := 0, whatever the noise, which is negative sampling (Mikolov et al. 2013):
    the minimum is then at -E(x) = log p(x) - log q(x) + const, a ratio and no density. `learn_c` false: c stays as it
    begins. It begins as `c`; null: with log mean exp(-E(y) - log q(y)) over 1000 draws of the noise, an estimate of
    log Z for the model as it begins.

    Of words given their context, q is that of the last word, and c one constant in place of log Z of each context: with
    c = 0, held there, energies come to be normalised by themselves (Mnih & Teh 2012).

    A noise that learns does so by its own likelihood of the data beside it. `classification_loss` is the loss by row,
    loss / (1 + k), and `accuracy` the mean of the shares of data and of noise that are recognised as such (G > -log k,
    which counts both kinds alike).
    """

    ratio: Annotated[int, Field(ge=1)]
    density: Literal["known", "one"]
    learn_c: bool
    c: float | None

    spaces = (Binary, Spin, Categorical, Real, Box, Words)
    chosen_as = ("nce", "negative_sampling")

    @property
    @override
    def places(self) -> int:
        return 1 + self.ratio

    @property
    @override
    def contrasts(self) -> Literal["nothing", "samples", "density"]:
        """The density, unless it is taken to be one."""
        return "density" if self.density == "known" else "samples"

    @override
    def auxiliary(self, model: EnergyModel, noise: Noise | None, key: Key) -> Contrast:
        """The noise with c as it begins. Raises UserError where the model's energies of the noise are not finite."""
        assert noise is not None
        known = self.density == "known"
        c = begun(model, noise, key, known=known) if self.c is None else torch.tensor(self.c)
        return Contrast(noise, self.ratio, c, learned=self.learn_c, known=known)

    @torch.no_grad()
    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """One pass over data and noise together: dloss/dE of a datum is sigmoid(-G) / n, of a draw -sigmoid(G) / n."""
        contrast = batch.auxiliary
        assert isinstance(contrast, Contrast)
        x, n = batch.x, len(batch.x)
        noise = contrast.noise.beside(x, self.ratio, key.after(batch.first).fold("noise")).to(x.dtype)
        rows = torch.cat([x, noise])
        energy, pull = model.energy_vjp(rows)
        logits = contrast.logits(energy, rows)
        weight = torch.cat([(-logits[:n]).sigmoid(), -logits[n:].sigmoid()]) / n
        found = dict(pull(weight))
        if self.learn_c:
            found["auxiliary.shift"] = weight.sum()
        found |= fitted(contrast.noise, x)
        metrics = told_apart(logits[:n], logits[n:], self.ratio)
        energies = {"energy_data": energy[:n].mean(), "energy_noise": energy[n:].mean()}
        return Gradient(found, {**metrics, **energies, "c": contrast.c.detach()}, {})


@torch.no_grad()
def begun(model: EnergyModel, noise: Noise, key: Key, *, known: bool) -> Tensor:
    """log mean exp(-E(y) - log q(y)) over draws y of the noise, log q = 0 unless it is `known`: c as it begins."""
    y = noise.sample(_FIRST, key)
    f = -model.energy(y).double() - (noise.log_prob(y).double() if known else 0)
    c = f.logsumexp(0) - math.log(len(y))
    if not c.isfinite():
        raise UserError("objective.c = null: the model's energies of the noise are not finite; give c a number")
    return c.float()


def fitted(noise: Noise, x: Tensor) -> dict[str, Tensor]:
    """The gradient of -mean log q(x) in the parameters that a noise has to learn, none for most."""
    parameters = {f"auxiliary.noise.{name}": p for name, p in noise.named_parameters() if p.requires_grad}
    if not parameters:
        return {}
    with torch.enable_grad():
        return slopes(-noise.log_prob(x).mean(), parameters)


def told_apart(data: Tensor, noise: Tensor, ratio: int) -> Metrics:
    """`loss`, `classification_loss` and `accuracy` of the log-odds of data (n,) and of noise (n ratio,)."""
    loss = -F.logsigmoid(data).mean() - ratio * F.logsigmoid(-noise).mean()
    right = (data > -math.log(ratio)).float().mean() + (noise <= -math.log(ratio)).float().mean()
    return {"loss": loss, "classification_loss": loss / (1 + ratio), "accuracy": right / 2}
