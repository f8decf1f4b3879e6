"""The seam of estimates along the way: chains of their own, a function of the models that training passes through."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from ebm_cli.device.engine import Work
from ebm_cli.evaluation.base import Subject
from ebm_cli.model.base import EnergyModel
from ebm_cli.sampler.base import Sampler

Kept = Mapping[str, Tensor]
"""All that lasts from one look to the next, by name; it is part of the checkpoint."""


class Running(ABC):
    """What follows a run. It reads the model and draws from keys of its own, so training is the same without it."""

    follows: ClassVar[bool] = True
    """Whether anything does."""
    reports: ClassVar[tuple[str, ...]] = ()
    """What it finds of rows where the run is evaluated."""

    @property
    def required(self) -> bool:
        """Whether a refusal is an error; otherwise nothing follows the run."""
        return True

    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Why a run of these parts cannot be followed, in one sentence, or None."""
        return None

    def refusal_of_kinds(self, model: type[EnergyModel], sampler: Sampler[Any, Any]) -> str | None:
        """The same of what is known before the data are read."""
        return None

    def least_share(self, work: Work, batch_size: int) -> float:
        """The share of the work of training that one look is worth."""
        return 0.0

    def looks(self, work: Work, batch_size: int) -> frozenset[int]:
        """The steps after which it looks at a run of so much work; none where that would take too large a share."""
        return frozenset()

    def fits(self, kept: Kept, subject: Subject) -> bool:
        """Whether it can go on with what a checkpoint has; otherwise it begins anew."""
        return bool(kept)

    def is_lost(self, kept: Kept) -> bool:
        """Whether nothing is found any more."""
        return False

    @abstractmethod
    def begun(self, subject: Subject) -> Kept:
        """What is kept from the first model on."""

    @abstractmethod
    def followed(self, subject: Subject, kept: Kept) -> Kept:
        """The same once the model has become that of `subject`."""

    @abstractmethod
    def found(self, kept: Kept) -> dict[str, float]:
        """Numbers to log, under `running/...`."""

    @abstractmethod
    def of_rows(self, subject: Subject, kept: Kept, x: Tensor) -> dict[str, float]:
        """Numbers of the newest look on rows x (rows, *shape) of the split of `subject`, under `running/...`."""
