"""A family of energies, one for each level of noise of a forward process."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, PlainValidator
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import registry
from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel, Gradients, ModelSpec, Normalised, Pullback
from ebm_cli.model.exponential_family import product
from ebm_cli.model.level_features import LevelFeatures
from ebm_cli.model.rescaled import Rescaled
from ebm_cli.process.base import Process, Scales
from ebm_cli.registry import Nested, register
from ebm_cli.rng import Key
from ebm_cli.space import Real, Space


class Leveled(EnergyModel):
    """E(x, k) for the levels k = 0 ... K - 1 of a process, x = m + r (a_k x_0 + s_k z) at level k.

    m is the mean of the data, r their standard deviation, x_0 = (data - m) / r. With v_k = a_k^2 + s_k^2 and
    u = (x - m) / (r sqrt(v_k))

        E(x, k) = |u|^2 / 2 + D/2 log(2 pi r^2 v_k) + (a_k / s_k) f(u, k) - b_k,

    f the network's energy of u and the level: a Gaussian of the same first two moments, and what the data have beside
    it, the less the more noise there is. So dE/du is of one size at all levels (as in Karras et al. 2022, sec. 5). The
    last level is the Gaussian itself, whose log Z is 0. b_k (`offset`) are free constants, by which an objective that
    compares levels makes log Z of all of them 0.

    As a model of rows it is level 0, E(x) = E(x, 0); `at` gives the others.
    """

    called = "leveled"
    compiles = True
    mean: Tensor
    scale: Tensor
    a: Tensor
    s: Tensor

    def __init__(
        self, space: Real, scales: Scales, features: LevelFeatures, network: EnergyModel, mean: Tensor, scale: float
    ) -> None:
        super().__init__()
        self.space, self.features_of, self.network = space, features, network
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", torch.tensor(scale))
        for name, value in scales._asdict().items():
            self.register_buffer(name, value.float(), persistent=False)
        self.offset = nn.Parameter(torch.zeros(self.levels - 1))

    @property
    def levels(self) -> int:
        """K."""
        return len(self.a)

    @property
    def variance(self) -> Tensor:
        """v_k = a_k^2 + s_k^2, (K,)."""
        return self.a.square() + self.s.square()

    @property
    def gain(self) -> Tensor:
        """What f is multiplied by, (K,): a_k / s_k, 0 at the last level."""
        return (self.a / self.s) * (torch.arange(self.levels, device=self.a.device) < self.levels - 1)

    @property
    def free_constants(self) -> Tensor:
        """b_k, (K,), 0 at the last level."""
        return nn.functional.pad(self.offset, (0, 1))

    @override
    def energy(self, x: Tensor) -> Tensor:
        """E(x, 0), (batch,)."""
        return self.energy_at(x, self._first(x))

    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.energy_and_grad_at(x, self._first(x))

    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        return self.energy_vjp_at(x, self._first(x))

    def energy_at(self, x: Tensor, level: Tensor) -> Tensor:
        """E(x, k), (batch,), each row at a `level` (batch,) int64 of its own."""
        u = self._unit(x, level)
        return self._whole(u, level, self.network.energy(self.features_of(u, level)))

    @torch.no_grad()
    def energy_and_grad_at(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """E(x, k) and dE/dx, detached."""
        u = self._unit(x, level)
        f, grad = self.network.energy_and_grad(self.features_of(u, level))
        grad = u + _per_row(self.gain[level], u) * self.features_of.pulled(u, grad)
        return self._whole(u, level, f), grad / _per_row(self._width(level), u)

    @torch.no_grad()
    def energy_vjp_at(self, x: Tensor, level: Tensor) -> tuple[Tensor, Pullback]:
        """E(x, k), and the map from weights w (batch,) to sum_n w_n dE(x_n, k_n)/dtheta."""
        u = self._unit(x, level)
        f, pull_f = self.network.energy_vjp(self.features_of(u, level))

        @torch.no_grad()
        def pull(weight: Tensor) -> Gradients:
            of_offset = torch.zeros_like(self.a, dtype=weight.dtype).index_add(0, level, -weight)[:-1]
            of_network = pull_f(weight * self.gain[level])
            return {"offset": of_offset, **{f"network.{name}": grad for name, grad in of_network.items()}}

        return self._whole(u, level, f), pull

    def at(self, level: int | Tensor) -> "AtLevel":
        """The model of rows at one level, or of chains each at a level of its own, (chains,) int64."""
        return AtLevel(self, level)

    def in_noise(self, level: int) -> Rescaled:
        """The model at one level of y = (x - m) / (r s_k), in which the noise has the deviation 1."""
        return Rescaled(self.at(level), self.mean, self.scale * self.s[level])

    def denoised(self, x: Tensor, level: int) -> Tensor:
        """(y - r s_k^2 dE(x, k)/dx) / a_k for y = (x - m) / r: the mean of x_0 given x (Tweedie's formula)."""
        _, grad = self.at(level).energy_and_grad(x)
        return ((x - self.mean) / self.scale - self.scale * self.s[level].square() * grad) / self.a[level]

    def last(self) -> Normalised:
        """The Gaussian of the last level."""
        width = self.scale * self.variance[-1].sqrt()
        return product(self.space, self.mean, width.expand_as(self.mean)).to(self.mean)

    def noised(self, x: Tensor, level: Tensor, z: Tensor) -> Tensor:
        """m + a_k (x - m) + r s_k z for data x and standard normal z (batch, *shape)."""
        a, width = _per_row(self.a[level], x), _per_row(self.scale * self.s[level], x)
        return self.mean + a * (x - self.mean) + width * z

    def measure(self, std: Callable[[], Tensor]) -> None:
        """r is the root mean square of the standard deviations of the training data, (sites,), if no key gave it."""
        if not self.scale.isfinite():
            self.scale.copy_(std().double().square().mean().sqrt())

    def _first(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def _width(self, level: Tensor) -> Tensor:
        """r sqrt(v_k), (batch,)."""
        return self.scale * self.variance[level].sqrt()

    def _unit(self, x: Tensor, level: Tensor) -> Tensor:
        return (x - self.mean) / _per_row(self._width(level), x)

    def _whole(self, u: Tensor, level: Tensor, f: Tensor) -> Tensor:
        square, sites = u.flatten(1).square().sum(1), self.space.sites
        gaussian = square / 2 + sites / 2 * (math.log(2 * math.pi) + 2 * self._width(level).log())
        return gaussian + self.gain[level] * f - self.free_constants[level]


class AtLevel(EnergyModel):
    """p(x, k) proportional to exp(-E(x, k)) at one level k, or at one of each chain."""

    compiles = True

    def __init__(self, family: Leveled, level: int | Tensor) -> None:
        super().__init__()
        self.family, self.level, self.space = family, level, family.space

    @override
    def energy(self, x: Tensor) -> Tensor:
        """E(x, k), (batch,)."""
        return self.family.energy_at(x, self._of(x))

    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.family.energy_and_grad_at(x, self._of(x))

    @override
    def of_rows(self, rows: slice) -> "AtLevel":
        return self if isinstance(self.level, int) else AtLevel(self.family, self.level[rows])

    def _of(self, x: Tensor) -> Tensor:
        if isinstance(self.level, int):
            return torch.full((len(x),), self.level, dtype=torch.int64, device=x.device)
        return self.level


def _per_row(value: Tensor, like: Tensor) -> Tensor:
    """A number for each row, (batch,), to be multiplied with (batch, *shape)."""
    return value.reshape(-1, *[1] * (like.dim() - 1))


def _process(settings: Mapping[str, Any] | Process) -> Process:
    """The process that `model.process` configures. Raises UserError."""
    if isinstance(settings, Process):
        return settings
    if not isinstance(settings, Mapping):
        raise UserError(f"model.process = {settings}: must be a process and its keys; choose it with {_CHOOSE}")
    found: Process = registry.build("process", settings, at="model.process")
    why = found.refusal()
    if why:
        raise UserError(f"model.process.{why}")
    return found


_CHOOSE = "process@model.process=NAME"


def _network(settings: Mapping[str, Any] | ModelSpec) -> ModelSpec:
    """The component of the network. Raises UserError."""
    if isinstance(settings, ModelSpec):
        return settings
    if not isinstance(settings, Mapping):
        raise UserError(f"model.network = {settings}: must be the keys of a model, such as {{name: mlp, ...}}")
    found: ModelSpec = registry.build("model", settings, at="model.network")
    if Real not in found.spaces or not found.builds.compiles:
        raise UserError(
            f"model.network = {settings.get('name')}: must be an energy of real numbers with gradients in closed form, "
            "such as mlp"
        )
    return found


@register("model", "leveled")
class LeveledSpec(ModelSpec):
    """Energies at the levels of noise of `process`, by one `network` that sees the level too."""

    process: Annotated[Process, PlainValidator(_process), Nested("process")]
    network: Annotated[ModelSpec, PlainValidator(_network), Nested("model")]
    waves: Annotated[int, Field(ge=0, le=16)]
    scale: Annotated[float, Field(gt=0)] | None

    builds = Leveled
    spaces = (Real,)

    @override
    def parameters(self, space: Space) -> int:
        """Of the network, and the constants."""
        return self.network.parameters(self._features(space).seen) + self.process.levels - 1

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> Leveled:
        """f as the network begins."""
        assert isinstance(space, Real)
        features = self._features(space)
        network = self.network.build(features.seen, torch.zeros(features.seen.shape), key.fold("network"))
        scale = math.nan if self.scale is None else self.scale
        return Leveled(space, self.process.scales(), features, network, mean, scale)

    def _features(self, space: Space) -> LevelFeatures:
        assert isinstance(space, Real)
        a, s = self.process.scales()
        return LevelFeatures(dataclasses.replace(space, units=None), (a / s).log(), self.waves)
