"""Whether figures of held-out rows may stand side by side: only if they are of the same data, read in the same way."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ebm_cli.comparison.facts import Facts, as_configured

_SAID = {
    "dataset": "dataset",
    "split": "split",
    "space": "space",
    "binarised": "binarised",
    "levels": "grey levels spread",
    "noise": "noise added",
    "unit": "in",
}
_ALONE = {"data": "data with fingerprint", "fingerprint": "draws of the same rows with fingerprint"}
"""Said only where nothing else tells the runs apart."""
_SHORT = 8  # characters of a fingerprint


class Figure(NamedTuple):
    """Some figure of a run: the block it belongs to, and its unit where figures of several units stand together."""

    run: Facts
    block: str
    unit: str = ""


def reasons(figures: Sequence[Figure]) -> dict[Path, str]:
    """What keeps figures that stand side by side from being compared with most others, by run directory."""
    noted = all(each.run.sources[each.block].rows is not None for each in figures)
    found = {each.run.path: _identity(each, noted=noted) for each in figures}
    keys = {path: _key(identity) for path, identity in found.items()}
    counts = {key: list(keys.values()).count(key) for key in keys.values()}
    if len(counts) < 2:
        return {}
    most = max(counts, key=counts.__getitem__)  # the first of those that are as many
    usual = next(found[path] for path, key in keys.items() if key == most)
    return {path: differences(found[path], usual) for path, key in keys.items() if key != most}


def of_block(runs: Sequence[Facts], block: str) -> list[Figure]:
    """Those of the runs that have it."""
    return [Figure(run, block) for run in runs if block in run.sources]


def _identity(figure: Figure, *, noted: bool) -> dict[str, Any]:
    run, source = figure.run, figure.run.sources[figure.block]
    rows = dict(source.rows or {}) if noted else as_configured(run, source)
    own = {"dataset": run.settings.get("dataset")} if source.data is None else {}
    return {**own, **rows, "unit": figure.unit}


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
