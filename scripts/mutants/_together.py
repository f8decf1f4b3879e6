"""Mutants that the same test files notice: these are imported once, and each mutant has a fork of that process."""

import json
import os
from pathlib import Path

import _forks
import _in_place
import _warm
import pytest
from _mutant import EVERY, LIMIT, PYTEST, judgement, link

ENOUGH = 24  # mutants that are worth a process of their own, which takes two seconds to begin
NOT_IN_PLACE = 3
RESULTS = "results"


class Together:
    """A plugin of pytest that runs no test itself; the file of results gets a line for each mutant, and one of the control.

    The bug stands in the file too, for processes that a test starts. In the end tests that noticed a bug are run in a
    fork that has none: all but those of which it is known that they pass, and one of each file in any case.
    """

    def __init__(self, mutants, pristine, tree, known):
        self.mutants, self.pristine, self.tree, self.known = mutants, pristine, tree, known

    @pytest.hookimpl(tryfirst=True)  # before the tests' own, which freezes what is there
    def pytest_collection_finish(self):
        _in_place.find()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        if session.testsfailed:  # files that cannot be imported
            return True
        parent, noticed = os.getppid(), set()
        with Path(self.tree, RESULTS).open("w") as file:
            forks = _forks.each(self.mutants, lambda each: self.broken(each, session), 1, LIMIT)
            for mutant, status, output, seconds in forks:
                link(self.pristine, self.tree, mutant.file)
                caught, said = judgement(status, output) if status is not None else (False, "over the limit")
                noticed |= {said} if caught else set()
                print(json.dumps([caught, said, seconds]), file=file, flush=True)
                if os.getppid() != parent:  # which was stopped
                    return True
            ((_, status, output, _),) = _forks.each(
                [frozenset(noticed)], lambda each: self.control(each, session), 1, 10 * LIMIT
            )
            print(json.dumps(output[-2000:] if status else ""), file=file)
        return True

    def pytest_runtest_logreport(self, report):
        if report.failed:
            print(f"\nFAILED {report.nodeid}\n{report.longreprtext[-1000:]}", flush=True)

    def broken(self, mutant, session):
        """In a fork: whether a test fails."""
        if not _in_place.put(mutant, self.tree):
            return NOT_IN_PLACE
        mutant.seed(self.tree)
        return run([item for item in session.items if mutant.names(item)], session, first=True)

    def control(self, noticed, session):
        """In a fork: whether a test fails that noticed a bug where there is none."""
        every = [item for item in session.items if item.nodeid.partition(" - ")[0] in noticed]  # as `judgement` cuts it
        unknown = [item for item in every if item.nodeid not in self.known]
        files = {item.path for item in unknown}
        unknown += {item.path: item for item in every if item.path not in files}.values()
        return run(unknown, session, first=False)


def run(items, session, first):
    """1 if an item fails, which is said; up to the first one alone if `first`."""
    before = session.testsfailed
    for item, following in zip(items, [*items[1:], None], strict=False):
        failed = session.testsfailed
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        if first and session.testsfailed > failed:
            break
    return int(session.testsfailed > before)


def groups(mutants):
    """Test files -> the mutants that they notice; the most first. Few of one file are together with those of others."""
    found = {}
    for mutant in mutants:
        files = tuple(sorted({test.partition("::")[0] for test in mutant.test_files}))
        found.setdefault(files, []).append(mutant)
    gathered, files, some = {}, set(), []
    for own, more in sorted(found.items()):  # so that what shares its first file is near
        files, some = files | set(own), [*some, *more]
        if len(some) >= ENOUGH:
            gathered[tuple(sorted(files))], files, some = some, set(), []
    if some:
        gathered[tuple(sorted(files))] = some
    return dict(sorted(gathered.items(), key=lambda pair: -len(pair[1])))


def judge(mutants, files, pristine, tree, known):
    """In a fork: the mutants that these files notice; `told` finds what came of it."""
    _warm.move(pristine, tree)
    os.chdir(tree)
    plugin = Together(mutants, pristine, tree, known)
    return pytest.main([*PYTEST, *EVERY, "--capture=no", f"--basetemp={tree}.tmp", *files], plugins=[plugin])


def told(mutants, tree):
    """(mutant, whether it was caught, by which test or what happened, seconds) of each, and what failed without any."""
    path = Path(tree, RESULTS)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if len(lines) <= len(mutants):  # it did not come to the control
        return [], ""
    return [(mutant, *line) for mutant, line in zip(mutants, lines, strict=False)], lines[-1]
