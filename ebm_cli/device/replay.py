"""Regions that a GPU is asked for thousands of times: each becomes a CUDA graph, which one call of the driver replays.

A compiled transition of small chains is over sooner than the host has started its kernels.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli.device.engine import Engine, Function
from ebm_cli.device.loops import filled, flat

_REPAID = 20  # calls that are done one by one first: making a graph takes as long
_TRIED = 5  # calls of each kind by which it is seen which is faster


class Graphs(Engine):
    """What it repeats, `f(fixed, state, *changing)`, is compiled and then replayed.

    The tensors that `fixed` holds stay where they are; the numbers in them may change between calls. State, what
    changes and results are tensors, counters, and tuples and dictionaries of these.
    """

    def __init__(self, rows: int) -> None:
        super().__init__(compiled=True, rows=rows)
        self._repeated: dict[Callable[..., Any], Repeated] = {}

    @override
    def repeated(self, function: Function) -> Function:
        if function not in self._repeated:
            self._repeated[function] = Repeated(self.region(function))
        return cast(Function, self._repeated[function])


class Repeated:
    """One function as graphs, one for each form of what it is called with; of the newest `fixed` alone."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.fixed: Any = None
        self.calls: dict[Any, int] = {}
        self.graphs: dict[Any, Graph | None] = {}

    def __call__(self, fixed: Any, state: Any, *changing: Any) -> Any:
        """What the function returns."""
        if torch.cuda.is_current_stream_capturing():
            return self.function(fixed, state, *changing)
        if fixed is not self.fixed:
            self.fixed, self.calls, self.graphs = fixed, {}, {}
        given = [*flat((state, changing))]
        form = (_arithmetic(), *((tensor.shape, tensor.dtype) for tensor in given))
        self.calls[form] = self.calls.get(form, 0) + 1
        if self.calls[form] <= _REPAID:
            return self.function(fixed, state, *changing)
        if form not in self.graphs:
            self.graphs[form] = _proved(self.function, (fixed, state, *changing), given)
        graph = self.graphs[form]
        return graph.replay(given) if graph else self.function(fixed, state, *changing)


class Graph:
    """A captured call. It reads from tensors of its own; what it returns is the caller's."""

    def __init__(self, function: Callable[..., Any], parts: Sequence[Any], given: Sequence[Tensor]) -> None:
        self.own = [tensor.clone() for tensor in given]
        parts = (parts[0], *filled(tuple(parts[1:]), iter(self.own)))
        side, self.graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function(*parts)  # libraries allocate what they keep
            self.graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.result = function(*parts)
            finally:
                self.graph.capture_end()
        torch.cuda.current_stream().wait_stream(side)
        self.found = [*flat(self.result)]
        self.passed = _passed(self.own, self.found)

    def replay(self, given: Sequence[Tensor]) -> Any:
        """The results for these tensors."""
        copy_all(self.own, given)
        self.graph.replay()
        found = [
            tensor.clone() if at is None else given[at] for at, tensor in zip(self.passed, self.found, strict=True)
        ]
        return filled(self.result, iter(found))


def _passed(own: Sequence[Tensor], found: Sequence[Tensor]) -> list[int | None]:
    """For each result the number of the tensor that was given and comes out as it is."""
    places = {_place(tensor): at for at, tensor in enumerate(own)}
    return [places.get(_place(tensor)) if tensor.numel() else None for tensor in found]


def _place(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _arithmetic() -> tuple[bool, ...]:
    """What else decides which kernels run."""
    return torch.is_autocast_enabled("cuda"), torch.backends.cuda.matmul.allow_tf32, torch.is_grad_enabled()


def copy_all(own: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Write each given tensor into that of its own place, all of one type by one kernel."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in own):
        pairs = [(to, new) for to, new in zip(own, given, strict=True) if to.dtype == dtype]
        torch._foreach_copy_([to for to, _ in pairs], [new for _, new in pairs])


def _proved(function: Callable[..., Any], parts: Sequence[Any], given: Sequence[Tensor]) -> Graph | None:
    """A graph that gives what the function gives, to the bit, and sooner: large states take long to copy."""
    graph, expected = Graph(function, parts, given), [*flat(function(*parts))]
    alike = all(map(torch.equal, flat(graph.replay(given)), expected))
    return graph if alike and _seconds(lambda: graph.replay(given)) < _seconds(lambda: function(*parts)) else None


def _seconds(call: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(_TRIED):
        call()
    torch.cuda.synchronize()
    return time.perf_counter() - began
