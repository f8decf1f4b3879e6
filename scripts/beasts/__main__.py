"""Trains the zoo and judges the judge."""

import argparse
import contextlib
import hashlib
import io
import json
import math
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _kinds import CAUSES, KINDS

from ebm_cli.cli.main import dispatch

_FIRST = {"choose": 0, "judge": 1000, "prove": 3000}  # seeds; those from 2000 on were looked at while limits were made
PARTS = tuple(_FIRST)
_MENDED = 4000  # the seed of runs that may go back by which remedies were chosen
_SHARES = ("ood/shuffled/energy", "exact/perplexity")  # metrics that are no nats
_UNMEASURED = "evaluation=[] ~evaluation.density_2d.side"
_STOPPED = (75, 130)  # exit codes of a run that was asked to stop, which has no outcome
_Z = 1.959964  # of 95 %
_COMMON = (
    "tracker=none device=cpu device.threads=1 device.compile=never running=none checkpoint.monitor=null "
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


def beasts(part: str) -> list[Beast]:
    """All of one part, the kinds in turns: every third setting is kept from `choose`; seeds are other ones in each."""
    first, found = _FIRST[part], list[tuple[int, Beast]]()
    for name, kind in KINDS.items():
        own = list[Beast]()
        for cause, every in {None: kind.healthy, **kind.spoilt}.items():
            count = kind.seeds[1 if cause else 0] // (3 if part == "judge" else 1) or 1
            chosen = [words for i, words in enumerate(every) if part != "choose" or i % 3 != 2]
            own += [Beast(name, cause, words, first + seed) for words in chosen for seed in range(count)]
        found += enumerate(sorted(own, key=lambda beast: (beast.seed, hash_of(beast))))
    return [beast for _, beast in sorted(found, key=lambda pair: pair[0])]


def hash_of(beast: Beast) -> str:
    """An order that has healthy and spoilt ones of all causes mixed, so that the first runs stand for all."""
    return hashlib.sha256(beast.name.encode()).hexdigest()


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
    """Its run, unless it is there; one that was interrupted is begun anew."""
    kind, home = KINDS[beast.kind], folder / beast.name
    if (home / "outcome.json").exists():
        return
    shutil.rmtree(home, ignore_errors=True)
    words = f"{kind.words} {_COMMON} steps={kind.steps} {beast.words}".format(**files)
    last = {word.partition("=")[0]: word for word in shlex.split(words)}  # what is said later counts
    for word in [word for word in last if word.startswith("~")]:
        del last[word]
        last.pop(word[1:], None)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = dispatch(["train", *last.values(), f"seed={beast.seed}", f"hydra.run.dir={home}"])
    if code in _STOPPED:
        sys.exit(code)
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
    """What health said of one run: the first step with a doubt, None without, and in which words; and what the run was
    worth by a measure of its own, None of a run that ended by itself."""

    step: int | None
    signs: list[str]
    worth: float | None


def seen(beast: Beast, home: Path) -> Seen:
    """From the metrics; a run that was ended for numbers that are not finite is seen by that."""
    doubts = [line["step"] for line in lines(home) if line.get("health/level")]
    failed = json.loads((home / "outcome.json").read_text())["code"] != 0
    ended = max((line["step"] for line in lines(home)), default=0)
    told = (home / "said.txt").read_text()
    names = [line for line in told.splitlines() if ": suspicious: " in line or ": failing: " in line]
    summary = {} if failed else json.loads((home / "summary.json").read_text())
    return Seen(doubts[0] if doubts else ended if failed else None, names, summary.get(KINDS[beast.kind].metric))


def is_bad(beast: Beast, found: Seen, tuned: dict[str, float]) -> bool | None:
    """By its worth beside that of runs that were tuned by hand; None in between."""
    kind = KINDS[beast.kind]
    if found.worth is None:
        return True
    lost = (tuned[beast.kind] - found.worth) * (1 if kind.higher else -1) / kind.margin
    return True if lost > 1 else False if lost < 0.5 else None


def is_mended(beast: Beast, worth: float | None, tuned: float) -> bool:
    """Whether it ended within 1 nat, or 5 % of the metric, of a run that was tuned by hand, or above it."""
    kind = KINDS[beast.kind]
    lost = math.inf if worth is None else (tuned - worth) * (1 if kind.higher else -1)
    return lost <= max(0.05 * abs(tuned), 0 if kind.metric in _SHARES else 1)


def mending(folder: Path, files: dict[str, str], asked: argparse.Namespace, until: float) -> None:
    """Spoilt runs with `health.act=recover`, beside what was tuned by hand and runs as long: which end as well?"""
    found: dict[str, list[bool]] = {}
    for beast, tuned in sorted(mended(asked.seed), key=lambda pair: hash_of(pair[0])):
        if asked.only in " ".join(map(str, beast)) and time.monotonic() < until:
            for one in (tuned, beast):
                trained(one, folder, files)
        if not all(_began(folder / one.name) for one in (tuned, beast)) or asked.only not in " ".join(map(str, beast)):
            continue
        of, own = (seen(one, folder / one.name).worth for one in (tuned, beast))
        assert of is not None
        found.setdefault(str(beast.cause), []).append(is_mended(beast, own, of))
        print("mended" if found[str(beast.cause)][-1] else "not mended", *beast, own, "tuned", of, flush=True)
    for cause, each in found.items():
        print(shown(cause, sum(each), len(each)))
    print(shown("within 1 nat or 5 %", *(sum(map(f, found.values())) for f in (sum, len))))


def mended(seed: int) -> list[tuple[Beast, Beast]]:
    """Of each spoilt setting the run tuned by hand but for it, which may go back, and the tuned one, of the same
    optimizer; of data that are spoilt these with standardised columns."""
    pairs = []
    for name, kind in KINDS.items():
        more = f"steps={4 * kind.steps} health.every=25 health.share=0.1"
        tuned = f"{kind.healthy[0]} {kind.steady}".strip()
        for cause, every in kind.spoilt.items():
            for words in every:
                measured = words.replace(_UNMEASURED, "")
                with_it = f"{tuned} {measured} {more} health.act=recover"
                scaled = f"{tuned} {measured} dataset.standardise=true {more}"
                other = next((own for optimizer, own in kind.others.items() if optimizer in words), "")
                without = scaled if cause == "data scale" else " ".join(filter(None, (tuned, other, more)))
                pairs.append((Beast(name, cause, with_it, seed), Beast(name, None, without, seed)))
    return pairs


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


class Judged(NamedTuple):
    """Runs with what was seen of them, and whether their worth is bad, good, or neither (None)."""

    found: dict[Beast, Seen]
    bad: dict[Beast, bool | None]

    def spoilt(self, **which: str) -> list[Beast]:
        """Those that were spoilt and are bad, of one kind or cause."""
        return [beast for beast in self.bad if beast.cause and self.bad[beast] and _is(beast, which)]

    def healthy(self, **which: str) -> list[Beast]:
        """Those that were not spoilt and are good."""
        return [beast for beast in self.bad if not beast.cause and self.bad[beast] is False and _is(beast, which)]

    def doubted(self, those: list[Beast]) -> list[Beast]:
        """Which of them health had a doubt of."""
        return [beast for beast in those if self.found[beast].step is not None]


def _is(beast: Beast, which: dict[str, str]) -> bool:
    return all(getattr(beast, key) == value for key, value in which.items())


def _began(home: Path) -> bool:
    """Whether there is a run, which was not refused."""
    outcome = home / "outcome.json"
    return outcome.exists() and json.loads(outcome.read_text())["code"] != 2


def judged(folder: Path, those: list[Beast]) -> Judged:
    """Those runs that are there, of kinds of which tuned ones are there, be they of another part."""
    every = [beast for part in PARTS for beast in beasts(part) if _began(folder / beast.name)]
    found = {beast: seen(beast, folder / beast.name) for beast in every}
    there = [beast for beast in those if beast in found]
    worth: dict[str, list[float]] = {}
    for beast in every:
        if beast.cause is None and beast.words == KINDS[beast.kind].healthy[0]:
            worth.setdefault(beast.kind, []).append(found[beast].worth or 0.0)
    tuned = {kind: statistics.median(values) for kind, values in worth.items()}
    return Judged(found, {beast: is_bad(beast, found[beast], tuned) for beast in there if beast.kind in tuned})


def report(part: str, those: Judged) -> None:
    """Recall, false alarms, delay, and what was missed."""
    spoilt, healthy = those.spoilt(), those.healthy()
    caught, alarms = those.doubted(spoilt), those.doubted(healthy)
    print(f"== {part}: {len(those.bad)} runs")
    print(f"spoilt and not bad for it: {sum(1 for beast in those.bad if beast.cause) - len(spoilt)}")
    print(f"meant to be healthy and not good: {sum(1 for beast in those.bad if not beast.cause) - len(healthy)}")
    print(shown("recall", len(caught), len(spoilt)))
    print(shown("false alarms", len(alarms), len(healthy)))
    if caught:
        print(f"median delay: {statistics.median(those.found[beast].step or 0 for beast in caught):g} steps")
    for cause in CAUSES:
        print(" ", shown(cause, len(those.doubted(those.spoilt(cause=cause))), len(those.spoilt(cause=cause))))
    for kind in KINDS:
        of, fine = those.spoilt(kind=kind), those.healthy(kind=kind)
        print(" ", shown(kind, len(those.doubted(of)), len(of)), end="; ")
        print(shown("false alarms", len(those.doubted(fine)), len(fine)))
    for beast in [beast for beast in spoilt if beast not in caught]:
        print("missed:", *beast, those.found[beast].worth)
    for beast in alarms:
        print("false alarm:", *beast, those.found[beast].worth, those.found[beast].signs)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/zoo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ebm-zoo")
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="runs by which thresholds were chosen, or others"
    )
    parser.add_argument("--only", default="", help="runs with this word alone")
    parser.add_argument("--minutes", type=float, default=60, help="train no more runs after so many")
    parser.add_argument(
        "--recover", action="store_true", help="spoilt runs that may go back, beside tuned ones, instead"
    )
    parser.add_argument("--seed", type=int, default=_MENDED, help=f"of those; rules were made by {_MENDED}")
    parser.add_argument("--report", action="store_true", help="train nothing")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    files, began = data(asked.folder), time.monotonic()
    if asked.recover:
        mending(asked.folder, files, asked, began + 60 * (0 if asked.report else asked.minutes))
        return
    for part in asked.part or PARTS:
        those = [beast for beast in beasts(part) if asked.only in " ".join(map(str, beast))]
        for beast in [] if asked.report else those:
            if time.monotonic() - began < 60 * asked.minutes:
                trained(beast, asked.folder, files)
        report(part, judged(asked.folder, those))


if __name__ == "__main__":
    main()
