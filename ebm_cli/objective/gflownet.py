"""Energy-based models and generative flow networks trained together (EB-GFN; Zhang et al., ICML 2022)."""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli.errors import UserError
from ebm_cli.model.base import EnergyModel, Gradients
from ebm_cli.model.policy import Paths, Policy, log_ratio
from ebm_cli.noise.base import Noise
from ebm_cli.objective.base import (
    Auxiliary,
    Batch,
    Gradient,
    Objective,
    penalised,
    refusal_of_penalties,
    slopes,
)
from ebm_cli.objective.likelihood import contrast
from ebm_cli.registry import Later, register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.sampler.informed import accepted
from ebm_cli.space import Binary, Categorical, Discrete, Spin

_FIRST = 1000  # configurations that log Z begins from


class Beside(Auxiliary):
    """The policy, and log Z = start + shift, of which `shift` is learned."""

    start: Tensor
    undecayed = ("shift",)

    def __init__(self, policy: Policy, start: Tensor) -> None:
        super().__init__()
        self.policy = policy
        self.register_buffer("start", start)
        self.shift = nn.Parameter(torch.zeros_like(start))

    @property
    @override
    def compiles(self) -> bool:
        """It learns by automatic differentiation."""
        return False

    @override
    def log_z(self) -> Tensor:
        return self.start + self.shift


@register("objective", "gflownet")
class GFlowNet(Objective):
    """A policy that fills configurations site by site learns the model, whose negatives come by moves of the policy.

    The policy and log Z minimise trajectory balance, the mean of (log Z + log P_F(path) - log P_B(path) + E(x))^2 over
    paths from nothing to x (their eq. 5): `data_share` of them backwards from rows of the data by P_B, the others
    forwards by P_F mixed with a share `explore` of uniform additions. Where it is 0 for all paths the draws of the
    policy have the law exp(-E) / Z. `backward` says whether P_B is learned or uniform, `widths` are the layers of the
    policy's network. The rate of log Z is set by optimizer.rates=[[auxiliary.shift,FACTOR]]. `likelihood_weight` adds
    likelihood_weight * mean(-log P_F) over the paths from rows of the data: the bound on the policy's own likelihood
    (Zhang et al. 2022b, sec. 3), whose minimum in P_F is the law of the data, that of the model once this has learned
    it too.

    The model's loss is mean E(x) - mean E(x_neg), x_neg the rows after one move: K values taken away by P_B and as many
    added by P_F, accepted so that the model is left invariant (their alg. 2). K = min(D, D (t + 1) / `warmup`), at
    least 1, at update t from 0. `coupling_l1` and `coupling_l2` add coupling_l1 * sum |J| and coupling_l2 * sum J^2
    over the couplings of models that have some. With `energy` given the model stays as it is and the policy learns to
    draw from it.
    """

    energy: Literal["learned", "given"]
    backward: Literal["learned", "uniform"]
    widths: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    data_share: Annotated[float, Field(ge=0, le=1)]
    explore: Annotated[float, Field(ge=0, lt=1)]
    warmup: Annotated[int, Field(ge=1)]
    likelihood_weight: Annotated[float, Field(ge=0), Later(0.0)]
    coupling_l1: Annotated[float, Field(ge=0), Later(0.0)]
    coupling_l2: Annotated[float, Field(ge=0), Later(0.0)]

    spaces = (Binary, Spin, Categorical)
    ways: ClassVar[Mapping[str, str]] = {
        "gap": "take wider objective.widths, more objective.warmup, or a lower optimizer.lr"
    }

    @property
    @override
    def places(self) -> int:
        """The row, the row after a move, and the end of a path."""
        return 3

    @property
    @override
    def differentiates(self) -> bool:
        return True

    @property
    @override
    def steep(self) -> str:
        return "the squares that its policy begins with are of hundreds of nats, and so are their slopes"

    @override
    def refusal(self) -> str | None:
        """A penalty is on couplings that learn, and the likelihood on a policy that learns data by paths from them."""
        if self.likelihood_weight and (self.energy == "given" or not self.data_share):
            key = "energy=given" if self.energy == "given" else "data_share=0"
            return (
                f"objective.likelihood_weight = {self.likelihood_weight}: with objective.{key} the policy learns no "
                "rows of data; set it to 0"
            )
        for key in ("coupling_l1", "coupling_l2"):
            weight = getattr(self, key)
            if self.energy == "given" and weight:
                return f"objective.{key} = {weight}: with objective.energy=given no coupling learns; set it to 0"
        return None

    @override
    def refusal_of_model(self, model: type[EnergyModel]) -> str | None:
        """A penalty on couplings needs some."""
        return refusal_of_penalties(model, coupling_l1=self.coupling_l1, coupling_l2=self.coupling_l2)

    @torch.no_grad()
    @override
    def auxiliary(self, model: EnergyModel, noise: Noise | None, key: Key) -> Beside:
        """A uniform policy, and log Z as uniform configurations estimate it. Raises UserError if that is not finite."""
        space = cast(Discrete, model.space)
        policy = Policy(space, self.widths, key.fold("policy"), learned=self.backward == "learned")
        first = space.noise(_FIRST, key.fold("first")).to(next(model.parameters()))
        energy = model.energy(first).double().cpu()
        start = (-energy).logsumexp(0) - math.log(_FIRST) + space.sites * math.log(space.values)
        if not start.isfinite():
            raise UserError("objective=gflownet: the model's energies of uniform configurations are not finite")
        return Beside(policy, start.float())

    @override
    def gradient(self, model: EnergyModel, batch: Batch, key: AnyKey) -> Gradient:
        """That of trajectory balance in the policy and log Z, and of the likelihood by the move in the model."""
        beside, key = batch.auxiliary, key.after(batch.first)
        assert isinstance(beside, Beside)
        found, balance = self._balance(model, beside, batch.x, key.fold("paths"))
        said = {"trajectory_balance": balance, "log_z": beside.log_z().detach()}
        if self.energy == "given":
            return Gradient(found, {"loss": balance, **said}, {})
        steps = self.moves(beside.policy, batch.step)
        x_neg, taken = moved(model, beside.policy, batch.x, steps, key.fold("move"))
        energy, pull = model.energy_vjp(torch.cat([batch.x, x_neg]))
        weight, metrics = contrast(energy[: len(x_neg)], energy[len(x_neg) :], 0.0)
        said |= {"move_acceptance": taken.float().mean(), "move_sites": energy.new_tensor(steps)}
        learned = penalised(model, pull(weight), self.coupling_l1, self.coupling_l2)
        return Gradient({**learned, **found}, {**metrics, **said}, {})

    def moves(self, policy: Policy, step: float | Tensor) -> int:
        """K at this update."""
        return max(1, min(policy.sites, policy.sites * (int(step) + 1) // self.warmup))

    def _balance(self, model: EnergyModel, beside: Beside, x: Tensor, key: AnyKey) -> tuple[Gradients, Tensor]:
        """The gradient of the mean square by the names of the parameters, and that itself."""
        policy, count = beside.policy, round(self.data_share * len(x))
        paths = self.paths(policy, x, key)
        weight = x.new_zeros(len(x))
        weight[:count] = self.likelihood_weight / max(1, count)
        with torch.no_grad():
            energy = model.energy(policy.rows(paths.table).to(x.dtype))
        named = {f"auxiliary.{name}": p for name, p in beside.named_parameters()}
        found, loss = {name: torch.zeros_like(p) for name, p in named.items()}, energy.new_zeros(())
        size = policy.at_once(policy.sites)
        for *path, of_model, of_data in zip(*(part.split(size) for part in (*paths, energy, weight)), strict=True):
            with torch.enable_grad():
                forth, back = policy.log_paths(Paths(*path), policy.sites)
                part = (beside.log_z() + forth - back + of_model).square().sum() / len(x)
                whole = part - of_data @ forth
                found = {name: found[name] + grad for name, grad in slopes(whole, named).items()}
            loss = loss + part.detach()
        return found, loss

    def paths(self, policy: Policy, x: Tensor, key: AnyKey) -> Paths:
        """One for each row: from the first rows backwards, the others forwards."""
        count = round(self.data_share * len(x))
        back, _ = policy.emptied(policy.table(x[:count]), policy.sites, key.fold("back"))
        nothing = policy.nothing(len(x) - count)
        forth = policy.filled(nothing, policy.sites, key.fold("forth"), self.explore)
        return Paths(*(torch.cat(pair) for pair in zip(back, forth, strict=True)))


@torch.no_grad()
def moved(model: EnergyModel, policy: Policy, x: Tensor, steps: int, key: AnyKey) -> tuple[Tensor, Tensor]:
    """Rows after one move of `steps` removals and as many additions, accepted or not; and whether it was, (n,)."""
    back, left = policy.emptied(policy.table(x), steps, key.fold("back"))
    forth = policy.filled(left, steps, key.fold("forth"))
    y = policy.rows(forth.table).to(x.dtype)
    before, after = model.energy(torch.cat([x, y])).split(len(x))
    taken = accepted(log_ratio(policy, (before, after), back, forth, steps), key.fold("accept"))
    return torch.where(taken.reshape(-1, *[1] * (x.dim() - 1)), y, x), taken
