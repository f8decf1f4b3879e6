"""Samples to look at, and whether they are copies of the training data."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.acceleration import full_arithmetic
from ebm_cli.dataset.base import Data, Split
from ebm_cli.evaluation.base import Evaluation, Picture, Result, Subject, some_rows
from ebm_cli.model.base import EnergyModel, Normalised
from ebm_cli.record import picture
from ebm_cli.registry import Later, register
from ebm_cli.sampler.adaptation import adapted, adapts, recorded
from ebm_cli.sampler.base import Sampler, run
from ebm_cli.sampler.standstill import lost, stuck
from ebm_cli.space import Discrete, Real, TwoValued
from ebm_cli.yardstick.classifier import RIGHT, judge, unsure
from ebm_cli.yardstick.features import frechet, inception, kernel_distance, no_inception
from ebm_cli.yardstick.mmd import mmd, resolution
from ebm_cli.yardstick.statistics import Against, shown_by_statistics
from ebm_cli.yardstick.two_sample import FEWEST, compared, doubt

_ROWS_AT_ONCE = 10_000
_COLLAPSED = 0.05  # of the spread of held-out rows
_FAR = 4  # times the spread of the training rows: no held-out row of theirs is as far from all of them


@register("evaluation", "samples")
class Samples(Evaluation):
    """`count` chains after `steps` steps: of images a grid, and each beside its nearest training row.

    Of other rows single-site frequencies (means, of real numbers), connected pair correlations (covariances) and a
    projection, against those of the training rows.

    `start` chains goes on from the run's own chains (noise if it has none), noise starts afresh. Distances are
    Euclidean (for binary x the square root of the number of differing sites). `samples/held_out_nearest_distance` is
    the same for held-out rows, the yardstick: samples much nearer to the training data than these are copies.
    `samples/distinct` is the share that differ at all, and `samples/spread` how far they lie from their mean, relative
    to held-out rows (root mean squares): samples that are all but the same are a warning.

    With `features` of a small classifier, trained on the labelled training rows, or of an Inception network:
    Frechet and kernel distance of the samples' features from those of held-out rows, and the same of as many training
    rows, the yardstick (`_of_data`).

    With `discrepancy` m: `samples/mmd`, the squared maximum mean discrepancy of the samples to m held-out rows at most
    (`mmd.py`), and `mmd_standard_error`, what it cannot tell from 0. Its kernel is exp(-`decay` |a - b|^2), for bits
    |a - b|^2 the sites in which they differ; without a decay it is 1 / sites.

    With `two_samples` m: so many samples beside as many held-out rows (`two_sample.py`): `c2st`, the accuracy of a
    classifier that tells them apart, `precision` and `recall` by neighbourhoods, and `aats`, how often the nearest
    neighbour is of the same kind; and the same of as many training rows in the place of samples, the yardstick
    (`_of_data`).
    """

    while_training: bool
    count: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    start: Literal["chains", "noise"]
    features: Literal["none", "classifier", "inception"]
    discrepancy: Annotated[int, Field(ge=0)]
    decay: Annotated[Annotated[float, Field(gt=0)] | None, Later()]

    two_samples: Annotated[int, Field(ge=0), Later(0)]

    asks_for_energy = False

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Features need what finds them, distances more than one sample, and of rows an order among the values."""
        why = no_inception() if self.features == "inception" else None
        if why:
            return f"evaluation.samples.features = inception: {why}; use classifier"
        if self.features != "none" and self.count < 2:
            return f"evaluation.samples.count = {self.count}: distances of features need at least 2"
        fewest = min(self.count, self.two_samples)
        if self.two_samples and fewest < FEWEST:
            return f"evaluation.samples.two_samples needs at least {FEWEST} rows and samples, not {fewest}"
        return self._no_discrepancy(model) if self.discrepancy else None

    def _no_discrepancy(self, model: EnergyModel) -> str | None:
        if not isinstance(model.space, TwoValued | Real):
            return f"evaluation.samples.discrepancy = {self.discrepancy}: measures bits and real numbers; set it to 0"
        fewest = min(self.count, self.discrepancy)
        return f"evaluation.samples.discrepancy needs at least 2 rows and samples, not {fewest}" if fewest < 2 else None

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`samples/nearest_distance`, ... and pictures."""
        x, scale = draw(subject, self.count, self.steps, self.start)
        gone = lost(x)
        if gone:
            return Result({}, warnings=(f"{gone}; there are no samples to look at",))
        train = subject.data.train
        distance, neighbours = nearest(x, train)
        held_out, _ = nearest(next(subject.held_out.pieces(self.count)), train)
        space = subject.model.space
        distances, accuracy = self._distances(subject, x, train)
        spread = spread_beside(x, next(subject.held_out.pieces(_ROWS_AT_ONCE)))
        away = _away(distance, next(train.pieces(_ROWS_AT_ONCE)))
        warnings = [_ran_away(away)] if away > _FAR and not isinstance(space, Discrete) else []
        warnings += stuck(scale, subject.sampler)
        warnings += [_collapsed(spread, self.count)] if spread is not None and spread < _COLLAPSED else []
        warnings += [unsure(by) for by in accuracy.values() if by < RIGHT]
        beside = self._beside_held_out(subject, x)
        few = doubt(self._pairs(subject, x)) if self.two_samples else None
        warnings += [few] if few else []
        return Result(
            {
                "samples/nearest_distance": distance.mean().item(),
                "samples/held_out_nearest_distance": held_out.mean().item(),
                "samples/copies": (x == neighbours).flatten(1).all(1).float().mean().item(),
                "samples/distinct": float(len(x.flatten(1).unique(dim=0))) / len(x),
            }
            | ({} if spread is None else {"samples/spread": spread})
            | {f"samples/{name}": value for name, value in {**scale, **distances, **accuracy}.items()}
            | self._to_held_out(subject, x)
            | beside,
            pictures(subject.data, x, neighbours),
            tuple(warnings),
        )

    def _to_held_out(self, subject: Subject, x: Tensor) -> dict[str, float]:
        """`samples/mmd` of samples x (count, *shape)."""
        if not self.discrepancy:
            return {}
        space, y = subject.model.space, subject.some_rows(self.discrepancy)
        if isinstance(space, TwoValued):
            x, y = space.bits(x), space.bits(y)
        found = mmd(x, y, decay=self.decay)
        return {"samples/mmd": found, "samples/mmd_standard_error": resolution(y, len(x), self.decay)}

    def _beside_held_out(self, subject: Subject, x: Tensor) -> dict[str, float]:
        """`samples/c2st` ... of samples, and `_of_data` of as many training rows in their place."""
        train, n = subject.data.train, self._pairs(subject, x)
        if n < FEWEST:
            return {}
        y, key = subject.some_rows(n), subject.key.fold("two samples")
        kinds = {"": x[:n], "_of_data": some_rows(train, n, key.fold("train"))}
        found = {kind: compared(rows, y, key.fold("c2st")) for kind, rows in kinds.items()}
        return {f"samples/{name}{kind}": value for kind, values in found.items() for name, value in values.items()}

    def _pairs(self, subject: Subject, x: Tensor) -> int:
        """How many samples are beside as many held-out rows."""
        return min(self.two_samples, len(x), len(subject.data.train), len(subject.held_out))

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        if self.features != "classifier" or (data.train.labels is not None and data.test.labels is not None):
            return None
        return "features = classifier: the data have no labels to train one by; set evaluation.samples.features=none"

    def _distances(self, subject: Subject, x: Tensor, train: Split) -> tuple[dict[str, float], dict[str, float]]:
        """Of the features of samples from those of held-out rows; beside them those of as many training rows."""
        if self.features == "none":
            return {}, {}
        accuracy = {}
        if self.features == "inception":
            features = inception(subject.model.space, x.device)
        else:
            by = judge(subject.data, subject.held_out, subject.key.fold("judge"))
            features, accuracy = by.features, {"classifier_accuracy": by.accuracy}
        held_out = features(subject.held_out.all())
        order = rng.permutation(len(train), subject.key.fold("rows"))[: len(x)]
        kinds = {"": features(x), "_of_data": features(train.fixed(order))}
        found = {f"frechet_distance{kind}": frechet(rows, held_out) for kind, rows in kinds.items()}
        return found | {
            f"kernel_distance{kind}": kernel_distance(rows, held_out) for kind, rows in kinds.items()
        }, accuracy


def pictures(data: Data, x: Tensor, neighbours: Tensor) -> dict[str, Picture]:
    """`statistics` of samples x (n, *shape) that are no images, and `points` of bits that stand for such.

    Of images `samples`, and `neighbours` beside them.
    """
    if data.truth.plane is not None:
        return {"points": points(data, x), "statistics": Against(data).picture(x)}
    if shown_by_statistics(data.space):
        return {"statistics": Against(data).picture(x)}
    x = within(data, x)
    return {"samples": picture.grid(data.space, x), "neighbours": picture.beside(data.space, x, neighbours, 16)}


def within(data: Data, x: Tensor) -> Tensor:
    """Rows x as pictures show them: real numbers beyond black and white as these, where data are shades."""
    return x.clamp(0, 1) if data.shaded and type(data.space) is Real else x


def points(data: Data, x: Tensor) -> Picture:
    """Samples x (n, bits) as the points they stand for, over as many test rows."""
    code = data.truth.plane
    assert code is not None
    rows = next(data.test.pieces(len(x)))
    return picture.points({"test rows": code.points(rows), "samples": code.points(x)})


def spread_beside(x: Tensor, held_out: Tensor) -> float | None:
    """Root mean square distance of samples x from their mean, as a share of that of held-out rows; None of a single one
    and of rows that are all the same."""
    own, theirs = ((rows.flatten(1) - rows.flatten(1).mean(0)).square().sum(1).mean().sqrt() for rows in (x, held_out))
    return (own / theirs).item() if len(x) > 1 and theirs > 0 else None


def _collapsed(spread: float, count: int) -> str:
    return (
        f"the {count} samples are all but the same: they are spread {spread:.2g} times as far as held-out rows are; "
        "the model has collapsed, or its chains do not move: take a lower optimizer.lr, or another sampler"
    )


def _away(distance: Tensor, rows: Tensor) -> float:
    """Mean distance (count,) of samples from their nearest row, as a multiple of the spread of the rows.

    The distance of held-out rows from theirs would not do: it goes to 0 as rows get more, and samples of a good model
    need not follow.
    """
    flat = rows.flatten(1)
    spread = (flat - flat.mean(0)).square().sum(1).mean().sqrt()
    return distance.mean().item() / max(spread.item(), 1e-12)


def _ran_away(away: float) -> str:
    return (
        f"samples are {away:.2g} times as far from the training rows as these are from their mean: the chains have run "
        "away; standardise the data, take a lower optimizer.lr, or more steps"
    )


def sampled_exactly(subject: Subject, start: str) -> Normalised | None:
    """The model where `draw` takes no steps: it can be sampled exactly, and no chains go on."""
    goes_on = start == "chains" and len(subject.store) > 0
    return subject.model if isinstance(subject.model, Normalised) and not goes_on else None


def draw(subject: Subject, count: int, steps: int, start: str) -> tuple[Tensor, dict[str, float]]:
    """`count` positions after `steps` transitions of the subject's sampler, (count, *shape).

    One that adapts does so in the first half of the steps; the `step_size` it found is returned too, and of one that
    rejects its `acceptance`. Where no chains go on, a model that can be sampled exactly is: chains might not come to
    its support, or not move on it.
    """
    key, sampler, exact = subject.key, subject.sampler, sampled_exactly(subject, start)
    if exact is not None:
        with torch.no_grad():
            return exact.sample(count, key.fold("exact")), {}
    x = subject.model.space.noise(count, key.fold("noise"), subject.data.train.stored.device)
    if start == "chains" and len(subject.store):
        x = torch.cat([subject.store, x])[:count]
    model = full_arithmetic(subject.model, subject.device)
    found: dict[str, float] = {}
    if adapts(sampler) and steps > 1:
        sampler, x = adapted(sampler, model, x, steps // 2, key.fold("adapt"))
        steps -= steps // 2
        found = recorded(sampler)
    x, info = run(sampler, model, x, steps, key.fold("steps"), subject.device.engine, told="samples: step")
    if "acceptance" in info:
        found["acceptance"] = info["acceptance"].mean().item()
    return x, found


def nearest(x: Tensor, train: Split) -> tuple[Tensor, Tensor]:
    """Distance to the nearest row of `train`, and that row, for each row of x.

    Found by |x|^2 + |y|^2 - 2 x.y, whose rounding is then kept out of the distance.
    """
    flat = x.flatten(1)
    best, rows = torch.full((len(x),), torch.inf, device=x.device), next(train.pieces(1)).expand_as(x)
    for part in train.pieces(_ROWS_AT_ONCE):
        y = part.flatten(1)
        value, found = (flat.square().sum(1)[:, None] + y.square().sum(1) - 2 * flat @ y.T).min(1)
        closer = value < best
        best, rows = torch.where(closer, value, best), torch.where(_as_wide(closer, x), part[found], rows)
    return (flat - rows.flatten(1)).norm(dim=1), rows


def _as_wide(chosen: Tensor, x: Tensor) -> Tensor:
    """Choices (rows,) with as many dimensions as x."""
    return chosen.reshape(-1, *[1] * (x.dim() - 1))
