"""Which sites touch in the folded protein: couplings as contact predictions."""

from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.dataset.alignment import GAPS
from ebm_cli.dataset.base import Data
from ebm_cli.evaluation.base import Evaluation, Result, Subject
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.effective import couples_categories, zero_sum_couplings
from ebm_cli.record import picture
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Categorical

_UNKNOWN = "the contacts of these data are not known, so nothing is compared; dataset.contacts=FILE names them"


@register("evaluation", "contacts")
class Contacts(Evaluation):
    """Share of true contacts among the L/5, L/2, L (and `top`) pairs of highest score, |i - j| > `separation`.

    The score of a pair is the Frobenius norm of its couplings in the zero-sum gauge (of an RBM those that its free
    energy has in effect, `model/effective.py`), without those of the value `gap`
    (auto: the letter - or . of the data's alphabet, if it has one), corrected by the average product
    S_ij - S_i. S_.j / S_.. (Ekeberg et al. 2013, eq. 22-24; Dunn, Wahl, Gloor 2008). The precision needs data that know
    their contacts (dataset=protein).
    """

    while_training: bool
    separation: Annotated[int, Field(ge=0)]
    gap: Annotated[int, Field(ge=0)] | Literal["auto"] | None
    top: Annotated[int, Field(ge=1)]

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Couplings between all pairs must be there."""
        return None if couples_categories(model) else "this model has no couplings between categorical sites"

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        """Pairs beyond `separation`, and the value that is to be the gap."""
        sites, values = data.space.sites, data.space.values if isinstance(data.space, Categorical) else 0
        if sites - 1 <= self.separation:
            most = sites - 2
            return (
                f"evaluation.contacts.separation = {self.separation}: {sites} sites have no such pairs; {most} at most"
            )
        if isinstance(self.gap, int) and self.gap >= values:
            return f"evaluation.contacts.gap = {self.gap}: the values are 0 to {values - 1}; name one of them, or null"
        return None

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`contacts/precision_...` where the truth is known, a map, and all pairs by score in contacts.csv.

        Nothing but a warning where all couplings are 0, which rank no pair.
        """
        truth = subject.data.truth.contacts
        gap, warnings = self._gap(subject.data)
        score = scores(subject.model, gap).cpu()
        if not score.isfinite().all():
            return Result({}, warnings=("all couplings are 0, so no pair has a score",))
        truth = None if truth is None else truth.cpu()
        found = ranked(score, self.separation)
        if truth is None:
            warnings += (_UNKNOWN,)
        return Result(
            {} if truth is None else self._precision(truth[found[:, 0], found[:, 1]].double(), len(truth)),
            {"contacts": contact_map(score, truth, found[: len(score)])},
            warnings,
            {"contacts.csv": _listed(found, score, truth)},
        )

    def _gap(self, data: Data) -> tuple[int | None, tuple[str, ...]]:
        """The number of the gap, and a warning where nothing says which it is."""
        if self.gap != "auto":
            return self.gap, ()
        place = next((data.letters.index(sign) for sign in GAPS if sign in data.letters), None)
        if place is not None:
            return place, ()
        have = f"the letters {data.letters} have no gap" if data.letters else "the values of these data have no letters"
        return None, (f"{have}, so the scores leave none out; evaluation.contacts.gap=NUMBER names one",)

    def _precision(self, hits: Tensor, length: int) -> dict[str, float]:
        sizes = {"l5": length // 5, "l2": length // 2, "l": length, f"top{self.top}": self.top}
        there = {name: size for name, size in sizes.items() if 0 < size <= len(hits)}
        numbers = {f"contacts/precision_{name}": hits[:size].mean().item() for name, size in there.items()}
        return numbers | {"contacts/precision_by_chance": hits.mean().item()}


def _listed(found: Tensor, score: Tensor, truth: Tensor | None) -> str:
    """Lines `i,j,score` or `i,j,score,contact`, sites counted from 1, highest score first."""
    lines = ["i,j,score" + ("" if truth is None else ",contact")]
    for i, j in found.tolist():
        lines.append(f"{i + 1},{j + 1},{score[i, j]:.6g}" + ("" if truth is None else f",{int(truth[i, j])}"))
    return "\n".join(lines) + "\n"


def scores(model: EnergyModel, gap: int | None) -> Tensor:
    """Corrected scores of all pairs, symmetric (sites, sites) with zero diagonal; NaN where all couplings are 0."""
    pairs, J = zero_sum_couplings(model)
    kept = [value for value in range(J.shape[1]) if value != gap]
    norm = J[:, kept][:, :, kept].flatten(1).norm(dim=1)
    sites = model.space.sites
    first, second = pairs.unbind(1)
    plain = norm.new_zeros(sites, sites).index_put((first, second), norm).index_put((second, first), norm)
    mean = plain.sum(1) / (sites - 1)
    return (plain - torch.outer(mean, mean) / mean.mean()).fill_diagonal_(0)


def ranked(score: Tensor, separation: int) -> Tensor:
    """Pairs i < j with j - i > separation, highest score first, (n, 2)."""
    pairs = torch.triu_indices(len(score), len(score), separation + 1).T
    return pairs[score[pairs[:, 0], pairs[:, 1]].argsort(descending=True, stable=True)]


def contact_map(score: Tensor, truth: Tensor | None, found: Tensor) -> NDArray[np.uint8]:
    """The pairs found, right and wrong, on the true contacts in grey where these are known; beside it all scores."""
    with picture.axes(1, 2) as drawing:
        left, beside = drawing.at[0]
        known = torch.zeros_like(score) if truth is None else truth.float()
        sides = (0.5, len(score) + 0.5, len(score) + 0.5, 0.5)  # sites are counted from 1
        left.imshow(known.numpy(), cmap="Greys", vmin=0, vmax=3, extent=sides)
        right = known[found[:, 0], found[:, 1]] > 0
        kinds = [(right, "tab:green", "found, a contact"), (~right, "tab:red", "found, none")]
        for chosen, colour, name in [(right | ~right, "tab:blue", "found")] if truth is None else kinds:
            i, j = found[chosen].T + 1
            left.scatter(j, i, s=14, c=colour, label=f"{name} ({len(i)})", clip_on=False)
        title = f"the {len(found)} highest scores" + ("" if truth is None else ", contacts grey")
        left.set(title=title, xlabel="site", ylabel="site")
        left.legend(loc="lower left", fontsize=8)
        limit = float(score.abs().quantile(0.995))
        shown = beside.imshow(score.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, extent=sides)
        beside.figure.colorbar(shown, ax=beside)
        beside.set(title="scores", xlabel="site")
    return drawing.pixels
