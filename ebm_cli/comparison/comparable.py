"""Whether figures of held-out rows may stand side by side: only if they are of the same data, read in the same way."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ebm_cli.comparison.facts import Facts, as_configured

_SAID = {
    "dataset": "dataset",
    "split": "split",
    "space": "space",
    "binarised": "binarised",
    "levels": "grey levels spread",
    "noise": "noise added",
}
_ALONE = {"data": "data with fingerprint", "fingerprint": "draws of the same rows with fingerprint"}
"""Said only where nothing else tells the runs apart."""
_SHORT = 8  # characters of a fingerprint


def reasons(runs: Sequence[Facts], block: str) -> dict[Path, str]:
    """What keeps runs from being compared with most others by the figures of a block, by run directory."""
    having = [run for run in runs if block in run.sources]
    noted = all(run.sources[block].rows is not None for run in having)
    found = {run.path: _identity(run, block, noted=noted) for run in having}
    keys = {path: _key(identity) for path, identity in found.items()}
    counts = {key: list(keys.values()).count(key) for key in keys.values()}
    if len(counts) < 2:
        return {}
    most = max(counts, key=counts.__getitem__)  # the first of those that are as many
    usual = next(found[path] for path, key in keys.items() if key == most)
    return {path: differences(found[path], usual) for path, key in keys.items() if key != most}


def _identity(run: Facts, block: str, *, noted: bool) -> dict[str, Any]:
    source = run.sources[block]
    rows = dict(source.rows or {}) if noted else as_configured(run, source)
    return {"dataset": run.settings.get("dataset"), **rows} if source.data is None else rows


def _key(identity: Mapping[str, Any]) -> str:
    return repr([identity.get(name) for name in ("data", "fingerprint", *_SAID) if name != "dataset"])


def differences(mine: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """In words, first what can be named."""
    named = [name for name in _SAID if mine.get(name) != others.get(name)]
    said = [f"{_SAID[name]} {_shown(mine.get(name))} (others {_shown(others.get(name))})" for name in named]
    if not said and mine.get("fingerprint") is not None and mine["fingerprint"] == others.get("fingerprint"):
        return "trained on other rows, though judged by the same"
    for name, words in _ALONE.items():
        if not said and mine.get(name) != others.get(name):
            said = [f"{words} {_shown(mine.get(name))[:_SHORT]} (others {_shown(others.get(name))[:_SHORT]})"]
    return ", ".join(said)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "not recorded" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
