"""Optimizers, a learning rate that is a function of the step, and weight averaging.

Their state is plain named tensors, so a checkpoint holds no object and nothing is created lazily, and each update is a
function of tensors that can be compiled into one pass over the weights. The results are those of `torch.optim`, whose
class is not used: its first import takes seconds.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.registry import register

Schedule = Literal["constant", "linear", "cosine"]
Rate = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Steps = Annotated[int, Field(ge=0)]
Named = dict[str, Tensor]
Scalar = float | Tensor


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """The component. `lr` is the peak rate; `final_lr` where linear and cosine schedules end.

    `warmup` steps rise linearly from 0 to `lr`. `clip` bounds the gradient's Euclidean norm (null: no bound).
    `ema` > 0 keeps theta_ema <- ema theta_ema + (1 - ema) theta from step `ema_start` * steps on (before it, the
    average follows the weights); evaluation then uses the average. `rates` are factors on the learning rate of the
    parameters whose names match a pattern, such as `auxiliary.*`.
    """

    lr: Rate
    schedule: Schedule
    final_lr: NonNegative
    warmup: Steps
    clip: Rate | None
    ema: Share
    ema_start: Share
    rates: list[tuple[str, Rate]]
    squares: ClassVar[tuple[str, ...]] = ()
    """Those of the `moments` that are means of squares, so never negative."""

    def factor(self, name: str) -> float:
        """What the learning rate is multiplied by for this parameter: that of the first pattern it matches, or 1."""
        return next((factor for pattern, factor in self.rates if fnmatchcase(name, pattern)), 1.0)

    def refusal(self, names: Collection[str]) -> str | None:
        """Which key of `rates` matches none of these parameters, in one sentence, or None."""
        for pattern, _ in self.rates:
            if not any(fnmatchcase(name, pattern) for name in names):
                return f"optimizer.rates = {pattern}: no parameter is called so; there are {', '.join(names)}"
        return None

    @property
    def bounded(self) -> bool:
        """Whether no update moves a parameter farther than a bound, however large the gradient."""
        return self.clip is not None

    @abstractmethod
    def moments(self) -> tuple[str, ...]:
        """Names of the tensors kept for each parameter, e.g. `momentum`."""

    def impossible(self, state: Named) -> str | None:
        """The first tensor of a state that no run of this optimizer can have; None if there is none."""
        means = [name for name in state if name.partition(".")[0] in self.squares]
        return next((name for name in means if (state[name] < 0).any()), None)

    def init(self, parameters: Mapping[str, Tensor]) -> Named:
        """The state before the first update: zeros under `moment.parameter`."""
        return {f"{moment}.{name}": torch.zeros_like(p) for moment in self.moments() for name, p in parameters.items()}

    @abstractmethod
    def update(self, p: Tensor, grad: Tensor, moments: Sequence[Tensor], at: "At", *, decays: bool = True) -> None:
        """Update a parameter and its `moments()`, in their order, in place, with weight decay if it `decays`."""

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


class At(NamedTuple):
    """Update number `step` (from 0) at this learning rate: numbers, or scalar tensors in a compiled region."""

    step: Scalar
    rate: Scalar
    keep: Scalar  # weight of the old average


@torch.no_grad()
def apply(
    optimizer: Optimizer,
    parameters: Mapping[str, Tensor],
    grads: Named,
    state: Named,
    at: At,
    undecayed: Collection[str] = (),
) -> None:
    """One update of all parameters that have a gradient, and of the optimizer's state, in place.

    Weight decay acts on all but those that `undecayed` names.

    A sparse gradient updates the rows it has, of the parameter and its moments, and leaves the others as they are, as
    torch.optim.SparseAdam does: moments and velocities of rows without a gradient do not decay, nor do their weights.
    """
    for name, grad in grads.items():
        moments = [state[f"{moment}.{name}"] for moment in optimizer.moments()]
        factor = optimizer.factor(name)
        here = at if factor == 1 else at._replace(rate=at.rate * factor)
        if grad.is_sparse:
            _update_rows(optimizer, [parameters[name], *moments], grad.coalesce(), here)
        else:
            optimizer.update(parameters[name], grad, moments, here, decays=name not in undecayed)


def _update_rows(optimizer: Optimizer, tensors: Sequence[Tensor], grad: Tensor, at: At) -> None:
    """Of a parameter and its moments the rows of the gradient: taken out, updated, put back."""
    (rows,) = grad.indices()
    p, *moments = parts = [tensor[rows] for tensor in tensors]
    optimizer.update(p, grad.values(), moments, at)
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.index_copy_(0, rows, part)


def norms(grads: Named) -> Tensor:
    """Euclidean norm of each gradient, (parameters,)."""
    found = (grad.coalesce().values() if grad.is_sparse else grad for grad in grads.values())
    return torch.stack([torch.linalg.vector_norm(values) for values in found])


def clipped(grads: Named, largest: float, norm: Tensor) -> Named:
    """The gradients scaled so that their norm, `norm` now, is at most `largest`."""
    scale = (largest / (norm + 1e-6)).clamp(max=1)
    return {name: grad * scale for name, grad in grads.items()}


@torch.no_grad()
def average(averages: Named, parameters: Mapping[str, Tensor], keep: Scalar) -> None:
    """average <- keep average + (1 - keep) parameter, in place."""
    for name, mean in averages.items():
        mean.mul_(keep).add_(parameters[name] * (1 - keep))


@register("optimizer", "sgd")
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's variant of it."""

    momentum: Share
    nesterov: bool
    weight_decay: NonNegative

    @override
    def moments(self) -> tuple[str, ...]:
        """The velocity, if there is momentum."""
        return ("momentum",) if self.momentum else ()

    @override
    def update(self, p: Tensor, grad: Tensor, moments: Sequence[Tensor], at: At, *, decays: bool = True) -> None:
        """u <- momentum u + g, theta <- theta - rate u (Nesterov: g + momentum u), g with weight_decay theta added."""
        step = grad + self.weight_decay * p if self.weight_decay and decays else grad
        if moments:
            velocity = moments[0].mul_(self.momentum).add_(step)
            step = step + self.momentum * velocity if self.nesterov else velocity
        p.sub_(step * at.rate)


@dataclass(frozen=True, kw_only=True)
class _Adam(Optimizer):
    """What Adam and AdamW share; they differ in where the weight decay enters."""

    betas: tuple[Share, Share]
    eps: Rate
    weight_decay: NonNegative
    decoupled: ClassVar[bool]
    squares = ("second_moment",)

    @property
    @override
    def bounded(self) -> bool:
        return True

    @override
    def moments(self) -> tuple[str, ...]:
        """Running means of the gradient and of its square."""
        return ("first_moment", "second_moment")

    @override
    def update(self, p: Tensor, grad: Tensor, moments: Sequence[Tensor], at: At, *, decays: bool = True) -> None:
        """Kingma & Ba 2015, alg. 1, with t = step + 1."""
        if self.decoupled and decays:
            p.mul_(1 - at.rate * self.weight_decay)
        elif self.weight_decay and decays:
            grad = grad + self.weight_decay * p
        (first, second), (beta1, beta2) = moments, self.betas
        first.mul_(beta1).add_(grad * (1 - beta1))
        second.mul_(beta2).add_(grad.square() * (1 - beta2))
        bias1, bias2 = 1 - beta1 ** (at.step + 1), 1 - beta2 ** (at.step + 1)
        p.sub_(first / ((second / bias2).sqrt() + self.eps) * (at.rate / bias1))


@register("optimizer", "adam")
class Adam(_Adam):
    """Adam (Kingma & Ba 2015); weight decay is part of the gradient."""

    decoupled = False


@register("optimizer", "adamw")
class AdamW(_Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    decoupled = True
