"""Sampling from a latent energy-based model: chains of codes, which are decoded."""

from dataclasses import replace
from functools import partial
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, PlainValidator
from torch import Tensor
from typing_extensions import override

from ebm_cli.model.latent_ebm import LatentEBM
from ebm_cli.registry import Nested, register
from ebm_cli.rng import AnyKey, Key
from ebm_cli.sampler.adaptation import Warmed, adapted, adapts, recorded
from ebm_cli.sampler.base import Info, Sampler
from ebm_cli.sampler.kernel import exact
from ebm_cli.space import Binary, Box, Real

Kernel = Annotated[Sampler[Any, Any], PlainValidator(partial(exact, at="sampler.kernel")), Nested("sampler")]


class LatentState(NamedTuple):
    """Decoded positions (chains, *shape), and the kernel's state on the codes that they were made from, if known."""

    x: Tensor
    codes: Any


@register("sampler", "latent")
class Latent(Warmed[LatentEBM, LatentState]):
    """`moves` steps of `kernel` on codes, which leave p(z) invariant, then x ~ p(x | z).

    Chains keep their codes from one step to the next, so that x comes to be distributed as the model. Only where they
    begin, at given x, are codes drawn by the encoder, which is no draw from p(z | x): the kernel from x to x does not
    leave p invariant.
    """

    kernel: Kernel
    moves: Annotated[int, Field(ge=1)]

    spaces = (Box, Real, Binary)
    needs = (LatentEBM,)

    @property
    @override
    def leaves_invariant(self) -> bool:
        """As a kernel from x to x it is not."""
        return False

    @property
    @override
    def rejects(self) -> bool:
        """x is drawn anew in every step."""
        return False

    @override
    def init(self, model: LatentEBM, x: Tensor) -> LatentState:
        """Positions; codes are drawn in the first step."""
        return LatentState(x, None)

    @override
    def step(self, model: LatentEBM, state: LatentState, key: AnyKey) -> tuple[LatentState, Info]:
        """Info is that of the kernel, the mean over its moves."""
        codes, total = state.codes, Info()
        if codes is None:
            codes = self.kernel.init(model.prior, model.code(state.x, key.fold("encode")))
        for i in range(self.moves):
            codes, info = self.kernel.step(model.prior, codes, key.fold("codes", i))
            total = {name: value / self.moves + total.get(name, 0.0) for name, value in info.items()}
        return LatentState(model.generate(codes.x, key.fold("decode")), codes), total

    @property
    @override
    def wants_warmup(self) -> bool:
        return adapts(self.kernel)

    @override
    def warmed(self, model: LatentEBM, x: Tensor, steps: int, key: Key) -> tuple[Self, Tensor]:
        """The kernel by a warm-up on codes."""
        z = model.code(x, key.fold("encode"))
        kernel, z = adapted(self.kernel, model.prior, z, steps * self.moves, key.fold("warm codes"))
        return replace(self, kernel=kernel), model.generate(z, key.fold("decode"))

    @override
    def found(self) -> dict[str, float]:
        return recorded(self.kernel)

    @override
    def frozen(self) -> Self:
        return replace(self, kernel=self.kernel.frozen()) if isinstance(self.kernel, Warmed) else self
