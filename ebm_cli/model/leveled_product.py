"""Products of leveled models, level by level."""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli.errors import UserError
from ebm_cli.model.base import Pullback
from ebm_cli.model.composition import Weighted
from ebm_cli.model.leveled import LeveledSpec
from ebm_cli.model.levels import Leveled, per_row
from ebm_cli.process.base import Scales
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Real, Space


class LeveledProduct(Leveled):
    """E(x, k) = sum_i w_i E_i(x + (a_0 - a_k) (m_i - m), k), at the last level the Gaussian N(m, r^2 v_k).

    At level 0 that is the product of the exp(-E_i)^w_i of the parts. At the others it is not the density of noisy draws
    of this product, so that nothing but transitions on every level, or exchanges, comes to it on the way down (Du et
    al. 2023, sec. 3): neither the probability flow nor ancestral moves do. A part i has its data m_i at every level;
    moved so, what the parts say of one place stands at one place. 1 / r^2 = sum_i w_i / r_i^2 and
    m = r^2 sum_i w_i m_i / r_i^2 are such that the last level is the product of the last levels.
    """

    of_noise = False

    def __init__(self, space: Real, scales: Scales, parts: Sequence[Leveled], weights: Sequence[float]) -> None:
        super().__init__(space, scales, torch.zeros(space.shape), 1.0)
        self.parts = nn.ModuleList(parts)
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32))
        self._settle()

    @override
    def energy_at(self, x: Tensor, level: Tensor) -> Tensor:
        each = [part.energy_at(self._seen(part, x, level), level) for part in self._each()]
        return torch.where(level < self.levels - 1, self.weights @ torch.stack(each), self._last(x))

    @torch.no_grad()
    @override
    def energy_and_grad_at(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        each = [part.energy_and_grad_at(self._seen(part, x, level), level) for part in self._each()]
        energies, grads = (torch.stack(found) for found in zip(*each, strict=True))
        inside = level < self.levels - 1
        energy = torch.where(inside, self.weights @ energies, self._last(x))
        grad = torch.einsum("i,i...->...", self.weights, grads)
        last = (x - self.mean) / self.width(level).square()
        return energy, torch.where(per_row(inside, x), grad, last)

    @override
    def energy_vjp_at(self, x: Tensor, level: Tensor) -> tuple[Tensor, Pullback]:
        return self.differentiated(self.energy_at, x, level)

    @override
    def measure(self, rows: Callable[[], Tensor]) -> None:
        """m and r are those of the parts, whatever the rows. Raises UserError where there are none."""
        self._settle()

    @torch.no_grad()
    def _settle(self) -> None:
        """Take m and r from the parts and weights."""
        weights = [float(w) for w in self.weights]
        precisions = [w / part.scale.double().square() for w, part in zip(weights, self._each(), strict=True)]
        total = torch.stack(precisions).sum(0)
        if not (total > 0).all():
            raise UserError(
                f"model.weights = {weights}: the product of the last levels, where parts weigh by their own precision, "
                "has no width; bring negative ones nearer to 0"
            )
        means = [p * part.mean.double() for p, part in zip(precisions, self._each(), strict=True)]
        self.scale.copy_(total.rsqrt())
        self.mean.copy_(torch.stack(means).sum(0) / total)

    def _each(self) -> list[Leveled]:
        return cast(list[Leveled], list(self.parts))

    def _seen(self, part: Leveled, x: Tensor, level: Tensor) -> Tensor:
        """What the part is asked about: x moved from where its own data fade to, to where the product's do."""
        faded = per_row(self.a[0] - self.a[level], x)
        return x + faded * (part.mean - self.mean)

    def _last(self, x: Tensor) -> Tensor:
        """-log N(x; m, r^2 v) at the last level, (batch,)."""
        variance = self.variance[-1]
        u = (x - self.mean) / (self.scale * variance.sqrt())
        volume = self.log_volume.to(x.dtype) + self.space.sites / 2 * (2 * math.pi * variance).log()
        return u.flatten(1).square().sum(1) / 2 + volume


@register("model", "leveled_product")
class LeveledProductSpec(Weighted):
    """Product of trained runs of leveled models, which have one process, at every level of noise."""

    builds = LeveledProduct
    spaces = (Real,)

    @override
    def __post_init__(self) -> None:
        """Raises UserError naming the part that is no leveled model, or has other levels."""
        super().__post_init__()
        for i, spec in enumerate(self.specs()):
            if not isinstance(spec, LeveledSpec):
                raise UserError(
                    f"model.parts[{i}]: has no levels; model=product multiplies energies of any kind at one"
                )
            first = self.specs()[0]
            assert isinstance(first, LeveledSpec)
            if spec.process != first.process:
                raise UserError(
                    f"model.parts[{i}]: has the process {spec.process}, model.parts[0] has {first.process}; multiply "
                    "runs that have the same model.process"
                )

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> LeveledProduct:
        """The parts as their runs left them, or with initial parameters."""
        assert isinstance(space, Real)
        parts = cast(list[Leveled], self.built(space, mean, key))
        first = self.specs()[0]
        assert isinstance(first, LeveledSpec)
        return LeveledProduct(space, first.process.scales(), parts, self.exponents)
