"""States of binary Markov chains, the prior of a factorial hidden Markov model."""

from typing import Annotated

from pydantic import Field

from ebm_cli import markov, rng
from ebm_cli.dataset.base import Arrays, Binarize, Dataset, Raw
from ebm_cli.registry import register


@register("dataset", "markov_chains")
class MarkovChains(Dataset):
    """Rows of `chains` independent binary Markov chains of length `length`: p(x_1 = 1) = start, stay = no change.

    With model=fhmm and its own `start` and `stay` they are draws from the prior: where its chains may start, before the
    observed series tells them more.
    """

    length: Annotated[int, Field(ge=1)]
    chains: Annotated[int, Field(ge=1)]
    start: Annotated[float, Field(gt=0, lt=1)]
    stay: Annotated[float, Field(gt=0, lt=1)]
    train: Annotated[int, Field(ge=1)]
    held_out: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    binarize: Binarize
    values = "binary"

    def read(self) -> Raw:
        """Drawn now: `train` rows, and `held_out` each for validation and testing."""
        rows = self.train + 2 * self.held_out
        key = rng.stream(self.seed, "markov_chains")
        x = markov.draw(rows, (self.length, self.chains), self.start, self.stay, key).byte()
        train, valid, test = (Arrays(part.numpy()) for part in x.split([self.train, self.held_out, self.held_out]))
        return Raw("binary", train, valid, test)
