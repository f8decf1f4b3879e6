"""Which keys of a component were read: those that were not cannot have had an effect."""

import copy
import dataclasses
from typing import Any, TypeVar

T = TypeVar("T")


def observed(component: T) -> tuple[T, set[str]]:
    """The same component, and the names of its keys that were not read of it yet, a set that shrinks as they are.

    It is of a subclass made for it, so that what its own methods read is seen too. None where it may have read them
    already, when it was made (`__post_init__`).
    """
    kind: Any = type(component)
    unread = set() if hasattr(kind, "__post_init__") else {field.name for field in dataclasses.fields(kind)}

    def noted(self: Any, name: str) -> Any:
        unread.discard(name)
        return object.__getattribute__(self, name)

    found = copy.copy(component)
    object.__setattr__(found, "__class__", type(kind)(kind.__name__, (kind,), {"__getattribute__": noted}))
    return found, unread
