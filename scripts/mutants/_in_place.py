"""A seeded bug put into the functions that are imported already, which takes no import anew."""

import gc
import inspect
import sys
from pathlib import Path
from types import CodeType, FunctionType

PACKAGE = "ebm_cli"
FOUND = {}  # (file below the package, qualified name, first line) of some code -> the functions that have it


def find():
    """Remember the functions of the package that came to be since the last freezing of what is there."""
    for each in gc.get_objects():
        if isinstance(each, FunctionType):
            _, package, file = each.__code__.co_filename.rpartition(f"/{PACKAGE}/")
            if package:
                FOUND.setdefault(_key(file, each.__code__), []).append(each)


def changes(mutant, tree):
    """(code, what takes its place) of each function that it changes; none if it changes more than functions."""
    if not mutant.file.endswith(".py"):
        return []
    text = Path(tree, PACKAGE, mutant.file).read_text(encoding="utf-8")
    return _changed(*(compile(each, mutant.file, "exec") for each in (text, mutant.broken(text)))) or []


def put(mutant, tree):
    """Into every function that has the code; whether there is one wherever its file has been imported.

    What such a function has led to already stays, so that a bug that is not noticed may be noticed after an import.
    """
    if module_of(mutant.file) not in sys.modules:
        return True
    functions = [(FOUND.get(_key(mutant.file, code), []), new) for code, new in changes(mutant, tree)]
    for found, new in functions:
        for function in found:
            function.__code__ = new.replace(co_filename=function.__code__.co_filename)
    return all(found for found, _ in functions)


def module_of(file):
    """The name of the module of a file of the package; of a file that is no module, that of its folder of the package."""
    if not file.endswith(".py"):
        return f"{PACKAGE}.{file.partition('/')[0]}"
    return ".".join((PACKAGE, *Path(file).with_suffix("").parts)).removesuffix(".__init__")


def _key(file, code):
    return file, code.co_qualname, code.co_firstlineno


def _changed(old, new):
    if _same(old, new):
        return []
    if old.co_flags & inspect.CO_OPTIMIZED and old.co_freevars == new.co_freevars:  # of a function, not of a class
        return [(old, new)]
    if _own(old) != _own(new):
        return None
    found = [_changed(*pair) for pair in zip(_inner(old), _inner(new), strict=True)]
    return None if None in found else [change for each in found for change in each]


def _same(one, other):
    return _own(one) == _own(other) and all(map(_same, _inner(one), _inner(other)))


def _inner(code):
    return [each for each in code.co_consts if isinstance(each, CodeType)]


def _own(code):
    """What it does, whichever line it is in and whatever the functions within it do."""
    constants = [None if isinstance(each, CodeType) else (type(each), repr(each)) for each in code.co_consts]
    names = code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount
    return code.co_code, constants, names, counts, code.co_flags, code.co_exceptiontable
