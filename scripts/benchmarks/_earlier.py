"""Contenders of another build of `ebm`, such as that of the commit before: `EBM_BENCH_EARLIER` names its clone.

Each runs in a process of its own, with this environment and these benchmarks, and works when it is its turn.
`_earlier.py CLONE MODULE FUNCTION ARGUMENTS` is that process: the function makes the contender, the arguments are
JSON; for each line it reads it does one unit of work and prints the measurement.
"""

import json
import os
import subprocess
import sys
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from _case import AbsentError, Contender, Maker

VARIABLE = "EBM_BENCH_EARLIER"
BUILD = "earlier build"


def earlier(module: str, function: str, *arguments: Any, **named: Any) -> Maker:
    """What `module.function(*arguments, **named)` makes with the `ebm_cli` and the defaults of the other clone."""
    return partial(_start, module, function, json.dumps([arguments, named]))


def _start(module: str, function: str, arguments: str) -> Contender:
    clone = os.environ.get(VARIABLE)
    if not clone:
        raise AbsentError(f"{VARIABLE} names no clone")
    command = [sys.executable, __file__, clone, module, function, arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def unit() -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the {BUILD} has ended: {' '.join(command)}")
        return float(answer)

    return unit


def _work(clone: str, module: str, function: str, arguments: str) -> None:
    """Until there is nothing more to read."""
    sys.path.insert(0, clone)
    import _command

    _command.ROOT = Path(clone)  # whose conf/ holds the defaults
    from ebm_cli.device import memory

    memory.keep_freed()
    places, named = json.loads(arguments)
    contender = getattr(import_module(module), function)(*places, **named)
    for _ in sys.stdin:
        begin = time.perf_counter()
        own = contender()
        print(time.perf_counter() - begin if own is None else own, flush=True)


if __name__ == "__main__":
    _work(*sys.argv[1:])
