"""States of binary Markov chains, the prior of a factorial hidden Markov model."""

from typing import Annotated

from pydantic import Field
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset.base import DrawnDataset, Raw
from ebm_cli.registry import register


@register("dataset", "markov_chains")
class MarkovChains(DrawnDataset):
    """Rows of `chains` independent binary Markov chains of length `length`: p(x_1 = 1) = start, stay = no change.

    With model=fhmm and its own `start` and `stay` they are draws from the prior: where its chains may start, before the
    observed series tells them more.
    """

    length: Annotated[int, Field(ge=1)]
    chains: Annotated[int, Field(ge=1)]
    start: Annotated[float, Field(gt=0, lt=1)]
    stay: Annotated[float, Field(gt=0, lt=1)]
    values = "binary"

    @override
    def read(self) -> Raw:
        key = rng.stream(self.seed, "markov_chains")
        x = rng.markov_chains(self.rows, (self.length, self.chains), self.start, self.stay, key).byte()
        return self.parted("binary", x.numpy())
