"""One process trains a run at a time: `lease.json` in the run directory says which, and lies there while it does.

A process that died gives way to the next. On the same machine that is known at once, by its process id and start time
or, from another container, by the lock that it kept on the file; from elsewhere by its heartbeat, the time of the last
change of the file. To replace or remove a lease, a process first claims just that one by creating a file named after
its contents, which of any number of processes one can: so no lock and no hard link is needed of the file system.
"""

import fcntl
import hashlib
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ebm_cli.errors import RunError, UserError

NAME = "lease.json"
BEAT = 5.0
"""Seconds between heartbeats."""
PATIENCE = 60.0
"""Seconds without a heartbeat after which a process on another machine is taken to be dead."""

RUN = "trains this run"

_CLAIMING = 10.0  # seconds that the few file operations of a claim can take; later, its maker has died
_PAUSE, _ATTEMPTS = 0.02, 1000  # while another process is at it: in all longer than _CLAIMING
_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
_EMPTY = "new"


class LeaseLost(RunError):
    """Another process may be writing in the run directory: this one must not."""


def about() -> dict[str, Any]:
    """Who this process is, as its lease and the run's metadata have it."""
    job = next((os.environ[name] for name in _JOBS if os.environ.get(name)), None)
    return {"host": platform.node(), "pid": os.getpid(), "job": job}


@contextmanager
def claimed(directory: Path, said: str, what: str = RUN) -> Iterator["Lease"]:
    """Hold the lease of a directory. Raises UserError, `said` before the directory, naming who holds it.

    `what` the holder does there stands in the complaint.
    """
    lease = Lease(directory, said, what)
    try:
        yield lease
    finally:
        lease.release()


class Lease:
    """The lease of this process on a directory, from its creation to `release`."""

    def __init__(self, directory: Path, said: str = "", what: str = RUN) -> None:
        self.directory, self._said, self._what = directory, said, what
        self.taken_from: str | None = None  # in words, who held it and died
        self._temporary = directory / f".{NAME}.{secrets.token_hex(4)}.writing"
        self._file = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            facts = {**_facts(), "locked": _locks(self._file, fcntl.LOCK_EX)}
            content = json.dumps(facts, indent=1).encode() + b"\n"
            os.write(self._file, content)
            self._claim()
        except BaseException:
            self._temporary.unlink(missing_ok=True)
            os.close(self._file)
            raise
        self._identity = hashlib.sha256(content).hexdigest()[:16]
        self._lost, self._ended = False, threading.Event()
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def check(self, *, look: bool = True) -> None:
        """Raise LeaseLost if the run is no longer this process's; called before anything of it is written.

        Without a `look` at the file, as the last heartbeat found it.
        """
        if look:
            self._look()
        if self._lost:
            holder = _holder(self.directory)
            now = f"{_words(holder)} has taken it over" if holder else f"{NAME} was removed"
            raise LeaseLost(f"{self.directory}: {now}, so this process writes nothing more there")

    def release(self) -> None:
        """Remove the file, if it is this process's still; where that fails the next claim finds it stale."""
        self._ended.set()
        with suppress(OSError), _turn(self.directory, self._identity, self._file) as mine:
            if mine and _found(self.directory)[0] == self._identity:
                (self.directory / NAME).unlink()
        os.close(self._file)

    def _claim(self) -> None:
        """Put the file in place as soon as nobody holds another."""
        for _ in range(_ATTEMPTS):
            there, holder = _found(self.directory)
            if there != _EMPTY and _lives(self.directory, holder, there, self._file):
                raise UserError(_refusal(self.directory, holder, self._said, self._what))
            with _turn(self.directory, there, self._file) as mine:
                if mine and _found(self.directory)[0] == there:
                    os.replace(self._temporary, self.directory / NAME)
                    self.taken_from = None if there == _EMPTY else _words(holder)
                    return
            time.sleep(_PAUSE)
        raise UserError(f"{self._said}{self.directory}: others are claiming it at the same time; try again")

    def _look(self) -> None:
        """Compare the file with what was put there; what cannot be read just then is no loss."""
        with suppress(OSError):
            self._lost = self._lost or _found(self.directory)[0] != self._identity

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            self._look()
            if self._lost:
                return
            with suppress(OSError):
                os.utime(self._file)


def refuse_held(directory: Path, said: str) -> None:
    """Raise UserError if a process is known to train this run; what needs waiting to be known is left open."""
    holder = _holder(directory)
    if holder is not None and _known(directory, holder):
        raise UserError(_refusal(directory, holder, said))


def status(directory: Path, recorded: object) -> str:
    """What the metadata record or, of a run that says it is running and has no living process, died."""
    if recorded != "running":
        return str(recorded)
    holder = _holder(directory)
    known = None if holder is None else _known(directory, holder)
    if known is None:
        known = holder is not None and _age(directory / NAME, time.time()) < PATIENCE
    return "running" if known else "died"


def trainer(directory: Path) -> str | None:
    """In words, the process that the lease names, alive or not; None without a lease."""
    holder = _holder(directory)
    return None if holder is None else _words(holder)


def process(directory: Path) -> int | None:
    """The process that holds the lease, if it lives and this machine can send it signals."""
    holder = _holder(directory)
    near = holder is not None and holder.get("namespace") == _namespace()
    return holder["pid"] if holder and near and _known(directory, holder) else None


def _facts() -> dict[str, Any]:
    began = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    place = {"boot": _boot(), "namespace": _namespace(), "started": _started(os.getpid())}
    return {**about(), **place, "since": began, "nonce": secrets.token_hex(8)}


def _boot() -> str | None:
    """Names the running kernel: machines and containers may share a host name."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def _namespace() -> str | None:
    """In which process ids are counted; containers have their own."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return None


def _started(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; None if there is none, or a dead one not yet buried."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _locks(file: int, kind: int) -> bool | None:
    """Whether the file could be locked; None where the file system has no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _read(path: Path) -> bytes | None:
    """A small file that is no link; None if it is missing."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(file, "rb") as opened:
        return opened.read(1 << 16)


def _found(directory: Path) -> tuple[str, dict[str, Any] | None]:
    """A name for the lease that lies there, and what it says: nothing if it makes no sense, None if there is none."""
    content = _read(directory / NAME)
    if content is None:
        return _EMPTY, None
    return hashlib.sha256(content).hexdigest()[:16], _facts_in(content)


def _holder(directory: Path) -> dict[str, Any] | None:
    try:
        return _found(directory)[1]
    except OSError:
        return {}


def _facts_in(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("pid"), int) else {}


def _known(directory: Path, holder: Mapping[str, Any]) -> bool | None:
    """Whether the process lives, as far as this machine can tell; None if it cannot."""
    if holder.get("boot") is None or holder["boot"] != _boot():
        return None
    if holder.get("namespace") == _namespace():
        return _started(holder["pid"]) == holder.get("started")
    if holder.get("locked") is not True:
        return None
    try:
        file = os.open(directory / NAME, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        free = _locks(file, fcntl.LOCK_SH)
    finally:
        os.close(file)
    return None if free is None else not free


def _lives(directory: Path, holder: Mapping[str, Any] | None, identity: str, clock: int) -> bool:
    """Whether the process lives; where nobody can tell, whether its heart beats, which takes a while to find out.

    `clock` is an open file of this directory: its own time stamps are those of the file system, not of this machine.
    """
    known = _known(directory, holder) if holder else None
    if known is not None:
        return known
    age = _age(directory / NAME, _now(clock))
    if age > PATIENCE:
        return False
    first, until = _stamp(directory / NAME), time.monotonic() + PATIENCE - max(0.0, age)
    while time.monotonic() < until and _found(directory)[0] == identity:
        if _stamp(directory / NAME) != first:
            return True
        time.sleep(min(1.0, BEAT / 5))
    return False


def _stamp(path: Path) -> int | None:
    """The time of the last change of a file, as the server of a shared file system has it."""
    with suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return os.fstat(file).st_mtime_ns
        finally:
            os.close(file)
    return None


def _age(path: Path, now: float) -> float:
    stamp = _stamp(path)
    return 0.0 if stamp is None else now - stamp / 1e9


@contextmanager
def _turn(directory: Path, identity: str, clock: int) -> Iterator[bool]:
    """Whether this process alone may replace or remove the lease of this identity, which it must look at again.

    A process that died while it had this turn left its file behind: then the one who makes the next in number has it.
    """
    tried: list[Path] = []
    mine = False
    while not mine and (not tried or _abandoned(tried[-1], clock)):
        tried.append(directory / f".{NAME}.{identity}.{len(tried)}")
        mine = _made(tried[-1])
    try:
        yield mine
    finally:
        for path in tried if mine else []:
            path.unlink(missing_ok=True)


def _made(path: Path) -> bool:
    """Create a file that says who did; of any number of processes one can."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(file, json.dumps(_facts()).encode())
    finally:
        os.close(file)
    return True


def _abandoned(path: Path, clock: int) -> bool:
    """Whether the process that made this file has died since."""
    maker = _facts_in(_read(path) or b"")
    if maker and maker.get("boot") == _boot() is not None and maker.get("namespace") == _namespace():
        return _started(maker["pid"]) != maker.get("started")
    return _age(path, _now(clock)) > _CLAIMING


def _now(clock: int) -> float:
    """The time that the file system gives an open file of it, which need not be this machine's."""
    os.utime(clock)
    return os.fstat(clock).st_mtime


def _refusal(directory: Path, holder: Mapping[str, Any] | None, said: str, what: str = RUN) -> str:
    stop = f"`kill {holder['pid']}` stops it with a checkpoint" if holder else f"if nothing does, remove {NAME}"
    return f"{said}{directory}: {_words(holder)} {what}; wait for it ({stop}){_tasks()}"


def _tasks() -> str:
    """A hint for those whose batch system starts the same command several times."""
    tasks = os.environ.get("SLURM_NTASKS", "1")
    if tasks == "1" or "WORLD_SIZE" in os.environ:
        return ""
    return f". Slurm started {tasks} tasks: ask for one, with device.ranks=N, or start torchrun"


def _words(holder: Mapping[str, Any] | None) -> str:
    if not holder:
        return "a process that cannot be told"
    job = f", job {str(holder['job'])[:40]}" if holder.get("job") else ""
    return f"process {holder['pid']} on {str(holder.get('host'))[:80]}{job}, since {str(holder.get('since'))[:40]},"
