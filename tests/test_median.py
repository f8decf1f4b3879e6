"""When a run of a search is worse than the others by then: who counts, with what, and from when on."""

from types import SimpleNamespace

import pytest

from ebm_cli.commands.median import Median
from ebm_cli.commands.search import Trial, built
from ebm_cli.commands.study import _pruner


def trial(*values: float, state: str = "COMPLETE", every: int = 10):
    return SimpleNamespace(
        state=SimpleNamespace(name=state),
        intermediate_values={every * (place + 1): value for place, value in enumerate(values)},
    )


def pruned(own, others, direction: str = "MAXIMIZE", fewest: int = 1, total: int = 100) -> bool:
    own.state.name = "RUNNING"
    study = SimpleNamespace(get_trials=lambda deepcopy=True: [*others, own], direction=SimpleNamespace(name=direction))
    return Median(fewest, total).prune(study, own)


@pytest.fixture
def half():
    """Of these the median is 2 at step 30."""
    return [trial(0, 0, one, one + 5) for one in (1, 2, 3)]


def test_below_the_median_and_not_on_it(half):
    assert pruned(trial(0, 0, 1.9), half)
    assert not pruned(trial(0, 0, 2), half)


def test_least_is_best_where_that_is_said(half):
    falling = [trial(4, 4, one) for one in (1, 2, 3)]
    assert pruned(trial(4, 4, 2.1), falling, "MINIMIZE")
    assert not pruned(trial(4, 4, 1.9), falling, "MINIMIZE")


def test_more_than_a_fifth_is_trained_first(half):
    own = [trial(*[-1.0] * count) for count in (1, 2, 3)]
    assert [pruned(one, half) for one in own] == [False, False, True]


def test_the_first_evaluation_counts_where_it_comes_late():
    assert pruned(trial(-1, every=50), [trial(0, 1, every=50)])


def test_the_best_so_far_counts_of_all(half):
    assert not pruned(trial(0, 3, 1), half)
    assert pruned(trial(0, 3, 1), [trial(0, 4, one) for one in (1, 2, 3)])


def test_what_ended_early_counts_with_what_it_had():
    """Else the others would be those alone that were good enough, and each would have to be better than these."""
    others = [trial(0, 0, 5, 5), trial(0, 0, 1, state="PRUNED"), trial(0, 0, 0.5, state="PRUNED")]
    assert not pruned(trial(0, 0, 2, 2), others)
    assert pruned(trial(0, 0, 2, 2), others[:1])


def test_failed_and_unfinished_trials_and_those_that_measured_nothing_do_not_count():
    others = [trial(9, 9, 9, state=state) for state in ("FAIL", "RUNNING")] + [trial()]
    assert not pruned(trial(0, 0, 0), others)
    assert not pruned(trial(0, 0, 2), [*others, trial(1, 1, 1)])


def test_so_many_must_be_done_first(half):
    early = [trial(1, 1, 1, state="PRUNED")] * 3
    assert not pruned(trial(0, 0, 0), [*half, *early], fewest=4)
    assert pruned(trial(0, 0, 0), [*half, *early], fewest=3)


def test_nothing_measured_is_nothing_to_judge_by(half):
    assert not pruned(trial(), half)


@pytest.mark.parametrize(("pruner", "least"), [("halving", 300), ("hyperband", 300)])
def test_other_pruners_begin_after_a_fifth_too(tmp_path, pruner, least):
    search = built({"metric": "ais/valid/log_likelihood", "direction": "max", "pruner": pruner})
    assert _pruner(Trial(tmp_path, 0, search, (150, 1500)))._min_resource == least
    assert _pruner(Trial(tmp_path, 0, search, (500, 1500)))._min_resource == 500
