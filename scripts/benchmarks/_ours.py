"""Our own inner loops, assembled without the command line from the configuration as shipped."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import yaml
from _case import AbsentError
from _command import ROOT
from torch import Tensor

from ebm_cli import registry
from ebm_cli.dataset.base import Data, Split
from ebm_cli.device.base import Device
from ebm_cli.device.engine import Engine
from ebm_cli.space import Binary
from ebm_cli.training import state as training
from ebm_cli.training import step

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PRECISIONS = (
    ("fp32", "bf16", "fixed24", "fixed16")
    if DEVICE.type == "cpu" and torch.cpu._is_vnni_supported()
    else ("fp32", "bf16")
)
RATE = 0.01  # of learning, for every contender


class Size(NamedTuple):
    """Of a PCD-k update of an RBM."""

    batch: int
    chains: int
    k: int = 1
    sites: int = 784
    hidden: int = 500


def binary_rows(rows: int, sites: int) -> Tensor:
    """Data of every contender, (rows, sites) bytes of which a fifth is 1, as in MNIST."""
    return (torch.rand(rows, sites, generator=torch.Generator().manual_seed(0)) < 0.2).byte()


def batch(rows: int, sites: int) -> Tensor:
    """The same as float32 on the device."""
    return binary_rows(rows, sites).float().to(DEVICE)


def configuration(group: str, name: str, **changed: Any) -> dict[str, Any]:
    """A shipped YAML file, with some keys changed."""
    with open(ROOT / "conf" / group / f"{name}.yaml", encoding="utf-8") as file:
        values = yaml.safe_load(file)
    values.pop("defaults", None)
    return values | changed


def component(group: str, name: str, **changed: Any) -> Any:
    """A part as the command line would build it."""
    registry.load_components()
    return registry.build(group, configuration(group, name, **changed))


@cache
def engine(*, compiled: bool) -> Engine:
    """One of each kind in the process: another compiled one would forget the code of the first."""
    if not compiled or DEVICE.type != "cuda":
        return Engine(compiled=compiled)
    from ebm_cli.device.replay import Graphs  # an earlier build has none

    return Graphs(2**62)


def device(precision: str, *, compiled: bool) -> Device:
    """Where our contenders run."""
    return Device(DEVICE, DEVICE.type, precision, engine(compiled=compiled))


def training_step(
    size: Size, precision: str = "fp32", *, compiled: bool = True, rows: int = 6000
) -> Callable[[], None]:
    """One whole update, drawing the batch and reporting the metrics included, of an RBM with SGD."""
    return _updates(*rbm_run(size, device(precision, compiled=compiled), rows))


def rbm_run(size: Size, where: Device, rows: int = 6000) -> tuple[training.Parts, training.TrainState]:
    """The run that these are updates of, before its first step."""
    registry.load_components()
    config = {
        "dataset": configuration("dataset", "digits"),
        "model": configuration("model", "rbm", hidden=size.hidden),
        "sampler": configuration("sampler", "block_gibbs"),
        "chains": configuration("chains", "persistent", steps=size.k, count=size.chains),
        "noise": configuration("noise", "fitted"),
        "objective": configuration("objective", "pcd"),
        "optimizer": configuration("optimizer", "sgd", lr=RATE),
    }
    space = Binary((size.sites,))
    split = Split(space, binary_rows(rows, size.sites), scale=1.0, stochastic=False, labels=None)
    return run_of(config, Data(space, split, None, split), size.batch, where)


def updates(config: dict[str, dict[str, Any]], data: Data, batch_size: int, where: Device) -> Callable[[], None]:
    """One whole update of the run that this configuration describes."""
    return _updates(*run_of(config, data, batch_size, where))


def _updates(
    parts: training.Parts, state: training.TrainState, how: step.Execution | None = None
) -> Callable[[], None]:
    def update() -> None:
        step.train_step(parts, state, how)

    return update


def graphed_step(size: Size, precision: str) -> Callable[[], None]:
    """One whole update as a GPU takes it, one CUDA graph; AbsentError where that does not reproduce the plain step."""
    from ebm_cli.training import cuda_graph  # an earlier build has none

    parts, state = rbm_run(size, device(precision, compiled=True), max(6000, size.batch))
    how, said = cuda_graph.execution(parts, state)
    if said:
        raise AbsentError(said)
    return _updates(parts, state, how)


def run_of(
    config: dict[str, dict[str, Any]], data: Data, batch_size: int, where: Device
) -> tuple[training.Parts, training.TrainState]:
    """That run before its first step."""
    registry.load_components()
    choice = {group: values["name"] for group, values in config.items()}
    loop = training.Loop(steps=10**6, batch_size=batch_size, seed=0)
    components = training.build_components(config, choice)
    return training.assemble(components, loop, where, data, choice)


def digits() -> Data:
    """Binarised at one half."""
    registry.load_components()
    return registry.build("dataset", configuration("dataset", "digits")).load((Binary,))
