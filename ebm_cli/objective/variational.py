"""Variational bound on log Z: a distribution that is drawn to the model takes the place of its chains."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import EnergyModel
from ebm_cli.noise.base import Noise
from ebm_cli.objective import adversary
from ebm_cli.objective.base import Auxiliary, Batch, Gradient, Metrics, Objective, slopes
from ebm_cli.objective.vera import Generator
from ebm_cli.registry import Later, register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Real

_ROWS = 1000  # of the noise, that q begins from


class Approximation(Auxiliary):
    """q."""

    def __init__(self, q: torch.nn.Module) -> None:
        super().__init__()
        self.q = q

    @property
    @override
    def compiles(self) -> bool:
        """It learns by automatic differentiation."""
        return False


@register("objective", "variational")
class Variational(Objective):
    """min over the model, max over q of E_data[E(x)] + E_q[-E(y)] + H(q), a bound since log Z >= E_q[-E] + H(q).

    q follows the model by minimising E_q[E] - entropy H(q), which is KL(q || p) for `entropy` 1, through its own draws:
    `q` gaussian, independent sites; flow, a normalising flow; vera, a generator with noise added, whose entropy has a
    gradient but no value (Grathwohl et al. 2021b; `vera.py`). Its start has the moments of the noise (noise=fitted:
    those of the data). The model's loss is mean E(x) - mean E(y). `gradient_penalty` adds
    gradient_penalty mean |dE/dx|^2 over the data. `latent`, `hidden`, `proposals` and `shared` are those of vera.

    The model moves at every update number `q_steps` alone, q at each: the bound is of the model as it is only once q
    has come up to it, and a model that q trails behind leaves the data for where q is not.
    """

    q: Literal["gaussian", "flow", "vera"]
    entropy: Annotated[float, Field(gt=0)]
    gradient_penalty: Annotated[float, Field(ge=0)]
    latent: Annotated[int, Field(ge=1)]
    hidden: Annotated[int, Field(ge=1)]
    proposals: Annotated[int, Field(ge=2)]
    q_steps: Annotated[int, Field(ge=1), Later(1)]
    shared: Annotated[int, Field(ge=0), Later(0)]

    spaces = (Real,)

    @property
    @override
    def places(self) -> int:
        """The row, and a draw of q, twice."""
        return 3

    @property
    @override
    def contrasts(self) -> Literal["nothing", "samples", "density"]:
        """Samples, for the start of q."""
        return "samples"

    @property
    @override
    def differentiates(self) -> bool:
        return True

    @override
    def updates(self, name: str, step: float | Tensor) -> bool:
        """q always."""
        return name.startswith("auxiliary.") or (int(step) + 1) % self.q_steps == 0

    @override
    def auxiliary(self, model: EnergyModel, noise: Noise | None, key: Key) -> Approximation:
        assert noise is not None
        rows, space = noise.sample(_ROWS, key.fold("rows")), model.space
        if self.q == "gaussian":
            return Approximation(adversary.independent(space, rows))
        if self.q == "flow":
            return Approximation(adversary.flow(space, rows, key.fold("flow")))
        sizes = (self.latent, self.hidden, self.proposals)
        return Approximation(Generator(space, *sizes, rows.cpu(), key.fold("vera"), self.shared))

    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """The model's by the draws as they are, q's through them."""
        auxiliary = batch.auxiliary
        assert isinstance(auxiliary, Approximation)
        x, key = batch.x, key.after(batch.first).fold("q")
        of_q, y, metrics = self._follow(model, auxiliary.q, len(x), key)
        parameters = dict(model.named_parameters())
        with torch.enable_grad():
            data = x.detach().requires_grad_(self.gradient_penalty > 0)
            energy, energy_q = model.energy(torch.cat([data, y.to(x.dtype)])).split([len(x), len(y)])
            loss = energy.mean() - energy_q.mean()
            total = loss
            if self.gradient_penalty:
                (slope,) = torch.autograd.grad(energy.sum(), data, create_graph=True)
                total = total + self.gradient_penalty * slope.flatten(1).square().sum(1).mean()
            found = slopes(total, parameters)
        energies = {"energy_data": energy.mean().detach(), "energy_q": energy_q.mean().detach()}
        said = {"loss": total.detach(), **energies, **metrics}
        return Gradient(found | of_q, said, {})

    def _follow(
        self, model: EnergyModel, q: torch.nn.Module, n: int, key: AnyKey
    ) -> tuple[dict[str, Tensor], Tensor, Metrics]:
        """The gradient of E_q[E] - entropy H(q) in q, draws of it, and what to log."""
        parameters = {f"auxiliary.q.{name}": p for name, p in q.named_parameters()}
        with torch.enable_grad():
            if isinstance(q, Generator):
                y, gain = q.drawn(n, key)
                loss, metrics = adversary.frozen(model, y).mean() - self.entropy * gain, {}
                loss = loss - q.proposal_gain(n, key)
            else:
                y, log_q = adversary.drawn(q, n, key)  # type: ignore[arg-type]
                energy = adversary.frozen(model, y)
                loss = energy.mean() + self.entropy * log_q.mean()
                metrics = {"entropy_q": -log_q.detach().mean(), "log_z_bound": -(energy + log_q).detach().mean()}
            return slopes(loss, parameters), y.detach(), metrics
