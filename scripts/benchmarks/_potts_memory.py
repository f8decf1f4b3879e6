"""`_potts_memory.py SIDE CHAINS`: sweeps of a Potts lattice; prints the peak resident memory in bytes."""

import sys

from _peak import peak
from potts import lattice

if __name__ == "__main__":
    side, chains = map(int, sys.argv[1:])
    sweep = lattice(side, chains)
    for _ in range(3):
        sweep()
    print(peak())
