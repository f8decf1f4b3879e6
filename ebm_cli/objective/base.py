"""Training objectives: a scalar, minimised, whose gradient is the direction of the update."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ebm_cli import rng
from ebm_cli.dataset.base import Data
from ebm_cli.model.base import EnergyModel, Gradients
from ebm_cli.noise.base import Noise
from ebm_cli.rng import AnyKey, Key
from ebm_cli.sampler.base import Differentiable
from ebm_cli.space import Space

Metrics = dict[str, Tensor]
"""Scalars to log, detached."""


class Tail(NamedTuple):
    """The last transitions of the chains, to be taken once more by what differentiates through them."""

    x: Tensor  # where the chains were before them, (chains, *shape)
    sampler: Differentiable[Any, Any]
    keys: Sequence[AnyKey]  # one for each
    taken: int  # transitions before them
    others: Tensor  # other samples of the past, (others, *shape), perhaps none

    def ends(self, model: EnergyModel) -> Tensor:
        """Where the chains end, with the graph of these transitions, (chains, *shape)."""
        return self.sampler.through(model, self.x, self.keys, self.taken)


class Batch(NamedTuple):
    """What an objective sees: data x (batch, *shape), negatives x_neg (chains, *shape), labels (batch,) of the data.

    `first` is the number of its first row in the whole batch: what an objective draws for row r, it draws from
    `key.after(first)`, so that shards and processes draw different numbers. `auxiliary` is what the objective trains
    beside the model (`Objective.auxiliary`), where there is such. `step` is the number of the update, from 0.
    """

    x: Tensor
    x_neg: Tensor | None = None
    labels: Tensor | None = None
    tail: Tail | None = None
    first: int = 0
    auxiliary: "Auxiliary | None" = None
    weight: Tensor | None = None  # of the negatives in means over them, (chains,), 1 in the mean; None: 1
    step: float | Tensor = 0


class Auxiliary(nn.Module):
    """What an objective trains beside the model: a constant, a distribution. It is part of the checkpoint.

    Its parameters that require a gradient are updated with those of the model, by the gradient given for
    `auxiliary.NAME`.
    """

    @property
    def compiles(self) -> bool:
        """Whether what it does are tensor operations that `torch.compile` can trace."""
        return True

    @property
    def of_rows(self) -> list[Tensor]:
        """Tensors of a row for each row of the batch, of which every process moves its own."""
        return []

    undecayed: ClassVar[tuple[str, ...]] = ()
    """Names of its parameters that weight decay must not draw to 0, since no size of weights is in them."""

    def log_z(self) -> Tensor | None:
        """The learned estimate of log Z (scalar, nats), or None if the objective learns none."""
        return None


class Gradient(NamedTuple):
    """What one pass over the rows yields. Every tensor in it is a mean over rows, so equal shards may be averaged."""

    parameters: Gradients
    metrics: Metrics  # `loss` among them
    statistics: dict[str, Tensor]  # whatever else `finish` needs


def updated(model: EnergyModel, auxiliary: Auxiliary | None) -> dict[str, Tensor]:
    """All parameters that are updated by gradients, by the names under which these are given."""
    own = dict(model.named_parameters())
    return {name: p for name, p in parameters(model, auxiliary).items() if name in own or p.requires_grad}


def parameters(model: EnergyModel, auxiliary: Auxiliary | None) -> dict[str, Tensor]:
    """All there are, by the same names; those of the objective may stay as they are."""
    named = {} if auxiliary is None else dict(auxiliary.named_parameters())
    return {**dict(model.named_parameters()), **{f"auxiliary.{name}": p for name, p in named.items()}}


def undecayed(auxiliary: Auxiliary | None) -> frozenset[str]:
    """The parameters that weight decay leaves alone, by the names of `updated`."""
    return frozenset(f"auxiliary.{name}" for name in (() if auxiliary is None else auxiliary.undecayed))


def slopes(loss: Tensor, parameters: Mapping[str, Tensor], *, retain: bool = False) -> Gradients:
    """dloss/dparameter by automatic differentiation, 0 where it does not depend on it; the graph stays if `retain`."""
    found = torch.autograd.grad(loss, [*parameters.values()], retain_graph=retain, materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


class Objective(ABC):
    """What is minimised. It reads the model and the negatives it is given; it owns no chains and no optimizer."""

    spaces: ClassVar[tuple[type[Space], ...]]
    requires: ClassVar[tuple[type[EnergyModel], ...]] = ()
    """Capabilities that the model must have, whatever the settings."""
    without_labels: ClassVar[str] = "ml_replay"
    """Of one that is `labelled`, the name of another that the same models are trained by, and that needs no labels."""
    ways: ClassVar[Mapping[str, str]] = {}
    """Of signs of health, by their names, the way out where its negatives are not what the run's sampler moves."""
    chosen_as: ClassVar[tuple[str, ...]] = ()
    """Names of its configurations, for messages, where they differ from its own."""

    @classmethod
    def chosen_for(cls, model: type[EnergyModel], spaces: Collection[type[Space]]) -> tuple[str, ...]:
        """Those of `chosen_as` that such a model on one of the spaces can be trained by."""
        return cls.chosen_as

    @property
    def negatives(self) -> bool:
        """Whether it needs negative samples, i.e. chains and a sampler."""
        return False

    @property
    def weighs(self) -> bool:
        """Whether its means over negatives are by their weights, where they have some."""
        return False

    @property
    def takes_sparse(self) -> bool:
        """Whether rows and negatives may be sparse tensors (`functional.sparse_rows`) for models that take such."""
        return False

    @property
    def needs(self) -> tuple[type[EnergyModel], ...]:
        """Capabilities the model must have with these settings."""
        return self.requires

    @property
    def needed_by(self) -> str | None:
        """Name of the boolean key that causes the requirement in `needs`; None if every setting requires it."""
        return None

    @property
    def alone(self) -> bool:
        """Whether it has chains of its own that only one process can move."""
        return False

    @property
    def compares(self) -> bool:
        """Whether it tells by how much energies of rows far from each other differ, as slopes alone do not."""
        return True

    @property
    def enumerates(self) -> bool:
        """Whether it sums over all states, so that the model must be small."""
        return False

    @property
    def contrasts(self) -> Literal["nothing", "samples", "density"]:
        """What it needs of a noise distribution: nothing, samples of it, or its density too."""
        return "nothing"

    @property
    def labelled(self) -> bool:
        """Whether it needs labels."""
        return False

    @property
    def through(self) -> int:
        """How many transitions at the end of the chains it differentiates through."""
        return 0

    @property
    def places(self) -> int:
        """At how many places it takes the energy for each row of data, all of them in flight together."""
        return 1

    @property
    def differentiates(self) -> bool:
        """Whether its gradient is found by automatic differentiation, which is not compiled."""
        return self.enumerates

    @property
    def steep(self) -> str | None:
        """Why updates in proportion to its gradient, however large, run away, as the end of a sentence, or None."""
        return None

    @property
    def bounds(self) -> dict[str, tuple[float, str]]:
        """Metrics whose absolute value beyond a bound means that training diverges: the bound, and why in words."""
        return {}

    def refusal(self) -> str | None:
        """Keys that exclude each other, in one sentence, or None."""
        return None

    def refusal_of_model(self, model: type[EnergyModel]) -> str | None:
        """Which key does not suit models of this class, in one sentence, or None."""
        return None

    def refusal_of_space(self, space: Space) -> str | None:
        """Which key does not suit data of this space, in one sentence, or None."""
        return None

    def refusal_of_data(self, data: Data) -> str | None:
        """Which key does not suit these rows, in one sentence, or None."""
        return None

    def refusal_of_batch(self, batch_size: int) -> str | None:
        """Which key does not suit batches of so many rows, in one sentence, or None."""
        return None

    def remark(self, model: EnergyModel, steps: int) -> str | None:
        """A warning to print before a run of `steps` steps, or None."""
        return None

    def auxiliary(self, model: EnergyModel, noise: Noise | None, key: Key) -> Auxiliary | None:
        """What it trains beside the model, as it begins, or None. `noise` is there if it `contrasts`."""
        return None

    def updates(self, name: str, step: float | Tensor) -> bool:
        """Whether update number `step`, from 0, moves the parameter of this name; another one stays as it is."""
        return True

    @abstractmethod
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """The gradient of the loss, and what to log."""

    def finish(self, model: EnergyModel, gradient: Gradient) -> Gradients:
        """The direction of the update from the gradient over all rows, however many processes shared them."""
        return gradient.parameters


def some_sites(space: Space, wanted: int | None, key: AnyKey, device: rng.Device) -> Tensor:
    """`wanted` distinct sites, every set equally likely, or all of them in order where that is None or more; int64."""
    if wanted is None or wanted >= space.sites:
        return torch.arange(space.sites, device=device)
    return rng.uniform((space.sites,), key, device).topk(wanted).indices


def refusal_of_penalties(model: type[EnergyModel], **weights: float) -> str | None:
    """Which penalty on couplings is asked of models without couplings, in one sentence, or None."""
    for key, weight in weights.items():
        if weight and not model.couplings:
            return f"objective.{key} = {weight}: this model has no couplings; set it to 0"
    return None


def penalised(model: EnergyModel, gradients: Gradients, l1: float, l2: float) -> Gradients:
    """The gradients with those of l1 * sum |J| + l2 * sum J^2 over the couplings J, d|J| = sign(J)."""
    if not l1 and not l2:
        return gradients
    named = dict(model.named_parameters())
    return gradients | {
        name: gradients[name] + l1 * named[name].sign() + 2 * l2 * named[name] for name in model.couplings
    }
