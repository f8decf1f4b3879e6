"""Hydra's complaints in one sentence with the nearest names; `cli` alone imports Hydra, so errors come as text."""

import re
from shlex import quote

from ebm_cli.cli.listing import GROUPS, Choice, choices_of, keys_of, no_choice, packaged
from ebm_cli.cli.meant import beside, key_meant, not_installed, word_meant
from ebm_cli.cli.spaces import of_a_search, sentence
from ebm_cli.errors import nearest

_UNKNOWN_KEY = re.compile(r"(?:Key '([^']+)' is not in struct|Key '([^']+)' not in '[^']*')")
_OVERRIDE_KEY = re.compile(r"Could not override '([^']+)'")
_UNKNOWN_CHOICE = re.compile(r"Could not (?:find|load) '([^']+)'")
_UNKNOWN_GROUP = re.compile(r"Could not override '([^']+)'\.\s*No match in the defaults list")
_UNKNOWN_PLACE = re.compile(r"Could not override '(\w+)@([\w.]+)'\.\s*Did you mean")
_APPEND_HINT = re.compile(r"To append to your (?:config|default list) use \S+")
_NOISE = re.compile(r"(Config search path:|See https://|full_key:|object_type=|reference_type=).*", re.DOTALL)
_ELSEWHERE = "which is not chosen here"
_SPACE = re.compile(r"Sweep parameters '([^']*)' requires --multirun")
_OF_HYDRA = re.compile(r"Sweeping over Hydra's configuration is not supported : '([^'=]*)=([^']*)'")
_SWEPT = re.compile(r"Ambiguous value for argument '([^']*)'")


def explain(error: Exception, command: str, *, resumes: bool = False, place: str = "hydra.run.dir") -> str:
    """One sentence: what is unknown or wrong, and what was perhaps meant; a run that is resumed has its own parts.

    `place` is the key of the directory that Hydra makes.
    """
    text = f"{error}\n{error.__cause__ or ''}"
    if isinstance(error, OSError) and error.filename:  # before any job started, it makes nothing else
        return f"{place}: cannot make the directory {error.filename} ({error.strerror}); name another one"
    for look in (_swept, _unparsed, _not_a_name, _group, _place, _choice, _key):
        found = look(error, text, command)
        if found and resumes and _ELSEWHERE in found:
            return f"{found.split()[0]}: a resumed run keeps its own; leave it out, or start a new run"
        if found:
            return found
    return " ".join(_NOISE.sub("", _APPEND_HINT.sub("", text)).split())


def _swept(error: Exception, text: str, command: str) -> str | None:
    space = _SPACE.search(text)
    if space:
        word = space.group(1)
        way = f"several values need -m (ebm {command} -m {quote(word)})"
        return of_a_search(word) or f"{word.replace('=', ' = ', 1)}: {way}"
    of_hydra = _OF_HYDRA.search(text)
    if of_hydra:
        key, values = of_hydra.groups()
        return f"{key} = {values}: is one for all jobs of a multirun; give it one value"
    found = _SWEPT.search(text)
    if not found:
        return None
    key, _, values = found.group(1).partition("=")
    return f"{key} = {values}: several values need -m (ebm {command} -m {key}={values}), a list needs brackets"


def _unparsed(error: Exception, text: str, command: str) -> str | None:
    override = getattr(error, "override", None)
    if override is None:
        return None
    if "=" not in override:
        words = _words(command)
        meant = word_meant(override, command)
        near = f"; did you mean {meant}?" if meant else "" if override in words else nearest(override, words)
        return f"{override}: not of the form KEY=VALUE{near} (see: ebm {command} --help)"
    space = sentence(override) if command == "tune" else of_a_search(override)
    return space or f"{override}: not understood; put quotes around a value with special characters: KEY='\"VALUE\"'"


def _not_a_name(error: Exception, text: str, command: str) -> str | None:
    found = "Config group override must be a string or a list" in text
    return "a part is chosen by its name, GROUP=NAME, e.g. model=rbm (see: ebm list)" if found else None


def _group(error: Exception, text: str, command: str) -> str | None:
    found = _UNKNOWN_GROUP.search(text)
    if not found:
        return None
    name = found.group(1).split("@")[0]
    return f"unknown group or key {name}{nearest(name, _words(command))} (see: ebm {command} --help)"


def _place(error: Exception, text: str, command: str) -> str | None:
    found = _UNKNOWN_PLACE.search(text)
    if not found or found.group(1) not in GROUPS:
        return None
    group, at = found.groups()
    return (
        f"{group}@{at}: no {group} is chosen at {at}, where it has keys it is these that are set, {at}.name=NAME and "
        f"its others (see: ebm list {group})"
    )


def _choice(error: Exception, text: str, command: str) -> str | None:
    found = _UNKNOWN_CHOICE.search(text)
    if not found:
        return None
    group, _, name = found.group(1).rpartition("/")
    if not group:
        return f"no configuration named {name}"
    return not_installed(group, name) or no_choice(group, name)


def _key(error: Exception, text: str, command: str) -> str | None:
    if not _UNKNOWN_KEY.search(text):
        return None
    found = re.search(r"full_key: (\S+)", text) or _OVERRIDE_KEY.search(text) or _UNKNOWN_KEY.search(text)
    assert found is not None
    name = (_OVERRIDE_KEY.search(text) or found).group(1)
    group = name.split(".")[0]
    owners = [part.choice for part in choices_of(group) if _owns(part, name)] if group in GROUPS else []
    if owners:
        return f"{name} is a key of {group}={' or '.join(owners)}, {_ELSEWHERE} (see: ebm list {group})"
    meant = key_meant(name, command) or beside(name, _words(command))
    near = f"; {meant}" if meant else nearest(name, _words(command))
    return f"unknown key {name}{near} (see: ebm {command} --help)"


def _owns(part: Choice, name: str) -> bool:
    prefix = f"evaluation.{part.component}" if part.group == "evaluation" else part.group
    return name in (prefix, *(f"{prefix}.{key.name}" for key in part.keys))


def _words(command: str) -> list[str]:
    """Every group and every key of a command."""
    groups = {name for entry in packaged(command)["defaults"] if isinstance(entry, dict) for name in entry}
    return [*sorted(groups & set(GROUPS)), *keys_of(command)]
