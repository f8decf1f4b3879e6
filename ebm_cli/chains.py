"""Where the negative chains of a training step start, and where each is kept for another one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.registry import Later, register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Space

Start = Literal["data", "noise"]
Count = Annotated[int, Field(ge=1)]
_OTHERS = 1000  # as many as Du et al. (2021) compare with


@dataclass(frozen=True, kw_only=True)
class Chains(ABC):
    """A start policy, and `steps` transitions per training step, rising to `final_steps` where there is such.

    The store, (slots, *shape) or with the replicas of each chain (slots, replicas, *shape), and how many transitions
    ago each slot's chain began, (slots,), are all that outlives a training step; they are part of the checkpoint.
    """

    steps: Count
    final_steps: Count | None
    stored: ClassVar[bool] = False
    takes_sparse: ClassVar[bool] = False  # whether rows of the batch are taken as they are, sparse ones too
    in_order: ClassVar[bool] = False  # whether all move at each step, so that slot i is that of the i-th chain
    roams: ClassVar[bool] = False  # whether a slot may be moved by one rank at one step and by another at the next

    def transitions(self, step: int, of: int) -> int:
        """Number of transitions at training step `step` (from 0) of a run of `of` steps.

        It goes from `steps` to `final_steps` in stretches of equal length.
        """
        rise = self._last - self.steps
        taken = min((abs(rise) + 1) * step // max(1, of), abs(rise))
        return self.steps + (taken if rise > 0 else -taken)

    def work(self, of: int) -> int:
        """Total number of transitions in a run of `of` training steps, approximately."""
        return of * (self.steps + self._last) // 2

    @property
    def _last(self) -> int:
        return self.steps if self.final_steps is None else self.final_steps

    def init(self, space: Space, data: Tensor, key: Key) -> Tensor:
        """The store before the first step; `data` are training rows, as many as there are slots."""
        return torch.empty(0, *space.shape, device=data.device)

    @property
    def slots(self) -> int:
        """Rows of the store."""
        return 0

    @property
    def rungs_at_most(self) -> int:
        """Earlier models that are kept beside, with as many chains each."""
        return 0

    @property
    def kept_beside(self) -> int:
        """Configurations that are kept for chains to exchange with, beside those of earlier models."""
        return 0

    @property
    def drawn_below(self) -> float | None:
        """The effective share of the chains below which they are drawn by their weights; None: they have none."""
        return None

    def refusal(self) -> str | None:
        """Keys that exclude each other, in one sentence, or None."""
        return None

    def choose(self, batch_size: int, key: Key) -> Tensor:
        """Slots of the chains of one training step, (chains,) int64 on the CPU; none if they have none."""
        return torch.empty(0, dtype=torch.long)

    def targets(self, slots: Tensor, step: int) -> Tensor:
        """Where chains drawn from these slots are put at the end of training step number `step` (from 0)."""
        return slots

    def others(self, batch_size: int, key: Key) -> Tensor:
        """Slots of chains that the same key does not `choose`: samples of the past, perhaps none."""
        return torch.empty(0, dtype=torch.long)

    def fresh(self, chains: int, step: float | Tensor, key: AnyKey, device: torch.device) -> Tensor:
        """Which chains start afresh at this training step, (chains,) bool."""
        return torch.ones(chains, dtype=torch.bool, device=device)

    @abstractmethod
    def draw(self, kept: Tensor, fresh: Tensor, batch: Tensor, space: Space, key: AnyKey) -> Tensor:
        """Start positions of chains: where they stopped, `kept` (chains, *shape) or with replicas, or afresh."""


def put(store: Tensor, slots: Tensor | slice, x: Tensor) -> None:
    """Write every chain into its slot (in place)."""
    if isinstance(slots, slice) or len(slots):
        store[slots] = x


@cache
def _all(count: int) -> Tensor:
    """Slots 0, 1, ..., which nobody changes."""
    return torch.arange(count)


def _fresh(start: Start, n: int, data: Tensor, space: Space, key: AnyKey) -> Tensor:
    """n new positions: noise, or rows of `data` (taken in order, repeated if they are too few)."""
    if start == "noise":
        return space.noise(n, key, data.device)
    return data[torch.arange(n, device=data.device) % len(data)].clone()


def _renewed(start: Start, kept: Tensor, fresh: Tensor, batch: Tensor, space: Space, key: AnyKey) -> Tensor:
    """The positions `kept`, of chains or of all their replicas, but those of `fresh` chains new."""
    new = _fresh(start, len(kept), batch, space, key)
    new = new.reshape(len(new), *[1] * (kept.dim() - new.dim()), *space.shape)
    return torch.where(fresh.reshape(-1, *[1] * (kept.dim() - 1)), new, kept)


@register("chains", "data")
class FromData(Chains):
    """Every chain starts at a row of the batch, every time: contrastive divergence, CD-k (Hinton 2002)."""

    takes_sparse = True

    @override
    def draw(self, kept: Tensor, fresh: Tensor, batch: Tensor, space: Space, key: AnyKey) -> Tensor:
        return batch


@register("chains", "noise")
class FromNoise(Chains):
    """Every chain starts from noise, every time: short-run MCMC (Nijkamp et al. 2019)."""

    @override
    def draw(self, kept: Tensor, fresh: Tensor, batch: Tensor, space: Space, key: AnyKey) -> Tensor:
        """As many chains as the batch has rows."""
        return space.noise(len(batch), key, batch.device)


@dataclass(frozen=True, kw_only=True)
class _GoingOn(Chains):
    """`count` chains, all of which move at each training step and begin as noise or at rows of the data."""

    count: Count
    start: Start

    stored = in_order = True

    @override
    def init(self, space: Space, data: Tensor, key: Key) -> Tensor:
        return _fresh(self.start, self.count, data, space, key)

    @property
    @override
    def slots(self) -> int:
        return self.count

    @override
    def choose(self, batch_size: int, key: Key) -> Tensor:
        return _all(self.count)

    @override
    def fresh(self, chains: int, step: float | Tensor, key: AnyKey, device: torch.device) -> Tensor:
        """None."""
        return torch.zeros(chains, dtype=torch.bool, device=device)

    @override
    def draw(self, kept: Tensor, fresh: Tensor, batch: Tensor, space: Space, key: AnyKey) -> Tensor:
        return kept


@register("chains", "persistent")
class Persistent(_GoingOn):
    """`count` chains that go on where they stopped (Tieleman 2008): persistent CD, stochastic maximum likelihood.

    With `reset` n > 0 all of them start again, as they began, after every n training steps.

    With `weighted` chain i has a weight w_i, and the mean over the model is sum_i w_i f(x_i) / sum_i w_i. The chains
    begin as independent units with the means of the data, annealed to the model as it begins. After each change of the
    model log w_i += E_before(x_i) - E_after(x_i), and where the effective share of the chains (sum w)^2 / (n sum w^2)
    falls below `resample`, they are drawn again in proportion to w. So they stand for the model as it is, also where
    none can move from one mode to another (Carbone et al. 2023, alg. 1). They are the negatives before they move, for
    they must forget an update until they are weighed by it.
    """

    reset: Annotated[int, Field(ge=0)]
    weighted: Annotated[bool, Later(value=False)]
    resample: Annotated[float, Field(gt=0, lt=1), Later(0.5)]

    @property
    @override
    def drawn_below(self) -> float | None:
        return self.resample if self.weighted else None

    @override
    def refusal(self) -> str | None:
        """Chains with weights begin where their weights are known, and go on."""
        if not self.weighted:
            return None
        if self.start == "data":
            return "chains.start = data: weighted chains begin as independent units annealed to the model; leave it out"
        if self.reset:
            return f"chains.reset = {self.reset}: weighted chains do not start again; set it to 0"
        return None

    @override
    def fresh(self, chains: int, step: float | Tensor, key: AnyKey, device: torch.device) -> Tensor:
        """All at steps reset, 2 reset, ...; otherwise none."""
        if not self.reset:
            return super().fresh(chains, step, key, device)
        number = torch.as_tensor(step, device=device)
        return ((number > 0) & (number % self.reset == 0)).expand(chains)

    @override
    def draw(self, kept: Tensor, fresh: Tensor, batch: Tensor, space: Space, key: AnyKey) -> Tensor:
        return _renewed(self.start, kept, fresh, batch, space, key.fold("noise")) if self.reset else kept


@register("chains", "trajectory")
class AlongTrajectory(_GoingOn):
    """`count` chains that go on where they stopped, and exchange with others at earlier models of the same run.

    The earlier models are rungs, whose parameters stay, each with `count` chains of its own, from independent units
    with the means of the data on, which are drawn afresh (`sampler.rungs.Rungs`, Bereux et al. 2025). A round of
    `steps` transitions and of exchanges follows each training step. The model becomes a rung once less than the share
    `acceptance` of exchanges between it and the newest rung would be taken; there are at most `rungs`.

    With a `reservoir` of m > 0 rungs move only when one is added: `refill` rounds or more, until replicas have
    forgotten at which rung they were, ten autocorrelation times of it. Then m * `count` draws of the newest one are
    kept, two of these times apart. After each training step every chain may be exchanged with one of the draws.

    With `least` > 0 an update is taken back, with an optimizer that remembers nothing and half the rate, where chains
    with weights exp(E_before - E_after) have an effective share below `least`, or where less than that share of
    exchanges with the newest rung would be taken, or, right after a rung was added, less than `acceptance`. Each rung
    that is added later doubles the rate again, up to what it was.
    """

    acceptance: Annotated[float, Field(gt=0, lt=1)]
    rungs: Count
    reservoir: Annotated[int, Field(ge=0), Later(0)]
    refill: Annotated[int, Field(ge=2), Later(100)]
    least: Annotated[float, Field(ge=0, lt=1), Later(0.0)]

    @override
    def refusal(self) -> str | None:
        """An update is not to be taken back where a rung is to be added."""
        if self.least < self.acceptance:
            return None
        return f"chains.least = {self.least:g}: must be below chains.acceptance = {self.acceptance:g}"

    @property
    @override
    def rungs_at_most(self) -> int:
        return self.rungs

    @property
    @override
    def kept_beside(self) -> int:
        return self.reservoir * self.count


@register("chains", "replay")
class Replay(Chains):
    """A reservoir of `size` chains (Du & Mordatch 2019): a batch of them moves on, a share of these starts afresh.

    `start` data or noise says where the reservoir begins and where fresh chains start; with data it is the "true CD"
    experiment on the method of Du et al. 2021. `write` in_place: a chain is put back where it was drawn, a fresh one in
    place of another. oldest: it takes the place of whatever was written longest ago, and where it was drawn from stays.
    """

    size: Count
    restart: Annotated[float, Field(ge=0, le=1)]
    start: Start
    write: Literal["in_place", "oldest"]

    stored = True
    roams = True

    @override
    def init(self, space: Space, data: Tensor, key: Key) -> Tensor:
        return _fresh(self.start, self.size, data, space, key)

    @property
    @override
    def slots(self) -> int:
        """One for each chain of the reservoir."""
        return self.size

    @override
    def choose(self, batch_size: int, key: Key) -> Tensor:
        """As many distinct slots as the batch has rows (all, if it has more)."""
        return self._order(key)[:batch_size]

    @override
    def others(self, batch_size: int, key: Key) -> Tensor:
        """Up to 1000."""
        return self._order(key)[batch_size : batch_size + _OTHERS]

    def _order(self, key: Key) -> Tensor:
        return rng.permutation(self.size, key.fold("slots"))

    @override
    def targets(self, slots: Tensor, step: int) -> Tensor:
        """Their own, or those of a ring that every step goes further along."""
        if self.write == "in_place":
            return slots
        return (step * len(slots) + torch.arange(len(slots))) % self.size

    @override
    def fresh(self, chains: int, step: float | Tensor, key: AnyKey, device: torch.device) -> Tensor:
        """Each with p = `restart`."""
        return rng.uniform((chains,), key.fold("restart"), device) < self.restart

    @override
    def draw(self, kept: Tensor, fresh: Tensor, batch: Tensor, space: Space, key: AnyKey) -> Tensor:
        """Where they stopped, or afresh."""
        return _renewed(self.start, kept, fresh, batch, space, key.fold("noise"))
