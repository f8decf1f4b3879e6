"""Loops that take long say how far they are, and change nothing."""

import pytest
from helpers.cli import ebm, facts, trained

from ebm_cli import terminal


@pytest.fixture
def said(monkeypatch):
    """The lines of a loop each of whose items takes four seconds."""
    lines, seconds = [], iter(range(0, 10**6, 4))
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(terminal.log, "info", lambda form, *words: lines.append(form % words))
    return lines


def test_how_far_a_long_loop_is_and_how_long_it_takes(said):
    assert [*terminal.followed(range(10), "rung")] == [*range(10)]
    assert said == ["rung 2/10  0:00:32 left", "rung 5/10  0:00:20 left", "rung 8/10  0:00:08 left"]


def test_what_the_first_item_waits_for_is_no_pace(monkeypatch):
    """Its code is compiled then: 100 s, and one for each of the others."""
    lines, seconds = [], iter([0, 0, 100, 101, 102, 111, 112])
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(terminal.log, "info", lambda form, *words: lines.append(form % words))
    assert len([*terminal.followed(range(6), "rung")]) == 6
    assert lines == ["rung 1/6", "rung 4/6  0:00:07 left"]


def test_a_short_one_says_nothing(monkeypatch):
    monkeypatch.setattr(terminal.log, "info", None)
    assert [*terminal.followed("abc", "rung")] == ["a", "b", "c"]


@pytest.mark.long
@pytest.mark.usefixtures("hasty")
def test_annealing_bridges_and_long_runs_say_so_and_find_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained()
    line = "evaluate run=run evaluation=[ais,bridge,long_run] evaluation.ais.temperatures=50 evaluation.ais.chains=5 "
    line += "evaluation.bridge.chains=4 evaluation.bridge.steps=4 evaluation.bridge.rungs=4 "
    line += "evaluation.long_run.steps=8 evaluation.long_run.chains=4"
    assert "annealing: temperature" not in ebm(f"{line} out=quick").err
    monkeypatch.setattr(terminal, "_FOLLOWED_SECONDS", -1.0)
    err = ebm(f"{line} out=slow").err
    for what in ("annealing: temperature 49/", "bridge: rung 3/4", "chains: step 7/8"):
        assert what in err
    slow, quick = (facts(tmp_path / name, "results.json") | {"seconds": 0} for name in ("slow", "quick"))
    assert slow == quick


def test_annealing_says_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal, "_FOLLOWED_SECONDS", -1.0)
    run = trained()
    answer = ebm(f"evaluate run={run} evaluation=[ais] evaluation.ais.temperatures=20 evaluation.ais.chains=5")
    assert "annealing: temperature 19/20" in answer.err
    assert "annealing back: temperature 19/20" in answer.err  # and not from the beginning once more
