"""Hydra's complaints in one sentence with the nearest names; `cli` alone imports Hydra, so errors come as text."""

import re

from ebm_cli.errors import nearest
from ebm_cli.listing import choices, keys_of

_UNKNOWN_KEY = re.compile(r"(?:Key '([^']+)' is not in struct|Key '([^']+)' not in '[^']*')")
_OVERRIDE_KEY = re.compile(r"Could not override '([^']+)'")
_UNKNOWN_CHOICE = re.compile(r"(?:Could not find|In '[^']*': Could not find) '([^']+)'")
_UNKNOWN_GROUP = re.compile(r"Could not override '([^']+)'\.\s*No match in the defaults list")
_APPEND_HINT = re.compile(r"To append to your (?:config|default list) use \S+")


def explain(error: Exception, command: str) -> str:
    """One sentence: what is unknown or wrong, and what was perhaps meant."""
    text = f"{error}\n{error.__cause__ or ''}"
    group = _UNKNOWN_GROUP.search(text)
    if group:
        name = group.group(1).split("@")[0]
        return f"unknown group or key {name}{nearest(name, choices_of_groups())} (see: ebm list)"
    choice = _UNKNOWN_CHOICE.search(text)
    if choice:
        return _choice(choice.group(1))
    key = _OVERRIDE_KEY.search(text) or _UNKNOWN_KEY.search(text)
    if key and _UNKNOWN_KEY.search(text):
        name = _full_key(text) or key.group(1)
        return f"unknown key {name}{nearest(name, keys_of(command))} (see: ebm {command} --help)"
    if "MissingMandatoryValue" in type(error).__name__ or "Missing mandatory value" in text:
        missing = re.search(r"(?:Missing mandatory value: |full_key: )(\S+)", text)
        name = missing.group(1) if missing else "a key"
        return f"{name} is missing: give it as {name}=VALUE"
    first = _APPEND_HINT.sub("", text).strip().splitlines()
    return " ".join(line.strip() for line in first if line.strip() and "full_key" not in line and "object_type" not in line)


def _full_key(text: str) -> str | None:
    found = re.search(r"full_key: (\S+)", text) or _OVERRIDE_KEY.search(text)
    return found.group(1) if found else None


def _choice(path: str) -> str:
    group, _, name = path.rpartition("/")
    if not group:
        return f"no configuration named {name}"
    known = choices(group)
    return f"no {group} named {name}{nearest(name, known)} ({group} is one of: {', '.join(known)})"


def choices_of_groups() -> list[str]:
    """Every group and every key of `ebm train`."""
    from ebm_cli.registry import GROUPS

    return [*GROUPS, "experiment", *keys_of("train")]
