"""Posterior of a factorial hidden Markov model (Ghahramani & Jordan 1997), a target for samplers."""

import copy
import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.errors import UserError
from ebm_cli.functional import sigmoid
from ebm_cli.model.base import (
    Blocked,
    EnergyModel,
    Gradients,
    ModelSpec,
    Pullback,
    Site,
    TwoValuedSites,
    get_site,
    put_site,
)
from ebm_cli.model.exponential_family import BernoulliProduct
from ebm_cli.registry import register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Binary, Space


class FHMM(Blocked):
    """E(x) = -log p(x, y), so that p(x | y) = exp(-E(x)) / Z and log Z = log p(y); x (L, K) in {0, 1}, y (L,) fixed.

    Markov chains x_.k with p(x_1k = 1) = start and p(x_(t+1)k = x_tk) = stay; y_t ~ N(W.x_t + b, noise^2). That is

        E(x) = precision / 2 sum_t r_t^2 + coupling sum_tk [x_tk is not x_(t+1)k] - sum_tk field_tk x_tk + const

    with r = y - b - x W, precision = 1 / noise^2, coupling = logit(stay), field_1k = logit(start) and 0 after it. Off
    the corners of the cube [a is not b] is a + b - 2 a b, which makes the prior's part linear in each site, as in
    Grathwohl et al. 2021, whose W is one number for each chain too.
    """

    y: Tensor
    precision: Tensor
    coupling: Tensor
    field: Tensor
    compiles = True
    tempers = False
    sweeps_given = True

    def __init__(self, space: Space, W: Tensor, b: Tensor, y: Tensor, start: float, stay: float, noise: float) -> None:
        super().__init__()
        self.space = space
        self.W, self.b = nn.Parameter(W), nn.Parameter(b)
        field = torch.zeros(space.shape)
        field[0] = math.log(start / (1 - start))
        self.register_buffer("y", y)
        for name, value in (
            ("precision", torch.tensor(noise**-2)),
            ("coupling", torch.tensor(math.log(stay / (1 - stay)))),
            ("field", field),
        ):
            self.register_buffer(name, value, persistent=False)

    def residuals(self, x: Tensor) -> Tensor:
        """r = y - b - x W, (batch, L). A sum, since a matrix product may be of low precision."""
        return self.y - self.b - (x * self.W).sum(2)

    @override
    def energy(self, x: Tensor) -> Tensor:
        """-log p(x, y), (batch,)."""
        return self._energy(x, self.residuals(x))

    def _energy(self, x: Tensor, residuals: Tensor) -> Tensor:
        changes = x[:, 1:] + x[:, :-1] - 2 * x[:, 1:] * x[:, :-1]
        prior = self.coupling * changes.sum((1, 2)) - (x * self.field).sum((1, 2))
        return self.precision / 2 * residuals.square().sum(1) + prior + self._constant()

    def _constant(self) -> Tensor:
        """-log of what normalises y given x, and the chains: -log(1 - start) for each, -log(stay) for each step."""
        length, chains = self.space.shape
        steps = chains * (length - 1) * F.softplus(-self.coupling)
        return F.softplus(self.field[0]).sum() + steps - length / 2 * (self.precision / (2 * math.pi)).log()

    @torch.no_grad()
    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dx_tk = -precision r_t W_k - field_tk + coupling ((1 - 2 x_(t-1)k) + (1 - 2 x_(t+1)k))."""
        r, turn = self.residuals(x), 1 - 2 * x
        around = F.pad(turn[:, :-1], (0, 0, 1, 0)) + F.pad(turn[:, 1:], (0, 0, 0, 1))
        return self._energy(x, r), self.coupling * around - self.field - self.precision * r[:, :, None] * self.W

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The energy, and dE/dW_k = -precision sum_t r_t x_tk, dE/db = -precision sum_t r_t."""
        r = self.residuals(x)

        def pull(weight: Tensor) -> Gradients:
            weighted = -self.precision * weight[:, None] * r
            return {"W": (weighted[:, :, None] * x).sum((0, 1)), "b": weighted.sum()[None]}

        return self._energy(x, r), pull

    @override
    def sweep(self, x: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """Every chain x_.k ~ p(x_.k | the other chains, y), one chain after the other."""
        return self._swept(x, key, None, backwards=backwards)

    @override
    def sweep_given(self, x: Tensor, free: Tensor, key: AnyKey, *, backwards: bool) -> Tensor:
        """The same given also those steps of the chain that are not free, which are certain."""
        return self._swept(x, key, free.reshape(x.shape), backwards=backwards)

    def _swept(self, x: Tensor, key: AnyKey, free: Tensor | None, *, backwards: bool) -> Tensor:
        chains, rest = list(x.unbind(2)), self.residuals(x)
        for k in range(len(chains))[:: -1 if backwards else 1]:
            rest = rest + self.W[k] * chains[k]
            known = None if free is None else _certain(chains[k], free[:, :, k])
            chains[k] = self._draw_chain(k, rest, key.fold("chain", k), known).to(x.dtype)
            rest = rest - self.W[k] * chains[k]
        return torch.stack(chains, 2)

    def _draw_chain(self, k: int, rest: Tensor, key: AnyKey, known: Tensor | None) -> Tensor:
        """Forward filtering, backward sampling, (batch, L); rest = y - b - what the other chains add, (batch, L).

        `known` (batch, L) is added to the logits of the steps.

        Backwards, p(x_t = 1 | x_(t+1)) = sigmoid(filtered_t +- coupling): one uniform number for each step makes a map
        from x_(t+1) to x_t, and the chain is what they give one after the other.
        """
        w = self.W[k]
        logits = self.precision * w * (rest - w / 2) + self.field[:, k]
        filtered = filtered_logits(logits if known is None else logits + known, self.coupling)
        last = torch.arange(filtered.shape[1], device=filtered.device) == filtered.shape[1] - 1
        pull = torch.where(last, torch.zeros_like(self.coupling), self.coupling)
        u = rng.uniform(filtered.shape, key, filtered.device)
        return composed(u < sigmoid(torch.stack([filtered - pull, filtered + pull])))

    @override
    def mixed(self, base: EnergyModel, share: float | Tensor, beta: float | Tensor) -> "FHMM | None":
        """share E_base + beta E up to a constant, which moves nothing: again of this form."""
        if not isinstance(base, BernoulliProduct):
            return None
        found = copy.copy(self)
        found._buffers = {
            **self._buffers,
            "precision": beta * self.precision,
            "coupling": beta * self.coupling,
            "field": share * base.b.detach().reshape(self.space.shape) + beta * self.field,
        }
        return found

    @override
    def sites(self, x: Tensor) -> "FHMMSites":
        """Conditionals from cached residuals."""
        return FHMMSites(self, x)


def _certain(x: Tensor, free: Tensor) -> Tensor:
    """What makes the steps of a chain x (batch, L) that are not free certain: infinite logits."""
    return torch.where(free, 0.0, torch.where(x > 0, torch.inf, -torch.inf)).to(x.dtype)


def filtered_logits(logits: Tensor, coupling: Tensor) -> Tensor:
    """log p(x_t = 1 | 1..t) / p(x_t = 0 | 1..t), (batch, L), of a chain with fields `logits` and one coupling.

    Rows of the products of transfer matrices T_t(i, j) = exp(-coupling [i is not j] + j logit_t) up to t, found for all
    t together in log2(L) rounds (Hillis & Steele 1986). Each is divided by its largest entry; its rows differ by at
    most the factor exp(|coupling|), so that none vanishes.
    """
    share = sigmoid(torch.stack([-logits, logits]))
    change = (-coupling * (1 - torch.eye(2, dtype=logits.dtype, device=logits.device))).exp()
    step = change[:, :, None, None] * share  # (2, 2, batch, L): the entries first, so that products run along the steps
    product = torch.cat([share[None, :, :, :1].expand(2, -1, -1, -1), step[..., 1:]], 3)
    reach = 1
    while reach < logits.shape[1]:
        early, late = product[..., :-reach], product[..., reach:]
        joined = early[:, :1] * late[:1] + early[:, 1:] * late[1:]
        product = torch.cat([product[..., :reach], joined / joined.amax((0, 1))], 3)
        reach *= 2
    return (product[0, 1] / product[0, 0]).log()


def composed(maps: Tensor) -> Tensor:
    """x_t = maps[x_(t+1)]_t for t = L, ..., 1 in log2(L) rounds; maps (2, batch, L) bool, the last step's constant."""
    reach = 1
    while reach < maps.shape[2]:
        joined = torch.where(maps[..., reach:], maps[1, :, :-reach], maps[0, :, :-reach])
        maps = torch.cat([joined, maps[..., -reach:]], 2)
        reach *= 2
    return maps[0]


class FHMMSites(TwoValuedSites):
    """logit = precision W_k (r_t + W_k x_tk - W_k / 2) + field_tk + coupling sum of 2 x - 1 over the steps around."""

    def __init__(self, model: FHMM, x: Tensor) -> None:
        self.model = model
        self.chains = x.shape[2]
        self.x = x.flatten(1).clone()
        self.residuals = model.residuals(x)

    @override
    def logit(self, site: Site) -> Tensor:
        """E(x with x_i = 0) - E(x with x_i = 1)."""
        model, w = self.model, self.model.W[site % self.chains]
        rest = get_site(self.residuals, site // self.chains) + w * (get_site(self.x, site) - 0.5)
        around = self._spin(site - self.chains) + self._spin(site + self.chains)
        return model.precision * w * rest + model.field.flatten()[site] + model.coupling * around

    def _spin(self, site: Site) -> Tensor:
        """2 x - 1 at a site, 0 beyond the ends, (chains,)."""
        last = self.x.shape[1] - 1
        if isinstance(site, int):
            return 2 * self.x[:, site] - 1 if 0 <= site <= last else torch.zeros_like(self.x[:, 0])
        inside = (site >= 0) & (site <= last)
        return (2 * get_site(self.x, site.clamp(0, last)) - 1) * inside

    @override
    def assign(self, site: Site, value: Tensor) -> None:
        """x_site <- value, and the residuals follow."""
        step, change = site // self.chains, value - get_site(self.x, site)
        put_site(self.residuals, step, get_site(self.residuals, step) - change * self.model.W[site % self.chains])
        super().assign(site, value)


@register("model", "fhmm")
class FHMMSpec(ModelSpec):
    """Factorial hidden Markov model: p(x | y) of K binary chains of length L, the shape of the data.

    Weights, offset, a state x* of the chains and from it the series y are drawn when the model is built; y is fixed
    and stays in every checkpoint. The data only tell the shape, where chains may start and, if W and b are trained at
    all, what they should explain.
    """

    start: Annotated[float, Field(gt=0, lt=1)]
    stay: Annotated[float, Field(gt=0, lt=1)]
    noise: Annotated[float, Field(gt=0)]
    weight_std: Annotated[float, Field(ge=0)]

    builds = FHMM
    spaces = (Binary,)

    @override
    def parameters(self, space: Space) -> int:
        """A weight for each chain, and the offset."""
        return space.shape[-1] + 1

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> FHMM:
        """W_k, b ~ N(0, weight_std^2); x* from the chains; y = x* W + b + noise z, z standard normal."""
        if len(space.shape) != 2:
            raise UserError(
                f"model=fhmm takes data of shape (length, chains), these have {space.shape}; use dataset=markov_chains"
            )
        length, chains = space.shape
        W = self.weight_std * rng.normal((chains,), key.fold("weights"))
        b = self.weight_std * rng.normal((1,), key.fold("offset"))
        x = rng.markov_chains(1, space.shape, self.start, self.stay, key.fold("states"))[0]
        y = x @ W + b + self.noise * rng.normal((length,), key.fold("noise"))
        return FHMM(space, W, b, y, self.start, self.stay, self.noise)
