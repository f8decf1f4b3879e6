"""Products and mixtures of models, configured ones or those of trained runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import registry, rng
from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel, ModelSpec, Normalised
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary, Box, Categorical, Real, Space, Spin, names


class Product(EnergyModel):
    """E(x) = sum_i w_i E_i(x), so that p is proportional to the product of the exp(-E_i)^w_i (Hinton 2002).

    The weights w are parameters of any sign: a negative one asks for what its part finds unlikely (Du et al. 2020).
    """

    def __init__(self, space: Space, parts: Sequence[EnergyModel], weights: Sequence[float]) -> None:
        super().__init__()
        self.space = space
        self.parts = nn.ModuleList(parts)
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32))

    @override
    def energy(self, x: Tensor) -> Tensor:
        """sum_i w_i E_i(x), (batch,)."""
        return self.weights @ torch.stack([part.energy(x) for part in cast(list[EnergyModel], self.parts)])

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Those of each part, `part_1_hidden`, ..."""
        return _of_parts(self.parts, x)


class Mixture(EnergyModel):
    """E(x) = -log sum_i pi_i exp(-E_i(x) - log Z_i) = -log p(x), so log Z is 0; pi = softmax of `logits`.

    log Z_i is that of the part where it knows it, else `known`, (parts,).
    """

    known: Tensor

    def __init__(self, space: Space, parts: Sequence[EnergyModel], known: Sequence[float]) -> None:
        super().__init__()
        self.space = space
        self.parts = nn.ModuleList(parts)
        self.logits = nn.Parameter(torch.zeros(len(parts)))
        self.register_buffer("known", torch.tensor(known, dtype=torch.float32))

    @override
    def energy(self, x: Tensor) -> Tensor:
        """-log sum_i pi_i exp(-E_i(x) - log Z_i), (batch,)."""
        return -self._log_shares(x).logsumexp(0)

    def _log_shares(self, x: Tensor) -> Tensor:
        """log pi_i - E_i(x) - log Z_i, (parts, batch)."""
        f = torch.stack([-part.energy(x) for part in cast(list[EnergyModel], self.parts)])
        log_z = [p.log_z() if isinstance(p, Normalised) else z for p, z in zip(self.parts, self.known, strict=True)]
        return f + (self.logits.log_softmax(0) - torch.stack(log_z))[:, None]

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`part`: p(i | x) of each part i; and those of each part."""
        return {"part": self._log_shares(x).softmax(0).T, **_of_parts(self.parts, x)}


def _of_parts(parts: nn.ModuleList, x: Tensor) -> dict[str, Tensor]:
    """Features of each part, by its number, from 1, and their name."""
    numbered = enumerate(cast(list[EnergyModel], parts), 1)
    return {f"part_{i}_{name}": found for i, part in numbered for name, found in part.features(x).items()}


class NormalisedMixture(Mixture, Normalised):
    """A mixture whose parts know their log Z and can be sampled."""

    @override
    def log_z(self) -> Tensor:
        """0, whatever the parameters."""
        return torch.zeros((), dtype=self.logits.dtype, device=self.logits.device, requires_grad=True)

    @torch.no_grad()
    @override
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """A part with probability pi_i, and a draw from it, (n, *shape)."""
        chosen = rng.categorical(self.logits.expand(n, -1), key.fold("part"))
        drawn = [part.sample(n, key.fold(i)) for i, part in enumerate(cast(list[Normalised], self.parts))]
        return torch.stack(drawn)[chosen, torch.arange(n, device=chosen.device)]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one part is: the keys of its model, the run and the step its weights are from, and its log Z if known."""

    model: dict[str, Any]
    run: str | None
    step: int | None
    log_z: float | None


@dataclass(frozen=True, kw_only=True)
class Composition(ModelSpec):
    """What products and mixtures have in common. `structure` is filled in by `ebm train` from `parts`."""

    parts: Annotated[list[str | dict[str, Any]], registry.Files(moves=False)]  # read once, when a run begins
    train_parts: bool
    structure: list[Part] | None

    def __post_init__(self) -> None:
        """It takes the data that all its parts take. Raises UserError naming the part whose keys are wrong."""
        if self.structure is not None and len(self.structure) != len(self.parts):
            raise UserError(f"model.structure: is of {len(self.structure)} parts, model.parts of {len(self.parts)}")
        object.__setattr__(self, "_specs", [self._spec(i, part.model) for i, part in enumerate(self.structure or [])])
        found = [spec.spaces for spec in self.specs()]
        shared = tuple(space for space in type(self).spaces if all(space in spaces for spaces in found))
        if not shared:
            each = "; ".join(f"model.parts[{i}] takes {names(spaces)}" for i, spaces in enumerate(found))
            raise UserError(f"model.parts: have no space in common ({each}); compose models of the same data")
        object.__setattr__(self, "spaces", shared)

    def specs(self) -> list[ModelSpec]:
        """The component of every part."""
        found: list[ModelSpec] = vars(self)["_specs"]
        return found

    def _spec(self, i: int, config: dict[str, Any]) -> ModelSpec:
        try:
            return registry.build("model", config)
        except UserError as error:
            raise UserError(f"model.parts[{i}]: {error}") from error

    @override
    def parameters(self, space: Space) -> int:
        return sum(spec.parameters(space) for spec in self.specs())

    def built(self, space: Space, mean: Tensor, key: Key) -> list[EnergyModel]:
        """The parts, their parameters fixed tensors unless `train_parts`."""
        parts = [spec.build(space, mean, key.fold(i)) for i, spec in enumerate(self.specs())]
        return parts if self.train_parts else [frozen(part) for part in parts]


def frozen(model: EnergyModel) -> EnergyModel:
    """The same with every parameter a buffer, which is saved but gets no gradient."""
    for module in model.modules():
        for name, parameter in [*module.named_parameters(recurse=False)]:
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    return model


@dataclass(frozen=True, kw_only=True)
class Weighted(Composition):
    """What products have in common: a weight for each part."""

    weights: list[float] | None

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None and len(self.weights) != len(self.parts):
            raise UserError(
                f"model.weights = {self.weights}: there are {len(self.parts)} parts; give one for each, or null for 1"
            )

    @property
    def exponents(self) -> list[float]:
        """The weights to begin with."""
        return self.weights or [1.0] * len(self.parts)


@register("model", "product")
class ProductSpec(Weighted):
    """Product of experts: weighted energies of configured models or of trained runs."""

    builds = Product
    spaces = (Binary, Spin, Categorical, Real, Box)

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> Product:
        """The parts as their runs left them, or with initial parameters."""
        return Product(space, self.built(space, mean, key), self.exponents)


@register("model", "mixture")
class MixtureSpec(Composition):
    """Mixture of configured models or of trained runs, whose log Z are known or given."""

    log_z: list[float] | None

    builds = Mixture
    spaces = (Binary, Spin, Categorical, Real, Box)

    @override
    def __post_init__(self) -> None:
        """One log Z for each part, where they are given, and none that training would change."""
        super().__post_init__()
        if self.log_z is not None and len(self.log_z) != len(self.parts):
            raise UserError(
                f"model.log_z = {self.log_z}: there are {len(self.parts)} parts; give one for each, or null"
            )
        for i, (part, spec) in enumerate(zip(self.structure or [], self.specs(), strict=True)):
            if not issubclass(spec.builds, Normalised):
                self._check_unnormalised(i, part)

    def _check_unnormalised(self, i: int, part: Part) -> None:
        name = part.model["name"]
        if self.train_parts:
            raise UserError(
                f"model.train_parts = true: training would change log Z of model.parts[{i}], which {name} does not "
                "know; set it to false, or mix models that do (exponential_family, flow)"
            )
        if self.log_z is None and part.log_z is None:
            about = f"run={part.run}" if part.run else "run=RUN"
            raise UserError(
                f"model.log_z = null: that of model.parts[{i}] ({name}) is not known; estimate it with `ebm evaluate "
                f"{about} evaluation=[ais]` and give model.log_z, one number for each part"
            )

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> Mixture:
        """Equal shares of the parts as their runs left them, or with initial parameters."""
        parts = self.built(space, mean, key)
        given = [part.log_z for part in self.structure or []] if self.log_z is None else self.log_z
        known = [value or 0.0 for value in given]  # a part without a number is asked
        made = NormalisedMixture if all(isinstance(part, Normalised) for part in parts) else Mixture
        return made(space, parts, known)
