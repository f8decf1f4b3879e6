"""`word_stream.py keys|counters`: 32-bit words of the package's draws to standard output, without an end.

Matrices of 256 chains by 784 numbers as training draws them, one key after the other; a reader closes the pipe when it
has enough. keys: numpy's Philox4x64. counters: Philox4x32 in a compiled region.
"""

import itertools
import sys

import torch

from ebm_cli import rng
from ebm_cli.device.engine import EAGER, Engine
from ebm_cli.rng import Key, stream

CHAINS, NUMBERS, AT_ONCE = 256, 784, 64


def matrix(key):
    return rng._words(CHAINS, NUMBERS, key, "cpu")


def blocks(engine: Engine, root: Key):
    """Draws (CHAINS, NUMBERS) int32 of the keys root.fold(0), root.fold(1), ..."""
    draw = engine.region(matrix)
    for first in itertools.count(step=AT_ONCE):
        for key in engine.keys([root.fold(first + i) for i in range(AT_ONCE)], "cpu"):
            yield draw(key)


def main(form):
    """Write until nobody reads."""
    torch.set_num_threads(1)
    engine = {"keys": lambda: EAGER, "counters": lambda: Engine(compiled=True)}[form]()
    for block in blocks(engine, stream(0, "battery")):
        sys.stdout.buffer.write(block.contiguous().numpy().tobytes())


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except BrokenPipeError:
        sys.stderr.close()
