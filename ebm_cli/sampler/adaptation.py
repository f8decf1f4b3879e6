"""What a warm-up finds for a sampler and then leaves alone: a kernel that goes on adapting is none."""

import dataclasses
import math
from abc import abstractmethod
from typing import Any, ClassVar, Self, TypeGuard

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli import terminal
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import Key
from ebm_cli.sampler.base import M, S, Sampler, run

BLOCK = 10
"""Transitions between two looks at the acceptance."""
_GAIN, _DECAY = 3.0, 0.6


def correction(n: int) -> float:
    """By how much the n-th correction, from 0, follows its error: 3 (n + 1)^-0.6, whose sum diverges and whose squares'
    does not."""
    return _GAIN * (n + 1) ** -_DECAY


def blocks(steps: int) -> list[int]:
    """Transitions before each look at the acceptance."""
    return [min(BLOCK, steps - begin) for begin in range(0, steps, BLOCK)]


class Warmed(Sampler[M, S]):
    """A sampler of which a warm-up can find a key."""

    @property
    @abstractmethod
    def wants_warmup(self) -> bool:
        """Whether its keys ask for one."""

    @abstractmethod
    def warmed(self, model: M, x: Tensor, steps: int, key: Key) -> tuple[Self, Tensor]:
        """The sampler with what it found, and where its chains, or all their replicas, are after `steps` from x."""

    @abstractmethod
    def found(self) -> dict[str, float]:
        """What is recorded of one that was warmed, by the key that has it."""

    @abstractmethod
    def frozen(self) -> Self:
        """One that was warmed, which wants no warm-up any more."""


class Adapting(Warmed[M, S]):
    """A kernel whose proposals grow with one of its keys, `scale`, and whose Info has `acceptance`."""

    scale: ClassVar[str] = "step_size"
    adapt: float | None
    """Acceptance that a warm-up aims at; None leaves that key alone."""

    @property
    def size(self) -> float:
        """What `scale` is."""
        found: float = getattr(self, self.scale)
        return found

    def resized(self, size: float) -> Self:
        """The same with another `scale`."""
        changed: Self = dataclasses.replace(self, **{self.scale: size})  # type: ignore[type-var]
        return changed

    @property
    @override
    def wants_warmup(self) -> bool:
        return self.adapt is not None

    @override
    def warmed(self, model: M, x: Tensor, steps: int, key: Key) -> tuple[Self, Tensor]:
        """log `scale` += 3 n^-0.6 (acceptance - `adapt`) after the n-th ten transitions.

        The acceptance is the mean of all chains (Robbins & Monro 1951; Andrieu & Thoms 2008, eq. 20); what is left is
        the mean of log `scale` over the second half of the corrections (Polyak & Juditsky 1992).
        """
        assert self.adapt is not None
        tried = [math.log(self.size)]
        for n, length in enumerate(terminal.followed(blocks(steps), "warm-up: block")):
            x, info = run(self.resized(math.exp(tried[-1])), model, x, length, key.fold(n))
            error = info["acceptance"].double().mean().item() - self.adapt
            tried.append(tried[-1] + correction(n) * error)
        late = tried[len(tried) // 2 :]
        return self.resized(math.exp(sum(late) / len(late))), x

    @override
    def found(self) -> dict[str, float]:
        return {} if self.adapt is None else {self.scale: self.size}

    @override
    def frozen(self) -> Self:
        return dataclasses.replace(self, adapt=None)  # type: ignore[type-var]


@torch.no_grad()
def adapted(
    sampler: Sampler[Any, Any], model: EnergyModel, x: Tensor, steps: int, key: Key
) -> tuple[Sampler[Any, Any], Tensor]:
    """The sampler with what a warm-up of `steps` transitions from x found, and where its chains are after them.

    Only a sampler that `adapts` may be given.
    """
    assert adapts(sampler)
    return sampler.warmed(model, x, steps, key)


def adapts(sampler: Sampler[Any, Any]) -> TypeGuard[Warmed[Any, Any]]:
    """Whether it wants a warm-up."""
    return isinstance(sampler, Warmed) and sampler.wants_warmup


def recorded(sampler: Sampler[Any, Any]) -> dict[str, float]:
    """What is recorded of a sampler that has been adapted, as `step_size`; nothing of another."""
    return sampler.found() if isinstance(sampler, Warmed) else {}
