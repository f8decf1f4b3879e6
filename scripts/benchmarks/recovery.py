"""An update of diffusion recovery likelihood, beside the Langevin steps that are in it."""

from collections.abc import Mapping

import torch
from _case import Case, Contender, Maker, Required, quotient
from _ours import DEVICE, component, configuration

from ebm_cli import rng
from ebm_cli.model.levels import Leveled
from ebm_cli.objective.base import Batch
from ebm_cli.objective.recovery import Recovery, pairs
from ebm_cli.rng import stream
from ebm_cli.sampler.base import transitions
from ebm_cli.space import Real

ROWS, STEPS, SHAPE = 64, 30, (28, 28)
UPDATE, MOVES = "ours, an update", "its Langevin steps"
_KEY = stream(0, "benchmark")


def _model() -> Leveled:
    spec = component("model", "leveled_convnet", process=configuration("process", "recovery"))
    model: Leveled = spec.build(Real(SHAPE), torch.zeros(SHAPE), _KEY)
    return model.to(DEVICE)


def _objective() -> Recovery:
    found: Recovery = component("objective", "recovery", steps=STEPS, kernel=configuration("sampler", "langevin"))
    return found


def _rows() -> torch.Tensor:
    return rng.normal((ROWS, *SHAPE), _KEY.fold("rows"), DEVICE)


def update() -> Contender:
    """Pairs of levels, chains, and the gradient of both ends."""
    model, objective, batch = _model(), _objective(), Batch(_rows())

    def whole() -> None:
        objective.gradient(model, batch, _KEY)

    return whole


def moves() -> Contender:
    """The chains alone."""
    model, kernel = _model(), _objective().kernel
    _, _, given = pairs(model, _rows(), _KEY)
    y, keys = given.begun(_KEY), [_KEY.fold(i) for i in range(STEPS)]

    def steps() -> None:
        transitions(kernel, given, y, keys)

    return steps


def makers(quick: bool) -> Mapping[str, Maker]:
    """The update, and what of it are chains."""
    return {UPDATE: update, MOVES: moves}


CASES = (
    Case(
        "recovery",
        f"An update of objective=recovery: {STEPS} Langevin steps on the leveled ConvNet, 28x28, batch {ROWS}.",
        makers,
        (Required(f"{UPDATE} / {MOVES}", lambda samples: quotient(samples, UPDATE, MOVES), 1.2, at_least=False),),
        UPDATE,
        rounds=15,
    ),
)
