"""Markov kernels with one seam: `init` at positions x, `step`, and one loop that serves training, AIS and sampling."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from ebm_cli import terminal
from ebm_cli.device.engine import EAGER, Engine
from ebm_cli.model.base import Blocked, EnergyModel
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Space

Info = dict[str, Tensor]
"""What one transition says of itself, (chains,) each: e.g. `acceptance`."""


_REFRESH = 1000  # transitions after which caches that are sums of changes are made anew


class State(Protocol):
    """Chains in flight: positions (chains, *shape) and whatever a kernel caches beside them."""

    @property
    def x(self) -> Tensor:
        """Positions, (chains, *shape)."""
        ...


M = TypeVar("M", bound=EnergyModel)
S = TypeVar("S", bound=State)


class Sampler(ABC, Generic[M, S]):
    """A kernel: a frozen dataclass of step sizes and the like that keeps no state of its own.

    Caches of the model (energies, logits) are made by `init` and live for one `run`, so they never outlive a
    parameter update.
    """

    spaces: ClassVar[tuple[type[Space], ...]]
    needs: ClassVar[tuple[type[EnergyModel], ...]] = ()
    compiles: ClassVar[bool] = False
    """Whether `step` is made of tensor operations that `torch.compile` can trace."""
    takes_sparse: ClassVar[bool] = False
    """Whether `step` takes rows as sparse tensors of models that do, and asks for nothing but their sweeps."""

    @property
    def leaves_invariant(self) -> bool:
        """Whether p is invariant; without, chains only approximate the model and nothing may be proved by them."""
        return True

    @property
    def rejects(self) -> bool:
        """Whether a step may leave a chain where it is because its proposal was not accepted."""
        return False

    @property
    def draws_given(self) -> bool:
        """Whether it moves some sites given the others (`model/given.py`): any kernel that asks a model for no more
        than energies, gradients, sites and blocks."""
        return all(issubclass(Blocked, need) for need in self.needs)

    @property
    def replicas(self) -> int:
        """Configurations that make up one chain, the last of which is shown as its x."""
        return 1

    @property
    def moves_per_step(self) -> int:
        """Transitions of one configuration, by `inner`, that a step of a chain is made of."""
        return 1

    @property
    def beside(self) -> Sequence[EnergyModel]:
        """Other models than that of the chain whose energies a step asks for."""
        return ()

    @property
    def inner(self) -> "Sampler[Any, Any]":
        """The kernel of one configuration alone, which must fit the model: itself, unless a chain has replicas."""
        return self

    def weighing(self) -> "Sampler[Any, Any] | None":
        """A kernel of the same moves for chains with weights, which these moves keep right; None if there is none.

        Its Info may have `log_ratio`, log p(x') T(x | x') - log p(x) T(x' | x), (chains,), which log w goes up by;
        without, p is invariant and weights stay.
        """
        return self if self.leaves_invariant else None

    @property
    def chosen_as(self) -> str | None:
        """The name by which these keys are chosen, where it is not that of the component."""
        return None

    def remark(self) -> str | None:
        """A warning to print about samples of this sampler, or None."""
        return None

    def too_few(self, model: M, steps: int) -> str | None:
        """What is missing after so many steps of chains that begin anew, and how many are enough, or None."""
        return None

    def refusal(self, space: Space) -> str | None:
        """Which key does not suit a space of this size, in one sentence, or None."""
        return None

    @abstractmethod
    def init(self, model: M, x: Tensor) -> S:
        """The state at positions x (chains, *shape)."""

    @abstractmethod
    def step(self, model: M, state: S, key: AnyKey) -> tuple[S, Info]:
        """One transition of every chain."""

    def refreshed(self, model: M, state: S) -> S:
        """The state without the rounding that its caches have gathered: itself, where they are made anew each step."""
        return state

    def positions(self, state: S) -> Tensor:
        """All of a state that is not a cache, from which `init` makes it again: x, or (chains, replicas, *shape)."""
        return state.x

    def spread(self, x: Tensor, space: Space) -> Tensor:
        """x in the layout of this sampler: one copy for each replica.

        Replicas of another sampler are reduced to the visible one first.
        """
        return shown(x, space)

    def reversal(self) -> Self:
        """The time reversal T~(x | x') = T(x' | x) p(x) / p(x') of this kernel; a reversible kernel is its own."""
        return self


class Differentiable(Sampler[M, S]):
    """A kernel whose moves are a function of the parameters that has a gradient."""

    @abstractmethod
    def through(self, model: M, x: Tensor, keys: Sequence[AnyKey], taken: int) -> Tensor:
        """Ends of one transition from x (chains, *shape) for each key, after `taken` ones, with the graph of them."""


def shown(x: Tensor, space: Space) -> Tensor:
    """x (chains, *shape), of (chains, replicas, *shape) the last replicas."""
    return x if x.dim() == 1 + len(space.shape) else x[:, -1]


def engine_for(sampler: Sampler[Any, Any], model: EnergyModel, engine: Engine) -> Engine:
    """The given one if both can be compiled, otherwise one that does not."""
    return engine if sampler.compiles and model.compiles else engine.uncompiled()


@torch.no_grad()
def transitions(
    sampler: Sampler[Any, Any],
    model: EnergyModel,
    x: Tensor,
    keys: Sequence[AnyKey],
    engine: Engine = EAGER,
    *,
    told: str = "",
) -> tuple[Tensor, Info]:
    """One transition from x for each key: end positions, of replicas too, and each piece of Info averaged over them.

    As many chains at once as the engine allows, each drawing what it would among all of them. Where `told` has words
    for them, how many are done is said now and then.
    """
    parts = engine.slices(len(x), sampler.replicas)
    if len(parts) == 1:
        return _transitions(sampler, model, x, keys, engine, told)
    found = [
        _transitions(sampler, model.of_rows(p), x[p], [key.after(p.start) for key in keys], engine, told) for p in parts
    ]
    ends, infos = zip(*found, strict=True)
    return torch.cat(ends), {name: torch.cat([info[name] for info in infos]) for name in infos[0]}


def _transitions(
    sampler: Sampler[Any, Any], model: EnergyModel, x: Tensor, keys: Sequence[AnyKey], engine: Engine, told: str
) -> tuple[Tensor, Info]:
    """Compiled, each transition is one region, and nothing in the loop waits for the device."""
    step = engine.repeated(sampler.step)
    state = sampler.init(model, x)
    total: Info = {}
    for taken, key in enumerate(terminal.followed(keys, told) if told else keys):
        state = _refreshed(sampler, model, state, taken)
        state, info = step(model, state, key)
        total = {name: value + total.get(name, 0.0) for name, value in info.items()}
    return sampler.positions(state), {name: value / len(keys) for name, value in total.items()}


def _refreshed(sampler: Sampler[M, S], model: M, state: S, taken: int) -> S:
    """The state, now and then made anew."""
    return sampler.refreshed(model, state) if taken and taken % _REFRESH == 0 else state


def run(
    sampler: Sampler[Any, Any],
    model: EnergyModel,
    x: Tensor,
    steps: int,
    key: Key,
    engine: Engine = EAGER,
    *,
    told: str = "",
) -> tuple[Tensor, Info]:
    """`steps` transitions from x, the i-th with `key.fold(i)`: end positions (chains, *shape), and the mean Info."""
    engine = engine_for(sampler, model, engine)
    keys = engine.keys([key.fold(i) for i in range(steps)], x.device)
    end, info = transitions(sampler, model, x, keys, engine, told=told)
    return shown(end, model.space), info


@torch.no_grad()
def followed(
    sampler: Sampler[Any, Any],
    model: EnergyModel,
    x: Tensor,
    keys: Sequence[Key],
    looks: Sequence[int],
    engine: Engine = EAGER,
) -> Iterator[Tensor]:
    """Positions (chains, *shape) after each number of transitions in `looks`, which rise, one transition for each key.

    The state is kept from one to the next, so that a schedule and replicas of the sampler go on.
    """
    engine = engine_for(sampler, model, engine)
    step, state, moves = engine.repeated(sampler.step), sampler.init(model, x), engine.keys(keys, x.device)
    taken, told = 0, terminal.followed(moves, "chains: step")
    for due in looks:
        for number, key in enumerate(islice(told, due - taken), taken):
            state, _ = step(model, _refreshed(sampler, model, state, number), key)
        taken = due
        yield shown(sampler.positions(state), model.space).clone()
