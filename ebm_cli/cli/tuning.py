"""`ebm tune`: its words, for Hydra. Those of the search become keys of the sweeper, all others are of its runs."""

import importlib.util
import os
import re
from pathlib import Path
from shlex import quote

from ebm_cli.cli.words import plain, quoted, taken
from ebm_cli.errors import UserError, install
from ebm_cli.record.runs import instead

FILE, SWEEP = "tune.json", "sweep.json"
BASE = {"tune": "train", "import": "train"}
"""The command whose configuration another one has."""

KEYS = ("metric", "direction", "trials", "startup", "pruner", "search", "search_seed", "n_jobs")
"""Keys of the search and of no run."""

_KEPT = ("metric", "direction", "trials", "startup", "pruner", "search", "search_seed")  # in tune.json
_ANEW = ("trials", "n_jobs", "metric", "direction", "pruner", "tracker", "device", "plugins", "hydra")
"""What may be said when a search goes on; by what its trials are judged, while none has a value."""

_PAGES = {"-h", "--help", "--hydra-help", "-c", "--cfg", "-i", "--info", "--version"}
_SPACE = re.compile(r"=\s*(interval|range|choice|tag|int|float|sort)\(")
_LOG = re.compile(r"\b(interval|range)\(([^()]*?),\s*log\s*\)")
_PLACE = "hydra.sweep.dir=outputs/tune_${now:%Y-%m-%d_%H-%M-%S}_${ebm_unique:}"
_HELP = """ebm tune: search for the best values of keys, by trials that optuna proposes

  ebm tune optimizer.lr='interval(0.001,0.3,log)' model.hidden='choice(16,64,256)' trials=40 hydra.sweep.dir=DIR
  ebm tune resume=DIR trials=80                     go on, with more trials

== Spaces ==
interval(a,b)           a real number; interval(a,b,log): evenly spaced in its logarithm
range(a,b[,step])       a whole number from a on, below b; range(a,b,log)
choice(x,y,...)         one of these, also of parts: objective='choice(cd,pcd)'

== Keys of the search ==
metric: null            what a run reports, or [several]; null: checkpoint.monitor
direction: max          max or min, or a list
trials: 40              runs in all
startup: 10             of them drawn at random first
pruner: null            none, median, halving, hyperband: runs that are worse than others end early
                        null: median where the metric is measured while training. Once more than a fifth of the steps
                        is trained, an evaluation (eval_every) ends what is worse than half of the others were by then
search: tpe             tpe, random, gp, nsga2
search_seed: null       of the proposals; null: seed
n_jobs: 1               at a time, each a process
"""


def is_space(word: str) -> bool:
    """Whether it gives a key a space instead of a value."""
    return _SPACE.search(word) is not None


def tuned(arguments: list[str]) -> list[str]:
    """Words for Hydra. `resume=DIR` repeats what the search in DIR was called with."""
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("ebm tune needs no -m; leave it out")
    if {"-sc", "--shell-completion"} & set(arguments):
        return arguments
    check_installed()
    words = [_LOG.sub(r"tag(log,\1(\2))", word) for word in arguments]
    value, words = taken(words, "resume")
    if value not in (None, "null"):
        words = _taken_up(plain(str(value)), words)
    elif taken(words, "hydra.sweep.dir")[0] is None:
        words = [_PLACE, *words]
    help_text = [f"hydra.help.header={quoted(_HELP)}", "hydra.help.app_name=ebm tune"]
    flags = [word for word in words if word.startswith("-")]
    rest = [_order(word) for word in words if word not in flags]
    many = [] if _PAGES & set(flags) else ["-m"]
    return ["hydra/sweeper=tune", *(help_text if flags else []), *rest, *flags, *many]


def check_installed() -> None:
    """Raise UserError without optuna."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError(
            f"optuna, which proposes the trials, is not installed; it comes with an extra, {install('tune')}"
        )


def _order(word: str) -> str:
    key, equals, value = word.partition("=")
    if key not in KEYS or not equals:
        return word
    several = key in ("metric", "direction") and "," in value and not value.startswith("[")
    return f"hydra.sweeper.{key}={f'[{value}]' if several else value}"


def _taken_up(path: str, words: list[str]) -> list[str]:
    place, others = taken(words, "hydra.sweep.dir")
    if path == "auto":
        if place is None:
            raise UserError("resume = auto: say which directory it is about, hydra.sweep.dir=DIR")
        return ["hydra.sweeper.resume=true", *words]
    if place is not None:
        raise UserError(f"hydra.sweep.dir: a search goes on where it is, in {path}; leave it out")
    _check_search(path)
    from ebm_cli.commands import search
    from ebm_cli.record import ledger

    for word in others:
        key = search.key_of(word)
        if not word.startswith("-") and key.replace("/", ".").partition(".")[0] not in _ANEW:
            raise UserError(f"{key}: a search goes on with the words it began with; leave it out, or start another")
    anew = {search.key_of(word) for word in others}
    kept = search.read(Path(path))
    usual = "metric" in anew and kept.pruner == search.usual_pruner(kept.metric)  # that of the other may differ
    kept_keys = [key for key in _KEPT if key not in anew and not (key == "pruner" and usual)]
    own = [f"{key}={_typed(getattr(kept, key))}" for key in kept_keys]
    before = [word for word in ledger.read(Path(path)).arguments if search.key_of(word) not in anew]
    return ["hydra.sweeper.resume=true", f"hydra.sweep.dir={quoted(path)}", *own, *before, *others]


def _typed(value: object) -> str:
    return (
        f"[{','.join(quoted(str(one)) for one in value)}]"
        if isinstance(value, tuple)
        else quoted(str(value))
        if (isinstance(value, str))
        else str(value)
    )


def _check_search(path: str) -> None:
    if not path:
        raise UserError("resume is empty: name the directory of a search, resume=DIR")
    if path.startswith("["):
        raise UserError(f"resume = {path}: one search goes on at a time, resume=DIR")
    if os.path.isfile(Path(path) / FILE) and os.path.isfile(Path(path) / SWEEP):
        return
    if os.path.isfile(Path(path) / SWEEP):
        raise UserError(f"resume = {path}: is a multirun; take it up again with ebm train -m resume={quote(path)}")
    if os.path.isfile(Path(path) / "config.yaml"):
        raise UserError(f"resume = {path}: is one run; go on with it by ebm train resume={quote(path)}")
    raise UserError(f"resume = {path}: no search is there ({instead(Path(path)) or f'it has no {FILE}'})")


def check_no_search(path: str) -> None:
    """Raise UserError for the directory of a search, where a multirun or a run was meant."""
    if os.path.isfile(Path(path) / FILE):
        raise UserError(f"resume = {path}: is a search; go on with it by ebm tune resume={quote(path)}")
