"""Chains of training with weights, which follow the model as it changes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, last_step, outcome, train, trained
from helpers.components import SMALL_SPACES, component
from helpers.data import small_data
from helpers.models import double_states, small_model
from helpers.samplers import SAMPLERS
from safetensors.torch import load_file
from test_resume import Killed, at_step, die
from test_rungs import shares
from torch.nn.functional import softplus

from ebm_cli.device.engine import Engine
from ebm_cli.errors import UserError
from ebm_cli.evaluation.base import Subject
from ebm_cli.log_z import enumeration
from ebm_cli.objective.base import Batch
from ebm_cli.rng import stream
from ebm_cli.sampler.base import transitions
from ebm_cli.space import Binary, Categorical, Real, Spin
from ebm_cli.training import weighted
from ebm_cli.training.step import GradRows, _shards

LINE = (
    "model.hidden=3 chains.weighted=true chains.count=400 optimizer.lr=0.1 steps=60 eval_every=20 save_every=0 "
    "running=none evaluation=[exact,samples] evaluation.exact.while_training=true checkpoint.monitor=null"
)
PAIRS = [("rbm", Binary, "block_gibbs"), ("ising", Spin, "gibbs"), ("potts", Categorical, "gwg")]


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# What they stand for


def followed(models, sampler, n, least=0.5):
    """Chains and weights that have followed these models, taken up by the last of them."""
    first = models[0]
    about = Subject(first, small_data(first.space), "train", sampler, torch.empty(0), stream(3))
    x, kept = weighted.begun(about, n)
    for t, model in enumerate(models[1:]):
        x, info = transitions(sampler.weighing(), models[t], x, [stream(4, t)])
        kept = weighted.moved_on(kept, models[t], x, info.get("log_ratio"))
        kept, chosen, _ = weighted.taken_up(kept, model, x, least, stream(5, t))
        x = x[chosen]
    return x, kept


def log_z_of(kept):
    return weighted.said(kept, torch.ones(()))["log_z"][0].item()


def error_of(log_w):
    """Of the log of their mean."""
    return (max(0, 1 / weighted.share(log_w).item() - 1) / len(log_w)) ** 0.5


@pytest.mark.parametrize(("name", "space", "sampler"), PAIRS)
@pytest.mark.parametrize("least", [1e-6, 0.999])
def test_weighted_chains_stand_for_the_last_model(name, space, sampler, least):
    """log Z and means of the energy, by enumeration, drawn again at each change or never."""
    models = [small_model(name, SMALL_SPACES[space], seed).float() for seed in (1, 2, 3)]
    x, kept = followed(models, SAMPLERS[sampler], 6000, least)
    assert (kept.log_w == 0).all().item() == (least > 0.9)
    log_z, states = enumeration.log_z(models[-1]).item(), enumeration.sample(models[-1], 6000, stream(6))
    assert log_z_of(kept) == pytest.approx(log_z, abs=max(0.2, 4 * error_of(kept.log_w)))
    energy, exact = models[-1].energy(x).double(), models[-1].energy(states).double()
    mean = (kept.log_w.softmax(0) * energy).sum()
    error = (energy.var() / (6000 * weighted.share(kept.log_w))).sqrt() + exact.std() / 77
    assert abs(mean - exact.mean()) < 5 * error
    drawn = models[-1].energy(weighted.drawn(kept.log_w, x)).double()
    assert abs(drawn.mean() - mean) < 0.1


@pytest.mark.parametrize("least", [0.01, 0.99])
def test_how_many_chains_count_is_said_as_it_was_before_they_were_drawn(least):
    """An update too long for them would else look like none: all weights are equal after it."""
    first, second = (small_model("rbm", SMALL_SPACES[Binary], seed).float() for seed in (1, 2))
    x = enumeration.sample(first, 4000, stream(7))
    kept = weighted.Weighted(torch.zeros(4000).double(), first.energy(x).double(), torch.tensor(0.0).double())
    kept, _, ess = weighted.taken_up(kept, second, x, least, stream(8))
    p, q = ((-m.energy(double_states(m).float()).double()).softmax(0) for m in (first, second))
    assert weighted.said(kept, ess)["ess"][0].item() == pytest.approx(4000 / (q.square() / p).sum().item(), rel=0.05)
    assert (kept.log_w == 0).all().item() == (least > 0.9)


def test_unadjusted_moves_are_made_up_for():
    """Steps of Langevin so long that the law of chains without weights is another one."""
    models = [small_model("gaussian_rbm", SMALL_SPACES[Real], 1).float() for _ in range(4)]
    for model, factor in zip(models, (1, 1.1, 1.2, 1.3), strict=True):
        model.W.data.mul_(factor)
    _, kept = followed(models, component("sampler", "langevin", step_size=0.6), 20_000, 1e-9)
    found = log_z_of(kept)
    assert found == pytest.approx(enumeration.log_z(models[-1]).item(), abs=4 * error_of(kept.log_w))


def test_the_gradient_counts_negatives_by_their_weights():
    """That of rows repeated as often as their weights say; the penalty of the energies too."""
    for name, changes in (("rbm", {}), ("boltzmann", {"energy_l2": 0.1})):
        model = small_model(name, SMALL_SPACES[Binary]).float()
        x, x_neg = (model.space.noise(4, stream(seed)) for seed in (1, 2))
        objective = component("objective", "pcd", **changes)
        weight = torch.tensor([2.0, 0.0, 1.0, 1.0])
        found = objective.gradient(model, Batch(x, x_neg, weight=weight), stream(3))
        other = objective.gradient(model, Batch(x, x_neg[[0, 0, 2, 3]]), stream(3))
        for name, grad in other.parameters.items():
            assert torch.allclose(found.parameters[name], grad, atol=1e-6), name
        assert all(torch.allclose(found.metrics[key], other.metrics[key]) for key in other.metrics)


def test_shards_have_the_gradient_of_the_whole_batch():
    model = small_model("rbm", SMALL_SPACES[Binary]).float()
    x, x_neg = (model.space.noise(6, stream(seed)) for seed in (1, 2))
    objective, weight = component("objective", "pcd"), torch.tensor([3.0, 0, 1, 0.5, 0.5, 1])
    rows = GradRows(Batch(x, x_neg, weight=weight), {})
    shards = _shards(rows, Engine(compiled=False, rows=4), 1)
    assert len(shards) == 3
    parts = [objective.gradient(model, shard.batch, stream(3)).parameters for shard in shards]
    for name, grad in objective.gradient(model, rows.batch, stream(3)).parameters.items():
        assert torch.allclose(sum(part[name] for part in parts) / 3, grad, atol=1e-6)


# Within a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("weighted"))
        return trained(LINE).absolute()


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_knows_its_log_z(run):
    """By the weights of its own chains, at each step: that of the model before the update that the step ends with."""
    by_step = {}
    for line in lines(run):
        by_step[line["step"]] = {**by_step.get(line["step"], {}), **line}
    exact = {step: line["exact/valid/log_z"] for step, line in by_step.items() if "exact/valid/log_z" in line}
    assert [*exact] == [20, 40, 60]
    for step in (20, 40):
        assert by_step[step + 1]["chains_log_z"] == pytest.approx(exact[step], abs=0.3)
    assert all(0 < line["chains_ess"] <= 400.1 for line in by_step.values() if "chains_ess" in line)
    assert min(line["chains_ess"] for line in by_step.values() if "chains_ess" in line) < 399


@pytest.mark.usefixtures("_elsewhere")
def test_killed_and_resumed_it_is_the_same(run, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, 47, die)
        with pytest.raises(Killed):
            train(LINE.replace("save_every=0", "save_every=15"))
    answer = ebm("train resume=run save_every=0")
    assert answer.code == 0, answer.err
    assert outcome(Path("run")) == outcome(run)
    assert "weighted.log_w" in load_file(last_step(run) / "state.safetensors")


@pytest.mark.usefixtures("_elsewhere")
def test_samples_from_noise_are_doubted(run):
    """Those of the run's own chains are not, nor those of replicas at higher temperatures."""
    said = [
        ebm(f"sample run={run} n=3 steps=1 {more}").err for more in ("", "start=chains", "sampler=parallel_tempering")
    ]
    assert ["start=chains draws from the run's own, by their weights" in each for each in said] == [True, False, False]


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_a_run_that_goes_back_has_the_weights_of_the_chains_that_it_goes_on_with():
    """Those of the checkpoint, where its chains are kept; new ones, where chains begin anew. By log Z at each step."""
    wild = "dataset=bars_and_stripes dataset.side=3 model.hidden=8 chains.count=400 optimizer.lr=300 optimizer.ema=0"
    calm = "optimizer.schedule=constant health.act=recover health.every=10 health.share=0.2 eval_every=1 save_every=0"
    run = trained(f"{LINE} {wild} {calm} report.checkpoint=last steps=30 checkpoint.keep_last=9")
    did = json.loads((run / "summary.json").read_text())["health"]["recoveries"]
    assert [(each["step"], each["back_to"], each["chains"]) for each in did] == [(10, 0, "kept"), (20, 0, "anew")]
    saved = load_file(run / "checkpoints" / "step-00000020" / "state.safetensors")
    x, W, b, c = (saved[name].double() for name in ("chains", "model.W", "model.b", "model.c"))
    x = x.flatten(1)
    assert torch.allclose(saved["weighted.energy"], -x @ b.flatten() - softplus(x @ W + c).sum(1), atol=1e-4)
    by_step = {}
    for line in lines(run):
        by_step[line["step"]] = {**by_step.get(line["step"], {}), **line}
    first, kept, anew = (by_step[step]["chains_log_z"] for step in (1, 11, 21))
    assert kept == first
    assert anew != first
    assert anew == pytest.approx(first, abs=0.3)
    for step in range(21, 25):  # before so long steps leave few chains that count
        assert by_step[step + 1]["chains_log_z"] == pytest.approx(by_step[step]["exact/train/log_z"], abs=0.4)
    assert (
        min(by_step[step]["chains_ess"] for step in range(2, 10)) < 10
    )  # of 400, which no update at such a rate leaves


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"chains": {"start": "data"}},
            "weighted chains begin as independent units annealed",
        ),
        ({"chains": {"reset": 5}}, "chains.reset = 5: weighted chains do not start again; set it to 0"),
        ({"objective": "pseudo_likelihood"}, "objective=pseudo_likelihood with these keys has no use for chains"),
        ({"objective": "jem"}, "objective=jem takes all chains alike with these keys"),
        ({"sampler": "parallel_tempering"}, "sampler=parallel_tempering has replicas of its own"),
        ({"model": "replicated_softmax"}, "model=replicated_softmax has no one energy"),
        ({"model": "mlp", "sampler": "cold_langevin"}, "and by how much is not known; or set it to false"),
        ({"model": "mlp", "sampler": "clipped"}, "and by how much is not known; or set it to false"),
    ],
)
def test_what_has_no_weights_is_refused(parts, said):
    names = {"model": "rbm", "sampler": "block_gibbs", "objective": "pcd", **parts}
    policy = component("chains", "persistent", count=5, weighted=True, **parts.get("chains", {}))
    langevin = {"cold_langevin": {"noise": 0.01}, "clipped": {"clip": 1.0}}.get(names["sampler"])
    sampler = component("sampler", "langevin", **langevin) if langevin else SAMPLERS[names["sampler"]]
    model, objective = component("model", names["model"]), component("objective", names["objective"])
    with pytest.raises(UserError) as caught:
        weighted.check(policy, model, sampler, objective, names)
    assert said in str(caught.value)


@pytest.mark.usefixtures("_elsewhere")
def test_an_average_of_weights_is_another_model():
    for number, keys in enumerate(
        ("chains.weighted=true", "chains=trajectory", "chains.weighted=true optimizer.ema=0")
    ):
        said = train(f"optimizer.ema=0.9 {keys} steps=1", f"run{number}").err
        assert said.count("may give modes other shares") == (number < 2)


def test_several_ranks_do_not_draw_among_all_chains():
    assert_refused(train("chains.weighted=true device.ranks=2"), "device.ranks = 2: chains.weighted = true draws among")


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_chains_have_the_share_of_both_clusters():
    """All 0 or all 1 up to 5 % of flips, 60 : 40, where no chain ever moves from one to the other."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.random((3000, 1)) < 0.6, 100, 1) ^ (rng.random((3000, 100)) < 0.05)
    np.savez("two.npz", train=x[:2500].astype(np.uint8), test=x[2500:].astype(np.uint8))
    keys = "dataset=array dataset.path=two.npz model.hidden=4 steps=500 save_every=0 chains.count=300 batch_size=100"
    run = trained(f"{keys} chains.weighted=true running=none checkpoint.monitor=null health=none")
    exact, weighed = shares(run)
    error = (0.6 * 0.4 / 150) ** 0.5  # half of the chains count at least
    assert abs(exact - 0.6) < 3 * error
    assert abs(weighed - exact) < 3 * error
