"""Do the parts fit each other? The one place, before any work; every part declares in its own file what it fits."""

from typing import Any, cast

import torch
from torch import Tensor

from ebm_cli import registry
from ebm_cli.chains import AlongTrajectory, Chains
from ebm_cli.dataset.base import Data, Dataset, Split
from ebm_cli.device.ranks import Ranks
from ebm_cli.errors import UserError
from ebm_cli.health.base import Health
from ebm_cli.log_z import enumeration
from ebm_cli.model.base import Blocked, Classifier, Conditional, EnergyModel, Intractable, ModelSpec
from ebm_cli.model.levels import Leveled
from ebm_cli.noise.base import NoiseSpec
from ebm_cli.objective.base import Objective
from ebm_cli.objective.recovery import Recovery
from ebm_cli.optimizer import Optimizer
from ebm_cli.sampler.base import Differentiable, Sampler
from ebm_cli.sampler.gflownet import PolicyDraws
from ebm_cli.sampler.parallel_tempering import ParallelTempering
from ebm_cli.sampler.trajectory import NO_PAST, TrajectoryTempering
from ebm_cli.space import Binary, Box, Categorical, Counts, Discrete, Real, Space, Words, names
from ebm_cli.sparsity.base import Sparsity
from ebm_cli.terminal import log

_ROWS_AT_ONCE = 1000
_NO_CLASSES = "the classes of model=%s are not learned; objective=jem learns them"
Choice = dict[str, str]
"""What the user chose in each config group, for messages."""


def check_space(dataset: Dataset, model: ModelSpec, choice: Choice) -> None:
    """The space of the data is one the model takes; unknown (None) until a file is read is left to `check_loaded`."""
    space = dataset.space_type(model.spaces)
    if space is not None and space not in model.spaces:
        raise UserError(
            f"dataset={choice['dataset']} (binarize={dataset.binarize}) gives {space.name} data, "
            f"model={choice['model']} takes {names(model.spaces)}; models that fit: {_models(space)}"
        )


def check_loaded(space: Space, model: ModelSpec, choice: Choice) -> None:
    """The same once the data are read."""
    if type(space) not in model.spaces:
        raise UserError(
            f"dataset={choice['dataset']} holds {space.name} data, model={choice['model']} takes {names(model.spaces)};"
            f" models that fit: {_models(type(space))}{_rescaling(space, model)}"
        )


def check_missing(data: Data, model: ModelSpec, choice: Choice) -> None:
    """What is missing of training rows can be drawn by the model."""
    if data.train.missing is None or _draws_missing(model):
        return
    specs: dict[str, Any] = registry.components("model")
    fits = [name for name, spec in specs.items() if type(data.space) in spec.spaces and _draws_missing(spec)]
    raise UserError(
        f"dataset.missing = draw: model={choice['model']} draws no blocks of some sites given the others; models that "
        f"do: {', '.join(fits)}; or set dataset.missing=drop"
    )


def _draws_missing(model: ModelSpec) -> bool:
    return issubclass(model.builds, Blocked) and model.builds.sweeps_given


def check_support(data: Data, model: ModelSpec) -> None:
    """No row has probability 0 whatever the parameters."""
    if model.support is None:
        return
    for name, split in _splits(data):
        held = [model.support.holds(rows) for rows in split.pieces(_ROWS_AT_ONCE)]
        wrong = (~torch.cat(held)).nonzero().flatten().tolist()
        if wrong:
            raise UserError(
                f"{model.support.says}; {len(wrong)} rows of the {name} split are others, the first of them number "
                f"{wrong[0]}; change them or choose another model"
            )


def _rescaling(space: Space, model: ModelSpec) -> str:
    """The way from real to binary data, images or categories, where the model takes those."""
    if type(space) is not Real:
        return ""
    ways = {
        Binary: "; or rescale the data to [0, 1] and set dataset.binarize=threshold",
        Box: "; or rescale the data to [0, 1], or store images as uint8 (dataset.box says which box the model sees)",
        Categorical: "; or, if they are integers 0 to K - 1 in an .npz file, set dataset.categories=K",
    }
    return "".join(way for kind, way in ways.items() if kind in model.spaces)


def _models(space: type[Space]) -> str:
    found = [name for name, spec in registry.components("model").items() if space in spec.spaces]  # type: ignore[attr-defined]
    return ", ".join(found) or "none"


def check_sampler(sampler: Sampler[Any, Any], model: ModelSpec, choice: Choice) -> None:
    """The sampler moves in the model's space and finds the capabilities it needs, and after it its kernel."""
    if sampler.inner is not sampler and not _has(sampler.needs, model):
        fits = [name for name, cls in registry.components("sampler").items() if _fits(cls, model)]
        raise UserError(
            f"sampler={choice['sampler']} {_wants(type(sampler), model)}, model={choice['model']} is not; samplers "
            f"that fit: {', '.join(fits)}"
        )
    if not _fits(type(sampler.inner), model):
        found = [name for name, cls in registry.components("sampler").items() if _fits(cls, model)]
        raise UserError(
            f"{_called(sampler, choice)} {_wants(type(sampler.inner), model)}, model={choice['model']} is not; "
            f"samplers that fit: {', '.join(found)}{_how_to_choose(sampler, model)}"
        )
    blocks = issubclass(model.builds, Blocked) and any(issubclass(need, Blocked) for need in sampler.inner.needs)
    if sampler.replicas > 1 and blocks and not cast(type[Blocked], model.builds).tempers:
        raise UserError(
            f"{_called(sampler, choice)} cannot draw the blocks of model={choice['model']} at other temperatures"
            f"{_how_to_choose(sampler, model)}"
        )


def check_trains(sampler: Sampler[Any, Any]) -> None:
    """Chains of training have no checkpoints to go along yet, and no policy to draw from."""
    if isinstance(sampler, PolicyDraws):
        raise UserError(
            "sampler = gflownet: draws from the policy of a trained run; train it by objective=gflownet, then use "
            "ebm sample run=RUN sampler=gflownet"
        )
    if isinstance(sampler, TrajectoryTempering):
        raise UserError(NO_PAST)


def check_moves(sampler: Sampler[Any, Any], space: Space, model: ModelSpec, choice: Choice) -> None:
    """The sampler moves in the space of the data that were read, and its settings suit one of this size."""
    if type(space) not in sampler.inner.spaces:
        kinds: dict[str, Any] = registry.components("sampler")
        found = [name for name, cls in kinds.items() if type(space) in cls.spaces and _fits(cls, model)]
        raise UserError(
            f"{_called(sampler, choice)} moves in {names(sampler.inner.spaces)} spaces, the data are {space.name}; "
            f"samplers that fit: {', '.join(found)}{_how_to_choose(sampler, model)}"
        )
    why = sampler.refusal(space)
    if why:
        raise UserError(why)


def _called(sampler: Sampler[Any, Any], choice: Choice) -> str:
    """A sampler as it was chosen, or the kernel of its replicas."""
    if sampler.inner is sampler:
        return f"sampler={choice['sampler']}"
    inner, kinds = sampler.inner, registry.components("sampler")
    name = inner.chosen_as or next(name for name, cls in kinds.items() if cls is type(inner))
    return f"sampler={choice['sampler']}: its kernel {name}"


def _how_to_choose(sampler: Sampler[Any, Any], model: ModelSpec) -> str:
    """The key of a kernel; replicas exchange by energies, so that none fits a model that has none."""
    if sampler.inner is sampler:
        return ""
    return "" if issubclass(model.builds, Intractable) else " (choose the kernel by sampler@sampler.kernel=NAME)"


def _fits(sampler: Any, model: ModelSpec) -> bool:
    spaces = set(sampler.spaces) & set(model.spaces)
    return bool(spaces) and _has(sampler.needs, model)


def _asks_for_energy(needs: tuple[type[EnergyModel], ...], model: ModelSpec) -> bool:
    """Whether what has these needs asks for an energy that the model lacks."""
    return issubclass(model.builds, Intractable) and not any(issubclass(need, Intractable) for need in needs)


def _wants(sampler: Any, model: ModelSpec) -> str:
    needs = ["tractable"] if _asks_for_energy(sampler.needs, model) else [need.called for need in sampler.needs]
    return f"wants a {' and '.join([*needs, names(sampler.spaces)])} model"


def _untrained(objective: Objective, model: ModelSpec) -> str | None:
    """Which part of the model the objective would leave as it begins, in one sentence, or None."""
    beside = getattr(model, "initializer", None)
    if beside is None or isinstance(objective, Recovery):
        return None
    return (
        f"model.initializer = {beside}: objective=recovery alone trains it, by the ends of its chains; take that, or "
        "set model.initializer=null"
    )


def check_objective(objective: Objective, model: ModelSpec, choice: Choice) -> None:
    """The objective accepts the space, and the model has what it needs."""
    why = objective.refusal() or objective.refusal_of_model(model.builds) or _untrained(objective, model)
    if why:
        raise UserError(why)
    if model.inexact and objective.enumerates:
        raise UserError(
            f"{model.inexact}: objective={choice['objective']} needs the gradient of the energy, which this is not; "
            "take objective=cd or pcd"
        )
    if not set(objective.spaces) & set(model.spaces):
        raise UserError(
            f"objective={choice['objective']} works on {names(objective.spaces)} data, model={choice['model']} takes"
            f" {names(model.spaces)}; {_objectives(model.spaces, model, choice)}; models that fit "
            f"objective={choice['objective']}: {', '.join(_models_for(objective)) or 'none'}"
        )
    if _asks_for_energy(objective.needs, model):
        raise UserError(
            f"objective={choice['objective']} wants a tractable model, one whose energy can be computed, "
            f"model={choice['model']} is not; leave objective out, for the model brings one that fits"
        )
    if not _of_all_levels(objective.needs, model):
        every = registry.components("objective").items()
        fits = [name for name, kind in every if _asks_for_levels(_requires(kind)) and _has(_requires(kind), model)]
        raise UserError(
            f"objective={choice['objective']} trains the first level of model={choice['model']} alone, and the others "
            f"would stay as they begin; objectives for all levels: {', '.join(fits)}"
        )
    for need in objective.needs:
        if not issubclass(model.builds, need):
            fits = _models_for(objective)
            key = objective.needed_by
            asks = f"objective.{key} = true" if key else f"objective={choice['objective']}"
            without = f"; or set objective.{key}=false" if key else ""
            raise UserError(
                f"{asks} wants a {need.called} model, model={choice['model']} is not; models that fit: "
                f"{', '.join(fits)}{without}"
            )


def _of_all_levels(needs: tuple[type[EnergyModel], ...], model: ModelSpec) -> bool:
    """Whether an objective of these needs trains all levels that the model has, if it has such."""
    return _asks_for_levels(needs) or not issubclass(model.builds, Leveled)


def _asks_for_levels(needs: tuple[type[EnergyModel], ...]) -> bool:
    return any(issubclass(need, Leveled) for need in needs)


def _requires(objective: Any) -> tuple[type[EnergyModel], ...]:
    found: tuple[type[EnergyModel], ...] = objective.requires
    return found


def _models_for(objective: Objective) -> list[str]:
    """Models of a space it accepts that have what it needs and suit its keys."""
    specs: dict[str, Any] = registry.components("model")
    return [
        name
        for name, spec in specs.items()
        if set(spec.spaces) & set(objective.spaces)
        and _has(objective.needs, spec)
        and _of_all_levels(objective.needs, spec)
        and objective.refusal_of_model(spec.builds) is None
    ]


def _has(needs: tuple[type[EnergyModel], ...], model: ModelSpec) -> bool:
    """Whether models of this kind are all that is needed, and have an energy where what needs it asks for one."""
    return all(issubclass(model.builds, need) for need in needs) and not _asks_for_energy(needs, model)


def _objectives(spaces: tuple[type[Space], ...], model: ModelSpec, choice: Choice) -> str:
    """Those that accept one of the spaces and need nothing that the model lacks, as they are chosen."""
    found: list[str] = []
    for name, cls in registry.components("objective").items():
        kind = cast(type[Objective], cls)
        if set(kind.spaces) & set(spaces) and _has(kind.requires, model) and _of_all_levels(kind.requires, model):
            found += kind.chosen_for(model.builds, spaces) if kind.chosen_as else (name,)
    return f"objectives that fit model={choice['model']}: {', '.join(sorted(found))}"


def check_data(objective: Objective, space: Space, model: ModelSpec, choice: Choice) -> None:
    """The objective accepts the space of the data that were read, and its settings suit it."""
    if type(space) not in objective.spaces:
        raise UserError(
            f"objective={choice['objective']} works on {names(objective.spaces)} data, these are {space.name}; "
            f"{_objectives((type(space),), model, choice)}"
        )
    why = objective.refusal_of_space(space)
    if why:
        raise UserError(why)


def check_rows(objective: Objective, data: Data) -> None:
    """The settings of the objective suit the rows that were read."""
    why = objective.refusal_of_data(data)
    if why:
        raise UserError(why)


def check_noise(objective: Objective, noise: NoiseSpec, model: ModelSpec, choice: Choice) -> None:
    """An objective that compares with the density of its noise gets one that has a density."""
    if objective.contrasts == "density" and not noise.has_density:
        specs: dict[str, Any] = registry.components("noise")
        fits = [name for name, spec in specs.items() if set(spec.spaces) & set(model.spaces)]
        found = [name for name in fits if specs[name].has_density]
        raise UserError(
            f"noise={choice['noise']} has no density, which objective={choice['objective']} needs; use "
            f"noise={' or '.join(found)}, or objective=negative_sampling"
        )


def check_noise_data(objective: Objective, noise: NoiseSpec, space: Space, choice: Choice) -> None:
    """The noise, where one is needed, is made for the space of the data that were read."""
    if objective.contrasts != "nothing" and type(space) not in noise.spaces:
        dense = objective.contrasts == "density"
        specs: dict[str, Any] = registry.components("noise")
        fits = [name for name, spec in specs.items() if type(space) in spec.spaces and (spec.has_density or not dense)]
        raise UserError(
            f"noise={choice['noise']} is made for {names(noise.spaces)} data, dataset={choice['dataset']} holds "
            f"{space.name} data; noise that fits: {', '.join(fits)}"
        )


def check_through(objective: Objective, sampler: Sampler[Any, Any], policy: Chains, choice: Choice) -> None:
    """What is differentiated through chains gets a sampler with a gradient, and not all of their transitions."""
    if not objective.through:
        return
    if not all(isinstance(part, Differentiable) for part in (sampler, sampler.inner)):
        fits = [name for name, cls in registry.components("sampler").items() if issubclass(cls, Differentiable)]
        raise UserError(
            f"objective.kl: is differentiated through the chains, which sampler={choice['sampler']} is not "
            f"made for; use sampler={' or '.join(fits)}, or objective.kl=none"
        )
    for key, steps in (("steps", policy.steps), ("final_steps", policy.final_steps)):
        if steps is not None and objective.through >= steps:
            raise UserError(
                f"objective.kl_steps = {objective.through}: must be below chains.{key} = {steps}, of which they are "
                "the last"
            )


def check_shares(policy: Chains, batch_size: int, ranks: Ranks) -> None:
    """Batch and chains can be shared equally among the ranks, and none exchanges with others."""
    if isinstance(policy, AlongTrajectory) and ranks.count > 1:
        raise UserError(
            f"device.ranks = {ranks.count}: chains=trajectory exchanges all chains; leave it out, or take "
            "chains=persistent"
        )
    if policy.drawn_below is not None and ranks.count > 1:
        raise UserError(
            f"device.ranks = {ranks.count}: chains.weighted = true draws among all chains; leave one of the two out"
        )
    ranks.check_shares(batch_size=batch_size)
    if policy.slots and not policy.roams:
        ranks.check_shares(chains__count=policy.slots)


def check_alone(objective: Objective, ranks: Ranks, choice: Choice) -> None:
    """Chains of the objective's own are moved by one process."""
    if objective.alone and ranks.count > 1:
        raise UserError(
            f"device.ranks = {ranks.count}: objective={choice['objective']} has chains of its own, which one process "
            "moves; leave it out"
        )


def check_recovery(health: Health, ranks: Ranks) -> None:
    """A run of several ranks does not go back."""
    if health.most and ranks.count > 1:
        raise UserError(
            f"health.act = recover: with device.ranks = {ranks.count} no run goes back; leave one of the two out"
        )


def check_sparse(model: ModelSpec, optimizer: Optimizer, ranks: Ranks, choice: Choice) -> None:
    """Sparse gradients meet nothing that takes every row of a parameter at every step."""
    if not model.sparse_gradients:
        return
    way = f"or model.sparse=false, with which every step goes over the whole vocabulary of model={choice['model']}"
    if optimizer.ema:
        raise UserError(f"optimizer.ema = {optimizer.ema}: sparse gradients leave most rows out; set it to 0, {way}")
    if ranks.count > 1:
        raise UserError(f"device.ranks = {ranks.count}: sparse gradients are not exchanged; leave it out, {way}")


def check_optimizer(objective: Objective, optimizer: Optimizer, choice: Choice) -> None:
    """An objective whose gradient may be of any size meets updates that may not."""
    if objective.steep and not optimizer.bounded:
        raise UserError(
            f"optimizer={choice['optimizer']}: objective={choice['objective']} diverges by updates in proportion to "
            f"its gradient: {objective.steep}; choose optimizer=adam, or set optimizer.clip=1"
        )


def check_sparsity(sparsity: Sparsity, model: ModelSpec, objective: Objective, chains: Chains) -> None:
    """The model has couplings to choose among, and there are chains to choose by."""
    for space in model.spaces:
        why = sparsity.refusal(model.builds, space, objective, chains)
        if why:
            raise UserError(why)


def check_exchanges(
    policy: Chains, model: ModelSpec, sampler: Sampler[Any, Any], objective: Objective, choice: Choice
) -> None:
    """Chains that exchange with earlier models of the run have energies to do so by, and no replicas."""
    if not isinstance(policy, AlongTrajectory):
        return
    if not any(issubclass(space, Discrete) for space in model.spaces) or {Counts, Words} & set(model.spaces):
        kinds = "bits, spins or categories"
        why = f"model={choice['model']} takes {names(model.spaces)} data, and the first rung is of {kinds}"
    elif issubclass(model.builds, Intractable | Conditional):
        why = f"model={choice['model']} has no energy of whole configurations that can be computed"
    elif not objective.negatives:
        why = f"objective={choice['objective']} has no use for chains"
    elif sampler.replicas > 1:
        why = f"sampler={choice['sampler']} has replicas of its own"
    elif not sampler.leaves_invariant:
        why = f"sampler={choice['sampler']} does not leave the model invariant"
    else:
        return
    way = "leave it out" if not objective.negatives else "take chains=persistent"
    raise UserError(f"chains={choice['chains']}: {why}; {way}")


def check_retuning(sampler: Sampler[Any, Any], objective: Objective, choice: Choice) -> None:
    """Temperatures that are moved while a run trains are of chains that it has, and of a number that is known."""
    if not isinstance(sampler, ParallelTempering) or not sampler.retune:
        return
    said = f"sampler.retune = {sampler.retune}"
    if not objective.negatives:
        raise UserError(f"{said}: objective={choice['objective']} moves no chains while it trains; leave it out")
    if sampler.ladder != "adaptive":
        raise UserError(f"{said}: moves the temperatures of sampler.ladder=adaptive; add that, or leave it out")
    if sampler.temperatures == "auto":
        raise UserError(f"{said}: keeps the number of temperatures, so name it, e.g. sampler.temperatures=10")
    if sampler.replicas == 2:
        raise UserError(f"{said}: none lies between the two of sampler.temperatures = 2; take more, or leave it out")


def check_batch(objective: Objective, batch_size: int) -> None:
    """The objective can do with batches of so many rows."""
    why = objective.refusal_of_batch(batch_size)
    if why:
        raise UserError(why)


def check_enumerable(objective: Objective, model: EnergyModel, choice: Choice) -> None:
    """An objective that sums over all states gets a model small enough."""
    why = enumeration.refusal(model) if objective.enumerates else None
    if why:
        smaller = ", or a smaller model" if enumeration.has_sum(type(model), [type(model.space)]) else ""
        raise UserError(f"objective={choice['objective']}: {why}; use objective=pcd{smaller}")


def check_labels(objective: Objective, model: EnergyModel, data: Data, choice: dict[str, str]) -> None:
    """An objective that needs labels finds them in every split, and an output of the model for each."""
    if not objective.labelled:
        if isinstance(model, Classifier):
            log.warning("objective=%s reads no labels, so that %s", choice["objective"], _NO_CLASSES % choice["model"])
        return
    assert isinstance(model, Classifier)
    for name, split in _splits(data):
        where = f"dataset={choice['dataset']}: the {name} split"
        if split.labels is None:
            raise UserError(
                f"{where} has no labels, which objective={choice['objective']} needs; use a labelled dataset (digits, "
                f"mnist, ... or dataset=array with train_label and test_label), or objective={objective.without_labels}"
            )
        _check_split(split.labels, model.classes, where)
    if not (cast(Tensor, data.train.labels) >= 0).any():
        raise UserError(
            f"dataset={choice['dataset']}: no row of the train split has a label, all are -1; give some of them "
            "theirs, or take a model without classes"
        )


def _splits(data: Data) -> list[tuple[str, Split]]:
    """Those there are, by name."""
    named = (("train", data.train), ("valid", data.valid), ("test", data.test))
    return [(name, split) for name, split in named if split is not None]


def _check_split(labels: Tensor, classes: int, where: str) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < -1 or high >= classes:
        raise UserError(
            f"model.classes = {classes}: {where} has labels {low} to {high}, they must be 0 to model.classes - 1, or "
            "-1 where none is known; " + (f"set model.classes={high + 1}" if low >= -1 else "renumber them")
        )
