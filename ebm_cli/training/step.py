"""One training step: data -> chains -> sampler -> objective -> optimizer, in that order.

The host first writes down what the step will need (`plan`); the rest (`execute`) then runs on the device without asking
it anything.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ebm_cli import chains as chain_policy
from ebm_cli import optimizer
from ebm_cli.acceleration import arithmetic, full_arithmetic
from ebm_cli.chains import Chains
from ebm_cli.dataset.base import Split
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.device.base import Device
from ebm_cli.device.engine import EAGER, Engine
from ebm_cli.device.ranks import Ranks
from ebm_cli.errors import RunError
from ebm_cli.model.base import Blocked, EnergyModel
from ebm_cli.objective.base import Auxiliary, Batch, Gradient, Objective, Tail, parameters, undecayed
from ebm_cli.optimizer import At, Named, Optimizer
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.base import Differentiable, Info, Sampler, engine_for, shown, transitions
from ebm_cli.sampler.standstill import ran_away, stuck
from ebm_cli.space import Space
from ebm_cli.training.plan import Inputs, plan
from ebm_cli.training.state import Parts, TrainState
from ebm_cli.training.weighted import Weighted, moved_on, relative, said, taken_up

_WINDOW = 100  # steps over which chains must have moved
TOGETHER = 4  # transitions compiled into one region with the update; more would only take longer to compile


class Moves(NamedTuple):
    """All that chains need beside the model."""

    policy: Chains
    sampler: Sampler[Any, Any]
    space: Space
    device: Device
    through: int  # transitions at the end that the objective takes once more


class GradRows(NamedTuple):
    """What the gradient is made of, negatives with replicas until they are in the store; what the chains say of it."""

    batch: Batch
    info: Info


class Store(NamedTuple):
    """Chains (slots, *shape) or (slots, replicas, *shape), transitions since each began, (slots,) int64, weights."""

    x: Tensor
    age: Tensor
    weighted: Weighted | None = None


class Weights(NamedTuple):
    """A model and all that is kept for the update of its weights."""

    optimizer: Optimizer
    model: EnergyModel
    auxiliary: Auxiliary | None
    moments: Named
    average: Named
    mask: Named  # 1 for couplings that there are, 0 for others, of parameters that have a mask


class Values(NamedTuple):
    """Numbers of one update, on the device: metrics, and the norms of the gradients of the parameters it moved."""

    names: tuple[str, ...]
    metrics: Tensor
    moved: tuple[str, ...]
    norms: Tensor


@dataclass(frozen=True)
class Report:
    """What a step says of itself; reading the numbers waits for the device."""

    step: int  # number of updates so far
    rate: float
    values: Values

    def numbers(self) -> dict[str, float]:
        """Metrics to log."""
        named = dict(zip(self.values.names, self.values.metrics.tolist(), strict=True))
        return {**named, "learning_rate": self.rate}


class Execution(NamedTuple):
    """How the next update is planned, and how it is then done with that."""

    plan: Callable[[Parts, TrainState], Any]
    execute: Callable[[Parts, TrainState, Any], Values]


def train_step(parts: Parts, state: TrainState, how: Execution | None = None) -> Report:
    """One update. Whether its numbers were finite is for `check` to find out."""
    how = how or PLAIN
    values = how.execute(parts, state, how.plan(parts, state))
    state.step += 1
    loop = parts.loop
    return Report(state.step, parts.components.optimizer.rate(state.step - 1, loop.steps), values)


class Subject(NamedTuple):
    """All that an update reads and changes, beside its inputs."""

    data: Split
    moves: Moves
    objective: Objective
    weights: Weights
    store: Store


def subject(parts: Parts, state: TrainState) -> Subject:
    """That of a run."""
    components, data = parts.components, parts.data.train
    moves = Moves(components.chains, components.sampler, data.space, parts.device, components.objective.through)
    weights = Weights(components.optimizer, state.model, state.auxiliary, state.optimizer, state.average, state.mask)
    return Subject(data, moves, components.objective, weights, Store(state.store, state.ages, state.weighted))


def compiles(of: Subject) -> bool:
    """Whether the gradient is made of operations that can be compiled."""
    auxiliary = of.weights.auxiliary
    return of.weights.model.compiles and not of.objective.differentiates and (auxiliary is None or auxiliary.compiles)


@torch.no_grad()
def execute(parts: Parts, state: TrainState, inputs: Inputs) -> Values:
    """The update itself: one compiled region where that is possible, otherwise a few."""
    of = subject(parts, state)
    data, moves, objective, weights, store = of
    ranks, model = parts.device.ranks, arithmetic(state.model, parts.device)
    engine = parts.device.engine if compiles(of) else parts.device.engine.uncompiled()
    if objective.negatives and store.weighted is None and _fits_one_region(moves, engine, inputs):
        return engine.region(whole)(of, model, inputs)
    sparse = isinstance(data.stored, SparseRows) and _takes_sparse(of, model, engine, inputs)
    x = data.sparse(inputs.rows) if sparse else _rows(data, model, inputs, parts.device.engine, engine)
    labels = _labels(data, objective, inputs)
    batch = Batch(x, labels=labels, first=inputs.first, auxiliary=weights.auxiliary, step=inputs.at.step)
    rows = GradRows(batch, {})
    if objective.negatives:
        full = model if store.weighted is None else full_arithmetic(weights.model, parts.device)
        rows = _moved(moves, (model, full), store, rows.batch, inputs, engine)
    shards = _shards(rows, engine, objective.places)
    if ranks.count == 1 and len(shards) == 1:
        return engine.region(update)(objective, weights, model, rows, inputs.objective, inputs.at)
    gradients = [engine.region(_gradient)(objective, model, shard, inputs.objective) for shard in shards]
    gradient = Gradient(*(_mean(group) for group in zip(*gradients, strict=True)))
    return engine.region(_apply)(objective, weights, _averaged(gradient, ranks), inputs.at)


PLAIN = Execution(plan, execute)


def _fits_one_region(moves: Moves, engine: Engine, inputs: Inputs) -> bool:
    """Everything compiled, few transitions, nothing to split and nobody to share with."""
    if not (engine.compiled and moves.sampler.compiles) or len(inputs.sampler) > TOGETHER:
        return False
    chains = len(inputs.slots) or len(inputs.rows)
    return moves.device.ranks.count == 1 and len(engine.slices(len(inputs.rows) + chains)) == 1


def _takes_sparse(of: Subject, model: EnergyModel, engine: Engine, inputs: Inputs) -> bool:
    """Whether all parts take sparse rows, on a CPU, where nothing is split and nothing compiled."""
    moves, whole = of.moves, len(engine.slices(2 * len(inputs.rows))) == 1 and not engine.compiled
    parts = (model, of.objective, moves.policy, moves.sampler)
    return whole and moves.device.torch.type == "cpu" and all(part.takes_sparse for part in parts)


def whole(of: Subject, model: EnergyModel, inputs: Inputs) -> Values:
    """Batch, chains, gradient and update in one region, with the products as `model` forms them."""
    x = _rows(of.data, model, inputs, EAGER, EAGER)
    labels = _labels(of.data, of.objective, inputs)
    batch = Batch(x, labels=labels, first=inputs.first, auxiliary=of.weights.auxiliary, step=inputs.at.step)
    rows = GradRows(batch, {})
    if of.objective.negatives:
        rows = _moved(of.moves, (model, model), of.store, rows.batch, inputs, EAGER)
    return update(of.objective, of.weights, model, rows, inputs.objective, inputs.at)


def _rows(data: Split, model: EnergyModel, inputs: Inputs, reading: Engine, drawing: Engine) -> Tensor:
    """The batch, with what is missing of it drawn by the model given the rest."""
    return rows_at(data, inputs.rows, model, inputs.binarize, reading, drawing)


def rows_at(
    data: Split, rows: Tensor, model: EnergyModel, key: AnyKey, reading: Engine = EAGER, drawing: Engine = EAGER
) -> Tensor:
    """Rows of a split as steps see them, (len(rows), *shape)."""
    x = reading.region(Split.rows)(data, rows, key)
    if data.missing is None:
        return x
    return drawing.region(_completed)(model, x, data.missing[rows], key.fold("missing"), data.sweeps)


def _completed(model: EnergyModel, x: Tensor, missing: Tensor, key: AnyKey, sweeps: int) -> Tensor:
    """x (batch, *shape) after so many sweeps of the sites that are missing (batch, *site_shape) alone."""
    free = missing.flatten(1)
    for sweep in range(sweeps):
        x = cast(Blocked, model).sweep_given(x, free, key.fold(sweep), backwards=False)
    return x


def _labels(data: Split, objective: Objective, inputs: Inputs) -> Tensor | None:
    """Those of the batch, for an objective that reads them."""
    return data.labels[inputs.rows] if objective.labelled and data.labels is not None else None


def _shards(rows: GradRows, engine: Engine, places: int) -> list[GradRows]:
    """Equal parts of data and negatives, as many as memory asks for and both can be cut into.

    Each row of data takes as much as so many negatives.
    """
    batch = rows.batch
    n, m = len(batch.x), 0 if batch.x_neg is None else len(batch.x_neg)
    wanted = len(engine.slices(n * places + m))
    common = math.gcd(n, m)
    count = next((count for count in range(wanted, common) if common % count == 0), common if wanted > 1 else 1)
    if count == 1:
        return [rows]
    x_neg, labels, weight = (_chunks(part, count) for part in (batch.x_neg, batch.labels, batch.weight))
    parts = [
        batch._replace(
            x=part,
            x_neg=x_neg[i],
            labels=labels[i],
            weight=weight[i],
            tail=_tail(batch.tail, i, count),
            first=batch.first + i * (n // count),
        )
        for i, part in enumerate(batch.x.chunk(count))
    ]
    infos = [{name: value.chunk(count)[i] for name, value in rows.info.items()} for i in range(count)]
    return [GradRows(*shard) for shard in zip(parts, infos, strict=True)]


def _chunks(x: Tensor | None, count: int) -> Sequence[Tensor | None]:
    return [None] * count if x is None else x.chunk(count)


def _tail(tail: Tail | None, part: int, count: int) -> Tail | None:
    """What chains of one part do, each drawing what it would among all."""
    if tail is None:
        return None
    size = len(tail.x) // count
    keys = [key.after(part * size) for key in tail.keys]
    return tail._replace(x=tail.x.chunk(count)[part], keys=keys)


def _mean(groups: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of each tensor, over equal shards."""
    return {name: sum((group[name] for group in groups[1:]), groups[0][name]) / len(groups) for name in groups[0]}


def _moved(
    moves: Moves, models: tuple[EnergyModel, EnergyModel], store: Store, batch: Batch, inputs: Inputs, engine: Engine
) -> GradRows:
    """Chains drawn, moved `chains.steps` transitions and put into their slots: the rows the gradient is made of.

    The second model has the arithmetic by which chains are weighed.
    """
    model, _ = models
    if store.weighted is not None:
        return _weighed(moves, models, (store, store.weighted), batch, inputs, engine)
    policy, sampler, slots, steps = moves.policy, moves.sampler, inputs.slots[inputs.own], len(inputs.sampler)
    n, at = len(slots) or len(batch.x), inputs.own if policy.in_order else slots
    fresh = policy.fresh(n, inputs.at.step, inputs.chains, batch.x.device)
    start = policy.draw(store.x[at], fresh, batch.x, moves.space, inputs.chains)
    start = moves.space.conformed(start, batch.x, inputs.chains.fold("conform"))
    tail = None
    with moves.device.chain_precision():
        engine, early = engine_for(sampler, model, engine), steps - moves.through
        end, info = transitions(sampler, model, start, inputs.sampler[:early], engine)
        if moves.through:
            others = shown(store.x[inputs.others], moves.space)
            tail = Tail(end, cast(Differentiable[Any, Any], sampler), inputs.sampler[early:], early, others)
            end = tail.ends(model).detach()
    if policy.stored:
        age = torch.where(fresh, 0, store.age[at]) + steps
        info = {**info, "age": age.float()}
        _put_back(moves, store, Store(end.float(), age), inputs)
    return GradRows(batch._replace(x_neg=shown(end.float(), moves.space), tail=tail), info)


def _weighed(
    moves: Moves,
    models: tuple[EnergyModel, EnergyModel],
    kept: tuple[Store, Weighted],
    batch: Batch,
    inputs: Inputs,
    engine: Engine,
) -> GradRows:
    """The same of chains that take up the change of the model in their weights, and are negatives, before they move.

    A gradient raises the energies of its own negatives more than those of other draws. Chains that have not moved since
    would take that up as well, and their weights would fall behind a little at each step, by more in one mode than in
    another.
    """
    (model, full), (store, before), steps = models, kept, len(inputs.sampler)
    least, kernel = moves.policy.drawn_below, moves.sampler.weighing()
    assert least is not None
    assert kernel is not None
    weighted, chosen, counting = taken_up(before, full, store.x, least, inputs.chains.fold("resample"))
    start = store.x[chosen]
    with moves.device.chain_precision():
        end, info = transitions(kernel, model, start, inputs.sampler, engine_for(kernel, model, engine))
    end, age, ratio = end.float(), store.age[chosen] + steps, info.pop("log_ratio", None)
    moved = moved_on(weighted, full, end, None if ratio is None else steps * ratio)
    for old, new in zip((store.x, store.age, *before), (end, age, *moved), strict=True):
        old.copy_(new)
    info = {**info, "age": age.float(), **said(weighted, counting)}
    return GradRows(batch._replace(x_neg=start, weight=relative(weighted)), info)


def _put_back(moves: Moves, store: Store, moved: Store, inputs: Inputs) -> None:
    """Each chain into its slot; where slots roam, those of all ranks. A range of slots is copied, which costs less."""
    roams, ranks = moves.policy.roams, moves.device.ranks
    own = inputs.own if moves.policy.in_order else inputs.targets[inputs.own]
    targets = inputs.targets if roams else own
    for kept, x in ((store.x, moved.x), (store.age, moved.age)):
        chain_policy.put(kept, targets, ranks.gather(x) if roams else x)


def gather_chains(parts: Parts, state: TrainState) -> None:
    """Bring the chains of the other ranks into this rank's store, where they have moved on elsewhere."""
    ranks, beside = parts.device.ranks, state.auxiliary
    if ranks.count == 1:
        return
    kept = [] if parts.components.chains.roams or not len(state.store) else [state.store, state.ages]
    for tensor in [*kept, *([] if beside is None else beside.of_rows)]:
        tensor.copy_(ranks.gather(tensor[ranks.share(len(tensor))]))


def _averaged(gradient: Gradient, ranks: Ranks) -> Gradient:
    """The same over the rows of all ranks."""
    groups = gradient._asdict()
    mean = ranks.mean({f"{kind}/{name}": value for kind, group in groups.items() for name, value in group.items()})
    return Gradient(**{kind: {name: mean[f"{kind}/{name}"] for name in group} for kind, group in groups.items()})


def _gradient(objective: Objective, model: EnergyModel, rows: GradRows, key: AnyKey) -> Gradient:
    """The gradient over this rank's rows, in the arithmetic of `model`."""
    gradient = objective.gradient(model, rows.batch, key)
    chains = {f"chains_{name}": value.mean() for name, value in rows.info.items()}
    return gradient._replace(metrics={**gradient.metrics, **chains})


def _apply(objective: Objective, weights: Weights, gradient: Gradient, at: At) -> Values:
    """Clip, update, average; what came out."""
    how, named = weights.optimizer, parameters(weights.model, weights.auxiliary)
    found = objective.finish(weights.model, gradient)
    grads = {name: grad * weights.mask[name] if name in weights.mask else grad for name, grad in found.items()}
    norms = optimizer.norms(grads)
    norm = torch.linalg.vector_norm(norms)
    if how.clip is not None:
        grads = optimizer.clipped(grads, how.clip, norm)
    moved = {name: grad for name, grad in grads.items() if objective.updates(name, at.step)}
    optimizer.apply(how, named, moved, weights.moments, at, undecayed(weights.auxiliary))
    optimizer.average(weights.average, named, at.keep)
    metrics = {**gradient.metrics, "gradient_norm": norm}
    return Values(tuple(metrics), torch.stack([value.float() for value in metrics.values()]), tuple(grads), norms)


def update(objective: Objective, weights: Weights, model: EnergyModel, rows: GradRows, key: AnyKey, at: At) -> Values:
    """Gradient and update in one region."""
    return _apply(objective, weights, _gradient(objective, model, rows, key), at)


class Diverged(RunError):
    """The numbers of a step are no longer such that training can go on."""


def check(
    state: TrainState, reports: Sequence[Report], objective: Objective, sampler: Sampler[Any, Any] | None = None
) -> Tensor:
    """What the steps say, metrics and norms of gradients (steps, numbers).

    Raises Diverged naming the first step that was not healthy, with the state's step set before it, and a way out.

    Neither loss nor gradient may be other than finite (saturated units have a gradient of zero, so energies can
    overflow while the gradient looks healthy), nor a metric beyond the objective's bound.
    """
    if not reports:
        return torch.empty(0)
    groups = [r.values.metrics for r in reports], [r.values.norms for r in reports]
    numbers = torch.cat([torch.stack(group) for group in groups], 1)
    names = reports[0].values.names
    columns = [names.index("loss"), names.index("gradient_norm")]
    finite = numbers[:, columns].isfinite().all(1)
    bounds = {name: bound for name, (bound, _) in objective.bounds.items()}
    beyond = [numbers[:, names.index(name)].abs() > bound for name, bound in bounds.items()]
    healthy = (finite & ~torch.stack(beyond).any(0) if beyond else finite).tolist()
    if not all(healthy):
        bad = reports[healthy.index(False)]
        state.step = bad.step - 1
        cause = _diverged(bad, objective) if finite[healthy.index(False)] else _not_finite(bad.step, *_cause(bad))
        raise Diverged(f"{cause}. {_ran_away(bad, sampler) or _advice(objective)}")
    return numbers


def _diverged(report: Report, objective: Objective) -> str:
    numbers = report.numbers()
    name = next(name for name, (bound, _) in objective.bounds.items() if abs(numbers[name]) > bound)
    return (
        f"step {report.step}: {name} is {numbers[name]:.6g} nats, beyond {objective.bounds[name][1]} "
        f"({_listed(report)}); nothing of it was saved"
    )


def _cause(report: Report) -> tuple[str, str]:
    finite = report.values.norms.isfinite().tolist()
    broken = [name for name, ok in zip(report.values.moved, finite, strict=True) if not ok]
    subject = f"the gradient of {' and '.join(broken)} is" if broken else "the loss is"
    return subject, _listed(report)


def _listed(report: Report) -> str:
    numbers = report.numbers()
    return ", ".join(f"{name} {numbers[name]:.6g}" for name in report.values.names)


def _not_finite(step: int, subject: str, detail: str) -> str:
    return f"step {step}: {subject} not finite ({detail}); nothing of it was saved"


def _ran_away(report: Report, sampler: Sampler[Any, Any] | None) -> str | None:
    numbers = report.numbers()
    if sampler is None or "energy_chains" not in numbers:
        return None
    return ran_away(sampler, numbers["energy_data"], numbers["energy_chains"])


def _advice(objective: Objective) -> str:
    more = "optimizer.clip=10, or more chains.steps" if objective.negatives else "or optimizer.clip=10"
    return f"Start a run with a lower optimizer.lr, {more}"


@dataclass
class Standstill:
    """What the chains say of their moves over some hundred steps: a few of them alone may have had bad luck."""

    sampler: Sampler[Any, Any]
    first: int = 1
    steps: int = 0
    totals: dict[str, float] = field(default_factory=dict)

    def look(self, reports: Sequence[Report], *, last: bool = False) -> list[str]:
        """Sentences on what stood still, after every _WINDOW steps and after the `last`."""
        for name, mean in _moves(reports).items():
            self.totals[name] = self.totals.get(name, 0.0) + mean * len(reports)
        self.steps += len(reports)
        if not self.steps or (self.steps < _WINDOW and not last):
            return []
        means = {name: total / self.steps for name, total in self.totals.items()}
        span = f"in steps {self.first} to {self.first + self.steps - 1}"
        self.first, self.steps, self.totals = self.first + self.steps, 0, {}
        said = stuck(means, self.sampler)
        return [f"{sentence} ({span}; the model is trained against what does not move)" for sentence in said]


def _moves(reports: Sequence[Report]) -> dict[str, float]:
    """Means over the steps of what the chains' Info says of acceptance and swaps."""
    names = reports[0].values.names if reports else ()
    wanted = [i for i, name in enumerate(names) if name.startswith(("chains_acceptance", "chains_swap_"))]
    if not wanted:
        return {}
    means = torch.stack([r.values.metrics[wanted] for r in reports]).mean(0).tolist()
    return {names[i].removeprefix("chains_"): mean for i, mean in zip(wanted, means, strict=True)}


def check_weights(state: TrainState, objective: Objective) -> None:
    """Raises Diverged if a weight is not finite, so that no checkpoint of a broken model is ever written."""
    broken = [name for name, p in state.model.named_parameters() if not p.isfinite().all()]
    others = state.tensors().items() if not broken else ()
    broken += [name for name, t in others if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        cause = _not_finite(state.step, f"{' and '.join(broken)} are", "after the update")
        raise Diverged(f"{cause}. {_advice(objective)}")
