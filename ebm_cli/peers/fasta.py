"""Chains of a run as sequences: FASTA that adabmDCA goes on from, `>chain_k`, its energy behind a space."""

from ebm_cli.errors import UserError
from ebm_cli.peers.adabmdca import check_letters
from ebm_cli.peers.foreign import Foreign


def content(model: Foreign) -> bytes:
    """Each chain as a sequence; `about["energies"]` (n,) are theirs in nats. Raises UserError if there are none."""
    check_letters(model, "fasta")
    if model.chains is None:
        raise UserError("format = fasta: the run keeps no chains; ebm sample run=RUN draws sequences")
    lines = list[str]()
    for k, (row, energy) in enumerate(zip(model.chains.flatten(1).tolist(), model.about["energies"], strict=True)):
        lines += [f">chain_{k} energy={energy:.4f}", "".join(model.letters[int(number)] for number in row)]
    return ("\n".join(lines) + "\n").encode()
