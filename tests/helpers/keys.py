"""Which keys and counters a computation draws with."""

from ebm_cli import philox, rng
from ebm_cli.device.engine import EAGER, Engine


class RegionsAsTheyAre(Engine):
    """What a compiling engine hands to its regions, counters and numbers as tensors, and no compiler."""

    def __init__(self) -> None:
        super().__init__(compiled=False)
        self.compiled = True

    def region(self, function):
        return function


COUNTING = RegionsAsTheyAre()
ENGINES = {
    "keys": EAGER,
    "counters": COUNTING,
}  # the two forms of a key; the first reaches numpy, the second Philox4x32


def form(engine: Engine, key: rng.Key) -> rng.AnyKey:
    """A key as the regions of this engine take it."""
    return engine.keys([key], "cpu")[0]


def keys_used(monkeypatch) -> list:
    """Filled from now on with the key of every draw: no key may serve two, their numbers would be the same."""
    used: list = []
    numpy_words, words = rng._philox4x64, philox.words
    monkeypatch.setattr(rng, "_philox4x64", lambda key, *at: used.append(key) or numpy_words(key, *at))
    monkeypatch.setattr(
        philox,
        "words",
        lambda rows, count, key, lane: used.append((*key.tolist(), lane)) or words(rows, count, key, lane),
    )
    return used
