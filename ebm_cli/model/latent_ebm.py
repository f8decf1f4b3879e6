"""Latent energy-based models: an energy on the codes of a decoder (Pang, Han, Nijkamp, Zhu, Wu 2020)."""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel, Intractable, ModelSpec
from ebm_cli.model.emission import Emission, emission
from ebm_cli.model.mlp import MLP, Widths, size_of
from ebm_cli.model.resnet import initialise
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary, Box, Real, Space


class Recognition(NamedTuple):
    """q(z | x) = N(z; m, diag s^2) of rows x: m and log s, (batch, dim)."""

    mean: Tensor
    log_deviation: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """m + s e for e (batch, dim), which are draws where e are normal."""
        return self.mean + self.log_deviation.exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x), (batch,)."""
        e = (z - self.mean) * (-self.log_deviation).exp()
        return -(0.5 * e.square() + self.log_deviation + 0.5 * math.log(2 * math.pi)).sum(1)

    def kl(self) -> Tensor:
        """KL(q || N(0, 1)) = sum_i (m_i^2 + s_i^2 - 1) / 2 - log s_i, (batch,)."""
        both = self.mean.square() + (2 * self.log_deviation).exp() - 1
        return (0.5 * both - self.log_deviation).sum(1)


class LatentEBM(Intractable):
    """p(x) = integral of p(x | z) p(z), p(z) = exp(-E(z)) / Z on R^d (Pang et al. 2020, eq. 2 and 3).

    E(z) = |z|^2 / 2 - f(z), f a perceptron: `prior`, a model of z of its own, whose Z has the (2 pi)^(d/2) of the
    normal law. `decoder` gives what `emission` makes p(x | z) of, `encoder` the q(z | x) by which codes of rows are
    found.
    """

    called = "latent"
    mean: Tensor

    def __init__(
        self, space: Space, encoder: nn.Module, decoder: nn.Module, emission: Emission, prior: EnergyModel, mean: Tensor
    ) -> None:
        super().__init__()
        self.space, self.encoder, self.decoder, self.emission, self.prior = space, encoder, decoder, emission, prior
        self.register_buffer("mean", mean.flatten().clone())

    @property
    def dim(self) -> int:
        """d, the numbers of a code."""
        return self.prior.space.sites

    @property
    @override
    def drawn(self) -> int:
        """Sites and numbers of the code."""
        return self.space.sites + self.dim

    def recognise(self, x: Tensor) -> Recognition:
        """q(z | x) of rows x (batch, *shape)."""
        return Recognition(*self.encoder(x.flatten(1) - self.mean).chunk(2, 1))

    def code(self, x: Tensor, key: AnyKey) -> Tensor:
        """z ~ q(z | x), (batch, dim)."""
        q = self.recognise(x)
        return q.at(rng.normal(q.mean.shape, key, q.mean.device, q.mean.dtype))

    def log_given(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), (batch,)."""
        return self.emission.log_prob(x, self.decoder(z))

    def decoded(self, z: Tensor) -> Tensor:
        """The middle of p(x | z), (batch, *shape)."""
        return self.emission.mean(self.decoder(z))

    def generate(self, z: Tensor, key: AnyKey) -> Tensor:
        """x ~ p(x | z), (batch, *shape)."""
        return self.emission.draw(self.decoder(z), key)

    def posterior(self, x: Tensor) -> "CodesOfRows":
        """p(z | x) of rows x as a model of z, each chain of which has a row of its own."""
        return CodesOfRows(self, x)

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`code`: the mean of q(z | x)."""
        return {"code": self.recognise(x).mean}


class CodesOfRows(EnergyModel):
    """p(z | x) of rows x, up to a constant: E(z) - log p(x | z), z (batch, dim) beside the rows x (batch, *shape)."""

    def __init__(self, model: LatentEBM, x: Tensor) -> None:
        super().__init__()
        self.space, self.model, self.x = model.prior.space, model, x

    @override
    def energy(self, x: Tensor) -> Tensor:
        """E(z) - log p(row | z), (batch,), of codes z, which are x here."""
        return self.model.prior.energy(x) - self.model.log_given(self.x, x)

    @override
    def of_rows(self, rows: slice | Tensor) -> "CodesOfRows":
        return CodesOfRows(self.model, self.x[rows])


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of these sizes, from inputs to outputs, with SiLU between them."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [*([nn.SiLU()] if layers else []), nn.Linear(a, b)]
    return nn.Sequential(*layers)


Count = Annotated[int, Field(ge=1)]


@register("model", "latent_ebm")
class LatentEBMSpec(ModelSpec):
    """Energy of `dim` latent numbers, a perceptron of `energy_widths` beside the normal law, with a decoder.

    Encoder and decoder have layers of `widths`, those of the decoder the other way round. Given the code sites are
    independent: bits, or normal numbers, in a box cut off at its walls, of a deviation `least_deviation` at least that
    is a parameter of each site, or by `deviation` code a function of the code.
    """

    dim: Count
    widths: list[Count]
    energy_widths: Widths
    deviation: Literal["site", "code"]
    least_deviation: Annotated[float, Field(gt=0)]

    builds = LatentEBM
    spaces = (Box, Real, Binary)

    @override
    def parameters(self, space: Space) -> int:
        """Of encoder, decoder and energy."""
        outputs = (1 if isinstance(space, Binary) else 2) * space.sites
        coders = ([space.sites, *self.widths, 2 * self.dim], [self.dim, *reversed(self.widths), outputs])
        weights = sum((a + 1) * b for sizes in coders for a, b in itertools.pairwise(sizes))
        return weights + size_of(Real((self.dim,)), self.energy_widths)

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> LatentEBM:
        """Weights uniform within 1 / sqrt(inputs), f = 0, x of the data mean whatever the code."""
        law, codes = emission(space, self.least_deviation, by_code=self.deviation == "code"), Real((self.dim,))
        encoder = perceptron([space.sites, *self.widths, 2 * self.dim])
        decoder = perceptron([self.dim, *reversed(self.widths), law.outputs])
        initialise(encoder, key.fold("encoder"))
        initialise(decoder, key.fold("decoder"))
        last = cast(nn.Linear, decoder[-1])
        with torch.no_grad():
            last.bias.copy_(law.first(mean.flatten()))
        prior = MLP(codes, self.energy_widths, 1.0, 1.0, torch.zeros(self.dim), key.fold("prior"))
        return LatentEBM(space, encoder, decoder, law, prior, mean)
