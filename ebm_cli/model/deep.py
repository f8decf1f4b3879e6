"""Deep machines with a restricted Boltzmann machine at the top, by whose chains they are sampled."""

from abc import abstractmethod

from torch import Tensor

from ebm_cli.model.base import Intractable
from ebm_cli.model.rbm import RBM
from ebm_cli.rng import AnyKey


class Deep(Intractable):
    """Several hidden layers. Chains move on the visible side of an RBM, `top`, from which visible units are made."""

    called = "deep"

    @property
    @abstractmethod
    def top(self) -> RBM:
        """The undirected one."""

    @abstractmethod
    def recognise(self, v: Tensor, key: AnyKey) -> list[Tensor]:
        """v and what is made of it upwards, the last of which is the visible side of the top, (batch, units)."""

    @abstractmethod
    def generate(self, x: Tensor, key: AnyKey) -> Tensor:
        """v from the visible side of the top, (batch, *shape)."""
