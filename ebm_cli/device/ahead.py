"""Functions of tensors compiled ahead of time into a library of their own, which stays on disk for later runs.

`torch.compile` traces Python code anew in every process and checks, at every call, that what it traced still holds. For
a training step of a small model both take longer than the arithmetic. Here a function is traced once, by the tensors
that go in and come out, and its library is called with nothing but those.
"""

import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

_KEPT = 200  # libraries that stay, the last used ones; each has some three megabytes
_OPTIONS = {
    "cpp.vec_isa_ok": True,  # the widest that the processor names; trying each out takes seconds
    "aot_inductor.compile_wrapper_opt_level": "O0",  # it calls kernels; more would take seconds and save microseconds
    "aot_inductor.precompile_headers": False,  # which takes longer than a library
}


class Library(NamedTuple):
    """A compiled function, which changes some of the tensors that it is given in place, and what was said of it."""

    call: Callable[[list[Tensor]], list[Tensor]]
    facts: Any


class Traced(Protocol):
    """What is to be compiled: results for tensors, and facts about them that are known once it has been called."""

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """The results."""
        ...

    def facts(self) -> Any:
        """What a later process has to know, as JSON can say it."""
        ...


def library(
    function: Traced, tensors: Sequence[Tensor], identity: str | None, begins: Callable[[], None] = lambda: None
) -> Library:
    """The function for tensors like these, from disk where it is there; `identity` None: compiled in any case.

    `begins` is called before that. Equal identities are taken for equal functions as far as shapes and types of tensors
    do not tell them apart.
    """
    folder = _folder() if identity is not None else None
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="ebm-") as place:  # loaded code needs its file no longer
            begins()
            return _loaded(*_made(function, tensors, Path(place)))
    found = folder / f"{_name(identity or '', tensors)}.so"
    if not found.exists():
        with tempfile.TemporaryDirectory(prefix="new-", dir=folder) as place:
            begins()
            new, facts = _made(function, tensors, Path(place))
            os.replace(facts, found.with_suffix(".json"))
            os.replace(new, found)
        _prune(folder)
    os.utime(found)
    return _loaded(found, found.with_suffix(".json"))


def _loaded(path: Path, facts: Path) -> Library:
    runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(path), 1)
    return Library(runner.run, json.loads(facts.read_text(encoding="utf-8")))


def _made(function: Traced, tensors: Sequence[Tensor], place: Path) -> tuple[Path, Path]:
    """Paths of the library and of its facts, within a folder."""
    graph = traced(function, tensors)
    path, facts = place / "library.so", place / "facts.json"
    _compiled(graph, path)
    facts.write_text(json.dumps(function.facts()), encoding="utf-8")
    return path, facts


def traced(function: Callable[..., Any], tensors: Sequence[Tensor]) -> torch.fx.GraphModule:
    """The operations of the function, none of which changes a tensor until all results are there."""
    from torch._inductor.decomposition import select_decomp_table
    from torch.fx.experimental.proxy_tensor import make_fx

    pure = torch.func.functionalize(function, remove="mutations")
    table = {**select_decomp_table(), torch.ops.aten.addmm.default: _addmm}
    make = make_fx(pure, decomposition_table=table, tracing_mode="fake")
    with torch.no_grad():
        graph: torch.fx.GraphModule = make(*(tensor.detach() for tensor in tensors))
    return graph


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
        within.enter_context(config.patch({**_OPTIONS, "aot_inductor.output_path": str(path)}))
        within.enter_context(V.set_aot_compilation(True))
        within.enter_context(tracing(TracingContext(detect_fake_mode(inputs))))
        within.enter_context(torch.no_grad())
        compile_fx_inner(graph, inputs, static_input_idxs=range(len(inputs)), aot_mode=True, cpp_wrapper=True)


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
