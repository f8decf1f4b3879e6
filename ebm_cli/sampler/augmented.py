"""Data augmentation as a move of the chains (Du et al. 2021, sec. 3.2)."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, cast

from pydantic import Field, PlainValidator
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.base import EnergyModel
from ebm_cli.registry import Nested, register
from ebm_cli.rng import AnyKey
from ebm_cli.sampler.augmentation import TRANSFORMS, Strengths
from ebm_cli.sampler.base import Differentiable, Info, Sampler
from ebm_cli.sampler.kernel import below, nested
from ebm_cli.space import Box, Space

Transform = Literal["shift", "rescale", "blur", "colour", "elastic"]
Strength = Annotated[float, Field(gt=0)]


class AugmentedState(NamedTuple):
    """The kernel's state and the number of steps taken."""

    inner: Any
    taken: int

    @property
    def x(self) -> Tensor:
        """Positions, (chains, *shape)."""
        return self.inner.x


@register("sampler", "augmented")
class Augmented(Differentiable[EnergyModel, AugmentedState]):
    """Steps of `kernel`; before the first and then after every `every` of them each image goes through `transforms`.

    They take a chain far at once without leaving what images look like, but follow no density: the model is not
    invariant. Training begins each step of its own with them, if `every` is at least `chains.steps`: every image drawn
    from the reservoir is transformed once. A kernel with a schedule begins it anew after each.
    """

    kernel: Annotated[Sampler[Any, Any], PlainValidator(nested), Nested("sampler")]
    every: Annotated[int, Field(ge=1)]
    transforms: Annotated[tuple[Transform, ...], Field(min_length=1)]
    shift: Annotated[float, Field(gt=0, le=1)]
    rescale: Strength
    blur: Strength
    colour: Annotated[float, Field(gt=0, le=1)]
    elastic: Strength

    spaces = (Box,)

    @property
    @override
    def leaves_invariant(self) -> bool:
        return False

    @property
    @override
    def inner(self) -> Sampler[Any, Any]:
        return self.kernel

    @property
    @override
    def draws_given(self) -> bool:
        """Transforms change whole images."""
        return False

    @override
    def remark(self) -> str | None:
        """What the kernel says, and what comes between its steps."""
        names = ", ".join(self.transforms)
        said = f"chains are changed by {names} every {self.every} steps, a move that follows no density"
        kernel = self.kernel.remark()
        return f"{kernel}; {said}" if kernel else said

    @override
    def refusal(self, space: Space) -> str | None:
        """Only images can be transformed."""
        if not isinstance(space, Box) or len(space.shape) not in (2, 3):
            return "sampler.name = augmented: transforms images in a box, the data are none; use another sampler"
        found = self.kernel.refusal(space)
        return found and below(found)

    @override
    def init(self, model: EnergyModel, x: Tensor) -> AugmentedState:
        return AugmentedState(self.kernel.init(model, x), 0)

    @override
    def step(self, model: EnergyModel, state: AugmentedState, key: AnyKey) -> tuple[AugmentedState, Info]:
        """One step of the kernel, after the transforms if they are due."""
        inner, taken = state
        if taken % self.every == 0:
            inner = self.kernel.init(model, self.transformed(model, state.x, key.fold("transform")))
        inner, info = self.kernel.step(model, inner, key.fold("kernel"))
        return AugmentedState(inner, taken + 1), info

    def transformed(self, model: EnergyModel, x: Tensor, key: AnyKey) -> Tensor:
        """Every image x (chains, *shape) through all transforms in their order, and back into the box."""
        space = cast(Box, model.space)
        image = space.brightness(x).reshape(len(x), *((1,) if x.dim() == 3 else ()), *x.shape[1:])
        strengths = Strengths(self.shift, self.rescale, self.blur, self.colour, self.elastic)
        for name in self.transforms:
            image = TRANSFORMS[name](image, strengths, key.fold(name))
        return space.nearest(space.of_unit(image.reshape(x.shape)))

    @override
    def through(self, model: EnergyModel, x: Tensor, keys: Sequence[AnyKey], taken: int) -> Tensor:
        """The same steps with their graph."""
        kernel = cast(Differentiable[Any, Any], self.kernel)
        for i, key in enumerate(keys):
            if (taken + i) % self.every == 0:
                x = self.transformed(model, x, key.fold("transform"))
            x = kernel.through(model, x, [key.fold("kernel")], taken + i)
        return x
