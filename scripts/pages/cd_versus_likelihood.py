"""Contrastive divergence against maximum likelihood on 8x8 digits: five runs and how their chains behave."""

import shutil
from pathlib import Path

from _runs import Runs

KINDS = {
    "ml_replay": "replay, restarts from noise: likelihood",
    "true_cd": "replay, restarts from data: contrastive divergence",
    "true_cd_kl": "the same with its KL term",
    "elastic": "likelihood, chains deformed when drawn",
    "high_noise": "likelihood, ten times the noise",
}
TRAINED = {kind: f"experiment=chains_{kind}_digits evaluation=[samples]" for kind in KINDS}

LOW, HIGH = "0.005", "0.05"
SHORT, LONG = 500, 10000
PLAIN = "sampler=langevin sampler.step_size=10.0 sampler.noise=0.005 sampler.clip=0.03"
DEFORMED = (
    "sampler=augmented sampler.every=100 sampler.elastic=0.05 sampler.kernel.step_size=10.0 "
    "sampler.kernel.noise=0.005 sampler.kernel.clip=0.03"
)


def _long_run(steps: int, chains: int, sampler: str, noises: str) -> str:
    keys = {"steps": steps, "chains": chains, "noises": f"[{noises}]"}
    words = " ".join(f"evaluation.long_run.{key}={value}" for key, value in keys.items())
    return f"evaluation=[long_run] {words} {sampler} device.threads=1"


EVALUATED = {f"{kind}_short": (kind, _long_run(SHORT, 200, PLAIN, LOW)) for kind in KINDS}
EVALUATED |= {f"{kind}_plain": (kind, _long_run(LONG, 64, PLAIN, f"{LOW},{HIGH}")) for kind in KINDS}
EVALUATED |= {
    f"{kind}_deformed": (kind, _long_run(LONG, 64, DEFORMED, f"{LOW},{HIGH}")) for kind in ("ml_replay", "elastic")
}

COLUMNS = {
    "energy_inside": "energy as data's",
    "recognised": "recognised",
    "largest_class": "largest class",
    "rarest_class": "rarest class",
    "class_kept": "class kept",
    "class_changed_since_half": "class changed in the second half",
    "moved": "moved",
}


def text(runs: Runs, pictures: Path) -> str:
    """The page; its pictures are copied beside it."""
    parts = [_head(runs), _noise_and_data(runs), _likelihood(runs), _high_noise(runs), _elastic(runs)]
    for name, strip in STRIPS.items():
        shutil.copyfile(runs.at(name.rpartition("-")[0]) / f"long_run_noise_{strip}.png", pictures / f"{name}.png")
    return "\n\n".join(parts) + "\n"


STRIPS = {
    "true_cd_plain-noise": f"{LOW}_from_noise",
    "true_cd_plain-data": f"{LOW}_from_data",
    "ml_replay_plain-noise": f"{LOW}_from_noise",
    "ml_replay_plain-data": f"{LOW}_from_data",
    "ml_replay_plain-high": f"{HIGH}_from_data",
    "elastic_deformed-data": f"{LOW}_from_data",
    "ml_replay_deformed-data": f"{LOW}_from_data",
    "elastic_plain-data": f"{LOW}_from_data",
}


def _number(runs: Runs, name: str, noise: str, start: str, metric: str) -> float:
    return runs.results(name)[f"long_run/noise_{noise}/from_{start}/{metric}"]


def _rows(runs: Runs, names: dict[str, str], noise: str, starts: tuple[str, ...]) -> str:
    """A table: one row for each evaluation and start."""
    lines = [f"| trained | start | {' | '.join(COLUMNS.values())} |", "|---" * (2 + len(COLUMNS)) + "|"]
    for name, words in names.items():
        for start in starts:
            cells = [f"{_number(runs, name, noise, start, metric):.2f}" for metric in COLUMNS]
            lines.append(f"| {words} | {start} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _strip(name: str, words: str) -> str:
    return f"![{words}](cd_versus_likelihood/{name}.png)\n\n*{words}*"


def _head(runs: Runs) -> str:
    seconds = {kind: runs.summary(kind)["training_seconds"] for kind in KINDS}
    judge = {name: runs.results("ml_replay_short")[f"long_run/{name}"] for name in ("classifier_accuracy", "mistaken")}
    lines = "\n".join(
        f"| `experiment=chains_{kind}_digits` | {words} | {seconds[kind]:.0f} |" for kind, words in KINDS.items()
    )
    return f"""# Contrastive divergence and likelihood

Made by `scripts/results cd_versus_likelihood`; numbers, verdicts and pictures are those of its runs.

Image models are said to be trained by contrastive divergence. What decides is where the negative chains start: at data,
which is contrastive divergence, or at noise and wherever chains have come to since, which follows the likelihood. Five
runs of one network on the 8x8 digits of scikit-learn that differ in nothing else than their line says:

| command | what it is | seconds of training |
|---|---|---|
{lines}

(Two at a time, one core each, beside other work at times.)

Four convolutional and linear layers, Adam from 5e-4 to 0 with beta1 = 0, batches of 64, 8000 updates, 40 Langevin steps of
step 10 and noise 0.005 with gradients clipped at 0.03, squared energies with weight 0.1. Each is followed by chains from
noise, from held-out digits and from its own reservoir. *Recognised* is the share of chains to which a small classifier gives
a class with at least 80 %. It was trained on the same digits and on what is none, noise and digits whose pixels are in
disorder, as a class of their own: of held-out digits it names {judge["classifier_accuracy"]:.1%} rightly and takes
{judge["mistaken"]:.1%} of what is none for a digit. (One that knows digits alone finds them in noise too.) *Energy as data's*
is the share between the 1 % and the 99 % quantile of held-out energies; *class kept* has the class it started with; *moved* is the distance from the start, 1 for that of two held-out
digits. Such chains run at a temperature of about 1e-6: they look
for low energies and say nothing of probabilities."""


def _verdict(*, holds: bool) -> str:
    return "**Seen here.**" if holds else "**Not seen here.**"


def _noise_and_data(runs: Runs) -> str:
    noise = _number(runs, "true_cd_short", LOW, "noise", "recognised")
    kept = _number(runs, "true_cd_plain", LOW, "data", "class_kept")
    names = {f"{kind}_plain": kind for kind in ("true_cd", "true_cd_kl", "ml_replay")}
    return f"""## Does contrastive divergence fail from noise, while chains from data stay?

{_verdict(holds=noise < 0.5 < kept)} From noise {noise:.0%} of its chains are recognised after {SHORT} steps; from data
{kept:.0%} still have their class after {LONG}. With the KL term in the sign of its derivation
{_number(runs, "true_cd_kl_short", LOW, "noise", "recognised"):.0%} are recognised from noise.

After {LONG} steps at noise {LOW}:

{_rows(runs, names, LOW, ("noise", "data"))}

{_strip("true_cd_plain-noise", "Contrastive divergence, chains from noise; each row a chain, each column twice the steps")}

{_strip("true_cd_plain-data", "Contrastive divergence, chains from data")}

{_strip("ml_replay_plain-data", "Likelihood, chains from data")}"""


def _likelihood(runs: Runs) -> str:
    get = {m: _number(runs, "ml_replay_short", LOW, "noise", m) for m in COLUMNS}
    reached = get["energy_inside"] >= 0.8 and get["recognised"] >= 0.5 and get["rarest_class"] >= 0.02
    names = {f"{kind}_short": kind for kind in KINDS}
    return f"""## Do replay's chains from noise reach the energies of digits, and become digits?

{_verdict(holds=reached)} After {SHORT} steps {get["energy_inside"]:.0%} of 200 chains from noise have energies in the held-out
range, {get["recognised"]:.1%} are recognised (80 % were hoped for), and the rarest class has {get["rarest_class"]:.1%} of them.

After {SHORT} steps at noise {LOW}, 200 chains:

{_rows(runs, names, LOW, ("noise",))}

{_strip("ml_replay_plain-noise", "Likelihood, chains from noise")}"""


def _high_noise(runs: Runs) -> str:
    low, high = (_number(runs, "ml_replay_plain", noise, "data", "largest_class") for noise in (LOW, HIGH))
    trained = _number(runs, "high_noise_plain", HIGH, "data", "largest_class")
    deformed = _number(runs, "elastic_deformed", HIGH, "data", "largest_class")
    names = {"ml_replay_plain": "ml_replay", "high_noise_plain": "high_noise", "elastic_deformed": "elastic, deformed"}
    return f"""## Does high noise send all chains to few classes?

{_verdict(holds=high >= 0.5)} The largest class holds {low:.0%} of the chains from data after {LONG} steps at noise {LOW} and
{high:.0%} at noise {HIGH}; after training at that noise {trained:.0%}, with deformations in training and sampling
{deformed:.0%}. (Of the held-out digits each class is about 10 %.)

After {LONG} steps at noise {HIGH}:

{_rows(runs, names, HIGH, ("noise", "data"))}

{_strip("ml_replay_plain-high", f"Likelihood, chains from data at noise {HIGH}")}"""


def _elastic(runs: Runs) -> str:
    change = {
        name: _number(runs, name, LOW, "data", "class_changed_since_half")
        for name in ("elastic_deformed", "elastic_plain", "ml_replay_deformed", "ml_replay_plain")
    }
    good = _number(runs, "elastic_deformed", LOW, "data", "recognised")
    mixes = change["elastic_deformed"] >= 0.3 and good >= 0.5
    names = {
        "elastic_deformed": "trained and sampled with deformations",
        "elastic_plain": "trained with, sampled without",
        "ml_replay_deformed": "trained without, sampled with",
        "ml_replay_plain": "without",
    }
    return f"""## Do elastic deformations mix?

{_verdict(holds=mixes)} Trained and sampled with a deformation every 100 steps, {change["elastic_deformed"]:.0%} of the chains
change their class in the second half of {LONG} steps, and {good:.0%} are recognised at the end; sampled without deformations
{change["elastic_plain"]:.0%} change; trained without, {change["ml_replay_deformed"]:.0%} with them in sampling alone and
{change["ml_replay_plain"]:.0%} without any.

After {LONG} steps at noise {LOW}:

{_rows(runs, names, LOW, ("noise", "data"))}

{_strip("elastic_deformed-data", "Trained and sampled with deformations, chains from data")}

{_strip("elastic_plain-data", "Trained with, sampled without")}

{_strip("ml_replay_deformed-data", "Trained without, sampled with")}"""
