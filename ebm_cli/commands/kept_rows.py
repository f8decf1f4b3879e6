"""What evaluations found of each row, kept beside their numbers with an account of the rows these are of."""

from contextlib import suppress
from typing import Any

from ebm_cli.dataset.base import Data, Split
from ebm_cli.evaluation.together import Findings
from ebm_cli.record import files, rows
from ebm_cli.record.checkpoint_space import in_words
from ebm_cli.record.run import Run


def keep_rows(home: Run, data: Data, split: str, findings: Findings) -> None:
    """Write rows.npz, if any evaluation gave values of rows, and note among the findings which rows were judged."""
    part: Split = getattr(data, split)
    findings.about["rows"] = about(data, split) | ({"fingerprint": part.fingerprint} if findings.by_row else {})
    if not findings.by_row:
        with suppress(FileNotFoundError):
            files.remove(home.path, rows.NAME)  # of an evaluation that this one replaces
        return
    columns, index = (
        {name: column.detach().cpu().numpy() for name, column in found.items()}
        for found in (findings.by_row, findings.index)
    )
    home.write_bytes(rows.NAME, rows.pack(columns, index, part.fingerprint))


def about(data: Data, split: str) -> dict[str, Any]:
    """What two runs must have in common for their log-likelihoods to be comparable.

    `data` is the fingerprint of all that was read; levels that were spread and noise that was added give real numbers
    a density.
    """
    part: Split = getattr(data, split)
    return {
        "data": data.fingerprint,
        "split": split,
        "count": len(part),
        "binarised": data.method,
        "levels": part.levels,
        "noise": part.noise,
        "space": in_words(data.space),
    }
