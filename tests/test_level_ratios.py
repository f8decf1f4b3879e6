"""log Z along levels of noise by replicas that exchange them: against integrals, and where starts do not agree."""

import dataclasses
import math

import pytest
import torch
from helpers.cli import assert_refused, ebm, facts
from helpers.components import component
from helpers.data import small_data
from helpers.statistics import assert_close
from test_leveled import KEY, data, network, truth
from test_levels_walked import TwoModes, plane

from ebm_cli.dataset.base import Split
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.level_ratios import with_noise
from ebm_cli.model.level_ladder import ladder_of
from ebm_cli.rng import normal
from ebm_cli.sampler.level_exchange import Exchange
from ebm_cli.space import Real

SAMPLER = component("sampler", "level_exchange", transitions=2)


def subject_of(model, rows, sampler=SAMPLER):
    of = dataclasses.replace(small_data(model.space), test=Split(model.space, rows, 1.0, stochastic=False, labels=None))
    return Subject(model, of, "test", sampler, rows[:0], KEY)


def found(model, rows, **keys):
    evaluation = component("evaluation", "level_ratios", **keys)
    return evaluation.evaluate(subject_of(model, rows))


@pytest.mark.long
def test_it_finds_the_integral_of_a_random_network():
    """Within its interval, which is narrow, as do the means over rows."""
    model, log_z = plane()
    rows = torch.tensor([[-0.8], [0.4], [1.1], [0.2]], dtype=torch.float64)
    result = found(model, rows, chains=100, warmup=20, rounds=60)
    values = {name.removeprefix("level_ratios/"): value for name, value in result.metrics.items()}
    assert values["log_z_low"] < log_z[0] < values["log_z_high"]
    assert 0.005 < values["log_z_high"] - values["log_z_low"] < 0.2
    assert values["log_likelihood"] == pytest.approx((-model.energy(rows)).mean().item() - values["log_z"])
    assert values["overlap"] > 0.3
    assert not result.warnings
    lines = result.files["level_ratios.csv"].splitlines()
    assert lines[0] == "level,next,exchanges,overlap,log_ratio_noise,log_ratio_rows"
    assert [line.split(",")[:2] for line in lines[1:]] == [[str(k), str(k - 1)] for k in range(7, 0, -1)]
    for k, line in zip(range(7, 0, -1), lines[1:], strict=True):  # of w, whose volume differs from that of x_k
        volume = (model.stretch[k] / model.stretch[k - 1]).log().item()
        assert [float(ratio) for ratio in line.split(",")[4:]] == pytest.approx(
            [(log_z[k - 1] - log_z[k]).item() + volume] * 2, abs=0.1
        )


@pytest.mark.parametrize("process", ["vp", "ve"])
def test_gaussian_levels_have_no_error(process):
    """Of data N(m, r^2) all levels are one density of w, whatever the chains do."""
    model = truth(process, levels=6).requires_grad_(requires_grad=False)
    model.precision.copy_(torch.eye(2, dtype=torch.float64) / model.variance[:, None, None])
    model.constant.copy_(-(2 * math.pi * model.variance).log() - model.scale.log().sum())
    values = found(model, data(model, 5), chains=3, warmup=0, rounds=2).metrics
    assert [values[f"level_ratios/log_z{end}"] for end in ("", "_low", "_high")] == pytest.approx([0.0] * 3, abs=1e-9)
    assert values["level_ratios/overlap"] == pytest.approx(1)


def test_differences_of_neighbours_are_those_of_their_energies():
    """log f_j - log f_i, j one down from i, at the replica of i and at that of j."""
    model, k = network().requires_grad_(requires_grad=False), network().levels
    w = normal((3, k, 3), KEY, dtype=torch.float64)
    exchange = Exchange(ladder_of(model), SAMPLER.kernel, 1)
    up, down = exchange.differences(w)

    def log_f(level, at):
        return -model.at(level).energy(model.mean + model.stretch[level] * (at - model.mean))

    for place, level in enumerate(range(k - 1, 0, -1)):
        for found, at in ((up, w[:, place]), (down, w[:, place + 1])):
            assert_close(found[:, place], log_f(level - 1, at) - log_f(level, at), rtol=1e-9)
    assert_close(exchange._gain(w), up - down)


def test_rows_get_the_noise_of_every_level():
    """w = m + (x_k - m) sqrt(v_0 / v_k), the last level first: less and less of the data, in one variance."""
    model = truth("ve", levels=6)
    x = (model.mean + 3 * model.scale).expand(20_000, -1)
    w = (with_noise(model, x, KEY) - model.mean) / model.scale
    assert w.shape == (20_000, 6, 2)
    for place, k in enumerate(range(5, -1, -1)):
        stretch = (model.variance[k] / model.variance[0]).sqrt().double()
        assert_close(w[:, place].mean(0), (3 * model.a[k] / stretch).expand(2).double(), atol=0.04)
        assert_close(w[:, place].std(0), (model.s[k] / stretch).expand(2).double(), rtol=0.03)


class Trap(TwoModes):
    """A third mode at level 0 alone, to which no level leads: e^4 times as heavy as the others together."""

    def energy_at(self, x, level):
        energy = super().energy_at(x, level)
        trap = (x[:, 0] - 9) ** 2 / (2 * self.std**2) + math.log(self.std) - 4
        return torch.where(level == 0, -torch.stack([-energy, -trap]).logsumexp(0), energy)


@pytest.mark.long
def test_starts_that_lead_elsewhere_widen_the_interval_and_are_said():
    """Chains from noise never come to the trap, those from its rows never leave it; the truth is between the ends."""
    scales, beyond = (
        component("process", "vp", levels=12, time_min=0.02).scales(),
        3.0 * 11,
    )  # of its last level's log Z
    said = {}
    for kind, rows in ((TwoModes, [-1.0, 1.0, 1.0, 1.0]), (Trap, [9.0, 9.0])):
        model = kind(Real((1,)), scales, torch.zeros(1), 1.0)
        said[kind] = found(model, torch.tensor(rows)[:, None], chains=100, warmup=20, rounds=60)
    log_z, low, high = (said[TwoModes].metrics[f"level_ratios/log_z{end}"] for end in ("", "_low", "_high"))
    assert low < beyond < high
    assert (log_z, high - low) == (pytest.approx(beyond, abs=0.1), pytest.approx(0, abs=0.3))
    assert not said[TwoModes].warnings
    low, high = (said[Trap].metrics[f"level_ratios/log_z_{end}"] for end in ("low", "high"))
    assert low < beyond + math.log(1 + math.exp(4)) < high
    assert low == pytest.approx(beyond, abs=0.3)
    assert any("nats of log Z beside those from noise" in warning for warning in said[Trap].warnings)


@pytest.mark.long
def test_from_the_command_line(tmp_path):
    """Of a run, in its table; without exchange, and without levels, it is refused with the way out."""
    run = tmp_path / "run"
    answer = ebm(
        "train model=leveled dataset=points_2d dataset.train=200 dataset.held_out=20 model.process.levels=4 "
        "model.waves=0 model.network.widths=[4] steps=2 batch_size=10 evaluation=[] tracker=none device=cpu "
        f"checkpoint.monitor=null hydra.run.dir={run}"
    )
    assert answer.code == 0, answer.err
    keys = "evaluation=[level_ratios] evaluation.level_ratios.chains=3 evaluation.level_ratios.rounds=4"
    line = f"evaluate run={run} device=cpu {keys} evaluation.level_ratios.warmup=1"
    answer = ebm(f"{line} sampler=level_exchange")
    assert answer.code == 0, answer.err
    assert "log-likelihood (test), level_ratios" in answer.out
    (home,) = (run / "evaluations").iterdir()
    assert facts(home, "results.json")["level_ratios/log_z_low"] <= facts(home, "results.json")["level_ratios/log_z"]
    assert (home / "level_ratios.csv").exists()
    assert_refused(ebm(line), "which sampler=predictor_corrector does not do; add sampler=level_exchange")
