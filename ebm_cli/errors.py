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

    near = difflib.get_close_matches(word, choices, 3, 0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
