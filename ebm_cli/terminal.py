"""What a person sees: log lines, a progress bar on a terminal and plain lines elsewhere, and the last table."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from typing_extensions import override

from ebm_cli.record import files

log = logging.getLogger("ebm")
_SILENCE = 2.0  # seconds after which a line says how far it is
_PLAIN_WIDTH = 160  # of what goes to a file or a pipe, where no window sets it


class Lasting:
    """Standard output or error, whichever is in place when it is asked, until nobody reads it any more.

    A closed terminal or pipe must not end the work: what cannot be shown is dropped, and `gone` says so.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.gone: str | None = None
        self.before = ""  # each line, where others speak too

    def write(self, text: str) -> int:
        """Show the text, if that can be done."""
        if self.before:
            text = "".join(f"{self.before}{line}" for line in text.splitlines(keepends=True))
        return self._try("write", text) or len(text)

    def flush(self) -> None:
        """Show what waits."""
        self._try("flush")

    def isatty(self) -> bool:
        """Whether a person looks at it, and no other process draws there."""
        return not self.before and bool(self._try("isatty"))

    def fileno(self) -> int:
        """That of the stream."""
        return int(self._try("fileno"))

    @property
    def encoding(self) -> str:
        """That of the stream."""
        return getattr(getattr(sys, self._name), "encoding", None) or "utf-8"

    def _try(self, method: str, *arguments: str) -> Any:
        stream = getattr(sys, self._name)
        stream = getattr(stream, "rich_proxied_file", stream)  # which a progress bar puts in its place
        if stream is None:  # closed before the program started
            return None
        try:
            return getattr(stream, method)(*arguments)
        except UnicodeEncodeError:
            return stream.write(arguments[0].encode("ascii", "backslashreplace").decode())
        except OSError as error:
            self.gone = error.strerror
            return None


_streams = {name: Lasting(name) for name in ("stderr", "stdout")}


def short(metric: str) -> str:
    """`ais/valid/log_likelihood` as `valid log_likelihood`; `gap/valid/mean`, of a gap, as `valid gap mean`."""
    evaluation, split, name = [*metric.split("/", 2), "", ""][:3]
    if split not in ("train", "valid", "test") or not name:
        return metric
    return f"{split} {evaluation} {name}" if name.partition("/")[0] in _STATISTICS else f"{split} {name}"


def plain_console(**options: Any) -> Console:
    """One that shows words as they are: brackets in them are no markup, and what stands between colons is no emoji."""
    return Console(markup=False, emoji=False, **options)


class Board:
    """How far pieces of work are that go on side by side, in one line for all of them now and then."""

    def __init__(self) -> None:
        self.printed = self.began = time.perf_counter()
        self.first: dict[str, int] = {}
        self.steps: dict[str, tuple[int, int]] = {}

    def show(self, name: str, step: int, total: int) -> None:
        """One of them has come so far. What it says first is not shown: others have perhaps begun with it."""
        now, new = time.perf_counter(), name not in self.steps
        if not self.steps:  # what the first steps waited for, such as compiling, is no pace
            self.began = now
        self.first.setdefault(name, step)
        self.steps[name] = step, total
        if not new and now - self.printed > _PLAIN_LINE_SECONDS and self.going() and not self.behind(step):
            self.printed = now
            console.print(self.line(now - self.began), soft_wrap=True, highlight=False)

    def ended(self, name: str) -> None:
        """One of them comes no farther."""
        if name in self.steps:
            step, _ = self.steps[name]
            self.steps[name] = step, step

    def behind(self, step: int) -> bool:
        """Whether others have still to come so far."""
        return any(other < step for other, total in self.steps.values() if other < total)

    def going(self) -> list[tuple[int, int]]:
        """Steps done and in all of those that have begun and not ended."""
        return [(step, total) for step, total in self.steps.values() if step < total]

    def line(self, seconds: float) -> str:
        """How far those are that have begun, how fast, and how long the last of them will take."""
        rate = sum(step - self.first[name] for name, (step, _) in self.steps.items()) / max(1e-9, seconds)
        going = self.going()
        left = sum(total - step for step, total in going)
        step, total = min(going)
        jobs = "1 job" if len(going) == 1 else f"{len(going)} jobs in step"
        words = jobs, f"step {step}/{total}", pace(rate), time_left(left, rate)
        return "  ".join(filter(None, words))


class _Beside(NamedTuple):
    """A piece of work among others in this process."""

    name: str
    board: Board


_beside: ContextVar[_Beside | None] = ContextVar("beside", default=None)


@contextmanager
def beside_others(name: str, board: Board) -> Iterator[None]:
    """Within, only warnings are shown, with the name, and how far it is on the board; its log file has all."""
    before = _beside.set(_Beside(name, board))
    try:
        yield
    finally:
        _beside.reset(before)


Steps = Callable[[int, int, str], None]
_steps: ContextVar[Steps | None] = ContextVar("steps", default=None)


@contextmanager
def steps_shown_by(show: Steps) -> Iterator[None]:
    """Within, how far a loop over steps is goes there, as the step, the last one and the newest numbers."""
    before = _steps.set(show)
    try:
        yield
    finally:
        _steps.reset(before)


def alone() -> bool:
    """Whether this work has the terminal for itself."""
    return _beside.get() is None


def _console(name: str) -> Console:
    options: dict[str, Any] = {"file": cast("IO[str]", _streams[name]), "stderr": name == "stderr"}
    console = plain_console(**options)
    return console if console.is_terminal else plain_console(width=_PLAIN_WIDTH, **options)


console, output = _console("stderr"), _console("stdout")

_STATISTICS = (
    "mean",
    "median",
    "minimum",
    "maximum",
    "std",
    "error",
    "standard_error",
)  # names that do not say of what
_PLAIN_LINE_SECONDS = 5.0
_SILENT_SECONDS = 10.0  # between two lines of a loop whose steps are slow
_FOLLOWED_SECONDS = 10.0

T = TypeVar("T")


def silence() -> None:
    """Say nothing more: another process speaks for this one."""
    console.quiet = output.quiet = True


def among_others(name: str) -> None:
    """Several processes share the terminal: each line says of whom it is, and nothing is drawn over."""
    for stream in _streams.values():
        stream.before = f"{name} | "


class _ConsoleHandler(logging.Handler):
    """Log records as lines above the progress bar."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        style, beside = "yellow" if record.levelno >= logging.WARNING else None, _beside.get()
        if beside is not None and style is None:
            return
        name = f"job {beside.name} | " if beside else ""
        console.print(f"{name}{record.getMessage()}", style=style, soft_wrap=True, highlight=False)


class _FileHandler(logging.FileHandler):
    _told = False

    @override
    def _open(self) -> TextIOWrapper:
        path = Path(self.baseFilename)
        return files.append_text(path.parent, path.name)

    @override
    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        gone = _streams["stderr"].gone
        if gone and not self._told:
            self._told = True
            text = f"nobody reads standard error any more ({gone}); what would be shown stands here alone"
            super().emit(logging.LogRecord(log.name, logging.WARNING, __file__, 0, text, None, None))

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        """A line that cannot be written (full disk) is lost; the run says on its own what is wrong."""


@contextmanager
def logging_to(file: Path | None, level: int = logging.INFO) -> Iterator[None]:
    """Log lines from this level on to the terminal, and with the time and those on faults of the program to a file."""
    handlers: list[logging.Handler] = [_ConsoleHandler(level)]
    if file is not None:
        handlers.append(_FileHandler(file))
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.setLevel(logging.DEBUG)
    log.propagate = False
    own = _beside.get()
    for handler in handlers:
        handler.addFilter(lambda _: _beside.get() is own)
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


class StepDisplay:
    """The live numbers of a loop over steps."""

    def __init__(self, total: int, first: int) -> None:
        self.total, self.first = total, first
        self.started = self.printed = self.shown = time.perf_counter()
        self.metrics: Mapping[str, float | str] = {}
        self.reported = False
        self.task: TaskID | None = None
        self.bar = Progress(
            TextColumn("step", markup=False),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=console,
            transient=True,
            disable=_steps.get() is not None or not (console.is_terminal and alone()),
        )

    def __enter__(self) -> "StepDisplay":
        self.bar.start()
        self.task = self.bar.add_task("", total=self.total, completed=self.first, rate="", left="", numbers="")
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def ends_at(self, total: int) -> None:
        """The loop has another number of steps from here on."""
        self.total = total
        if self.task is not None:
            self.bar.update(self.task, total=total)

    def rate(self, step: int) -> float:
        """Steps per second since the first report, before it since the loop began."""
        return (step - self.first) / max(1e-9, time.perf_counter() - self.started)

    def show(self, step: int, metrics: Mapping[str, float | str]) -> None:
        """The newest numbers, how fast the loop is and how long it will take."""
        self.metrics = metrics
        self._show(step, self.rate(step))

    def goes_on(self, step: int) -> None:
        """After a step without new numbers: where steps are slow, how far the loop is, beside the numbers of before."""
        if time.perf_counter() - self.shown > _SILENT_SECONDS:
            self._show(step, self.rate(step) if self.reported else 0.0)

    def _show(self, step: int, rate: float) -> None:
        self._print(step, rate)
        self.shown = time.perf_counter()
        if not self.reported:  # what the first steps waited for, such as compiling, is no pace
            self.first, self.started, self.reported = step, self.shown, True

    def _print(self, step: int, rate: float) -> None:
        beside = _beside.get()
        if beside is not None:
            beside.board.show(beside.name, step, self.total)
            return
        now = time.perf_counter()
        numbers = "  ".join(f"{name} {_figure(value)}" for name, value in self.metrics.items())
        words: dict[str, Any] = {"rate": pace(rate), "left": time_left(self.total - step, rate), "numbers": numbers}
        if console.is_terminal:
            assert self.task is not None
            self.bar.update(self.task, completed=step, **words)
        shown_by = _steps.get()
        if shown_by is not None:
            shown_by(step, self.total, "  ".join(filter(None, words.values())))
        elif step == self.total or (not console.is_terminal and now - self.printed > _PLAIN_LINE_SECONDS):
            self.printed = now
            log.info("%s", "  ".join(filter(None, (f"step {step}/{self.total}", *words.values()))))


def _figure(value: float | str) -> str:
    """A number with four digits; a word as it is."""
    return value if isinstance(value, str) else f"{value:.4g}"


class Pulse:
    """When a long piece of work says a line: not sooner than ten seconds after it began, or after the last one."""

    def __init__(self, began: float) -> None:
        self.said = began

    def due(self, now: float) -> bool:
        """Whether one is due, which is then the last one."""
        due = now - self.said > _FOLLOWED_SECONDS
        self.said = now if due else self.said
        return due


def followed(items: Sequence[T], what: str) -> Iterator[T]:
    """The same items; where they take long, a line now and then says how many are done and how long the others take."""
    began = time.perf_counter()
    pulse = Pulse(began)
    for done, item in enumerate(items):
        now = time.perf_counter()
        began = now if done == 1 else began  # the first waits for what is compiled
        if pulse.due(now):
            left = time_left(len(items) - done, (done - 1) / max(1e-9, now - began))
            log.info("%s", "  ".join(filter(None, (f"{what} {done}/{len(items)}", left))))
        yield item


def pace(rate: float) -> str:
    """So many steps per second, or seconds per step where one takes longer than a second; nothing before the first."""
    if rate <= 0:
        return ""
    if rate < 1:
        return f"{1 / rate:.3g} s/step"
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


@contextmanager
def beginning() -> Iterator[None]:
    """Who stops a command within is told that nothing was begun, so that there is nothing to take up."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("no job was begun: the same command does it all", soft_wrap=True)
        raise


def told(work: Sequence[T], what: str) -> Iterator[T]:
    """Each in turn; where that takes long, a line every two seconds says how far it is."""
    last = time.monotonic()
    for done, one in enumerate(work):
        if time.monotonic() - last > _SILENCE:
            last = time.monotonic()
            console.print(f"{done} of {len(work)} {what}", soft_wrap=True)
        yield one


def time_left(steps: int, rate: float) -> str:
    """Hours, minutes and seconds that so many steps take; nothing where none are left or none was taken."""
    return f"{timedelta(seconds=round(steps / rate))} left" if steps > 0 and rate > 0 else ""


def table(title: str, rows: Mapping[str, str]) -> Table:
    """Two columns, what and how much."""
    made = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows.items():
        made.add_row(name, value)
    return made


def columns(title: str, heads: Sequence[str], rows: Mapping[str, Sequence[str]], caption: str) -> Table:
    """A named column for each of several things that are compared, what is compared in the first."""
    made = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=None)
    made.add_column(overflow="fold")
    for head in heads:
        made.add_column(head, justify="right", overflow="fold")
    for name, values in rows.items():
        made.add_row(name, *values)
    return made
