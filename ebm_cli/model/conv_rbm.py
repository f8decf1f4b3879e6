"""Convolutional restricted Boltzmann machine (Lee, Grosse, Ranganath, Ng 2009; Norouzi, Ranjbar, Mori 2009)."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.functional import softplus_sum
from ebm_cli.model.base import Bipartite, Gradients, ModelSpec, Pullback
from ebm_cli.model.convnet import check_image, image_shape
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Binary, Space


class ConvolutionalRBM(Bipartite):
    """E(v, h) = -b.v - sum_k c_k sum_p h_kp - sum_kp h_kp a_kp, a_kp = sum_q W_kq v_(p + q), v and h bits.

    An RBM whose weights are those of the filters W_k at every pixel p of the image, over all colours and offsets q up
    to half of the filter's size; what is beyond the edge is 0. So a map of hidden units has one unit for each pixel
    (Lee et al. 2009, eq. 3, without pooling), and h is (batch, filters height width), one map after the other. W
    (filters, colours, size, size), b (sites,), c (filters,).
    """

    called = "convolutional RBM"
    couplings = ("W",)
    convolves = True

    def __init__(self, space: Space, filters: int, size: int, weight_std: float, mean: Tensor, key: Key) -> None:
        super().__init__()
        self.space, self.image, self.reach = space, image_shape(space), size // 2
        colours, *sides = self.image
        self.maps = (filters, *sides)
        self.hidden = math.prod(self.maps)
        self.W = nn.Parameter(weight_std * rng.normal((filters, colours, size, size), key))
        self.b = nn.Parameter(mean.logit().flatten())
        self.c = nn.Parameter(torch.zeros(filters))

    @override
    def hidden_logits(self, v: Tensor) -> Tensor:
        """c_k + a_kp, (batch, hidden)."""
        return F.conv2d(v.reshape(-1, *self.image), self.W, self.c, padding=self.reach).flatten(1)

    def _to_pixels(self, h: Tensor) -> Tensor:
        """sum_kq W_kq h_k(i - q) at each pixel i, (batch, sites): the transpose of a."""
        return F.conv_transpose2d(h.reshape(-1, *self.maps), self.W, padding=self.reach).flatten(1)

    @override
    def visible_logits(self, h: Tensor) -> Tensor:
        """b and what the filters that are on add to each pixel, (batch, sites)."""
        return self.b + self._to_pixels(h)

    @override
    def free_energy(self, v: Tensor, hidden_logits: Tensor) -> Tensor:
        """-b.v - sum_kp softplus(c_k + a_kp), (batch,)."""
        return -(v.flatten(1) @ self.b) - softplus_sum(hidden_logits)

    @torch.no_grad()
    @override
    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dv = -b - the same of the means of h."""
        logits = self.hidden_logits(x)
        return self.free_energy(x, logits), -self.visible_logits(logits.sigmoid()).reshape(x.shape)

    @torch.no_grad()
    @override
    def energy_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """With s = E[h | v]: dE/dW_kq = -sum_p s_kp v_(p + q), dE/db = -v, dE/dc_k = -sum_p s_kp."""
        logits = self.hidden_logits(x)

        def pull(weight: Tensor) -> Gradients:
            active = (logits.sigmoid() * -weight[:, None]).reshape(-1, *self.maps)
            of_filters = conv2d_weight(x.reshape(-1, *self.image), self.W.shape, active, padding=self.reach)
            return {"W": of_filters, "b": -(weight @ x.flatten(1)), "c": active.sum((0, 2, 3))}

        return self.free_energy(x, logits), pull


def _odd(size: int) -> int:
    """A filter has a pixel in the middle."""
    if size % 2 == 0:
        raise ValueError(f"must be odd, as {size + 1}, so that a filter has a pixel in its middle")
    return size


@register("model", "conv_rbm")
class ConvolutionalRBMSpec(ModelSpec):
    """Convolutional RBM of binary images; visible biases, one for each pixel, start at the mean of the data."""

    filters: Annotated[int, Field(ge=1)]
    filter_size: Annotated[int, Field(ge=1), AfterValidator(_odd)]
    weight_std: Annotated[float, Field(ge=0)]

    builds = ConvolutionalRBM
    spaces = (Binary,)

    @override
    def parameters(self, space: Space) -> int:
        check_image(space, "conv_rbm")
        return self.filters * (image_shape(space)[0] * self.filter_size**2 + 1) + math.prod(space.shape)

    @override
    def smaller(self) -> str:
        return "a lower model.filters"

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> ConvolutionalRBM:
        """W ~ N(0, weight_std^2), b = logit(mean), c = 0. Raises UserError for data that are no images."""
        check_image(space, "conv_rbm")
        return ConvolutionalRBM(space, self.filters, self.filter_size, self.weight_std, mean, key)
