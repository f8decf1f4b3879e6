"""Looking at runs again and again until all have ended."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live

from ebm_cli.errors import UserError
from ebm_cli.record import lease, runs
from ebm_cli.watching import frame
from ebm_cli.watching.look import Look, Watched, plain

_OF_MANY = 1 << 14  # bytes of the metrics of each of many runs


class Show:
    """The runs that words name: also those jobs of a multirun that begin meanwhile."""

    def __init__(self, words: Sequence[str], console: Console) -> None:
        """Raises UserError for a word that names no run."""
        self._words, self._console = words, console
        self._known: dict[Path, Watched] = {}
        self._looks = self._look()

    def once(self) -> None:
        """Print what there is."""
        self._console.print(self._frame(whole=True))

    def until_all_end(self, seconds: float) -> None:
        """Show it live, with so many seconds between looks; what was shown last stays."""
        with Live(self._frame(), console=self._console, auto_refresh=False, vertical_overflow="crop") as live:
            while not self._ended():
                time.sleep(seconds)
                self._looks = self._look()
                live.update(self._frame(), refresh=True)

    def _look(self) -> list[Look]:
        paths = self._paths()
        several = len(paths) > 1
        for path in paths:
            self._known.setdefault(path, Watched(path, self._name(path), **({"last": _OF_MANY} if several else {})))
        return [self._known[path].look() for path in paths]

    def _paths(self) -> list[Path]:
        """Runs, and in a multirun jobs that have not begun too."""
        waiting = [place / name for place in self._places() for name in runs.not_begun(place)]
        try:
            found = runs.named(self._words)
        except UserError:
            if not waiting:
                raise
            found = []
        return sorted({*found, *waiting}, key=lambda path: runs.natural(str(path))) if waiting else found

    def _places(self) -> list[Path]:
        return [Path(word).expanduser() for word in self._words]

    def _name(self, path: Path) -> str:
        """As its path is from the one directory that was named."""
        place = self._places()[0]
        inside = len(self._words) == 1 and path != place and path.is_relative_to(place)
        return plain(str(path.relative_to(place) if inside else path))

    def _ended(self) -> bool:
        """Whether no run is at work and none is to come from a multirun that is."""
        at_work = any(lease.status(place, "running") == "running" for place in self._places())
        return not at_work and all(look.state != "running" for look in self._looks)

    def _frame(self, *, whole: bool = False) -> RenderableType:
        width, height = self._console.width, self._console.height
        dots = self._console.encoding.lower().startswith("utf")
        if len(self._looks) == 1:
            return frame.of_run(self._looks[0], width, 40 if whole else height, dots=dots)
        return frame.of_many(self._looks, width, rows=None if whole else max(1, height - 4), dots=dots)
