"""The command line of the mutants; `scripts/mutate` starts it in `.venv`."""

import importlib
import os
import pkgutil
import shutil
import sys
import tempfile
import time
from pathlib import Path

import _forks
import _in_place
import _passed
import _together
import _turn
import _warm
import pytest
from _mutant import EVERY, LIMIT, PYTEST, ROOT, copy_tree, judgement, link_tree

PARALLEL = 2
PRISTINE = "pristine"


def mutants():
    """All of them, a file for each folder of the package."""
    found = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return [mutant for name in sorted(found) if name[0] != "_" for mutant in importlib.import_module(name).MUTANTS]


def environment(target):
    """Variables of a run on the copy in `target`."""
    data = ROOT.parent / "shared" / "data"
    return {"EBM_DATA": str(data), **os.environ, "PYTHONPATH": target, "PYTHONDONTWRITEBYTECODE": "1"}


def run(tests, tree):
    """pytest's exit code in a fork that has what is in `tree`; it stops at the first failure."""
    os.chdir(tree)
    os.environ.update(environment(tree))
    return pytest.main(["-x", *PYTEST, *tests])


def in_place(chosen, folder, known):
    """For each group of those that change functions alone: (mutant, caught, what was said, seconds) of each, and the control."""
    pristine = os.path.join(folder, PRISTINE)
    groups = _together.groups(mutant for mutant in chosen if _in_place.changes(mutant, pristine))
    places = {files: os.path.join(folder, f"together-{number}") for number, files in enumerate(groups)}

    def judge(files):
        link_tree(pristine, places[files])
        os.environ.update(environment(places[files]))
        return _together.judge(groups[files], files, pristine, places[files], known)

    for files, _, output, _ in _forks.each(list(groups), judge, PARALLEL, 10 * LIMIT):
        judgements = _together.told(groups[files], places[files])
        if not judgements[0]:
            print(f"one by one, as what {' '.join(files)} notice was not judged together: {output[-1000:]}")
        yield judgements
        for place in (places[files], f"{places[files]}.tmp"):
            shutil.rmtree(place, ignore_errors=True)  # what a test left behind may write there still


def imported(chosen, folder):
    """(mutant, whether it was caught, the test that caught it or else what happened, seconds) in their order."""
    places = {mutant: os.path.join(folder, str(number)) for number, mutant in enumerate(chosen)}

    def seeded(mutant):
        link_tree(os.path.join(folder, PRISTINE), places[mutant])
        mutant.seed(places[mutant])
        _warm.follow(places[mutant], mutant.file)
        return run([*mutant.test_files, *mutant.selection], places[mutant])

    for mutant, status, output, seconds in _forks.each(chosen, seeded, PARALLEL, LIMIT):
        shutil.rmtree(places[mutant], ignore_errors=True)
        yield mutant, *judgement(status, output), seconds


def control(caught, folder):
    """What pytest said at last where a test that caught a bug in some file fails with the file as it is too."""
    tree = os.path.join(folder, PRISTINE)

    def unchanged(file):
        _warm.follow(tree, file)
        return run([*EVERY, *sorted({test for own, test in caught if own == file})], tree)

    every = _forks.each(sorted({file for file, _ in caught}), unchanged, PARALLEL, 10 * LIMIT)
    return [output[-2000:] for _, code, output, _ in every if code]


def judged(chosen, folder, known):
    """The mutants that were caught, the tests that did, and what failed without any; every judgement is printed.

    Tests that are known to pass without are not run without. What is not caught in place, as far as that was tried, is tried once more with what the bug reaches imported anew.
    """
    caught, tests, failures = set(), set(), []
    for judgements, failed in in_place(chosen, folder, known):
        known = [each for each in judgements if each[1]]
        caught |= {mutant for mutant, *_ in known}
        tests |= _shown(known)
        failures += [failed] * bool(failed)
    rest = []
    for each in imported([mutant for mutant in chosen if mutant not in caught], folder):
        tests |= _shown([each])
        caught |= {each[0]} if each[1] else set()
        rest += [(each[0].file, each[2])] * (each[1] and each[2].startswith("tests/") and each[2] not in known)
    return caught, tests, failures + control(rest, folder)


def _shown(judgements):
    for mutant, noticed, first, seconds in judgements:
        print(f"{'CAUGHT' if noticed else 'MISSED'} {seconds:4.1f} s  {mutant.what}  |  {first}", flush=True)
    return {first for _, noticed, first, _ in judgements if noticed and first.startswith("tests/")}


def split(words):
    """Words, and what stands behind --passed."""
    at = words.index("--passed") if "--passed" in words else len(words)
    return words[:at], words[at + 1 :]


def known_of(tree, found="", *reports):
    """The tests that need not be run without a bug, where `reports` are of a tree of the digest `found`."""
    if not reports:
        return set()
    if found != _passed.digest(tree):
        print("the tree is not that of the reports: all tests that catch a bug are run without")
        return set()
    return _passed.slow(reports)


def main(words):
    """Every mutant, then what caught them without any; the exit code."""
    words, reports = split(words)
    every = mutants()
    wrong = [why for mutant in every for why in mutant.mismatches()]
    if reports:  # of all tests
        named = {test: mutant.what for mutant in every for test in mutant.test_files}
        wrong += [f"{named[test]}: no {test}" for test in _passed.absent(named, reports[1:])]
    if wrong:
        print(*wrong, sep="\n", file=sys.stderr)
        return 2
    if "--check" in words:
        print(f"{len(every)} mutants can be seeded")
        return 0
    begin = time.monotonic()
    names = [word for word in words if word != "--part"]
    chosen = [mutant for mutant in every if all(word in f"{mutant.file} {mutant.what}" for word in names)]
    if "--part" in words:
        chosen = _turn.part(chosen, _passed.digest(ROOT))
        print(f"{len(chosen)} of {len(every)} mutants, whose turn it is with this tree")
    if not chosen:
        print(f"no mutant's file and description hold {' and '.join(names)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="ebm-mutants-", ignore_cleanup_errors=True) as folder:
        copy_tree(os.path.join(folder, PRISTINE))
        known = known_of(os.path.join(folder, PRISTINE), *reports)
        _warm.load(os.path.join(folder, PRISTINE))
        caught, tests, failures = judged(chosen, folder, known)
    if failures:
        print("these tests fail on the unchanged code too:", *failures, sep="\n", file=sys.stderr)
        return 2
    print(f"{len(caught)} of {len(chosen)} caught in {time.monotonic() - begin:.0f} s", end="; ")
    print(f"the {len(tests)} tests that caught them pass on the unchanged code, {len(tests & known)} as was reported")
    return 1 if len(caught) < len(chosen) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
