"""The command line of the benchmarks; `scripts/bench` starts it in `.venv`."""

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

from _case import Case

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent.parent / "docs" / "benchmarks.md"


def main(arguments: list[str]) -> int:
    """Run the chosen cases one after the other; a figure that is missed is said and is no error."""
    cases = {case.name: case for case in find_cases()}
    options = _parse(arguments, cases)
    if options.list:
        print("\n".join(f"{case.name:20} {case.title}" for case in cases.values()))
        return 0
    from _measure import measure
    from _report import document, machine, section

    from ebm_cli.device import memory

    memory.keep_freed()  # as `ebm` has it, for every contender
    head = machine()
    print(head, flush=True)
    results = []
    for name in options.case or cases:
        results.append(measure(cases[name], quick=options.quick, repeats=options.repeats))
        print(f"\n{section(results[-1])}", flush=True)
    if options.write:
        DOCUMENT.write_text(document(head, results), encoding="utf-8")
    return 0


def find_cases() -> list[Case]:
    """Of every module here, in alphabetical order of the modules."""
    names = [module.name for module in pkgutil.iter_modules([str(HERE)]) if not module.name.startswith("_")]
    return [case for name in names for case in importlib.import_module(name).CASES]


def _parse(arguments: list[str], cases: dict[str, Case]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Ours and its peers on the same work, in turn.")
    parser.add_argument("case", nargs="*", metavar="CASE", help="what to run (all): " + ", ".join(cases))
    parser.add_argument("--list", action="store_true", help="say what each case is, and stop")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds: does it run, not how fast is it")
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds of every case")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md, for which all cases must run")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.case if name not in cases]
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(cases)}")
    if options.write and options.case:
        parser.error("--write takes no CASE: the document holds all of them")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
