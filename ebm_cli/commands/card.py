"""The README.md of a model on the hub: what it is, how likely held-out rows are and by which estimate, the commands."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from ebm_cli import __version__
from ebm_cli.commands import report
from ebm_cli.comparison.facts import Facts
from ebm_cli.comparison.likelihood import Likelihood, judged, shown
from ebm_cli.model.base import EnergyModel
from ebm_cli.page import command, curves
from ebm_cli.record import picture
from ebm_cli.record.checkpoint_space import in_words
from ebm_cli.record.run import Run
from ebm_cli.space import Discrete

_CHARTS = 3
_BY = {
    "exact": "exact, by summing over all states",
    "log_likelihood": "annealing until its bracket is narrow enough, or exact",
    "ais": "annealed importance sampling, which errs upwards, and RAISE below it",
    "bridge": "Bennett's acceptance ratio over a ladder of temperatures, 95 % interval of log Z",
    "trajectory": "Bennett's acceptance ratio along the checkpoints of the run, 95 % interval of log Z",
}


def text(facts: Facts, model: EnergyModel, pictures: Sequence[str], title: str) -> str:
    """The page, beginning with what the hub reads of it."""
    known, likelihood = Run(facts.path).read_json("metadata.json"), judged(facts.metrics)
    name, data = str(facts.settings.get("model")), str(facts.settings.get("dataset"))
    parts = [
        f"# {title}",
        f"An energy-based model, p(x) = exp(-E(x)) / Z: `{name}` on {in_words(model.space)} rows, "
        f"{sum(p.numel() for p in model.parameters())} parameters, step {facts.step}. {_energy(model)}",
        *_likelihood(facts, likelihood),
        *(f"![{Path(one).stem}]({one})" for one in pictures),
        f"## Training\n\nData: `{data}`.\n\n```bash\n{_command(facts, known)}\n```",
        _use(model),
    ]
    return _front(name, data, likelihood, title) + "\n\n".join(parts) + "\n"


def _front(name: str, data: str, likelihood: Likelihood | None, title: str) -> str:
    """The block of metadata between two lines of dashes."""
    about: dict[str, Any] = {"library_name": "ebm", "tags": ["energy-based-model", name.replace("_", "-")]}
    if likelihood is not None:
        metric = {"type": likelihood.metric, "name": f"test {likelihood.unit}", "value": round(likelihood.middle, 4)}
        result = {
            "task": {"type": "density-estimation", "name": "density estimation"},
            "dataset": {"name": data, "type": data},
            "metrics": [metric],
        }
        about["model-index"] = [{"name": title, "results": [result]}]
    return f"---\n{yaml.safe_dump(about, sort_keys=False, allow_unicode=True)}---\n\n"


def _energy(model: EnergyModel) -> str:
    said = (type(model).__doc__ or "").strip().splitlines()
    return f"`{said[0].strip().rstrip('.')}`." if said else ""


def _likelihood(facts: Facts, found: Likelihood | None) -> list[str]:
    """The bracket with how it was found, and every other figure."""
    if found is None:
        return ["How likely held-out rows are was not measured."]
    how = _BY.get(found.by, found.by)
    doubt = f" But {found.doubtful}." if found.doubtful else ""
    value = shown(found, lambda number: f"{number:.2f}")
    said = f"Log-likelihood of held-out rows: **{value}** {found.unit} ({how}).{doubt}"
    rows = report.rows({name: value for name, value in facts.metrics.items() if "/" in name}, "test")
    table = "\n".join(["| figure | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])
    return ["## How good it is", said, table]


def _command(facts: Facts, known: Mapping[str, Any]) -> str:
    """That made it, without the folders of the machine."""
    imported = known.get("imported")
    if isinstance(imported, dict):
        return f"ebm import {quote(Path(str(imported.get('file'))).name)}  # of {imported.get('format')}"
    return command.of_run(facts, folders=False)


def _use(model: EnergyModel) -> str:
    scored = (
        "# energies, log p and pseudo-log-likelihoods" if isinstance(model.space, Discrete) else "# energies, log p"
    )
    lines = [
        "ebm sample run=FOLDER n=100 steps=1000",
        f"ebm score run=FOLDER data=ROWS.npz   {scored}",
        "ebm evaluate run=FOLDER evaluation=[ais] dataset.path=DATA",
    ]
    return (
        f"## Use\n\nWith ebm {__version__} and FOLDER this folder; nothing in it is run as code.\n\n```bash\n"
        + "\n".join(lines)
        + "\n```"
    )


def drawn(facts: Facts) -> bytes | None:
    """Curves of training as a PNG file; None where nothing was logged."""
    series = curves.read(facts.path)
    charts = curves.charts({"": series}, "")[:_CHARTS]
    if not charts:
        return None
    with picture.axes(1, len(charts)) as drawing:
        for at, chart in zip(drawing.at[0], charts, strict=True):
            for line in chart.lines:
                at.plot(line.x, line.y, label=line.label, linewidth=1)
            at.set_title(chart.title, fontsize=9)
            at.set_xlabel("step")
            at.legend(fontsize=7)
    from ebm_cli.record.run import png

    return png(drawing.pixels)
