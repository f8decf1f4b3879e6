"""A rate that was lowered too far comes back, and a healthy checkpoint is one that is well within its limits."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.cli import ebm, facts, outcome, train, trained
from helpers.components import component
from helpers.training import small_run
from test_health import LINE, lines
from test_resume import Killed, at_step, die

from ebm_cli.health import probe
from ebm_cli.health.base import Sign, verdict
from ebm_cli.health.learned import learned
from ebm_cli.health.limits import beyond, clear
from ebm_cli.health.watch import WatchHealth
from ebm_cli.training import recovery
from ebm_cli.training.health import Watcher
from ebm_cli.training.raising import failed, raised
from ebm_cli.training.remedies import Diagnosis, chosen

RECOVER = LINE.replace("steps=70", "steps=150") + " checkpoint.keep_last=1 health.act=recover"


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def parts_of(steps=1000):
    """Those of a run at the rate 1."""
    parts, _ = small_run()
    of = parts.components
    loop = replace(parts.loop, steps=steps)
    return replace(parts, loop=loop, components=replace(of, optimizer=replace(of.optimizer, lr=1.0)))


def did(step, lr, **more):
    return {"step": step, "back_to": 0, "why": "failing", "lr": lr, "chains.steps": 2, "keys": {}, **more}


def watched(parts, extra=1.0):
    """Of a run that was healthy at its beginning."""
    health = WatchHealth(every=10, share=0.1, act="recover", attempts=3, extra_steps=extra)
    return Watcher(health, parts, healthy=0, first=0)


def test_a_rate_comes_back_to_what_failed_by_halves():
    """Of its logarithm, by sqrt(5) at most; four times as late where they are as near as that, not where nearer."""
    parts = parts_of()
    once = [did(30, 0.2)]
    assert failed(parts, []) is None
    assert failed(parts, once) == 1
    found = raised(parts, once, 100, 10, free=False)
    assert found["lr"] == pytest.approx(5**-0.5)
    assert (found["step"], found["back_to"], found["chains.steps"], found["raised"]) == (100, 100, 2, True)
    assert raised(parts, [*once, found], 379, 10, free=False) is None, "1 is 2.2 times as high"
    assert raised(parts, [*once, found], 380, 10, free=False)["lr"] == pytest.approx(5**-0.25)
    assert raised(parts, [*once, did(100, 5**-0.25, raised=True)], 500, 10, free=False) is None, (
        "1 is 1.5 times as high"
    )
    far = [did(30, 0.04)]
    assert raised(parts, far, 100, 10, free=False)["lr"] == pytest.approx(0.04 * 5**0.5)
    twice = [did(30, 0.2), did(60, 0.04)]
    assert failed(parts, twice) == 0.2
    assert raised(parts, twice, 200, 10, free=False)["lr"] == pytest.approx((0.2 * 0.04) ** 0.5)


def test_only_a_rate_that_held_as_long_as_the_other_took_to_fail_is_raised():
    parts, once = parts_of(2000), [did(300, 0.2)]
    assert raised(parts, once, 590, 10, free=False) is None
    assert raised(parts, once, 600, 10, free=False)
    assert raised(parts_of(1199), once, 600, 10, free=False) is None, "too few steps are left to see whether it fails"
    assert raised(parts, [did(5, 0.2)], 20, 10, free=False) is None, "two periods at least"
    assert raised(parts, [did(5, 0.2)], 25, 10, free=False)
    assert raised(parts, [did(30, 1.0, keys={"sampler.noise": None})], 900, 10, free=False) is None, (
        "it was not the rate"
    )


def test_a_raised_rate_that_fails_goes_back_to_what_held():
    """And so it does where no attempts are left, for that is none."""
    parts = parts_of()
    once = [did(30, 0.2)]
    record = raised(parts, once, 100, 10, free=False)
    back = chosen(parts, [*once, record], Diagnosis({"gap"}))
    assert (back["lr"], back["chains.steps"]) == (0.2, 2)
    assert failed(parts, [*once, record, did(130, 0.2)]) == record["lr"]
    assert raised(parts, [*once, record, did(130, 0.2)], 249, 10, free=False) is None, (
        "for what failed in 30 steps 120 must hold"
    )
    assert raised(parts, [*once, record, did(130, 0.2)], 250, 10, free=False)["lr"] == pytest.approx(
        (0.2 * record["lr"]) ** 0.5
    )
    watcher = Watcher(
        WatchHealth(every=10, share=0.1, act="recover", attempts=3, extra_steps=0.0), parts, healthy=0, first=0
    )
    watcher.recoveries = [did(30, 0.2)]
    watcher.healthy = 100
    assert watcher.raises(100)
    assert (watcher.attempts, watcher.targets, watcher.raised_at(100), watcher.raised_at(101)) == (
        1, [100, 0], True, False,
    )  # fmt: skip
    watcher.recoveries += [did(130, 0.2)]
    assert watcher.attempts == 1, "what was tried is no attempt"
    watcher.recoveries = [did(30, 0.2), did(60, 0.04), did(90, 0.008)]
    assert (watcher.attempts, watcher.may_go_back) == (3, False)
    assert watcher.raises(150)
    assert watcher.may_go_back, "to the rate that held"


def test_a_rate_is_raised_only_where_data_do_not_lie_above_chains_that_move():
    """What a longer step adds to the gap it has then already; and one doubt is enough to take it back."""
    watcher = Watcher(
        WatchHealth(every=10, share=0.1, act="recover", attempts=3, extra_steps=0.0), parts_of(), healthy=100, first=0
    )
    watcher.recoveries, watcher.measured = [did(30, 0.2)], {"above": 0.5}
    assert not watcher.raises(100)
    watcher.doubts = 1
    assert not watcher.fails(50)
    watcher.measured = {"above": -0.5, "acceptance": 0.15}
    assert not watcher.raises(100), "chains would not follow"
    watcher.measured = {"above": -0.5, "acceptance": 0.3}
    assert not watcher.raises(100), "something is doubted"
    watcher.doubts = 0
    assert watcher.raises(100)
    watcher.doubts = 1
    assert watcher.fails(50)


def test_a_rate_that_held_for_long_is_lowered_less():
    """By the steps it held for over those that are left: to a fifth at least, to 1 / sqrt(5) at most."""
    parts = parts_of()
    for share, lr in ((0.0, 0.2), (0.3, 0.3), (0.4, 0.4), (2.0, 5**-0.5)):
        assert chosen(parts, [], Diagnosis({"gap"}, share=share))["lr"] == pytest.approx(lr)
    assert chosen(parts, [], Diagnosis({"heat"}, share=2.0, beyond=1e9))["lr"] == pytest.approx(0.04)


def test_energies_say_how_far_a_rate_is_lowered():
    """Their variance grows as its square; at most to a twenty-fifth, as where numbers end at once."""
    parts = parts_of()
    assert beyond({"heat": 15 * 100}) == 100
    assert beyond({"heat": 3.0}) == 1
    for times, lr in ((1.0, 0.2), (16.0, 0.2), (100.0, 0.1), (1e9, 0.04), (float("inf"), 0.04)):
        assert chosen(parts, [], Diagnosis({"heat"}, beyond=times))["lr"] == pytest.approx(lr)


def test_moves_without_a_length_are_as_many_as_their_jumps_ask_for():
    """Of chains that came 0.25 as far as to another row in 5 transitions 80; where they come all the way none tells."""
    parts = parts_of()
    first = parts.components.chains.steps
    assert chosen(parts, [], Diagnosis({"gap"}, jump=0.25, moves=5))["chains.steps"] == 64 * first
    assert chosen(parts, [], Diagnosis({"gap"}, jump=0.6, moves=5))["chains.steps"] == 16 * first
    assert chosen(parts, [], Diagnosis({"gap"}, jump=0.9, moves=5))["chains.steps"] == 4 * first
    assert chosen(parts, [], Diagnosis({"gap"}, jump=0.0, moves=5))["chains.steps"] == 4 * first


def test_what_a_model_has_yet_to_learn_is_no_matter_of_the_rate():
    """Data below chains that meet those from the data, and data above them that come down."""
    assert learned({"gap_now": -5.0}, {}, 1.1) == {"gap", "apart", "felt"}
    assert learned({"gap_now": -5.0}, {}, 1.3) == set()
    assert learned({"gap_now": 5.0}, {}, 1.1) == set()
    assert learned({"gap_now": -5.0}, {}, None) == set()
    assert learned({"above": 20.0}, {"above": 30.0}, None) == {"above"}
    assert learned({"gap_now": 4.8}, {"gap_now": 6.4}, None) == {"gap", "apart"}
    assert learned({"gap_now": 6.4}, {"gap_now": 4.8}, None) == set()
    for gap, apart, warm, found in ((0.9, -0.9, True, True), (0.9, 0.9, False, False), (0.9, 1.1, True, False)):
        names = {"gap", "apart", "felt"} if found else set()
        assert learned({"gap_nats": gap, "apart_nats": apart, "gap_now": 4.0}, {}, None, warm=warm) == names


def test_what_comes_down_too_slowly_is_a_matter_of_the_rate():
    """That is not within its limit two looks later, at its pace: with a rate that falls it comes down by itself."""
    assert learned({"above": 20.0}, {"above": 25.0}, None) == {"above"}
    assert learned({"above": 20.0}, {"above": 24.9}, None) == set()
    assert learned({"above": 9.0}, {"above": 9.1}, None) == {"above"}, "within it already"
    assert learned({"gap_now": 6.0}, {"gap_now": 7.0}, None) == {"gap", "apart"}
    assert learned({"gap_now": 6.0}, {"gap_now": 6.9}, None) == set()


def test_without_chains_no_rate_is_raised():
    """Nothing would tell that it is too high."""
    parts = parts_of()
    without = replace(parts.components, objective=component("objective", "pseudo_likelihood"))
    for of, may in ((parts, True), (replace(parts, components=without), False)):
        watcher = watched(of)
        watcher.recoveries = [did(30, 0.2)]
        assert watcher.raises(100) is may


def test_a_checkpoint_to_come_back_to_is_well_within_the_limits():
    """Of what no lower rate would mend: units that are stuck, energies that are far apart."""
    assert clear({"idle": 0.2, "heat": 6.0, "offset": 4.9})
    assert not clear({"idle": 0.25})
    assert not clear({"heat": 7.0})
    assert clear({"acceptance": 0.125})
    assert not clear({"acceptance": 0.12})
    parts, state = small_run()
    watcher = Watcher(
        WatchHealth(every=10, share=0.1, act="recover", attempts=3, extra_steps=0.0), parts, healthy=0, first=0
    )
    watcher.verdict = type("Fine", (), {"level": 0})()
    watcher.probed = {"idle": 0.3}
    assert not watcher.keeps(replace(state, step=20))
    watcher.probed = {"idle": 0.1}
    assert watcher.keeps(replace(state, step=20))


def test_a_gap_that_is_yet_to_be_learned_is_no_fault_of_a_checkpoint(monkeypatch):
    """Of chains that meet those from the data, when it is made and when the run comes back to it."""
    _, state = small_run()
    watcher = watched(parts_of())
    watcher.verdict, watcher.measured = verdict([Sign("gap", 1, "data below the chains")]), {"gap_now": -5.0}
    watcher.recoveries = [did(5, 0.2)]
    watcher.probed = {"r_hat_data": 1.1}
    watcher._weigh(20, {"gap": -5.0, "gap_now": -5.0}, {})
    assert watcher.keeps(replace(state, step=20))
    assert watcher.raises(40)
    for r_hat, well in ((1.1, True), (1.3, False)):
        monkeypatch.setattr(probe, "look", lambda _, r_hat=r_hat: {"apart": -3.5, "r_hat_data": r_hat})
        assert watcher.is_well(state) is well
    watcher._weigh(30, {"apart": 3.5, "gap_now": 5.0}, {})
    assert not watcher.keeps(replace(state, step=30))


def test_one_doubt_is_enough_at_the_last_step():
    """Where the run may be longer for it; before that a doubt is looked at again."""
    for extra, found in ((1.0, [False, True]), (0.0, [False, False])):
        watcher = watched(parts_of(100), extra=extra)
        watcher.doubts = 1
        assert [watcher.fails(step) for step in (90, 100)] == found


def test_a_raised_rate_fails_by_units_that_get_stuck_and_wide_chains():
    """More and wider than they were, for eight periods, also where a higher one was taken back; then it is as any."""
    for record in ([], [did(110, 0.45, more=10)]):
        watcher = watched(parts_of())
        watcher.recoveries, watcher.probed = [did(30, 0.2)], {"idle": 0.1, "breadth": 1.0}
        assert watcher.raises(100)
        watcher.recoveries += record
        since, looked = watcher.since, []
        for step, seen in (
            (10, {"idle": 0.1, "breadth": 1.9}),
            (20, {"idle": 0.26}),
            (30, {"breadth": 2.1}),
            (81, {"idle": 0.26}),
        ):
            watcher.probed, watcher.verdict, watcher.doubts = seen, verdict([]), 0
            watcher._weigh(since + step, {}, {})
            looked.append(watcher.doubts)
        assert looked == [0, 1, 1, 0], record


def test_the_rate_that_held_before_any_was_raised_is_on_no_trial():
    """A run that came back to it goes back again by what any run would."""
    watcher = watched(parts_of())
    watcher.recoveries = [did(30, 0.2)]
    watcher.probed = {"idle": 0.0}
    assert watcher.raises(100)
    watcher.recoveries += [did(110, 0.2)]
    watcher.probed, watcher.verdict = {"idle": 0.3}, verdict([])
    watcher._weigh(120, {}, {})
    assert watcher.doubts == 0


def test_where_lost_steps_are_taken_again_rates_are_raised_sooner():
    """For one that fails costs nothing of what is learned."""
    parts, once = parts_of(), [did(30, 0.2), did(100, 5**-0.5, raised=True)]
    assert raised(parts, once, 169, 10, free=True) is None
    assert raised(parts, once, 170, 10, free=True)["lr"] == pytest.approx(5**-0.25)
    assert raised(parts, [*once, did(200, 0.67, raised=True)], 300, 10, free=True) is None, "1 is 1.49 times as high"


def test_a_doubt_is_looked_at_again_at_once():
    """At chains too, a period later, where the run may go back."""
    parts, _ = small_run()
    watcher = Watcher(
        WatchHealth(every=10, share=1e-6, act="recover", attempts=3, extra_steps=0.0), parts, healthy=0, first=0
    )
    assert (watcher.probes(30), watcher.due(30, 1000)) == (False, False)
    watcher.doubts = 1
    assert (watcher.probes(30), watcher.due(30, 1000), watcher.due(35, 1000)) == (True, True, False)
    watcher.healthy = None
    assert not watcher.probes(30)


def test_an_older_checkpoint_stands_in_for_one_that_looks_ill(monkeypatch):
    """Most looks are at reports alone; only when the run comes back are the chains of a checkpoint looked at again. The
    newest at which they were looked at comes before the first, and none but that is gone back to twice."""
    parts, state = small_run()
    watcher = Watcher(
        WatchHealth(every=10, share=0.1, act="recover", attempts=3, extra_steps=0.0),
        parts,
        healthy=30,
        sure=20,
        first=0,
    )
    saved = {step: type("Saved", (), {"step": step, "tensors": state.tensors()})() for step in (0, 20, 30)}
    for ill, step in ((set(), 30), ({30}, 20), ({20, 30}, 0)):
        monkeypatch.setattr(Watcher, "is_well", lambda _, now, ill=ill: now.step not in ill)
        assert recovery._loaded(state, watcher, saved.__getitem__).step == step
    assert watcher.kept == {0, 20, 30}
    watcher.recoveries = [did(50, 0.2, back_to=30)]
    assert watcher.targets == [20, 0]


def test_the_newest_checkpoint_whose_chains_were_looked_at_is_known():
    parts, state = small_run()
    watcher = Watcher(
        WatchHealth(every=10, share=0.1, act="recover", attempts=3, extra_steps=0.0), parts, healthy=0, first=0
    )
    watcher.verdict = type("Fine", (), {"level": 0})()
    rare = next(step for step in range(170, 10_000, 10) if not watcher.probes(step))
    for step in (20, rare):
        assert watcher.keeps(replace(state, step=step))
    assert (watcher.healthy, watcher.sure) == (rare, 20)
    again = Watcher(watcher.health, parts)
    again.load(watcher.saved())
    assert again.sure == 20


WILD = RECOVER.replace("optimizer.lr=0.1", "optimizer.lr=50") + " optimizer.schedule=constant"


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_killed_before_and_after_its_rate_is_raised_and_resumed_it_does_the_same(monkeypatch):
    whole = trained(WILD).rename("whole")
    did = facts(whole, "summary.json")["health"]["recoveries"]
    up = [each for each in did if "raised" in each]
    assert up, "the rate is raised"
    logged = {line["step"]: line["learning_rate"] for line in lines(whole) if "learning_rate" in line}
    assert logged[up[0]["step"] + 10] > logged[up[0]["step"]]
    for steps in (-1, 0, 3):
        with monkeypatch.context() as patch:
            at_step(patch, up[0]["step"] + steps, die)
            with pytest.raises(Killed):
                train(WILD) if steps < 0 else ebm("train resume=run")
    assert ebm("train resume=run").code == 0
    assert outcome(Path("run")) == outcome(whole)
    assert facts(Path("run"), "summary.json")["health"] == facts(whole, "summary.json")["health"]


def test_only_keys_that_change_are_said():
    parts = parts_of()
    watcher = Watcher(
        WatchHealth(every=10, share=0.1, act="recover", attempts=3, extra_steps=0.0), parts, healthy=0, first=0
    )
    keys = {"sampler.noise": None}
    watcher.recoveries = [did(30, 0.2, chains="kept")]
    watcher.recoveries += [did(60, 0.2, keys=keys, chains="anew"), did(90, 0.04, keys=keys, chains="anew")]
    every = [watcher.recoveries[:count] for count in (1, 2, 3)]
    said = []
    for some in every:
        watcher.recoveries = some
        said.append(recovery.said(parts, watcher).partition(", with ")[2])
    assert said == [
        "optimizer.lr=0.2 and chains.steps=2",
        "sampler.noise=null and chains that begin anew",
        "optimizer.lr=0.04 and chains that begin anew",
    ]
