"""Several processes that train one model: who shares what, and the few words they exchange.

Every rank holds the whole model and optimizer, and computes its share of the batch and of the chains. Random numbers
are addressed by row (`rng.Key.at_row`), so a row draws the same whichever rank it is on, and the result differs from
that of one process only in the order of the sums.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ebm_cli.errors import RunError, UserError

_PATIENCE = timedelta(days=7)  # while the first rank evaluates, the others wait


@dataclass(frozen=True)
class Ranks:
    """This process among `count`; rank 0 is the one that writes and speaks."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def check_shares(self, **sizes: int) -> None:
        """Raise UserError unless everything to share, by its key, can be shared equally."""
        for key, size in sizes.items():
            if size % self.count:
                name = key.replace("__", ".")
                raise UserError(
                    f"{name} = {size}: {self.count} ranks cannot share it equally; make it a multiple of {self.count}, "
                    "or change device.ranks"
                )

    def share(self, n: int) -> slice:
        """The rows of n that are this rank's."""
        size = n // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def mean(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each tensor averaged over the ranks, in one exchange."""
        if self.count == 1:
            return dict(tensors)
        flat = torch.cat([tensor.flatten().float() for tensor in tensors.values()]) / self.count
        with _told():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors.values()])
        return {
            name: part.reshape(tensor.shape).to(tensor.dtype)
            for (name, tensor), part in zip(tensors.items(), parts, strict=True)
        }

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, in the order of ranks."""
        if self.count == 1:
            return rows
        found = [torch.empty_like(rows) for _ in range(self.count)]
        with _told():
            dist.all_gather(found, rows.contiguous())
        return torch.cat(found)

    def highest(self, number: int, device: torch.device) -> int:
        """The largest of the ranks' numbers."""
        if self.count == 1:
            return number
        found = torch.tensor([number], device=device)
        with _told():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found.item())

    def check_same(self, step: int, device: torch.device) -> None:
        """Raise RunError unless all are at the same step: a run may go on while they read its checkpoint."""
        if self.highest(step, device) != -self.highest(-step, device):
            raise RunError("the ranks read different checkpoints, since the run went on meanwhile; start them again")


@contextmanager
def _told() -> Iterator[None]:
    """A connection that breaks is one sentence."""
    try:
        yield
    except RuntimeError as error:
        raise RunError("another rank has ended; the last checkpoint is whole, resume from it") from error


ALONE = Ranks()


def cores() -> int:
    """Those that this process may use: a scheduler or taskset may have given it fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def current() -> Ranks:
    """The ranks this process was started among: alone, unless torchrun or `launch` set the environment."""
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def local_rank() -> int:
    """Number of this rank on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Connected to the other ranks (NCCL on CUDA, Gloo on CPUs). Raises RunError if one of them cannot be reached."""
    if current().count == 1:
        yield
        return
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise RunError(f"the {current().count} ranks could not be connected ({why}); start them again") from error
    try:
        yield
    finally:
        dist.destroy_process_group()
