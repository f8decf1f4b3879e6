"""A function called in forks of this process, which has imported what is slow to import already."""

import contextlib
import gc
import importlib
import os
import signal
import sys
import tempfile
import time
import traceback

for _package in (
    *("torch", "numpy", "sklearn.metrics", "sklearn.decomposition", "pydantic.dataclasses", "pydantic.type_adapter"),
    *("hydra.main", "omegaconf", "rich", "zuko", "platformdirs", "safetensors.torch", "safetensors.numpy"),
    *("PIL.Image", "PIL.JpegImagePlugin"),
    *("jinja2", "arviz_stats.base", "scipy.signal", "scipy.stats", "torch.fx.experimental.symbolic_shapes", "wandb"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg"),
    *("pytest", "_pytest.logging", "xdist.plugin", "xdist.looponfail", "pytest_timeout"),
):
    importlib.import_module(_package)
gc.freeze()  # forks would else look through all of that for garbage


def each(items, call, parallel, limit):
    """For each item, in their order: (item, exit status of call(item), what it printed, seconds).

    `parallel` of them run at once, each in a session of its own; after `limit` seconds its processes are killed, and
    the exit status is None.
    """
    waiting, running, done, shown = list(items), {}, {}, 0
    while shown < len(items):
        while waiting and len(running) < parallel:
            fork = Fork(call, waiting.pop(0))
            running[fork.item] = fork
        for item, fork in list(running.items()):
            if fork.ended(limit):
                done[item] = running.pop(item)
        while shown < len(items) and items[shown] in done:
            fork = done.pop(items[shown])
            yield fork.item, fork.status, fork.output(), fork.seconds
            shown += 1
        time.sleep(0.005)


class Fork:
    """One call under way."""

    def __init__(self, call, item):
        self.item, self.begin, self.seconds, self.status = item, time.monotonic(), 0.0, None
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as this
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _call(call, item, self.file)

    def ended(self, limit):
        """Whether it has; killed if it is over the limit."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        self.seconds = time.monotonic() - self.begin
        if pid:
            self.status = os.waitstatus_to_exitcode(status)
        elif self.seconds < limit:
            return False
        with contextlib.suppress(ProcessLookupError):  # what it started and left behind
            os.killpg(self.pid, signal.SIGKILL)
        if not pid:
            os.waitpid(self.pid, 0)
        return True

    def output(self):
        """What it wrote to either stream."""
        self.file.seek(0)
        return self.file.read().decode(errors="replace")


def _call(call, item, file):
    """In the fork: never returns."""
    status = 70
    try:
        os.setsid()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        status = int(call(item))
    except BaseException:  # noqa: BLE001  whatever it is must be told, and must not run on in the fork
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # whatever a test has done to them
            os._exit(status)
