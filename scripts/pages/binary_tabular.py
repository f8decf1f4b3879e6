"""`ebm train dataset=binary_tabular dataset.table=TABLE`, the default RBM, on each of the six tables, and on digits."""

from pathlib import Path

from _runs import Runs

from ebm_cli.dataset.binary_tabular import VARIABLES

PUBLISHED = {"dna": -96.74, "mushrooms": -15.15, "nips": -277.37}  # RBM rows, nats, as other papers quote them
SEEDS = {"digits": "", "digits_seed1": "seed=1"}
TRAINED = {
    **{table: f"dataset=binary_tabular dataset.table={table} evaluation=[ais] device.threads=1" for table in VARIABLES},
    **{name: f"{words} evaluation=[ais] device.threads=1".strip() for name, words in SEEDS.items()},
}
EVALUATED: dict[str, tuple[str, str]] = {}
COLUMNS = (
    "data", "AIS", "RAISE, same rows", "weights that count", "independent units", "published RBM", "judged at step",
    "training, s", "in all, s",
)  # fmt: skip


def text(runs: Runs, pictures: Path) -> str:
    """The page; it has no pictures."""
    return "\n\n".join([_head(), _table(runs), _notes(runs), _commands()]) + "\n"


def _head() -> str:
    return """# The default RBM on tables of bits

Made by `scripts/results binary_tabular`. Each row is one run with the defaults: 64 hidden units, 20 000 updates of 100 rows and
100 chains, PCD-1, centred gradient, rate 0.1 falling to 0, weights averaged (0.998), AIS on validation rows every 1000 updates.
The checkpoint judged is the one where that was highest, where the last is worse by more than twice the error of the difference over rows; else the last.
Log-likelihood of test rows in nats. *Weights that count* are the effective number of the 100 annealing runs. One seed each, one
thread, one run at a time on two cores with nothing else running."""


def _table(runs: Runs) -> str:
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(_row(runs, name) for name in TRAINED)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _row(runs: Runs, name: str) -> list[str]:
    found, published = runs.summary(name), PUBLISHED.get(name)
    return [
        name,
        f"{found['ais/log_likelihood']:.2f} ± {found['ais/standard_error']:.2f}",
        f"{found['raise/log_likelihood']:.2f}",
        f"{found['ais/weight_ess']:.0f}",
        f"{found['baseline/independent']:.2f}",
        "–" if published is None else f"{published:.2f}",
        f"{found.get('judged_step', found['steps']):.0f}",
        f"{found['training_seconds']:.0f}",
        f"{found['seconds']:.0f}",
    ]


def _notes(runs: Runs) -> str:
    wide = [name for name in TRAINED if abs(runs.summary(name)["ais/gap"]) > 1]
    said = f"more than 1 nat wide on {', '.join(wide)}" if wide else "less than 1 nat wide everywhere"
    below = [name for name, best in PUBLISHED.items() if runs.summary(name)["ais/log_likelihood"] < best]
    than = f"worse than published on {', '.join(below)}" if below else "better than each published row"
    return f"""* The bracket from RAISE to AIS is {said}. RAISE may lie above AIS: it bounds the annealed model.
* AIS is {than}. Those are the RBM rows that Larochelle and Murray 2011 and Germain et al. 2015 are quoted with; they were not checked
  at the source, nor how many hidden units those RBMs have, so they are a yardstick and no replication.
* Rows of validation choose the step. Where rows are few (nips has 400 to train on) the RBM overfits early, and the last checkpoint is worse."""


def _commands() -> str:
    return "```\n" + "\n".join(f"ebm train {line} tracker=none" for line in TRAINED.values()) + "\n```"
