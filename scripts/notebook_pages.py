"""Hook of mkdocs: a page for each notebook of the manual, its text and its code."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

_LINK = re.compile(r"\]\((\w+)\.ipynb\)")


def on_files(files: Any, config: Any) -> Any:
    """The pages, which lie beside the notebooks."""
    for path in sorted(Path(config.docs_dir).glob("*.ipynb")):
        files.append(File.generated(config, f"{path.stem}.md", content=_page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to a notebook lead to its page, but for the one by which the page offers the notebook itself."""
    own = (Path(config.docs_dir) / page.file.src_uri).with_suffix(".ipynb").exists()
    return markdown if own else _LINK.sub(r"](\1.md)", markdown)


def _page(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join([_shown(cells[0]), f"[This page as a notebook]({path.name}).", *map(_shown, cells[1:])]) + "\n"


def _shown(cell: dict[str, Any]) -> str:
    text = "".join(cell["source"])
    return text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
