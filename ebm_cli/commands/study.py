"""The study of optuna behind `ebm tune`: what was proposed, what came of it, what to propose next.

It is kept in `study.journal`, one line for each change, which only grows: what a killed process wrote is there, and
processes write in turn by a lock that the kernel takes from a dead one, where optuna's own are files that it leaves
behind. Every proposal comes from a fresh sampler whose seed is a function of the search's and of how many
proposals there were: so a search that is taken up again proposes what it would have proposed.
"""

import fcntl
import hashlib
import itertools
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ebm_cli.commands.median import WARM_UP, Median
from ebm_cli.commands.search import Axis, Search, Trial, Value
from ebm_cli.errors import UserError, of_file
from ebm_cli.record import files

JOURNAL = "study.journal"
JOB = "job"
"""Under this name a trial has the number of its run; one without was torn off while it was proposed."""
PRUNED = "pruned"

_STUCK = 3  # proposals in a row that are there already, after which others are drawn at random
_FEWEST_DONE = 4  # trials, before one is pruned
_FEWEST = 8  # trials from which it can be said what mattered


class Study:
    """One study, as this process sees it."""

    def __init__(self, path: Path, search: Search, axes: Sequence[Axis]) -> None:
        self.path, self.search, self.axes = path, search, axes
        self.since: dict[int, Sequence[float] | None] = {}  # by the number of a run: what its own files say of it
        optuna = _optuna()
        directions = [f"{one}imize" for one in search.direction]
        with _readable(path):
            self._study = optuna.create_study(
                study_name=search.study, storage=_storage(path), directions=directions, load_if_exists=True
            )
        for trial in self.proposed():
            self.words(trial.params)
        for trial in self.trials():
            if JOB not in trial.user_attrs and not trial.state.is_finished():
                self.tell(trial.number, "failed")

    def trials(self) -> list[Any]:
        """All that was proposed, as optuna has it."""
        with _readable(self.path):
            return list(self._study.get_trials(deepcopy=False))

    def proposed(self) -> list[Any]:
        """Those that became a run, or are the same as an earlier one."""
        return [trial for trial in self.trials() if JOB in trial.user_attrs]

    def unfinished(self) -> list[Any]:
        """Those of which nobody knows yet what came of them."""
        return [trial for trial in self.proposed() if not trial.state.is_finished()]

    def propose(self) -> Any:
        """The next trial."""
        jobs = [trial.user_attrs[JOB] for trial in self.proposed()]
        self._study.sampler = _sampler(self.search, len(jobs), stuck=_repeats(jobs) >= _STUCK)
        with quiet():
            return self._study.ask({axis.key: _distribution(axis) for axis in self.axes})

    def words(self, params: Mapping[str, Value]) -> list[str]:
        """A trial as the command line has it. Raises UserError if it is none of this space."""
        if set(params) != {axis.key for axis in self.axes}:
            raise UserError(f"{self.path / JOURNAL}: has trials of other keys than are searched; put the file back")
        return [axis.word(params[axis.key]) for axis in self.axes]

    def tell(self, number: int, became: str, values: Sequence[float] | None = None) -> None:
        """What came of a trial: done, with its values, pruned or failed."""
        states = _optuna().trial.TrialState
        state = {"done": states.COMPLETE, "pruned": states.PRUNED}.get(became, states.FAIL)
        with quiet():
            self._study.tell(number, list(values) if values is not None else None, state)

    def add(self, trial: Any) -> None:
        """One more, as optuna makes it."""
        with quiet():
            self._study.add_trial(trial)

    def worth(self, trial: Any) -> Sequence[float] | None:
        """Of a trial that is done, by the files of its run where those were read; None of any other."""
        told: Sequence[float] | None = trial.values if trial.state.name == "COMPLETE" else None
        return self.since.get(trial.user_attrs[JOB], told)

    def best(self) -> list[Any]:
        """The best trial; of several metrics those to which none is better in all (the Pareto front)."""
        done = [trial for trial in self.proposed() if self.worth(trial) is not None]
        signs = [1 if one == "max" else -1 for one in self.search.direction]
        merit = {
            trial.number: [sign * value for sign, value in zip(signs, self.worth(trial) or (), strict=True)]
            for trial in done
        }
        front = [trial for trial in done if not any(_beats(merit[other.number], merit[trial.number]) for other in done)]
        apart = {trial.user_attrs[JOB]: trial for trial in reversed(front)}
        found = sorted(apart.values(), key=lambda trial: trial.number)
        return found if len(signs) > 1 else found[:1]

    def done(self) -> list[Any]:
        """The trials that the study was told to be done."""
        return [trial for trial in self.proposed() if trial.state.name == "COMPLETE"]

    def unknown(self) -> str | None:
        """Why it cannot be known how much each key mattered, or None."""
        done = self.done()
        if len(self.search.metric) > 1:
            return "not known of several metrics"
        if (runs := len({trial.user_attrs[JOB] for trial in done})) < _FEWEST:
            return f"not known yet: it takes {_FEWEST} trials that are done, {runs} are"
        return None if len({trial.value for trial in done}) > 1 else "not known: all that are done are worth the same"

    def importances(self) -> dict[str, float]:
        """How much each key mattered, in shares of 1, by PED-ANOVA (Watanabe et al. 2023); nothing if unknown."""
        if self.unknown() or len(self.axes) < 2:
            return {}
        importance = _optuna().importance
        try:
            with quiet():
                found = importance.get_param_importances(
                    self._study, evaluator=importance.PedAnovaImportanceEvaluator()
                )
        except (ValueError, RuntimeError):  # as where a key had one value in all of them
            return {}
        return {key: float(value) for key, value in found.items() if math.isfinite(value)}


def judged(path: Path, search: Search) -> bool:
    """Whether some trial of a search that is there has a value, be it of an early step. Nothing is written."""
    if not files.there(path, JOURNAL):
        return False
    optuna = _optuna()
    with _readable(path):
        storage = _storage(path, mend=False)
        if search.study not in optuna.study.get_all_study_names(storage):
            return False
        found = optuna.load_study(study_name=search.study, storage=storage).get_trials(deepcopy=False)
    return any(trial.values or trial.intermediate_values for trial in found)


def renewed(path: Path, was: Search, search: Search, axes: Sequence[Axis]) -> Search:
    """The search with a study of its own in the journal, whose trials are those of the former one, of no value yet.

    Until tune.json names it, it is nobody's.
    """
    optuna = _optuna()
    states = optuna.trial.TrialState
    former = Study(path, was, axes).trials()
    names = optuna.study.get_all_study_names(_storage(path))
    free = next(name for count in itertools.count(1) if (name := f"{was.study}-{count}") not in names)
    new = replace(search, study=free)
    found, seen = Study(path, new, axes), set[int]()
    for trial in former:
        job = trial.user_attrs.get(JOB)
        state = states.FAIL if job is None or job in seen else states.RUNNING  # what came of it, its run says
        seen |= {job}
        found.add(optuna.trial.create_trial(
            state=state, params=trial.params, distributions=trial.distributions, user_attrs=trial.user_attrs
        ))  # fmt: skip
    return new


def running(trial: Trial) -> Any:
    """A trial of a search, for the run that it is, which reports to it."""
    optuna = _optuna()
    with _readable(trial.path):
        storage, name = _storage(trial.path, mend=False), trial.search.study
        study = optuna.load_study(
            study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler(0), pruner=_pruner(trial)
        )
        number = storage.get_study_id_from_name(name)
        identity = storage.get_trial_id_from_study_id_trial_number(number, trial.number)
    return optuna.trial.Trial(study, identity)


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _optuna() -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings that something is new in optuna, or that a step is reported once more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """A journal that makes no sense is a UserError."""
    try:
        with quiet():
            yield
    except OSError as error:
        raise UserError(f"{path / JOURNAL}: {of_file(error)}; mend that, then run the command again") from error
    except (ValueError, KeyError, TypeError, AssertionError, AttributeError) as error:
        raise UserError(
            f"{path / JOURNAL}: is not what ebm tune wrote; put the file back, or start another search"
        ) from error


def _storage(path: Path, *, mend: bool = True) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    files.append(path, JOURNAL).close()  # raises OSError for a link
    lock: Any = Lock(path / JOURNAL)
    if mend:
        _mend(path / JOURNAL, lock)
    return JournalStorage(JournalFileBackend(str(path / JOURNAL), lock_obj=lock))


def _mend(journal: Path, lock: Any) -> None:
    """Drop what follows the last line's end, as of a disk that was full: optuna would write on behind it."""
    lock.acquire()
    try:
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(journal, whole)
    finally:
        lock.release()


class Lock:
    """Of the processes that write a file one at a time does; one that dies holds it no longer."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, -1

    def acquire(self) -> bool:
        """Wait for it."""
        self._file = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Let the next one have it."""
        os.close(self._file)


def _distribution(axis: Axis) -> Any:
    distributions = _optuna().distributions
    if axis.kind == "choice":
        return distributions.CategoricalDistribution(axis.choices)
    if axis.kind == "int":
        return distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=axis.step)
    return distributions.FloatDistribution(axis.low, axis.high, log=axis.log)


def _repeats(jobs: Sequence[int]) -> int:
    """How many of the last proposals were runs that were there."""
    seen, count = set[int](), 0
    for job in jobs:
        count = count + 1 if job in seen else 0
        seen.add(job)
    return count


def _sampler(search: Search, proposals: int, *, stuck: bool) -> Any:
    """For one proposal; `startup` of them are drawn at random, and those after one sampler came to name the same."""
    samplers = _optuna().samplers
    text = f"{search.search_seed} {proposals}".encode()
    seed = int.from_bytes(hashlib.sha256(text).digest()[:4], "little")
    if search.search == "random" or proposals < search.startup or stuck:
        return samplers.RandomSampler(seed)
    with quiet():
        if search.search == "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=0)
        if search.search == "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=search.startup)
        return samplers.TPESampler(seed=seed, n_startup_trials=1, constant_liar=True)


def _pruner(trial: Trial) -> Any:
    """None of them ends a run before more than a fifth of its steps, or its first evaluation."""
    pruners, (every, total) = _optuna().pruners, trial.steps
    kind, least = trial.search.pruner, max(1, every, total // WARM_UP)
    if kind == "median":
        return Median(min(_FEWEST_DONE, trial.search.startup), total)
    if kind == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=least)
    if kind == "hyperband":
        return pruners.HyperbandPruner(min_resource=least, max_resource=max(1, total))
    return pruners.NopPruner()
