"""What `auto` means for a device, whether compiling repays its cost, and in which arithmetic products are formed."""

import os
import shutil
import sysconfig
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from ebm_cli.device.base import Device, DeviceSpec
from ebm_cli.device.engine import Work
from ebm_cli.device.stack import common, current
from ebm_cli.errors import UserError
from ebm_cli.model.base import Bipartite, EnergyModel
from ebm_cli.terminal import log

_COST = 10.0  # seconds that compiling takes
# Seconds it saves, measured on two cores: for each number drawn, and in fixed point for each entry of the matrix.
_PER_NUMBER, _PER_ENTRY = 3.5e-9, 3e-11
_PER_PIXEL = 3e-8  # the same where the gradient of a convolutional network is taken for each
# On CUDA, where an uncompiled transition is some 50 kernels and a compiled one a graph, each saves a millisecond or so.
_PER_TRANSITION = 1e-3
# The same of a training step that is one library, whatever its size, for each update, where no earlier run has made it.
_COST_OF_STEPS, _PER_UPDATE = 14.0, 7.8e-4
# Multiplications in one product below which two threads are no faster than one, measured.
_SHARED = 2e6
_STEPS = {"updates": "training steps compiled", "ahead": "training steps, or their transitions, and annealing compiled"}
_DIGITS = {"fixed16": 2, "fixed24": 3}


Unfit = Mapping[str, str | None]


def resolved(spec: DeviceSpec, model: EnergyModel, work: Work, unfit: Unfit) -> tuple[DeviceSpec, str]:
    """The settings with every auto replaced, and a sentence on it; `unfit`: why `updates` and `ahead` are impossible.

    Raises UserError if compiled code or fixed point is asked for and impossible.
    """
    on_cuda = torch.cuda.is_available() and spec.kind != "cpu"
    how, missing = _how(spec, model, work, unfit, on_cuda=on_cuda)
    if spec.compile in ("always", *_STEPS) and missing:
        raise UserError(f"device.compile = {spec.compile}: {missing}; use device.compile=never")
    lacking = _no_fixed_point(model, on_cuda)
    if spec.precision == "tf32" and not on_cuda:
        raise UserError("device.precision = tf32: a CPU has no such products; use fp32 or bf16")
    if spec.precision.startswith("fixed") and lacking:
        raise UserError(f"device.precision = {spec.precision}: {lacking}; use device.precision=fp32")
    precision = spec.precision
    if precision == "auto":
        precision = "fixed16" if how == "always" and lacking is None else "fp32"
    imitated = _imitated(precision, on_cuda)
    return replace(spec, compile=how, precision=precision), "; ".join([_said(how, missing), *imitated])


def _how(
    spec: DeviceSpec, model: EnergyModel, work: Work, unfit: Unfit, *, on_cuda: bool
) -> tuple[Literal["updates", "ahead", "always", "never"], str | None]:
    """What is compiled, and why not everything that was asked for, or for auto might have been."""
    if spec.compile == "never":
        return "never", None
    if spec.compile in ("updates", "ahead"):
        return spec.compile, unfit[spec.compile] or _no_compiler()
    if spec.compile == "auto" and current() is not None and not unfit["ahead"] and not _no_compiler():
        return "ahead", None
    missing = _missing(spec, model, on_cuda, work)
    if missing is None or spec.compile == "always":
        return "always", missing
    if not unfit["updates"] and work.updates * _PER_UPDATE >= _COST_OF_STEPS and not _no_compiler():
        return "updates", None
    return "never", missing


def _said(how: str, missing: str | None) -> str:
    if how == "always":
        return "inner loops compiled, which the first steps wait for"
    if how in _STEPS:
        return _STEPS[how]
    return f"inner loops not compiled: {missing or 'device.compile=never, as typed or as the run began'}"


def say_alone(spec: DeviceSpec, why: str) -> None:
    """Of jobs that were to train in step and cannot the first says so, of each reason."""
    if current() is not None and spec.compile != "ahead":
        common(f"not in step: {why}", partial(log.warning, "not in step, one job after the other: %s", why))


def _imitated(precision: str, on_cuda: bool) -> list[str]:
    """A sentence where products are asked for that the processor lacks: torch then forms them from float32's."""
    if precision != "bf16" or on_cuda or os.uname().machine != "x86_64":
        return []
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return []
    return ["this processor has no bf16 products and imitates them, many times slower than device.precision=fp32"]


def threads(spec: DeviceSpec, model: EnergyModel, rows: int) -> int | None:
    """CPU threads where none were asked for: one if the products are too small to share, else torch's own choice."""
    entries = sum(p.numel() for p in model.parameters())
    small = model.compiles and rows * entries < _SHARED
    return spec.threads or (1 if small and not (torch.cuda.is_available() and spec.kind != "cpu") else None)


def for_evaluation(spec: DeviceSpec) -> DeviceSpec:
    """The same with products no coarser than float32's."""
    return replace(spec, precision="fixed24" if spec.precision.startswith("fixed") else "fp32")


def _missing(spec: DeviceSpec, model: EnergyModel, on_cuda: bool, work: Work) -> str | None:
    """Why inner loops are not compiled, or None."""
    if spec.compile == "auto" and not work.transitions:
        return "nothing here moves chains for long"
    if spec.compile == "auto" and _saving(model, on_cuda, work) < _COST:
        return "too short to repay compiling (device.compile=always insists)"
    return _no_triton() if on_cuda else _no_compiler()


def _saving(model: EnergyModel, on_cuda: bool, work: Work) -> float:
    """Seconds that compiled loops are faster, about."""
    if on_cuda:
        return work.transitions * _PER_TRANSITION
    entries = 0
    if isinstance(model, Bipartite) and _no_fixed_point(model, on_cuda) is None:
        entries = model.space.sites * model.hidden
    each = _PER_PIXEL if model.convolves else _PER_NUMBER
    return work.moves * (model.drawn * each + entries * _PER_ENTRY)


def _no_triton() -> str | None:
    from torch.utils._triton import has_triton

    return None if has_triton() else "Triton is not installed"


def _no_compiler() -> str | None:
    name = os.environ.get("CXX", "g++")  # the one that PyTorch takes; asking it would import its compiler, for seconds
    if shutil.which(name) is None:
        return f"there is no C++ compiler (install {name})"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return None if header.exists() else f"{header} is missing (install the headers of this Python)"


def _no_fixed_point(model: EnergyModel, on_cuda: bool) -> str | None:
    """Why the model's products cannot be formed of 8-bit integers fast and exactly, or None."""
    if not model.has_fixed_point:
        return "this model has no products of binary units with a matrix"
    # Without these instructions oneDNN's 8-bit products are slower, and on some processors they saturate.
    return None if not on_cuda and torch.cpu._is_vnni_supported() else "only CPUs with VNNI instructions have it"


def arithmetic(model: EnergyModel, device: Device) -> EnergyModel:
    """The model with its products as the device's precision asks, for training; good until its weights change."""
    return _in_digits(model, device, _DIGITS.get(device.precision))


def full_arithmetic(model: EnergyModel, device: Device) -> EnergyModel:
    """The same for evaluation: nothing coarser than float32."""
    return _in_digits(model, device, 3 if device.precision in _DIGITS else None)


def _in_digits(model: EnergyModel, device: Device, digits: int | None) -> EnergyModel:
    found = model.in_fixed_point(digits, device.engine) if digits else None
    return found or model
