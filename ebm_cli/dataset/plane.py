"""Seven point sets of the plane that papers on discrete models learn as bits, as FFJORD's code draws them.

Grathwohl et al. 2019, `toy_data.py`; Dai et al. 2020 and Zhang et al. 2022 take the same. Those of `density.py` have a
density in closed form, and other sizes. Tensor operations alone: they are part of compiled steps.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.rng import AnyKey, Device

Law = Callable[[int, AnyKey, Device], Tensor]


def two_spirals(n: int, key: AnyKey, device: Device) -> Tensor:
    """Two arms of one and a half turns, t = 3 pi sqrt(u): (-t cos t + v, t sin t + w) / 3, v, w uniform on [0, 1/2).

    Normal noise of 0.1 is added, the second arm is the first mirrored at the origin.
    """
    u, v, w, side = _uniform(n, 4, key.fold("place"), device)
    t = 3 * math.pi * u.sqrt()
    arm = torch.stack([v / 2 - t * t.cos(), w / 2 + t * t.sin()], 1) / 3
    return _sign(side)[:, None] * arm + 0.1 * _normal(n, key, device)


def eight_gaussians(n: int, key: AnyKey, device: Device) -> Tensor:
    """Eight on a circle of radius 4 with deviation 0.5, all divided by 1.414."""
    angle = math.pi / 4 * (8 * _uniform(n, 1, key.fold("place"), device)[0]).floor()
    return (4 * _direction(angle) + 0.5 * _normal(n, key, device)) / 1.414


def circles(n: int, key: AnyKey, device: Device) -> Tensor:
    """Two of radius 3 and 1.5 with as many points each, and noise of 0.24."""
    u, side = _uniform(n, 2, key.fold("place"), device)
    radius = torch.where(side < 0.5, 3.0, 1.5)
    return radius[:, None] * _direction(2 * math.pi * u) + 0.24 * _normal(n, key, device)


def moons(n: int, key: AnyKey, device: Device) -> Tensor:
    """Two half circles of radius 2 around (-1, -0.2) and (1, 0.8), the second one open above, and noise of 0.2."""
    u, side = _uniform(n, 2, key.fold("place"), device)
    sign = _sign(side)[:, None]
    middle = torch.cat([-sign, 0.3 - 0.5 * sign], 1)
    return middle + 2 * sign * _direction(math.pi * u) + 0.2 * _normal(n, key, device)


def pinwheel(n: int, key: AnyKey, device: Device) -> Tensor:
    """Five blades (1 + 0.3 z, 0.1 z'), turned clockwise by 2 pi k / 5 + exp(1 + 0.3 z) / 4, times 2."""
    blade = (5 * _uniform(n, 1, key.fold("place"), device)[0]).floor()
    z = _normal(n, key, device)
    along, across = 1 + 0.3 * z[:, 0], 0.1 * z[:, 1]
    angle = 2 * math.pi / 5 * blade + along.exp() / 4
    cos, sin = angle.cos(), angle.sin()
    return 2 * torch.stack([along * cos + across * sin, across * cos - along * sin], 1)


def swissroll(n: int, key: AnyKey, device: Device) -> Tensor:
    """t (cos t, sin t) for t uniform on [1.5 pi, 4.5 pi], with noise of 1, all divided by 5."""
    t = 1.5 * math.pi * (1 + 2 * _uniform(n, 1, key.fold("place"), device)[0])
    return (t[:, None] * _direction(t) + _normal(n, key, device)) / 5


def checkerboard(n: int, key: AnyKey, device: Device) -> Tensor:
    """Uniform on every other of the 16 squares of side 2 in [-4, 4]^2."""
    u, v, side = _uniform(n, 3, key.fold("place"), device)
    first = 4 * u - 2
    second = v - 2 * (side < 0.5).to(v.dtype) + first.floor() % 2
    return 2 * torch.stack([first, second], 1)


def _uniform(n: int, count: int, key: AnyKey, device: Device) -> tuple[Tensor, ...]:
    return rng.uniform((n, count), key, device).unbind(1)


def _normal(n: int, key: AnyKey, device: Device) -> Tensor:
    return rng.normal((n, 2), key.fold("noise"), device)


def _sign(u: Tensor) -> Tensor:
    """1 or -1, as likely."""
    return torch.where(u < 0.5, 1.0, -1.0)


def _direction(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], 1)


LAWS: dict[str, Law] = {
    "2spirals": two_spirals,
    "8gaussians": eight_gaussians,
    "circles": circles,
    "moons": moons,
    "pinwheel": pinwheel,
    "swissroll": swissroll,
    "checkerboard": checkerboard,
}
REACH = {
    "2spirals": 4.481,
    "8gaussians": 5.107,
    "circles": 4.781,
    "moons": 4.669,
    "pinwheel": 4.946,
    "swissroll": 4.266,
    "checkerboard": 4.999,
}
"""The largest |coordinate| of 5000 points that numpy draws from the seed 1, plus 1, as EB-GFN's code has it."""
