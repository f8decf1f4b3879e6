"""Loops that take one step thousands of times, each step one call of a library: of annealing, of chains."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli.device.ahead import Made, Wanted, library
from ebm_cli.device.engine import Engine, Function
from ebm_cli.device.leaves import Leaves
from ebm_cli.rng import Counter

_NOTHING: Sequence[Tensor] = ()  # lasts: all that such a step reads may be another at each call


class Loops(Engine):
    """Its regions are stages `f(fixed, state, *changing) -> state`; each becomes a library, traced once for all runs.

    What `fixed` holds is looked at once for each object. State and what changes are tensors, counters, and tuples of
    these. Draws are those of compiled code.
    """

    def __init__(self, rows: int, begins: Callable[[], None]) -> None:
        super().__init__(compiled=False, rows=rows)
        self.compiled, self.begins = True, begins

    @override
    def region(self, function: Function) -> Function:
        if function not in self._regions:
            self._regions[function] = Stage(function, self.begins)
        return cast(Function, self._regions[function])

    @override
    def moving(self, transition: Callable[..., Any]) -> Engine:
        return Moves(self.rows, transition, self.begins, alone=False)


class Stage:
    """One function as libraries, one for each form of what it is called with; `begins` is called before one is made."""

    def __init__(self, function: Any, begins: Callable[[], None]) -> None:
        self.function, self.begins = function, begins
        self.libraries: dict[Any, Made] = {}
        self.seen: tuple[Any, list[Tensor]] = (None, [])

    def __call__(self, fixed: Any, state: Any, *changing: Any) -> Any:
        """The next state."""
        if fixed is not self.seen[0]:
            self.seen, self.libraries = (fixed, Leaves(fixed).tensors), {}
        moving = [*flat((state, changing))]
        form = _form(moving)
        if form not in self.libraries:
            self.libraries[form] = self._library((fixed, state, changing), moving)
        return filled(state, iter(self.libraries[form].call(moving, self.seen[1])))

    def _library(self, parts: Any, moving: Sequence[Tensor]) -> Made:
        leaves = Leaves((self.function, parts))
        identity = None if leaves.foreign else leaves.description()
        function = _Called(self.function, parts)
        return library(Wanted(function, moving, self.seen[1], identity, changes=False, begins=self.begins))


class Moves(Engine):
    """Its one region is the transition `f(model, state, key) -> state, info` of a sampler; all else is called as it is.

    The model's tensors are read anew at each call, for training changes them. Draws are those of compiled code.
    `alone`: so many chains move that no call is shared with other runs.
    """

    def __init__(self, rows: int, transition: Callable[..., Any], begins: Callable[[], None], *, alone: bool) -> None:
        super().__init__(compiled=False, rows=rows)
        self.compiled, self.transition = True, transition
        self._moved = Transition(transition, begins, alone=alone)

    @override
    def region(self, function: Function) -> Function:
        return cast(Function, self._moved) if function == self.transition else function


class Transition:
    """One transition as libraries, one for each form of what it is called with."""

    def __init__(self, function: Any, begins: Callable[[], None], *, alone: bool) -> None:
        self.function, self.begins, self.alone = function, begins, alone
        self.libraries: dict[Any, Made] = {}
        self.seen: tuple[Any, list[Tensor]] = (None, [])

    def __call__(self, model: Any, state: Any, key: Counter) -> tuple[Any, dict[str, Tensor]]:
        """The next state, and what is said of the move."""
        if model is not self.seen[0]:
            self.seen, self.libraries = (model, [tensor.detach() for tensor in Leaves(model).tensors]), {}
        moving = [*self.seen[1], *flat((state, key))]
        form = _form(moving)
        if form not in self.libraries:
            self.libraries[form] = self._library((model, state, key), moving)
        made = self.libraries[form]
        found = iter(made.call(moving, _NOTHING))
        return filled(state, found), dict(zip(made.facts["names"], found, strict=True))

    def _library(self, parts: Any, moving: Sequence[Tensor]) -> Made:
        leaves = Leaves((self.function, parts))
        identity = None if leaves.foreign else leaves.description()
        function = _Moved(self.function, parts)
        return library(
            Wanted(function, moving, _NOTHING, identity, changes=False, begins=self.begins, alone=self.alone)
        )


class _Moved:
    """A transition as a function of tensors: those of the model, then those of state and key."""

    def __init__(self, function: Any, parts: tuple[Any, Any, Counter]) -> None:
        self.function = function
        self.model, self.state, self.key = parts
        self.leaves = Leaves(self.model)
        self.names: list[str] = []

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        count = len(self.leaves.tensors)
        state, key = filled((self.state, self.key), iter(tensors[count:]))
        after, info = self.function(self.leaves.replaced(tensors[:count]), state, key)
        assert _form([*flat(after)]) == _form([*flat(self.state)]), "the next state has the form of the last"
        self.names = [*info]
        return [*flat(after), *info.values()]

    def facts(self) -> Any:
        """Names of what is said of the move."""
        return {"names": self.names}


class _Called:
    """The stage as a function of tensors: those of state and of what changes, then those within what is fixed."""

    def __init__(self, function: Any, parts: tuple[Any, Any, tuple[Any, ...]]) -> None:
        self.function = function
        self.fixed, self.state, self.changing = parts
        self.leaves = Leaves(self.fixed)

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        count = len(tensors) - len(self.leaves.tensors)
        fixed = self.leaves.replaced(tensors[count:])
        state, changing = filled((self.state, self.changing), iter(tensors[:count]))
        return [*flat(self.function(fixed, state, *changing))]

    def facts(self) -> Any:
        """Nothing: the next state has the form of the last."""
        return {}


def _form(tensors: Sequence[Tensor]) -> tuple[torch.Size, ...]:
    return tuple(tensor.shape for tensor in tensors)


def flat(value: Any) -> Iterator[Tensor]:
    """The tensors in tuples, dictionaries and counters, in their order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Counter):
        yield value.words
    elif value is not None:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from flat(inner)


def filled(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same tuples, dictionaries and counters with these tensors in their places."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, Counter):
        return Counter(next(tensors), value.lane)
    if value is None:
        return None
    if isinstance(value, dict):
        return {name: filled(each, tensors) for name, each in value.items()}
    inner = [filled(each, tensors) for each in value]
    return value._make(inner) if hasattr(value, "_make") else tuple(inner)
