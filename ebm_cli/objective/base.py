"""Training objectives: a scalar, minimised, whose gradient is the direction of the update."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import Key
from ebm_cli.space import Space

Metrics = dict[str, Tensor]
"""Scalars to log, detached."""


class Objective(ABC):
    """What is minimised. It reads the model and the negatives it is given; it owns no chains and no optimizer."""

    spaces: ClassVar[tuple[type[Space], ...]]

    @property
    @abstractmethod
    def negatives(self) -> bool:
        """Whether it needs negative samples, i.e. chains and a sampler."""

    @property
    def needs(self) -> tuple[type[EnergyModel], ...]:
        """Capabilities the model must have."""
        return ()

    @property
    def enumerates(self) -> bool:
        """Whether it sums over all states, so that the model must be small."""
        return False

    def conflict(self) -> str | None:
        """Keys that exclude each other, in one sentence, or None."""
        return None

    @abstractmethod
    def gradient(self, model: EnergyModel, x: Tensor, x_neg: Tensor | None, key: Key) -> Metrics:
        """Write the gradient of the loss into `.grad` of the parameters and return what to log, `loss` among it.

        x (batch, *shape) are data, x_neg (chains, *shape) the negatives or None; the gradients hold nothing before.
        """
