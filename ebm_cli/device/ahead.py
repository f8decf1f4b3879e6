"""Functions of tensors compiled ahead of time into a library of their own, which stays on disk for later runs.

`torch.compile` traces Python code anew in every process and checks, at every call, that what it traced still holds. For
a training step of a small model both take longer than the arithmetic. Here a function is traced once, by the tensors
that go in and come out, and its library is called with nothing but those.
"""

import fcntl
import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ebm_cli.device import stack
from ebm_cli.device.stack import Made
from ebm_cli.signals import not_waited_for

_KEPT = 200  # libraries that stay, the last used ones; each has some three megabytes
_OPTIONS = {
    "cpp.vec_isa_ok": True,  # the widest that the processor names; trying each out takes seconds
    "aot_inductor.compile_wrapper_opt_level": "O1",  # calls of kernels: a second more, an eighth of a small step less
}
_MANY = 3  # libraries that were made here: precompiling headers takes as long as it spares the next three


Graph = tuple[torch.fx.GraphModule, Any]  # operations, and facts about their results


class Library:
    """A compiled function, and what was said of its results."""

    def __init__(self, path: Path, facts: Path) -> None:
        self._run = torch._C._aoti.AOTIModelContainerRunnerCpu(str(path), 1).run
        self.facts = json.loads(facts.read_text(encoding="utf-8"))
        self._seen: Sequence[Tensor] = ()
        self._lasting: list[Tensor] = []

    def call(self, changing: Sequence[Tensor], lasting: Sequence[Tensor]) -> list[Tensor]:
        """The results. The same sequence `lasting` holds the same tensors; some may be changed in place."""
        if lasting is not self._seen:
            self._seen, self._lasting = lasting, [tensor.detach() for tensor in lasting]
        return self._run([*changing, *self._lasting])


class Traced(Protocol):
    """What is to be compiled: results for tensors, and facts about them that are known once it has been called."""

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """The results."""
        ...

    def facts(self) -> Any:
        """What a later process has to know, as JSON can say it."""
        ...


class Wanted(NamedTuple):
    """A function that is to be a library, what it is called with, and what names it.

    Equal identities are taken for equal functions as far as shapes and types of tensors do not tell them apart; None:
    compiled in any case. It is called with tensors that differ from call to call and with some that last; `changes`
    says that it changes these in place. `begins` is called before it is compiled. `alone`: by each run for itself, also
    among runs that go in step, because its time is that of arithmetic and not of calls.
    """

    function: Traced
    changing: Sequence[Tensor]
    lasting: Sequence[Tensor]
    identity: str | None
    changes: bool
    begins: Callable[[], None]
    alone: bool = False


def library(wanted: Wanted) -> Made:
    """From disk where it is there. Among runs that go in step it is that of all of them, as one of them sees it."""
    tensors, lane = [*wanted.changing, *wanted.lasting], stack.current()
    if lane is None or wanted.identity is None or wanted.alone:
        with not_waited_for():
            return _library(partial(_graph, wanted.function, tensors), tensors, wanted.identity, wanted.begins)
    kind = stack.Kind(_name(wanted.identity, tensors), wanted.changes, partial(_stacked, wanted))
    return stack.Member(lane, kind)


def _graph(function: Traced, tensors: Sequence[Tensor]) -> Graph:
    return traced(function, tensors), function.facts()


def _stacked(
    wanted: Wanted, dims: Sequence[int | None], changing: Sequence[Tensor], lasting: Sequence[Tensor]
) -> Library:
    """The same of several runs at once."""
    tensors = [*changing, *lasting]

    def graph() -> Graph:
        one = traced(wanted.function, [*wanted.changing, *wanted.lasting], whole=True)
        return traced(_along(one, dims), tensors), wanted.function.facts()

    with not_waited_for():
        return _library(graph, tensors, repr((wanted.identity, *dims)), wanted.begins)


def _along(graph: Callable[..., list[Tensor]], dims: Sequence[int | None]) -> Callable[..., list[Tensor]]:
    """The same for each of several runs, which lie along these dimensions of the tensors; None: they share it."""
    mapped = torch.vmap(lambda *tensors: tuple(graph(*tensors)), in_dims=tuple(dims))
    return lambda *tensors: list(mapped(*tensors))


def _library(
    graph: Callable[[], Graph], tensors: Sequence[Tensor], identity: str | None, begins: Callable[[], None]
) -> Library:
    folder = _folder() if identity is not None else None
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="ebm-") as place:  # loaded code needs its file no longer
            begins()
            return Library(*_made(graph, Path(place)))
    found = folder / f"{_name(identity or '', tensors)}.so"
    if not found.exists():
        with _by_one(found):
            if not found.exists():
                _add(graph, found, begins)
    os.utime(found)
    return Library(found, found.with_suffix(".json"))


def _add(graph: Callable[[], Graph], found: Path, begins: Callable[[], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="new-", dir=found.parent) as place:
        begins()
        new, facts = _made(graph, Path(place))
        os.replace(facts, found.with_suffix(".json"))
        os.replace(new, found)
    _prune(found.parent)


@contextmanager
def _by_one(found: Path) -> Iterator[None]:
    """Within, no other process makes this library; where the file system has no locks, several may."""
    lock = found.with_suffix(".lock")
    with lock.open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _made(graph: Callable[[], Graph], place: Path) -> tuple[Path, Path]:
    """Paths of the library and of its facts, within a folder."""
    operations, said = graph()
    path, facts = place / "library.so", place / "facts.json"
    _compiled(operations, path)
    facts.write_text(json.dumps(said), encoding="utf-8")
    return path, facts


def traced(function: Callable[..., Any], tensors: Sequence[Tensor], *, whole: bool = False) -> torch.fx.GraphModule:
    """The operations of the function, none of which changes a tensor until all results are there.

    `whole`: not taken apart into those that the compiler takes, some of which know of no runs side by side.
    """
    from torch._inductor.decomposition import select_decomp_table
    from torch.fx.experimental.proxy_tensor import make_fx

    pure = torch.func.functionalize(function, remove="mutations")
    aten = torch.ops.aten
    table = {aten.copy.default: _copy} if whole else {**select_decomp_table(), aten.addmm.default: _addmm}
    make = make_fx(pure, decomposition_table=table, tracing_mode="fake")
    with torch.no_grad():
        graph: torch.fx.GraphModule = make(*(tensor.detach() for tensor in tensors))
    return graph


def _copy(kept: Tensor, x: Tensor, non_blocking: bool = False) -> Tensor:
    """What `kept` is once x is copied into it: `torch.vmap` has no rule for the operation itself."""
    return x.to(kept.dtype).expand_as(kept)


def _addmm(bias: Tensor, x: Tensor, y: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta bias + alpha x y: what is added to a product is added by the code that reads it, not copied before it."""
    return beta * bias + alpha * (x @ y)


def _compiled(graph: torch.fx.GraphModule, path: Path) -> None:
    from torch._guards import TracingContext, detect_fake_mode, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.virtualized import V

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # a CUDA toolkit without a CUDA device
    inputs = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    with ExitStack() as within:
        here = {"aot_inductor.output_path": str(path), "aot_inductor.precompile_headers": _many()}
        within.enter_context(config.patch(_OPTIONS | here))
        within.enter_context(V.set_aot_compilation(True))
        within.enter_context(tracing(TracingContext(detect_fake_mode(inputs))))
        within.enter_context(torch.no_grad())
        compile_fx_inner(graph, inputs, static_input_idxs=range(len(inputs)), aot_mode=True, cpp_wrapper=True)


def _many() -> bool:
    """Whether so many libraries were made here that what they have in common is worth keeping."""
    folder = _folder()
    return folder is not None and len(list(folder.glob("*.so"))) >= _MANY


def _name(identity: str, tensors: Sequence[Tensor]) -> str:
    forms = [(str(t.dtype), tuple(t.shape), t.stride()) for t in tensors]
    text = repr((identity, forms, torch.get_num_threads(), _machine(), _source()))
    return hashlib.sha256(text.encode()).hexdigest()[:40]


@cache
def _machine() -> str:
    """Of which processor and which torch the code is: it runs on no other."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    processor = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))][:2]
    return repr((torch.__version__, torch.version.git_version, torch.__config__.show(), os.uname().machine, processor))


@cache
def _source() -> str:
    """A hash of every line of this package."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _folder() -> Path | None:
    """Where libraries stay: a folder that nobody else can write to, for whoever can runs code here; None without."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(base, "ebm", "steps")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = path.stat()
    except OSError:
        return None
    safe = there.st_uid == os.getuid() and not there.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return path if safe and os.access(path, os.W_OK) else None


def _prune(folder: Path) -> None:
    """Without the libraries that were not used for longest."""
    every = sorted(folder.glob("*.so"), key=lambda path: path.stat().st_mtime)
    for path in every[:-_KEPT]:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
