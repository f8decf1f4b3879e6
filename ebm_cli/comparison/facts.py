"""What is known of one run: its configuration, how far it came, and what was measured of it."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ebm_cli.errors import UserError
from ebm_cli.record import files, lease
from ebm_cli.record.run import CONFIG, Run, open_existing
from ebm_cli.record.runs import natural

_LABEL = re.compile(r"(other/)?((train|valid)/)?")
_OWNER = {"raise": "ais"}  # figures that another evaluation gives
_STEP = re.compile(r"step-(\d{8,})")
_AT_STEP = re.compile(r"step (\d+): ")


@dataclass(frozen=True)
class Source:
    """Where numbers are from: a folder below the run directory ("": the run itself), and of which rows they are."""

    folder: str
    step: int | None
    rows: Mapping[str, Any] | None  # as the program noted it, which older versions did not
    split: str = "test"
    data: str | None = None  # the fingerprint of other data than the run's own


@dataclass(frozen=True)
class Facts:
    """One run. `settings` are the keys of its configuration, with dots; `typed` those that its command line gave.

    `metrics` has what is no finite number too, as nan. `sources` are those of the metrics, by their `block`.
    """

    path: Path
    settings: Mapping[str, Any]
    configured: bool  # whether config.yaml is there, or the settings are those that were typed
    typed: frozenset[str]
    status: str
    step: int
    error: str
    metrics: Mapping[str, float]
    sources: Mapping[str, Source]
    remarks: tuple[str, ...] = field(default=())

    @property
    def ended_at(self) -> int:
        """The step it came to; of a run that failed the one that failed, which is not done, where it says so."""
        named = _AT_STEP.match(self.error) if self.status == "failed" else None
        return int(named[1]) if named else self.step


def block(metric: str) -> str:
    """What one evaluation says of one split, `ais/valid/`: its figures belong together."""
    evaluation, _, rest = metric.partition("/")
    label = _LABEL.match(rest)
    return f"{_OWNER.get(evaluation, evaluation)}/{label[0] if label else ''}"


def read(path: Path) -> Facts:
    """What the files of a run say; what they do not say is missing."""
    run = Run(path)
    known, summary = run.read_json("metadata.json"), run.read_json("summary.json")
    overrides = [str(word) for word in _listed(known.get("overrides"))]
    settings, why = _settings(run, overrides)
    configured = files.there(path, CONFIG)
    status = lease.status(path, known.get("status", "unknown" if configured else "not begun"))
    metrics, sources, remarks = _measured(run, summary)
    failed = summary.get("failed")
    if isinstance(failed, dict):
        remarks = (*remarks, *(f"evaluation {name} failed: {why}" for name, why in failed.items()))
    if status == "done" and not summary:
        remarks = (*remarks, "its summary.json is missing, so what it measured is not known: ebm evaluate run=PATH")
    ended = summary.get("steps") if status == "done" else None
    step = ended if isinstance(ended, int) else max(run.logged_step(), run.recorded_step())
    typed = frozenset(word.lstrip("+~").partition("=")[0].partition("@")[0] for word in overrides)
    error = str(known.get("error") or why)
    return Facts(path, settings, configured, typed, status, step, error, metrics, sources, remarks)


def _listed(found: object) -> Sequence[object]:
    return found if isinstance(found, list) else []


def _settings(run: Run, overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Those of config.yaml or, of a job that never became a run, those that were typed; and what is wrong."""
    if not files.there(run.path, CONFIG):
        return _typed(overrides), ""
    try:
        return flat(open_existing(run.path)[1]), ""
    except UserError as error:
        return _typed(overrides), str(error)


def _typed(overrides: Sequence[str]) -> dict[str, Any]:
    found = {}
    for word in overrides:
        key, _, value = word.lstrip("+~").partition("=")
        try:
            found[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):
            found[key] = value
    return found


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested keys with dots, `optimizer.lr`. The name of a part stands for its group: `optimizer`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.") if value else {name: "{}"}
        else:
            found[above.rstrip(".") if key == "name" and above else name] = value
    return found


def _measured(run: Run, summary: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, Source], tuple[str, ...]]:
    """The newest figures of every evaluation, all of the same step: the one the summary is of, if there is one."""
    metrics: dict[str, float] = {}
    sources: dict[str, Source] = {}
    remarks = []
    judged = summary.get("judged_step", summary.get("steps"))
    for folder, found in _results(run, summary):
        step = judged if not folder else found.get("step")
        if folder and judged is None:
            judged = step
        if step != judged:
            remarks.append(f"{folder} is of step {step}, what is shown of step {judged}")
            continue
        _replace(metrics, sources, _numbers(found), _source(folder, step, found))
    return metrics, sources, tuple(remarks)


def _results(run: Run, summary: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The summary, then what `ebm evaluate` found, the oldest first.

    Without a summary those of the step of the newest come first, which says of which step all are.
    """
    folders = sorted(_names(run, "evaluations"), key=natural)
    found = [(f"evaluations/{name}", run.read_json(f"evaluations/{name}/results.json")) for name in folders]
    found = [(name, values) for name, values in found if values]
    if summary:
        yield "", summary
    elif found:
        newest = found[-1][1].get("step")
        found.sort(key=lambda entry: entry[1].get("step") != newest)
    yield from found


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    """Figures by name; null is a figure that is not finite."""
    kept = {}
    for name, value in found.items():
        if "/" in name and (value is None or (isinstance(value, int | float) and not isinstance(value, bool))):
            kept[name] = math.nan if value is None else _number(value)
    of_run = {name: found[name] for name in ("judged_step", "training_seconds") if name in found}
    return kept | {name: _number(value) for name, value in of_run.items() if isinstance(value, int | float)}


def _number(value: float) -> float:
    """JSON has whole numbers of any length."""
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _names(run: Run, folder: str) -> list[str]:
    """What a folder of the run holds; nothing where a file or a link has its place."""
    with suppress(OSError):
        return files.names(run.path, folder)
    return []


def _replace(metrics: dict[str, float], sources: dict[str, Source], found: Mapping[str, float], source: Source) -> None:
    """Put the blocks of one source in place of older ones."""
    blocks = {block(name) for name in found}
    for name in [name for name in metrics if block(name) in blocks]:
        del metrics[name]
    metrics |= found
    sources |= dict.fromkeys(blocks, source)


def _source(folder: str, step: int | None, found: Mapping[str, Any]) -> Source:
    rows, other = found.get("rows"), found.get("data")
    data = str(other.get("hash")) if isinstance(other, dict) else None
    return Source(folder, step, rows if isinstance(rows, dict) else None, str(found.get("split", "test")), data)


def as_configured(run: Facts, source: Source) -> dict[str, Any]:
    """Which rows were judged, from checkpoint and configuration: for runs that did not note it, and beside these."""
    steps = [name for name in _names(Run(run.path), "checkpoints") if _STEP.fullmatch(name)]
    state = Run(run.path).read_json(f"checkpoints/{max(steps)}/state.json") if steps else {}
    return {
        "data": source.data or state.get("data"),
        "split": source.split,
        "binarised": run.settings.get("dataset.binarize"),
        "levels": run.settings.get("dataset.dequantise"),
        "noise": run.settings.get("dataset.noise"),
        "space": json.dumps(state.get("space"), sort_keys=True),
    }
