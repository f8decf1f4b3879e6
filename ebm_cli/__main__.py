"""`ebm` and `python -m ebm_cli`. Nothing heavy is imported before the command is known."""

import gc
import os
import signal
import sys
from typing import Any

from ebm_cli.signals import StopRequest, watching

_OBJECTS = 50_000
"""New ones before garbage is searched for: with Python's 700 a tenth of a start goes into searching libraries."""


def main() -> int:
    """Run the command line; leaves at once if a tracker still hangs, which would otherwise keep the process alive.

    After a KeyboardInterrupt too: if that came within the `exec` of a string, by which dataclasses are made,
    CPython 3.11 ends the process by SIGINT at its end, whatever the exit code.
    """
    sys.unraisablehook = _unraisable
    gc.set_threshold(_OBJECTS)
    with watching(afterwards=signal.SIG_IGN) as stop:  # what was done is done, also while the interpreter ends
        code = _dispatched(stop)
    guard = sys.modules.get("ebm_cli.tracker.guard")
    if not _flushed() or stop.raised or (guard is not None and guard.any_hung()):
        os._exit(code)
    gc.freeze()  # no search for garbage as the interpreter ends, which with torch takes a second
    return code


def _dispatched(stop: StopRequest) -> int:
    try:
        stop.at_once()
        from ebm_cli.cli.main import dispatch

        code = dispatch(sys.argv[1:])
        stop.noted()
    except KeyboardInterrupt:  # before the command is known
        stop.noted()
        if sys.stderr is not None:
            sys.stderr.write(f"ebm: {stop.said}\n")
        code = stop.exit_code or 130
    return code


def _unraisable(trouble: Any) -> None:
    """A stop request that arrives in a destructor is noted all the same; a traceback would say nothing more."""
    if trouble.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(trouble)


def _flushed() -> bool:
    """Whether all that was said is out; if not its reader is gone, of which Python would complain once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
