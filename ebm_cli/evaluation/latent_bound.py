"""A lower bound on the log-likelihood of a latent energy-based model, by importance weighting."""

from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.device.engine import Work
from ebm_cli.evaluation.ais import backward, forward, weight_ess
from ebm_cli.evaluation.base import Evaluation, Result, Subject, bits_of_levels, likelihoods, standard_error
from ebm_cli.evaluation.baseline import above_independent
from ebm_cli.evaluation.bracket import WIDE, few_chains
from ebm_cli.evaluation.table import Numbers, plus_minus
from ebm_cli.functional import log_mean_exp
from ebm_cli.log_z.paths import GeometricPath
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.exponential_family import GaussianProduct
from ebm_cli.model.latent_ebm import LatentEBM
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.sampler.base import Sampler, run
from ebm_cli.sampler.latent import Latent

Count = Annotated[int, Field(ge=1)]
_AT_ONCE = 20_000  # rows and draws


class LogZ(NamedTuple):
    """Both ends of log Z of the energy of codes: AIS upwards, which errs down, and back down, which errs up."""

    low: float
    high: float
    weight_ess: float


@register("evaluation", "latent_bound")
class LatentBound(Evaluation):
    """log mean_k p(x | z_k) exp(-E(z_k)) / q(z_k | x) - log Z <= log p(x) of held-out rows, `draws` z_k of q.

    Burda, Grosse, Salakhutdinov 2016, eq. 8; `latent_bound/elbo` is the same with one draw, and the bound rises with
    their number. `latent_bound/draws_ess` is the mean over rows of the effective number of them.

    log Z of the energy of codes by AIS from the normal law with `chains` runs of `temperatures` steps of the sampler's
    kernel, `log_z_low`, which errs downwards, and by as many runs down again from chains that begin where these end and
    take `steps` more, `log_z_high`, which errs upwards where these are draws of p(z). The bound is with the higher of
    the two. `bits_per_dimension` is there for bits, and for pixels whose grey levels are spread evenly, of which it is
    a bound on those of the levels.
    """

    while_training: bool
    draws: Count
    chains: Annotated[int, Field(ge=2)]
    temperatures: Count
    steps: Annotated[int, Field(ge=0)]

    asks_for_energy = False
    standing = 30
    compared = ("latent_bound/log_likelihood",)
    reports = (
        *likelihoods("latent_bound", "log_z", "log_z_low", "log_z_high", "bits_per_dimension", "weight_ess"),
        *("latent_bound/elbo", "latent_bound/draws_ess"),
    )

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """The bound beside the one of a single draw, and both ends of log Z."""
        names = ("log_likelihood", "elbo", "log_z_low", "log_z_high")
        if not values.has(*(f"latent_bound/{name}" for name in names)):
            return {}
        _, elbo, low, high = (values[f"latent_bound/{name}"] for name in names)
        values.leave("latent_bound/log_z")
        return {
            f"lower bound on the log-likelihood ({split})": f"{plus_minus(values, 'latent_bound')} nats, "
            f"by one draw {elbo:.2f}",
            "  log Z of the codes, AIS up and down": f"{low:.3f} and {high:.3f}",
        }

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        if not isinstance(model, LatentEBM):
            return "the bound is that of a latent energy-based model, model=latent_ebm"
        return None if isinstance(sampler, Latent) else "it moves codes, by sampler=latent"

    @property
    @override
    def work(self) -> Work:
        each = 2 * self.temperatures + self.steps
        return Work(self.chains * each, each)

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`latent_bound/log_likelihood`, `latent_bound/elbo`, `latent_bound/log_z_low`, ..."""
        model, x = subject.model, subject.held_out.all()
        assert isinstance(model, LatentEBM)
        log_z = self._log_z(subject, model)
        above = max(log_z.low, log_z.high)
        log_w = log_weights(model, x, self.draws, subject.key.fold("draws"))
        bound, elbo = log_mean_exp(log_w) - above, log_w.mean(1) - above
        ess = torch.tensor([weight_ess(row) for row in log_w]).mean().item()
        metrics = {
            "latent_bound/log_likelihood": bound.mean().item(),
            **standard_error("latent_bound", bound),
            **above_independent("latent_bound", subject, x, bound),
            "latent_bound/elbo": elbo.mean().item(),
            "latent_bound/draws_ess": ess,
            "latent_bound/log_z": above,
            "latent_bound/log_z_low": log_z.low,
            "latent_bound/log_z_high": log_z.high,
            "latent_bound/weight_ess": log_z.weight_ess,
            **bits_of_levels("latent_bound", subject.held_out, bound.mean().item()),
        }
        return Result(metrics, warnings=self._warnings(log_z), by_row={"latent_bound/log_likelihood": bound})

    def _log_z(self, subject: Subject, model: LatentEBM) -> LogZ:
        """AIS up, then the same path down from chains on its ends."""
        prior, sampler, key = model.prior, subject.sampler, subject.key.fold("codes")
        assert isinstance(sampler, Latent)
        base = GaussianProduct(prior.space, torch.zeros(model.dim)).to(next(prior.parameters()))
        path, engine = GeometricPath(base, prior, sampler.kernel), subject.device.engine
        log_w, ends = forward(path, self.chains, self.temperatures, key.fold("forward"), engine)
        starts = _by_weight(ends, log_w, key.fold("choose"))
        starts, _ = run(sampler.kernel, prior, starts, self.steps, key.fold("steps"), engine)
        down = backward(path, starts, self.temperatures, key.fold("backward"), engine)
        up = path.log_z_base + log_mean_exp(log_w).item()
        return LogZ(up, path.log_z_base - log_mean_exp(down).item(), weight_ess(log_w))

    def _warnings(self, log_z: LogZ) -> tuple[str, ...]:
        more = "; raise evaluation.latent_bound.temperatures"
        few, apart = few_chains(log_z.weight_ess, self.chains), log_z.high - log_z.low
        said: tuple[str, ...] = (f"{few}{more}",) if few else ()
        if abs(apart) > WIDE:
            said += (f"log Z of the codes by AIS up and by AIS down differ by {apart:.4g} nats{more}",)
        return said


def log_weights(model: LatentEBM, x: Tensor, draws: int, key: Key) -> Tensor:
    """log p(x | z) - E(z) - log q(z | x) of so many draws z of q for each row, (rows, draws) float64."""
    found, at_once = [], max(1, _AT_ONCE // draws)
    for first in range(0, len(x), at_once):
        part = x[first : first + at_once].repeat_interleave(draws, 0)
        q = model.recognise(part)
        z = q.at(rng.normal(q.mean.shape, key.after(first).spread(draws), x.device, q.mean.dtype))
        log_w = model.log_given(part, z).double() - model.prior.energy(z) - q.log_prob(z)
        found.append(log_w.reshape(-1, draws))
    return torch.cat(found)


def _by_weight(x: Tensor, log_w: Tensor, key: Key) -> Tensor:
    """As many of x (chains, *shape) drawn by their weights."""
    return x[rng.categorical(log_w.expand(len(x), -1), key)]
