"""Runs of one shape that go in step: where each of them calls a library, one call does it for all.

Every run has a greenlet of its own and knows nothing of the others. What it gives to a library waits until no run can
go on without an answer. Calls of one kind are then made as one, on tensors that have the runs as their first dimension.
"""

from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor

from ebm_cli.device import memory
from ebm_cli.signals import StopRequest, asked_by

R = TypeVar("R")
Restore = Callable[[], object]
_COPIES = 16  # of each number of a run in flight: it, logits, random words, thresholds, gradients
_SHARE = 0.5  # of the memory that is left goes to runs in flight
_LEAST = 2  # runs of a stack: of one alone the compiler makes other code, with other roundings


class Made(Protocol):
    """A library: results for tensors, some of which it may change in place. Facts on them are known after a call."""

    @property
    def facts(self) -> Any:
        """What was said of the results."""
        ...

    def call(self, changing: Sequence[Tensor], lasting: Sequence[Tensor]) -> list[Tensor]:
        """The results."""
        ...


class Kind(NamedTuple):
    """Which library is called; calls of equal names can be made as one."""

    name: str
    changes: bool  # what lasts is changed in place, and is of this run alone
    stacked: Callable[[Sequence[int | None], Sequence[Tensor], Sequence[Tensor]], Made]
    """The library for all runs: by the dimension along which they lie in each tensor, None where they share it."""


class Lane:
    """One run among others."""

    def __init__(self, stack: "Stack[Any]", work: Callable[[], Any]) -> None:
        self.stack, self.stop = stack, StopRequest()
        self.told = 0  # of so many requests to stop
        self.shared = stack.shared
        self.greenlet = greenlet(lambda _: self._do(work))
        self.restore: Restore = stack.keep()
        self.waits: tuple[Kind, Sequence[Tensor], Sequence[Tensor]] | None = None
        self.group: dict[str, _Group] = {}

    def _do(self, work: Callable[[], Any]) -> Any:
        _lane.set(self)
        asked_by(self.stop)
        return work()

    def wait(self, kind: Kind, changing: Sequence[Tensor], lasting: Sequence[Tensor]) -> list[Tensor]:
        """The results of a call that others may take part in."""
        self.waits = kind, changing, lasting
        found: list[Tensor] = self.stack.hub.switch()
        return found


_lane: ContextVar[Lane | None] = ContextVar("lane", default=None)


def current() -> Lane | None:
    """The run that goes on at the moment, if it is one of a stack."""
    return _lane.get()


def common(name: str, make: Callable[[], R]) -> R:
    """What runs of one stack share, made by the first of them; otherwise it is made for each."""
    lane = _lane.get()
    if lane is None:
        return make()
    if name not in lane.shared:
        lane.shared[name] = make()
    found: R = lane.shared[name]
    return found


class Member:
    """A library as one run of a stack sees it."""

    def __init__(self, lane: Lane, kind: Kind) -> None:
        self.lane, self.kind = lane, kind

    @property
    def facts(self) -> Any:
        """Those of the library of all."""
        return self.lane.group[self.kind.name].library.facts

    def call(self, changing: Sequence[Tensor], lasting: Sequence[Tensor]) -> list[Tensor]:
        """The results, once all have come that take part."""
        return self.lane.wait(self.kind, changing, lasting)


class _Group:
    """Runs that call one library together, each with a slot of its own, also those that have not come yet."""

    library: Made

    def __init__(self, kind: Kind, lanes: Sequence[Lane]) -> None:
        self.kind, self.slots = kind, {lane: slot for slot, lane in enumerate(lanes)}
        self.count = max(_LEAST, len(lanes))
        self.given: list[Sequence[Tensor]] = []
        self.seen: list[Sequence[Tensor]] = []  # what lasts
        self.own: set[int] = set()  # slots whose runs have come; in the others lies what another gave
        self.dims: list[int | None] | None = None
        self.lasting: list[Tensor] = []
        self.results: list[tuple[Tensor, Sequence[Tensor]]] = []
        self.origin: dict[int, int] = {}  # of the results of slot 0, by their id

    def called(self, lanes: Sequence[Lane], alive: Iterable[Lane]) -> list[list[Tensor]]:
        """The results of each of these, which wait; others that are alive stay as they are."""
        new = [place for lane in lanes for place in self._taken(lane)]
        changing = [self._together(at) for at in range(len(self.given[0]))]
        if new:
            self._settle(new, changing)
        absent = [self.slots[lane] for lane in alive if lane in self.slots and lane not in lanes]
        kept = self._kept(absent) if self.kind.changes else []
        found = self.library.call(changing, self.lasting)
        for whole, slot, before in kept:
            whole[slot].copy_(before)
        self.results = [(whole, whole.unbind()) for whole in found]
        self.origin = {id(rows[0]): at for at, (_, rows) in enumerate(self.results)}
        return [[rows[self.slots[lane]] for _, rows in self.results] for lane in lanes]

    def _taken(self, lane: Lane) -> list[int]:
        """The slots in which what lasts is another than before."""
        assert lane.waits is not None
        _, changing, lasting = lane.waits
        slot = self.slots[lane]
        if not self.given:
            self.given, self.seen = [changing] * self.count, [lasting] * self.count
        new = lasting is not self.seen[slot] or slot not in self.own or self._elsewhere(slot)
        self.given[slot], self.seen[slot] = changing, lasting
        self.own.add(slot)
        return [slot] if new else []

    def _elsewhere(self, slot: int) -> bool:
        """Whether calls of another kind took what lasts of this run, and changes, into their own room."""
        if self.kind.changes:
            for whole, dim, own in zip(self.lasting, self.dims or (), self.seen[slot], strict=True):
                if dim is not None and own.numel():
                    return own.data_ptr() != whole[slot].data_ptr()
        return False

    def _settle(self, places: Sequence[int], changing: Sequence[Tensor]) -> None:
        """What lasts of these lies with that of all; where it is changed, it is there from now on."""
        dims = self._shared()
        if dims != self.dims:
            self.dims, places = dims, range(self.count)
            self.lasting = [self._room(at, dim) for at, dim in enumerate(dims)]
            self.library = self.kind.stacked([*[0] * len(changing), *dims], changing, self.lasting)
        for place in places:
            for whole, dim, own in zip(self.lasting, dims, self.seen[place], strict=True):
                if dim is not None:
                    whole[place].copy_(own.detach())
                    if self.kind.changes and place in self.own:
                        own.data = whole[place]

    def _room(self, at: int, dim: int | None) -> Tensor:
        own = self.seen[0][at].detach()
        return own if dim is None else torch.empty((self.count, *own.shape), dtype=own.dtype)

    def _shared(self) -> list[int | None]:
        """The dimension along which runs lie; None for what is one and the same for all."""
        runs = [self.seen[slot] for slot in sorted(self.own)]
        return [
            None if len(runs) > 1 and all(own is each[0] for own in each) else 0 for each in zip(*runs, strict=True)
        ]

    def _together(self, at: int) -> Tensor:
        """One of the tensors that change, of all runs; results of the last call lie together already."""
        rows = [given[at] for given in self.given]
        place = self.origin.get(id(rows[0]))
        if place is not None:
            whole, before = self.results[place]
            if all(row is old for row, old in zip(rows, before, strict=True)):
                return whole
        return torch.stack(rows)

    def _kept(self, slots: Sequence[int]) -> list[tuple[Tensor, int, Tensor]]:
        whole = [each for each, dim in zip(self.lasting, self.dims or (), strict=True) if dim is not None]
        return [(each, slot, each[slot].clone()) for slot in slots for each in whole]


class Stack(Generic[R]):
    """Does several pieces of work in step, on so many threads.

    At most `most` go on at a time (None: as many as memory has room for; of it this is one of `beside` equal users).
    `keep` gives what puts the state of the process back that each of them has for itself; it is asked again and again.
    """

    def __init__(
        self, threads: int, most: int | None, stop: StopRequest, keep: Callable[[], Restore], beside: int = 1
    ) -> None:
        self.threads, self.most, self.stop, self._outside, self.beside = threads, most, stop, keep, beside
        self.hub = getcurrent()
        self.shared: dict[str, Any] = {}
        self.alive: list[Lane] = []
        self.done: dict[Lane, R] = {}
        self.order: list[str] = []  # of kinds of calls, by their names

    def keep(self) -> Restore:
        """What puts back the state that each run has for itself."""
        outside, grad, threads = self._outside(), torch.is_grad_enabled(), torch.get_num_threads()

        def restore() -> None:
            outside()
            torch.set_grad_enabled(grad)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)

        return restore

    def run(self, works: Sequence[Callable[[], R]]) -> list[R]:
        """What each of them returns. An error of one is raised at once."""
        before, self.stop.of_one = self.stop.of_one, self._heard
        try:
            return self._run([Lane(self, work) for work in works])
        finally:
            self.stop.of_one = before

    def _run(self, lanes: Sequence[Lane]) -> list[R]:
        first = lanes[: _LEAST if self.most is None else min(_LEAST, self.most)]
        self._let_go((lane, None) for lane in first)
        size = self._at_a_time(len(lanes))
        self._let_go((lane, None) for lane in lanes[len(first) : size])
        self._finish()
        for begin in range(size, len(lanes), size):
            self._let_go((lane, None) for lane in lanes[begin : begin + size])
            self._finish()
        return [self.done[lane] for lane in lanes]

    def _at_a_time(self, count: int) -> int:
        """How many of so many go on together, in equal parts; known once the first wait."""
        most = self._fitting() if self.most is None else self.most
        return -(-count // -(-count // max(_LEAST if self.most is None else 1, most)))

    def _fitting(self) -> int:
        """As many as there is room for, by what a call of one changes and by what the first two do not share."""
        given = [[*lane.waits[1], *lane.waits[2]] for lane in self.alive if lane.waits]
        if len(given) < _LEAST:
            return 2**30
        own = [one for one, other in zip(*given[:2], strict=False) if one is not other]
        each = sum(tensor.nbytes for tensor in own)
        return int(memory.room() * _SHARE / self.beside / max(1, _COPIES * each))

    def _heard(self, number: int) -> bool:
        """Of a request to stop, whether it interrupts the run that goes on at the moment."""
        lane = current()
        return lane is not None and self._told(lane, number)

    def _told(self, lane: Lane, number: int) -> bool:
        lane.told = self.stop.times
        return lane.stop.reached(number)

    def _let_go(self, answers: Iterable[tuple[Lane, Any]]) -> None:
        """Let runs go on with these answers until each waits or ends."""
        for lane, answer in answers:
            if self.stop.signal is not None and not lane.greenlet:
                lane.stop.ask(self.stop.signal)  # it has not begun, and sees so before it does
                lane.told = self.stop.times
            found = self._go_on(lane, answer)
            if lane.greenlet.dead:
                self.done[lane] = found
            elif lane not in self.alive:
                self.alive.append(lane)
        self.alive = [lane for lane in self.alive if not lane.greenlet.dead]

    def _finish(self) -> None:
        while self.alive:
            self._let_go(self._answers())

    def _go_on(self, lane: Lane, answer: Any) -> Any:
        """Let one run go on until it waits or ends."""
        outside = self.keep()
        lane.restore()
        try:
            if isinstance(answer, BaseException):
                return lane.greenlet.throw(answer)
            return lane.greenlet.switch(answer)
        finally:
            lane.restore = self.keep()
            outside()

    def _answers(self) -> list[tuple[Lane, Any]]:
        """For runs that wait what they wait for; or for those that a stop was asked for that this is so.

        What was called for the first time before other kinds comes first, so that runs that are behind catch up.
        """
        asked = self.stop.signal
        if asked is not None:
            behind = [lane for lane in self.alive if lane.told < self.stop.times]
            interrupted = [lane for lane in behind if self._told(lane, asked)]
            if interrupted:
                return [(lane, KeyboardInterrupt()) for lane in interrupted]
        groups: dict[_Group, list[Lane]] = {}
        for lane in self.alive:
            groups.setdefault(self._group(lane), []).append(lane)
        group = min(groups, key=lambda each: (self.order.index(each.kind.name), -len(groups[each])))
        if asked is not None and group.dims is None:  # nobody waits for the compiler who was asked to stop
            return self._interrupted(groups[group])
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            answers: Sequence[Any] = group.called(groups[group], self.alive)
        except (RuntimeError, MemoryError, OSError, KeyboardInterrupt) as error:
            if self.stop.broke(error):  # a library was being compiled
                return self._interrupted(groups[group])
            answers = [error] * len(groups[group])  # of memory, or of the compiler: each says so of itself
        finally:
            torch.set_num_threads(before)
        return [*zip(groups[group], answers, strict=True)]

    def _interrupted(self, lanes: Iterable[Lane]) -> list[tuple[Lane, Any]]:
        """These end at once."""
        assert self.stop.signal is not None
        for lane in lanes:
            if lane.told < self.stop.times:
                self._told(lane, self.stop.signal)
        return [(lane, lane.stop.interrupted()) for lane in lanes]

    def _group(self, lane: Lane) -> _Group:
        """That of a run which waits. Where a kind is new, runs that went with one of these so far will follow."""
        assert lane.waits is not None
        kind = lane.waits[0]
        if kind.name not in self.order:
            self.order.append(kind.name)
        if kind.name not in lane.group:
            new = [each for each in self.alive if kind.name not in each.group]
            with_it = set(lane.group.values())
            lanes = [
                each
                for each in new
                if (each.waits and each.waits[0].name == kind.name) or with_it & set(each.group.values())
            ]
            joined = _Group(kind, lanes)
            for each in lanes:
                each.group[kind.name] = joined
        return lane.group[kind.name]
