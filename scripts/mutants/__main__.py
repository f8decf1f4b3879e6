"""The command line of the mutants; `scripts/mutate` starts it in `.venv`."""

import importlib
import os
import pkgutil
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import _forks
import _warm
from _mutant import EVERY, ROOT, copy_tree, link_tree

PARALLEL = 2
PRISTINE = "pristine"
LIMIT = 300  # seconds until a mutant is taken to hang, which is noticed too


def mutants():
    """All of them, a file for each folder of the package."""
    found = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return [mutant for name in sorted(found) if name[0] != "_" for mutant in importlib.import_module(name).MUTANTS]


def environment(target):
    """Variables of a run on the copy in `target`."""
    data = ROOT.parent / "shared" / "data"
    return {"EBM_DATA": str(data), **os.environ, "PYTHONPATH": target, "PYTHONDONTWRITEBYTECODE": "1"}


def pytest_on(tests):
    """Arguments of pytest: until the first failure."""
    return ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:anyio", *tests]


def run(tests, tree):
    """pytest's exit code in a fork that has what is in `tree`."""
    import pytest

    os.chdir(tree)
    os.environ.update(environment(tree))
    return pytest.main(pytest_on(tests))


def judged(chosen, folder):
    """(mutant, whether it was caught, the test that caught it or else what happened, seconds) in their order."""
    places = {mutant: os.path.join(folder, str(number)) for number, mutant in enumerate(chosen)}

    def seeded(mutant):
        link_tree(os.path.join(folder, PRISTINE), places[mutant])
        mutant.seed(places[mutant])
        _warm.follow(places[mutant], mutant.file)
        return run([*mutant.test_files, *mutant.selection], places[mutant])

    for mutant, code, output, seconds in _forks.each(chosen, seeded, PARALLEL, LIMIT):
        shutil.rmtree(places[mutant])
        first = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", output, re.MULTILINE)
        known = code in (0, 1, None) or first
        said = first.group(1) if first else f"pytest exit status {code}: {output[-300:]}" * (code != 0)
        yield mutant, bool(known and code != 0), said, seconds


def control(caught, folder):
    """What pytest said at last where a test that caught a bug in some file fails with the file as it is too."""
    tree = os.path.join(folder, PRISTINE)

    def unchanged(file):
        _warm.follow(tree, file)
        return run([*EVERY, *sorted({test for own, test in caught if own == file})], tree)

    every = _forks.each(sorted({file for file, _ in caught}), unchanged, PARALLEL, 10 * LIMIT)
    return [output[-2000:] for _, code, output, _ in every if code]


def shown(judgements):
    """How many mutants were caught, and for each (its file, the test that did); every judgement is printed."""
    count, caught = 0, []
    for mutant, noticed, first, seconds in judgements:
        count += noticed
        caught += [(mutant.file, first)] * (noticed and first.startswith("tests/"))
        print(f"{'CAUGHT' if noticed else 'MISSED'} {seconds:4.1f} s  {mutant.what}  |  {first}", flush=True)
    return count, caught


def main(words):
    """Every mutant, then what caught them without any; the exit code."""
    every = mutants()
    wrong = [why for mutant in every for why in mutant.mismatches()]
    if wrong:
        print(*wrong, sep="\n", file=sys.stderr)
        return 2
    if "--check" in words:
        print(f"{len(every)} mutants can be seeded")
        return 0
    begin = time.monotonic()
    chosen = [mutant for mutant in every if all(word in f"{mutant.file} {mutant.what}" for word in words)]
    if not chosen:
        print(f"no mutant's file and description hold {' and '.join(words)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="ebm-mutants-") as folder:
        pristine = os.path.join(folder, PRISTINE)
        copy_tree(pristine)
        _warm.load(pristine)
        count, caught = shown(judged(chosen, folder))
        failures = control(caught, folder)
    if failures:
        print("these tests fail on the unchanged code too:", *failures, sep="\n", file=sys.stderr)
        return 2
    print(f"{count} of {len(chosen)} caught in {time.monotonic() - begin:.0f} s", end="; ")
    print(f"the {len({test for _, test in caught})} tests that caught them pass on the unchanged code")
    return 1 if count < len(chosen) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
