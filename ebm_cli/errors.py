"""The two ways in which a command can fail that are not a bug in this package."""

import errno


class UserError(Exception):
    """Bad input, found before any work: one sentence with the key, the value and the way out. Exit code 2."""

    exit_code = 2


class RunError(Exception):
    """A run that cannot go on (non-finite gradient, full disk): what happened, where, what to try. Exit code 1."""

    exit_code = 1


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the operating system says when there is no room for a file."""


def nearest(word: str, choices: list[str]) -> str:
    """`"; did you mean a, b?"` with the choices spelled most like `word`, or nothing."""
    import difflib

    by_lower_case = {choice.lower(): choice for choice in choices}
    inner = [choice for choice in choices if "." in choice and choice.rpartition(".")[2] == word]
    close = difflib.get_close_matches(word.lower(), list(by_lower_case), 3, 0.6)
    near = list(dict.fromkeys([*inner, *(by_lower_case[name] for name in close)]))[:3]
    return f"; did you mean {' or '.join(near)}?" if near else ""
