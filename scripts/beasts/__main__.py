"""Trains the zoo and judges the judge."""

import argparse
import contextlib
import io
import json
import shlex
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _kinds import KINDS

from ebm_cli.cli.main import dispatch

PARTS = ("choose", "judge")
_Z = 1.959964  # of 95 %
_COMMON = (
    "tracker=none device=cpu device.threads=1 device.compile=never evaluation=[] checkpoint.monitor=null "
    "report.checkpoint=last eval_every=0 save_every=0"
)


class Beast(NamedTuple):
    """One run: its kind, what spoils it (None: nothing), its words and its seed."""

    kind: str
    cause: str | None
    words: str
    seed: int

    @property
    def name(self) -> str:
        """As its folder is called."""
        text = f"{self.kind} {self.cause or 'healthy'} {self.words} {self.seed}"
        return "".join(c if c.isalnum() else "_" for c in text)


def beasts(part: str, healthy_seeds: int) -> Iterator[Beast]:
    """All of one part, whose seeds are its own."""
    first = 1000 * PARTS.index(part)
    for name, kind in KINDS.items():
        for words in kind.healthy:
            yield from (Beast(name, None, words, first + seed) for seed in range(healthy_seeds))
        for cause, settings in kind.spoilt.items():
            for words in settings:
                yield from (Beast(name, cause, words, first + seed) for seed in range(kind.seeds))


def data(folder: Path) -> dict[str, str]:
    """Files of data that nobody scaled."""
    rng = np.random.default_rng(0)
    plane = rng.choice([-2.0, 0.0, 2.0], (3000, 2)) + 0.1 * rng.normal(size=(3000, 2))
    wide = rng.normal(size=(2000, 20)) @ rng.normal(size=(20, 20))
    found = {}
    for name, rows in {"plane": 1000 * plane, "scaled": 300 * wide}.items():
        path = folder / f"{name}.npz"
        np.savez(path, train=rows.astype(np.float32)[500:], test=rows.astype(np.float32)[:500])
        found[name] = str(path.absolute())
    return found


def trained(beast: Beast, folder: Path, files: dict[str, str]) -> None:
    """Its run, unless it is there."""
    kind, home = KINDS[beast.kind], folder / beast.name
    if (home / "outcome.json").exists():
        return
    words = f"{kind.words} {_COMMON} steps={kind.steps} {beast.words}".format(**files)
    last = {word.partition("=")[0]: word for word in shlex.split(words)}  # what is said later counts
    for word in [word for word in last if word.startswith("~")]:
        del last[word]
        last.pop(word[1:], None)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = dispatch(["train", *last.values(), f"seed={beast.seed}", f"hydra.run.dir={home}"])
    home.mkdir(exist_ok=True)
    (home / "said.txt").write_text(said.getvalue())
    if code == 2:  # a mistake in this file
        print(f"refused: {beast}: {said.getvalue().strip().splitlines()[-1]}", flush=True)
    (home / "outcome.json").write_text(json.dumps({**beast._asdict(), "code": code}))


def lines(home: Path) -> list[dict[str, Any]]:
    """What it logged."""
    path = home / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Seen(NamedTuple):
    """What health said of one run: the first step with a doubt, None without, and which signs."""

    step: int | None
    signs: list[str]
    failed: bool


def seen(home: Path) -> Seen:
    """From the metrics; a run that was ended for numbers that are not finite is seen by that."""
    doubts = [line["step"] for line in lines(home) if line.get("health/level")]
    failed = json.loads((home / "outcome.json").read_text())["code"] != 0
    ended = max((line["step"] for line in lines(home)), default=0)
    step = doubts[0] if doubts else ended if failed else None
    told = (home / "said.txt").read_text()
    names = [line for line in told.splitlines() if ": suspicious: " in line or ": failing: " in line]
    return Seen(step, names, failed)


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The interval of Wilson 1927 for a share, 95 %."""
    if not of:
        return 0.0, 1.0
    p, z2 = hits / of, _Z**2
    centre, half = p + z2 / (2 * of), _Z * (p * (1 - p) / of + z2 / (4 * of**2)) ** 0.5
    return (centre - half) / (1 + z2 / of), (centre + half) / (1 + z2 / of)


def shown(what: str, hits: int, of: int) -> str:
    """A share in words."""
    low, high = wilson(hits, of)
    return f"{what}: {hits} of {of}, {100 * hits / max(of, 1):.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def report(part: str, folder: Path, those: list[Beast]) -> None:
    """Recall, false alarms, delay, and what was missed."""
    there = [beast for beast in those if (folder / beast.name / "outcome.json").exists()]
    found = {beast: seen(folder / beast.name) for beast in there}
    spoilt = [beast for beast in there if beast.cause]
    healthy = [beast for beast in there if not beast.cause]
    caught = [beast for beast in spoilt if found[beast].step is not None]
    alarms = [beast for beast in healthy if found[beast].step is not None]
    print(f"== {part}: {len(there)} of {len(those)} runs")
    print(shown("recall", len(caught), len(spoilt)))
    print(shown("false alarms", len(alarms), len(healthy)))
    if caught:
        print(f"median delay: {statistics.median(found[beast].step or 0 for beast in caught):g} steps")
    for cause in dict.fromkeys(beast.cause for beast in spoilt):
        of = [beast for beast in spoilt if beast.cause == cause]
        print(" ", shown(str(cause), sum(found[beast].step is not None for beast in of), len(of)))
    for beast in spoilt:
        if found[beast].step is None:
            print("missed:", beast)
    for beast in alarms:
        print("false alarm:", beast, found[beast].signs[:1] or "ended by itself")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/zoo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ebm-zoo")
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="runs by which thresholds were chosen, or others"
    )
    parser.add_argument("--only", default="", help="runs with this word alone")
    parser.add_argument("--healthy", type=int, default=2, help="seeds of each healthy setting")
    parser.add_argument("--report", action="store_true", help="train nothing")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    files = data(asked.folder)
    for part in asked.part or PARTS:
        those = [beast for beast in beasts(part, asked.healthy) if asked.only in " ".join(map(str, beast))]
        for beast in [] if asked.report else those:
            trained(beast, asked.folder, files)
        report(part, asked.folder, those)


if __name__ == "__main__":
    main()
