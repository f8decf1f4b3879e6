"""Every objective that fits, on two moons and on an Ising model that can be enumerated."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from _runs import Runs
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ebm_cli.commands.trained import Trained, Wanted, open_trained
from ebm_cli.evaluation.density_2d import compared, grid
from ebm_cli.objective.nce import Contrast
from ebm_cli.space import Binary

NEAR, WANTED = 0.1, 0.15  # nats
MASS = "density_2d/valid/mode_error"
BAR = r"\|"  # within a table


class Way(NamedTuple):
    """What is typed after the recipe, the formula of the loss (expectations as E), and why it cannot reach the target."""

    line: str
    formula: str
    cannot: str = ""


FOLLOWED = "optimizer.lr=0.001 optimizer.rates=[[auxiliary.*,5]] optimizer.betas=[0.0,0.9] optimizer.ema=0.995"
LIKELIHOOD = "E_data[E(x)] - E_chains[E(y)]"
CONTRAST = "-E_data log σ(G(x)) - k E_q log σ(-G(y)), G = -E - c - log q - log k"
BOUND = "E_data[E(x)] - E_q[E(y)], q minimises E_q[E(y)] - H(q)"
RATIO = "learns log p - log q, a ratio; with log q added {restored:.3f}"

CHAINS = {
    "pcd": Way("objective=pcd", f"{LIKELIHOOD}, chains go on where they stopped"),
    "cd": Way("objective=cd", f"{LIKELIHOOD}, chains begin at the batch"),
    "cd_replay": Way("objective=cd_replay", f"{LIKELIHOOD}, chains of a reservoir, some begun anew at data"),
    "ml_replay": Way("objective=ml_replay", f"{LIKELIHOOD}, chains of a reservoir, some begun anew at noise"),
}
PLANE = {
    **CHAINS,
    "short_run": Way(
        "objective=short_run chains.steps=50 steps=600", f"{LIKELIHOOD}, chains begin at noise every time"
    ),
    "nce": Way("objective=nce steps=1500", f"{CONTRAST}; q a Gaussian, k = 10"),
    "nce, flow": Way(
        "objective=nce noise=flow objective.ratio=1 steps=1000", "the same, q a flow fitted by likelihood, k = 1"
    ),
    "flow_contrastive": Way(
        "objective=flow_contrastive steps=1000", "the same with k = 1; the flow q maximises the loss"
    ),
    "adversarial_contrastive": Way(
        "objective=adversarial_contrastive steps=600",
        "nce with q = (q_fixed + q_learned) / 2; q_learned maximises the loss",
    ),
    "conditional_nce": Way("objective=conditional_nce steps=1500", "2 E log(1 + exp(E(x) - E(y))), y = x + noise"),
    "score_matching, explicit": Way(
        "objective=score_matching objective.variant=explicit steps=1000", "E_data[tr ds/dx + |s|²/2], s = -dE/dx"
    ),
    "score_matching, sliced": Way(
        "objective=score_matching objective.variant=sliced", "E_data E_v[v·(ds/dx)v + (v·s)²/2]"
    ),
    "score_matching, sliced_vr": Way(
        "objective=score_matching objective.variant=sliced_vr", "E_data E_v[v·(ds/dx)v] + E_data|s|²/2"
    ),
    "score_matching, denoising": Way(
        "objective=score_matching objective.variant=denoising", "E|s(x + az) + z/a|²/2, a = 0.1"
    ),
    "stein": Way(
        f"objective=stein objective.input_scale=4 steps=3000 {FOLLOWED}",
        "E_data[s·f + tr df/dx], f maximises it less E_data|f|²/2",
    ),
    "energy_discrepancy": Way(
        "objective=energy_discrepancy steps=1500",
        "E log(w/M + mean_j exp(E(x) - E(x_j))), x_j disturbed there and back",
    ),
    "variational, flow": Way(
        f"objective=variational objective.q=flow objective.gradient_penalty=0.003 steps=3000 {FOLLOWED}", BOUND
    ),
    "variational, gaussian": Way(
        f"objective=variational objective.q=gaussian objective.gradient_penalty=0.003 steps=1000 {FOLLOWED}",
        f"{BOUND}, q independent Gaussians",
        "no Gaussian q follows two moons, and what q does not reach is not pushed up",
    ),
    "variational, vera": Way(
        "objective=variational objective.q=vera objective.gradient_penalty=0.03 objective.proposals=60 steps=1500 "
        "optimizer.lr=0.0002 optimizer.rates=[[auxiliary.*,10]] optimizer.betas=[0.5,0.9] optimizer.ema=0.995",
        f"{BOUND}, q a network's output plus noise",
        "not reached in a minute: the gradient of H(q) is an estimate, noisy and slightly biased, and q trails behind the model",
    ),
    "negative_sampling": Way(
        "objective=negative_sampling noise=fitted steps=1500", "the loss of nce with log q := 0", RATIO
    ),
}
BITS = {
    "exact": Way("objective=exact", "E_data[E(x)] + log Z, Z by enumeration"),
    **CHAINS,
    "short_run": Way("objective=short_run", f"{LIKELIHOOD}, chains begin at noise every time"),
    "pseudo_likelihood": Way("objective=pseudo_likelihood", "-E_data Σ_i log p(x_i | others)"),
    "ratio_matching": Way("objective=ratio_matching", "E_data Σ_i (1 - p(x_i | others))²"),
    "nce": Way("objective=nce", f"{CONTRAST}; q independent bits, k = 10"),
    "adversarial_contrastive": Way(
        "objective=adversarial_contrastive", "nce with q = (q_fixed + q_learned) / 2; q_learned maximises the loss"
    ),
    "conditional_nce": Way("objective=conditional_nce", "2 E log(1 + exp(E(x) - E(y))), y = x with one bit flipped"),
    "energy_discrepancy": Way(
        "objective=energy_discrepancy",
        "E log(w/M + mean_j exp(E(x) - E(x_j))), each bit flipped with probability 0.1, twice",
    ),
    "negative_sampling": Way(
        "objective=negative_sampling noise=fitted optimizer.lr=0.05 steps=6000",
        "the loss of nce with log q := 0",
        RATIO,
    ),
}
FAR = {
    "score_matching, explicit": "objective=score_matching objective.variant=explicit steps=1000",
    "nce": "objective=nce steps=1000",
}


def _named(target: str, name: str) -> str:
    return f"{target}_{name.replace(', ', '_')}"


TRAINED = {
    _named(target, name): f"experiment=paradigms_{recipe} {way.line} device.threads=1"
    for target, recipe, ways in (("plane", "2d", PLANE), ("bits", "binary", BITS))
    for name, way in ways.items()
}
TRAINED |= {
    _named(
        "far", name
    ): f"experiment=paradigms_2d dataset.kind=gaussians8 {line} evaluation=[density_2d] device.threads=1"
    for name, line in FAR.items()
}
EVALUATED: dict[str, tuple[str, str]] = {}


class Row(NamedTuple):
    """What a run came to."""

    name: str
    way: Way
    summary: dict[str, float]
    near: float | None  # seconds
    restored: float | None  # nats, with log q added

    def cells(self, kind: str) -> list[str]:
        """The columns of a table; `kind` is the evaluation that knows log Z."""
        found = self.summary
        kl, learned = found[f"{kind}/kl"], found.get(f"{kind}/learned_log_z_error")
        note = self.way.cannot.format(restored=self.restored or math.nan)
        return [
            self.name,
            f"{kl:.3f}" if kl <= WANTED else f"**{kl:.2f}**",
            f"{1000 * found['samples/mmd']:.1f}",
            "–" if learned is None else f"{learned:+.3f}",
            f"{found['ais/log_z'] - found[f'{kind}/log_z']:+.3f}",
            "–" if self.near is None else f"{self.near:.1f}" if self.near < 10 else f"{self.near:.0f}",
            f"{found['seconds']:.0f}",
            note or ("" if kl <= WANTED else "not reached"),
        ]


COLUMNS = (
    "objective", "KL, nats", "MMD² × 1000", "learned log Z − log Z", "AIS − log Z", "seconds to 0.1 nats",
    "seconds", "",
)  # fmt: skip


def text(runs: Runs, pictures: Path) -> str:
    """The page; its sheet of maps is drawn beside it."""
    plane = [_row(runs, "plane", name, way, "density_2d") for name, way in PLANE.items()]
    bits = [_row(runs, "bits", name, way, "exact") for name, way in BITS.items()]
    _sheet(runs, pictures / "maps.png")
    yardsticks = [1000 * rows[0].summary["samples/mmd_standard_error"] for rows in (plane, bits)]
    return (
        "\n\n".join(
            [
                _head(runs),
                "## Two moons",
                f"""A perceptron of two layers of 128 units beside a wide Gaussian, on two half circles with noise; 50000 points,
batches of 500, Adam from 0.003 to 0 unless the line says otherwise. log Z is that of a grid of 200 x 200 cells. MMD² of equal
laws would be 0 ± {yardsticks[0]:.1f} thousandths.""",
                _table(plane, "density_2d"),
                "![Densities learned by each objective, and the truth](paradigms/maps.png)\n\n*Densities learned by each objective*",
                _seen({row.name: row for row in plane}),
                "## An Ising model",
                f"""A Boltzmann machine (136 parameters) on 20000 samples of a 4 x 4 torus with J = 0.24 on each edge and a field of
0.05; independent bits with its means are 1.18 nats away. log Z and KL by all 65536 states; 3000 updates of batches of 500, Adam
from 0.02 to 0. MMD² of equal laws would be 0 ± {yardsticks[1]:.1f} thousandths.""",
                _table(bits, "exact"),
                _far(runs),
                "## Which loss, in one line",
                _formulas(),
                _commands(),
            ]
        )
        + "\n"
    )


def _head(runs: Runs) -> str:
    seconds = sum(runs.summary(name)["seconds"] for name in TRAINED)
    return f"""# Objectives side by side

Made by `scripts/results paradigms`; numbers and pictures are those of its {len(TRAINED)} runs, {seconds / 60:.0f} minutes of them
on one core each, half of that two at a time. The machine had two cores and other work beside, so seconds are upper bounds.

There are many ways around log Z: chains that sample the model, noise with a known density to be told from, scores that do not
contain it, a second distribution that follows the model. Here each trains one model on one target whose density is known, so
that KL(truth || model) can be computed and not estimated. *MMD²* is the squared maximum mean discrepancy of 2000 samples,
500 Metropolis steps (two moons) or Gibbs sweeps (bits) from noise, to 5000 held-out rows at most: it judges model and sampler
together. *Learned log Z* is there where the objective learns it as a parameter; *AIS* estimates it for all, with 100 chains. *Seconds to 0.1 nats* are
those of training to the first of the evaluations, one every 100 updates and counted in, whose KL is below."""


def _row(runs: Runs, target: str, name: str, way: Way, kind: str) -> Row:
    run = _named(target, name)
    summary = runs.summary(run)
    per_step = summary["training_seconds"] / summary["steps"]
    logged = map(json.loads, (runs.folder / run / "metrics.jsonl").read_text().splitlines())
    steps = [line["step"] for line in logged if line.get(f"{kind}/valid/kl", math.inf) < NEAR]
    restored = _restored(runs, run) if way.cannot == RATIO else None
    return Row(name, way, summary, min(steps) * per_step if steps else None, restored)


def _table(rows: list[Row], kind: str) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row.cells(kind) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _opened(runs: Runs, run: str) -> Trained:
    path = runs.folder / run
    device = yaml.safe_load((path / "config.yaml").read_text())["device"]
    return open_trained(Wanted(path, "last", device, None, []), with_data=True)


@torch.no_grad()
def _restored(runs: Runs, run: str) -> float:
    """KL(truth || exp(-E) q / Z), in nats."""
    trained = _opened(runs, run)
    model, contrast, truth = trained.state.averaged_model(), trained.state.auxiliary, trained.parts.data.truth
    assert isinstance(contrast, Contrast)
    if isinstance(model.space, Binary):
        x = model.space.enumerate().float()
        log_p = truth.law(x)
        return (
            (log_p.exp() * (log_p - (contrast.noise.log_prob(x) - model.energy(x)).double().log_softmax(0)))
            .sum()
            .item()
        )
    x, _ = grid(200, 1.5 * truth.density.reach, torch.device("cpu"))
    return compared(truth.density, x, (contrast.noise.log_prob(x) - model.energy(x)).double().log_softmax(0))["kl"]


@torch.no_grad()
def _sheet(runs: Runs, path: Path) -> None:
    """Densities on the plane, each beside others of its truth and in its colours."""
    first = _opened(runs, _named("plane", "pcd"))
    maps: list[tuple[str, Callable[[Tensor], Tensor], float]] = []
    moons = first.parts.data.truth.density
    maps.append(("two moons", moons.log_prob, moons.reach))
    maps += [(name, _log_density(runs, _named("plane", name)), moons.reach) for name in PLANE]
    gaussians = _opened(runs, _named("far", "nce")).parts.data.truth.density
    maps.append(("eight Gaussians", gaussians.log_prob, gaussians.reach))
    maps += [(name, _log_density(runs, _named("far", name)), gaussians.reach) for name in FAR]
    columns = 6
    figure = Figure(figsize=(2 * columns, 2.2 * -(-len(maps) // columns)), layout="constrained", dpi=80)
    axes = figure.subplots(-(-len(maps) // columns), columns)
    top = 1.0
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (title, log_density, reach) in zip(axes.flat, maps, strict=False):
        x, cell = grid(160, reach, torch.device("cpu"))
        p = log_density(x).double().softmax(0).reshape(160, 160) / cell**2
        top = p.max().item() if title in ("two moons", "eight Gaussians") else top
        axis.imshow(p.numpy(), origin="lower", vmin=0, vmax=top)
        axis.set_title(title, fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    _save(path, np.asarray(canvas.buffer_rgba())[:, :, :3])


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(pixels).quantize(64).save(path, optimize=True)


def _log_density(runs: Runs, run: str) -> Callable[[Tensor], Tensor]:
    model = _opened(runs, run).state.averaged_model()
    return lambda x: -model.energy(x)


def _seen(rows: dict[str, Row]) -> str:
    def kl(name: str) -> str:
        return f"{rows[name].summary['density_2d/kl']:.3f}"

    def mmd(name: str) -> str:
        return f"{1000 * rows[name].summary['samples/mmd']:.1f}"

    return f"""* **Chains.** Metropolis steps as long as the moons are far apart lead from one to the other, so all four ways to keep chains come
  near the truth; those of `pcd`, which are few and never begin anew, trail behind the model at first. `short_run` learns what its
  50 steps reach from noise: a bridge between the moons remains.
* **Noise.** Telling data from a wide Gaussian (`nce`) is as good as chains, and c comes to log Z. A flow needs fewer draws, one for
  each datum, but learns at the same time. `conditional_nce` and `energy_discrepancy` make their noise from the data, need no
  density and cost least; they learn no log Z.
* **Scores.** The moons have the right shape and unequal weights, since hardly any datum lies between them: the divergence is small
  ({kl("score_matching, explicit")}, {kl("score_matching, sliced")}, {kl("score_matching, sliced_vr")}), the discrepancy of samples is not
  ({mmd("score_matching, explicit")}, {mmd("score_matching, sliced")} and {mmd("score_matching, sliced_vr")} thousandths). `denoising` learns the
  density of data + noise: wider moons, √(0.15² + 0.1²) = 0.18 in place of 0.15. `stein` has a critic in the
  place of second derivatives, and comes as near ({kl("stein")}).
* **A second distribution.** A flow that follows the model takes the place of its chains ({kl("variational, flow")}) and costs most. A
  Gaussian cannot follow: the model escapes it to one spot, further with every update. VERA's generator stays behind ({rows["variational, vera"].summary["density_2d/kl"]:.2f}): at lower rates it is slower, at higher ones
  model and generator chase each other."""


def _far(runs: Runs) -> str:
    lines = []
    for name in FAR:
        run = _named("far", name)
        summary, logged = (
            runs.summary(run),
            map(json.loads, (runs.folder / run / "metrics.jsonl").read_text().splitlines()),
        )
        half = summary["steps"] / 2
        errors = [line[MASS] for line in logged if MASS in line and line["step"] > half]
        end = summary["density_2d/mode_error"]
        lines.append(
            f"| {name} | {summary['density_2d/kl']:.3f} | {end:.0%} | {min(errors):.0%} to {max(errors):.0%} |"
        )
    rows = "\n".join(lines)
    return f"""## What scores do not see

The score says how the density changes from place to place. Between modes with next to nothing between them it is hardly ever
asked, so that little decides the weights of modes, and they wander. The same model on eight Gaussians six standard deviations
apart (the last maps of the sheet), 1000 updates each:

| objective | KL, nats | largest error of a mode's mass | in the second half of training |
|---|---|---|---|
{rows}"""


def _formulas() -> str:
    ways = {"exact": BITS["exact"], **PLANE, **{name: way for name, way in BITS.items() if name not in PLANE}}
    lines = [f"| {name} | {way.formula.replace('|', BAR)} |" for name, way in ways.items()]
    about = "p = exp(-E) / Z, σ the logistic function, H the entropy; conditional_nce and energy_discrepancy disturb bits by flips."
    return "\n".join([about, "", "| objective | minimised |", "|---|---|", *lines])


def _commands() -> str:
    lines = [f"ebm train experiment=paradigms_2d {way.line}" for way in PLANE.values()]
    lines += [f"ebm train experiment=paradigms_binary {way.line}" for way in BITS.values()]
    return "## Commands\n\n```\n" + "\n".join(lines) + "\n```"
