"""`ebm` and `python -m ebm_cli`. Nothing heavy is imported before the command is known."""

import os
import sys


def main() -> int:
    """Run the command line; leaves at once if a tracker still hangs, which would otherwise keep the process alive."""
    from ebm_cli.cli import dispatch

    code = dispatch(sys.argv[1:])
    guard = sys.modules.get("ebm_cli.tracker.guard")
    if guard is not None and guard.any_hung():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
