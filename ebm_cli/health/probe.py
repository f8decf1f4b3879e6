"""The costlier look at a run: its chains beside rows of the data, energies, hidden units."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.device.engine import Engine
from ebm_cli.health.budget import CHAINS, ROWS, Moving, transitions_of
from ebm_cli.health.stuck import stuck_share
from ebm_cli.model.base import Conditional, EnergyModel, Intractable
from ebm_cli.record.plain_json import finite
from ebm_cli.rng import Key
from ebm_cli.sampler.base import shown, transitions
from ebm_cli.space import Counts

FEW = 16
"""Chains below which chance alone could look like a fault, so that nothing is said of them."""
_PROJECTIONS = 4
_LEAST = 1e-6  # of what is compared, so that no ratio is infinite


class Seen(NamedTuple):
    """What a look sees: the model, rows (n, *shape) as its steps see them, of the training split and perhaps of the
    validation split, the stored chains (slots, ...), if any, and how they move.

    It asks for nothing that steps do not ask for, and the engine says how many chains are in flight at once.
    """

    model: EnergyModel
    train: Tensor
    valid: Tensor | None
    store: Tensor
    moving: Moving
    engine: Engine
    key: Key  # of this look alone
    fixed: Key  # of all looks of the run


def looks(model: EnergyModel) -> bool:
    """Whether a model has energies of whole configurations to look at."""
    return not isinstance(model, Intractable | Conditional)


@torch.no_grad()
def look(seen: Seen) -> dict[str, float]:
    """The signals of this moment, by name; those that are not finite are left out.

    Of rows x of the training data and negative chains y, as many of each: `apart`, mean E(x) - mean E(y) over the root
    of the sum of their variances; `offset`, |mean x - mean y|^2 beyond what so few draws give, and `breadth`, the
    variance of y, both over that of x, summed over sites; `distinct`, different y over different rows of as many x.
    `overfit`: mean energy of validation rows less that of training rows, over the standard deviation of these.
    `apart_nats` and `overfit_nats` are these differences of energies in nats. `heat`: variance of the energy of
    training rows per site, the heat capacity of a model they are draws of, where the objective compares them; of
    documents `heat_words`. `idle`: share of hidden units that are off, or on, for practically all rows. `jump`,
    `r_hat_halves`, `r_hat_data`: see `_moved`. `same`: 1 where all training rows are one.
    Documents are made alike before, see `_alike`.
    """
    x, energy, found = seen.train, _energies(seen, seen.train), dict[str, float]()
    if seen.valid is not None:
        above = _energies(seen, seen.valid).mean() - energy.mean()
        found |= {"overfit": (above / energy.std()).item(), "overfit_nats": above.item()}
    found |= {"same": 1.0} if _distinct(x) == 1 < len(x) else {}
    found |= _heat(seen, energy) if seen.moving.compares else {}
    idle = stuck_share(seen.model, x)
    if idle is not None:
        found["idle"] = idle
    if seen.moving.negatives and not 0 < len(seen.store) < FEW:
        y, moved = _negatives(seen, x)
        found |= moved | _beside(_energies(seen, y), energy) | _moments(_alike(y, seen), _alike(x, seen))
        found["distinct"] = _distinct(y) / different(x, len(y))
    return finite(found)


def still(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """`still`: 1 if energies differ from row to row as at the look before, to the last bit; else nothing."""
    same = any(now.get(name, math.nan) == before.get(name) for name in ("heat", "heat_words"))
    return {"still": 1.0} if same else {}


def _energies(seen: Seen, x: Tensor) -> Tensor:
    """E(x), (n,); of documents of D words E(x) L / D, as if each had the mean number L of words of those looked at."""
    energy = torch.cat([seen.model.energy(x[part]) for part in seen.engine.slices(len(x))]).double()
    return energy * _length(seen) / x.double().sum(1) if _documents(seen) else energy


def _documents(seen: Seen) -> bool:
    return isinstance(seen.model.space, Counts)


def _length(seen: Seen) -> Tensor:
    """The mean number of words of the documents that are looked at."""
    return seen.train.double().sum(1).mean()


def _alike(x: Tensor, seen: Seen) -> Tensor:
    """x (n, *shape) as its places are compared: of documents the share of each word, whatever their lengths."""
    return x.double() / x.double().sum(1, keepdim=True) if _documents(seen) else x


def _heat(seen: Seen, energy: Tensor) -> dict[str, float]:
    """`heat`: variance of `_energies` (n,) per site. Of documents, whose words are the sites, `heat_words`: the mean of
    D (E(x) / D - e)^2, which is that of draws of independent words; e is the energy per word of all of them."""
    if not _documents(seen):
        return {"heat": (energy.var() / seen.model.space.sites).item()}
    words, per_word = seen.train.double().sum(1), energy / _length(seen)
    beyond = per_word - (per_word * words).sum() / words.sum()
    return {"heat_words": (words * beyond.square()).mean().item()}


def _negatives(seen: Seen, x: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Some of the chains (chains, *shape) where they are, or where a step would bring those that begin anew."""
    model, moving, space = seen.model, seen.moving, seen.model.space
    if len(seen.store):
        chosen = _some(len(seen.store), ROWS, seen.fixed).to(seen.store.device)
        return shown(seen.store[chosen], space), _moved(seen, seen.store[chosen[:CHAINS]], x[:CHAINS])
    key, fresh = seen.key.fold("chains"), torch.ones(len(x), dtype=torch.bool, device=x.device)
    start = space.conformed(moving.policy.draw(x[:0], fresh, x, space, key), x, key.fold("conform"))
    keys = [seen.key.fold("sampler", i) for i in range(moving.steps)]
    end, _ = transitions(moving.sampler, model, start, keys, seen.engine)
    end = shown(end, space)
    return end, {"jump": _jump(*(_alike(each, seen) for each in (start, end, x)))}


def _moved(seen: Seen, chains: Tensor, x: Tensor) -> dict[str, float]:
    """What chains that go on a little from where they are say beside as many that begin at rows x of the data.

    `jump`: root mean square distance that they move, over that between two rows of the data. `r_hat_data`: the nested
    R-hat (Margossian et al. 2024, eq. 8, one draw of each chain) of these two groups, the worst of the energy and some
    random directions, and `r_hat_data_nats` how far the mean energy of the second lies above that of the first;
    `r_hat_halves`: of two halves of the chains.
    """
    space, model = seen.model.space, seen.model
    fresh = seen.moving.sampler.spread(x, space)
    keys = [seen.key.fold("sampler", i) for i in range(transitions_of(seen.moving.steps))]
    end, _ = transitions(seen.moving.sampler, model, torch.cat([chains, fresh]), keys, seen.engine)
    ends = shown(end, space)
    flat = _alike(ends, seen).flatten(1).to(x.dtype)
    directions = rng.normal((flat.shape[1], _PROJECTIONS), seen.fixed.fold("directions"), flat.device)
    seen_of = torch.cat([_energies(seen, ends)[:, None], (flat @ directions).double()], 1)
    own, other = seen_of[: len(chains)], seen_of[len(chains) :]
    return {
        "jump": _jump(*(_alike(each, seen) for each in (shown(chains, space), ends[: len(chains)], x))),
        "r_hat_data": nested_r_hat([own, other]),
        "r_hat_data_nats": (other[:, 0].mean() - own[:, 0].mean()).item(),
        "r_hat_halves": nested_r_hat([*own.tensor_split(2)]),
    }


def nested_r_hat(groups: Sequence[Tensor]) -> float:
    """Of groups (chains, quantities), one draw of each chain: sqrt(1 + B / W), the worst of the quantities.

    B is the variance of the means of the groups, W the mean of their variances (Margossian, Hoffman, Sountsov,
    Riou-Durand, Vehtari and Gelman 2024, eqs. 6-8), at least 1e-6 B, so that the result is at most 1000.
    """
    between = torch.stack([group.mean(0) for group in groups]).var(0)
    within = torch.stack([group.var(0) for group in groups]).mean(0)
    ratio = between / within.clamp(min=_LEAST * between)
    return (1 + ratio[between > 0]).sqrt().max().item() if (between > 0).any() else 1.0


def _beside(chains: Tensor, rows: Tensor) -> dict[str, float]:
    """Energies of both."""
    apart = rows.mean() - chains.mean()
    spread = (rows.var() + chains.var()).clamp(min=_LEAST * apart.square()).sqrt()
    return {"apart": (apart / spread).item(), "apart_nats": apart.item()} if spread else {}


def _moments(chains: Tensor, rows: Tensor) -> dict[str, float]:
    y, x = chains.flatten(1).double(), rows.flatten(1).double()
    of_y, of_x = y.var(0).sum(), x.var(0).sum()
    by_chance = of_y / len(y) + of_x / len(x)
    offset = ((y.mean(0) - x.mean(0)).square().sum() - by_chance).clamp(min=0)
    return {"offset": (offset / of_x).item(), "breadth": (of_y / of_x).item()}


def _jump(before: Tensor, after: Tensor, rows: Tensor) -> float:
    apart = 2 * rows.flatten(1).double().var(0).sum()
    return ((after - before).flatten(1).double().square().sum(1).mean() / apart).sqrt().item()


def _distinct(x: Tensor) -> int:
    return len(torch.unique(x.flatten(1), dim=0))


def different(x: Tensor, number: int) -> float:
    """How many different ones `number` of the rows x (n, ...), all of them at most, have in the mean if they are drawn
    without replacement (Hurlbert 1971): sum over the different rows of 1 - C(n - c, number) / C(n, number), c their
    counts. So few patterns that rows repeat come twice among chains too, however well these mix.
    """
    counts = torch.unique(x.flatten(1), dim=0, return_counts=True)[1].double()
    n, drawn = len(x), min(number, len(x))
    left = n - counts
    ways = (left.clamp(min=drawn) + 1).lgamma() - (left.clamp(min=drawn) - drawn + 1).lgamma()
    of_all = math.lgamma(n + 1) - math.lgamma(n - drawn + 1)
    return torch.where(left >= drawn, -torch.expm1(ways - of_all), 1.0).sum().item()


def _some(count: int, wanted: int, key: Key) -> Tensor:
    return rng.permutation(count, key.fold("slots"))[:wanted]
