"""Tables in Markdown, for the terminal and for docs/benchmarks.md alike."""

import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from _case import PEERS, Case, Required
from _measure import Measured


def document(head: str, results: list[Measured]) -> str:
    """docs/benchmarks.md; `head` is `machine()` from before the first case, since the load is then another's."""
    title = "# Benchmarks\n\nWritten by `scripts/bench --write`; the files in scripts/benchmarks say what is timed."
    return "\n\n".join([title, head, *map(section, results)]) + "\n"


def machine() -> str:
    """What ran, on what, and when; nothing that names the computer."""
    device = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    rows = {
        "date": date.today().isoformat(),
        "device": ", ".join([f"{_cpu()}, {len(os.sched_getaffinity(0))} cores", *device]),
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads; Python {platform.python_version()}",
        "load": f"{os.getloadavg()[0]:.1f} runnable processes in the last minute; 0 is a quiet machine",
        "peers": ", ".join(f"{peer} {_version(peer)}" for peer in PEERS.values()),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def section(result: Measured) -> str:
    """The contenders of one case, and whether the required figures are met."""
    case = result.case
    rows = [_row(result, name) for name in [*result.samples, *result.absent]]
    table = [_line(["contender", case.unit.name, "10 to 90 %", *_columns(case)]), _line(["---"] * len(rows[0]))]
    parts = [f"## {case.name}", f"{case.title} Medians of {result.rounds} alternating rounds."]
    parts.append("\n".join(table + [_line(row) for row in rows]))
    if case.required:
        verdicts = [_line(["required", "bound", "measured", ""]), _line(["---"] * 4)]
        parts.append("\n".join(verdicts + [_line(_verdict(result, required)) for required in case.required]))
    return "\n\n".join(parts)


def _columns(case: Case) -> list[str]:
    ratio = [f"/ {case.ours}"] if case.ours else []
    return ratio + (["share of the products' rate"] if case.floor else [])


def _row(result: Measured, name: str) -> list[str]:
    case, samples = result.case, result.samples
    if name in result.absent:
        return [name, result.absent[name], "", *[""] * len(_columns(case))]
    low, middle, high = (f"{value * case.unit.scale:.4g}" for value in np.quantile(samples[name], [0.1, 0.5, 0.9]))
    cells = [name, middle, f"{low} to {high}"]
    if case.ours:
        cells.append(_quotient(result, name, case.ours))
    if case.floor:
        cells.append(_quotient(result, case.floor, name))
    return cells


def _quotient(result: Measured, over: str, under: str) -> str:
    if over in result.absent or under in result.absent:
        return ""
    return f"{np.median(result.samples[over] / result.samples[under]):.2f}"


def _verdict(result: Measured, required: Required) -> list[str]:
    sign = "≥" if required.at_least else "≤"
    words = [required.what, f"{sign} {required.bound:g}"]
    try:
        value = required.value(result.samples)
    except KeyError as missing:
        if missing.args[0] not in result.absent:
            raise
        return [*words, "", f"not measured: {missing.args[0]} {result.absent[missing.args[0]]}"]
    met = value >= required.bound if required.at_least else value <= required.bound
    return [*words, f"{value:.3g}", "met" if met else "MISSED"]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
