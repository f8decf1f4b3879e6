"""Draws of some sites of each row given the others, and what is known of each site by them."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_cli import rng
from ebm_cli.acceleration import full_arithmetic
from ebm_cli.evaluation.base import Subject
from ebm_cli.model.base import Blocked, Conditional, EnergyModel, Intractable, Normalised
from ebm_cli.model.given import Given, space_of
from ebm_cli.model.levels import Leveled
from ebm_cli.rng import Key
from ebm_cli.sampler.adaptation import adapted, adapts
from ebm_cli.sampler.base import Sampler, followed
from ebm_cli.space import Categorical, Counts, Words

QUANTILES = (0.025, 0.25, 0.5, 0.75, 0.975)
_LOOKS = 50  # at each chain, in the second half of its steps
_NUMBERS = 2**25  # of draws that are looked at together
_FEWEST = 4  # looks from which on halves of chains have variances


class Group(NamedTuple):
    """Some rows of as many sites to draw: their numbers (rows,), these sites (rows, m), whole configurations where the
    chains ended (rows, n, *site_shape), and at each look what was there (looks, rows, n, m), as data files hold it."""

    rows: Tensor
    where: Tensor
    ends: Tensor
    looks: NDArray[np.float64]


class Cells(NamedTuple):
    """What is known of sites, (sites,) each, `quantiles` (sites, 5); `r_hat` nan where no chain ever moved; `share` is
    how often the mode was drawn."""

    mean: NDArray[np.float64]
    mode: NDArray[np.float64]
    share: NDArray[np.float64]
    quantiles: NDArray[np.float64]
    r_hat: NDArray[np.float64]


def refusal(model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
    """Why sites of this model cannot be drawn given others by this sampler, with the way out; or None."""
    if isinstance(model.space, Counts):
        return "documents are drawn given words: name these, given=[WORD,...]"
    if isinstance(model, Intractable):
        return "this model has no density of some of its sites given any others; take another run"
    if _is_exact(model):
        return None
    if model.no_conditionals is not None:
        return f"{model.no_conditionals}; take another run"
    blocks = any(issubclass(need, Blocked) for need in sampler.inner.needs)
    if not sampler.draws_given or (blocks and not (isinstance(model, Blocked) and model.sweeps_given)):
        way = "sampler=level_exchange" if isinstance(model, Leveled) else "another one (see: ebm list sampler)"
        return f"this sampler moves whole configurations alone; take {way}"
    return None


def _is_exact(model: EnergyModel) -> bool:
    """Whether draws take no chains."""
    return isinstance(model, Conditional) or (isinstance(model, Normalised) and model.independent)


def refusal_of(missing: Tensor, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
    """Why the sites missing (rows, sites) cannot be drawn, such as a key that does not suit so few of them; or None."""
    space = model.space
    if isinstance(space, Words) and missing[:, :-1].any():
        return "this model draws the last word of a row alone, given those before it; give all others"
    if _is_exact(model):
        return None
    for number in sorted({*missing.sum(1).tolist()} - {0}):
        found = sampler.refusal(space_of(space, number))
        if found:
            return found.replace(f"the data have {number} sites", f"a row has {number} to draw")
    return None


class Wanted(NamedTuple):
    """So many chains of each row after so many steps; of words and categories one value may `never` be drawn."""

    n: int
    steps: int
    never: int | None = None


@torch.no_grad()
def draws(subject: Subject, known: Tensor, missing: Tensor, wanted: Wanted) -> Iterator[Group]:
    """n chains for each row of known (rows, *shape), of its sites missing (rows, sites), after so many steps.

    Rows with as many sites to draw are moved together, from noise. The first half of the steps is a warm-up, in which a
    sampler that adapts finds its step size. Where sites are independent draws are exact, and take no steps.
    """
    n, counts, model = wanted.n, missing.sum(1), full_arithmetic(subject.model, subject.device)
    for sites in sorted({*counts.tolist()} - {0}):
        rows = (counts == sites).nonzero().squeeze(1)
        at_once = max(1, subject.device.engine.rows // (n * subject.sampler.replicas))
        at_once = min(at_once, max(1, _NUMBERS // (_LOOKS * n * sites)))
        for number, part in enumerate(rows.split(at_once)):
            where = missing[part].nonzero()[:, 1].reshape(len(part), sites)
            left_out = wanted.never if isinstance(model.space, Categorical) else None
            given, key = Given(model, known[part], where, left_out), subject.key.fold(sites, number)
            yield _group(given, part, subject.sampler, wanted, key)


def _group(given: Given, rows: Tensor, sampler: Sampler[Any, Any], wanted: Wanted, key: Key) -> Group:
    n = wanted.n
    space, shape = given.model.space, (len(rows), n)
    seen, whole = [], given.known
    for x in _exact(given, wanted, key) or _moved(given, sampler, n, wanted.steps, key):
        whole = space.as_data(given.filled(x))
        sites = whole.flatten(1).gather(1, given.each(given.where, len(whole)))
        seen.append(sites.double().cpu().numpy().reshape(*shape, -1))
    return Group(rows, given.where, whole.reshape(*shape, *space.site_shape), np.stack(seen))


def _exact(given: Given, wanted: Wanted, key: Key) -> list[Tensor]:
    """Draws without steps, each of all chains; none where they take some."""
    model, n, keys = given.model, wanted.n, [key.fold("exact", i) for i in range(_LOOKS)]
    if isinstance(model, Conditional):
        rows = given.each(given.known, len(given.known) * n)
        return [given.picked(_last_words(model, rows, wanted.never, key)) for key in keys]
    if not (isinstance(model, Normalised) and model.independent):
        return []
    if given.never is not None:
        return [given.swept(model, given.noise(n, key), key, backwards=False) for key in keys]
    return [given.picked(model.sample(len(given.known) * n, key)) for key in keys]


def _last_words(model: Conditional, x: Tensor, never: int | None, key: Key) -> Tensor:
    """x (chains, words) with the last word of each drawn given its context, any but one."""
    scores = model.scores(x[:, :-1])
    if never is not None:
        scores = scores.index_fill(1, torch.tensor([never], device=scores.device), -math.inf)
    last = rng.inverted(scores, rng.uniform((len(x), 1), key, x.device)[:, -1].double())
    return torch.cat([x[:, :-1], last[:, None].to(x.dtype)], 1)


def _moved(given: Given, sampler: Sampler[Any, Any], n: int, steps: int, key: Key) -> Iterator[Tensor]:
    """Where the chains are at each look."""
    x = given.noise(n, key.fold("noise"))
    warm = steps // 2
    if adapts(sampler) and warm:
        sampler, x = adapted(sampler, given, x, warm, key.fold("adapt"))
        steps, warm = steps - warm, 0
    looks = sorted({warm + math.ceil((i + 1) * (steps - warm) / _LOOKS) for i in range(_LOOKS)})
    return followed(sampler, given, x, [key.fold("steps", i) for i in range(steps)], looks)


def cells(looks: NDArray[np.float64], *, whole: bool | NDArray[np.bool_]) -> Cells:
    """Of draws (looks, rows, n, m): mean, mode, quantiles and R-hat of each site, row by row.

    Numbers that are `whole`, all or those of (rows m,), have quantiles among them, and the most frequent as mode; of
    real ones the mode is that of the half sample (Bickel & Fruehwirth 2006).
    """
    looks = np.moveaxis(looks, 2, 1).reshape(len(looks), looks.shape[2], -1)  # (looks, n, sites)
    drawn = looks.reshape(-1, looks.shape[2])
    whole = np.broadcast_to(whole, drawn.shape[1])
    quantiles, mode = np.empty((drawn.shape[1], len(QUANTILES))), np.empty(drawn.shape[1])
    if whole.any():
        quantiles[whole] = np.quantile(drawn[:, whole], QUANTILES, axis=0, method="inverted_cdf").T
        mode[whole] = _most_frequent(drawn[:, whole])
    if not whole.all():
        quantiles[~whole] = np.quantile(drawn[:, ~whole], QUANTILES, axis=0).T
        mode[~whole] = half_sample_mode(drawn[:, ~whole])
    return Cells(drawn.mean(0), mode, (drawn == mode).mean(0), quantiles, r_hat(looks))


def _most_frequent(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    values = np.unique(drawn)
    found: NDArray[np.float64] = values[np.stack([(drawn == value).sum(0) for value in values]).argmax(0)]
    return found


def half_sample_mode(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of draws (draws, sites): the shortest interval that holds half of them, of these again, until two are left."""
    left = np.sort(drawn, axis=0)
    while len(left) > 2:
        half = -(-len(left) // 2)
        first = (left[half - 1 :] - left[: len(left) - half + 1]).argmin(0)
        left = np.take_along_axis(left, first + np.arange(half)[:, None], 0)
    found: NDArray[np.float64] = left.mean(0)
    return found


def r_hat(looks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Potential scale reduction of halves of chains (looks, n, sites), (sites,) (Gelman et al. 2013, sec. 11.4).

    sqrt(((N - 1) W / N + B / N) / W): W is the mean variance within halves of N looks, B / N the variance of their
    means. nan where no chain moved and all are alike, or where there are too few looks; inf where they stand apart.
    """
    half = len(looks) // 2
    if half * 2 < _FEWEST:
        return np.full(looks.shape[2], np.nan)
    parts = np.concatenate([looks[:half], looks[-half:]], 1)
    within, between = parts.var(0, ddof=1).mean(0), parts.mean(0).var(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: NDArray[np.float64] = np.sqrt((half - 1) / half + between / within)
    return found
