"""Where the negative chains of a training step start, and how each is put back into the slot it came from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ebm_cli import rng
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Space

Start = Literal["data", "noise"]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Chains(ABC):
    """A start policy, and `steps` transitions per training step.

    The store (slots, *shape) is all that outlives a training step; it is part of the checkpoint.
    """

    steps: Count
    stored: ClassVar[bool] = False

    def init(self, space: Space, data: Tensor, key: Key) -> Tensor:
        """The store before the first step; `data` are training rows, as many as there are slots."""
        return torch.empty(0, *space.shape, device=data.device)

    @property
    def slots(self) -> int:
        """Rows of the store."""
        return 0

    @abstractmethod
    def draw(self, store: Tensor, batch: Tensor, space: Space, key: Key) -> tuple[Tensor, Tensor]:
        """Start positions (chains, *shape), and the slot of each: (chains,) int64, or empty if they have none."""


def put(store: Tensor, slots: Tensor, x: Tensor) -> None:
    """Write every chain back into the very slot it was drawn from (in place)."""
    store[slots] = x[: len(slots)]


def _no_slots(batch: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.long, device=batch.device)


def _fresh(start: Start, n: int, data: Tensor, space: Space, key: Key) -> Tensor:
    """n new positions: noise, or rows of `data` (taken in order, repeated if they are too few)."""
    if start == "noise":
        return space.noise(n, key, data.device)
    return data[torch.arange(n, device=data.device) % len(data)].clone()


@register("chains", "data")
class FromData(Chains):
    """Every chain starts at a row of the batch, every time: contrastive divergence, CD-k (Hinton 2002)."""

    def draw(self, store: Tensor, batch: Tensor, space: Space, key: Key) -> tuple[Tensor, Tensor]:
        """The batch."""
        return batch, _no_slots(batch)


@register("chains", "noise")
class FromNoise(Chains):
    """Every chain starts from noise, every time: short-run MCMC (Nijkamp et al. 2019)."""

    def draw(self, store: Tensor, batch: Tensor, space: Space, key: Key) -> tuple[Tensor, Tensor]:
        """As many chains as the batch has rows."""
        return space.noise(len(batch), key, batch.device), _no_slots(batch)


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

    def draw(self, store: Tensor, batch: Tensor, space: Space, key: Key) -> tuple[Tensor, Tensor]:
        """Every chain."""
        return store.clone(), torch.arange(len(store), device=store.device)


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

    def init(self, space: Space, data: Tensor, key: Key) -> Tensor:
        """Noise, or rows of the data."""
        return _fresh(self.start, self.size, data, space, key)

    @property
    def slots(self) -> int:
        """One for each chain of the reservoir."""
        return self.size

    def draw(self, store: Tensor, batch: Tensor, space: Space, key: Key) -> tuple[Tensor, Tensor]:
        """As many distinct slots as the batch has rows (all, if it has more), each restarted with p = `restart`."""
        slots = rng.permutation(len(store), key.fold("slots"))[: len(batch)].to(store.device)
        fresh = rng.uniform((len(slots),), key.fold("restart"), store.device) < self.restart
        start = _fresh(self.start, len(slots), batch, space, key.fold("noise"))
        return torch.where(fresh.reshape(-1, *[1] * len(space.shape)), start, store[slots]), slots
