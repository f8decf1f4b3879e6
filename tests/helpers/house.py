"""The rooms of the package, in the order in which they may import. `python house.py` draws them in docs/design.md."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ebm_cli"

# From the bottom up. A file imports only from lines above its own, or from its own folder.
LAYERS = """
errors philox philox_triton signals functional
rng
registry space graph
record
terminal device tracker
process
model dataset
sampler peers
noise log_z acceleration
objective chains optimizer
yardstick sparsity
health
stop evaluation
running
training
comparison watching
page
commands
cli
api
sklearn
__main__
"""


def house() -> str:
    """Every room with the sentence that its code begins with, in a line or two."""
    rooms = [name for name in LAYERS.split() if name != "__main__"]
    return "\n".join(f"| `{_shown(name)}` | {_sentence(name)} |" for name in rooms)


def _shown(name: str) -> str:
    return f"{name}/" if (PACKAGE / name).is_dir() else f"{name}.py"


def _sentence(name: str) -> str:
    folder = PACKAGE / name
    text = (folder / "__init__.py" if folder.is_dir() else PACKAGE / f"{name}.py").read_text()
    said = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]
    return " ".join(said.split()).replace("|", "\\|")


if __name__ == "__main__":
    page = ROOT / "docs" / "design.md"
    drawn = re.sub(
        r"(?<=\| --- \| --- \|\n)(\| `\w+(/|\.py)` \|.*\n)+", lambda _: house() + "\n", page.read_text(), count=1
    )
    page.write_text(drawn)
