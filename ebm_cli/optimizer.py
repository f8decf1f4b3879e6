"""Optimizers of torch, a learning rate that is a function of the step, gradient clipping and weight averaging.

torch's own update functions are called on state that is plain named tensors, so a checkpoint holds no object, nothing
is created lazily, and the `torch.optim.Optimizer` class, whose first use imports torch's compiler for seconds, is not
needed.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from ebm_cli.registry import register

Schedule = Literal["constant", "linear", "cosine"]
Rate = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Steps = Annotated[int, Field(ge=0)]
Named = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """The component. `lr` is the peak rate; `final_lr` where linear and cosine schedules end.

    `warmup` steps rise linearly from 0 to `lr`. `clip` bounds the gradient's Euclidean norm (null: no bound).
    `ema` > 0 keeps theta_ema <- ema theta_ema + (1 - ema) theta from step `ema_start` * steps on (before it, the
    average follows the weights); evaluation then uses the average.
    """

    lr: Rate
    schedule: Schedule
    final_lr: NonNegative
    warmup: Steps
    clip: Rate | None
    ema: Share
    ema_start: Share

    @abstractmethod
    def slots(self) -> tuple[str, ...]:
        """Names of the tensors kept for each parameter, e.g. `momentum`."""

    def init(self, parameters: Mapping[str, Tensor]) -> Named:
        """The state before the first update: zeros under `slot.parameter`."""
        return {f"{slot}.{name}": torch.zeros_like(p) for slot in self.slots() for name, p in parameters.items()}

    @abstractmethod
    def update(self, parameters: list[Tensor], gradients: list[Tensor], slots: list[list[Tensor]], at: "At") -> None:
        """Update parameters and slots (one list per slot, in the order of `slots()`) in place."""

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of update number `step` (from 0) in a run of `steps`."""
        if step < self.warmup:
            return self.lr * (step + 1) / (self.warmup + 1)
        share = min(1.0, (step - self.warmup) / max(1, steps - self.warmup))
        if self.schedule == "linear":
            return self.lr + (self.final_lr - self.lr) * share
        if self.schedule == "cosine":
            return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * share)) / 2
        return self.lr

    def averaging(self, step: int, steps: int) -> float:
        """Weight of the old average after update number `step`: 0 until averaging starts."""
        return self.ema if step >= self.ema_start * steps else 0.0


@dataclass(frozen=True)
class At:
    """Update number `step` (from 0) at this learning rate."""

    step: int
    rate: float


@torch.no_grad()
def apply(optimizer: Optimizer, parameters: Mapping[str, Tensor], state: Mapping[str, Tensor], at: At) -> None:
    """One update of all parameters that have a gradient, and of the optimizer's state, in place."""
    names = [name for name, p in parameters.items() if p.grad is not None]
    chosen = [parameters[name] for name in names]
    gradients = [p.grad for p in chosen if p.grad is not None]
    optimizer.update(chosen, gradients, [[state[f"{slot}.{name}"] for name in names] for slot in optimizer.slots()], at)


@register("optimizer", "sgd")
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's variant of it."""

    momentum: Share
    nesterov: bool
    weight_decay: NonNegative

    def slots(self) -> tuple[str, ...]:
        """The velocity, if there is momentum."""
        return ("momentum",) if self.momentum else ()

    def update(self, parameters: list[Tensor], gradients: list[Tensor], slots: list[list[Tensor]], at: At) -> None:
        """u <- momentum u + g, theta <- theta - rate u (Nesterov: g + momentum u), g with weight_decay theta added."""
        velocity: list[Tensor | None] = [*slots[0]] if slots else [None] * len(parameters)
        sgd(
            parameters, gradients, velocity, foreach=True, lr=at.rate, momentum=self.momentum, dampening=0.0,
            nesterov=self.nesterov and self.momentum > 0, weight_decay=self.weight_decay, maximize=False,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Adam(Optimizer):
    """What Adam and AdamW share; they differ in where the weight decay enters."""

    betas: tuple[Share, Share]
    eps: Rate
    weight_decay: NonNegative
    decoupled: ClassVar[bool]

    def slots(self) -> tuple[str, ...]:
        """Running means of the gradient and of its square."""
        return ("first_moment", "second_moment")

    def update(self, parameters: list[Tensor], gradients: list[Tensor], slots: list[list[Tensor]], at: At) -> None:
        """Kingma & Ba 2015, alg. 1, with t = step + 1."""
        steps = [torch.tensor(float(at.step)) for _ in parameters]
        adam(
            parameters, gradients, slots[0], slots[1], [], steps, foreach=True, amsgrad=False, lr=at.rate,
            beta1=self.betas[0], beta2=self.betas[1], eps=self.eps, weight_decay=self.weight_decay,
            decoupled_weight_decay=self.decoupled, maximize=False,
        )  # fmt: skip


@register("optimizer", "adam")
class Adam(_Adam):
    """Adam (Kingma & Ba 2015); weight decay is part of the gradient."""

    decoupled = False


@register("optimizer", "adamw")
class AdamW(_Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    decoupled = True
