"""Which keys of configurations matter, in which of them runs differ, and what these are called for short."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ebm_cli.comparison.facts import Facts
from ebm_cli.errors import UserError, nearest
from ebm_cli.record.run import LATER_GROUPS

NEVER = (
    "resume", "plugins", "tracker", "hydra", "notify", "health", "log_every", "save_every", "checkpoint.keep_last",
    "checkpoint.log_spaced", "dataset.root",
)  # fmt: skip
"""Where a run is written and shown, and where its data lie: no figure depends on them."""
WHERE_TYPED = ("device", "evaluation", "running")
"""Where it ran and what was measured: they count where a command line gave one of their keys, `device.precision=bf16`.
"""
_AS_ABSENT = [(group, keys["name"]) for group, keys in LATER_GROUPS.items()]
SEED = "seed"


def counted(runs: Sequence[Facts]) -> list[dict[str, Any]]:
    """The settings of each run that matter.

    A job that failed before it had a configuration is taken to have what all runs share that have one.
    """
    typed = {key for run in runs for key in run.typed if "." in key}
    found = [{key: value for key, value in run.settings.items() if _counts(key, typed)} for run in runs]
    found = [{key: value for key, value in each.items() if (key, value) not in _AS_ABSENT} for each in found]
    found = [{**each, **_going_back(run)} for each, run in zip(found, runs, strict=True)]
    whole = [each for each, run in zip(found, runs, strict=True) if run.configured]
    common = shared(whole) if whole else {}
    return [each if run.configured else {**common, **each} for each, run in zip(found, runs, strict=True)]


def shared(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Those that all of them have, with the same value."""
    first, *others = settings
    return {
        key: value
        for key, value in first.items()
        if all(key in each and shown(each[key]) == shown(value) for each in others)
    }


def _going_back(run: Facts) -> dict[str, Any]:
    """Of health what changes a run: that it goes back where it fails."""
    return {"health.act": "recover"} if run.settings.get("health.act") == "recover" else {}


def _counts(key: str, typed: set[str]) -> bool:
    return not _within(key, NEVER) and (not _within(key, WHERE_TYPED) or key in typed)


def _within(key: str, groups: Iterable[str]) -> bool:
    return any(key == group or key.startswith(f"{group}.") for group in groups)


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys in which they differ, in the order of the configuration.

    A key that some lack since their part of the group is another one says nothing that the part does not.
    """
    order = list(dict.fromkeys(key for each in settings for key in each))
    return [key for key in order if _differs(key, settings)]


def _differs(key: str, settings: Sequence[Mapping[str, Any]]) -> bool:
    having = [each for each in settings if key in each]
    if len({shown(each[key]) for each in having}) > 1:
        return True
    if len(having) == len(settings):
        return False
    part = key.rpartition(".")[0]
    parts = [{shown(each.get(part)) for each in some} for some in (having, [e for e in settings if key not in e])]
    return not part or bool(parts[0] & parts[1])


def shown(value: object) -> str:
    """A value as a command line has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"[{','.join(map(shown, value))}]" if isinstance(value, list | tuple) else str(value)


def column_of(key: str, settings: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What each of them has."""
    return tuple(shown(each[key]) if key in each else "" for each in settings)


def telling(
    found: Sequence[str], settings: Sequence[Mapping[str, Any]], typed: Iterable[str]
) -> tuple[list[str], list[str]]:
    """The keys that are to be shown, and those left out: they go along with one that somebody typed."""
    given = set(typed)
    alike: dict[tuple[int, ...], list[str]] = {}
    for key in found:
        alike.setdefault(_partition(column_of(key, settings)), []).append(key)
    kept = {key for keys in alike.values() for key in ([key for key in keys if key in given] or keys)}
    return [key for key in found if key in kept], [key for key in found if key not in kept]


def _partition(column: Sequence[str]) -> tuple[int, ...]:
    """Equal for columns that tell the same runs apart."""
    return tuple(column.index(value) for value in column)


def short(keys: Sequence[str], among: Iterable[str]) -> dict[str, str]:
    """For each key the shortest ending, from a dot on, that none of the others has."""
    others = set(among) | set(keys)
    endings = Counter(ending for key in others for ending in _endings(key))
    return {key: next((e for e in _endings(key) if endings[e] == 1), key) for key in keys}


def _endings(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[-i:]) for i in range(1, len(parts) + 1)]


def resolved(words: Sequence[str], settings: Sequence[Mapping[str, Any]], said: str) -> list[str]:
    """The whole keys that are meant by words. Raises UserError for one that no run has, or that could mean several."""
    known = list(dict.fromkeys(key for each in settings for key in each))
    return [_meant(word, known, said) for word in words]


def _meant(word: str, known: Sequence[str], said: str) -> str:
    if word in known:
        return word
    found = [key for key in known if key.endswith(f".{word}")]
    if len(found) > 1:
        raise UserError(f"{said} = {word}: could be {' or '.join(found)}; give the whole key")
    if not found:
        raise UserError(f"{said} = {word}: no run has such a key{nearest(word, list(known))}")
    return found[0]
