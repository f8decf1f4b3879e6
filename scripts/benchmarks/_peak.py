"""The memory of a process."""

import subprocess
import sys
from pathlib import Path


def peak() -> int:
    """Most bytes that were resident in this process so far.

    VmHWM, since the ru_maxrss of a process begins at that of its parent.
    """
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def of_program(name: str, *arguments: object) -> float:
    """What one of the files here prints that is run by itself: its peak, in bytes."""
    command = [sys.executable, str(Path(__file__).with_name(name)), *map(str, arguments)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
