"""From which value on a signal speaks of a run that goes wrong: all thresholds, with their reasons.

They were chosen by runs of `scripts/zoo --part choose`; `--part judge` has others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ebm_cli.health.base import Sign


@dataclass(frozen=True)
class Limit:
    """Beyond `suspicious` and `failing` a signal is so; `below`: where it is lower; `sided`: its absolute value counts.

    `says` it in words, `way` is the way out, `why` the reason for the numbers.
    """

    suspicious: float
    failing: float
    says: str
    way: str
    why: str
    below: bool = False
    sided: bool = False

    def level(self, value: float) -> int:
        """0, 1 or 2: an index into `base.LEVELS`."""
        size = abs(value) if self.sided else value
        return sum(size < limit if self.below else size > limit for limit in (self.suspicious, self.failing))


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
        "0 at the maximum of the likelihood; healthy runs stayed within 2.5 from one look to the next", sided=True),
    "apart": Limit(
        3, 6, "data and chains are apart in energy", _MOVE,
        "two samples of one distribution have 0; healthy runs had 2.3 at most, while they learn fast", sided=True),
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
    "scatter": Limit(
        30, 1000, "chains vary much more than the data", _RATE + ", or standardise the data",
        "the same; beginnings of healthy runs had up to 14"),
    "offset": Limit(
        5, 50, "chains lie beside the data", _MOVE,
        "squared distance of the means over the variance of the data; beginnings of healthy runs had up to 2"),
    "idle": Limit(
        0.5, 0.75, "hidden units are off or on for practically all rows", _RATE + ", or fewer hidden units",
        "from a quarter on the last table warns of it too; healthy runs had none"),
    "heat": Limit(
        15, 500, "energies of rows of the data lie too far apart", _RATE + ", or smaller initial weights",
        "variance per site, of models at temperature 1 of the order of 1; healthy runs had 3.4 at most"),
    "rise": Limit(
        2, 10, "the loss is far above its beginning", _RATE + ", or optimizer.clip=10",
        "what is minimised falls, by definition"),
    "loss": Limit(
        0.5, 2, "the loss has come up again", _RATE + ", or fewer steps",
        "share of all that it had come down by; noise of healthy runs gave up to 0.13"),
    "overfit": Limit(
        4, math.inf, "energies of validation rows lie far above those of training rows: the model overfits",
        "take fewer steps, a smaller model, or more optimizer.weight_decay",
        "in standard deviations of training rows; regularised models of few proteins have 1 to 2"),
}  # fmt: skip


def signs(measured: Mapping[str, float]) -> list[Sign]:
    """What of these signals is not as it should be; `breadth` has a limit on either side."""
    values = {**measured, **({"scatter": measured["breadth"]} if "breadth" in measured else {})}
    found = [(name, limit, limit.level(values[name])) for name, limit in LIMITS.items() if name in values]
    return [
        Sign(name, level, f"{limit.says} ({_SHOWN.get(name, name)} {values[name]:.3g}); {limit.way}")
        for name, limit, level in found
        if level
    ]


_SHOWN = {"scatter": "breadth"}  # the signal of a limit that has another name
