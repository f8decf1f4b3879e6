"""The command that a run was made by, and what it becomes by an advice."""

import re
from collections.abc import Sequence
from shlex import quote

from ebm_cli.comparison.facts import Facts
from ebm_cli.record.run import Run, is_secret

PRIVATE, HIDDEN = "notify", "REDACTED"
_SETS = re.compile(r"\b([\w.]+)=(\d+(?:\.\d+)?(?:e-?\d+)?)(?=[\s`])")
_LESS = ("optimizer.lr",)
_MORE = (
    "steps", "chains.steps", "sampler.temperatures", "evaluation.ais.temperatures", "evaluation.ais.chains",
    "evaluation.chains.steps", "evaluation.bridge.rungs", "evaluation.bridge.steps",
    "evaluation.perplexity.temperatures",
)  # fmt: skip
_FACTOR = 4
_FOLDERS = re.compile(r"""(?<=['"])[~/][^'"]*/|(?<=[=,\[])[~/][^\s,\[\]'"]*/""")
_TRAIN = re.compile(r"`ebm train (?!resume=)([^`]*)`")


def of_run(facts: Facts, *, folders: bool = True) -> str:
    """What makes it anew, as far as its files tell; without `folders` absolute paths are the names of files alone."""
    words = [_shown(word) for word in _words(facts)]
    return " ".join(["ebm train", *(quote(word if folders else _FOLDERS.sub("", word)) for word in words)])


def advised(facts: Facts, advice: str) -> str:
    """The same advice with every `ebm train KEY=VALUE` as the command of this run with these words replaced."""
    beyond = _SETS.sub(lambda match: _beyond(facts, match[1], match[2]), advice)
    return _TRAIN.sub(lambda match: f"`{_replaced(facts, match[1].split())}`", beyond)


def _beyond(facts: Facts, key: str, value: str) -> str:
    """The word as advised or, where the run had as little or as much of it already, four times beyond that."""
    own, wanted = facts.settings.get(key), float(value)
    if isinstance(own, int | float) and key in _LESS and own <= wanted:
        return f"{key}={own / _FACTOR:g}"
    if isinstance(own, int | float) and key in _MORE and own >= wanted:
        return f"{key}={own * _FACTOR}"
    return f"{key}={value}"


def _replaced(facts: Facts, new: Sequence[str]) -> str:
    """Without what belongs to a part that is replaced by another, and in a directory of its own."""
    gone = {*map(_key, new), "hydra", "resume"}
    old = [word for word in _words(facts) if not {_key(word), _key(word).partition(".")[0]} & gone]
    return " ".join(["ebm train", *(quote(_shown(word)) for word in old), *new])


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def _words(facts: Facts) -> list[str]:
    words = Run(facts.path).read_json("metadata.json").get("overrides")
    return [str(word) for word in words] if isinstance(words, list) else []


def _shown(word: str) -> str:
    key, equals, _ = word.partition("=")
    private = is_secret(key) or key.lstrip("+").partition(".")[0] == PRIVATE
    return f"{key}={HIDDEN}" if equals and private else word
