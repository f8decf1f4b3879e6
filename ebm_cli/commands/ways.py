"""Ways from one configuration to another: straight, or through places of low energy."""

import torch
from torch import Tensor

from ebm_cli.model.base import EnergyModel

_STEPS, _LONGEST = 200, 0.1  # of the string; its first step


def straight(a: Tensor, b: Tensor, frames: int) -> Tensor:
    """(1 - t) a + t b at `frames` even t from 0 to 1, (pairs, frames, dim), for a and b (pairs, dim)."""
    t = torch.linspace(0, 1, frames, dtype=a.dtype, device=a.device)[:, None]
    return (1 - t) * a[:, None] + t * b[:, None]


@torch.no_grad()
def string(model: EnergyModel, z: Tensor) -> Tensor:
    """The ways z (pairs, frames, dim) after they slid downhill, their ends held and their frames evenly apart.

    The string method (E, Ren, Vanden-Eijnden 2007, sec. II): each frame takes steps -h dE/dz, after each of which all
    are laid at even distances along the way. It ends in a way of least energy, which goes over the saddle between two
    valleys. A step that raises the mean energy of a way is not taken, and its h is halved.
    """
    h = torch.full((len(z), 1, 1), _LONGEST, dtype=z.dtype, device=z.device)
    energy, slope = _slope(model, z)
    for _ in range(_STEPS):
        new = evenly(torch.cat([z[:, :1], (z - h * slope)[:, 1:-1], z[:, -1:]], 1))
        energy_new, slope_new = _slope(model, new)
        lower = energy_new <= energy
        z, slope = (torch.where(lower, *pair) for pair in ((new, z), (slope_new, slope)))
        energy, h = torch.where(lower, energy_new, energy), torch.where(lower, h, h / 2)
    return z


def _slope(model: EnergyModel, z: Tensor) -> tuple[Tensor, Tensor]:
    """The mean energy of each way, (pairs, 1, 1), and dE/dz."""
    energy, grad = model.energy_and_grad(z.flatten(0, 1))
    return energy.reshape(z.shape[:2]).mean(1)[:, None, None], grad.reshape(z.shape)


def evenly(z: Tensor) -> Tensor:
    """Places at even distances along the ways z (pairs, frames, dim) of straight pieces, which keep their ends."""
    gone = (z[:, 1:] - z[:, :-1]).norm(dim=2).cumsum(1)
    gone = torch.nn.functional.pad(gone, (1, 0))
    wanted = gone[:, -1:] * torch.linspace(0, 1, z.shape[1], dtype=z.dtype, device=z.device)
    after = torch.searchsorted(gone, wanted).clamp(1, z.shape[1] - 1)
    low, high = gone.gather(1, after - 1), gone.gather(1, after)
    share = ((wanted - low) / (high - low).clamp_min(torch.finfo(z.dtype).tiny))[..., None]
    first, second = (z.gather(1, at[..., None].expand_as(z)) for at in (after - 1, after))
    found = first + share * (second - first)
    return torch.cat([z[:, :1], found[:, 1:-1], z[:, -1:]], 1)
