"""`_memory.py BATCH CHAINS K SITES HIDDEN`: train so for a few steps and print the peak resident memory in bytes.

Eager, since the compiler's own memory, some hundred MB once, is no part of what grows.
"""

import sys

from _ours import Size, training_step
from _peak import peak


def main(size: Size) -> None:
    """As many rows as a batch has, so that the data weigh nothing."""
    update = training_step(size, compiled=False, rows=size.batch)
    for _ in range(5):
        update()
    print(peak())


if __name__ == "__main__":
    main(Size(*map(int, sys.argv[1:])))
