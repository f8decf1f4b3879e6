"""Random transforms of images that leave what they show: one draw for each image, a function of its key."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm_cli import rng
from ebm_cli.rng import AnyKey

_GRID = 3  # points a side of the coarse field of an elastic deformation, as in van Tulder's elasticdeform


class Strengths(NamedTuple):
    """How far each transform goes at most, or how widely it is spread.

    `shift` is a share of the side, `rescale` a factor's distance from 1, `blur` a standard deviation in pixels,
    `colour` that of the factors of brightness, contrast and saturation, `elastic` the standard deviation,
    as a share of the side, of the displacements of a 3 x 3 grid.
    """

    shift: float
    rescale: float
    blur: float
    colour: float
    elastic: float


def shift(image: Tensor, strength: Strengths, key: AnyKey) -> Tensor:
    """Moved by up to `shift` of its side, each direction uniformly; pixels of the border fill what comes in."""
    move = strength.shift * 2 * _symmetric((len(image), 2), key, image)
    return _sampled(image, _identity(image) + move[:, None, None])


def rescale(image: Tensor, strength: Strengths, key: AnyKey) -> Tensor:
    """Larger or smaller by a factor exp(u log(1 + `rescale`)), u uniform on [-1, 1], about its centre."""
    factor = (1 + strength.rescale) ** _symmetric((len(image), 1), key, image)
    return _sampled(image, _identity(image) * factor[:, None, None])


def elastic(image: Tensor, strength: Strengths, key: AnyKey) -> Tensor:
    """Displaced by a smooth random field: normal displacements of a 3 x 3 grid, bicubic between its points."""
    coarse = 2 * strength.elastic * rng.normal((len(image), 2, _GRID, _GRID), key, image.device, image.dtype)
    field = F.interpolate(coarse, image.shape[2:], mode="bicubic", align_corners=True)
    return _sampled(image, _identity(image) + field.permute(0, 2, 3, 1))


def blur(image: Tensor, strength: Strengths, key: AnyKey) -> Tensor:
    """Between itself and itself blurred by a Gaussian of `blur` pixels, at a uniform share."""
    from torchvision.transforms.v2.functional import gaussian_blur  # slow to import, and rarely needed

    radius = min(max(1, round(3 * strength.blur)), min(image.shape[2:]) - 1)
    blurred = gaussian_blur(image, [2 * radius + 1] * 2, [strength.blur] * 2)
    return image.lerp(blurred, rng.uniform((len(image), 1), key, image.device, image.dtype)[:, :, None, None])


def colour(image: Tensor, strength: Strengths, key: AnyKey) -> Tensor:
    """Contrast about the mean, brightness, and saturation about each pixel's grey, each times 1 + `colour` u."""
    factors = 1 + strength.colour * _symmetric((len(image), 3), key, image)
    contrast, brightness, saturation = (f[:, None, None, None] for f in factors.unbind(1))
    mean = image.mean((1, 2, 3), keepdim=True)
    image = brightness * (mean + contrast * (image - mean))
    grey = image.mean(1, keepdim=True)
    return grey + saturation * (image - grey)


Transform = Callable[[Tensor, Strengths, AnyKey], Tensor]
TRANSFORMS: dict[str, Transform] = {
    transform.__name__: transform for transform in (shift, rescale, blur, colour, elastic)
}


def _symmetric(shape: tuple[int, ...], key: AnyKey, like: Tensor) -> Tensor:
    """Uniform on [-1, 1)."""
    return 2 * rng.uniform(shape, key, like.device, like.dtype) - 1


def _identity(image: Tensor) -> Tensor:
    """Where each pixel is, in [-1, 1] from border to border, (batch, height, width, 2)."""
    theta = torch.eye(2, 3, device=image.device, dtype=image.dtype).expand(len(image), 2, 3)
    return F.affine_grid(theta, list(image.shape), align_corners=False)


def _sampled(image: Tensor, where: Tensor) -> Tensor:
    return F.grid_sample(image, where, mode="bilinear", padding_mode="border", align_corners=False)
