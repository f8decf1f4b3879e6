"""A classifier that is an energy-based model too (Grathwohl et al. 2020)."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ebm_cli.model.base import Classifier, ModelSpec, Pullback
from ebm_cli.model.convnet import Convolutional, Width, Widths, check_image, convolution_parameters
from ebm_cli.registry import register
from ebm_cli.rng import Key
from ebm_cli.space import Box, Space


class JEM(Convolutional, Classifier):
    """E(x) = -log sum_y exp(f(x)[y]), f a convolutional network; p(y | x) = softmax_y f(x)[y]."""

    def __init__(self, space: Box, widths: Sequence[int], hidden: int, classes: int, key: Key) -> None:
        super().__init__(space, widths, hidden, nn.Linear(hidden, classes), key)
        self.classes = classes

    @override
    def reduced(self, f: Tensor) -> Tensor:
        """-logsumexp_y f_y."""
        return -f.logsumexp(1)

    @override
    def slope(self, f: Tensor) -> Tensor:
        """-p(y | x)."""
        return -f.softmax(1)

    @override
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """`penultimate`, and `class`: p(y | x) of each class y."""
        return {**super().features(x), "class": self.outputs(x).softmax(1)}

    @override
    def logits(self, x: Tensor) -> Tensor:
        return self.outputs(x)

    @override
    def logits_vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        return self.outputs_vjp(x)


@register("model", "jem")
class JEMSpec(ModelSpec):
    """Convolutional classifier whose logits give p(y | x) and, summed out, p(x)."""

    widths: Widths
    hidden: Width
    classes: Annotated[int, Field(ge=2)]

    builds = JEM
    spaces = (Box,)

    @override
    def parameters(self, space: Space) -> int:
        """Of the convolutions and their biases."""
        return convolution_parameters(space, self.widths)

    @override
    def build(self, space: Space, mean: Tensor, key: Key) -> JEM:
        """Weights uniform within 1 / sqrt(inputs). Raises UserError for data that are no images."""
        check_image(space, "jem")
        assert isinstance(space, Box)
        return JEM(space, self.widths, self.hidden, self.classes, key)
