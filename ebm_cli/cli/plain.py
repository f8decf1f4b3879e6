"""Words and KEY=VALUE of commands that do not compose a configuration, so that they need not wait for Hydra."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebm_cli.errors import UserError, advice, nearest, of_file

_KEY = re.compile(r"[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Usage:
    """A command: what it is for, what its words are called, and its keys with a line on each."""

    command: str
    text: str
    words: str
    keys: Mapping[str, str]

    @property
    def help(self) -> str:
        """What `--help` prints."""
        wide = max(map(len, self.keys), default=0)
        lines = [f"  {key + '=...':{wide + 6}}{said}" for key, said in self.keys.items()]
        usage = f"usage: ebm {self.command} {self.words} [KEY=VALUE ...]"
        return "\n".join([f"ebm {self.command}: {self.text}", "", usage, "", *lines, ""])


@dataclass(frozen=True)
class Words:
    """A command line taken apart."""

    named: tuple[str, ...]
    values: Mapping[str, str]

    def listed(self, key: str) -> tuple[str, ...] | None:
        """`[a,b]`, or `a,b`; None where the key was not given. Raises UserError if it is empty."""
        if key not in self.values:
            return None
        inner = self.values[key].strip().removeprefix("[").removesuffix("]")
        found = tuple(word.strip() for word in inner.split(",") if word.strip())
        if not found:
            raise UserError(f"{key} is empty: name at least one, {key}=[NAME]")
        return found

    def one_of(self, key: str, choices: Sequence[str], usual: str) -> str:
        """One of a few. Raises UserError for any other."""
        found = self.values.get(key, usual)
        if found not in choices:
            raise UserError(f"{key} = {found}: must be {', '.join(choices[:-1])} or {choices[-1]}"
                            f"{nearest(found, list(choices))}")  # fmt: skip
        return found


def taken_apart(arguments: Sequence[str], usage: Usage) -> Words | None:
    """The words of a command line; None where it asks for help.

    A word with = is a key, unless a path of this name is there. Raises UserError for a key or flag that there is not.
    """
    if {"-h", "--help"} & set(arguments):
        return None
    named: list[str] = []
    values: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in usage.keys:
            values[key] = value
        elif equals and _KEY.fullmatch(key) and not _there(argument):
            raise UserError(f"{key}: is no key of ebm {usage.command}{nearest(key, list(usage.keys))} (it has "
                            f"{', '.join(usage.keys)})")  # fmt: skip
        elif argument.startswith("-") and not _there(argument):
            raise UserError(f"{argument}: ebm {usage.command} takes no flags but --help; give KEY=VALUE")
        else:
            named.append(argument)
    if not named:
        raise UserError(f"name at least one: ebm {usage.command} {usage.words}")
    return Words(tuple(named), values)


def check_free(out: str) -> None:
    """Raise UserError unless `out` names a file that is not there."""
    if not out:
        raise UserError("out is empty: name a file, out=FILE")
    if os.path.lexists(os.path.expanduser(out)):
        raise UserError(f"out = {out}: is there already, and is kept; name another file")


def write(out: str, text: str) -> None:
    """Write a new file. Raises UserError where that cannot be done."""
    path = Path(out).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"out = {out}: {of_file(error)}; {advice(error)}, or name another file") from error


def completions(words: Sequence[str], usage: Usage, choices: Mapping[str, Sequence[str]]) -> list[str]:
    """Words that could end a command line whose last one is begun: keys, or choices of one."""
    begun = words[-1]
    key, equals, _ = begun.partition("=")
    offered = [f"{key}={choice}" for choice in choices.get(key, ())] if equals else [f"{each}=" for each in usage.keys]
    return [word for word in offered if word.startswith(begun)]


def _there(word: str) -> bool:
    return os.path.lexists(os.path.expanduser(word))
