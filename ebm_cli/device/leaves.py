"""The tensors within parts of a run, in a fixed order, and the same parts with other tensors in their places."""

import copy
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_PLAIN = (str, bytes, bool, int, float, complex, slice, type(None), torch.dtype, torch.Size, torch.device)
_OWN = __name__.partition(".")[0]


class Leaves:
    """The tensors within `parts`, each once, in the order in which they are met.

    Looked into are lists, tuples, mappings, dataclasses, modules and other objects with attributes. What else is met,
    such as functions and classes, is kept as it is.
    """

    def __init__(self, parts: Any) -> None:
        self.parts = parts
        self.tensors: list[Tensor] = []
        self.foreign: set[str] = set()
        """Modules outside this package and torch whose objects or functions were met."""
        self._places: dict[int, int] = {}
        self._text = hashlib.sha256()
        self._meet(parts)

    def description(self) -> str:
        """A hash of all but the numbers in the tensors: classes, names, settings, shapes, types, strides, and sharing.

        Parts of equal descriptions differ in the numbers in their tensors alone.
        """
        return self._text.hexdigest()

    def replaced(self, tensors: Sequence[Tensor]) -> Any:
        """`parts` with these in the places of `tensors`; what holds none is shared with them."""
        return _replaced(self.parts, {id(old): new for old, new in zip(self.tensors, tensors, strict=True)})

    def _meet(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self._say(value)
        elif id(value) in self._places:
            self._say("again", self._places[id(value)])
        else:
            self._places[id(value)] = len(self._places)
            if isinstance(value, Tensor):
                self._say("tensor", value.dtype, tuple(value.shape), value.stride(), value.device, value.requires_grad)
                self.tensors.append(value)
            else:
                self._look_into(value)

    def _look_into(self, value: Any) -> None:
        named = value if hasattr(value, "__qualname__") else type(value)
        self._say(named.__module__, named.__qualname__)
        classes = type(value).__mro__ if named is not value else (value,)
        self.foreign |= {c.__module__ for c in classes if c.__module__.partition(".")[0] not in _KNOWN}
        for name, inner in _inside(value):
            self._say(name)
            self._meet(inner)

    def _say(self, *words: object) -> None:
        self._text.update(repr(words).encode())


_KNOWN = {_OWN, "torch", "builtins", "collections", "typing", "abc", "functools"}


def _inside(value: Any) -> Iterator[tuple[Any, Any]]:
    """What an object consists of, by name."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    elif hasattr(value, "__dict__") and not hasattr(value, "__qualname__"):
        yield from sorted(vars(value).items())


def _replaced(value: Any, table: dict[int, Any]) -> Any:
    """The value with every object in the table, by its id, exchanged; the table learns of each copy that is made."""
    if id(value) in table:
        return table[id(value)]
    if isinstance(value, _PLAIN):
        return value
    inside = dict(_inside(value))
    changed = {name: new for name, old in inside.items() if (new := _replaced(old, table)) is not old}
    if changed:
        table[id(value)] = _with(value, {**inside, **changed}, changed)
    return table.get(id(value), value)


def _with(value: Any, every: Mapping[Any, Any], changed: Mapping[Any, Any]) -> Any:
    if isinstance(value, tuple):
        return value._make(every.values()) if hasattr(value, "_make") else tuple(every.values())
    new = copy.copy(value)
    for name, inner in changed.items():
        if isinstance(new, (Mapping, list)):
            new[name] = inner  # type: ignore[index]
        elif dataclasses.is_dataclass(new):
            object.__setattr__(new, name, inner)
        else:
            vars(new)[name] = inner
    return new
