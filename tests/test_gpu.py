"""The same promises on a CUDA device. Skipped, and said to be skipped, where there is none."""

from pathlib import Path

import pytest
import torch
from cli_helpers import TINY, ebm, facts, outcome
from targets import FALSE_ALARM, chi_square, component, small_model

from ebm_cli import exact, rng
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.space import Binary

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]
CUDA = "cuda"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_draws_are_functions_of_their_key():
    key = stream(0, "gpu")
    for draw in (rng.uniform, rng.normal):
        first, again, other = draw((1000,), key, CUDA), draw((1000,), key, CUDA), draw((1000,), key.fold(1), CUDA)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    assert abs(rng.uniform((1_000_000,), key, CUDA).mean().item() - 0.5) < 5 * (1 / 12 / 1e6) ** 0.5


@pytest.mark.parametrize(("sampler", "model"), [("block_gibbs", "rbm"), ("gibbs", "boltzmann"), ("metropolis", "rbm")])
def test_kernels_leave_the_target_invariant(sampler, model):
    """200 000 exact draws, three steps, chi-square."""
    target = small_model(model, Binary((2, 2))).float().to(CUDA)
    p, n = exact.probabilities(target).detach(), 200_000
    x = exact.sample(target, n, stream(0, "draws"))
    end, _ = run(component("sampler", sampler), target, x, 3, stream(0, "steps"))
    count = torch.bincount(target.space.code(end), minlength=len(p)).cpu()
    assert chi_square(count, p.double().cpu() * n) > FALSE_ALARM


def test_a_run_resumes_bit_for_bit():
    words = ["train", *TINY, "device=cuda", "save_every=4"]
    assert ebm(*words, "hydra.run.dir=whole").code == 0
    assert ebm(*words, "hydra.run.dir=run", "steps=8", "optimizer.schedule=constant").code == 0
    assert ebm(*words, "hydra.run.dir=straight", "optimizer.schedule=constant").code == 0
    assert ebm("train", "resume=run", "steps=12").code == 0
    assert outcome(Path("run")) == outcome(Path("straight"))


def test_ais_on_the_device_agrees_with_enumeration():
    words = ["model.hidden=8", "steps=500", "evaluation=[exact,ais,chains,samples,pseudo_likelihood]"]
    assert ebm("train", "tracker=none", "device=cuda", "hydra.run.dir=run", *words).code == 0
    found = facts(Path("run"), "summary.json")
    assert found["ais/log_likelihood"] == pytest.approx(found["exact/log_likelihood"], abs=0.1)
