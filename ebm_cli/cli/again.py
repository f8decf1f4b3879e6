"""`ebm train -m`: what its words say of the whole multirun, such as that one is taken up again."""

import os
from pathlib import Path

from ebm_cli.cli.tuning import check_no_search
from ebm_cli.cli.words import plain, quoted, taken
from ebm_cli.errors import UserError
from ebm_cli.record.runs import instead

SWEEP = "sweep.json"
ORDERS = ("retries", "fail_fast")
"""Keys of the multirun and of no job."""


def multirun(arguments: list[str]) -> list[str]:
    """Words for Hydra. `resume=DIR` repeats what the multirun in DIR was called with, but for keys given anew.

    `resume=auto` is for schedulers that start the same command again: it takes up the multirun in hydra.sweep.dir if
    one is there, and starts it otherwise.
    """
    words = [_order(word) if word.partition("=")[0] in ORDERS else word for word in arguments]
    value, words = taken(words, "resume")
    if value is None or value == "null":
        return words
    place, others = taken(words, "hydra.sweep.dir")
    if plain(value) == "auto":
        if place is None:
            raise UserError("resume = auto: say which directory it is about, hydra.sweep.dir=DIR")
        check_no_search(plain(place))
        return ["hydra.sweeper.resume=true", *words]
    if place is not None:
        raise UserError(f"hydra.sweep.dir: a multirun is taken up where it is, in {plain(value)}; leave it out")
    return ["hydra.sweeper.resume=true", f"hydra.sweep.dir={quoted(plain(value))}", *_again(plain(value), others)]


def _order(word: str) -> str:
    key, _, value = word.partition("=")
    if "," in value:
        raise UserError(f"{key} = {value}: give one value, for the multirun as a whole")
    return f"hydra.sweeper.{word}"


def _again(path: str, words: list[str]) -> list[str]:
    """What the multirun was called with, but for keys that are given anew."""
    if not path:
        raise UserError("resume is empty: name the directory of a multirun, resume=DIR")
    if path.startswith("[") and not os.path.exists(path):
        raise UserError(f"resume = {path}: one multirun is taken up at a time, resume=DIR")
    check_no_search(path)
    if not os.path.isfile(Path(path) / SWEEP):
        if os.path.isfile(Path(path) / "config.yaml"):
            raise UserError(f"resume = {path}: one run is there, and no multirun; leave out -m")
        raise UserError(f"resume = {path}: no multirun is there ({instead(Path(path)) or f'it has no {SWEEP}'})")
    from ebm_cli.record import ledger

    anew = {_key(word) for word in words}
    return [*(word for word in ledger.read(Path(path)).arguments if _key(word) not in anew), *words]


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]
