"""How time and memory of a PCD-1 step grow with the chains and with the units of the model."""

from collections.abc import Mapping
from functools import cache, partial

import _peers
from _case import MEGABYTES, Case, Contender, Maker, Required, Samples, quotient
from _ours import Size, training_step
from _peak import of_program

BASE = "784-500, 100 chains"
SIZES = {BASE: Size(100, 100)}
SIZES |= {f"784-500, {n} chains": Size(100, n) for n in (200, 400, 800)}
SIZES |= {f"{784 * n}-{500 * n}, 100 chains": Size(100, 100, 1, 784 * n, 500 * n) for n in (2, 4)}
TIME_NOISE, MEMORY_SLACK = 1.1, 1.2


def time_makers(quick: bool) -> Mapping[str, Maker]:
    """Our step and the products alone at each size."""
    steps = {f"step, {name}": partial(training_step, size) for name, size in SIZES.items()}
    return steps | {f"products, {name}": partial(_peers.products, size) for name, size in SIZES.items()}


def memory_makers(quick: bool) -> Mapping[str, Maker]:
    """Peak memory at each size, and what cannot be avoided: weights, chains and batch."""
    peaks = {f"peak, {name}": partial(peak, size) for name, size in SIZES.items()}
    return peaks | {f"state, {name}": partial(state, size) for name, size in SIZES.items()}


def peak(size: Size) -> Contender:
    """Bytes of a process that trains, beyond those of one that trains a model of four units."""
    return lambda: resident(size) - baseline()


def state(size: Size) -> Contender:
    """Bytes of float32 weights, chains and batch."""
    return lambda: 4.0 * (size.sites * size.hidden + (size.chains + size.batch) * size.sites)


@cache
def baseline() -> float:
    """Of the imports, the threads and all else that every run needs."""
    return min(resident(Size(2, 2, 1, 2, 2)) for _ in range(3))


def resident(size: Size) -> float:
    """Peak resident memory of a fresh process."""
    return of_program("_memory.py", *size)


def growth(samples: Samples, name: str, what: str, unavoidable: str) -> float:
    """How often `what` has grown, from BASE on, for each time that `unavoidable` has."""
    return quotient(samples, f"{what}, {name}", f"{what}, {BASE}") / quotient(
        samples, f"{unavoidable}, {name}", f"{unavoidable}, {BASE}"
    )


def _required(what: str, unavoidable: str, bound: float) -> tuple[Required, ...]:
    return tuple(
        Required(
            f"growth of {what} / growth of {unavoidable}: {name}",
            partial(growth, name=name, what=what, unavoidable=unavoidable),
            bound,
            at_least=False,
        )
        for name in SIZES
        if name != BASE
    )


TIME = "One PCD-1 step of ours and its matrix products alone, 100 rows; growth from 784-500 and 100 chains, 10 % noise."
MEMORY = "Peak resident memory of eager PCD-1 training, 100 rows, beyond that of a model with four units."
CASES = (
    Case("scaling_time", TIME, time_makers, _required("step", "products", TIME_NOISE), turn=3, rounds=15),
    Case(
        "scaling_memory",
        MEMORY,
        memory_makers,
        _required("peak", "state", MEMORY_SLACK),
        unit=MEGABYTES,
        rounds=3,
        warmup=0,
    ),
)
