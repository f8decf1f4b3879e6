"""Training on an array in memory, by the steps of `ebm train`, of which nothing is written."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ebm_cli import registry
from ebm_cli.cli.composed import Composed, composed
from ebm_cli.commands.configuration import check_keys, choices, load_plugins, loop_and_schedule
from ebm_cli.commands.session import accelerated
from ebm_cli.dataset.base import Arrays, Data, Raw, split_of
from ebm_cli.model.base import EnergyModel
from ebm_cli.rng import stream
from ebm_cli.signals import watching
from ebm_cli.space import Binary
from ebm_cli.training import checks
from ebm_cli.training.follower import Follower
from ebm_cli.training.loop import fit
from ebm_cli.training.state import Loop, Parts, TrainState, assemble, build_components, training_work

Tensors = dict[str, NDArray[Any]]


class Begun(NamedTuple):
    """Parts and state of a run on rows in memory, and the calendar of its steps."""

    parts: Parts
    state: TrainState
    follower: Follower


def begun(words: Sequence[str], x: NDArray[Any], batch_size: int, steps: int, seed: int) -> Begun:
    """A run of those words of `ebm train` on bits, or probabilities of a 1, x (n, sites), before its first step.

    Raises UserError for words that are wrong or do not fit.
    """
    found = _composed(tuple(words))
    registry.load_components()
    load_plugins(found.config["plugins"])
    check_keys(found.config)
    choice = choices(found.config, found.chosen)
    components = build_components(found.config, choice)
    checks.check_batch(components.objective, batch_size)
    loop, (_, schedule) = Loop(steps=steps, batch_size=batch_size, seed=seed), loop_and_schedule(found.config)
    device = registry.build("device", found.config["device"]).open()
    parts, state = assemble(components, loop, device, data_of(x), choice)
    parts, _, _ = accelerated(parts, state, found.config, [training_work(parts.components, parts.loop)])
    return Begun(parts, state, Follower(schedule))


@lru_cache(maxsize=64)
def _composed(words: tuple[str, ...]) -> Composed:
    """Hydra takes a tenth of a second, and a search over many fits asks again and again."""
    return composed("train", words)


def trained(run: Begun) -> None:
    """All its steps. Raises RunError if it cannot go on, KeyboardInterrupt for a request to stop."""
    with watching() as stop:
        stop.after_step()
        fit(run.parts, run.state, run.follower, stop)
        stop.at_once()


def data_of(x: NDArray[Any]) -> Data:
    """Rows x (n, sites) of values in [0, 1]: bits, or drawn anew at each visit with these probabilities of a 1."""
    bits = bool(((x == 0) | (x == 1)).all())
    part = Arrays(x.astype(np.uint8 if bits else np.float32))
    raw, method = Raw("binary" if bits else "grey", part, None, part), "none" if bits else "stochastic"
    space = Binary((x.shape[1],))
    split = split_of(part, raw, method, "train", space)  # type: ignore[arg-type]
    return Data(space, split, None, split, method)


def kept(state: TrainState) -> Tensors:
    """What a run goes on from, by name: its model as it is judged, its chains, and what the optimizer keeps."""
    weights = {f"model.{name}": value for name, value in state.averaged_model().state_dict().items()}
    named = {name: value for name, value in state.tensors().items() if not name.startswith("average.")}
    return {name: value.detach().cpu().numpy().copy() for name, value in (named | weights).items()}


def resumed(state: TrainState, step: int, tensors: Tensors) -> None:
    """Go on from them; raises ValueError if they are of another run."""
    average = {name: tensors[f"model.{name.removeprefix('average.')}"] for name in state.average}
    there = tensors | {f"average.{name}": value for name, value in average.items()}
    state.load(step, {name: torch.from_numpy(np.asarray(value)) for name, value in there.items()})


def model_of(tensors: Tensors, words: Sequence[str], sites: int, kind: torch.dtype) -> EnergyModel:
    """The model with those weights, numbers of that type."""
    registry.load_components()
    spec = registry.build("model", _composed(tuple(words)).config["model"])
    space = Binary((sites,))
    model: EnergyModel = spec.build(space, torch.full(space.shape, 0.5), stream(0, "model"))
    own = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    model.load_state_dict({name: torch.from_numpy(value) for name, value in own.items()})
    return model.to(kind).requires_grad_(requires_grad=False)
