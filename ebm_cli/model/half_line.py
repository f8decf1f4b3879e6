"""Normal laws on the half-line: densities proportional to exp(z t - t^2 / 2) on t > 0, elementwise in z.

Their integral is Phi(z) / phi(z), with Phi and phi the distribution function and density of the standard normal law.
Far out, where z is below -3 (float64: -6), that is the Mills ratio M(x) = (1 - Phi(x)) / phi(x) of x = -z, by its
continued fraction M(x) = 1 / (x + 1 / (x + 2 / (x + 3 / ...))) (Abramowitz & Stegun 1964, 26.2.14), whose parts give
the moments too: nothing cancels, and nothing overflows.
"""

import math
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.rng import AnyKey

_DEPTH = 16  # of the fraction, which then errs by less than what is rounded where it is not used
_DEPTH_OF_DRAWS = 10  # where it errs by less than the uniform numbers are apart
_NEWTON = 2  # steps, from a start that errs by less than one part in x^2


def log_z(z: Tensor) -> Tensor:
    """log of the integral over t > 0 of exp(z t - t^2 / 2), in the shape of z, with two derivatives."""
    return _LogZ.apply(z) if torch.is_grad_enabled() and z.requires_grad else _log_z(z)


def mean(z: Tensor) -> Tensor:
    """E t = z + phi(z) / Phi(z), the derivative of `log_z`."""
    return _Mean.apply(z) if torch.is_grad_enabled() and z.requires_grad else moments(z)[1]


def moments(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`log_z`, E t and E t^2 = 1 + z E t, from one evaluation; without derivatives."""
    far, near = z.clamp_max(_far(z)), z.clamp_min(_far(z))
    out, (m, q), below = z < _far(z), _parts(-far), _phi(near)
    value = 0.5 * near.square() + (below.log() + 0.5 * math.log(2 * math.pi))
    first = near + (-0.5 * near.square()).exp() / (math.sqrt(2 * math.pi) * below)
    return (
        torch.where(out, -(m - far).log(), value),
        torch.where(out, m, first),
        torch.where(out, m * q, 1 + near * first),
    )


def draws(z: Tensor, key: AnyKey) -> Tensor:
    """One t of each law, in the shape of z (rows, ...), by inversion of one uniform number each.

    Phi(z - t) = u Phi(z). Far out t solves log M(x + t) - log M(x) - x t - t^2 / 2 = log u by Newton's method, from
    2 L / (x + sqrt(x^2 + 2 L)), L = -log u, which would be t if M were constant.
    """
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    u = 1 - rng.uniform(z.shape, key, z.device, z.dtype)
    return torch.where(z < _far(z), _far_draw(-z.clamp_max(_far(z)), -u.log()), _near_draw(z, u))


class _LogZ(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return _log_z(z)

    @staticmethod
    @override
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return grads[0] * mean(z)


class _Mean(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return moments(z)[1]

    @staticmethod
    @override
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """The variance is E t^2 - (E t)^2, far out m (q - m)."""
        (z,) = ctx.saved_tensors
        _, first, second = moments(z)
        return grads[0] * (second - first.square())


def _far(z: Tensor) -> float:
    return -6.0 if z.dtype == torch.float64 else -3.0


def _parts(x: Tensor, depth: int = _DEPTH) -> tuple[Tensor, Tensor]:
    """m = 1 / M(x) - x = 1 / (x + q) and q = 2 / (x + 3 / (x + ...))."""
    q = torch.zeros_like(x)
    for k in range(depth, 1, -1):
        q = k / (x + q)
    return 1 / (x + q), q


def _phi(z: Tensor) -> Tensor:
    """Phi(z), to the last digits in the lower tail too."""
    return 0.5 * torch.erfc(-z * math.sqrt(0.5))


def _log_z(z: Tensor) -> Tensor:
    far, near = z.clamp_max(_far(z)), z.clamp_min(_far(z))
    value = 0.5 * near.square() + (_phi(near).log() + 0.5 * math.log(2 * math.pi))
    return torch.where(z < _far(z), -(_parts(-far)[0] - far).log(), value)


def _near_draw(z: Tensor, u: Tensor) -> Tensor:
    z = z.clamp_min(_far(z))
    return (z - torch.special.ndtri(u * _phi(z))).clamp_min(0)


def _far_draw(x: Tensor, size: Tensor) -> Tensor:
    """For x = -z and size = -log u."""
    t, hazard = 2 * size / (x + (x.square() + 2 * size).sqrt()), _hazard(x)
    for _ in range(_NEWTON):
        there = _hazard(x + t)
        t = t + (size - x * t - 0.5 * t.square() - (there / hazard).log()) / there
    return t.clamp_min(0)


def _hazard(x: Tensor) -> Tensor:
    """1 / M(x)."""
    return x + _parts(x, _DEPTH_OF_DRAWS)[0]
