"""Blocked Gibbs for large alphabets: exact whatever its proposals leave out, in a memory that K hardly changes."""

import pytest
import torch
from helpers.components import FALSE_ALARM, component
from helpers.matrices import matrix_of
from helpers.models import double_states, exact_p, target
from helpers.statistics import chi_square
from torch.profiler import ProfilerActivity, profile

from ebm_cli import registry
from ebm_cli.rng import stream
from ebm_cli.sampler import top_k_gibbs
from ebm_cli.sampler.base import run
from ebm_cli.sampler.top_k import of_slopes
from ebm_cli.space import Categorical

SETTINGS = {
    "one_value": {"block": 1, "top": 1, "temperature": 2.0},
    "pairs": {"block": 2, "top": 2, "temperature": 1.0},
    "all_values": {"block": 2, "top": None, "temperature": 2.0},
}


@pytest.mark.quick("one_value-mlp_discrete-categorical", "pairs-mlp_discrete-categorical")
@pytest.mark.parametrize("model_name", ["mlp_discrete-categorical", "potts-categorical"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_step_is_its_definition_and_exact(setting, model_name):
    """From every state 2000 chains take one step; the matrix that they are held against leaves p as it is."""
    sampler, model, n = component("sampler", "top_k_gibbs", **SETTINGS[setting]), target(model_name), 2000
    matrix, p = matrix_of(sampler, model), exact_p(model)
    assert (p @ matrix - p).abs().max() < 1e-12
    flow = p[:, None] * matrix
    assert (flow - flow.T).abs().max() < 1e-14
    x = double_states(model).repeat_interleave(n, 0)
    y, _ = run(sampler, model, x, 1, stream(3, setting, model_name))
    states = model.space.states
    pairs = model.space.code(x) * states + model.space.code(y)
    count = torch.bincount(pairs, minlength=states**2).reshape(states, states)
    assert chi_square(count, matrix.numpy() * n, cells_lost=states) > FALSE_ALARM


def test_of_an_energy_linear_in_each_site_it_is_gibbs():
    """Every proposal from all values is accepted."""
    model = target("potts-categorical")
    sampler = component("sampler", "top_k_gibbs", block=1, top=None)
    _, info = run(sampler, model, double_states(model), 20, stream(1, "gibbs"))
    assert info["acceptance"].min() > 1 - 1e-6


def test_laws_sum_to_one_and_are_what_is_drawn():
    """10 values of which 3 are told apart, at scales from flat to where the others have a ten-thousandth."""
    scale = torch.tensor([[[0.1]], [[4.0]]], dtype=torch.float64)
    slope = scale * torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(1))
    law = of_slopes(slope, 3, 1.0)
    each = torch.stack([law.log_prob(torch.full((2, 3), value)) for value in range(10)], 2).exp()
    assert (each.sum(2) - 1).abs().max() < 1e-12
    exact, top = (-slope).softmax(2), torch.zeros(2, 3, 10, dtype=torch.bool).scatter(2, law.top, 1)
    assert (each - exact)[top].abs().max() < 1e-12
    assert (each[~top].reshape(2, 3, 7) - exact[~top].reshape(2, 3, 7).mean(2, keepdim=True)).abs().max() < 1e-12
    n = 20_000
    drawn = type(law)(*(part.expand(n, *part.shape) for part in law)).drawn(10, stream(2, "draws"))
    for row, site in ((0, 0), (0, 2), (1, 1)):
        count = torch.bincount(drawn[:, row, site], minlength=10)[None]
        assert chi_square(count, (each[row, site] * n).numpy()[None], cells_lost=1) > FALSE_ALARM


def _peak(work) -> int:
    """Bytes of tensors that lived at once, beyond those before: of every allocation, within operations too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = torch.tensor([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(held.cumsum(0).max())


@pytest.mark.long
def test_memory_of_a_step_hardly_grows_with_the_alphabet(monkeypatch):
    """At K = 10 000 less than three times one-hot rows, whatever the model's own copies of them; Gibbs-with-Gradients,
    which keeps its gradient, is beyond that. Rows at once are fewer here, as the chains are."""
    monkeypatch.setattr(top_k_gibbs, "_NUMBERS", 2**16)
    space, chains = Categorical((2, 10_000)), 20
    spec = registry.build("model", {"name": "mlp_discrete", "widths": [4], "base": "uniform", "clip": 0.01})
    model = spec.build(space, torch.full(space.shape, 1e-4), stream(0, "model"))
    x = space.noise(chains, stream(1, "x"))

    def share(sampler) -> float:
        state = sampler.init(model, x)
        return _peak(lambda: sampler.step(model, state, stream(2, "step"))) / (x.numel() * x.element_size())

    assert share(component("sampler", "top_k_gibbs")) < 3
    assert share(component("sampler", "gwg")) > 3


@pytest.mark.long
def test_one_hot_rows_are_all_that_is_made_of_them():
    space = Categorical((8, 10_000))
    assert _peak(lambda: space.encode(torch.arange(40).reshape(5, 8))) < 1.1 * 4 * 5 * 80_000


def test_blocks_of_more_sites_than_there_are_are_refused():
    sentence = "sampler.block = 5: the data have 4 sites; give at most that"
    sampler = component("sampler", "top_k_gibbs", block=5)
    assert sampler.refusal(Categorical((2, 2, 3))) == sentence
    assert sampler.refusal(Categorical((5, 3))) is None
