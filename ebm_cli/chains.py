"""Where the negative chains of a training step start, and how each is put back into the slot it came from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ebm_cli import rng
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Space

Start = Literal["data", "noise"]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Chains(ABC):
    """A start policy, and `steps` transitions per training step.

    The store, (slots, *shape) or with the replicas of each chain (slots, replicas, *shape), is all that outlives a
    training step; it is part of the checkpoint.
    """

    steps: Count
    stored: ClassVar[bool] = False
    roams: ClassVar[bool] = False  # whether a slot may be moved by one rank at one step and by another at the next

    def init(self, space: Space, data: Tensor, key: Key) -> Tensor:
        """The store before the first step; `data` are training rows, as many as there are slots."""
        return torch.empty(0, *space.shape, device=data.device)

    @property
    def slots(self) -> int:
        """Rows of the store."""
        return 0

    def choose(self, batch_size: int, key: Key) -> Tensor:
        """Slots of the chains of one training step, (chains,) int64 on the CPU; none if they have none."""
        return torch.empty(0, dtype=torch.long)

    @abstractmethod
    def draw(self, store: Tensor, slots: Tensor, batch: Tensor, space: Space, key: AnyKey) -> Tensor:
        """Start positions of the chains in these slots of the store, (chains, *shape) or as the store has them."""


def put(store: Tensor, slots: Tensor, x: Tensor) -> None:
    """Write every chain back into the very slot it was drawn from (in place)."""
    if len(slots):
        store[slots] = x


def _fresh(start: Start, n: int, data: Tensor, space: Space, key: AnyKey) -> Tensor:
    """n new positions: noise, or rows of `data` (taken in order, repeated if they are too few)."""
    if start == "noise":
        return space.noise(n, key, data.device)
    return data[torch.arange(n, device=data.device) % len(data)].clone()


@register("chains", "data")
class FromData(Chains):
    """Every chain starts at a row of the batch, every time: contrastive divergence, CD-k (Hinton 2002)."""

    def draw(self, store: Tensor, slots: Tensor, batch: Tensor, space: Space, key: AnyKey) -> Tensor:
        """The batch."""
        return batch


@register("chains", "noise")
class FromNoise(Chains):
    """Every chain starts from noise, every time: short-run MCMC (Nijkamp et al. 2019)."""

    def draw(self, store: Tensor, slots: Tensor, batch: Tensor, space: Space, key: AnyKey) -> Tensor:
        """As many chains as the batch has rows."""
        return space.noise(len(batch), key, batch.device)


@register("chains", "persistent")
class Persistent(Chains):
    """`count` chains that go on where they stopped (Tieleman 2008): persistent CD, stochastic maximum likelihood."""

    count: Count
    start: Start

    stored = True

    def init(self, space: Space, data: Tensor, key: Key) -> Tensor:
        """Noise, or rows of the data."""
        return _fresh(self.start, self.count, data, space, key)

    @property
    def slots(self) -> int:
        """One for each chain."""
        return self.count

    def choose(self, batch_size: int, key: Key) -> Tensor:
        """All of them."""
        return torch.arange(self.count)

    def draw(self, store: Tensor, slots: Tensor, batch: Tensor, space: Space, key: AnyKey) -> Tensor:
        """Where they stopped."""
        return store[slots]


@register("chains", "replay")
class Replay(Chains):
    """A reservoir of `size` chains (Du & Mordatch 2019): a batch of them moves on, a share of these starts afresh.

    A chain that starts afresh replaces the one whose slot it was given. `start` data or noise says where the reservoir
    begins and where fresh chains start; with data it is the "true CD" experiment of Du et al. 2021.
    """

    size: Count
    restart: Annotated[float, Field(ge=0, le=1)]
    start: Start

    stored = True
    roams = True

    def init(self, space: Space, data: Tensor, key: Key) -> Tensor:
        """Noise, or rows of the data."""
        return _fresh(self.start, self.size, data, space, key)

    @property
    def slots(self) -> int:
        """One for each chain of the reservoir."""
        return self.size

    def choose(self, batch_size: int, key: Key) -> Tensor:
        """As many distinct slots as the batch has rows (all, if it has more)."""
        return rng.permutation(self.size, key.fold("slots"))[:batch_size]

    def draw(self, store: Tensor, slots: Tensor, batch: Tensor, space: Space, key: AnyKey) -> Tensor:
        """Where they stopped, but each restarted with p = `restart`."""
        fresh = rng.uniform((len(slots),), key.fold("restart"), store.device) < self.restart
        start = _fresh(self.start, len(slots), batch, space, key.fold("noise"))
        start = start.reshape(len(start), *[1] * (store.dim() - start.dim()), *space.shape)
        return torch.where(fresh.reshape(-1, *[1] * (store.dim() - 1)), start, store[slots])
