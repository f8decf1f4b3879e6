"""The two ways in which a command can fail that are not a bug in this package, and what errors advise."""

import errno


class UserError(Exception):
    """Bad input, found before any work: one sentence with the key, the value and the way out. Exit code 2."""

    exit_code = 2


class RunError(Exception):
    """A run that cannot go on (non-finite gradient, full disk): what happened, where, what to try. Exit code 1."""

    exit_code = 1


_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "get the right to write there"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ESTALE), "put back what was moved or deleted"),
    errno.EROFS: "make the file system writable",
    errno.EIO: "see what is wrong with the disk",
    errno.ENAMETOOLONG: "take shorter names",
}


def advice(error: OSError) -> str:
    """What to do about a file that the operating system refuses, as an order."""
    return _ADVICE.get(error.errno or 0, "mend that")


def of_file(error: OSError) -> str:
    """What the operating system says, and of which file if it tells."""
    return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)


_UNPINNED = ("trackio",)  # which takes no pillow as new as that of constraints.txt


def install(extra: str) -> str:
    """The command that installs what an optional part needs. It works in a clone alone: no index has this package."""
    pins = "" if extra in _UNPINNED else "-c constraints.txt "
    return f"in the folder of the clone: .venv/bin/pip install {pins}-e '.[{extra}]'"


def nearest(word: str, choices: list[str]) -> str:
    """`"; did you mean a, b?"` with the choices spelled most like `word`, or nothing."""
    import difflib

    by_lower_case = {choice.lower(): choice for choice in choices}
    inner = [choice for choice in choices if "." in choice and choice.rpartition(".")[2] == word]
    close = difflib.get_close_matches(word.lower(), list(by_lower_case), 3, 0.6)
    near = list(dict.fromkeys([*inner, *(by_lower_case[name] for name in close)]))[:3]
    return f"; did you mean {' or '.join(near)}?" if near else ""
