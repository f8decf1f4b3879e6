"""Energies at all levels of noise with classes: a leveled model whose network has an output for each class."""

import math
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli.errors import UserError
from ebm_cli.model.base import Pullback
from ebm_cli.model.convnet import ConvNet
from ebm_cli.model.leveled import Inside, LeveledNetwork, LeveledSpec, Measured
from ebm_cli.model.levels import LeveledClassifier
from ebm_cli.model.mlp import MLP
from ebm_cli.process.base import Scales
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Real, Space


class LeveledJEM(LeveledClassifier, LeveledNetwork):
    """With v_k, u, r, g_k and p(u, k) of `LeveledNetwork`, and f(u, k)[y] a network with an output for each class y,

        E(x, k, y) = -log p(u, k) + D/2 log v_k + sum_i log r_i - g_k f(u, k)[y] - b_k[y],

    JEM (Grathwohl et al. 2020, eq. 5 to 7) at every level. b_k[y] are free constants, at the last level
    -log classes, by which E(x, K - 1) is the Gaussian of log Z = 0.
    """

    compiles = False  # slopes are found by automatic differentiation

    def __init__(self, space: Real, scales: Scales, inside: Inside, mean: Tensor, scale: Measured | float) -> None:
        super().__init__(space, scales, inside, mean, scale)
        self.classes = self._head.out_features
        self.offset = nn.Parameter(torch.full((self.levels - 1, self.classes), -math.log(self.classes)))

    @property
    @override
    def free_constants(self) -> Tensor:
        """b_k[y], (K, classes)."""
        last = torch.full_like(self.offset[:1], -math.log(self.classes))
        return torch.cat([self.offset, last])

    @override
    def joint_at(self, x: Tensor, level: Tensor) -> Tensor:
        u = self._unit(x, level)
        energy, cleaned = self.base.seen(u, level)
        return self._beside(energy, level)[:, None] - self._scores(self.features_of(u, level, cleaned), level)

    @override
    def joint_vjp_at(self, x: Tensor, level: Tensor) -> tuple[Tensor, Pullback]:
        """By automatic differentiation."""
        return self.differentiated(self.joint_at, x, level)

    @override
    def slope_of(self, x: Tensor, level: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
        """Through the network alone, the rest in closed form."""
        recorded, u = torch.is_grad_enabled(), self._unit(x.detach(), level)
        told = self.base.told(u, level)
        with torch.enable_grad():
            features = self.features_of(u, level, told.cleaned).requires_grad_()
            score = self._scores(features, level).masked_fill(~among, -math.inf).logsumexp(1)
            (grad,) = torch.autograd.grad(score.sum(), features, create_graph=recorded)
        of_score = self.features_of.pulled(u, level, grad, told)
        energy = self._beside(told.energy, level) - (score if recorded else score.detach())
        return energy, (told.slope - of_score) / self.width(level)

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`class`: p(y | x) of each class y at level 0."""
        return {"class": self.logits(x).softmax(1)}

    @property
    def _head(self) -> nn.Linear:
        return cast(nn.Linear, self.network.last)

    def _scores(self, features: Tensor, level: Tensor) -> Tensor:
        """g_k f(u, k)[y] + b_k[y], (batch, classes)."""
        f: Tensor = self._head(self.network.features(features)["penultimate"])
        return self.gain[level, None] * f + self.free_constants[level]

    def _beside(self, base: Tensor, level: Tensor) -> Tensor:
        """What all classes have, (batch,)."""
        return base + self._size(base.dtype)[level]


@register("model", "leveled_jem")
class LeveledJEMSpec(LeveledSpec):
    """Energies of classes at the levels of noise of `process`, by one `network` that sees the level too."""

    classes: Annotated[int, Field(ge=2)]

    builds = LeveledJEM
    spaces = (Real,)

    @override
    def __post_init__(self) -> None:
        """The network is linear in its last units. Raises UserError."""
        super().__post_init__()
        if self.network.builds not in (MLP, ConvNet) or getattr(self.network, "spread", None) is not None:
            raise UserError("model.network: must be an mlp with spread null, or a convnet; model=leveled takes others")

    @override
    def parameters(self, space: Space) -> int:
        """Those of `leveled`, with constants of each class."""
        return super().parameters(space) + (self.classes - 1) * (self.process.levels - 1)

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> LeveledJEM:
        """f = 0. Raises UserError where a convolutional network gets data that are no images."""
        assert isinstance(space, Real)
        inside = self.inside(space, key)
        inside.network.last = nn.Linear(cast(nn.Linear, inside.network.last).in_features, self.classes, bias=False)
        nn.init.zeros_(inside.network.last.weight)
        return LeveledJEM(space, self.process.scales(), inside, mean, self.measured)
