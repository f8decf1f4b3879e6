"""Optimizers of torch, a learning rate that is a function of the step, gradient clipping and weight averaging."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from ebm_cli.registry import register

Schedule = Literal["constant", "linear", "cosine"]
Rate = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Steps = Annotated[int, Field(ge=0)]


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
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """torch's optimizer over these parameters."""

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


@register("optimizer", "sgd")
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's variant of it."""

    momentum: Share
    nesterov: bool
    weight_decay: NonNegative

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """torch.optim.SGD."""
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov and self.momentum > 0,
            weight_decay=self.weight_decay,
        )


@register("optimizer", "adam")
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015); weight decay is part of the gradient."""

    betas: tuple[Share, Share]
    eps: Rate
    weight_decay: NonNegative

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """torch.optim.Adam."""
        return torch.optim.Adam(
            parameters, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay
        )


@register("optimizer", "adamw")
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    betas: tuple[Share, Share]
    eps: Rate
    weight_decay: NonNegative

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """torch.optim.AdamW."""
        return torch.optim.AdamW(
            parameters, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay
        )
