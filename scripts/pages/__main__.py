"""The command line of the pages; `scripts/results` starts it in `.venv`."""

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

from _runs import Runs

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent.parent / "docs"


def main(arguments: list[str]) -> int:
    """Start the runs of a page, write the page and its pictures."""
    pages = [module.name for module in pkgutil.iter_modules([str(HERE)]) if not module.name.startswith("_")]
    parser = argparse.ArgumentParser(
        prog="scripts/results", description="Make a page of docs/ anew, from its own runs."
    )
    parser.add_argument("page", choices=pages)
    parser.add_argument("--folder", type=Path, default=Path("outputs/results"), help="where its runs are kept")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="runs side by side")
    options = parser.parse_args(arguments)
    page = importlib.import_module(options.page)
    runs = Runs(options.folder.absolute() / options.page, options.at_once)
    runs.train(page.TRAINED)
    runs.evaluate(page.EVALUATED)
    pictures = DOCS / options.page
    pictures.mkdir(exist_ok=True)
    (DOCS / f"{options.page}.md").write_text(page.text(runs, pictures), encoding="utf-8")
    print(f"docs/{options.page}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
