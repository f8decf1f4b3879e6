"""What the suite has found already of a tree: what is slow among the tests that passed need not show it again.

Started as a program it says which tree this is.
"""

import hashlib
from pathlib import Path
from xml.etree import ElementTree

from _mutant import FILES, FOLDERS, ROOT

SLOW = 0.1  # seconds; what is quicker, and one test of each file, is run again among the files of the mutants


def digest(root):
    """Of every file that a copy of the tree at `root` has."""
    found = hashlib.sha256()
    paths = [path for folder in FOLDERS for path in Path(root, folder).rglob("*")]
    for path in sorted([*paths, *(Path(root, name) for name in FILES)]):
        name = path.relative_to(root)
        if path.is_file() and "__pycache__" not in name.parts and name.parts[:2] != ("ebm_cli", "conf"):
            found.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def slow(reports):
    """The tests that took long and passed, in reports that pytest writes as JUnit XML."""
    passed = [case for case in _cases(reports) if not {each.tag for each in case} & {"failure", "error", "skipped"}]
    return {_name(case) for case in passed if float(case.get("time")) >= SLOW}


def absent(names, reports):
    """Those of these files, tests and cases that no report has."""
    every = {_name(case) for case in _cases(reports)}
    every |= {name.partition("[")[0] for name in every} | {name.partition("::")[0] for name in every}
    return [name for name in names if name not in every]


def _cases(reports):
    return [case for report in reports for case in ElementTree.parse(report).iter("testcase")]


def _name(case):
    return f"{case.get('classname').replace('.', '/')}.py::{case.get('name')}"


if __name__ == "__main__":
    print(digest(ROOT))
