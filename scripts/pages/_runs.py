"""Runs and evaluations of a page, each a command line, some side by side; what is there is not done again."""

import csv
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

EBM = [sys.executable, "-m", "ebm_cli"]


class Runs:
    """Runs by their names in one folder, and evaluations of them by names of their own."""

    def __init__(self, folder: Path, at_once: int) -> None:
        self.folder, self.at_once = folder, at_once
        folder.mkdir(parents=True, exist_ok=True)
        self.words: dict[str, str] = {}

    def train(self, lines: dict[str, str]) -> None:
        """Name of a run -> what is typed after `ebm train`."""
        self.words |= lines
        with ThreadPoolExecutor(self.at_once) as pool:
            list(pool.map(self._train, lines, lines.values()))

    def _train(self, name: str, line: str) -> None:
        home = self.folder / name
        if not (home / "summary.json").exists() or json.loads((home / "summary.json").read_text())["status"] != "done":
            _say(["train", *line.split(), "tracker=none", f"hydra.run.dir={home}", "resume=auto"])

    def evaluate(self, lines: dict[str, tuple[str, str]]) -> None:
        """Name of an evaluation -> name of its run, and what is typed after `ebm evaluate run=RUN`."""
        with ThreadPoolExecutor(self.at_once) as pool:
            list(pool.map(self._evaluate, lines, lines.values()))

    def _evaluate(self, name: str, of: tuple[str, str]) -> None:
        run, line = of
        if self._mark(name).exists():
            return
        out = _say(["evaluate", f"run={self.folder / run}", *line.split()])
        results = next(word for word in out.split() if word.endswith("results.json"))
        self._mark(name).write_text(str(Path(results).parent.relative_to(self.folder)))

    def _mark(self, name: str) -> Path:
        return self.folder / f"{name}.evaluation"

    def at(self, name: str) -> Path:
        """Where the files of an evaluation are."""
        return self.folder / self._mark(name).read_text()

    def results(self, name: str) -> dict[str, float]:
        """Its numbers."""
        return json.loads((self.at(name) / "results.json").read_text())

    def table(self, name: str, file: str) -> list[dict[str, str]]:
        """Rows of a table it wrote."""
        with (self.at(name) / file).open(newline="", encoding="utf-8") as text:
            return list(csv.DictReader(text))

    def summary(self, name: str) -> dict[str, float]:
        """What a run ended with."""
        return json.loads((self.folder / name / "summary.json").read_text())


def _say(words: list[str]) -> str:
    print("ebm", *words, flush=True)
    return subprocess.run([*EBM, *words], check=True, capture_output=True, text=True).stdout
