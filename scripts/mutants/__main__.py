"""The command line of the mutants; `scripts/mutate` starts it in `.venv`."""

import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _forks
from _mutant import EVERY, ROOT, copy_tree

PARALLEL = 2
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


def judged(chosen):
    """(mutant, whether it was caught, the test that caught it or else what happened, seconds) in their order."""
    with tempfile.TemporaryDirectory(prefix="ebm-mutants-") as folder:
        places = {mutant: os.path.join(folder, str(number)) for number, mutant in enumerate(chosen)}

        def run(mutant):
            import pytest

            copy_tree(places[mutant])
            mutant.seed(places[mutant])
            os.chdir(places[mutant])
            sys.path.insert(0, places[mutant])
            os.environ.update(environment(places[mutant]))
            return pytest.main(pytest_on([*mutant.test_files, *mutant.selection]))

        for mutant, code, output, seconds in _forks.each(chosen, run, PARALLEL, LIMIT):
            shutil.rmtree(places[mutant])
            first = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", output, re.MULTILINE)
            known = code in (0, 1, None) or first
            said = first.group(1) if first else f"pytest exit status {code}: {output[-300:]}" * (code != 0)
            yield mutant, bool(known and code != 0), said, seconds


def control(tests):
    """(exit code, output) of these tests on the unchanged code."""
    with tempfile.TemporaryDirectory(prefix="ebm-mutants-") as target:
        copy_tree(target)
        command = [sys.executable, "-m", "pytest", f"--numprocesses={PARALLEL}", *EVERY, *pytest_on(tests)]
        done = subprocess.run(command, cwd=target, env=environment(target), capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr


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
    caught = []
    for mutant, noticed, first, seconds in judged(chosen):
        caught += [first] * noticed
        print(f"{'CAUGHT' if noticed else 'MISSED'} {seconds:4.1f} s  {mutant.what}  |  {first}", flush=True)
    tests = sorted({test for test in caught if test.startswith("tests/")})
    code, output = control(tests) if tests else (0, "")
    if code:
        print(f"these tests fail on the unchanged code too:\n{output[-2000:]}", file=sys.stderr)
        return 2
    print(f"{len(caught)} of {len(chosen)} caught in {time.monotonic() - begin:.0f} s", end="; ")
    print(f"the {len(tests)} tests that caught them pass on the unchanged code")
    return 1 if len(caught) < len(chosen) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
