"""One update by NCE of a Boltzmann machine with 784 real units and ten rows of noise for each datum."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from _case import Case, Maker, times_faster
from _ours import DEVICE, configuration, device, updates
from torch import Tensor, nn

from ebm_cli import registry
from ebm_cli.dataset.base import Data, Split
from ebm_cli.space import Real

SITES, BATCH, NOISE = 784, 64, 10
OURS, COMPILED = "ours", "ours, device.compile=always"
LOOP, ROWS = "loop over rows, autograd", "all rows at once, autograd"


def rows() -> Tensor:
    """Grey values like those of images, (6000, SITES)."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(6000, SITES, generator=generator) * (torch.rand(6000, SITES, generator=generator) < 0.4)


def ours(*, compiled: bool = False) -> Callable[[], None]:
    """The recipe boltzmann_nce, drawing batch and noise and reporting included."""
    registry.load_components()
    config = {
        "dataset": configuration("dataset", "digits", binarize="none"),
        "model": configuration("model", "real_boltzmann"),
        "sampler": configuration("sampler", "langevin"),
        "chains": configuration("chains", "data"),
        "noise": configuration("noise", "gaussian"),
        "objective": configuration("objective", "nce", ratio=NOISE),
        "optimizer": configuration("optimizer", "adam", lr=2e-5),
    }
    space = Real((SITES,))
    split = Split(space, rows(), scale=1.0, stochastic=False, labels=None)
    return updates(config, Data(space, split, None, split), BATCH, device("fp32", compiled=compiled))


def plain(log_odds: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Callable[[], None]:
    """Adam on the mean cross-entropy of data and noise, with these log-odds of rows."""
    data = rows().to(DEVICE)
    W, b, c = (nn.Parameter(torch.zeros(shape, device=DEVICE)) for shape in ((SITES, SITES), (SITES,), ()))
    optimizer, step = torch.optim.Adam([W, b, c], lr=2e-5), 0

    def update() -> None:
        nonlocal step
        first = step * BATCH % (len(data) - BATCH)
        step += 1
        x = torch.cat([data[first : first + BATCH], torch.randn(BATCH * NOISE, SITES, device=DEVICE)])
        y = torch.cat([torch.ones(BATCH, device=DEVICE), torch.zeros(BATCH * NOISE, device=DEVICE)])
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(log_odds(x, W, b, c), y).backward()
        optimizer.step()

    return update


def loop() -> Callable[[], None]:
    """One outer product x x^T for each row, as blog posts on Boltzmann machines have it."""
    off = 1 - torch.eye(SITES, device=DEVICE)

    def log_odds(x: Tensor, W: Tensor, b: Tensor, c: Tensor) -> Tensor:
        each = [(off * (W * torch.outer(row, row)).triu()).sum() + b @ row for row in x]
        return torch.stack(each) - c - torch.log(torch.tensor(float(NOISE)))

    return plain(log_odds)


def at_once() -> Callable[[], None]:
    """The same energies by one product."""

    def log_odds(x: Tensor, W: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return ((x @ W.triu(1)) * x).sum(1) + x @ b - c - torch.log(torch.tensor(float(NOISE)))

    return plain(log_odds)


def makers(quick: bool) -> Mapping[str, Maker]:
    """The whole batch against its rows."""
    return {OURS: ours, COMPILED: partial(ours, compiled=True), ROWS: at_once, LOOP: loop}


TITLE = f"An update by NCE of a Boltzmann machine with {SITES} real units, {BATCH} rows and {BATCH * NOISE} of noise."
CASES = (
    Case(
        "boltzmann_nce",
        TITLE,
        makers,
        (times_faster(LOOP, COMPILED, 50.0), times_faster(LOOP, OURS, 50.0)),
        OURS,
        rounds=6,
        warmup=1,
    ),
)
