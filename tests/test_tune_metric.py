"""A metric that the first trial shows to be none: the search says so, and goes on with another one."""

from pathlib import Path

import pytest
from helpers.cli import assert_refused, facts, snapshot
from test_tune import METRIC, again, stubbed, trials, tuned

WRONG = f"metric = {METRIC}: a run does not report it"
OTHER = "ais/valid/log_z"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trained(monkeypatch):
    return stubbed(monkeypatch)


@pytest.mark.long
def test_measured_while_training(trained):
    trained.reports = {OTHER}
    words = "evaluation=[ais,pseudo_likelihood] evaluation.ais.while_training=true"
    answer = tuned(f"trials=3 {words}")
    assert answer.code == 1
    assert WRONG in answer.err
    assert "go on with the search: ebm tune resume=search metric=NAME, one of those that it reports\n" in answer.out
    more = again(f"metric={OTHER}")
    assert more.code == 0, more.err
    assert [(status, values is None) for _, status, values in trials()] == [("failed", True), *[("done", False)] * 2]
    assert facts(Path("search"), "tune.json")["metric"] == [OTHER]
    assert facts(Path("search"), "tune.json")["pruner"] == "median"
    assert "go on with" not in more.out
    assert trained.seen == [0, 1, 2]


@pytest.mark.long
def test_of_the_end_with_the_other_direction(trained):
    """What is done already counts with the other metric, of which less is better."""
    answer = tuned("trials=3 metric=energy_gapp")
    assert answer.code == 1
    assert "metric = energy_gapp: a run does not report it" in answer.err
    assert again("metric=seconds direction=min").code == 0
    assert [values for _, _, values in trials()] == [[1.0], [2.0], [3.0]]
    assert facts(Path("search"), "summary.json")["best"][0]["trial"] == 0
    assert again("trials=4").code == 0
    assert trained.seen == [0, 1, 2, 3]
    words = [" ".join(words) for words, _, _ in trials()]
    assert len(set(words)) == 4


@pytest.mark.long
def test_the_same_command_with_another_metric(trained):
    tuned("trials=3 metric=energy_gapp")
    assert tuned("trials=3 metric=seconds resume=auto").code == 0
    assert [status for _, status, _ in trials()] == ["done"] * 3


@pytest.mark.long
def test_another_number_of_metrics(trained):
    tuned("trials=3 metric=energy_gapp")
    assert again("metric=[seconds,steps] direction=[min,max]").code == 0
    assert [values for _, _, values in trials()] == [[1.0, 8.0], [2.0, 8.0], [3.0, 8.0]]


@pytest.mark.parametrize(
    "line",
    [
        "metric=seconds",
        *(
            pytest.param(line, marks=pytest.mark.long)
            for line in ("direction=min", "pruner=none", "metric=seconds resume=auto")
        ),
    ],
)
def test_once_a_trial_has_a_value_the_metric_stays(trained, line):
    tuned("trials=2")
    before = snapshot(Path("search"))
    answer = tuned(f"trials=2 {line}") if "auto" in line else again(line)
    key, _, value = line.split()[0].partition("=")
    assert_refused(answer, f"{key} = {value}: this search has ", "trials have values by it; start another")
    assert snapshot(Path("search")) == before


@pytest.mark.long
def test_an_unknown_metric_is_refused_then_too(trained):
    tuned("trials=3 metric=energy_gapp")
    before = snapshot(Path("search"))
    assert_refused(again("metric=second"), "did you mean seconds?")
    assert_refused(again("metric=seconds pruner=median"), "pruner = median")
    assert snapshot(Path("search")) == before


@pytest.mark.long
def test_killed_while_it_takes_the_other_metric(trained, monkeypatch):
    from test_resume import Killed

    from ebm_cli.commands import tune

    tuned("trials=3 metric=energy_gapp")

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(tune.searching, "write", killed)
        with pytest.raises(Killed):
            again("metric=seconds direction=min")
    assert again("metric=seconds direction=min").code == 0
    assert [values for _, _, values in trials()] == [[1.0], [2.0], [3.0]]


@pytest.mark.long
def test_a_run_that_was_interrupted_goes_on(trained):
    from test_resume import Killed

    trained.dies = {0}
    with pytest.raises(Killed):
        tuned("trials=2 metric=energy_gapp", space="'model.hidden=choice(4,8,12)'")
    assert again("metric=seconds direction=min").code == 0
    assert trained.seen == [0, 0, 1]
    assert [status for _, status, _ in trials()] == ["done", "done"]
