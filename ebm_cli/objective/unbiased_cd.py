"""Maximum likelihood by gradients without bias: pairs of chains that meet (Qiu, Zhang & Wang, ICLR 2020)."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PlainValidator
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import Blocked, EnergyModel, Gradients
from ebm_cli.objective.base import Batch, Gradient, Objective, penalised, refusal_of_penalties
from ebm_cli.registry import Nested, register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.sampler.base import Sampler
from ebm_cli.sampler.coupled import Window, coupled
from ebm_cli.sampler.kernel import choose, exact, refusal_of_space
from ebm_cli.space import Binary, Categorical, Space, Spin

_AT = "objective.kernel"
_PIECE = 10_000  # points whose energies are differentiated at once


@register("objective", "unbiased_cd")
class UnbiasedCD(Objective):
    """loss = mean E(x) - mean H of E over pairs of chains, whose gradient has that of -log p(x) as its mean.

    Each pair starts from two rows of the batch, takes steps of `kernel` by the same random numbers, and gives
    H = E(X_k) + sum_{t = k+1..tau-1} (E(X_t) - E(Y_{t-1})), tau when it meets (`sampler/coupled.py`); with `m` above
    `k` the mean of that over up to 20 steps from k to m. A larger k and m cost steps and lessen the noise. Pairs that
    have not met after `max_steps` are cut off there, which is a bias: `unmet` is their share, `meeting_time` the mean
    tau of the others. `coupling_l1` and `coupling_l2` add coupling_l1 * sum |J| and coupling_l2 * sum J^2 over the
    couplings of models that have some. The chains of the run have no part in it.
    """

    kernel: Annotated[Sampler[Any, Any], PlainValidator(partial(exact, at=_AT)), Nested("sampler")]
    k: Annotated[int, Field(ge=0)]
    m: Annotated[int, Field(ge=0)]
    max_steps: Annotated[int, Field(ge=1)]
    coupling_l1: Annotated[float, Field(ge=0)]
    coupling_l2: Annotated[float, Field(ge=0)]

    spaces = (Binary, Spin, Categorical)
    ways: ClassVar[Mapping[str, str]] = {"gap": "take more objective.k, or a lower optimizer.lr"}
    chosen_as = ("unbiased_cd",)

    @classmethod
    @override
    def chosen_for(cls, model: type[EnergyModel], spaces: Collection[type[Space]]) -> tuple[str, ...]:
        """Where the kernel as shipped can move the model."""
        return cls.chosen_as if issubclass(model, Blocked) else ()

    @property
    @override
    def differentiates(self) -> bool:
        """Not compiled: how long chains go on is known when they have met."""
        return True

    @override
    def refusal(self) -> str | None:
        """k, m and max_steps rise."""
        if self.k <= self.m <= self.max_steps:
            return None
        return f"objective.k = {self.k}, objective.m = {self.m}: must rise to objective.max_steps = {self.max_steps}"

    @override
    def refusal_of_model(self, model: type[EnergyModel]) -> str | None:
        """The kernel must be able to move it, and a penalty on couplings needs some."""
        for need in self.kernel.needs:
            if not issubclass(model, need):
                return f"{_AT} wants a {need.called} model; {choose(_AT)}, sampler@{_AT}=gibbs moves any discrete model"
        return refusal_of_penalties(model, coupling_l1=self.coupling_l1, coupling_l2=self.coupling_l2)

    @override
    def refusal_of_space(self, space: Space) -> str | None:
        """The kernel must move in it."""
        return refusal_of_space(self.kernel, space, _AT)

    @override
    def refusal_of_batch(self, batch_size: int) -> str | None:
        """A pair starts from two rows."""
        return None if batch_size > 1 else "objective=unbiased_cd: pairs start from two rows; take batch_size=2 or more"

    @torch.no_grad()
    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """One pass over the rows and all points of the pairs that have a weight."""
        assert isinstance(key, Key)
        n, total = len(batch.x), _Total(model)
        total.add(batch.x, torch.full((n,), 1 / n, device=batch.x.device))
        total.flush()
        of_data = total.loss
        times = coupled(
            self.kernel,
            model,
            (batch.x, batch.x.roll(1, 0)),
            Window(self.k, self.m, self.max_steps),
            key.after(batch.first),
            lambda x, weight, which: total.add(x, -weight / n),
        )
        total.flush()
        met = (times > 0).to(of_data)
        metrics = {
            "loss": total.loss,
            "energy_data": of_data,
            "energy_chains": of_data - total.loss,
            "energy_gap": total.loss,
            "meeting_time": times.to(of_data).sum() / met.sum().clamp_min(1),
            "unmet": 1 - met.mean(),
        }
        return Gradient(total.gradient, metrics, {})

    @torch.no_grad()
    @override
    def finish(self, model: EnergyModel, gradient: Gradient) -> Gradients:
        return penalised(model, gradient.parameters, self.coupling_l1, self.coupling_l2)


class _Total:
    """Sums of weight times E and of weight times dE/dtheta over points, some at a time: pairs may go on for long."""

    def __init__(self, model: EnergyModel) -> None:
        self.model, self.gradient, self.loss = model, Gradients(), torch.zeros(())
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.rows = 0

    def add(self, x: Tensor, weight: Tensor) -> None:
        """Points x (some, *shape) with their weights (some,)."""
        self.kept.append((x, weight.to(x)))
        self.rows += len(x)
        if self.rows >= _PIECE:
            self.flush()

    def flush(self) -> None:
        """All that were given are in the sums."""
        if not self.kept:
            return
        x, weight = (torch.cat(parts) for parts in zip(*self.kept, strict=True))
        energy, pull = self.model.energy_vjp(x)
        self.loss = self.loss.to(energy) + weight @ energy
        for name, value in pull(weight).items():
            self.gradient[name] = self.gradient[name] + value if name in self.gradient else value
        self.kept, self.rows = [], 0
