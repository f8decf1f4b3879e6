"""From which value on a signal speaks of a run that goes wrong: all thresholds, with their reasons.

They were chosen by runs of `scripts/zoo --part choose`; `--part judge` has others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ebm_cli.dataset import tables
from ebm_cli.dataset.base import Data
from ebm_cli.dataset.tables import Scale
from ebm_cli.health.base import Sign
from ebm_cli.health.signals import STEADY, WORDS


@dataclass(frozen=True)
class Limit:
    """Beyond `suspicious` and `failing` a signal is so; `below`: where it is lower; `sided`: its absolute value counts.

    `nats`: from so many on, that of the signal with `_nats` behind its name, it is suspicious too, see `far`. `says` it
    in words, `way` is the way out, `why` the reason for the numbers; `unit` is that of the signal.
    """

    suspicious: float
    failing: float
    says: str
    way: str
    why: str
    below: bool = False
    sided: bool = False
    nats: float = math.inf
    unit: str = ""

    def level(self, value: float) -> int:
        """0, 1 or 2: an index into `base.LEVELS`."""
        size = abs(value) if self.sided else value
        return sum(size < limit if self.below else size > limit for limit in (self.suspicious, self.failing))


FAR = 10.0
"""Nats between data and chains from which on a gap that stays is doubted; of documents as many for each 100 words."""
MET = 1.2
"""Nested R-hat up to which chains and those that begin at the data meet: a gap is then what the model has to learn."""
_CLEAR, _ABSORBING = 0.4, ("heat", "heat_words", "idle")
_BESIDE_ROWS = {"gap", "felt", "apart", "still", "jump", "offset", "breadth", "distinct", "r_hat_data"}
_DEVIATIONS = " standard deviations"
_MOVE = "take more chains.steps, another sampler, or a lower optimizer.lr"
_SHORTER = "take shorter proposals, or another sampler"
_RATE = "take a lower optimizer.lr"

LIMITS: Mapping[str, Limit] = {
    "acceptance": Limit(
        0.05, 1e-3, "chains accept hardly any proposal", _SHORTER,
        "samplers are tuned to accept 0.2 to 0.9", below=True),
    "swaps": Limit(
        0.02, 1e-3, "replicas of the chains hardly ever swap", "take more sampler.temperatures",
        "ladders are tuned to swap 0.2 to 0.6", below=True),
    "jump": Limit(
        0.05, 1e-3, "chains hardly move", "take more chains.steps, longer steps, or another sampler",
        "1 is two independent rows of the data; healthy runs had 0.13 and more", below=True),
    "gap": Limit(
        4, 12, "data and chains stay apart in energy", _MOVE,
        "0 at the maximum of the likelihood; healthy runs stayed within 2.5 from one look to the next; a model that "
        "changes slowly, in the end, has chains that follow it to some nats, unless they forget where they began",
        sided=True, nats=FAR, unit=_DEVIATIONS),
    "above": Limit(
        FAR, 10 * FAR, "data lie above the chains in energy: steps go too far, or the model is worse than its chains",
        _RATE + ", smaller initial weights, or less optimizer.momentum",
        "each nat is one by which no bound on the likelihood can be better; healthy runs had 0.2 at most, for the "
        "data are below as long as steps raise their likelihood", unit=" nats"),
    "felt": Limit(
        1, 0.01, "chains are too hot to feel the model", "take a lower sampler.noise",
        "the gap that tells them from data over their temperature; what a model may learn is of that size or more",
        below=True),
    "apart": Limit(
        3, 6, "data and chains are apart in energy", _MOVE,
        "two samples of one distribution have 0; healthy runs had 2.3 at most, while they learn fast", sided=True,
        unit=_DEVIATIONS),
    "r_hat_data": Limit(
        2.2, 3, "chains and chains that begin at the data do not meet", _MOVE,
        "1 for chains that mix; networks whose chains are short but good had up to 2"),
    "r_hat_halves": Limit(
        1.6, 3, "two halves of the chains are not in the same place", _MOVE,
        "1 for chains that mix; chance alone gave up to 1.2"),
    "distinct": Limit(
        0.75, 0.3, "many chains are the same", _RATE + ", or chains=trajectory",
        "share of different chains beside that of rows of the data; healthy runs had 0.97 and more", below=True),
    "breadth": Limit(
        0.05, 0.01, "chains vary much less than the data", _RATE + ", or another sampler",
        "variance over that of the data; healthy runs had 0.16 (counts) and more", below=True),
    "narrow": Limit(
        0.35, 0, "chains vary less than the data, and do not meet chains that begin at these",
        "take more chains.steps, or chains.restart above 0",
        "the same, where r_hat_data is above 1.2: a reservoir that nothing renews shrinks where no data are; no "
        "healthy run had less than 0.5", below=True),
    "scatter": Limit(
        30, 1000, "chains vary much more than the data", _RATE + ", or standardise the data",
        "the same; beginnings of healthy runs had up to 14"),
    "offset": Limit(
        5, 50, "chains lie beside the data", _MOVE,
        "squared distance of the means over the variance of the data; beginnings of healthy runs had up to 2"),
    "zero": Limit(
        0.5, 0.9, "the gradient is 0: no parameter moves, as of a network whose units are all off", _RATE,
        "share of steps; no healthy run had one"),
    "still": Limit(
        0.5, math.inf, "no step changes the energies of the data, as of a network whose units are all off",
        _RATE + ", or a higher one if it is tiny",
        "1 where they are the same to the last bit as at the look before; no healthy run had it"),
    "same": Limit(
        0.5, math.inf, "all rows of the data are the same, so that there is no spread to judge chains and energies by",
        "look at the data, and at what dataset.binarize makes of them", "1 where they are"),
    "idle": Limit(
        0.5, 0.75, "hidden units are off or on for practically all rows", _RATE + ", or fewer hidden units",
        "from a quarter on the last table warns of it too; healthy runs had none"),
    "heat": Limit(
        15, 500, "energies of rows of the data lie too far apart", _RATE + ", or smaller initial weights",
        "variance per site, of models at temperature 1 of the order of 1; healthy runs had 3.4 at most"),
    "heat_words": Limit(
        40, 500, "energies of documents lie too far apart", _RATE + ", or smaller initial weights",
        "the same per word; words of natural language differ more: healthy runs had 15 at most"),
    "rise": Limit(
        2, 10, "the loss is far above its beginning", _RATE + ", or optimizer.clip=10",
        "what is minimised falls, by definition"),
    "loss": Limit(
        0.5, 2, "the loss has come up again", _RATE + ", or fewer steps",
        "share of all that it had come down by; noise of healthy runs gave up to 0.13"),
    "overfit": Limit(
        4, math.inf, "energies of validation rows lie far above those of training rows: the model overfits",
        "take fewer steps, a smaller model, or more optimizer.weight_decay",
        "in standard deviations of training rows; regularised models of few proteins have 1 to 2",
        unit=_DEVIATIONS),
}  # fmt: skip


def far(mean: float, steady: float, words: float = 0.0) -> bool:
    """Whether a gap of data and chains of so many nats is one to doubt: far from 0, and so many times its own spread.

    `words`: of the documents, in the mean; 0 of rows that all have the same sites.
    """
    return abs(mean) >= FAR * max(1.0, words / WORDS) and steady >= STEADY


def clear(measured: Mapping[str, float]) -> bool:
    """Whether a model is well within the limits of what it cannot leave by itself: units that are stuck have no
    gradient, energies that are far apart and proposals that are refused no chains that could bring them together.
    Healthy runs always were."""
    moving = measured.get("acceptance", 1.0) >= LIMITS["acceptance"].suspicious / _CLEAR
    return moving and all(measured.get(name, 0.0) <= _CLEAR * LIMITS[name].suspicious for name in _ABSORBING)


def beyond(measured: Mapping[str, float]) -> float:
    """How many times as far as they may the energies of rows vary; 1 where they do not vary too far."""
    return max(1.0, *(measured.get(name, 0.0) / LIMITS[name].suspicious for name in ("heat", "heat_words")))


def signs(measured: Mapping[str, float], ways: Mapping[str, str] = MappingProxyType({})) -> list[Sign]:
    """What of these signals is not as it should be; `breadth` has a limit on either side. Where all rows are the same
    those that are judged beside the spread of rows say nothing. `ways`: the way out of some, by name, of this run."""
    known = {name: value for name, value in measured.items() if not (measured.get("same") and name in _BESIDE_ROWS)}
    values = {**known, **_of_breadth(known)}
    found = [(name, limit, _level(name, limit, values)) for name, limit in LIMITS.items()]
    scale = _scale(measured)
    signs = [
        Sign(name, level, f"{limit.says} ({_shown(name, limit, values)})" + ("" if scale else f"; {way}"))
        for name, limit, level in found
        for way in [ways.get(name, limit.way)]
        if level
    ]
    return [Sign("scale", max(sign.level for sign in signs), scale), *signs] if scale and signs else signs


def _of_breadth(known: Mapping[str, float]) -> dict[str, float]:
    """The same signal by the names of its other limits, where they apply."""
    found = known.get("breadth")
    if found is None:
        return {}
    apart = found >= LIMITS["breadth"].suspicious and known.get("r_hat_data", 1.0) > MET
    return {"scatter": found} | ({"narrow": found} if apart else {})


def of_scale(data: Data) -> dict[str, float]:
    """`scale_mean`, `scale_low` and `scale_high` of data that are far from where models of real numbers begin."""
    found = tables.scale(data)
    return {} if found is None else {f"scale_{name}": value for name, value in found._asdict().items()}


def _scale(measured: Mapping[str, float]) -> str | None:
    """What there is to say of data whose `tables.Scale` was measured, which is to blame first for all that is wrong."""
    names = [f"scale_{field}" for field in Scale._fields]
    if not measured.keys() >= {*names}:
        return None
    return f"the scale of the data may be at fault: {Scale(*(measured[name] for name in names))}"


def _level(name: str, limit: Limit, values: Mapping[str, float]) -> int:
    """By the signal in its own unit, and in nats where these count and chains are known not to forget."""
    nats, steady = values.get(f"{name}_nats", 0.0), values.get(f"{name}_steady", 0.0)
    counts = limit.nats < math.inf and values.get("r_hat_data", 1.0) > MET
    doubted = counts and far(nats, steady, values.get("words", 0.0))
    return max(limit.level(values[name]) if name in values else 0, int(doubted))


def _shown(name: str, limit: Limit, values: Mapping[str, float]) -> str:
    """The signal in its units."""
    units = ((name, limit.unit), (f"{name}_nats", " nats"))
    numbers = [f"{values[key]:.3g}{unit}" for key, unit in units if key in values]
    return f"{_CALLED.get(name, name)} {', '.join(numbers)}"


_CALLED = {"scatter": "breadth", "narrow": "breadth"}  # the signal of a limit that has another name
