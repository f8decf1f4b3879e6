"""`ebm tune`: trials that optuna proposes, each a job of a sweep, until there are enough.

What became of a run its own directory says, what that is worth the study. Of one that was under way when the program
was killed the study has not heard: it is taken up again before another is proposed.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from ebm_cli import registry
from ebm_cli.commands import looking, multi, notify, pages, sweep, trials
from ebm_cli.commands import search as searching
from ebm_cli.commands.configuration import Request, load_plugins
from ebm_cli.commands.metric import check_config, check_metric
from ebm_cli.commands.notify import Notice
from ebm_cli.commands.places import rooted
from ebm_cli.commands.pruning import no_such_metric
from ebm_cli.commands.search import BY, Axis, Search, Trial
from ebm_cli.commands.study import JOB, Study, judged, renewed
from ebm_cli.commands.workers import Here, Processes, Workers, in_silence
from ebm_cli.errors import RunError, UserError
from ebm_cli.record import ledger
from ebm_cli.record.ledger import Entry, Ledger
from ebm_cli.record.run import Run, check_free
from ebm_cli.signals import StopRequest, watching
from ebm_cli.terminal import logging_to, output

_SAME = 100  # proposals in a row that are there already, after which nothing new is expected
_HOPELESS = 5  # trials that fail before any did not


@dataclass(frozen=True)
class Composed:
    """One job, from the words of the command line."""

    config: Mapping[str, Any]  # whole, as plain data
    chosen: Mapping[str, str]
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """One command line."""

    path: Path
    arguments: tuple[str, ...]  # all that a trial is made of, the axes as they were typed
    fixed: tuple[str, ...]  # what all trials have in common
    axes: tuple[Axis, ...]
    search: Search
    compose: Callable[[Sequence[str]], Composed]
    n_jobs: int = 1
    resume: bool = False
    typed: tuple[str, ...] = ()  # words that who takes it up again must repeat


def run(call: Call) -> int:
    """Do what is missing of the trials, show what became of all, and return the exit code: 0 if there are results.

    Raises UserError before anything is written if the search cannot be, or not in this directory.
    """
    if type(call.n_jobs) is not int or call.n_jobs < 1:
        raise UserError(f"n_jobs = {call.n_jobs}: must be a whole number from 1 on")
    _check_place(call)
    url = notify.address(_check_space(call))
    with watching() as stop, multi.claimed(call.path):
        call = _settled(call)
        tuning = Tuning(call, _ledger(call), url)
        try:
            tuning.work(_workers(call.n_jobs, stop), stop)
        finally:
            stop.noted()
            answer = 0 if tuning.complete and tuning.study.best() else 1
            _conclude(tuning, stop, answer)
        return stop.code(answer)


def _workers(count: int, stop: StopRequest) -> Workers:
    if count == 1:
        return Here()
    stop.after_step()
    return Processes(count, stop, in_silence)


def _conclude(tuning: "Tuning", stop: StopRequest, answer: int) -> None:
    """What the user reads last, the page, and word to who wants it."""
    call, path = tuning.call, tuning.call.path
    jobs = trials.show(tuning.found, tuning.study)
    status = multi.became(stop, answer)
    notice = Notice(tuning.url, notify.of_sweep(str(path.absolute()), jobs, status))
    pages.of_multirun(path)
    for line in looking.at_sweep(tuning.found):
        output.print(line, soft_wrap=True)
    if not tuning.complete:
        way = " metric=NAME, one of those that it reports" if tuning.unmeasured else ""
        output.print(f"go on with the search: {_again(call)}{way}", soft_wrap=True)
    with logging_to(None):
        notice.wait()


class Tuning:
    """A search at work."""

    def __init__(self, call: Call, found: Ledger, url: str | None) -> None:
        self.call, self.found, self.url = call, found, url
        self.study = Study(call.path, call.search, call.axes)
        self.entries = {entry.number: entry for entry in found.entries}
        self.exhausted = self.unmeasured = False
        self._composed: dict[int, Composed] = {}  # of runs that are about to begin
        for trial in self.study.proposed():
            if trial.user_attrs[JOB] not in self.entries:
                self._enter(self._entry(trial.user_attrs[JOB], trial.params))
        trials.read_anew(found, self.study)

    @property
    def complete(self) -> bool:
        """Whether there is nothing more to do."""
        enough = self.exhausted or len(self.entries) >= self.call.search.trials
        return enough and not self.study.unfinished()

    def work(self, workers: Workers, stop: StopRequest) -> None:
        """Take up what was interrupted, and do new trials until there are enough."""
        waiting = deque(trial.user_attrs[JOB] for trial in self.study.unfinished())
        while True:
            while workers.free and not stop.signal:
                number = waiting.popleft() if waiting else self._next()
                if number is None:
                    break
                self._begin(number, workers)
            if not workers.busy:
                return
            for number in workers.ended():
                self._settle(number, stop)

    def _begin(self, number: int, workers: Workers) -> None:
        """Unless it ended already, and the program was killed before the study heard of it."""
        became = sweep.state(self.found.home(self.entries[number]))
        if became in ("done", "pruned", "failed"):
            self._tell(number, became)
        elif became != "running":
            workers.begin(number, self._request(number))

    def _next(self) -> int | None:
        """The number of a new trial; None if there are enough, or what is proposed is all there already."""
        for _ in range(_SAME):
            if len(self.entries) >= self.call.search.trials:
                return None
            trial = self.study.propose()
            number = max(self.entries, default=-1) + 1
            entry = self._known(trial.params) or self._entry(number, trial.params)
            same = next((one for one in self.entries.values() if one.identity == entry.identity), entry)
            trial.set_user_attr(JOB, same.number)
            if same is entry and entry.number == number:
                self._enter(entry)
                return number
            self._repeat(trial.number, same.number)
        self.exhausted = True
        output.print(f"the last {_SAME} proposals were all trials that are there: the search ends")
        return None

    def _known(self, params: Mapping[str, Any]) -> Entry | None:
        """The entry of the same words, if there is one; other words may be the same run all the same."""
        words = (*self.call.fixed, *self.study.words(params))
        return next((one for one in self.entries.values() if one.overrides == words), None)

    def _repeat(self, trial: int, number: int) -> None:
        """A trial that is another once more gets what that one got; while nobody knows it, it is worth nothing."""
        first = next(one for one in self.study.proposed() if one.user_attrs[JOB] == number)
        became = {"COMPLETE": "done", "PRUNED": "pruned"}.get(first.state.name, "failed")
        self.study.tell(trial, became, first.values if became == "done" else None)

    def _entry(self, number: int, params: Mapping[str, Any]) -> Entry:
        words = (*self.call.fixed, *self.study.words(params))
        self._composed[number] = self.call.compose(words)
        return Entry(number, str(number), words, sweep.identifying(rooted(self._composed[number].config)))

    def _enter(self, entry: Entry) -> None:
        check_free(self.found.home(entry), "hydra.sweep.dir = ")
        self.entries[entry.number] = entry
        self.found.entries = [self.entries[number] for number in sorted(self.entries)]
        self.found.write()

    def _request(self, number: int) -> Request:
        entry, search = self.entries[number], self.call.search
        composed = self._composed.pop(number, None) or self.call.compose(entry.overrides)
        trial = next(one for one in self.study.proposed() if one.user_attrs[JOB] == number)
        steps = (int(composed.config["eval_every"]), int(composed.config["steps"]))
        judged = Trial(self.call.path, trial.number, search, steps) if search.while_training else None
        return Request(
            composed.config, composed.chosen, composed.overrides, self.found.home(entry), self.call.path, trial=judged
        )

    def _settle(self, number: int, stop: StopRequest) -> None:
        """What a run that ended was worth. One that was stopped is taken up by the next call."""
        home = self.found.home(self.entries[number])
        became = sweep.state(home)
        if became in ("stopped", "new", "running") or (became == "died" and stop.signal):
            if stop.signal is None:
                raise RunError(f"{home}: was stopped from elsewhere; go on with {_again(self.call)}")
            return
        self._tell(number, became)

    def _tell(self, number: int, became: str) -> None:
        entry = self.entries[number]
        trial = next(one for one in self.study.proposed() if one.user_attrs[JOB] == number)
        values = trials.values(self.found.home(entry), entry, self.call.search) if became == "done" else None
        self.study.tell(trial.number, "failed" if values is None and became == "done" else became, values)
        output.print(trials.line(entry, became, values, self.study), soft_wrap=True)
        if became in ("done", "failed"):
            self._check_worth(entry)

    def _check_worth(self, entry: Entry) -> None:
        """Raise RunError if no run can have what is searched for, or if all there were have failed."""
        reported = trials.reported(self.found.home(entry))
        for metric in self.call.search.metric:
            measured = any(searching.measured_while_training(name) for name in reported)
            if metric not in reported and (measured if self.call.search.while_training else "status" in reported):
                self.unmeasured = True
                raise RunError(no_such_metric(metric, reported))
        ended = [trial for trial in self.study.proposed() if trial.state.is_finished()]
        if len(ended) == _HOPELESS and all(trial.state.name == "FAIL" for trial in ended):
            why = Run(self.found.home(entry)).read_json("metadata.json").get("error", "its metric is no finite number")
            raise RunError(f"the first {_HOPELESS} trials all failed, the last of them because: {why}")


def _again(call: Call) -> str:
    jobs = [f"n_jobs={call.n_jobs}"] if call.n_jobs > 1 else []
    return " ".join(["ebm tune", f"resume={quote(str(call.path))}", *jobs, *call.typed])


def _check_place(call: Call) -> None:
    """Raise UserError unless the directory is free, or holds this search and that is to go on."""
    path, said = call.path, f"hydra.sweep.dir = {call.path}"
    if not searching.there(path):
        if ledger.there(path):
            raise UserError(f"{said}: a multirun is there, which is no search; name another directory")
        if next(path.glob("*/metadata.json"), None) is not None:
            raise UserError(f"{said}: runs are there; name another directory")
        return
    if not call.resume:
        raise UserError(f"{said}: a search is there; go on with ebm tune resume={quote(str(path))}, or name another")
    _check_same(call, searching.read(path))


def _check_same(call: Call, was: Search) -> None:
    """Raise UserError for a word that would make another search of it."""
    for key in ("startup", "search", "search_seed", *BY):
        before, now = getattr(was, key), getattr(call.search, key)
        if before == now or (key in BY and not judged(call.path, was)):
            continue
        why = "its trials have values by it; start another" if key in BY else "leave it out, or start another"
        raise UserError(f"{key} = {_word(now)}: this search has {_word(before)}; {why}")
    if ledger.there(call.path):
        other = searching.differing(_kept(ledger.read(call.path).arguments), _kept(call.arguments))
        if other is not None:
            raise UserError(f"{other}: a search goes on with the words it began with; leave it out, or start another")


def _word(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _kept(words: Sequence[str]) -> list[str]:
    """Without those that change where runs are done and who is told."""
    return [word for word in words if searching.key_of(word).partition(".")[0] not in sweep.BESIDE]


def _settled(call: Call) -> Call:
    """With the study of a search that goes on; of one that is judged by something else, another one."""
    if not searching.there(call.path):
        return call
    was = searching.read(call.path)
    if all(getattr(was, key) == getattr(call.search, key) for key in BY):
        return replace(call, search=replace(call.search, study=was.study))
    return replace(call, search=renewed(call.path, was, call.search, call.axes))


def _ledger(call: Call) -> Ledger:
    found = ledger.read(call.path) if ledger.there(call.path) else Ledger(call.path)
    found.arguments = list(call.arguments)
    searching.write(call.path, call.search)
    found.write()
    return found


def _check_space(call: Call) -> dict[str, Any]:
    """A configuration of the search. Raises UserError for a value that cannot be and a metric that is not measured."""
    registry.load_components()
    if not call.axes:
        raise UserError(
            "there is nothing to search: give a space to a key or more, as optimizer.lr='interval(0.001,0.3,log)' or "
            "model.hidden='choice(16,64,256)'"
        )
    first = [axis.word(axis.ends[0]) for axis in call.axes]
    for position, axis in enumerate(call.axes):
        for value in axis.ends:
            words = [*first[:position], axis.word(value), *first[position + 1 :]]
            config = rooted(call.compose([*call.fixed, *words]).config)
            load_plugins(config["plugins"])
            _check_value(axis, config)
    config = rooted(call.compose([*call.fixed, *first]).config)
    for note in check_metric(config, call.search):
        output.print(note, soft_wrap=True)
    return config


def _check_value(axis: Axis, config: Mapping[str, Any]) -> None:
    try:
        check_config(config)
    except UserError as error:
        if axis.kind == "float" and "whole number" in str(error):
            whole = f"range({axis.low:.0f},{axis.high + 1:.0f})"
            raise UserError(f"{axis.key}: takes whole numbers; search them with {whole}, below its end") from error
        raise
