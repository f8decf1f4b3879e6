"""Which mutants are tried of this tree where not all are: another part of them for another tree."""

import zlib

PARTS = 8


def part(mutants, digest):
    """One in PARTS, chosen by the digest of the tree: the same at every run on it, and every mutant has its turn."""
    return [each for each in mutants if zlib.crc32(f"{digest}{each.file}{each.what}".encode()) % PARTS == 0]
