"""Where the arithmetic runs, with how many threads, in which precision."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field

from ebm_cli.device import memory
from ebm_cli.device.engine import EAGER, INLINE, Engine
from ebm_cli.device.ranks import ALONE, Ranks, cores, current, local_rank
from ebm_cli.errors import UserError
from ebm_cli.registry import register

_THREADS = torch.get_num_threads()  # torch's own choice, before a run of this process makes another
Precision = Literal["auto", "fp32", "tf32", "bf16", "fixed16", "fixed24"]
Compile = Literal["auto", "updates", "ahead", "always", "never"]


@dataclass(frozen=True)
class Device:
    """A device that is there, and the precision of the matrix products of the chains on it."""

    torch: torch.device
    description: str
    precision: Precision
    engine: Engine = EAGER
    ranks: Ranks = ALONE
    memory: float | None = None  # GB
    spec: "DeviceSpec | None" = None  # the settings it was opened with
    whole_steps: bool = False  # whether a training step is one compiled region where it can be
    loops: Engine | None = None  # for stages of evaluations that are called thousands of times, if another

    @property
    def repeating(self) -> Engine:
        """What executes these."""
        return self.loops or self.engine

    def inline(self) -> "Device":
        """The same within a region that is compiled as a whole.

        It knows of no libraries, so that neither the code of the region nor its name depends on those made before.
        """
        return replace(self, engine=INLINE, loops=None)

    def bytes_left(self, held: int = 0) -> int:
        """What this process may still take, beside the `held` bytes that it has taken."""
        left = memory.available(self.torch) + held
        if self.memory is None:
            return left
        return max(0, min(left, int(self.memory * 1e9) - memory.taken(self.torch) + held))

    def chain_precision(self) -> AbstractContextManager[None]:
        """Chains: bf16 products where asked for. Weights, energies and gradients stay in float32."""
        return torch.amp.autocast(self.torch.type, torch.bfloat16, enabled=self.precision == "bf16")


CPU = Device(torch.device("cpu"), "CPU", "fp32")
"""Plain arithmetic, nothing compiled."""


@register("device", "device")
class DeviceSpec:
    """`kind` auto takes the GPU if there is one. `threads` null: one for small products, else torch's choice.

    `compile` updates: each training step becomes one compiled region, which takes some fifteen seconds, once on a
    machine: it is kept for later runs. It draws other random numbers, several times as fast. ahead: each temperature of
    AIS is one too, and of steps of more than four transitions each of these, and the update. always: so are the inner
    loops of evaluations, in every run anew. auto: what the run repays.

    `precision` fp32; tf32 (CUDA products with 10-bit mantissas); bf16 (products of the chains with 7-bit ones);
    fixed24, fixed16 (products with binary units in fixed point of so many bits, fast on a CPU with 8-bit integer
    products; 24 are as exact as fp32, and evaluation never uses fewer); auto: fixed16 where a compiled run can have it,
    else fp32. A run's config.yaml says what these became.

    `deterministic` makes torch refuse operations without a deterministic implementation. `ranks` processes share each
    batch and the chains, each on a GPU of its own or with its part of the CPU's threads. `memory` GB bound what the
    process may hold, its libraries included (null: what is free); more chains than fit move in groups, with the same
    numbers.
    """

    kind: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Field(ge=1)] | None
    precision: Precision
    compile: Compile
    deterministic: bool
    ranks: Annotated[int, Field(ge=1)]
    memory: Annotated[float, Field(gt=0)] | None

    def open(self) -> Device:
        """Apply the settings to this process. Raises UserError if CUDA is asked for and absent."""
        available = torch.cuda.is_available()
        if self.kind == "cuda" and not available:
            raise UserError("device = cuda: torch sees no CUDA device here; use device=cpu, or device=auto")
        _set_deterministic(self.deterministic)
        use_cuda = available and self.kind != "cpu"
        device = torch.device("cuda", local_rank()) if use_cuda else torch.device("cpu")
        if use_cuda:
            torch.cuda.set_device(device)
        else:
            memory.keep_freed()
        return self.applied(Device(device, "", self.precision, EAGER, current(), self.memory))

    def applied(self, device: Device) -> Device:
        """An open device with these settings, of which threads, precision and compiling may be others than before."""
        _set_threads(self.threads)
        torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        always = self.compile == "always"
        engine = Engine(compiled=True) if always else EAGER
        whole, said = always or self.compile in ("updates", "ahead"), _describe(device.torch)
        return replace(device, description=said, precision=self.precision, engine=engine, spec=self, whole_steps=whole)


@contextmanager
def evaluation_precision() -> Iterator[None]:
    """Within, no product is coarser than float32's."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _set_threads(wanted: int | None) -> None:
    if wanted and wanted > cores():
        raise UserError(
            f"device.threads = {wanted}: this process may use {cores()} of the machine's {os.cpu_count()} cores, more "
            "threads would only be slower"
        )
    torch.set_num_threads(wanted or _THREADS)


def _set_deterministic(wanted: bool) -> None:
    """cuBLAS needs its workspace fixed before CUDA starts; filling fresh memory would only cost time.

    `torch.use_deterministic_algorithms` would do the same and import the compiler, which takes seconds.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("error" if wanted else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _describe(device: torch.device) -> str:
    among = current().count
    each = f"{among} ranks, each " if among > 1 else ""
    if device.type == "cuda":
        return each + torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    return f"{each}CPU, {count} thread{'s' if count > 1 else ''}"
