"""The parts of a training run, its state, and how both are put together."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ebm_cli import registry
from ebm_cli.chains import Chains
from ebm_cli.dataset import tables
from ebm_cli.dataset.base import Data, Dataset
from ebm_cli.dataset.moments import some_rows
from ebm_cli.device import memory
from ebm_cli.device.base import Device
from ebm_cli.device.engine import Work
from ebm_cli.device.stack import common
from ebm_cli.errors import UserError
from ebm_cli.evaluation.base import Subject
from ebm_cli.model.base import EnergyModel, ModelSpec, Quadratic
from ebm_cli.noise.base import NoiseSpec
from ebm_cli.objective.base import Auxiliary, Objective, updated
from ebm_cli.optimizer import Optimizer
from ebm_cli.record.run import LATER_GROUPS
from ebm_cli.rng import Key, permutation, stream
from ebm_cli.sampler.base import Sampler, shown
from ebm_cli.sparsity.base import Sparsity
from ebm_cli.sparsity.none import NoSparsity
from ebm_cli.terminal import log
from ebm_cli.training import checks, weighted
from ebm_cli.training.checks import Choice
from ebm_cli.training.weighted import Weighted

_RUNNING, _RUNGS, _TEMPERING, _WEIGHTED = "running.", "rungs.", "tempering.", "weighted"
CHANGED = "changed"
"""The step at which couplings last changed, in `TrainState.sparsity` beside their masks."""


@dataclass(frozen=True)
class Components:
    """Every part as configured: checked, but nothing read or allocated yet.

    `initial` are tensors that the model begins with, by name, in place of those that it draws.
    """

    dataset: Dataset
    model: ModelSpec
    sampler: Sampler[Any, Any]
    chains: Chains
    noise: NoiseSpec
    objective: Objective
    optimizer: Optimizer
    sparsity: Sparsity = field(default_factory=NoSparsity)
    initial: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Loop:
    """The numbers of the training loop."""

    steps: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Parts:
    """What never changes during a run."""

    loop: Loop
    device: Device
    data: Data
    components: Components


@dataclass(frozen=True)
class Best:
    """The step whose held-out metric was highest so far."""

    step: int
    value: float
    metric: str | None = None  # None: not recorded


@dataclass
class TrainState:
    """All that changes during a run; it is the checkpoint."""

    step: int
    model: EnergyModel
    optimizer: dict[str, Tensor]  # by slot and parameter
    average: dict[str, Tensor]  # of the parameters, by name; empty without averaging
    store: Tensor  # chains, (slots, *shape), or (slots, replicas, *shape)
    ages: Tensor  # transitions since each chain began, (slots,) int64
    best: Best | None = None  # on the held-out metric
    auxiliary: Auxiliary | None = None  # what the objective trains beside the model
    sparsity: dict[str, Tensor] = field(default_factory=dict)  # 1 for couplings that there are, by parameter; CHANGED
    running: dict[str, Tensor] = field(default_factory=dict)  # what follows the model keeps
    rungs: dict[str, Tensor] = field(default_factory=dict)  # earlier models and their chains, by number and name
    weighted: Weighted | None = None  # what chains with weights have
    tempering: dict[str, Tensor] = field(default_factory=dict)  # temperatures that were moved, and what moves them next

    @property
    def mask(self) -> dict[str, Tensor]:
        """What gradients of parameters are multiplied by."""
        return {name: mask for name, mask in self.sparsity.items() if name != CHANGED}

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the step, by unique names."""
        named = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        named |= {f"auxiliary.{name}": value for name, value in self._auxiliary().items()}
        named |= {f"average.{name}": value for name, value in self.average.items()}
        named |= {f"optimizer.{name}": value for name, value in self.optimizer.items()}
        named |= {f"sparsity.{name}": value for name, value in self.sparsity.items()}
        named |= {f"{_RUNNING}{name}": value for name, value in self.running.items()}
        named |= {f"{_RUNGS}{name}": value for name, value in self.rungs.items()}
        named |= {f"{_TEMPERING}{name}": value for name, value in self.tempering.items()}
        named |= {f"{_WEIGHTED}.{name}": value for name, value in self._weights().items()}
        return named | {"chains": self.store, "ages": self.ages}

    def _auxiliary(self) -> dict[str, Tensor]:
        return {} if self.auxiliary is None else self.auxiliary.state_dict()

    def _weights(self) -> dict[str, Tensor]:
        return {} if self.weighted is None else self.weighted._asdict()

    def load(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Take over the values of `tensors()`; raises ValueError naming the first one that does not belong here."""
        tensors = {name: value.to(self.store.device) for name, value in tensors.items()}
        self.step = step
        take_over("model", self.model.state_dict(), tensors)
        take_over("auxiliary", self._auxiliary(), tensors)
        take_over("average", self.average, tensors)
        take_over("optimizer", self.optimizer, tensors)
        take_over(_WEIGHTED, self._weights(), tensors)
        if self.sparsity:  # which matters in training alone
            take_over("sparsity", self.sparsity, tensors)
        if any(((mask != 0) & (mask != 1)).any() for mask in self.mask.values()):
            raise ValueError("sparsity has other numbers than 0 and 1")
        for name, own in (("chains", self.store), ("ages", self.ages)):
            _same_form(name, own, tensors.get(name))
        space = self.model.space
        if len(self.store) and not space.contains(tensors["chains"].reshape(-1, *space.shape)):
            raise ValueError(f"chains are not in the {space.name} space of the model")
        if (tensors["ages"] < 0).any():
            raise ValueError("ages has negative numbers")
        self.store, self.ages = tensors["chains"], tensors["ages"]
        self.running = {n.removeprefix(_RUNNING): value for n, value in tensors.items() if n.startswith(_RUNNING)}
        self.rungs = {n.removeprefix(_RUNGS): value for n, value in tensors.items() if n.startswith(_RUNGS)}
        self.tempering = {n.removeprefix(_TEMPERING): value for n, value in tensors.items() if n.startswith(_TEMPERING)}

    def load_model(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over model.NAME of `tensors` alone, without chains; raises ValueError as `load` does."""
        take_over("model", self.model.state_dict(), {n: value.to(self.store.device) for n, value in tensors.items()})
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters() if name in self.average}
        self.store, self.ages, self.weighted = self.store[:0], self.ages[:0], None

    def chains(self) -> Tensor:
        """Where the stored chains are, (slots, *shape); those with weights in proportion to these."""
        x = shown(self.store, self.model.space)
        return x if self.weighted is None else weighted.drawn(self.weighted.log_w, x)

    def averaged_model(self) -> EnergyModel:
        """The model to evaluate: its own weights, or their average where one is kept."""
        if not self.average:
            return self.model
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.average, strict=False)
        return model


def take_over(group: str, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy into `own` what `tensors` has as GROUP.NAME; raises ValueError naming the first one that does not belong."""
    saved = {name for name in tensors if name.startswith(f"{group}.")}
    for name in sorted(saved ^ {f"{group}.{key}" for key in own}):
        raise ValueError(f"{name} is in only one of the checkpoint and the configured run")
    for key, value in own.items():
        saved_value = tensors[f"{group}.{key}"]
        _same_form(f"{group}.{key}", value, saved_value)
        if not value.is_floating_point() and not torch.equal(value, saved_value):
            raise ValueError(f"{group}.{key} is another one now; a file that model.path names may have changed")
        value.copy_(saved_value)


def _same_form(name: str, own: Tensor, saved: Tensor | None) -> None:
    if saved is None:
        raise ValueError(f"{name} is missing")
    if own.shape != saved.shape or own.dtype != saved.dtype:
        here, there = (f"{tuple(t.shape)} {t.dtype}".replace("torch.", "") for t in (own, saved))
        raise ValueError(f"{name} is {there} in the checkpoint and {here} in the configured run")


def build_components(config: Mapping[str, Any], choice: Choice, *, trains: bool = True) -> Components:
    """Check every group's keys, then whether the parts fit each other, and unless a run that is there is only looked at
    whether one can be trained by them. Nothing is read. Raises UserError."""
    groups = ("dataset", "model", "sampler", "chains", "noise", "objective", "optimizer")
    built = {group: registry.build(group, config[group]) for group in groups}
    parts = Components(**built, sparsity=registry.build("sparsity", {**LATER_GROUPS, **config}["sparsity"]))
    if trains:
        checks.check_trains(parts.sampler)
    checks.check_space(parts.dataset, parts.model, choice)
    checks.check_sampler(parts.sampler, parts.model, choice)
    checks.check_objective(parts.objective, parts.model, choice)
    checks.check_noise(parts.objective, parts.noise, parts.model, choice)
    checks.check_sparsity(parts.sparsity, parts.model, parts.objective, parts.chains)
    if trains:
        _check_training(parts, choice)
    return parts


def _check_training(parts: Components, choice: Choice) -> None:
    """What training asks of its chains, of what moves them and of what updates the weights."""
    checks.check_through(parts.objective, parts.sampler, parts.chains, choice)
    checks.check_exchanges(parts.chains, parts.model, parts.sampler, parts.objective, choice)
    checks.check_retuning(parts.sampler, parts.objective, choice)
    checks.check_optimizer(parts.objective, parts.optimizer, choice)
    weighted.check(parts.chains, parts.model, parts.sampler, parts.objective, choice)


def load_data(components: Components, device: Device) -> Data:
    """Read the data. Raises UserError naming what is missing or malformed, or too large for the memory there is."""
    with memory.bounded(device.memory if device.torch.type == "cpu" else None), memory.watched(device.torch):
        read = partial(components.dataset.load, components.model.spaces)
        data = common(repr((components.dataset, components.model.spaces)), read)
    memory.tidy()
    checks.check_support(data, components.model)
    if components.model.support is not None:  # of models of counts and the like, which are densities of nothing else
        return data
    return replace(data, remarks=(*data.remarks, *tables.remarks(data, own_scale=components.model.builds.own_scale)))


def assemble(
    components: Components, loop: Loop, device: Device, data: Data, choice: Choice, *, trains: bool = True
) -> tuple[Parts, TrainState]:
    """The parts of a run, and its state before the first step, without what only training needs unless it `trains`.

    Raises UserError if they do not fit the data.
    """
    checks.check_loaded(data.space, components.model, choice)
    checks.check_missing(data, components.model, choice)
    checks.check_moves(components.sampler, data.space, components.model, choice)
    checks.check_data(components.objective, data.space, components.model, choice)
    if trains:
        checks.check_rows(components.objective, data)
    checks.check_noise_data(components.objective, components.noise, data.space, choice)
    memory.check(_needed(components, loop, data), _left(device, data), _ways(components))
    data = data.to(device.torch)
    state = new_state(components, loop, data, choice, trains=trains)
    memory.tidy()
    return Parts(loop, device, data, components), state


def _needed(components: Components, loop: Loop, data: Data) -> dict[str, int]:
    """Bytes a run takes in any case, by what they are for; chains in flight are fitted into the rest."""
    update, sites = components.optimizer, data.space.sites
    copies = (
        4 + len(update.moments()) + (update.ema > 0)
    )  # itself, gradient and two terms of it, what the optimizer keeps
    rung = 4 * components.chains.slots * sites  # its chains, thrice while they exchange, and numbers by which they do
    found = {
        "data": data.bytes,
        "weights": 4 * copies * components.model.parameters(data.space),
        "couplings": components.model.beside(data.space),
        "chains": 2 * 4 * components.chains.slots * components.sampler.replicas * sites,
        "batch": 2 * 4 * loop.batch_size * sites,
        "rungs": components.chains.rungs_at_most * 4 * (components.model.parameters(data.space) + rung)
        + 4 * components.chains.kept_beside * sites,
    }
    return {what: size for what, size in found.items() if size}


def _ways(components: Components) -> dict[str, str]:
    """What to take less of to need less of each."""
    replicas = " or sampler.temperatures" if components.sampler.replicas > 1 else ""
    return {
        "data": "fewer rows of data",
        "weights": components.model.smaller(),
        "couplings": components.model.smaller(),
        "chains": f"a lower chains.count{replicas}",
        "batch": "a lower batch_size",
        "rungs": "a lower chains.rungs or chains.count",
    }


def _left(device: Device, data: Data) -> int:
    """Bytes there are for a run: what may still be taken, and in main memory what its data take already."""
    return device.bytes_left(data.bytes) if device.torch.type == "cpu" else device.bytes_left()


def training_work(components: Components, loop: Loop) -> Work:
    """How far the chains move during the whole run, and its updates."""
    policy = components.chains
    if not components.objective.negatives:
        return Work(0, 0, loop.steps)
    slots = policy.choose(loop.batch_size, stream(0))
    transitions = policy.work(loop.steps)
    return Work(transitions * (len(slots) or loop.batch_size), transitions, loop.steps)


def new_state(components: Components, loop: Loop, data: Data, choice: Choice, *, trains: bool = True) -> TrainState:
    """Step 0: initial parameters, empty optimizer, chains at their start."""
    device = data.train.stored.device
    spec = components.model
    model = built(spec, data, loop.seed)
    own = model.state_dict()
    for name, value in components.initial.items():
        own[name].copy_(value)
    if components.initial:
        model.measure(lambda: some_rows(data.train))  # also what follows from the parts that are there now
    model = model.to(device)
    checks.check_enumerable(components.objective, model, choice)
    if trains:
        checks.check_labels(components.objective, model, data, choice)
    auxiliary = _auxiliary(components, loop, data, model) if trains else None
    average = {n: p.detach().clone() for n, p in model.named_parameters()} if components.optimizer.ema else {}
    state = TrainState(0, model, {}, average, torch.empty(0), torch.empty(0), None, auxiliary)
    put_first_chains(components, data, state, stream(loop.seed, "chains", "init"))
    if trains and components.optimizer.ema and (state.weighted or components.chains.rungs_at_most):
        log.warning(weighted.OF_AVERAGES, components.optimizer.ema)
    trained = updated(model, auxiliary)
    why = components.optimizer.refusal(trained) if trains else None
    if why:
        raise UserError(why)
    state.optimizer = components.optimizer.init({name: p.detach() for name, p in trained.items()})
    state.sparsity = _sparsity(components, model) if trains else {}
    return state


def built(spec: ModelSpec, data: Data, seed: int) -> EnergyModel:
    """The model of these data as a run with this seed begins, on the CPU."""
    model = spec.build(data.space, data.smoothed_mean().cpu(), stream(seed, "model"))
    model.measure(lambda: some_rows(data.train))
    return model


@torch.no_grad()
def put_first_chains(components: Components, data: Data, state: TrainState, key: Key) -> None:
    """Put chains at their start into the state, with ages and weights."""
    if components.chains.drawn_below is None:
        state.store = _first_chains(components, data, key)
    else:
        subject = Subject(state.model, data, "train", components.sampler, state.store, key)
        state.store, state.weighted = weighted.begun(subject, components.chains.slots)
    state.ages = torch.zeros(len(state.store), dtype=torch.int64, device=state.store.device)


def _first_chains(components: Components, data: Data, key: Key) -> Tensor:
    """Without weights, (slots, *shape) or (slots, replicas, *shape)."""
    policy, device = components.chains, data.train.stored.device
    rows = permutation(len(data.train), key.fold("rows"))[: policy.slots].to(device)
    store = policy.init(data.space, data.train.rows(rows, key.fold("binarize")), key.fold("noise"))
    if not components.objective.negatives:
        store = store[:0]  # nothing would move them
    return components.sampler.spread(store, data.space)


@torch.no_grad()
def _sparsity(components: Components, model: EnergyModel) -> dict[str, Tensor]:
    """Masks as a run begins, with all couplings or none, or those of given weights that are not 0; those of the model
    that there are not are 0 from now on."""
    sparsity = components.sparsity
    if not sparsity.changes:
        return {}
    assert isinstance(model, Quadratic)
    named = dict(model.named_parameters())
    there = {name: named[name] != 0 if components.initial else sparsity.dense for name in model.couplings}
    masks = {name: model.entries(name).to(named[name].dtype) * there[name] for name in model.couplings}
    for name, mask in masks.items():
        named[name].mul_(mask)
    return {**masks, CHANGED: torch.tensor(-1.0, device=named[model.couplings[0]].device)}


def _auxiliary(components: Components, loop: Loop, data: Data, model: EnergyModel) -> Auxiliary | None:
    """What the objective trains beside the model, on the model's device."""
    objective, noise, device = components.objective, None, data.train.stored.device
    if objective.contrasts != "nothing":
        noise = components.noise.build(data, stream(loop.seed, "noise")).to(device)
    found = objective.auxiliary(model, noise, stream(loop.seed, "auxiliary"))
    return None if found is None else found.to(device)
