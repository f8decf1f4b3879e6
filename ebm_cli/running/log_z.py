"""log Z along the way: annealed importance sampling whose path is training itself."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.acceleration import full_arithmetic
from ebm_cli.device.engine import Work
from ebm_cli.evaluation.ais import likelihood, weight_ess
from ebm_cli.evaluation.base import Subject, on_split, without_density
from ebm_cli.evaluation.beginning import begun, refusal_to_weigh
from ebm_cli.evaluation.table import Numbers, log_z_line
from ebm_cli.functional import log_mean_exp
from ebm_cli.model.base import Conditional, EnergyModel, Intractable, Normalised
from ebm_cli.registry import register
from ebm_cli.running.base import Kept, Running
from ebm_cli.sampler.base import Sampler, transitions
from ebm_cli.sampler.rungs import resampled
from ebm_cli.space import Counts

_NO_ENERGY = "this model has no one energy of whole configurations whose log Z could be followed"
_RESAMPLE = 0.5  # effective share of the chains below which they are drawn again by their weights
_SURE = 0.975  # of each end of the band
_LEAST = 30  # looks below which nobody is told of the estimate who has not asked for it: the jumps are too large


@register("running", "log_z")
class RunningLogZ(Running):
    """Chains x_i with weights w_i, which go along with the models theta_0, theta_1, ... that training passes through.

    They begin as independent units, whose log Z is known, and are annealed to theta_0 in `temperatures` steps (Neal
    2001). At each look log w_i += E_(t-1)(x_i) - E_t(x_i), and then every chain moves `steps` transitions that leave
    p_t invariant, or of `langevin` say by how much they do not, which log w_i goes up by too (Carbone et al. 2023). So
    E[mean_i w_i] = Z_t / Z_base at any time, however far training goes between two looks and however badly the chains
    mix; log Z_t = log Z_base + log mean_i w_i errs downwards, and log-likelihoods upwards.
    Where the effective number of chains (sum w)^2 / sum w^2 falls below half of them, they are drawn again in
    proportion to w (systematic resampling) and their mean weight is kept.

    The relative variance of the mean is taken to be the sum of two estimates of it: that of sums of weights over
    chains of one ancestor, which counts what chains do not forget (Lee & Whiteley 2018), and that of the ratios of
    all looks. `running/ess` is the effective number of chains, `running/ancestors` that of their ancestors, n say: only
    so many are independent, so the band is the root of that variance times the 97.5 % quantile of Student's t with n
    degrees of freedom to either side (1.96 for many, 12.7 for one). A mode that no chain has met is in neither.

    The number of looks K is what `share` of the work of training is worth, at steps T (k / K)^2 of T, k = 1 ... K, for
    a model changes fastest when it begins. The model is the one that is evaluated: with optimizer.ema its average.
    """

    chains: Annotated[int, Field(ge=2)]
    steps: Annotated[int, Field(ge=1)]
    temperatures: Annotated[int, Field(ge=1)]
    base_mix: Annotated[float, Field(ge=0, le=1)]
    share: Annotated[float, Field(gt=0, le=1)]
    if_unfit: Literal["refuse", "skip"]

    reports = ("running/log_likelihood", "running/standard_error")

    @property
    @override
    def required(self) -> bool:
        """`if_unfit: refuse`."""
        return self.if_unfit == "refuse"

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Its energies must be known, log Z unknown, and the sampler leave it invariant."""
        why = _no_log_z(type(model)) or (_NO_ENERGY if isinstance(model.space, Counts) else None)
        return why or model.improper() or refusal_to_weigh(model, sampler)

    @override
    def refusal_of_kinds(self, model: type[EnergyModel], sampler: Sampler[Any, Any]) -> str | None:
        """By their classes."""
        known = sampler.inner.weighing() is not None
        return _no_log_z(model) or (None if known else "this sampler does not leave the model invariant")

    @override
    def looks(self, work: Work, batch_size: int) -> frozenset[int]:
        """A look is worth as many energies and moves as it takes; one of a row is taken to cost as much as a move."""
        worth = self.share * _worth(work, batch_size)
        count = int((worth - self.chains * self.temperatures) / (self.chains * (self.steps + 1)))
        least = 1 if self.required else _LEAST
        return schedule(work.updates, min(count, work.updates)) if count >= least else frozenset()

    @override
    def least_share(self, work: Work, batch_size: int) -> float:
        return self.chains * (self.temperatures + self.steps + 1) / _worth(work, batch_size)

    @override
    def is_lost(self, kept: Kept) -> bool:
        return bool(kept["lost"])

    @override
    def fits(self, kept: Kept, subject: Subject) -> bool:
        """As many chains, in the space of the model, with all that belongs to them."""
        n, space = self.chains, subject.model.space
        forms: dict[str, tuple[int, ...]] = {
            **{"x": (n, *space.shape), "energy": (n,), "log_w": (n,), "ancestor": (n,)},
            **{"log_z": (), "variance": (), "lost": ()},
        }
        if {name: tuple(tensor.shape) for name, tensor in kept.items()} != forms or not _finite(kept):
            return False
        ancestor = kept["ancestor"]
        whole = ancestor.dtype == torch.int64 and int(ancestor.min()) >= 0 and int(ancestor.max()) < n
        return whole and space.contains(kept["x"])

    @torch.no_grad()
    @override
    def begun(self, subject: Subject) -> Kept:
        """From independent units to the model."""
        n, key = self.chains, subject.key.fold("begun")
        log_w, x, log_z_base = begun(subject, n, self.temperatures, self.base_mix, key)
        at_first: dict[str, Tensor] = {
            "x": x,
            "energy": self._energy(subject, x),
            "log_w": log_w,
            "ancestor": torch.arange(n, device=x.device),
            "log_z": log_w.new_tensor(log_z_base),
            "variance": log_w.new_tensor((n / weight_ess(log_w) - 1) / n),
            "lost": log_w.new_zeros(()),
        }
        if _finite(at_first):
            return at_first
        empty = {name: torch.zeros_like(tensor) for name, tensor in at_first.items()}
        return {**empty, "x": x, "lost": torch.ones_like(at_first["lost"])}

    @torch.no_grad()
    @override
    def followed(self, subject: Subject, kept: Kept) -> Kept:
        """After one look; nothing changes any more once an energy was not finite."""
        if self.is_lost(kept):
            return kept
        log_ratio = kept["energy"] - self._energy(subject, kept["x"])
        variance = kept["variance"] + of_ratio(kept["log_w"], log_ratio)
        log_w, x, ancestor, log_z = kept["log_w"] + log_ratio, kept["x"], kept["ancestor"], kept["log_z"]
        if weight_ess(log_w) < _RESAMPLE * self.chains:
            chosen = resampled(log_w, subject.key.fold("resample"))
            x, ancestor, log_z = x[chosen], ancestor[chosen], log_z + log_mean_exp(log_w)
            log_w = torch.zeros_like(log_w)
        keys = [subject.key.fold("move", i) for i in range(self.steps)]
        kernel = subject.sampler.inner.weighing()
        assert kernel is not None
        x, info = transitions(kernel, full_arithmetic(subject.model, subject.device), x, keys)
        if "log_ratio" in info:
            worth = self.steps * info["log_ratio"].double()
            log_w, variance = log_w + worth, variance + of_ratio(log_w, worth)
        energy = self._energy(subject, x)
        found = {
            **{"x": x, "energy": energy, "log_w": log_w, "ancestor": ancestor, "log_z": log_z, "variance": variance},
            "lost": kept["lost"],
        }
        return found if _finite(found) else {**kept, "lost": torch.ones_like(kept["lost"])}

    def _energy(self, subject: Subject, x: Tensor) -> Tensor:
        return full_arithmetic(subject.model, subject.device).energy(x).double()

    @override
    def found(self, kept: Kept) -> dict[str, float]:
        """log Z, its band, and how many chains it rests on; nothing once it is lost."""
        if self.is_lost(kept):
            return {}
        log_z, share = _log_z(kept), _by_ancestor(kept)
        ancestors = weight_ess(share.log())
        half = _error(kept, share) * _quantile(ancestors)
        return {
            "running/log_z": log_z,
            "running/log_z_low": log_z - half,
            "running/log_z_high": log_z + half,
            "running/ess": weight_ess(kept["log_w"]),
            "running/ancestors": ancestors,
        }

    @torch.no_grad()
    @override
    def of_rows(self, subject: Subject, kept: Kept, x: Tensor) -> dict[str, float]:
        """Their log-likelihood and its error over rows."""
        space, log_f = subject.model.space, -self._energy(subject, x)
        if self.is_lost(kept) or without_density(log_f):
            return {}
        found = likelihood("running", subject.held_out, log_f, _log_z(kept))
        wanted = {name: found[name] for name in self.reports if name in found}
        wanted["running/log_likelihood"] -= space.log_volume
        return on_split(wanted, subject.split)


def _no_log_z(model: type[EnergyModel]) -> str | None:
    """Why models of this class have no log Z to follow, or None."""
    if issubclass(model, Normalised):
        return "log Z of this model is known"
    return _NO_ENERGY if issubclass(model, Intractable | Conditional) else None


def lines(values: Numbers, split: str) -> dict[str, str]:
    """log Z, for the last table."""
    values.leave("running/ess", "running/ancestors")
    return log_z_line(values, "running", "along the way")


def schedule(total: int, count: int) -> frozenset[int]:
    """ceil(total (k / count)^2), k = 1 ... count: steps 2 total / count apart at the end, and closer before."""
    return frozenset(-(-total * k**2 // count**2) for k in range(1, count + 1))


def of_ratio(log_w: Tensor, log_ratio: Tensor) -> Tensor:
    """Relative variance of sum_i w_i r_i / sum_i w_i, of the ratios alone: sum_i v_i^2 (r_i / r - 1)^2.

    v_i = w_i / sum w, and r is that mean; log w and log r (chains,).
    """
    v = log_w.softmax(0)
    relative = (log_ratio - (v.log() + log_ratio).logsumexp(0)).exp()
    return (v.square() * (relative - 1).square()).sum()


def _finite(kept: Kept) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in kept.values())


def _log_z(kept: Kept) -> float:
    return (kept["log_z"] + log_mean_exp(kept["log_w"])).item()


def _by_ancestor(kept: Kept) -> Tensor:
    """Share of the weight of the chains of each ancestor, (chains,)."""
    share = kept["log_w"].softmax(0)
    return torch.zeros_like(share).index_add_(0, kept["ancestor"], share)


def _error(kept: Kept, share: Tensor) -> float:
    """Standard error of log Z, where the chains of each ancestor have this share of the weight."""
    n = len(kept["log_w"])
    inherited = (n * share - 1).square().sum() / (n * (n - 1))
    return (inherited + kept["variance"]).sqrt().item()


def _quantile(ancestors: float) -> float:
    """How many standard errors the band is wide to either side, where so many ancestors are independent."""
    from scipy.special import stdtrit  # slow to import

    return float(stdtrit(ancestors, _SURE))


def _worth(work: Work, batch_size: int) -> int:
    """All moves of training, one energy of a row counted as one."""
    return work.moves + batch_size * work.updates
