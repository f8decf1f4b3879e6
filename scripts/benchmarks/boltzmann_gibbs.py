"""Thirty Gibbs sweeps of a Boltzmann machine with 784 units: one chain in Python loops, a hundred of ours."""

import tempfile
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from _case import SECONDS, Case, Maker, Required, Samples, times_faster
from _command import ebm
from _ours import DEVICE, component
from gibbs_boltzmann import CHAINS, SITES, model
from torch import Tensor

from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Binary

SWEEPS = 30
TIMED = 14  # sites that the slowest contender visits in each round, of SWEEPS * SITES; the time is multiplied
OURS, COMMAND = f"ours, {CHAINS} chains", f"ebm sample, {CHAINS} chains: start to end"
SITES_LOOP, TERMS_LOOP = "loop over sites, W[i] @ x, one chain", "loop over sites and terms of W[i] @ x, one chain"


def ours() -> Callable[[], None]:
    """`run` with the sampler as shipped, from noise, not compiled: so few sweeps would not repay it."""
    machine, sampler = model(), component("sampler", "gibbs")

    def sweeps() -> None:
        run(sampler, machine, Binary((SITES,)).noise(CHAINS, stream(0, "noise"), DEVICE), SWEEPS, stream(0, "sweeps"))

    return sweeps


def command() -> Callable[[], None]:
    """The same from the command line, on the run of the experiment, which is trained first."""
    folder = tempfile.TemporaryDirectory(prefix="ebm-bench-")
    ebm(
        "train",
        "experiment=boltzmann_gibbs_fashion",
        "tracker=none",
        "evaluation=[]",
        f"hydra.run.dir={folder.name}/run",
    )

    def sample() -> None:
        ebm("sample", f"run={folder.name}/run", f"n={CHAINS}", f"steps={SWEEPS}")

    return sample


def drawn(logit: Tensor) -> Tensor:
    """One unit."""
    return (torch.rand(()) < logit.sigmoid()).float()


def loop_over_sites() -> Callable[[], None]:
    """The obvious loop with one product for each site."""
    W, b = (t.detach().cpu() for t in (model().coupling(), model().b))

    def sweeps() -> None:
        x = torch.zeros(SITES)
        for _ in range(SWEEPS):
            for i in range(SITES):
                x[i] = drawn(W[i] @ x + b[i])

    return sweeps


def loop_over_terms() -> Callable[[], float]:
    """The sum over j != i in Python too, as blog posts on Boltzmann machines have it."""
    W, b = (t.detach().cpu() for t in (model().coupling(), model().b))

    def sites() -> float:
        x, begin = list(torch.zeros(SITES)), time.perf_counter()
        for i in range(TIMED):
            x[i] = drawn(sum((W[i, j] * x[j] for j in range(SITES) if j != i), torch.zeros(())) + b[i])
        return (time.perf_counter() - begin) / TIMED * SITES * SWEEPS

    return sites


def makers(quick: bool) -> Mapping[str, Maker]:
    """One chain in loops against a hundred."""
    return {OURS: ours, COMMAND: command, SITES_LOOP: loop_over_sites, TERMS_LOOP: loop_over_terms}


def whole_command(samples: Samples) -> float:
    """Seconds from the start of the process to its end."""
    return float(np.median(samples[COMMAND]))


TITLE = f"{SWEEPS} Gibbs sweeps of a Boltzmann machine with {SITES} units; of the slowest {TIMED} sites are timed."
REQUIRED = (Required(COMMAND, whole_command, 10.0, at_least=False), times_faster(TERMS_LOOP, OURS, 100.0))
CASES = (Case("boltzmann_gibbs", TITLE, makers, REQUIRED, OURS, unit=SECONDS, rounds=5, warmup=1),)
