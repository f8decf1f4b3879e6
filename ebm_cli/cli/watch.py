"""`ebm watch`: runs while they train, in the terminal."""

import sys
from collections.abc import Sequence

from ebm_cli.cli.plain import Usage, Words, taken_apart
from ebm_cli.errors import UserError
from ebm_cli.signals import watching

USAGE = Usage(
    "watch",
    "live curves of a run, or the state of all runs of a multirun; ends when they do, or with Ctrl-C",
    "RUN|SWEEP|'PATTERN' ...",
    {
        "once": "true: show it once, as it is (usual where the output is no terminal)",
        "every": "SECONDS between looks (usual: 1)",
    },
)
CHOICES = {"once": ("true", "false")}


def main(arguments: Sequence[str]) -> int:
    """`ebm watch RUN|SWEEP|PATTERN ... [KEY=VALUE ...]`; the exit code, which is 0 after Ctrl-C too."""
    words = taken_apart(arguments, USAGE)
    if words is None:
        sys.stdout.write(USAGE.help)
        return 0
    from ebm_cli.terminal import output
    from ebm_cli.watching.show import Show

    usual = "false" if output.is_terminal else "true"
    once, every = words.one_of("once", CHOICES["once"], usual) == "true", _seconds(words)
    show = Show(words.named, output)
    if once:
        show.once()
        return 0
    with watching() as stop:
        try:
            show.until_all_end(every)
        except KeyboardInterrupt:
            if stop.exit_code not in (None, 130):
                raise
    return 0


def _seconds(words: Words) -> float:
    said = words.values.get("every", "1")
    try:
        found = float(said)
    except ValueError:
        found = 0.0
    if not 0.1 <= found <= 3600:
        raise UserError(f"every = {said}: must be a number of seconds from 0.1 to 3600")
    return found
