"""Training of a latent energy-based model: the bound of its encoder, with persistent chains of codes for log Z."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PlainValidator
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.latent_ebm import LatentEBM, Recognition
from ebm_cli.noise.base import Noise
from ebm_cli.objective.base import Auxiliary, Batch, Gradient, Objective, slopes
from ebm_cli.registry import Nested, register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.sampler.kernel import exact
from ebm_cli.space import Binary, Box, Real

_ENCODER = "encoder."  # of the names of its parameters


class Codes(Auxiliary):
    """Persistent chains of codes, (chains, dim), which begin as the normal law."""

    z: Tensor

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.register_buffer("z", z)

    @property
    @override
    def of_rows(self) -> list[Tensor]:
        return [self.z]


@register("objective", "latent_pcd")
class LatentPCD(Objective):
    """-E_q[log p(x | z) - E(z)] - H(q) - E_chains[E(z)], the bound of q(z | x) on -log p(x), whose log Z has for
    gradient that of the last term (Pang et al. 2020, eq. 7 to 9, with the posterior of a variational autoencoder).

    Its terms are logged apart: `reconstruction`, the mean of log p(x | z); `kl`, of q from the normal law;
    `energy_data` and `energy_chains`, the means of E(z) - |z|^2 / 2 over q and over the chains. The chains of codes,
    one for each row of the batch, take `k` steps of `kernel`. With `posterior_steps` the codes of rows that decoder and
    energy learn from are ends of so many steps of `posterior` on p(z | x) from draws of q, which learns as before.
    """

    kernel: Annotated[Sampler[Any, Any], PlainValidator(partial(exact, at="objective.kernel")), Nested("sampler")]
    posterior: Annotated[Sampler[Any, Any], PlainValidator(partial(exact, at="objective.posterior")), Nested("sampler")]
    k: Annotated[int, Field(ge=1)]
    posterior_steps: Annotated[int, Field(ge=0)]
    chains: Annotated[int, Field(ge=1)]

    spaces = (Box, Real, Binary)
    requires = (LatentEBM,)
    ways: ClassVar[Mapping[str, str]] = {"gap": "take more objective.k, or a lower optimizer.lr"}

    @property
    @override
    def differentiates(self) -> bool:
        return True

    @override
    def refusal_of_batch(self, batch_size: int) -> str | None:
        if self.chains == batch_size:
            return None
        return f"objective.chains = {self.chains}: must be batch_size, {batch_size}: one for each row"

    @override
    def auxiliary(self, model: EnergyModel, noise: Noise | None, key: Key) -> Codes:
        assert isinstance(model, LatentEBM)
        return Codes(model.prior.space.noise(self.chains, key))

    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """By automatic differentiation, after the chains have moved."""
        assert isinstance(model, LatentEBM)
        assert isinstance(batch.auxiliary, Codes)
        own = key.after(batch.first)
        chains = batch.auxiliary.z[batch.first : batch.first + len(batch.x)]
        ends, info = _moved(self.kernel, model.prior, chains, self.k, own.fold("prior"))
        chains.copy_(ends)
        noise = rng.normal(chains.shape, own.fold("posterior"), chains.device, batch.x.dtype)
        with torch.enable_grad():
            gradient = self._of_codes(model, batch.x, noise, ends.to(batch.x.dtype), own)
        return gradient._replace(metrics=gradient.metrics | {name: value.mean() for name, value in info.items()})

    def _of_codes(self, model: LatentEBM, x: Tensor, noise: Tensor, chains: Tensor, key: AnyKey) -> Gradient:
        """With normal `noise` (batch, dim) that makes the draws of q."""
        parameters = dict(model.named_parameters())
        loss, terms, q = bound(model, x, noise, chains)
        if not self.posterior_steps:
            return Gradient(slopes(loss, parameters), terms | {"loss": loss.detach()}, {})
        encoder = {name: p for name, p in parameters.items() if name.startswith(_ENCODER)}
        found = slopes(loss, encoder)
        z, info = _moved(self.posterior, model.posterior(x), q.at(noise).detach(), self.posterior_steps, key)
        with torch.enable_grad():
            given, beside, of_chains = model.log_given(x, z), model.prior.energy(z), model.prior.energy(chains)
            joint = (beside - given).mean() - of_chains.mean()
        found = slopes(joint, {name: p for name, p in parameters.items() if name not in encoder}) | found
        moved = {f"posterior_{name}": value.mean() for name, value in info.items()}
        moved["posterior_reconstruction"] = given.detach().mean()
        return Gradient(found, terms | moved | {"loss": loss.detach()}, {})


def bound(model: LatentEBM, x: Tensor, noise: Tensor, chains: Tensor) -> tuple[Tensor, dict[str, Tensor], Recognition]:
    """The loss with draws m + s noise of q and codes `chains` of the model; its terms, detached; and q.

    Its value is the bound on -log p(x) up to log Z and the mean energy of the chains, which depends on no draw of q.
    """
    q = model.recognise(x)
    z = q.at(noise)
    given, kl = model.log_given(x, z).mean(), q.kl().mean()
    beside, of_chains = (model.prior.energy(codes) - 0.5 * codes.square().sum(1) for codes in (z, chains))
    loss = kl - given + beside.mean() - of_chains.mean()
    terms = {"reconstruction": given, "kl": kl, "energy_data": beside.mean(), "energy_chains": of_chains.mean()}
    return loss, {name: term.detach() for name, term in terms.items()}, q


@torch.no_grad()
def _moved(sampler: Sampler[Any, Any], model: EnergyModel, z: Tensor, steps: int, key: AnyKey) -> tuple[Tensor, Info]:
    """Codes after so many steps, and Info as the mean over these."""
    state, total = sampler.init(model, z), Info()
    for i in range(steps):
        state, info = sampler.step(model, state, key.fold("move", i))
        total = {name: value / steps + total.get(name, 0.0) for name, value in info.items()}
    return state.x, total
