"""Runs that go in step: each does what it does alone, whatever the others do, and one call does the work of all."""

import signal
from functools import partial

import pytest
import torch
from helpers.libraries import uncompiled
from torch._inductor.exc import InvalidCxxCompiler

from ebm_cli import terminal
from ebm_cli.device import ahead, stack
from ebm_cli.device.ahead import Wanted, library
from ebm_cli.device.stack import Stack, common
from ebm_cli.signals import StopRequest, watching
from ebm_cli.terminal import Board, alone, beside_others, log, logging_to


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """The numbers of runs that each call was for."""
    return uncompiled(monkeypatch).calls


def in_step(*works, most=None, stop=None, keep=lambda: lambda: None):
    return Stack(1, most, stop or StopRequest(), keep).run(works)


class Walk:
    """x moves by the step, w grows by x; what comes out is x w. The noise of a constant is shared."""

    def __call__(self, step, x, w, constant):
        """The results."""
        x.add_(step)
        w.add_(x)
        return [(x * w).sum() + constant]

    def facts(self):
        """What it is."""
        return {"names": ["product"]}


CONSTANT = torch.tensor(0.5)


def walk(first, count, pause=lambda i: None, name="walk"):
    """What a run says that walks so many steps from there: the products, and where it ends."""
    x, w, said = torch.full((3,), first), torch.nn.Parameter(torch.zeros(3)), []
    lasting = [x, w, CONSTANT]
    found = None
    for i in range(count):
        pause(i)
        step = torch.tensor(0.25 * i)
        wanted = Wanted(Walk(), [step], lasting, name, changes=True, begins=lambda: None)
        found = found or library(wanted)
        [product] = found.call([step], lasting)
        assert found.facts == {"names": ["product"]}
        said.append(product.item())
    return said, x.tolist(), w.tolist()


@pytest.mark.long
def test_runs_in_step_do_what_each_does_alone(calls):
    expected = [walk(float(i), 5) for i in range(3)]
    calls.clear()
    assert in_step(*(partial(walk, float(i), 5) for i in range(3))) == expected
    assert calls == [3] * 5


@pytest.mark.long
def test_one_that_ends_early_or_comes_late_leaves_the_others_as_they_are(calls):
    """Those that are behind catch up first; in calls that a run takes no part in, nothing of it changes."""
    lengths = [2, 7, 4]
    expected = [walk(float(i), n) for i, n in enumerate(lengths)]
    assert in_step(*(partial(walk, float(i), n) for i, n in enumerate(lengths))) == expected

    def of_two_kinds(first, early):
        begun = [walk(9.0, early, name="other")] if early else []
        return [*begun, walk(first, 6)]

    expected = [of_two_kinds(float(i), early) for i, early in enumerate((0, 3, 1))]
    assert in_step(*(partial(of_two_kinds, float(i), early) for i, early in enumerate((0, 3, 1)))) == expected


def test_what_a_run_waits_with_is_put_back_after_a_call_of_others():
    """One is at another call of the same weights while two go on with the first."""

    def twice(first, between):
        x, w = torch.full((3,), first), torch.zeros(3)
        lasting, found, said = [x, w, CONSTANT], {}, []
        for i in range(6):
            name = "second" if i in between else "walk"
            step = torch.tensor(0.5 * i)
            wanted = Wanted(Walk(), [step], lasting, name, changes=name == "walk", begins=lambda: None)
            if name not in found:
                found[name] = library(wanted)
            if name == "walk":
                said.append(found[name].call([step], lasting)[0].item())
            else:
                said.append(found[name].call([step], [x.clone(), w.clone(), CONSTANT])[0].item())
        return said, x.tolist(), w.tolist()

    works = [partial(twice, 0.0, {2, 3}), partial(twice, 1.0, set()), partial(twice, 2.0, {5})]
    assert in_step(*works) == [work() for work in works]


def test_one_that_is_not_there_yet_has_its_slot():
    """The first goes on with what another will call later; neither is in the other's memory."""

    def work(first, between):
        begun = walk(first, 2)
        return [begun, *([walk(first, 3, name="between")] if between else []), walk(-first, 3, name="later")]

    cases = [(1.0, False), (2.0, True)]
    assert in_step(*(partial(work, *case) for case in cases)) == [work(*case) for case in cases]


def test_two_kinds_of_calls_change_the_same_tensors():
    """In turn, as steps with more and fewer transitions do: what one has changed the other goes on with."""

    def work(first):
        x, w, said, found = torch.full((3,), first), torch.zeros(3), [], {}
        lasting = [x, w, CONSTANT]
        for i in range(7):
            name, step = ["two", "three", "two", "two", "three", "two", "two"][i], torch.tensor(0.5 * i)
            wanted = Wanted(Walk(), [step], lasting, name, changes=True, begins=lambda: None)
            found[name] = found.get(name) or library(wanted)
            said.append(found[name].call([step], lasting)[0].item())
        return said, x.tolist(), w.tolist()

    works = [partial(work, float(i)) for i in range(3)]
    assert in_step(*works) == [work() for work in works]


def test_a_call_that_fails_is_an_error_of_each_that_made_it(monkeypatch):
    """Which each of them answers as it would alone; one at another call goes on."""

    def work(first, name):
        try:
            return walk(first, 2, name=name)
        except RuntimeError as error:
            return str(error)

    def failing(self, dims, changing, lasting):
        raise RuntimeError("no memory for that")

    good = ahead._stacked
    monkeypatch.setattr(ahead, "_stacked", lambda w, *more: (failing if w.identity == "bad" else good)(w, *more))
    found = in_step(partial(work, 0.0, "bad"), partial(work, 1.0, "good"), partial(work, 2.0, "bad"))
    assert found == ["no memory for that", walk(1.0, 2), "no memory for that"]


def test_one_alone_is_calculated_as_one_of_two(calls):
    """Compiled for one run the operations would round otherwise than for several."""
    assert in_step(partial(walk, 1.0, 4)) == [walk(1.0, 4)]
    assert calls[:4] == [2] * 4


def test_results_that_go_into_the_next_call_stay_where_they_are(monkeypatch):
    """They lie together already; whichever runs take part."""
    stacked = []
    real = torch.stack
    monkeypatch.setattr(torch, "stack", lambda rows, *more: stacked.append(rows[0].shape) or real(rows, *more))

    def chain(first):
        state, found = torch.full((4,), first), None
        for i in range(3):
            step = torch.tensor(float(i))
            wanted = Wanted(Twice(), [state, step], [], "chain", changes=False, begins=lambda: None)
            found = found or library(wanted)
            [state] = found.call([state, step], [])
        return state.tolist()

    assert in_step(*(partial(chain, float(i)) for i in range(2))) == [chain(0.0), chain(1.0)]
    assert stacked.count((4,)) == 1, "at the beginning"


def test_results_of_some_runs_are_not_taken_for_those_of_all():
    """A run that began a new state gives what it began with, whatever the others go on with."""

    def chain(first, anew):
        state, found, ends = torch.full((4,), first), None, []
        for i in range(4):
            state = torch.full((4,), -first) if i == anew else state
            step = torch.tensor(float(i))
            wanted = Wanted(Twice(), [state, step], [], "chain", changes=False, begins=lambda: None)
            found = found or library(wanted)
            [state] = found.call([state, step], [])
            ends.append(state.tolist())
        return ends

    cases = [(1.0, None), (2.0, 2), (3.0, 1)]
    assert in_step(*(partial(chain, *case) for case in cases)) == [chain(*case) for case in cases]


def test_those_that_are_behind_catch_up(calls):
    """Two calls of a second kind by all together, not of one after the other."""

    def work(first, before):
        walk(first, before)
        walk(first, 2, name="second")

    in_step(partial(work, 0.0, 1), partial(work, 1.0, 4), partial(work, 2.0, 2))
    assert len(calls) == 4 + 2


class Twice:
    """2 x + the step."""

    def __call__(self, x, step):
        """The results."""
        return [2 * x + step]

    def facts(self):
        """Nothing."""
        return {}


@pytest.mark.long
def test_memory_and_the_user_bound_how_many_go_on_at_a_time(monkeypatch):
    going, most = [0], [0]

    def counted(i):
        going[0] += 1
        most[0] = max(most[0], going[0])
        found = walk(float(i), 2)
        going[0] -= 1
        return found

    works = [partial(counted, i) for i in range(7)]
    expected = [work() for work in works]
    for bound, room, highest in [
        (None, 10**9, 7),
        (6, 10**9, 4),
        (3, 10**9, 3),
        (1, 10**9, 1),
        (None, 2 * 16 * 28 * 4, 4),
        (None, 0, 2),
    ]:
        monkeypatch.setattr(stack.memory, "room", lambda room=room: room)
        most[0] = 0
        assert in_step(*works, most=bound) == expected
        assert most[0] == highest, "7 in equal parts of at most so many"
    monkeypatch.setattr(stack.memory, "room", lambda: 4 * 16 * 28 * 4)
    most[0] = 0
    assert Stack(1, None, StopRequest(), lambda: lambda: None, beside=2).run(works) == expected
    assert most[0] == 4, "another process takes as much"


def test_each_keeps_what_the_process_has_once(monkeypatch):
    """Whether gradients are taken, and what is asked for; the hub gets its own back."""
    value = ["hub"]

    def keep():
        now = value[0]
        return lambda: value.__setitem__(0, now)

    def work(name, *, grad):
        value[0] = name
        with torch.set_grad_enabled(grad):
            found = walk(1.0, 3, pause=lambda i: seen.append((name, value[0], grad == torch.is_grad_enabled())))
        return found

    seen = []
    in_step(partial(work, "a", grad=True), partial(work, "b", grad=False), keep=keep)
    assert [name for name, *_ in seen] == ["a", "b"] * 3
    assert all(name == now and same for name, now, same in seen)
    assert value == ["hub"]


def test_what_all_read_is_read_once():
    read = []

    def work():
        found = common("rows", lambda: read.append(1) or object())
        walk(0.0, 1)
        return found

    first, second = in_step(work, work)
    assert first is second
    assert read == [1]
    assert work() is not work()


def test_a_request_to_stop_reaches_each_as_it_asked_for():
    """One is interrupted at once, one finishes its step; a second Ctrl-C interrupts that too, and none a third."""
    outer, said = StopRequest(), []
    outer.noted()

    def at_once():
        with watching() as stop:
            stop.at_once()
            try:
                walk(0.0, 99)
            except KeyboardInterrupt:
                said.append(("at once", stop.exit_code, stop.raised))

    def after_step():
        with watching() as stop:
            stop.after_step()
            walk(0.0, 3, pause=lambda i: i == 1 and outer.ask_now())
            said.append(("after its step", stop.exit_code, stop.raised))
            try:
                outer.ask_now()
            except KeyboardInterrupt:
                said.append(("impatient", stop.exit_code, stop.raised))

    outer.ask_now = lambda: outer.receive(signal.SIGINT, None)
    in_step(at_once, after_step, stop=outer)
    assert said == [("at once", 130, True), ("after its step", 130, False), ("impatient", 130, True)]
    assert outer.times == 2


def test_a_request_to_stop_reaches_at_once_who_waits_for_nobody():
    """Whoever goes on is told first, those that wait for a call after it; each hears of the second one too."""
    said = []

    def work(name, *, asks):
        with watching() as stop:
            stop.after_step()
            walk(0.0, 1)
            try:
                for _ in range(2):
                    if asks:
                        signal.raise_signal(signal.SIGINT)
                    said.append((name, stop.times))
                    walk(0.0, 1)
            except KeyboardInterrupt:
                said.append((name, "impatient", stop.times))

    with watching() as outer:
        outer.noted()
        in_step(partial(work, "a", asks=False), partial(work, "b", asks=True), stop=outer)
        signal.raise_signal(signal.SIGINT)  # of no run any more
    assert said == [("a", 0), ("b", 1), ("a", 1), ("b", "impatient", 2), ("a", "impatient", 2)]


def test_after_a_request_to_stop_nothing_is_compiled_and_nothing_begins(calls):
    """Who comes to a call of a new kind is interrupted, as is who has not begun; others finish their step."""
    outer, said, begun = StopRequest(), [], []
    outer.noted()

    def work(number, kinds):
        with watching() as stop:
            try:
                stop.at_once()
                begun.append(number)
                stop.after_step()
                for kind in kinds:
                    walk(0.0, 1, pause=lambda i: number == 1 and outer.receive(signal.SIGINT, None), name=kind)
                said.append((number, stop.exit_code))
            except KeyboardInterrupt:
                said.append((number, "interrupted", stop.raised))

    in_step(partial(work, 0, ["one"]), partial(work, 1, ["one", "two"]), partial(work, 2, []), stop=outer, most=2)
    assert begun == [0, 1]
    assert said == [(0, "interrupted", True), (1, "interrupted", True), (2, "interrupted", True)]
    assert not calls


@pytest.mark.parametrize("how", ["a signal", "a compiler that it ended"])
def test_nobody_waits_for_a_library_that_is_being_compiled(how, monkeypatch):
    """A Ctrl-C reaches the compiler too: what it says then is no error of a run."""
    said, made = [], []

    def compiled(*_):
        if how == "a signal":
            signal.raise_signal(signal.SIGINT)
        else:
            outer.reached(signal.SIGINT)
            raise InvalidCxxCompiler
        made.append("all of it")

    def work(first):
        with watching() as stop:
            stop.after_step()
            try:
                walk(first, 3)
            except KeyboardInterrupt:
                said.append((stop.exit_code, stop.raised))

    monkeypatch.setattr(ahead, "_library", compiled)
    with watching() as outer:
        outer.noted()
        in_step(partial(work, 0.0), partial(work, 1.0), stop=outer)
    assert said == [(130, True)] * 2
    assert not made


def test_an_error_of_one_is_raised():
    def bad():
        walk(0.0, 1)
        raise ValueError("of one")

    with pytest.raises(ValueError, match="of one"):
        in_step(bad, partial(walk, 0.0, 3))


def test_a_run_beside_others_shows_warnings_with_its_name_and_logs_all(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(terminal._streams["stderr"], "gone", None)  # of a closed one in another test
    board = Board()

    def work(name):
        with beside_others(name, board), logging_to(tmp_path / f"{name}.log"):
            assert not alone()
            walk(0.0, 1)
            log.info("begun")
            walk(0.0, 1)
            log.warning("odd")

    with logging_to(None):
        in_step(partial(work, "3"), partial(work, "4"))
        log.info("all done")
    assert alone()
    assert capfd.readouterr().err.splitlines() == ["job 3 | odd", "job 4 | odd", "all done"]
    for name in "34":
        lines = (tmp_path / f"{name}.log").read_text().splitlines()
        assert [line.split(" ", 2)[2] for line in lines] == ["INFO begun", "WARNING odd"]


def test_the_board_tells_the_last_of_those_that_go_on(monkeypatch, capfd):
    board = Board()
    for name, steps in (("0", (100, 300)), ("1", (100, 200)), ("2", (100, 400))):
        for step in steps:
            board.show(name, step, 400)
    assert board.line(10.0) == "2 jobs in step  step 200/400  60/s  0:00:05 left"
    assert board.behind(300)
    assert not board.behind(200)
    assert capfd.readouterr().err == "", "not yet"
    monkeypatch.setattr("ebm_cli.terminal._PLAIN_LINE_SECONDS", -1.0)
    board.show("1", 300, 400)
    assert "2 jobs in step  step 300/400" in capfd.readouterr().err
    for name, step in (("0", 400), ("2", 400), ("1", 350)):
        board.show(name, step, 400)
    assert capfd.readouterr().err.startswith("1 job  step 350/400")
    board.show("1", 400, 400)
    assert capfd.readouterr().err == "", "nobody is on the way"


def test_the_board_is_silent_until_those_that_began_together_are_on_it(monkeypatch, capfd):
    monkeypatch.setattr("ebm_cli.terminal._PLAIN_LINE_SECONDS", -1.0)
    board = Board()
    board.began -= 1000.0  # of compiling
    for name in "012":
        board.show(name, 1, 400)
    assert capfd.readouterr().err == ""
    for name in "012":
        board.show(name, 100, 400)
    said = capfd.readouterr().err
    assert said.startswith("3 jobs in step  step 100/400")
    assert "s/step" not in said, "what the first steps waited for is no pace"
    board.ended("1")  # it failed, and nobody waits for it
    board.ended("new")
    for name in "02":
        board.show(name, 200, 400)
    assert capfd.readouterr().err.startswith("2 jobs in step  step 200/400")
