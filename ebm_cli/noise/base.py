"""Noise distributions q: what contrastive objectives tell the data from."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

from ebm_cli.dataset.base import Data
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Space


class Noise(nn.Module, ABC):
    """q on the space of the data. What training changes of it are parameters that require a gradient."""

    compiles: ClassVar[bool] = True
    """Whether its methods are tensor operations that `torch.compile` can trace, with nothing to be learned."""

    @abstractmethod
    def sample(self, n: int, key: AnyKey) -> Tensor:
        """n independent draws, (n, *shape)."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x) in nats, (batch,). Raises NotImplementedError where the density is not known."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.log_prob(x)

    def beside(self, x: Tensor, count: int, key: AnyKey) -> Tensor:
        """`count` draws for each row of x, one row's after the other's, (batch * count, *shape)."""
        return self.sample(len(x) * count, key.spread(count))


class NoiseSpec(ABC):
    """The component: from it and the training data comes the distribution."""

    spaces: ClassVar[tuple[type[Space], ...]]
    has_density: ClassVar[bool] = True

    @abstractmethod
    def build(self, data: Data, key: Key) -> Noise:
        """The distribution for these data. Raises UserError where it does not suit them."""
