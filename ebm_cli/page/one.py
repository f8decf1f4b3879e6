"""What the page has on one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebm_cli.comparison.facts import Facts
from ebm_cli.errors import UserError
from ebm_cli.page import bars, command, curves, diagnostics, findings, pictures, said, weights
from ebm_cli.page.bars import Bars
from ebm_cli.page.chart import Chart
from ebm_cli.page.curves import Series
from ebm_cli.page.findings import Answer, State
from ebm_cli.page.pictures import Picture
from ebm_cli.page.weights import Weights
from ebm_cli.record.run import Run, as_yaml, open_existing

_FACTS = ("started", "commit", "python", "machine", "device")


@dataclass(frozen=True)
class Seen:
    """A run as it is told of in short: for the table of many."""

    name: str
    facts: Facts
    series: Mapping[str, Series]
    answers: Sequence[Answer]

    @property
    def headline(self) -> tuple[State, str]:
        """The worst of it."""
        return findings.headline(self.answers)

    @property
    def steps_to_take(self) -> list[str]:
        """What to do next, in Markdown."""
        return findings.steps_to_take(self.facts, self.answers)

    @property
    def monitored(self) -> str:
        """The key of metrics.jsonl by which its best checkpoint is chosen; of training rows if there are no others."""
        found = [name.removeprefix("best/") for name in self.facts.metrics if name.startswith("best/")]
        wanted = str(self.facts.settings.get("checkpoint.monitor"))
        kept = [name for name in (*found, wanted, wanted.replace("/valid/", "/train/")) if name in self.series]
        return kept[0] if kept else ""


@dataclass(frozen=True)
class Whole:
    """All of it."""

    charts: Sequence[Chart]
    diagnostics: Sequence[Chart]
    bars: Bars | None
    pictures: Sequence[Picture]
    weights: Weights
    figures: Sequence[tuple[str, str]]
    configuration: str
    command: str
    about: Sequence[tuple[str, str]]


def seen(name: str, facts: Facts) -> Seen:
    """From its small files."""
    series = curves.read(facts.path)
    found = Seen(name, facts, series, ())
    watched = series[found.monitored].values if found.monitored else []
    return Seen(name, facts, series, findings.answers(facts, said.of_run(facts), watched, found.monitored))


def whole(run: Seen, room: int) -> Whole:
    """Everything, with pictures of at most `room` bytes."""
    path = run.facts.path
    found = weights.of_run(path)
    return Whole(
        charts=curves.charts({run.name: run.series}, run.monitored),
        diagnostics=diagnostics.of_run(path),
        bars=bars.of_runs({run.name: run.facts}),
        pictures=pictures.of_run(path, room - len(found.filters)),
        weights=found,
        figures=[(name, f"{value:.6g}") for name, value in run.facts.metrics.items()],
        configuration=_configuration(path),
        command=command.of_run(run.facts),
        about=_about(run.facts),
    )


def _configuration(path: Path) -> str:
    """As YAML; a page may be sent to somebody whom an address for notices does not concern."""
    try:
        config = open_existing(path)[1]
    except UserError as error:
        return str(error)
    kept = {key: command.HIDDEN if key == command.PRIVATE and value else value for key, value in config.items()}
    return as_yaml(kept)


def _about(facts: Facts) -> list[tuple[str, str]]:
    """When, where and with what it ran."""
    known = Run(facts.path).read_json("metadata.json")
    found = [(name, str(known[name])) for name in _FACTS if known.get(name)]
    versions = known.get("versions")
    if isinstance(versions, dict):
        found.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return [("directory", str(facts.path)), *found]
