"""Sizes that a GPU is for. Where there is none nothing of this is run, and the tables say so."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import _peers
import ais
import gwg
import langevin
import torch
from _case import MS, AbsentError, Case, Contender, Maker, Unit, times_faster
from _ours import DEVICE, Size, graphed_step, training_step
from torch.profiler import ProfilerActivity, profile

from ebm_cli.space import Box

Makers = Callable[[bool], Mapping[str, Maker]]
SMALL, LARGE = Size(100, 100, 1, 64, 64), Size(10_000, 10_000, 1, 784, 4096)
FP32, FLOOR = "ours fp32", "products alone"
MANY = 10_000  # chains


def updates(size: Size, quick: bool) -> Mapping[str, Maker]:
    """Ours as a CUDA graph in each arithmetic, and one operation after the other; by hand; the peer; products alone."""
    return {
        FP32: partial(graphed_step, size, "fp32"),
        "ours tf32": partial(coarser, partial(graphed_step, size, "tf32")),
        "ours bf16": partial(graphed_step, size, "bf16"),
        "ours fp32, eager": partial(training_step, size, compiled=False, rows=max(6000, size.batch)),
        "plain torch": partial(_peers.plain_torch, size),
        "rbms": partial(_peers.rbms, size),
        FLOOR: partial(_peers.products, size),
        "products alone, tf32": partial(coarser, partial(_peers.products, size)),
    }


def coarser(make: Maker) -> Contender:
    """What it makes, its float32 products with 10-bit mantissas."""
    with tf32():
        unit = make()

    def within() -> float | None:
        with tf32():
            return unit()

    return within


@contextmanager
def tf32() -> Iterator[None]:
    """Within, products are so."""
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def counted(make: Maker) -> Contender:
    """Of what it makes the number of kernels of a unit, instead of its time."""
    unit = make()

    def count() -> float:
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            unit()
            torch.cuda.synchronize()
        return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in seen.events())

    return count


def kernels(makers: Makers, quick: bool) -> Mapping[str, Maker]:
    """How many each contender needs."""
    return {name: partial(counted, make) for name, make in makers(quick).items()}


def there(make: Maker) -> Contender:
    """What it makes, where there is a GPU."""
    if DEVICE.type != "cuda":
        raise AbsentError("no CUDA device here")
    return make()


def on_gpu(makers: Makers, quick: bool) -> Mapping[str, Maker]:
    """The same, each absent without a GPU."""
    return {name: partial(there, make) for name, make in makers(quick).items()}


def case(name: str, title: str, makers: Makers, ours: str, peer: str, *, floor: str | None = None) -> Case:
    """Times, of which ours is at most the peer's."""
    required = (times_faster(peer, ours, 1.0),)
    return Case(f"gpu_{name}", title, partial(on_gpu, makers), required, ours, floor, MS, rounds=10)


def number(name: str, title: str, makers: Makers) -> Case:
    """Numbers of kernels."""
    of = partial(on_gpu, partial(kernels, makers))
    return Case(f"gpu_kernels_{name}", f"{title} How many kernels.", of, unit=Unit("kernels", 1.0), rounds=1)


UPDATE = "One PCD-1 update of a {} RBM, {} rows and as many chains."
ANNEAL = "AIS of a 784-{} RBM, {} chains, {} temperatures."
MOVE = f"{gwg.STEPS} steps of Gibbs-with-Gradients, {MANY} chains of {{}}; other samplers beside it."
IMAGE = f"Langevin, {langevin.STEPS} steps on the ConvNet, 1x28x28, batch {{}}."
FEW_HIDDEN, MANY_HIDDEN = ais.Annealing(500, 100, 200), ais.Annealing(4096, MANY, 50)
CASES = (
    case("pcd_small", UPDATE.format("64-64", 100), partial(updates, SMALL), FP32, "rbms", floor=FLOOR),
    case("pcd_large", UPDATE.format("784-4096", MANY), partial(updates, LARGE), FP32, "rbms", floor=FLOOR),
    case("ais_small", ANNEAL.format(*FEW_HIDDEN), partial(ais.makers, FEW_HIDDEN), FP32, "rbms"),
    case("ais_large", ANNEAL.format(*MANY_HIDDEN), partial(ais.makers, MANY_HIDDEN), FP32, "rbms"),
    case("gwg_rbm", MOVE.format("an RBM, 784-500"), partial(gwg.makers, gwg.rbm, MANY), gwg.OURS, "plain"),
    case("gwg_ising", MOVE.format("a 50 x 50 torus"), partial(gwg.makers, gwg.ising, MANY), gwg.OURS, "plain"),
    case("langevin", IMAGE.format(128), partial(langevin.makers, Box((1, 28, 28)), 128), langevin.OURS, langevin.PEER),
    number("pcd_small", UPDATE.format("64-64", 100), partial(updates, SMALL)),
)
