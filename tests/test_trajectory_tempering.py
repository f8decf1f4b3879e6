"""Chains that exchange with replicas on the checkpoints of a run: `sampler=trajectory`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, facts, train, trained
from helpers.components import FALSE_ALARM, component, shipped
from helpers.data import small_data
from helpers.matrices import matrix_of
from helpers.models import double_states, exact_p, small_model
from helpers.samplers import SAMPLERS
from helpers.statistics import chi_square
from test_parallel_tempering import code, joint_states, swap_matrix

from ebm_cli.device.engine import Engine
from ebm_cli.errors import UserError
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.laid import laid
from ebm_cli.evaluation.mixing import calls_of_a_step
from ebm_cli.evaluation.tempering import Watched, doubts_of_rungs
from ebm_cli.model.exponential_family import product
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run, transitions
from ebm_cli.sampler.rungs import Rungs
from ebm_cli.sampler.trajectory import Laid
from ebm_cli.space import Binary, Counts

PAIR = Binary((2,))
LINE = (
    "model.hidden=4 steps=60 save_every=0 checkpoint.log_spaced=12 optimizer.lr=0.3 checkpoint.monitor=null "
    "dataset=bars_and_stripes evaluation=[samples]"
)


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def along(models, mean, **keys):
    """The sampler of the last of some models, the others and independent units being its rungs."""
    base = product(models[0].space, mean).to(next(models[-1].parameters()))
    names = ["units", *(f"model {k}" for k in range(1, len(models))), "the model itself"]
    keys = {"kernel": SAMPLERS["block_gibbs"], "transitions": 1, "acceptance": 0.3, **keys}
    return Laid(base=base, lower=models[:-1], names=names, kept=len(models), **keys)


def test_exchanges_are_in_detailed_balance():
    """Of every pair of 16 states, between each two of three rungs."""
    models = [small_model("rbm", Binary((4,)), seed) for seed in (1, 2)]
    sampler = along(models, torch.tensor([0.3, 0.5, 0.6, 0.8]))
    every, states = [sampler.base, *models], double_states(models[0])
    x, y = states.repeat_interleave(16, 0), states.repeat(16, 1)
    for k in (0, 1):
        up, down = Rungs(sampler.base, models, sampler.inner, 1)._ratios([[x, y], [x, x]][k] + [[x], [y]][k])
        taken = (up - down)[k].clamp_max(0).exp().reshape(16, 16)
        flow = exact_p(every[k])[:, None] * exact_p(every[k + 1]) * taken
        assert (flow - flow.T).abs().max() < 1e-12
        assert taken.min() < 0.9


def whole_step(sampler, models):
    """Its matrix on all replicas, (64, 64), by enumeration, and prod_k p_k."""
    p = torch.stack([exact_p(model) for model in (sampler.base, *models)])
    moved = p[:1].expand(4, 4)
    for model in models:
        moved = torch.kron(moved, matrix_of(sampler.inner, model))
    law = torch.kron(torch.kron(p[0], p[1]), p[2])
    return moved @ swap_matrix(p, (0, 1)) @ moved @ swap_matrix(p, (1, 2)), law


def test_a_step_is_its_definition_and_leaves_the_rungs_their_laws():
    """Two sites at three rungs: from every joint state, ends cell by cell against the row of the matrix."""
    models = [small_model("rbm", PAIR, seed) for seed in (1, 2)]
    sampler, n = along(models, torch.tensor([0.3, 0.6])), 600
    matrix, law = whole_step(sampler, models)
    assert (law @ matrix - law).abs().max() < 1e-12
    start = joint_states(4, 3).repeat_interleave(n, 0)
    x = double_states(models[1])[start]
    end, info = transitions(sampler, models[1], x, [stream(0, "step")])
    reached = torch.stack([PAIR.code(end[:, k]) for k in range(3)], 1)
    count = torch.bincount(code(start, 4) * 64 + code(reached, 4), minlength=64**2).reshape(64, 64)
    assert chi_square(count, matrix * n, cells_lost=64) > FALSE_ALARM
    assert list(info) == ["swap_1", "swap_2"]
    assert all(0 < taken.mean() < 1 for taken in info.values())
    parts, _ = transitions(sampler, models[1], x[:50], [stream(0, "step")], Engine(compiled=False, rows=60))
    assert torch.equal(parts, end[:50])  # a few at a time draw what they would together


def wells(scale, sites=24):
    """One hidden unit holds all sites together, at 0 or, for the share 0.6, at 1; at 0 all are independent."""
    model = small_model("rbm", Binary((sites,)), hidden=1).float()
    with torch.no_grad():
        model.W.fill_(5 * scale)
        model.b.fill_(-2.5 * scale)
        model.c.fill_(-2.5 * scale * sites + np.log(1.5))
    return model


@pytest.mark.long
def test_chains_come_to_both_wells_in_their_shares():
    """All chains begin in one of them, which block Gibbs of the same cost does not leave."""
    models, n, steps = [wells(scale) for scale in np.linspace(0.1, 1, 9)], 500, 100
    sampler, x = along(models, torch.full((24,), 0.5)), torch.zeros(n, 24)
    end, info = run(sampler, models[-1], x, steps, stream(3))
    assert abs((end.mean(1) > 0.5).double().mean() - 0.6) < 3 * (0.24 / n) ** 0.5
    assert min(share.mean() for share in info.values()) > 0.3
    assert sampler.moves_per_step == 18
    stays, _ = run(SAMPLERS["block_gibbs"], models[-1], x, steps * sampler.moves_per_step, stream(3))
    assert (stays.mean(1) < 0.5).all()


def test_energies_of_all_rungs_are_counted():
    """In two rounds of three rungs: of each the own one, and of each pair the other two."""
    models = [wells(scale) for scale in (0.5, 1)]
    sampler = along(models, torch.full((24,), 0.5))
    assert calls_of_a_step(sampler, models[-1], torch.zeros(3, 24), stream(0)) == (2 * (3 + 2 + 2), 0)


def subject(models, sampler="block_gibbs"):
    passed, store = dict(enumerate(models[:-1], 1)), torch.empty(0, *models[-1].space.shape)
    data = small_data(models[-1].space)
    return Subject(models[-1], data, "test", SAMPLERS[sampler], store, stream(0), passed=lambda: passed)


def test_rungs_are_chosen_among_checkpoints():
    """Fewer where exchanges may be fewer; a kernel that is left open is what moves the run's own chains."""
    about = subject([wells(scale, 4) for scale in np.linspace(0, 1, 12)])
    few, many = (laid(component("sampler", "trajectory", acceptance=least), about) for least in (0.2, 0.8))
    assert 2 <= few.replicas < many.replicas <= 13
    assert (few.inner, few.names[0], few.names[-1]) == (
        SAMPLERS["block_gibbs"],
        "independent units",
        "the model itself",
    )
    assert laid(few, about) is few
    own = laid(component("sampler", "trajectory", kernel=shipped("sampler")["gibbs"]), about)
    assert own.inner == SAMPLERS["gibbs"]


@pytest.mark.parametrize(
    ("models", "sampler", "said"),
    [
        ([wells(1)], "block_gibbs", "kept no checkpoint before this one; train with checkpoint.log_spaced=50"),
        ([wells(0), wells(1)], "dula", "this sampler does not leave the model invariant"),
        ([product(PAIR, torch.tensor([0.5, 0.5]))] * 2, "gibbs", "drawn exactly, without steps"),
        ([small_model("replicated_softmax", Counts((5,), 6))] * 2, "block_gibbs", "no one energy of their states"),
    ],
)
def test_what_has_no_past_or_no_base_is_refused(models, sampler, said):
    with pytest.raises(UserError) as caught:
        laid(component("sampler", "trajectory"), subject(models, sampler))
    assert str(caught.value).startswith("sampler=trajectory: ")
    assert said in str(caught.value)


def test_what_is_wrong_with_rungs_is_said_of_the_two():
    sampler = along([wells(0.5), wells(1)], torch.full((24,), 0.5))
    few, slow = np.array([[[True, False]] * 10]), np.array([[[True, False]], [[False, True]]])
    (said,) = doubts_of_rungs(Watched(sampler, few, None), None, 0)
    assert said.startswith("model 1 and the model itself refuse 100 % of their exchanges; take a higher sampler.accept")
    assert "take more sampler.transitions" in doubts_of_rungs(Watched(sampler, slow, None), 0.1, 100)[0]
    assert doubts_of_rungs(Watched(sampler, slow, None), 0.9, 100) == []


def test_steps_that_take_no_replica_often_to_the_model_are_doubted():
    """A rung in a round at best, of which a step has two; there are three rungs above independent units here."""
    sampler = along([wells(scale) for scale in (0.3, 0.6, 1)], torch.full((24,), 0.5))
    assert sampler.hurried(15) is None
    said = sampler.hurried(3)
    assert said.startswith(
        "steps = 3: replicas pass from independent units to the model, 3 rungs above, at most 2 times"
    )
    assert said.endswith("take 15 or more")


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_samples_along_the_checkpoints_of_a_run():
    run_dir = trained(LINE)
    few = "sampler=trajectory sampler.acceptance=0.97 n=20 steps=1"
    answer = ebm(f"sample run={run_dir} {few} device=cpu out=drawn")
    assert answer.code == 0, answer.err
    assert "sampler=trajectory: of " in answer.err + answer.out
    assert "steps = 1: replicas pass from independent units" in answer.err
    assert np.load("drawn/samples.npz")["samples"].shape[0] == 20
    line = f"evaluate run={run_dir} sampler=trajectory device=cpu evaluation=[tempering] out=judged"
    answer = ebm(f"{line} evaluation.tempering.steps=30 evaluation.tempering.warmup=5 evaluation.tempering.chains=5")
    assert answer.code == 0, answer.err
    assert "rungs refuse up to" in answer.out
    assert facts(Path("judged"), "results.json")["tempering/rungs"] >= 2
    assert Path("judged/tempering.csv").read_text().startswith("rung,rejected\nindependent units,")
    first = sorted(path.name for path in (run_dir / "checkpoints").iterdir())[0]
    step = int(first.removeprefix("step-"))
    assert_refused(ebm(f"sample run={run_dir} sampler=trajectory checkpoint={step}"), "kept no checkpoint before")
    np.save("rows.npy", np.full((1, 16), np.nan))
    assert_refused(
        ebm(f"sample run={run_dir} sampler=trajectory given=rows.npy"),
        "sampler=trajectory moves whole configurations alone",
    )


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("kernel", ["", "sampler@sampler.kernel=gibbs"])
def test_nothing_is_trained_by_it(kernel):
    assert_refused(train(f"sampler=trajectory {kernel}"), "goes along the checkpoints of a run that is there")
    assert not Path("run").exists()


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_a_run_by_chains_of_a_kind_is_sampled_by_others():
    """What training asks of what moves its chains is not asked of a sampler of its model."""
    run_dir = trained(f"{LINE} chains=trajectory steps=3")
    answer = ebm(f"sample run={run_dir} sampler=parallel_tempering n=3 steps=2 device=cpu")
    assert answer.code == 0, answer.err


@pytest.mark.long
@pytest.mark.usefixtures("_elsewhere")
def test_it_stands_beside_others_in_a_comparison():
    run_dir = trained(LINE)
    keys = (
        "evaluation=[mixing] +evaluation.mixing.samplers.along='{name: trajectory, kernel: null, transitions: 1, "
        "acceptance: 0.3}' ~evaluation.mixing.samplers.gwg ~evaluation.mixing.samplers.dmala "
        "evaluation.mixing.steps=60 "
        "evaluation.mixing.chains=20 evaluation.mixing.reference_chains=30 evaluation.mixing.reference_steps=10 "
        "~evaluation.mixing.samplers.gibbs_site"
    )
    answer = ebm(f"evaluate run={run_dir} device=cpu out=beside {keys}")
    assert answer.code == 0, answer.err
    found = facts(Path("beside"), "results.json")
    assert found["mixing/along/ess_per_transition"] < found["mixing/along/ess_per_step"] / 1.9
    assert found["mixing/gibbs_sweep/ess_per_transition"] == found["mixing/gibbs_sweep/ess_per_step"]
    assert "ESS per transition of a replica" in answer.out
