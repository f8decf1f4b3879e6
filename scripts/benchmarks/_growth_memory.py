"""`_growth_memory.py KIND BATCH CHAINS VISIBLE HIDDEN`: some updates; prints the peak resident memory in bytes."""

import sys

from _peak import peak
from growth import KINDS, Shape

if __name__ == "__main__":
    update = KINDS[sys.argv[1]].update(Shape(*map(int, sys.argv[2:])))
    for _ in range(3):
        update()
    print(peak())
