"""A network that is a family of energies, one for each level of noise of a forward process."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, PlainValidator
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import registry
from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel, Gradients, ModelSpec, Pullback
from ebm_cli.model.convnet import Widths, check_image, image_shape
from ebm_cli.model.level_bounds import LevelBounds
from ebm_cli.model.level_features import LevelFeatures
from ebm_cli.model.level_gaussian import LevelGaussian, Told
from ebm_cli.model.level_initializer import LevelInitializer
from ebm_cli.model.level_marginals import LevelMarginals
from ebm_cli.model.levels import Leveled, per_row
from ebm_cli.process.base import Process, Scales
from ebm_cli.registry import Later, Nested, register
from ebm_cli.rng import Key
from ebm_cli.space import Box, Real, Space

Measured = Literal["sites", "common"]  # standard deviation of the data: each site's own, or one for all


class LeveledNetwork(Leveled):
    """With v_k = a_k^2 + s_k^2 and u = (x - m) / (r sqrt(v_k))

        E(x, k) = -log p(u, k) + D/2 log v_k + sum_i log r_i + g_k f(u, k) - b_k,

    f the network's energy of u and the level. p is `base`: a Gaussian of the same first two moments, or each site of
    its own law; what the data have beside it is the less the more noise there is. g_k = a_k / s_k, so that g_k df/du is
    of the size of the noise at all levels (as in Karras et al. 2022, sec. 5), or with a limit g it is
    a_k / sqrt(s_k^2 + (a_k / g)^2), g at most: the finest that data have is in p then, and a network that looks for
    more there learns its rows by heart. The last level is p alone, a Gaussian. b_k (`offset`) are free constants,
    by which an objective that compares levels makes log Z of all of them 0.
    """

    compiles = True

    def __init__(self, space: Real, scales: Scales, inside: "Inside", mean: Tensor, scale: Measured | float) -> None:
        super().__init__(space, scales, mean, scale if isinstance(scale, float) else 1.0)
        self.features_of, self.network, self.base, limit, self.initializer = inside
        self.limit = math.inf if limit is None else limit
        self.measures = None if isinstance(scale, float) else scale
        self.offset = nn.Parameter(torch.zeros(self.levels - 1))

    @property
    @override
    def gain(self) -> Tensor:
        """g_k, 0 at the last level."""
        found = self.a / (self.s.square() + (self.a / self.limit).square()).sqrt()
        return found * (torch.arange(self.levels, device=self.a.device) < self.levels - 1)

    @property
    def free_constants(self) -> Tensor:
        """b_k, (K,), 0 at the last level."""
        return nn.functional.pad(self.offset, (0, 1))

    @override
    def energy_at(self, x: Tensor, level: Tensor) -> Tensor:
        u = self._unit(x, level)
        energy, cleaned = self.base.seen(u, level)
        return self._whole(energy, level, self.network.energy(self.features_of(u, level, cleaned)))

    @torch.no_grad()
    @override
    def energy_and_grad_at(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        u = self._unit(x, level)
        told = self.base.told(u, level)
        f, grad = self.network.energy_and_grad(self.features_of(u, level, told.cleaned))
        return self._whole(told.energy, level, f), self._slope(u, level, told, grad)

    @override
    def slope_at(self, x: Tensor, level: Tensor) -> Tensor:
        """Through the network alone, the rest in closed form."""
        u = self._unit(x.detach(), level)
        told = self.base.told(u, level)
        features = self.features_of(u, level, told.cleaned).requires_grad_()
        (grad,) = torch.autograd.grad(self.network.energy(features).sum(), features, create_graph=True)
        return self._slope(u, level, told, grad)

    def _slope(self, u: Tensor, level: Tensor, told: Told, of_features: Tensor) -> Tensor:
        """dE/dx, by the gradient of f in its features."""
        of_f = self.features_of.pulled(u, level, of_features, told)
        return (told.slope + per_row(self.gain[level], u) * of_f) / self.width(level)

    @torch.no_grad()
    @override
    def energy_vjp_at(self, x: Tensor, level: Tensor) -> tuple[Tensor, Pullback]:
        u = self._unit(x, level)
        energy, cleaned = self.base.seen(u, level)
        f, pull_f = self.network.energy_vjp(self.features_of(u, level, cleaned))

        @torch.no_grad()
        def pull(weight: Tensor) -> Gradients:
            of_offset = torch.zeros_like(self.a, dtype=weight.dtype).index_add(0, level, -weight)[:-1]
            of_network = pull_f(weight * self.gain[level])
            found = {"offset": of_offset, **{f"network.{name}": grad for name, grad in of_network.items()}}
            beside = {} if self.initializer is None else dict(self.initializer.named_parameters())
            return found | {f"initializer.{name}": torch.zeros_like(p) for name, p in beside.items()}

        return self._whole(energy, level, f), pull

    @override
    def initial(self, above: Tensor, level: Tensor) -> Tensor | None:
        if self.initializer is None:
            return None
        found: Tensor = self.initializer(self._unit(above, level + 1).flatten(1), level)
        return found.reshape(above.shape)

    @override
    def measure(self, rows: Callable[[], Tensor]) -> None:
        """r is the standard deviation of each site, or the root mean square of them all, if no key gave it; C, bounds.

        A site has at least a thousandth of this root mean square: at level 0 the noise is some hundredths of r, and
        less of that would not stand out from the rounding of float32 numbers as large as the others.
        """
        bounds = self.features_of.bounds
        if not self.measures and not self.base.measures and bounds is None:
            return
        x = rows().double()
        if self.measures:
            each = x.std(0, correction=0).reshape(self.mean.shape)
            common = each.square().mean().sqrt()
            self.scale.copy_(each.clamp_min(_NARROWEST * common) if self.measures == "sites" else common)
        z = (x - self.mean.double().flatten().cpu()) / self.scale.double().flatten().cpu()
        self.base.take(z)
        if bounds is not None:
            bounds.take(z)

    def _unit(self, x: Tensor, level: Tensor) -> Tensor:
        return (x - self.mean) / self.width(level)

    def _whole(self, base: Tensor, level: Tensor, f: Tensor) -> Tensor:
        return base + self._size(f.dtype)[level] + self.gain[level] * f - self.free_constants[level]

    def _size(self, dtype: torch.dtype) -> Tensor:
        """D/2 log v_k + sum_i log r_i, (K,)."""
        return self.space.sites / 2 * self.variance.log() + self.log_volume.to(dtype)


class Inside(NamedTuple):
    """What a leveled network is made of."""

    features: LevelFeatures
    network: EnergyModel
    base: LevelGaussian | LevelMarginals
    limit: float | None  # of g_k
    initializer: LevelInitializer | None


def _of_another(settings: Mapping[str, Any]) -> str | None:
    """Which keys to leave out and to add where a network has been named whose keys are others, or None."""
    name, settings = settings.get("name"), registry.todays("model", settings)
    kind = registry.components("model").get(name) if isinstance(name, str) else None
    keys = [] if kind is None else [field.name for field in dataclasses.fields(kind)]
    if all(key in settings for key in keys):
        return None
    out = [f"~model.network.{key}" for key in settings if key not in (*keys, "name")]
    more = [f"+model.network.{key}=..." for key in keys if key not in settings]
    whole = f"; model=leveled_{name} has them" if name in ("convnet", "unet") else ""
    return f"model.network.name = {name}: has other keys; add {' '.join([*out, *more])} (ebm list model {name}){whole}"


def _process(settings: Mapping[str, Any] | Process) -> Process:
    """The process that `model.process` configures. Raises UserError."""
    if isinstance(settings, Process):
        return settings
    if not isinstance(settings, Mapping):
        raise UserError(f"model.process = {settings}: must be a process and its keys; choose it with {_CHOOSE}")
    found: Process = registry.build("process", settings, at="model.process")
    why = found.refusal() or _too_short(found)
    if why:
        raise UserError(f"model.process.{why}")
    return found


def _too_short(process: Process) -> str | None:
    """Why the last level is no Gaussian that nothing is left of the data in, in one sentence, or None."""
    a, s = process.scales()
    ratio = (a[-1] / s[-1]).item()
    if ratio <= _LEFT:
        return None
    key = next(key for key in ("sigma_max", "beta_max") if hasattr(process, key))
    return (
        f"{key} = {getattr(process, key):g}: at the last level the data still have {ratio:.2g} times the size of the "
        f"noise, which must be {_LEFT:g} at most; raise it"
    )


_NARROWEST = 1e-3  # site, in units of the deviation of all
_LEFT = 0.1  # of the data in the last level, in units of its noise
_CHOOSE = "process@model.process=NAME"


def _network(settings: Mapping[str, Any] | ModelSpec) -> ModelSpec:
    """The component of the network. Raises UserError."""
    if isinstance(settings, ModelSpec):
        return settings
    if not isinstance(settings, Mapping):
        raise UserError(
            f"model.network = {settings}: must be the keys of a model; set model.network.name and its others, or take "
            "model=leveled_convnet"
        )
    why = _of_another(settings)
    if why:
        raise UserError(why)
    found: ModelSpec = registry.build("model", settings, at="model.network")
    if not {Real, Box} & set(found.spaces) or not found.builds.compiles:
        raise UserError(
            f"model.network = {settings.get('name')}: must be an energy of real numbers with gradients in closed form, "
            "such as mlp, or convnet for images"
        )
    return found


@register("model", "leveled")
class LeveledSpec(ModelSpec):
    """Energies at the levels of noise of `process`, by one `network` that sees the level too."""

    process: Annotated[Process, PlainValidator(_process), Nested("process")]
    network: Annotated[ModelSpec, PlainValidator(_network), Nested("model")]
    waves: Annotated[int, Field(ge=0, le=16)]
    scale: Annotated[float, Field(gt=0)] | Measured | Literal["auto"]
    correlated: bool
    marginals: Annotated[int, Field(ge=0, le=100), Later(0)]
    gain: Annotated[Annotated[float, Field(gt=0)] | None, Later()]
    bound: Annotated[Annotated[float, Field(gt=0)] | None, Later()]
    initializer: Annotated[Widths | None, Later()]

    builds = LeveledNetwork
    spaces = (Real,)

    def __post_init__(self) -> None:
        """Sites of laws of their own are independent. Raises UserError."""
        if self.marginals and self.correlated:
            raise UserError(
                f"model.marginals = {self.marginals}: sites of laws of their own have no correlations; set "
                "model.correlated=false, or model.marginals=0"
            )

    @override
    def parameters(self, space: Space) -> int:
        """Of the networks, and the constants. A convolutional one raises UserError for data that are no images."""
        features = self._features(space)
        own = 0 if self.initializer is None else LevelInitializer.size(features, space.sites, self.initializer)
        return self.network.parameters(features.seen) + self.process.levels - 1 + own

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> LeveledNetwork:
        """f as the network begins. Raises UserError where a convolutional one gets data that are no images."""
        assert isinstance(space, Real)
        return LeveledNetwork(space, self.process.scales(), self.inside(space, key), mean, self.measured)

    def inside(self, space: Real, key: Key) -> Inside:
        """What the model is made of, at its beginning. Raises UserError as `build` does."""
        features = self._features(space)
        network = self.network.build(features.seen, torch.zeros(features.seen.shape), key.fold("network"))
        scales = self.process.scales()
        base = (
            LevelMarginals(space.sites, scales, self.marginals)
            if self.marginals
            else LevelGaussian(space.sites, scales, correlated=self.correlated)
        )
        beside = (
            None
            if self.initializer is None
            else LevelInitializer(features, space.sites, self.initializer, key.fold("initializer"))
        )
        return Inside(features, network, base, self.gain, beside)

    @property
    def measured(self) -> Measured | float:
        """The scale, or how it is measured. Convolutions have one for all sites, which they see alike."""
        if self.scale == "auto":
            return "common" if self.network.builds.convolves else "sites"
        return self.scale

    def _features(self, space: Space) -> LevelFeatures:
        if self.network.builds.convolves:
            check_image(space, "leveled", "; or take model=leveled, whose network is no convolution")
        a, s = self.process.scales()
        shape = image_shape(space) if self.network.builds.convolves else (space.sites,)
        bounds = None if self.bound is None else LevelBounds(space.sites, Scales(a, s), self.bound)
        return LevelFeatures(shape, (a / s).log(), self.waves, cleaned=self.marginals > 0, bounds=bounds)
