"""A generator whose entropy has an estimate of its gradient (Grathwohl et al. 2021b, "No MCMC for me", VERA)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.rng import AnyKey, Key
from ebm_cli.space import Space

_WIDER = math.sqrt(3)  # minimises E w^2 = c^2 / sqrt(2 c^2 - 3) of each latent number for proposals c eta wide


class Made(NamedTuple):
    """Latent values z (n, latent) and the draw x = g(z) + sigma e that they gave, (n, sites), with its graph."""

    z: Tensor
    x: Tensor


class Generator(nn.Module):
    """q(x) = integral of N(z; 0, I) N(x; g(z), sigma^2 I) dz, g a network of one hidden layer beside a linear map.

    dH(q)/dtheta = -E[s(x) . dx/dtheta] with the score s = d log q / dx = E_{q(z | x)}[(g(z) - x) / sigma^2], which is
    estimated with self-normalised weights w_i proportional to q(z_i, x) / r(z_i), z_i of the proposal
    r = N(z, diag(eta^2)) around the z that x came from. eta learns by the bound E_r[log q(z', x) - log r(z')] on
    log q(x) (their sect. 3). Here the score's own proposals have sqrt(3) eta: where q(z | x) is normal the bound makes
    eta its standard deviation, and as z is itself a draw of it, weights of proposals that wide vary least, while at eta
    their variance is infinite, which drew the estimate a quarter of the way to that of log q(x | z). Where q(z | x) is
    not normal weights still vary, and the estimate is drawn that way again, which makes sigma too large. So `shared`
    draws of the prior, the same for all x, may be proposals too; weights are then by the mixture of both (Veach &
    Guibas 1995). g has one hidden layer, and x is counted in units of `scale` from `mean`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, space: Space, latent: int, hidden: int, proposals: int, rows: Tensor, key: Key, shared: int = 0
    ) -> None:
        super().__init__()
        self.space, self.latent, self.proposals, self.shared = space, latent, proposals, shared
        self.hidden, self.out = nn.Linear(latent, hidden), nn.Linear(hidden, space.sites)
        self.linear = nn.Parameter(torch.eye(space.sites, latent))
        self.log_sigma = nn.Parameter(torch.tensor(math.log(0.3)))
        self.log_eta = nn.Parameter(torch.full((latent,), math.log(0.3)))
        flat = rows.flatten(1)
        self.register_buffer("mean", flat.mean(0))
        self.register_buffer("scale", flat.std(0))
        with torch.no_grad():
            for name, parameter in self.hidden.named_parameters():
                draw = 2 * rng.uniform(parameter.shape, key.fold(name)) - 1
                parameter.copy_(2 * draw / math.sqrt(latent))
            self.out.weight.zero_()
            self.out.bias.zero_()

    def centre(self, z: Tensor) -> Tensor:
        """g(z) in units of `scale` from `mean`, (..., sites) for z (..., latent)."""
        found: Tensor = z @ self.linear.T + self.out(nn.functional.silu(self.hidden(z)))
        return found

    def made(self, n: int, key: AnyKey) -> Made:
        """Draws in those units."""
        device, dtype = self.mean.device, self.mean.dtype
        z = rng.normal((n, self.latent), key.fold("z"), device, dtype)
        e = rng.normal((n, self.space.sites), key.fold("e"), device, dtype)
        return Made(z, self.centre(z) + self.log_sigma.exp() * e)

    def drawn(self, n: int, key: AnyKey) -> tuple[Tensor, Tensor]:
        """Draws (n, *shape) with their graph, and a number whose gradient is an estimate of that of the entropy."""
        made = self.made(n, key)
        score = self.score(made, key.fold("proposals"))
        entropy = -(score * made.x).sum(1).mean()
        return (self.mean + self.scale * made.x).reshape(n, *self.space.shape), entropy

    def proposal_gain(self, n: int, key: AnyKey) -> Tensor:
        """E_r[log q(z', x) - log r(z')] over draws, in eta alone, up to a constant."""
        with torch.no_grad():
            made = self.made(n, key)
        near = made.z + self.log_eta.exp() * rng.normal(made.z.shape, key.fold("eta"), made.z.device, made.z.dtype)
        held = {name: p.detach() for name, p in self.named_parameters()}
        joint = torch.func.functional_call(self, held, (near, made.x))
        gain: Tensor = (joint + self.log_eta.sum()).mean()
        return gain

    @torch.no_grad()
    def score(self, made: Made, key: AnyKey) -> Tensor:
        """d log q / dx at the draws, in their units, (n, sites)."""
        n, eta, x = len(made.z), _WIDER * self.log_eta.exp(), made.x
        shape = (n, self.proposals * self.latent)
        e = rng.normal(shape, key, x.device, x.dtype).reshape(n, self.proposals, self.latent)
        near = made.z[:, None] + eta * e
        log_r = -0.5 * e.square().sum(2) - eta.log().sum()
        log_w = self(near, x[:, None]) - self._log_mixture(log_r, -0.5 * near.square().sum(2))
        if not self.shared:
            return ((log_w.softmax(1)[..., None] * self.centre(near)).sum(1) - x) / (2 * self.log_sigma).exp()
        z = rng.normal((self.shared, self.latent), key.fold("shared"), x.device, x.dtype)
        centre, log_p = self.centre(z), -0.5 * z.square().sum(1)
        log_joint = log_p - 0.5 * torch.cdist(x, centre).square() / (2 * self.log_sigma).exp()
        log_r = -0.5 * torch.cdist(made.z / eta, z / eta).square() - eta.log().sum()
        weight = torch.cat([log_w, log_joint - self._log_mixture(log_r, log_p)], 1).softmax(1)
        mean = (weight[:, : self.proposals, None] * self.centre(near)).sum(1) + weight[:, self.proposals :] @ centre
        return (mean - x) / (2 * self.log_sigma).exp()

    def _log_mixture(self, log_r: Tensor, log_p: Tensor) -> Tensor:
        """log of what proposals are drawn from, up to a constant: so many of r, and the shared ones of the prior."""
        if not self.shared:
            return log_r
        return torch.logaddexp(log_r + math.log(self.proposals), log_p + math.log(self.shared))

    @override
    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """log q(z, x) up to a constant, (...)."""
        centre, variance = self.centre(z), (2 * self.log_sigma).exp()
        return -0.5 * z.square().sum(-1) - 0.5 * (x - centre).square().sum(-1) / variance
