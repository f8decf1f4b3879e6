"""The two ways in which a command can fail that are not a bug in this package."""


class UserError(Exception):
    """Bad input, found before any work: one sentence with the key, the value and the way out. Exit code 2."""

    exit_code = 2


class RunError(Exception):
    """A run that cannot go on (non-finite gradient, full disk): what happened, where, what to try. Exit code 1."""

    exit_code = 1


def nearest(word: str, choices: list[str]) -> str:
    """`"; did you mean a, b?"` with the choices spelled most like `word`, or nothing."""
    import difflib

    near = difflib.get_close_matches(word, choices, 3, 0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
