"""A tracker that cannot stop, slow down or end the run, whatever it does."""

import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from ebm_cli.tracker.base import End, RunInfo, Tracker, TrackerSpec, described

_COMPLETE = "metrics.jsonl is complete"
T = TypeVar("T")


def guarded(spec: TrackerSpec, run: RunInfo) -> Tracker:
    """An open tracker that is no danger to the run: guarded, unless it shows nothing, so that nothing waits for it."""
    return Guarded(spec, run) if spec.shows else spec.open(run)


_opened: weakref.WeakSet["Guarded"] = weakref.WeakSet()


def any_hung() -> bool:
    """Whether some tracker of this process is stuck for good, so that a normal exit could hang as well."""
    return any(guarded.hung for guarded in _opened)


class _Call(NamedTuple):
    """Work for the worker: what to do with the tracker, and how many bytes wait with it."""

    act: Callable[[Tracker], str | None]
    size: int = 0
    last: bool = False


class Guarded(Tracker):
    """Opens the tracker and calls it in one daemon thread; the run only puts its calls into a queue.

    The first exception ends the tracker, not the run. A tracker slower than the run loses records (counted) once
    `capacity` calls or `budget` bytes of arrays wait, so that a stuck one cannot fill the memory.
    """

    def __init__(
        self, spec: TrackerSpec, run: RunInfo, *, timeout: float = 30.0, capacity: int = 20_000, budget: int = 1 << 28
    ) -> None:
        self._timeout = timeout
        self._bins = spec.shows_histograms
        self._budget = budget
        self._queue: queue.Queue[_Call] = queue.Queue(capacity)
        self._lock = threading.Lock()  # of _held, which both threads change
        self._held = 0
        self._dropped = 0
        self._failure: str | None = None
        self._told: End | None = None
        self._late = False
        self._done = threading.Event()
        self._end: str | None = f"tracker stopped: its thread ended; {_COMPLETE}"
        _opened.add(self)
        threading.Thread(target=self._work, args=(spec, run), name="tracker", daemon=True).start()

    @property
    def hung(self) -> bool:
        """Whether `close` has given up on a worker that is stuck still; a normal exit could then hang as well."""
        return self._late and not self._done.is_set()

    @override
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        copied = dict(metrics)
        self._put(_Call(lambda tracker: tracker.log(step, copied)))

    @override
    def images(self, step: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        if self._accepts(size := _bytes(images)):
            copied = {key: pixels.copy() for key, pixels in images.items()}
            self._put(_Call(lambda tracker: tracker.images(step, copied), size))

    @override
    def histograms(self, step: int, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Queue copies of values, for a tracker that shows them."""
        if self._bins and self._accepts(size := _bytes(values)):
            copied = {key: array.copy() for key, array in values.items()}
            self._put(_Call(lambda tracker: tracker.histograms(step, copied), size))

    @override
    def ended(self, end: End) -> None:
        """Passed on with the last call, for which there is always room."""
        self._told = end

    @override
    def close(self, summary: Mapping[str, float]) -> str | None:
        """Wait for the queue to drain, at most `timeout` seconds, and return the one line for the user."""
        deadline = time.monotonic() + self._timeout
        last = partial(_closed, end=self._told, summary=dict(summary))
        if not self._done.is_set():
            with contextlib.suppress(queue.Full):  # full for that long is stuck: the wait below says so
                self._queue.put(_Call(last, last=True), timeout=self._timeout)
        if not self._done.wait(max(0.0, deadline - time.monotonic())):
            self._late = True
            return self._failure or f"tracker did not answer within {self._timeout:g} s; {_COMPLETE}"
        return self._with_losses(self._end)

    def _accepts(self, size: int) -> bool:
        """Whether arrays of this size may wait; asked before they are copied."""
        with self._lock:
            fits = self._held + size <= self._budget
        self._dropped += not fits and self._failure is None
        return fits and self._failure is None

    def _put(self, call: _Call) -> None:
        if self._failure is not None:
            return
        with self._lock:
            self._held += call.size
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            self._dropped += 1
            self._release(call.size)

    def _release(self, size: int) -> None:
        with self._lock:
            self._held -= size

    def _with_losses(self, line: str | None) -> str | None:
        if not self._dropped or self._failure is not None:
            return line
        return f"{line or 'tracker'} ({self._dropped} records were dropped: it was slower than the run; {_COMPLETE})"

    def _work(self, spec: TrackerSpec, run: RunInfo) -> None:
        """The thread: open, then call after call; after a failure, close, so that no helper process is left."""
        try:
            tracker = self._attempt(partial(spec.open, run))
            line = self._serve(tracker) if tracker is not None else None
            self._end = self._failure or line
        finally:
            self._done.set()

    def _serve(self, tracker: Tracker) -> str | None:
        while self._failure is None:
            call = self._queue.get()
            line = self._attempt(partial(call.act, tracker))
            self._release(call.size)
            if call.last:
                return line
        with self._queue.mutex:
            self._queue.queue.clear()  # up to `budget` bytes that nobody will show
            self._queue.not_full.notify_all()
        self._attempt(partial(tracker.close, {}))
        return None

    def _attempt(self, act: Callable[[], T]) -> T | None:
        try:
            return act()
        except Exception as error:  # noqa: BLE001 - a tracker's trouble of any kind must not reach the run
            if self._failure is None:
                self._failure = f"tracker stopped: {described(error)}; {_COMPLETE}"
            return None


def _closed(tracker: Tracker, *, end: End | None, summary: Mapping[str, float]) -> str | None:
    if end is not None:
        tracker.ended(end)
    return tracker.close(summary)


def _bytes(arrays: Mapping[str, NDArray[Any]]) -> int:
    return sum(array.nbytes for array in arrays.values())
