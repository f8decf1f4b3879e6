"""How rare looks are, so that their work is a stated share of that of training: counted, never timed."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ebm_cli.chains import Chains
from ebm_cli.sampler.base import Sampler

ROWS = 128
"""Rows of each split, and chains, that a look is at."""
CHAINS = 32
"""Chains that go on from where they are, and as many from rows of the data."""
_FEW, _MANY = 5, 100  # transitions that these make: as many as in a step of training, within these bounds
_STEP_CALLS = 2.5e5  # multiplications that take as long as the calls of a training step that is one program
_GLANCE_CALLS = 1.6e6  # the same of a look at what steps report
_LOOK_CALLS = 4e7  # the same of a look at chains and energies, some milliseconds
_DENSE = 4  # looks after 1, 2, 4, ... periods, whatever the share


class Moving(NamedTuple):
    """How negatives come about: whether there are any, where they start, how they move, so many transitions.

    `compares`: whether the objective tells by how much energies of rows far from each other differ. `ways`: the way out
    of signs of health that are the objective's own, by their names.
    """

    policy: Chains
    sampler: Sampler[Any, Any]
    steps: int
    negatives: bool
    compares: bool = True
    ways: Mapping[str, str] = MappingProxyType({})


class Periods(NamedTuple):
    """Steps from one look to the next, once there were some: at reports of steps, and at chains and energies."""

    reports: int
    chains: int


def transitions_of(steps: int) -> int:
    """How far chains move in a look, of a run whose chains move so many transitions at a step."""
    return min(max(steps, _FEW), _MANY)


def periods(every: int, share: float, parameters: int, rows: int, moving: Moving) -> Periods:
    """Multiples of `every` that keep the work of looks at this share of that of training, half of it for each kind.

    Work is counted in multiplications: one for each parameter and each row or transition of a chain, three for a row
    whose gradient is taken, and what calls cost beside them. It does not depend on the clock, so neither do the looks.
    """
    k = moving.steps
    chains = moving.policy.slots or rows if moving.negatives else 0
    step = _STEP_CALLS + parameters * (3 * rows + chains * (3 + k))
    look = _LOOK_CALLS + parameters * (4 * ROWS + (2 * CHAINS * transitions_of(k) if moving.negatives else 0))
    allowed = every * step * share / 2
    return Periods(*(every * max(1, math.ceil(work / allowed)) for work in (_GLANCE_CALLS, look)))


def due(step: int, every: int, rare: int) -> bool:
    """Whether a step is one for a look: after 1, 2, 4, ... periods `every`, then every `rare` steps."""
    if step % every:
        return False
    count = step // every
    return step % rare == 0 or (count & (count - 1) == 0 and count < 2**_DENSE)
