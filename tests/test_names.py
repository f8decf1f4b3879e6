"""Names that a person typed are shown as they were typed, whatever a library makes of brackets and colons."""

import io
import re
from pathlib import Path

import pytest
from helpers.cli import ebm, train
from test_messages import job

from ebm_cli import __file__ as package
from ebm_cli import terminal
from ebm_cli.cli import listing
from ebm_cli.commands import evaluate as evaluate_command
from ebm_cli.commands import multi, report
from ebm_cli.commands import sample as sample_command


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


HARD = "run[bold]x[red] :smile:"
"""A name that markup and codes of emoji would change."""
CLOSED = f"{HARD}[/blue]"
"""And one that would be an error in markup."""


@pytest.fixture
def console(monkeypatch):
    """Both outputs as one, as on a terminal; what it was given to show comes out of `export_text`."""
    made = terminal.plain_console(file=io.StringIO(), record=True, width=200, force_terminal=True)
    for module in (terminal, multi, report, evaluate_command, sample_command, listing):
        for name in {"console", "output"} & vars(module).keys():
            monkeypatch.setattr(module, name, made)
    return made


@pytest.mark.long
def test_names_are_shown_as_they_were_typed(console):
    """In every line and table of a run, of its samples and of its evaluations, with the paths that are there."""
    assert train(directory=HARD).code == 0
    assert ebm("sample n=2 steps=1", f"run='{HARD}'").code == 0
    assert ebm("evaluate evaluation=[samples]", f"run='{HARD}'").code == 0
    text = console.export_text()
    assert f"run directory {HARD}\n" in text
    assert f"\n{HARD} " in text  # the title of the table
    assert f"{HARD} at step 12" in text
    assert f"samples after 1 step: {HARD}/" in text
    assert f"picture: {HARD}/" in text
    assert f"results: {HARD}/" in text
    assert "😄" not in text


def test_names_of_jobs_are_shown_as_they_were_typed(console):
    job(HARD, ["steps=12", f"dataset.path={CLOSED}"], error=CLOSED)
    job("1", ["steps=12"])
    multi.table(Path("sweep"))
    assert console.export_text(clear=False).count(HARD) == 3
    multi.table(Path("sweep").rename(HARD))
    assert f"multirun {HARD}" in console.export_text()


def test_a_job_that_begins_and_fails_is_shown_as_it_was_typed(console):
    words = [f"dataset.path='{CLOSED}'", f"hydra.sweep.dir='{HARD}'"]
    ebm("train -m tracker=none steps=1 dataset=array", *words)
    text = console.export_text()
    assert "job 0: " in text
    assert text.count(CLOSED) >= 2  # as it begins, and in the table
    assert f"multirun {HARD}" in text


def test_tables_are_shown_as_they_are(console):
    console.print(terminal.table(CLOSED, {CLOSED: CLOSED}))
    assert console.export_text().count(CLOSED) == 3
    console.print(terminal.columns(CLOSED, [CLOSED], {CLOSED: [CLOSED]}, CLOSED))
    assert console.export_text().count(CLOSED) == 5


def test_the_numbers_of_a_progress_bar_are_shown_as_they_are(console):
    with terminal.StepDisplay(total=10, first=0) as display:
        display.show(3, {CLOSED: 1.0})
        console.print(*display.bar.get_renderables())
    assert CLOSED in console.export_text()


@pytest.mark.long
def test_the_list_of_parts_has_its_brackets(console):
    for words in ("", "evaluation samples", "experiment"):
        assert ebm(f"list {words}").code == 0
    text = console.export_text()
    assert "[bold]" not in text
    assert "evaluation=samples  " in text


def test_only_the_terminal_has_consoles_and_nothing_is_written_as_markup():
    for path in Path(package).parent.rglob("*.py"):
        assert "rich.markup" not in path.read_text(), path
        assert path.name == "terminal.py" or not re.search(r"\bConsole\(|get_console", path.read_text()), path
