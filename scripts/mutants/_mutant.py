"""One seeded bug, and a copy of the tree that has it."""

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FOLDERS, FILES = ("ebm_cli", "conf", "tests"), ("pyproject.toml", "README.md")  # what is copied
EVERY = ["-m", ""]  # tests, the long ones too
PYTEST = ["-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:anyio"]
LIMIT = 100  # seconds until a mutant is taken to hang, which is noticed too


class Mutant(NamedTuple):
    """What breaks; where, below ebm_cli/; the text there, which must be there once, and what takes its place; who must notice.

    `tests` are names of test files without `test_` and `.py`, separated by spaces, or `file::test` where one test of a
    slow file is enough.
    """

    what: str
    file: str
    old: str
    new: str
    tests: str

    @property
    def test_files(self):
        """The tests that must notice, as pytest takes them."""
        names = (name.partition("::") for name in self.tests.split())
        return [f"tests/test_{file}.py{colons}{test}" for file, colons, test in names]

    @property
    def selection(self):
        """A test that is named may be a long one; of the tests of all samplers, those of the sampler that is broken."""
        return EVERY * ("::" in self.tests) + ["-k", self._sampler] * bool(self._sampler)

    @property
    def _sampler(self):
        file, _, case = self.tests.partition("::")
        own = (ROOT / "conf" / self.file).with_suffix(".yaml").exists()
        return Path(self.file).stem if file == "sampler" and own and "[" not in case else ""

    def names(self, item):
        """Whether the selection above takes this test of pytest."""
        places = (item.nodeid, item.nodeid.partition("[")[0], item.nodeid.partition("::")[0])
        quick = "::" in self.tests or not item.get_closest_marker("long")
        return quick and self._sampler in item.name and not set(self.test_files).isdisjoint(places)

    def mismatches(self):
        """Why it cannot be seeded: the code has moved on, and the mutant must follow."""
        count = (ROOT / "ebm_cli" / self.file).read_text(encoding="utf-8").count(self.old)
        found = [] if count == 1 else [f"{self.what}: its text is {count} times in ebm_cli/{self.file}"]
        files = [name.partition("::")[0] for name in self.test_files]
        return found + [f"{self.what}: no {name}" for name in files if not (ROOT / name).exists()]

    def broken(self, text):
        """What the file holds then."""
        return text.replace(self.old, self.new)

    def seed(self, tree):
        """Replace the text in the copy at `tree`."""
        path = Path(tree, "ebm_cli", self.file)
        broken = self.broken(path.read_text(encoding="utf-8"))
        if path.suffix == ".py":
            compile(broken, self.what, "exec")  # a mutant that is no Python shows nothing
        path.unlink()  # it may have another name, in the tree that this one is a copy of
        path.write_text(broken, encoding="utf-8")


def judgement(status, output):
    """Whether it was caught, and the test that did or else what happened, of a fork that ran pytest and had the bug."""
    first = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", output, re.MULTILINE)
    known = status in (0, 1, None) or first
    said = first.group(1) if first else f"pytest exit status {status}: {output[-300:]}" * (status != 0)
    return bool(known and status != 0), said


def copy_tree(target):
    """The code, its configuration and its tests; `ebm_cli/conf` leads to the copied configuration."""
    for folder in FOLDERS:  # with their bytecode, which holds for files as old as before
        shutil.copytree(ROOT / folder, Path(target, folder))
    for name in FILES:
        shutil.copy(ROOT / name, target)
    os.symlink("../conf", Path(target, "ebm_cli", "conf"))


def link_tree(tree, target):
    """The same files under other names; the link to the configuration leads to that of `target`."""
    shutil.copytree(tree, target, symlinks=True, copy_function=os.link)


def link(tree, target, file):
    """The file of the package in `target` is that of `tree` again."""
    path = Path(target, "ebm_cli", file)
    path.unlink()
    os.link(Path(tree, "ebm_cli", file), path)
