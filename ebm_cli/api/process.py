"""What a command sets in a process that ends with it, put back for a caller that goes on."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ebm_cli.device.base import Device
from ebm_cli.device.memory import watched
from ebm_cli.terminal import log, logging_to

_STAYS = "CUBLAS_WORKSPACE_CONFIG"  # which CUDA reads once, when it starts


@contextmanager
def as_before() -> Iterator[None]:
    """Threads and modes of torch, the environment and our logger are afterwards what they were."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    tf32, environment = torch.backends.cuda.matmul.allow_tf32, dict(os.environ)
    level, propagate = log.level, log.propagate
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.allow_tf32 = tf32
        log.setLevel(level)
        log.propagate = propagate
        _put_back(environment)


def _put_back(environment: dict[str, str]) -> None:
    for name in os.environ.keys() - environment.keys() - {_STAYS}:
        del os.environ[name]
    os.environ.update(environment)


@contextmanager
def computing(device: Device) -> Iterator[None]:
    """Within, threads and arithmetic are those of the device, and nothing but warnings is said.

    Memory that runs out is a RunError.
    """
    with as_before(), logging_to(None, logging.WARNING), watched(device.torch):
        if device.spec is not None:
            device.spec.applied(device)
        yield
