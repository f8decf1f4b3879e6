"""Words of a command line: a key and its value, as Hydra reads them, quotes included."""

import re


def taken(arguments: list[str], key: str) -> tuple[str | None, list[str]]:
    """The last value given to a key, and the arguments without it."""
    given = [argument for argument in arguments if argument.lstrip("+").startswith(f"{key}=")]
    value = given[-1].partition("=")[2] if given else None
    return value, [argument for argument in arguments if argument not in given]


def quoted(value: str) -> str:
    """The value in quotes, which Hydra takes away again."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def plain(value: str) -> str:
    """A path as `_quoted_path` or the user quoted it, without the quotes."""
    if value[:1] not in ("'", '"'):
        return value
    inner = value[1:-1]
    return re.sub(r"(\\*)('|$)", lambda found: found[1][: len(found[1]) // 2] + found[2], inner)
