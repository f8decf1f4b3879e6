"""`ebm sample given=FILE`: what is missing is drawn, everything else stays, and what is said of each value drawn."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from helpers.cli import assert_refused, ebm, snapshot
from helpers.components import shipped
from helpers.models import example, small_model
from torch import Tensor

from ebm_cli import registry, rng
from ebm_cli.commands.given_rows import Filled, said
from ebm_cli.dataset.base import placeholder
from ebm_cli.dataset.own_rows import OwnRows
from ebm_cli.evaluation import conditional
from ebm_cli.evaluation.base import Subject
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.log_bilinear import LogBilinear
from ebm_cli.rng import stream
from ebm_cli.space import Real, Words

SHORT = ("steps=8", "batch_size=10", "tracker=none", "device=cpu", "checkpoint.monitor=null", "evaluation=[]")
DRAW = ("n=4", "steps=20", "device=cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """An RBM of bits."""
    folder = tmp_path_factory.mktemp("given")
    bits = (np.random.default_rng(0).random((60, 6)) < 0.4).astype(np.uint8)
    np.savez(folder / "data.npz", train=bits)
    line = ("train dataset=array", f"dataset.path={folder}/data.npz", "model.hidden=3", f"hydra.run.dir={folder}/run")
    assert ebm(line[0], *line[1:], *SHORT).code == 0
    return folder / "run"


GAPS = np.array([[0, np.nan, 1, np.nan, 0, 1], [1, 1, 0, 0, 1, 1], [np.nan] * 6, [1, 0, np.nan, 0, 1, 0]])


def filled(run: Path, file: Path, *more: str) -> tuple[dict[str, np.ndarray], list[dict[str, str]]]:
    answer = ebm("sample", f"run={run}", f"given={file}", *DRAW, *more)
    assert answer.code == 0, answer.err
    folder = Path(answer.out.splitlines()[-1].partition(": ")[2]).parent
    with np.load(folder / "samples.npz") as arrays, (folder / "imputed.csv").open() as table:
        return dict(arrays), list(csv.DictReader(table))


@pytest.mark.long
def test_what_is_there_stays_and_what_is_missing_is_drawn(run, tmp_path):
    np.savez(tmp_path / "rows.npz", rows=GAPS, labels=[3, 1, 4, 1])
    before = snapshot(run)
    found, table = filled(run, tmp_path / "rows.npz")
    assert before.items() <= snapshot(run).items()
    missing = np.isnan(GAPS)
    assert found["samples"].shape == (4, 4, 6)
    assert found["samples"].dtype == np.uint8
    assert (found["missing"] == missing).all()
    assert (found["samples"][:, 0][~missing] == GAPS[~missing]).all()
    assert (found["samples"].transpose(1, 0, 2)[:, ~missing] == GAPS[~missing]).all()
    assert (found["filled"][~missing] == GAPS[~missing]).all()
    assert len({tuple(row) for row in found["samples"][2].tolist()}) > 1
    assert found["labels"].tolist() == [3, 1, 4, 1]
    named = [(int(line["row"]) - 1, int(line["value"]) - 1) for line in table]
    assert named == [tuple(place) for place in np.argwhere(missing).tolist()]
    assert [found["filled"][place] for place in named] == [float(line["mode"]) for line in table]
    for line in table:
        levels = [float(line[name]) for name in ("q2.5", "q25", "q50", "q75", "q97.5")]
        assert levels == sorted(levels)
        assert {*levels, float(line["mode"])} <= {0.0, 1.0}


@pytest.mark.long
def test_gaps_are_known_in_every_form(run, tmp_path):
    """NaN, -1, an array mask and empty cells: the same draws, chain by chain."""
    whole, gaps = np.nan_to_num(GAPS).astype(int), np.isnan(GAPS)
    np.save(tmp_path / "nan.npy", GAPS)
    np.save(tmp_path / "minus.npy", np.where(gaps, -1, whole))
    np.savez(tmp_path / "mask.npz", rows=whole, mask=gaps)
    lines = ["abcdef"[i] for i in range(6)]
    rows = [
        ["" if gap else str(value) for value, gap in zip(*row, strict=True)] for row in zip(whole, gaps, strict=True)
    ]
    (tmp_path / "cells.csv").write_text("\n".join(",".join(row) for row in [lines, *rows]) + "\n")
    found = [filled(run, path)[0]["samples"] for path in sorted(tmp_path.iterdir())]
    assert len(found) == 4
    assert all((one == found[0]).all() for one in found)
    again = filled(run, tmp_path / "nan.npy", "seed=1")[0]["samples"]
    assert (again != found[0]).any()


@pytest.mark.quick("length*", "two*", "none*")
@pytest.mark.parametrize(
    ("name", "array", "more", "words"),
    [
        ("none.npy", GAPS[1:2], "", "nothing is missing; mark what is to be drawn"),
        ("spins.npy", np.array([[-1, 1, 1, -1, 1, 1]]), "", "which may be spins"),
        ("two.npy", np.where(np.isnan(GAPS), np.nan, 2.0), "", "row 1: value 1 is 2; the run's are 0 and 1"),
        ("flips.npy", GAPS, "sampler=gwg sampler.flips=3", "sampler.flips = 3: a row has 1 to draw"),
        ("chains.npy", GAPS, "start=chains", "start = chains: says nothing of rows that are given"),
        ("many.npy", GAPS, "n=1000000000000", "n = 1000000000000: so many draws of 4 rows take 24 TB of memory"),
        ("length.npy", GAPS, "length=3", "length: says nothing of rows that are given"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(run, tmp_path, name, array, more, words):
    np.save(tmp_path / name, array)
    before = snapshot(run)
    assert_refused(ebm("sample", f"run={run}", f"given={tmp_path}/{name}", *DRAW, *more.split()), words)
    assert snapshot(run) == before


@pytest.mark.long
def test_given_names_a_file_or_words(run):
    assert_refused(ebm("sample", f"run={run}", "given=", *DRAW), 'given = "": must be a file of rows, or words')
    assert_refused(ebm("sample", f"run={run}", "given=3", *DRAW), "given = 3: ")
    assert_refused(ebm("sample", f"run={run}", "given=[a]", *DRAW), "given = [a]: is for models of documents")


def of(model, sampler: str, **changes) -> Subject:
    built = registry.build("sampler", shipped("sampler")[sampler] | changes)
    return Subject(model, placeholder(model.space), "test", built, torch.empty(0), stream(3, "given"))


def test_models_and_samplers_that_cannot_say_so():
    for name, sampler, words in (
        ("gaussian_rbm-real", "gibbs_langevin", "moves whole configurations alone"),
        ("jem-boxed", "augmented", "moves whole configurations alone"),
        ("dirichlet", "hmc", "bound to each other"),
        ("rbm-binary", "block_gibbs", None),
        ("exponential_family-binary", "augmented", None),
    ):
        model = example(name) if "-" in name else small_model("exponential_family", Real((2, 3)), family=name)
        found = conditional.refusal(model, registry.build("sampler", shipped("sampler")[sampler]))
        assert (found is None) if words is None else words in found, (name, found)


class Correlated(EnergyModel):
    """E(x) = (x - m).P (x - m) / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.space = Real((3,))
        self.P = torch.nn.Parameter(torch.tensor([[2.0, 0.8, -0.5], [0.8, 1.0, 0.2], [-0.5, 0.2, 1.5]]))
        self.m = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

    def energy(self, x: Tensor) -> Tensor:
        y = x - self.m
        return (y @ self.P * y).sum(1) / 2


@pytest.mark.quick("metropolis*")
@pytest.mark.parametrize(
    ("sampler", "changes", "steps", "r_hat"),
    [
        ("hmc", {"adapt": 0.65, "step_size": 0.05}, 400, 1.2),
        ("mala", {"step_size": 0.3}, 400, 1.1),
        ("metropolis", {"step_size": 1.0}, 400, 1.1),
        ("langevin", {"step_size": 0.01, "noise": None}, 1500, 1.6),
    ],
)
def test_real_numbers_follow_the_conditional_of_a_gaussian(sampler, changes, steps, r_hat):
    """Mean m_m - P_mm^-1 P_mc (x_c - m_c), covariance P_mm^-1; each row has its own."""
    model, n = Correlated(), 400
    known = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    missing = torch.tensor([[False, True, True], [True, True, False]])
    (group,) = conditional.draws(of(model, sampler, **changes), known, missing, conditional.Wanted(n, steps))
    P, m = model.P.detach().double(), model.m.detach().double()
    for row in range(2):
        at, left = (missing[row] == value for value in (True, False))
        covariance = P[at][:, at].inverse()
        mean = m[at] - covariance @ P[at][:, left] @ (known[row, left].double() - m[left])
        ends = torch.from_numpy(group.looks[:, row]).flatten(0, 1)
        error = (covariance.diag() / n).sqrt()  # of chains: looks of one are not independent
        assert ((ends.mean(0) - mean).abs() < 4 * error + 0.01).all()
        assert torch.allclose(ends.T.cov(), covariance, atol=0.12)
        assert (group.ends[row][:, left] == known[row, left]).all()
    found = conditional.cells(group.looks, whole=False)
    assert (found.r_hat < r_hat).all()


def test_a_gaussian_rbm_by_blocks():
    """E[v_m | v_c] by the sum over hidden units."""
    model = example("gaussian_rbm-real").float()
    sites = model.space.sites
    missing = torch.zeros(1, sites, dtype=torch.bool)
    missing[0, :2] = True
    known = torch.linspace(-1, 1, sites).reshape(1, *model.space.shape)
    (group,) = conditional.draws(of(model, "block_gibbs"), known, missing, conditional.Wanted(3000, 40))
    with torch.no_grad():
        h = states_of(model.hidden)
        mean, precision = model.visible_mean(h), model.precision()
        left = ~missing[0]
        fit = -0.5 * ((known.flatten()[left] - mean[:, left]).square() @ precision[left])
        zero = -0.5 * (model.b.square() @ precision)
        log_w = h @ model.c + 0.5 * (mean.square() @ precision) + zero + fit
        due = (log_w.softmax(0)[:, None] * mean[:, missing[0]]).sum(0)
    found = group.looks[-1, 0].mean(0)
    spread = group.looks[-1, 0].std(0)
    assert (np.abs(found - due.numpy()) < 4.5 * spread / 3000**0.5).all()


def states_of(units: int) -> Tensor:
    from ebm_cli.space import Binary

    return Binary((units,)).enumerate()


def test_independent_units_are_drawn_exactly():
    """The mean of the draws is that of the units, whatever else is known, and nothing depends on steps."""
    model = example("exponential_family-binary").float()
    missing = torch.zeros(1, model.space.sites, dtype=torch.bool)
    missing[0, 1:] = True
    known = torch.ones(1, *model.space.shape)
    (group,) = conditional.draws(of(model, "metropolis"), known, missing, conditional.Wanted(500, 1))
    p = model.b.sigmoid().flatten()[1:].detach().numpy()
    count = group.looks[:, 0].reshape(-1, len(p))
    assert (np.abs(count.mean(0) - p) < 4.5 * (p * (1 - p) / len(count)) ** 0.5).all()


def test_independent_categories_are_drawn_exactly_without_one_of_them():
    model = example("exponential_family-categorical").float()
    missing = torch.ones(1, model.space.sites, dtype=torch.bool)
    known = model.space.enumerate()[:1].float()
    (group,) = conditional.draws(of(model, "metropolis"), known, missing, conditional.Wanted(500, 1, never=0))
    p = model.b.reshape(model.space.sites, -1)[:, 1:].softmax(1).detach()
    values = torch.from_numpy(group.looks[:, 0]).long().flatten(0, 1)
    found = torch.stack([torch.bincount(site, minlength=model.space.values) for site in values.T]) / len(values)
    assert (found[:, 0] == 0).all()
    assert ((found[:, 1:] - p).abs() < 4.5 * (p * (1 - p) / len(values)).sqrt()).all()


@pytest.mark.parametrize("never", [None, 2])
def test_the_word_after_a_context_is_drawn_exactly(never):
    space = Words((3,), 4)
    model = LogBilinear(space, 2, full=False, separate=False, sparse=False)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(rng.normal(parameter.shape, stream(1, i)))
    known = torch.tensor([[0.0, 2.0, 0.0], [3.0, 1.0, 0.0]])
    missing = torch.tensor([[False, False, True]] * 2)
    subject = of(model, "gibbs")
    assert conditional.refusal(model, subject.sampler) is None
    assert conditional.refusal_of(missing, model, subject.sampler) is None
    assert "the last word of a row alone" in conditional.refusal_of(~missing, model, subject.sampler)
    (group,) = conditional.draws(subject, known, missing, conditional.Wanted(200, 1, never))
    p = model.scores(known[:, :-1]).softmax(1).detach()
    if never is not None:
        p[:, never] = 0
        p = p / p.sum(1, keepdim=True)
    for row in range(2):
        found = torch.bincount(torch.from_numpy(group.looks[:, row]).long().flatten(), minlength=4) / 10_000
        assert ((found - p[row]).abs() <= 4.5 * (p[row] * (1 - p[row]) / 10_000).sqrt()).all()
        assert (group.ends[row][:, :2] == known[row, :2]).all()


def test_what_is_said_of_a_value():
    """Means, modes and quantiles of draws (looks, rows, chains, sites), row by row."""
    looks = np.zeros((10, 2, 3, 2))
    looks[:, 0, :, 0] = np.arange(10)[:, None] % 5 == 0  # a fifth
    looks[:, 0, :, 1] = 1
    looks[:, 1, :, 0] = 2
    looks[:, 1, :, 1] = np.arange(10)[:, None] < 7
    found = conditional.cells(looks, whole=True)
    assert found.mean.tolist() == pytest.approx([0.2, 1.0, 2.0, 0.7])
    assert found.mode.tolist() == [0, 1, 2, 1]
    assert found.quantiles[0].tolist() == [0, 0, 0, 0, 1]
    assert found.quantiles[3].tolist() == [0, 0, 1, 1, 1]
    assert np.isnan(found.r_hat[[1, 2]]).all()


def test_r_hat_is_that_of_split_chains():
    random = np.random.default_rng(0)
    looks = random.normal(size=(20, 6, 3)) + np.array([0.0, 0.3, 3.0]) * np.arange(6)[:, None]
    due = [float(array_stats.rhat(looks[:, :, i].T, method="split")) for i in range(3)]
    assert conditional.r_hat(looks) == pytest.approx(due, rel=1e-9)
    apart = np.zeros((8, 2, 1))
    apart[:, 1] = 1
    assert np.isinf(conditional.r_hat(apart)).all()
    assert np.isnan(conditional.r_hat(looks[:3])).all()


def test_the_mode_of_real_draws():
    """Near the mode of a gamma law, which its mean is far from; of two draws their middle."""
    draws = np.random.default_rng(0).gamma(3.0, 1.0, (20_000, 1))
    assert conditional.half_sample_mode(draws)[0] == pytest.approx(2.0, abs=0.4)
    assert conditional.half_sample_mode(np.array([[0.0], [5.0], [5.2], [9.0]]))[0] == pytest.approx(5.1)


def test_chains_that_disagree_are_a_warning(run, tmp_path):
    np.save(tmp_path / "rows.npy", GAPS)
    line = ("sampler=dmala", "sampler.step_size=0.01", "n=4", "steps=8", "device=cpu")
    answer = ebm("sample", f"run={run}", f"given={tmp_path}/rows.npy", *line)
    assert answer.code == 0
    assert "have chains that disagree (R-hat above 1.1)" in answer.err


def test_a_few_of_many_values_are_no_warning(caplog):
    cells = np.ones((300, 11))
    cells[:3, -1] = 1.2
    rows = Filled(
        OwnRows(np.zeros((10, 30)), np.zeros((10, 30), bool)), np.zeros((10, 4, 30)), np.zeros((10, 30)), cells
    )
    assert said(rows, 4) == "10 rows, 300 values drawn by 4 chains each, R-hat at most 1.200, above 1.1 of 3"
    assert not caplog.records
    cells[3, -1] = np.inf
    assert "above 1.1 of 4" in said(rows, 4)
    assert "of 300 values 4 have chains that disagree" in caplog.text


@pytest.mark.long
def test_standardised_values_stay_as_the_file_has_them(tmp_path):
    values = np.random.default_rng(0).normal([0.1, 5.0], [3e-5, 1e3], (80, 2)).astype(np.float32)
    np.savez(tmp_path / "data.npz", train=values)
    line = ("train dataset=array model=gaussian_rbm", f"dataset.path={tmp_path}/data.npz", "dataset.standardise=true")
    assert ebm(*line, "model.hidden=2", f"hydra.run.dir={tmp_path}/run", *SHORT).code == 0
    gaps = values.copy()
    gaps[::2, 0] = np.nan
    np.save(tmp_path / "rows.npy", gaps)
    found, table = filled(tmp_path / "run", tmp_path / "rows.npy", "sampler=block_gibbs")
    there = ~np.isnan(gaps)
    assert (found["samples"].transpose(1, 0, 2)[:, there] == gaps[there]).all()
    assert (found["filled"][there] == gaps[there]).all()
    assert all(0.0998 < float(line["mean"]) < 0.1002 for line in table)
