"""One seeded bug, and a copy of the tree that has it."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
EVERY = ["-m", ""]  # tests, the long ones too


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
        file, named, case = self.tests.partition("::")
        own = (ROOT / "conf" / self.file).with_suffix(".yaml").exists()
        return EVERY * bool(named) + ["-k", Path(self.file).stem] * (file == "sampler" and own and "[" not in case)

    def mismatches(self):
        """Why it cannot be seeded: the code has moved on, and the mutant must follow."""
        count = (ROOT / "ebm_cli" / self.file).read_text(encoding="utf-8").count(self.old)
        found = [] if count == 1 else [f"{self.what}: its text is {count} times in ebm_cli/{self.file}"]
        files = [name.partition("::")[0] for name in self.test_files]
        return found + [f"{self.what}: no {name}" for name in files if not (ROOT / name).exists()]

    def seed(self, tree):
        """Replace the text in the copy at `tree`."""
        path = Path(tree, "ebm_cli", self.file)
        broken = path.read_text(encoding="utf-8").replace(self.old, self.new)
        if path.suffix == ".py":
            compile(broken, self.what, "exec")  # a mutant that is no Python shows nothing
        path.unlink()  # it may have another name, in the tree that this one is a copy of
        path.write_text(broken, encoding="utf-8")


def copy_tree(target):
    """The code, its configuration and its tests; `ebm_cli/conf` leads to the copied configuration."""
    for folder in ("ebm_cli", "conf", "tests"):  # with their bytecode, which holds for files as old as before
        shutil.copytree(ROOT / folder, Path(target, folder))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, target)
    os.symlink("../conf", Path(target, "ebm_cli", "conf"))


def link_tree(tree, target):
    """The same files under other names; the link to the configuration leads to that of `target`."""
    shutil.copytree(tree, target, symlinks=True, copy_function=os.link)
