"""Training ends once pairs of sites vary together in the chains as they do in the data."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.chains import Chains
from ebm_cli.dataset.base import Data
from ebm_cli.device import memory
from ebm_cli.objective.base import Objective
from ebm_cli.registry import register
from ebm_cli.space import Space, names
from ebm_cli.stop.base import OBJECTIVE, Logged, Look, Periodic, Watch
from ebm_cli.yardstick import covariances
from ebm_cli.yardstick.covariances import Covariances


@register("stop", "pearson")
class Pearson(Periodic):
    """Ends once Pearson's correlation of C_ij(a, b) of training rows and stored chains is `target`.

    C_ij(a, b) = f_ij(a, b) - f_i(a) f_j(b) over all i < j, a, b, with the weights of the rows and the pseudocount
    1 / M_eff (`yardstick/covariances.py`); of real sites the covariances. The criterion of Figliuzzi, Barrat-Charlaix
    and Weigt 2018 and of adabmDCA.
    """

    target: Annotated[float, Field(gt=0, lt=1)]

    @override
    def refusal(self, objective: Objective, chains: Chains, measured: Collection[str]) -> str | None:
        """There must be chains, and they must stay."""
        if not objective.negatives:
            return (
                f"stop=pearson: {OBJECTIVE} has no chains to compare with the data; choose one that has, such as "
                "objective=pcd, or stop=plateau, or leave stop out"
            )
        if not chains.stored:
            return (
                "stop=pearson: these chains begin anew at every step, so none is there to compare with the data; take "
                "chains=persistent or chains=replay, or leave stop out"
            )
        return None

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        """Two sites at least, which vary together; all values known."""
        if not isinstance(data.space, covariances.SPACES):
            return (
                f"stop=pearson: compares pairs of {names(covariances.SPACES)} sites, these data are {data.space.name}"
            )
        if data.space.sites < 2:
            return "stop=pearson: compares pairs of sites, these data have one site alone; leave stop out"
        if data.train.missing is not None:
            return "stop=pearson: covariances of the data want all values, of which some are missing; leave stop out"
        taken, left = covariances.size(data.space), memory.room()
        if taken > left:
            return (
                f"stop=pearson: the covariances of the data take {memory.readable(taken)}, {memory.readable(left)} are "
                "available; leave stop out"
            )
        return None

    @override
    def watch(self, data: Data) -> Watch:
        """The covariances of the data are formed here, once."""
        return PearsonWatch(self.every, self.target, data.space, covariances.of_split(data.train))


@dataclass(frozen=True)
class PearsonWatch(Watch):
    """Of chains beside the covariances of the training rows."""

    target: float
    space: Space
    data: Covariances

    @torch.no_grad()
    @override
    def look(self, chains: Tensor, logged: Logged) -> Look:
        """`stop/pearson` and `stop/slope`, that of the chains' covariances over those of the data."""
        found = covariances.agreement(self.space, self.data, covariances.of_samples(self.space, chains))
        met = f"stop/pearson = {found.pearson:.4g}, stop.target = {self.target:g}"
        values = {f"stop/{name}": value for name, value in found._asdict().items()}
        return Look(values, met if found.pearson >= self.target else None)

    @override
    def remark(self, chains: int) -> str | None:
        """So few chains that their noise hides the target."""
        highest = covariances.ceiling(self.data, chains)
        if highest >= self.target:
            return None
        signal, noise = covariances.strength(self.data)
        enough = math.ceil(noise / (signal * (1 / self.target**2 - 1))) if signal else 0
        return (
            f"stop.target = {self.target:g}: {chains} chains are so few that a perfect model would reach about "
            f"{highest:.2f}" + (f"; {enough} would do" if enough else "; no two sites of the data vary together")
        )
