"""How the inner loops are executed: operation by operation, or as compiled regions.

A region is a function of tensors, models and components that is called again and again: one transition of the chains,
one update of the weights, one temperature of AIS. Every random draw in it takes a `Counter`.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from typing_extensions import override

from ebm_cli.rng import AnyKey, Counter, Device, Key, counters

Function = TypeVar("Function", bound=Callable[..., Any])
Scalars = TypeVar("Scalars", bound=tuple[Any, ...])


class Work(NamedTuple):
    """How much chains move, transitions times chains and transitions alone; and how often weights are updated."""

    moves: int
    transitions: int
    updates: int = 0


class Engine:
    """`compiled` sends regions through `torch.compile`, each shape once; otherwise they run as they are.

    At most `rows` chains are in flight at once, so that what they need beside their positions fits into memory.
    """

    def __init__(self, *, compiled: bool, rows: int = 2**62) -> None:
        self.compiled, self.rows = compiled, rows
        if compiled:
            _configure_compiler()
        self._regions: dict[Callable[..., Any], Callable[..., Any]] = {}

    def region(self, function: Function) -> Function:
        """The function itself, or its compiled form. Samplers and models of equal settings share one."""
        if not self.compiled:
            return function
        if function not in self._regions:
            self._regions[function] = torch.compile(function, fullgraph=True, dynamic=False)
        return self._regions[function]  # type: ignore[return-value]

    def repeated(self, function: Function) -> Function:
        """A region `f(fixed, state, *changing)` that is called thousands of times and changes nothing in place."""
        return self.region(function)

    def moving(self, transition: Callable[..., Any]) -> "Engine":
        """The engine for a loop over `transition`, its one region."""
        return self

    def slices(self, n: int, copies: int = 1) -> list[slice]:
        """n rows, each of so many copies, in as few equal parts as are allowed."""
        size = max(1, -(-n // -(-n // max(1, self.rows // copies)))) if n else 1
        return [slice(first, min(first + size, n)) for first in range(0, n, size)] or [slice(0, 0)]

    def uncompiled(self) -> "Engine":
        """For what cannot be compiled."""
        return Engine(compiled=False, rows=self.rows) if self.compiled else self

    def keys(self, keys: Sequence[Key], device: Device) -> Sequence[AnyKey]:
        """The keys in the form that regions draw from."""
        return [Counter(words) for words in counters(keys, device).unbind()] if self.compiled and keys else keys

    def scalars(self, values: Sequence[Scalars], device: Device) -> Sequence[Scalars]:
        """Equally many numbers each, in the form that regions take: tensors, so that others need no other code."""
        if not self.compiled:
            return values
        found = torch.tensor(values, dtype=torch.float64).to(device, non_blocking=True).flatten().unbind()
        kind, size = type(values[0]), len(values[0])
        return [kind(*found[first : first + size]) for first in range(0, len(found), size)]


def _configure_compiler() -> None:
    """Each shape of each part is code of its own, more than the compiler expects; earlier runs' code is forgotten."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # a CUDA toolkit without a CUDA device


class _Inline(Engine):
    """Within a region: draws are those of compiled code, and what is called is part of the region."""

    def __init__(self) -> None:
        super().__init__(compiled=False)
        self.compiled = True

    @override
    def region(self, function: Function) -> Function:
        return function


EAGER = Engine(compiled=False)
INLINE = _Inline()
