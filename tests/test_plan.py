"""While the jobs of a multirun are planned: who waits is told how far it is, and a request to stop begins none."""

import contextlib
import io
import os
import signal
from pathlib import Path

import pytest
from test_sweep import _elsewhere, again, begun, swept  # noqa: F401  fixtures

from ebm_cli import terminal
from ebm_cli.cli import sweeper
from ebm_cli.commands import multi, sweep
from ebm_cli.record import ledger

jobs_that_do_nothing = pytest.mark.usefixtures("begun")


@jobs_that_do_nothing
def test_a_request_to_stop_while_jobs_are_planned_says_that_none_was_begun(monkeypatch):
    def asked(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    original = sweep.planned
    monkeypatch.setattr(sweep, "planned", asked)
    answer = swept("seed=1,2")
    assert answer.code == 75
    assert "no job was begun: the same command does it all\n" in answer.err
    assert not Path("sweep").exists()


@jobs_that_do_nothing
def test_a_request_to_stop_before_the_first_job_leaves_a_line_that_goes_on(monkeypatch):
    def asked(self):
        os.kill(os.getpid(), signal.SIGTERM)
        original(self)

    original = ledger.Ledger.write
    with monkeypatch.context() as patched:
        patched.setattr(ledger.Ledger, "write", asked)
        answer = swept("seed=1,2")
    assert answer.code == 75
    assert multi.train.seen == []
    assert "take up what is not done with: ebm train -m resume=sweep\n" in answer.out
    assert "report" not in answer.out + answer.err  # there is nothing to report of
    assert again().code == 0


@jobs_that_do_nothing
def test_who_waits_for_the_plan_is_told_how_far_it_is(monkeypatch):
    clock = iter(range(0, 10_000, 1))
    monkeypatch.setattr(terminal, "_SILENCE", 2.0)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))
    assert list(terminal.told([], "x")) == []
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown):
        assert list(terminal.told(range(7), "jobs planned")) == list(range(7))
    assert shown.getvalue() == "2 of 7 jobs planned\n5 of 7 jobs planned\n"


@pytest.mark.long
@jobs_that_do_nothing
def test_jobs_are_planned_by_a_loop_that_tells(monkeypatch):
    seen = []
    monkeypatch.setattr(sweeper, "told", lambda work, what: seen.append((len(work), what)) or iter(work))
    swept("seed=1,2,3")
    assert seen == [(3, "jobs planned")]
