"""Normalising flows: densities that are known and sampled exactly, from the library zuko."""

import math
from typing import Annotated, Literal

import torch
import zuko
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import ModelSpec, Normalised
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Real, Space

Kind = Literal["maf", "nsf", "realnvp"]
_LAYERS = (nn.Linear, zuko.nn.Linear)


class Flow(Normalised):
    """E(x) = |z|^2 / 2 - log |det dz/dx| + (D / 2) log 2 pi with z = T((x - m) / w) and T invertible: -log p(x).

    T is `transforms` maps one after the other, each of one coordinate given others through a network with two hidden
    layers of `hidden` units: affine and autoregressive (maf; Papamakarios et al. 2017), rational-quadratic splines of
    `bins` pieces within [-5, 5], autoregressive (nsf; Durkan et al. 2019), or affine couplings of the odd and the even
    coordinates (realnvp; Dinh et al. 2017). m is the mean of the data and w = `spread`, both fixed; T starts as the
    identity, so p does as a Gaussian of that mean and standard deviation. Draws of maf and nsf take a pass of the
    network for each coordinate.
    """

    mean: Tensor

    def __init__(self, space: Space, layers: zuko.lazy.LazyTransform, spread: float, mean: Tensor, key: Key) -> None:
        super().__init__()
        self.space, self.spread, self.layers = space, spread, layers
        self.register_buffer("mean", mean.flatten().clone())
        with torch.no_grad():
            for parameter in self.layers.parameters():
                parameter.zero_()
            for i, transform in enumerate(self.layers.transforms):
                hidden = [module for module in transform.modules() if isinstance(module, _LAYERS)][:-1]
                for j, layer in enumerate(hidden):
                    for name, parameter in layer.named_parameters():
                        draw = 2 * rng.uniform(parameter.shape, key.fold(i, j, name)) - 1
                        parameter.copy_(draw / math.sqrt(layer.in_features))

    @override
    def energy(self, x: Tensor) -> Tensor:
        """-log p(x), (batch,)."""
        z, log_det = self.layers().call_and_ladj((x.flatten(1) - self.mean) / self.spread)
        return z.square().sum(1) / 2 - log_det + self._constant()

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`latent`: z, (batch, sites)."""
        return {"latent": self.layers()((x.flatten(1) - self.mean) / self.spread)}

    @override
    def log_z(self) -> Tensor:
        """0, whatever the parameters."""
        return torch.zeros((), dtype=self.mean.dtype, device=self.mean.device, requires_grad=True)

    def push(self, z: Tensor) -> Tensor:
        """x (n, *shape) = m + w T^-1(z) for z (n, sites), differentiable in z and the parameters.

        Of standard normal z it is a draw from p.
        """
        return self.push_with_log_prob(z)[0]

    def push_with_log_prob(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """`push`, and log p of what it gives, (n,), without another pass: -|z|^2 / 2 - log |det dx/dz| - ..."""
        x, log_det = self.layers().inv.call_and_ladj(z)
        log_p = -z.square().sum(1) / 2 - log_det - self._constant()
        return (self.mean + self.spread * x).reshape(len(z), *self.space.shape), log_p

    def _constant(self) -> float:
        return self.space.sites * (0.5 * math.log(2 * math.pi) + math.log(self.spread))

    @torch.no_grad()
    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """`push` of standard normal numbers."""
        return self.push(rng.normal((n, self.space.sites), key, self.mean.device, self.mean.dtype))


def _layers(kind: Kind, sites: int, transforms: int, hidden: int, bins: int) -> zuko.lazy.LazyTransform:
    """T with smooth networks."""
    network = {"hidden_features": [hidden, hidden], "activation": nn.SiLU}
    if kind == "nsf":
        return zuko.flows.NSF(sites, transforms=transforms, bins=bins, **network).transform
    made = zuko.flows.MAF if kind == "maf" else zuko.flows.RealNVP
    return made(sites, transforms=transforms, **network).transform


@register("model", "flow")
class FlowSpec(ModelSpec):
    """Normalising flow: a density that is known and sampled exactly, learned by likelihood."""

    kind: Kind
    transforms: Annotated[int, Field(ge=1)]
    hidden: Annotated[int, Field(ge=1)]
    bins: Annotated[int, Field(ge=2)]
    spread: Annotated[float, Field(gt=0)]

    builds = Flow
    spaces = (Real,)

    @override
    def parameters(self, space: Space) -> int:
        """Of the networks and their biases, masked ones included."""
        given, drawn = (
            (space.sites, space.sites) if self.kind != "realnvp" else (space.sites // 2, -(-space.sites // 2))
        )
        each = 3 * self.bins - 1 if self.kind == "nsf" else 2
        layers = (given + 1, self.hidden), (self.hidden + 1, self.hidden), (self.hidden + 1, each * drawn)
        return self.transforms * sum(a * b for a, b in layers)

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> Flow:
        """Weights uniform within 1 / sqrt(inputs), those of the last layer of every network 0."""
        layers = _layers(self.kind, space.sites, self.transforms, self.hidden, self.bins)
        return Flow(space, layers, self.spread, mean, key)
