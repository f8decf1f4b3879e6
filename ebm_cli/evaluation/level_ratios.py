"""log Z of a leveled model: replicas that exchange levels, from noise and from rows; Bennett's ratio of neighbours."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.acceleration import full_arithmetic
from ebm_cli.device.engine import Work
from ebm_cli.evaluation.ais import likelihood, unnormalised
from ebm_cli.evaluation.base import Evaluation, Result, Subject, likelihoods, starts, without_density
from ebm_cli.evaluation.baseline import above_independent
from ebm_cli.evaluation.table import Numbers, likelihood_lines
from ebm_cli.evaluation.trajectory import Seen, influence, lag, of_all, overlaps
from ebm_cli.log_z.level_path import LevelPath
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.level_ladder import ladder_of
from ebm_cli.model.levels import Leveled, per_row
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.level_exchange import Exchange, LevelExchange
from ebm_cli.terminal import followed

_BAND = 1.96  # standard errors to either side: 95 % of a normal law
_OVERLAP = 0.03
_BEHIND, _SURE = 0.1, 3  # nats of lag, and its standard errors
_APART = 1.0  # nats between what chains of the two starts say, from which on it is said


class Found(NamedTuple):
    """Ratios log Z_(k-1) / Z_k of neighbours, from the last level down, (K - 1,), and the interval of their sum."""

    ratios: Tensor
    low: float
    high: float

    @property
    def sum(self) -> float:
        """Over all levels."""
        return self.ratios.sum().item()


@register("evaluation", "level_ratios")
class LevelRatios(Evaluation):
    """log Z = log Z_(K-1) + sum_k log Z_(k-1) / Z_k over the levels k = K - 1, ..., 1 of a leveled model.

    The last level is a Gaussian. `chains` replicas of `sampler=level_exchange` at each level begin as walks from noise,
    and as many as held-out rows with the noise of their level; they make `warmup` rounds and `rounds` that count. Each
    ratio is Bennett's (1976, eq. 12a) of the draws of both levels, all rounds and all chains.

    The 95 % interval is 1.96 standard errors to either side, by the linear influence of each chain, as in
    `evaluation=trajectory`; `log_z_low` and `log_z_high` are the ends of three together: of all chains, of those from
    noise, and of those from rows. `starts` is log Z by those from rows less that by those from noise: chains that keep
    to where they began differ. `overlap` and `lag` are those of `trajectory`, `acceptance` the least share of exchanges
    that were taken. Where neighbours have next to nothing in common there is no estimate. A place that neither start
    leads to is missed.
    """

    while_training: bool
    chains: Annotated[int, Field(ge=2)]
    warmup: Annotated[int, Field(ge=0)]
    rounds: Annotated[int, Field(ge=1)]

    moves_anywhere = True

    standing = 33
    reports = likelihoods(
        "level_ratios", "log_z", "log_z_low", "log_z_high", "bits_per_dimension", "starts", "overlap", "lag",
        "acceptance",
    )  # fmt: skip

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The log-likelihood and log Z."""
        return likelihood_lines(values, "level_ratios", split)

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """There must be levels, and replicas at them."""
        if not isinstance(model, Leveled):
            return "it goes along levels of noise, which this model has not; take evaluation=[log_likelihood]"
        if not isinstance(sampler, LevelExchange):
            return "its chains exchange levels, which this sampler does not do; add sampler=level_exchange"
        return None

    @property
    @override
    def work(self) -> Work:
        return Work(2 * self.chains * (self.warmup + self.rounds), self.warmup + self.rounds)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`level_ratios/...`, and each pair of levels in level_ratios.csv."""
        log_f = unnormalised(subject.model, subject.held_out)
        lost = without_density(log_f)
        if lost:
            return Result({}, warnings=(f"{lost}: no figures are given",))
        model = full_arithmetic(subject.model, subject.device)
        assert isinstance(model, Leveled)
        seen = self._seen(model, subject)
        if not (seen.up.isfinite().all() and seen.down.isfinite().all()):
            return Result({}, warnings=("chains come to where a level has no density: no figures are given",))
        noise, rows = (of(seen, chains) for chains in (slice(None, self.chains), slice(self.chains, None)))
        every = of(seen, slice(None))
        overlap, (behind, unsure) = overlaps(seen, every.ratios), lag(seen, every.ratios)
        about = {
            "level_ratios/starts": rows.sum - noise.sum,
            "level_ratios/overlap": overlap.min().item(),
            "level_ratios/lag": behind,
            "level_ratios/acceptance": seen.acceptance.min().item(),
        }
        files = {"level_ratios.csv": _listed(seen, {"noise": noise, "rows": rows}, overlap)}
        if overlap.min() < _OVERLAP:
            return Result(about, warnings=(f"{_little(overlap)}: no other figures are given",), files=files)
        doubts = [_late(behind)] * (behind > max(_BEHIND, _SURE * unsure))
        doubts += [_apart(noise.sum, rows.sum)] * (abs(rows.sum - noise.sum) > _APART)
        last = LevelPath(model, subject.sampler).log_z_base
        log_z, three = last + every.sum, (every, noise, rows)
        metrics = {
            **likelihood("level_ratios", subject.held_out, log_f, log_z),
            **above_independent("level_ratios", subject, subject.held_out, log_f - log_z),
            "level_ratios/log_z_low": last + min(one.low for one in three),
            "level_ratios/log_z_high": last + max(one.high for one in three),
            **about,
        }
        by_row = {"level_ratios/log_likelihood": log_f - log_z}
        return Result(metrics, warnings=tuple(doubts), files=files, by_row=by_row)

    def _seen(self, model: Leveled, subject: Subject) -> Seen:
        """u of the draws of all rounds that count, chains from noise first."""
        sampler, key = subject.sampler, subject.key.fold("level_ratios")
        assert isinstance(sampler, LevelExchange)
        exchange = Exchange(ladder_of(model), sampler.kernel, sampler.transitions)
        data = starts(subject.held_out, self.chains, key.fold("starts"))
        x = torch.cat([exchange.begun(self.chains, key.fold("begun")), with_noise(model, data, key.fold("noise"))])
        looks, taken = list[tuple[Tensor, Tensor]](), list[Tensor]()
        for number in followed(range(self.warmup + self.rounds), "level_ratios: round"):
            x, swaps = exchange.round(x, number, key.fold("round", number))
            if number >= self.warmup:
                looks.append(exchange.differences(x))
                taken.append(2 * swaps.double().mean(0))  # a pair is tried every other round
        up, down = (torch.stack([look[i].T.cpu() for look in looks], 1) for i in (0, 1))
        return Seen(up, down, torch.stack(taken).mean(0).cpu())


def with_noise(model: Leveled, x: Tensor, key: Key) -> Tensor:
    """w of `LevelLadder`, (chains, K, *shape), the last level first: rows x (chains, *shape) with the noise of each."""
    found = list[Tensor]()
    for k in range(model.levels - 1, -1, -1):
        level = torch.full((len(x),), k, dtype=torch.int64, device=x.device)
        noised = model.noised(x, level, rng.normal(x.shape, key.fold(k), x.device, x.dtype))
        found.append(model.mean + (noised - model.mean) / per_row(model.stretch[level], x))
    return torch.stack(found, 1)


def of(seen: Seen, chains: slice) -> Found:
    """What these chains say alone."""
    own = Seen(seen.up[..., chains], seen.down[..., chains], seen.acceptance)
    ratios = of_all(own)
    error = _BAND * influence(own, ratios).square().sum().sqrt().item()
    total = ratios.sum().item()
    return Found(ratios, total - error, total + error)


def _listed(seen: Seen, found: Mapping[str, Found], overlap: Tensor) -> str:
    """A line for each pair of levels, the last one first."""
    lines = [",".join(["level", "next", "exchanges", "overlap", *(f"log_ratio_{name}" for name in found)])]
    pairs = len(overlap)
    for k in range(pairs):
        ratios = [f"{one.ratios[k].item():.6g}" for one in found.values()]
        shares = [f"{value[k].item():.6g}" for value in (seen.acceptance, overlap)]
        lines.append(",".join([str(pairs - k), str(pairs - k - 1), *shares, *ratios]))
    return "\n".join(lines) + "\n"


def _little(overlap: Tensor) -> str:
    k = len(overlap) - int(overlap.argmin())
    return f"levels {k} and {k - 1} have little in common (overlap {overlap.min():.2g})"


def _late(behind: float) -> str:
    return f"replicas lag behind their levels by {behind:.2g} nats; raise evaluation.level_ratios.warmup"


def _apart(noise: float, rows: float) -> str:
    return (
        f"chains that began as rows have {rows - noise:+.2g} nats of log Z beside those from noise: they keep to where "
        "they began; raise evaluation.level_ratios.warmup and .rounds"
    )
