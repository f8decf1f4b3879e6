"""The seam of early ends: what is looked at every so many steps, and when it is good enough."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import Field
from torch import Tensor

from ebm_cli.chains import Chains
from ebm_cli.dataset.base import Data
from ebm_cli.objective.base import Objective

OBJECTIVE = "this objective"
"""Stands in a refusal for the objective, which the command names as it was chosen."""

Logged = Callable[[str], Sequence[float]]
"""The numbers that a metric had so far, in the order of the steps."""


class Look(NamedTuple):
    """What a look at a run finds: numbers to log, under `stop/...`, and what is met in words, None if nothing is."""

    values: dict[str, float]
    met: str | None = None


@dataclass(frozen=True)
class Watch(ABC):
    """Looks at one run every `every` steps. A look is a function of the state and of what was logged before it."""

    every: int

    @abstractmethod
    def look(self, chains: Tensor, logged: Logged) -> Look:
        """What is found, of the stored chains (chains, *shape) or of what was logged. Raises RunError if nothing is."""

    def remark(self, chains: int) -> str | None:
        """A warning to print before the first step of a run of so many stored chains, or None."""
        return None


class Stop(ABC):
    """When training ends early. It reads the run and changes nothing in it but its last step."""

    def refusal(self, objective: Objective, chains: Chains, measured: Collection[str]) -> str | None:
        """Why a run of these parts has nothing to look at, in one sentence, or None.

        `measured` are beginnings of the names of what evaluations measure while the run trains.
        """
        return None

    def refusal_of_data(self, data: Data) -> str | None:
        """Why these rows have nothing to compare with, in one sentence, or None."""
        return None

    @abstractmethod
    def watch(self, data: Data) -> Watch | None:
        """What looks at a run on these data; None if nothing does."""


@dataclass(frozen=True, kw_only=True)
class Periodic(Stop):
    """A stop that looks every `every` steps, and costs nothing in between."""

    every: Annotated[int, Field(ge=1)]
