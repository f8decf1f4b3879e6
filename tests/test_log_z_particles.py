"""Particles drawn anew on the way from a base to a model: log Z without bias, and the way back, on tiny models."""

import pytest
import torch
from helpers.models import double_states, exact_p
from helpers.statistics import assert_close, assert_mean
from test_ais import EXACT, bipartite, geometric, log_z_of

from ebm_cli.evaluation import ais
from ebm_cli.log_z import particles
from ebm_cli.rng import categorical, stream

FEW = 4  # temperatures
PATHS = pytest.mark.parametrize(
    "make", [lambda: bipartite("rbm-binary", 2.5), lambda: geometric("gibbs", "ising-spin", 2.5)]
)


@pytest.mark.long
@PATHS
@torch.no_grad()
def test_estimates_have_mean_z_and_narrow_with_particles(make):
    """E[Z_hat] = Z / Z_base where particles are drawn anew, which they are: without, the log of it differs."""
    path = make()
    expected = log_z_of(path) - path.log_z_base
    four = particles.forward(path, 6000, 4, FEW, stream(0, "forward"))
    assert_mean((four - expected).exp(), 1.0)
    one = particles.forward(path, 6000, 1, FEW, stream(0, "forward"))
    assert four.std() < one.std()


@PATHS
@torch.no_grad()
def test_one_particle_is_ais_and_raise(make):
    path, x = make(), double_states(make().model)[:5]
    key = stream(0, "same")
    assert_close(particles.forward(path, 30, 1, FEW, key), ais.forward(path, 30, FEW, key)[0], **EXACT)
    found = particles.reverse_log_p(path, x, 2, 1, FEW, key)
    assert_close(found, ais.reverse_log_p(path, x, 2, FEW, key.fold("back")), **EXACT)


@pytest.mark.long
@PATHS
@torch.no_grad()
def test_back_from_draws_of_the_model_the_inverse_has_mean_one_over_z(make):
    """E[Z / (Z_hat Z_base)] = 1 for x ~ p, and E[f(x) / (Z_hat Z_base)] over all x is the probability of something."""
    path, n = make(), 500
    x, p = double_states(path.model), exact_p(path.model)
    log_q = particles.reverse_log_p(path, x.repeat_interleave(n, 0), 1, 3, FEW, stream(0, "reverse"))
    q = log_q.exp().reshape(len(x), n)
    error = (q.var(1).sum() / n) ** 0.5
    assert abs(q.mean(1).sum() - 1) < 5 * error < 0.3
    drawn = categorical(p.log().expand(6000, -1), stream(0, "x"))
    back = particles.reverse_log_p(path, x[drawn], 1, 3, FEW, stream(0, "drawn"))
    assert_mean((back - p[drawn].log()).exp(), 1.0)


@pytest.mark.long
@torch.no_grad()
def test_many_particles_bring_both_ends_together():
    """Both bounds come a tenth as near or nearer to a model that is hard to anneal to."""
    path, x = bipartite("rbm-binary", 2.5), double_states(bipartite("rbm-binary").model)
    x = x.repeat_interleave(20, 0)
    expected = exact_p(path.model).log().repeat_interleave(20)
    gaps = [(expected - particles.reverse_log_p(path, x, 1, n, FEW, stream(0, "n", n))).mean() for n in (1, 100)]
    lows = [particles.forward(path, 200, n, FEW, stream(0, "m", n)).mean() - log_z_of(path) for n in (1, 100)]
    for one, many in (gaps, [low + path.log_z_base for low in lows]):
        assert abs(one) > 0.1
        assert abs(many) < 0.1 * abs(one)
