"""What the next training steps draw and where, written down by the host before the device begins with them."""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ebm_cli.dataset.base import batch_index
from ebm_cli.optimizer import At
from ebm_cli.rng import AnyKey, Counter, Key, counters, streams
from ebm_cli.sampler.base import engine_for
from ebm_cli.training.state import Parts, TrainState

_AHEAD = 50  # steps that are planned at once
_KEYS = ("binarize", "chains", "objective", "sampler")
_Indices = tuple[Tensor, Tensor, Tensor, Tensor]  # rows, slots, targets, others
_NONE = torch.empty(0, dtype=torch.long)
_T = TypeVar("_T")


class Inputs(NamedTuple):
    """What one step draws and where: all that differs from step to step beside the state."""

    rows: Tensor  # of the training data, (batch,) int64
    slots: Tensor  # of the chain store, (chains of all ranks,) int64, perhaps none
    targets: Tensor  # slots that these chains are put into
    others: Tensor  # slots of other chains to compare them with, perhaps none
    own: slice  # which of these chains are this rank's
    first: int  # number of this rank's first row in the batch
    binarize: AnyKey
    chains: AnyKey
    sampler: Sequence[AnyKey]  # one for each transition
    objective: AnyKey
    at: At

    def tensors(self) -> list[Tensor]:
        """Those that differ from step to step, as a compiled region has them."""
        keys = [self.binarize, self.chains, *self.sampler, self.objective]
        words = [key.words for key in keys if isinstance(key, Counter)]
        return [*self[:4], *words, *(number for number in self.at if isinstance(number, Tensor))]

    def replaced(self, tensors: Sequence[Tensor]) -> "Inputs":
        """The same with other `tensors()`."""
        binarize, chains, *sampler, objective = (Counter(words) for words in tensors[4:-3])
        rows, slots, targets, others = tensors[:4]
        at = At(*tensors[-3:])
        return Inputs(rows, slots, targets, others, self.own, self.first, binarize, chains, sampler, objective, at)


class Packed(NamedTuple):
    """The same for a library, in few tensors: each of them costs every call of it a microsecond."""

    indices: _Indices
    words: Tensor  # of the keys, (3 + transitions, 5) int64: binarize, chains, objective, then one for each transition
    numbers: Tensor  # those of `At`, (3,) float64
    own: slice
    first: int
    in_order: bool  # slots are 0, 1, ... at each step, and there are no others

    def tensors(self) -> list[Tensor]:
        """Those that differ from step to step."""
        return [self.words, self.numbers, *self.indices[: 1 if self.in_order else 4]]

    def inputs(self, tensors: Sequence[Tensor]) -> Inputs:
        """As the step takes them, with other `tensors()`."""
        words, numbers, *indices = tensors
        if self.in_order:
            slots = torch.arange(len(self.indices[1]))
            indices += [slots, slots, slots[:0]]
        binarize, chains, objective, *moves = map(Counter, words.unbind())
        at = At(*numbers.unbind())
        rows, slots, targets, others = indices
        return Inputs(rows, slots, targets, others, self.own, self.first, binarize, chains, moves, objective, at)


class _Drawn(NamedTuple):
    """The inputs of an update as the host has them."""

    indices: _Indices
    own: slice
    first: int
    keys: tuple[Key, Key, Key]  # binarize, chains, objective
    moves: list[Key]
    at: At


def plan(parts: Parts, state: TrainState) -> Inputs:
    """Everything random or scheduled about the next update, as a function of (seed, step); of it this rank's rows."""
    return plans(parts, state, 1)[0]


def plans(parts: Parts, state: TrainState, count: int) -> list[Inputs]:
    """The same of so many next updates; what goes to the device goes there at once."""
    device, engine = parts.device.torch, parts.device.engine
    drawn = _drawn(parts, range(state.step, state.step + count))
    moving = engine_for(parts.components.sampler, state.model, engine)
    sampler = _cut(moving.keys([k for d in drawn for k in d.moves], device), [len(d.moves) for d in drawn])
    others = _cut(engine.keys([k for d in drawn for k in d.keys], device), [3] * count)
    at = engine.scalars([d.at for d in drawn], device)
    return list(map(_inputs, drawn, [device] * count, others, sampler, at))


def packs(parts: Parts, state: TrainState, count: int) -> list[Packed]:
    """The same for a library on the CPU."""
    drawn = _drawn(parts, range(state.step, state.step + count))
    words = counters([key for d in drawn for key in (*d.keys, *d.moves)]).split([3 + len(d.moves) for d in drawn])
    numbers = torch.tensor([d.at for d in drawn], dtype=torch.float64).unbind()
    in_order = parts.components.chains.in_order and not parts.components.objective.through
    return [Packed(d.indices, w, n, d.own, d.first, in_order) for d, w, n in zip(drawn, words, numbers, strict=True)]


class Planner(Generic[_T]):
    """Inputs planned some steps ahead, by `make`: what is the same for all of them is done once."""

    def __init__(self, parts: Parts, make: Callable[[Parts, TrainState, int], list[_T]]) -> None:
        self.parts, self.make = parts, make
        self.ahead: deque[_T] = deque()
        self.step = -1

    def __call__(self, parts: Parts, state: TrainState) -> _T:
        """The inputs of the next update."""
        if state.step != self.step or not self.ahead:
            self.ahead = deque(self.make(self.parts, state, _AHEAD))
        self.step = state.step + 1
        return self.ahead.popleft()


def _inputs(drawn: _Drawn, device: torch.device, keys: Sequence[AnyKey], moves: Sequence[AnyKey], at: At) -> Inputs:
    binarize, chains, objective = keys
    return Inputs(*_there(drawn.indices, device), drawn.own, drawn.first, binarize, chains, moves, objective, at)


def _there(tensors: _Indices, device: torch.device) -> _Indices:
    if device.type == "cpu":
        return tensors
    rows, slots, targets, others = (tensor.to(device, non_blocking=True) for tensor in tensors)
    return rows, slots, targets, others


def _cut(keys: Sequence[AnyKey], lengths: Sequence[int]) -> list[Sequence[AnyKey]]:
    """One after the other, pieces of these lengths."""
    ends = list(accumulate(lengths))
    return [keys[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _drawn(parts: Parts, steps: range) -> list[_Drawn]:
    """Those of these updates."""
    keys = zip(*(streams(parts.loop.seed, name, steps) for name in _KEYS), strict=True)
    return [_of_step(parts, step, *of_step) for step, of_step in zip(steps, keys, strict=True)]


def _of_step(parts: Parts, step: int, binarize: Key, chains: Key, objective: Key, sampler: Key) -> _Drawn:
    loop, components, ranks = parts.loop, parts.components, parts.device.ranks
    policy, update = components.chains, components.optimizer
    rows = batch_index(parts.data.train, step, loop.batch_size, loop.seed)
    slots = policy.choose(loop.batch_size, chains)
    others = policy.others(loop.batch_size, chains) if components.objective.through else _NONE
    mine, own = ranks.share(rows.numel()), ranks.share(slots.numel() or rows.numel())
    taken = policy.transitions(step, loop.steps) if components.objective.negatives else 0
    first = sampler.at_row(own.start)
    return _Drawn(
        (rows if ranks.count == 1 else rows[mine], slots, policy.targets(slots, step), others),
        own,
        mine.start,
        (binarize.at_row(mine.start), chains.at_row(own.start), objective),
        [first.fold(i) for i in range(taken)],
        At(step, update.rate(step, loop.steps), update.averaging(step, loop.steps)),
    )
