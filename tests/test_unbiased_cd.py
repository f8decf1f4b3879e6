"""objective=unbiased_cd: its gradient has the likelihood's as its mean, and what is refused."""

import pytest
import torch
from helpers.cli import assert_refused, train, trained
from helpers.components import SIGMAS, component, shipped
from helpers.models import double_states, exact_p, target
from helpers.objectives import data_rows, likelihood_gradient

from ebm_cli import registry
from ebm_cli.errors import UserError
from ebm_cli.objective import unbiased_cd
from ebm_cli.objective.base import Batch
from ebm_cli.rng import stream


def objective(kernel="block_gibbs", **changes):
    config = shipped("objective")["unbiased_cd"] | {"kernel": shipped("sampler")[kernel]}
    return registry.build("objective", config | changes)


@pytest.mark.parametrize(
    ("kernel", "model", "changes"),
    [
        ("block_gibbs", "rbm-binary", {"k": 0, "m": 0}),
        pytest.param("gibbs", "potts-categorical", {"k": 1, "m": 6}, marks=pytest.mark.long),
        pytest.param("gibbs", "ising-spin", {"k": 0, "m": 0}, marks=pytest.mark.long),
    ],
)
def test_the_mean_is_the_gradient_of_the_likelihood(kernel, model, changes):
    """Of 40 gradients by 600 pairs each; CD-1 from these rows is off by tens of standard errors."""
    chosen = target(model)
    x = data_rows(chosen)
    exact, _ = likelihood_gradient(chosen, x)
    rows = x.repeat(100, *[1] * (x.dim() - 1))
    found = [objective(kernel, **changes).gradient(chosen, Batch(rows), stream(i, "key")) for i in range(40)]
    for name, value in exact.items():
        each = torch.stack([gradient.parameters[name] for gradient in found])
        error = each.std(0) / len(each) ** 0.5
        assert ((each.mean(0) - value).abs() <= (SIGMAS + 1) * error + 1e-9).all(), name
    assert all(gradient.metrics["unmet"] == 0 for gradient in found)
    gaps = torch.stack([gradient.metrics["energy_gap"] for gradient in found])
    p, states = exact_p(chosen), double_states(chosen)
    gap = (chosen.energy(x).mean() - p @ chosen.energy(states)).item()
    assert abs(gaps.mean().item() - gap) < SIGMAS * gaps.std().item() / len(gaps) ** 0.5


def test_points_are_summed_in_pieces(monkeypatch):
    """Of any size, with the same sums."""
    model = target("rbm-binary")
    found = []
    for piece in (10_000, 3):
        monkeypatch.setattr(unbiased_cd, "_PIECE", piece)
        found.append(objective(k=2, m=4).gradient(model, Batch(data_rows(model)), stream(0, "key")))
    for name, value in found[0].parameters.items():
        assert torch.allclose(value, found[1].parameters[name], atol=1e-12)
    assert found[0].metrics["loss"].item() == pytest.approx(found[1].metrics["loss"].item())


def test_a_run_says_when_pairs_met(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = trained("objective=unbiased_cd objective.k=1 objective.m=1")
    text = (run / "metrics.jsonl").read_text()
    assert '"meeting_time"' in text
    assert '"unmet": 0.0' in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("objective.k=5 objective.m=2", "objective.k = 5, objective.m = 2: must rise to objective.max_steps"),
        ("sampler@objective.kernel=langevin", "objective.kernel = langevin: does not leave the model invariant"),
        (
            "objective.kernel=3",
            "objective.kernel = 3: must be a sampler and its keys; choose it with sampler@objective",
        ),
        ("batch_size=1", "pairs start from two rows"),
        ("sampler@objective.kernel=mala", "objective.kernel moves in"),
    ],
)
def test_refusals(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(train(f"objective=unbiased_cd {words}"), said)


def test_its_kernel_is_no_sampler_of_replicas():
    with pytest.raises(UserError, match="is made of another sampler"):
        component("objective", "unbiased_cd", kernel=shipped("sampler")["parallel_tempering"])


def test_a_kernel_that_cannot_move_the_model_is_refused_with_one_that_can():
    model = type(target("boltzmann-binary"))
    assert "wants a block-structured model; choose it" in objective().refusal_of_model(model)
    assert objective("gibbs").refusal_of_model(model) is None
