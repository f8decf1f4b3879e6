"""What is shown of one run, or of many: text and tables for a terminal of any width."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ebm_cli.terminal import pace, short, time_left
from ebm_cli.watching.curve import drawn, number
from ebm_cli.watching.look import Look

_STYLES = {"running": "cyan", "done": "green", "failed": "red", "died": "red", "stopped": "yellow", "pruned": "blue"}
_SIDE_BY_SIDE = 100  # letters that two curves beside each other need
_PICTURES = 4
_FIRST = ("running", "failed", "died", "stopped", "new", "pruned", "done")


def of_run(look: Look, width: int, height: int, *, dots: bool) -> RenderableType:
    """Its state, its curves, and the newest number of each metric."""
    parts: list[RenderableType] = [_heading(look, width, dots=dots)]
    if look.error:
        parts.append(Text(look.error, style="red"))
    names = main_metrics(look)
    beside = 2 if width >= _SIDE_BY_SIDE and len(names) > 1 else 1
    numbers = _numbers(look, width)
    tall = max(4, min(10, (height - 4 - numbers.row_count) // max(1, -(-len(names) // beside)) - 3))
    return Group(*parts, _pictures(look, names, (width, tall, beside), dots=dots), numbers)


def of_many(looks: Sequence[Look], width: int, *, rows: int | None, dots: bool) -> RenderableType:
    """A line for each, those first that are at work or went wrong where there is no room for all."""
    counts = Counter(look.state for look in looks)
    done = counts.pop("done", 0)
    said = ", ".join(f"{counts[state]} {_said(state)}" for state in sorted(counts, key=_rank))
    shown = list(looks)
    if rows is not None and len(shown) > rows:
        shown = sorted(looks, key=lambda look: _rank(look.state))[:rows]
    metrics = _compared(looks)[-2 if width >= _SIDE_BY_SIDE else -1 :]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for head, most in (("run", width // 4), ("", width // 4), ("state", None), ("progress", None), ("left", None)):
        table.add_column(head, no_wrap=True, overflow="ellipsis", max_width=most)
    for name in metrics:
        table.add_column(Text(short(name)), justify="right", overflow="fold", min_width=9)
    alike = _alike(looks)
    for look in shown:
        table.add_row(*_row(look, alike, metrics, dots=dots))
    heading = Text(f"{done} of {len(looks)} runs done{f': {said}' if said else ''}", style="bold")
    more = [Text(f"and {len(looks) - len(shown)} more")] if len(shown) < len(looks) else []
    return Group(heading, table, *more)


def _rank(state: str) -> int:
    return (*_FIRST, state).index(state)


def main_metrics(look: Look) -> list[str]:
    """The loss, or the energy gap where it is that, what is measured on held-out rows, the gradient."""
    there = look.curves
    first = ["energy_gap"] if there.get("energy_gap") else ["loss"]
    if "loss" in there and there.get("loss") != there.get("energy_gap"):
        first = ["loss", *(name for name in first if name != "loss")]
    held_out = {name.partition("/")[0]: name for name in reversed([*there]) if "/valid/" in name}  # the first of each
    wanted = [*first, *reversed(held_out.values()), "gradient_norm"]
    return [name for name in wanted if name in there][:_PICTURES]


def _compared(looks: Sequence[Look]) -> list[str]:
    """What of many runs there is room for: the first of the main metrics, and one of held-out rows."""
    found = list(dict.fromkeys(name for look in looks for name in main_metrics(look)))
    held_out = [name for name in found if "/valid/" in name]
    return [*[name for name in found if name not in held_out][:1], *held_out[:1]]


def _heading(look: Look, width: int, *, dots: bool) -> Text:
    head = Text.assemble((look.name, "bold"), "  ", (_state(look), _STYLES.get(look.state, "")), "\n")
    progress = "  ".join(filter(None, [_progress(look, max(10, width // 4), dots=dots), pace(look.rate), _left(look)]))
    return head.append(progress).append("\n")


def _state(look: Look) -> str:
    trained = look.state == "running" and look.steps is not None and look.step >= look.steps
    return "evaluating" if trained else _said(look.state)


def _said(state: str) -> str:
    return "not begun" if state == "new" else state


def _progress(look: Look, length: int, *, dots: bool) -> str:
    """A bar with the steps; no bar where it is not known how many there are to be."""
    if not look.steps:
        return f"step {look.step}" if look.step else ""
    full = min(length, length * look.step // look.steps)
    bar = ("━" * full + "╌" * (length - full)) if dots else "=" * full + "-" * (length - full)
    return f"{bar} {look.step}/{look.steps}"


def _left(look: Look) -> str:
    return time_left((look.steps or 0) - look.step, look.rate)


def _alike(looks: Sequence[Look]) -> set[str]:
    """What was typed for all of them."""
    several = [set(look.typed) for look in looks if look.typed]
    return set.intersection(*several) if several else set()


def _row(look: Look, alike: set[str], metrics: Sequence[str], *, dots: bool) -> list[Text]:
    state = Text(_state(look), style=_STYLES.get(look.state, ""))
    newest = look.newest
    numbers = [number(newest[name]) if name in newest else "" for name in metrics]
    said = [_progress(look, 10, dots=dots), _left(look).removesuffix(" left"), *numbers]
    own = " ".join(word for word in look.typed if word not in alike)
    return [Text(look.name), Text(own), state, *map(Text, said)]


def _pictures(look: Look, names: Sequence[str], size: tuple[int, int, int], *, dots: bool) -> Table:
    width, tall, beside = size
    grid = Table.grid(padding=(0, 2, 0, 0))
    each = (width - 2 * (beside - 1)) // beside - 1
    pictures = [Text("\n".join([name, *drawn(look.curves[name], each, tall, dots=dots), ""])) for name in names]
    for _ in range(beside):
        grid.add_column(width=each, no_wrap=True)
    for at in range(0, len(pictures), beside):
        grid.add_row(*pictures[at : at + beside])
    return grid


def _numbers(look: Look, width: int) -> Table:
    """As many columns of names and numbers as there is room for."""
    cells = [(name, number(value)) for name, value in look.newest.items()]
    widest = max((len(name) + len(value) + 4 for name, value in cells), default=width)
    across = max(1, min(4, width // widest))
    grid = Table.grid(padding=(0, 2, 0, 0))
    lines = -(-len(cells) // across)
    for at in range(lines):
        grid.add_row(*(Text(text) for cell in cells[at::lines] for text in cell))
    return grid
