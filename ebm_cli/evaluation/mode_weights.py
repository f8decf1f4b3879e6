"""The weights of modes that lie far apart, where the density of the data is known: of the energy, and of samples."""

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.dataset.base import Data
from ebm_cli.dataset.density import Density
from ebm_cli.device.engine import Work
from ebm_cli.evaluation.base import Evaluation, Result, Subject
from ebm_cli.evaluation.samples import draw
from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.standstill import lost
from ebm_cli.space import Real

_ROWS_AT_ONCE = 10_000
_FAR = 0.999  # quantile of the truth's distances from the nearest centre, beyond which a sample is astray
_ALIKE = 0.01  # effective share of the truth's draws below which their weights say little


@register("evaluation", "mode_weights")
class ModeWeights(Evaluation):
    """How much of exp(-E), and of samples, is at each mode of the known density p* of the data.

    Of `draws` x ~ p* with w(x) = exp(-E(x)) / p*(x): log Z = log mean w, the mass of a mode is the sum of w over the
    draws nearest to its centre, in proportion to all, beside their share of the draws, and
    KL(p* | p) = log Z - mean log w. `ess` is (sum w)^2 / (n sum w^2), 1 where the model is the truth (as in DiffCLF,
    arXiv 2601.21025); what the model has elsewhere than at the modes is not seen by all this. `error` is half the sum
    of the differences of masses, their total variation, and `largest_error` the largest in proportion to its mode.

    `samples` chains from noise, `steps` transitions of the run's sampler each (0: none), are counted by the nearest
    centre too: `samples_error` and `samples_largest_error`, `data_error`, which as many draws of p* have, `found`, the
    number of modes with any, and `stray`, the share further from the centre than 99.9 % of the draws of p*.
    """

    while_training: bool
    draws: Annotated[int, Field(ge=2)]
    samples: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=1)]

    compared = ("mode_weights/error", "mode_weights/kl")
    reports = tuple(
        f"mode_weights/{name}"
        for name in (
            *("kl", "log_z", "ess", "error", "largest_error"),
            *("samples_error", "samples_largest_error", "data_error", "found", "stray"),
        )
    )

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Real numbers."""
        return None if isinstance(model.space, Real) else "only densities of real numbers are known mode by mode"

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        """A known density with modes."""
        known = data.truth.density
        if known is not None and known.modes is not None:
            return None
        return "modes of these data are not known; take dataset=gaussians, or points_2d with dataset.kind=gaussians25"

    @property
    @override
    def work(self) -> Work:
        return Work(self.samples * self.steps, self.steps if self.samples else 0)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`mode_weights/...`."""
        truth = subject.data.truth.density
        assert truth is not None
        x = _drawn(truth, self.draws, subject, "truth")
        log_w = -torch.cat([subject.model.energy(part) for part in x.split(_ROWS_AT_ONCE)]).double()
        log_w -= truth.log_prob(x.double())
        if not log_w.isfinite().all():
            return Result({}, warnings=("the model has no density where data are: no figures are given",))
        distance, nearest = nearest_mode(truth, x)
        expected = _shares(nearest, truth)
        log_z, share = log_w.logsumexp(0).item() - math.log(len(x)), log_w.softmax(0)
        found = {
            "kl": log_z - log_w.mean().item(),
            "log_z": log_z,
            "ess": 1 / (share.square().sum().item() * len(x)),
            **_errors("", _shares(nearest, truth, share), expected),
        }
        doubts = [_unlike(found["ess"])] if found["ess"] < _ALIKE else []
        if self.samples:
            sampled, gone = self._of_samples(subject, truth, expected, distance.quantile(_FAR).item())
            found |= sampled
            doubts += gone
        return Result({f"mode_weights/{name}": value for name, value in found.items()}, warnings=tuple(doubts))

    def _of_samples(
        self, subject: Subject, truth: Density, expected: Tensor, far: float
    ) -> tuple[dict[str, float], list[str]]:
        """What is counted of chains; why nothing is, where they are lost."""
        x, _ = draw(subject, self.samples, self.steps, "noise")
        gone = lost(x)
        if gone:
            return {}, [f"{gone}; there are no samples to count"]
        distance, nearest = nearest_mode(truth, x)
        _, of_data = nearest_mode(truth, _drawn(truth, self.samples, subject, "data"))
        return {
            **_errors("samples_", _shares(nearest, truth), expected),
            "data_error": _errors("", _shares(of_data, truth), expected)["error"],
            "found": float(len(nearest.unique())),
            "stray": (distance > far).float().mean().item(),
        }, []


def nearest_mode(truth: Density, x: Tensor) -> tuple[Tensor, Tensor]:
    """How far the nearest centre of a mode is from each row of x (n, D), and its number."""
    assert truth.modes is not None
    return torch.cdist(x.double(), truth.modes.to(x.device).double()).min(1)


def _drawn(truth: Density, count: int, subject: Subject, name: str) -> Tensor:
    return truth.sample(count, subject.key.fold(name)).float().to(subject.data.train.stored.device)


def _shares(nearest: Tensor, truth: Density, weight: Tensor | None = None) -> Tensor:
    """Of each mode, (modes,) float64."""
    assert truth.modes is not None
    weight = (
        torch.full((len(nearest),), 1 / len(nearest), dtype=torch.float64, device=nearest.device)
        if weight is None
        else weight
    )
    return torch.bincount(nearest, weight, len(truth.modes))


def _errors(prefix: str, found: Tensor, expected: Tensor) -> dict[str, float]:
    return {
        f"{prefix}error": (found - expected).abs().sum().item() / 2,
        f"{prefix}largest_error": (found / expected - 1).abs().max().item(),
    }


def _unlike(ess: float) -> str:
    return (
        f"the model is so unlike the density of the data that {100 * ess:.2g} % of its draws carry the weights: masses "
        "of modes are rough"
    )
