"""What the spaces of a search take, for a word that is none of them."""

import re

from ebm_cli.errors import nearest

_TAKES = {
    "interval": "interval takes two numbers, interval(a,b) or interval(a,b,log)",
    "range": "range takes whole numbers, range(a,b), range(a,b,step) or range(a,b,log): from a on, below b",
    "choice": "choice takes the values, choice(x,y,...)",
}
_WRAPPED = re.compile(r"^\s*(?:tag|sort|shuffle|int|float|str)\s*\([^()]*?(?=\b(?:interval|range|choice)\b)")
_NAME = re.compile(r"^\s*([A-Za-z_]+)\s*(?=[(\[{])|^\s*(interval|range|choice)\b")
_QUOTES = "put quotes around a value with special characters: KEY='\"VALUE\"'"
_INTERVAL = re.compile(r"=\s*(tag\s*\([^()]*)?interval\s*\(")


def sentence(word: str) -> str | None:
    """What is wrong with a word that Hydra does not understand, if it looks like KEY=SPACE(...)."""
    found = _NAME.match(_WRAPPED.sub("", word.partition("=")[2]))
    if not found:
        return None
    name = found.group(1) or found.group(2)
    if name in _TAKES:
        return f"{word}: {_TAKES[name]}"
    all_of_them = "; ".join(_TAKES.values())
    return f"{word}: no space is called {name}{nearest(name, [*_TAKES])} ({all_of_them}); or {_QUOTES}"


def of_a_search(word: str) -> str | None:
    """That a word is for `ebm tune`, if it has an interval."""
    return f"{word}: is a space of a search; take ebm tune" if _INTERVAL.search(word) else None


def one_end(word: str) -> str | None:
    """What to write in place of a range that has an end and no beginning, which Hydra lets begin at 0."""
    found = re.search(r"\brange\(\s*(-?\d+)\s*\)", word)
    if not found:
        return None
    end = int(found.group(1))
    way = f"; say where it begins, range(1,{end}): from 1 on, below {end}" if end > 2 else ""
    return f"{word}: {_TAKES['range']}{way}"
