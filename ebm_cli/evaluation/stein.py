"""Whether rows are draws of the model: the test by its kernel Stein discrepancy, which needs no log Z."""

from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.evaluation.base import Evaluation, Result, Subject
from ebm_cli.evaluation.table import Numbers
from ebm_cli.model.base import EnergyModel, TwoValuedSites
from ebm_cli.registry import Later, register
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Box, Categorical, Discrete, Real, TwoValued
from ebm_cli.yardstick.stein import discrete_terms, mean_of_pairs, real_terms, wild_bootstrap

_LEVEL = 0.05  # below it rows are told from draws of the model


@register("evaluation", "stein")
class Stein(Evaluation):
    """The squared kernel Stein discrepancy of rows from the model, unbiased, and the p-value of its being 0.

    `rows` held_out: at most `count` held-out rows, which says whether the data could come from the model; chains: so
    many of the run's own chains, whether these have come to it. Of real numbers by the gradient of the energy with an
    inverse multiquadric kernel, of bits, spins and categories by the ratios of neighbours with the kernel exp(-`scale`
    times the share of sites that differ), for each site and, with the weight `common`, for all of them together
    (`yardstick/stein.py`). `bootstraps` times the signs of the rows are drawn
    anew for the p-value, which is uniform if the rows are independent draws of the model and many enough for its law to
    be that of the signs. Of discrete sites they are not where neighbours of some rows are less likely than one in so
    many: the scores of these are so large that what no row has carries the mean, and p-values are far too small.
    """

    while_training: bool
    rows: Literal["held_out", "chains"]
    count: Annotated[int, Field(ge=4, le=10_000)]
    bootstraps: Annotated[int, Field(ge=19)]
    scale: Annotated[float, Field(gt=0)] | None
    common: Annotated[float, Field(ge=0), Later(0.0)]

    standing = 75
    reports = ("stein/discrepancy", "stein/p_value", "stein/rows", "stein/least_neighbour")

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """What the p-value says."""
        if not values.has(*cls.reports):
            return {}
        found, p, rows, least = (values[name] for name in cls.reports)
        said = f"{found:.3g}, p = {p:.2g}: {rows:.0f} rows {_verdict(p)}"
        trusted = f"{found:.3g}; its p = {p:.2g} cannot be trusted" if least < 1 / rows else said
        return {f"Stein discrepancy ({split})": trusted}

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Scores are those of discrete sites and of real numbers without walls, where the density goes to 0."""
        if isinstance(model.space, Discrete) or (isinstance(model.space, Real) and not isinstance(model.space, Box)):
            return None
        return f"it has no Stein operator for {model.space.name} data"

    @override
    def evaluate(self, subject: Subject) -> Result:
        """`stein/discrepancy`, `stein/p_value`, `stein/rows` and `stein/least_neighbour`."""
        x = subject.some_rows(self.count) if self.rows == "held_out" else subject.store[: self.count]
        if self.rows == "chains" and not len(x):
            return Result(
                {}, warnings=("stein.rows = chains: this run keeps none; take evaluation.stein.rows=held_out",)
            )
        if len(x) < 4:
            return Result({}, warnings=(f"{len(x)} rows are too few for a Stein discrepancy; it needs at least 4",))
        terms, unlikely = self._terms(subject.model, x)
        if not terms.isfinite().all():
            return Result({}, warnings=("some rows have no finite score, so there is no Stein discrepancy",))
        p = wild_bootstrap(terms, self.bootstraps, subject.key.fold("signs"))
        found = {"discrepancy": mean_of_pairs(terms), "p_value": p, "rows": float(len(x)), "least_neighbour": unlikely}
        return Result(
            {f"stein/{name}": value for name, value in found.items()},
            warnings=(_too_few(unlikely, len(x)),) if unlikely < 1 / len(x) else (),
        )

    def _terms(self, model: EnergyModel, x: Tensor) -> tuple[Tensor, float]:
        """And the least probability of a neighbour of a row, as a share of the row's; 1 of real numbers."""
        if isinstance(model.space, Discrete):
            score = difference_scores(model, x)
            rows = one_hot(model.space, x)
            return discrete_terms(rows, score, self.scale or 1.0, self.common), 1 - score.max().item()
        return real_terms(x.flatten(1), -model.energy_and_grad(x)[1].flatten(1), self.scale), 1.0


def _verdict(p: float) -> str:
    if p < _LEVEL:
        return "are not draws of the model"
    return "cannot be told from draws of the model by this kernel; one of another evaluation.stein.scale may tell them"


def _too_few(unlikely: float, rows: int) -> str:
    return (
        f"a neighbour of a row is {unlikely:.1g} times as likely as the row, less than one in {rows} rows: p of the "
        "Stein discrepancy may be far too small; a discrepancy can be compared, of the same rows under other models"
    )


def one_hot(space: Discrete, x: Tensor) -> Tensor:
    """x (n, *shape) as (n, D, K)."""
    if isinstance(space, Categorical):
        return space.table(x)
    return F.one_hot(space.decode(x).flatten(1).long(), space.values).to(x.dtype)


@torch.no_grad()
def difference_scores(model: EnergyModel, x: Tensor) -> Tensor:
    """1 - p(x with x_i + 1) / p(x), (n, D) float64, from the conditionals of the model; values go in a circle."""
    sites, space = model.sites(x), cast(Discrete, model.space)
    found = x.new_zeros(len(x), space.sites, dtype=torch.float64)
    for site in range(space.sites):
        if isinstance(sites, TwoValuedSites):
            logit = sites.logit(site).double()
            up = 1 - 2 * cast(TwoValued, space).bits(x).flatten(1)[:, site].double()
            found[:, site] = 1 - (up * logit).exp()
        else:
            logits = cast(Any, sites).logits(site).double()
            here = cast(Categorical, space).table(x)[:, site].double()
            found[:, site] = 1 - ((logits.roll(-1, 1) - logits) * here).sum(1).exp()
    return found
