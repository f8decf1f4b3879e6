"""How far a run is, where a notebook shows it."""

import html
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ebm_cli.terminal import steps_shown_by


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which shows HTML."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell is not None else None
    return found is not None and getattr(found, "kernel", None) is not None


def progress() -> Any:
    """Within, steps are a bar in the cell of a notebook that changes in place; elsewhere lines as usual."""
    return _bar() if in_notebook() else nullcontext()


@contextmanager
def _bar() -> Iterator[None]:
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)
    with steps_shown_by(_shown_in(handle, HTML)):
        yield


def _shown_in(handle: Any, made: Callable[[str], Any]) -> Callable[[int, int, str], None]:
    def show(step: int, total: int, numbers: str) -> None:
        said = html.escape(f"step {step}/{total}  {numbers}")
        handle.update(made(f'<progress value="{step}" max="{total}"></progress> <code>{said}</code>'))

    return show
