"""The package imported once, of which a fork imports anew what a seeded bug can reach."""

import ast
import gc
import importlib
import os
import sys
from functools import cache
from pathlib import Path

import _in_place
import hydra
from _in_place import PACKAGE, module_of


def load(tree):
    """Import every part from the copy at `tree`, which takes half as long as a quick test."""
    sys.path.insert(0, tree)
    for name in sorted(_imports(tree)):
        if not name.endswith("__main__"):
            importlib.import_module(name)
    sys.modules[f"{PACKAGE}.registry"].load_components()
    with hydra.initialize_config_module(f"{PACKAGE}.conf", version_base="1.3"):
        hydra.compose("train", ["model=rbm", "evaluation=[]"])  # Hydra's parser learns as it reads
    del sys.modules[f"{PACKAGE}.conf"]
    _in_place.find()
    gc.freeze()


def follow(tree, file):
    """In a fork: what comes from `file` is forgotten, so that it is imported from `tree`, as all else from here on."""
    old = sys.path[0]
    reached = _reached(old, module_of(file))
    table = sys.modules[f"{PACKAGE}.registry"]._TABLE
    for key in [key for key, cls in table.items() if cls.__module__ in reached]:
        del table[key]
    for name in reached & set(sys.modules):
        package, _, attribute = name.rpartition(".")
        vars(sys.modules.get(package, sys)).pop(attribute, None)
        del sys.modules[name]
    move(old, tree)


def move(old, tree):
    """In a fork: what was imported from `old` passes for imported from `tree`, as all is from here on."""
    sys.path[0] = tree
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == PACKAGE:
            _move(module, old, tree)
    importlib.invalidate_caches()


def _move(module, old, new):
    if module.__file__:
        module.__file__ = module.__spec__.origin = module.__file__.replace(old, new)
    if hasattr(module, "__path__"):
        module.__path__ = [os.path.join(new, os.path.relpath(path, old)) for path in module.__path__]


def _reached(tree, name):
    """The module, and all that import it or what does."""
    found, new = set(), {name}
    while new:
        found |= new
        new = {other for other, imported in _imports(tree).items() if imported & new} - found
    return found


@cache
def _imports(tree):
    """Modules of the package -> what each names in its imports, and the packages around that."""
    paths = {path: ".".join(path.relative_to(tree).with_suffix("").parts) for path in Path(tree, PACKAGE).rglob("*.py")}
    return {name.removesuffix(".__init__"): _named(ast.parse(path.read_bytes())) for path, name in paths.items()}


def _named(code):
    found = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found | {name[:end] for name in found for end, letter in enumerate(name) if letter == "."}
