"""What of the data chains did not come to, and the way out that is named."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.components import component
from helpers.training import small_run
from test_trajectory_tempering import subject, wells

from ebm_cli.dataset.base import Split
from ebm_cli.evaluation import laid
from ebm_cli.evaluation.missing import groups, missing
from ebm_cli.health.budget import Moving
from ebm_cli.health.past import Training
from ebm_cli.rng import normal, stream, uniform

CPU = torch.device("cpu")


def clusters(shares, n=400, sites=20):
    """Rows of bits, mostly 0 or mostly 1, so many of the latter in each part."""
    count = round(n * shares)
    p = torch.full((n, sites), 0.1)
    p[:count] = 0.9
    return (uniform((n, sites), stream(1, "rows")) < p).float()


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6])
def test_two_clusters_are_found_with_their_shares(share):
    found = groups(clusters(share))
    upper = found.upper(clusters(share)).double().mean().item()
    assert min(upper, 1 - upper) == pytest.approx(min(share, 1 - share), abs=0.01)


def test_one_cloud_is_no_two_groups():
    """A normal law, a uniform one along a line, independent bits, and rows that are all the same."""
    assert groups(normal((500, 6), stream(2), CPU)) is None
    assert groups(torch.linspace(0, 1, 500)[:, None].expand(-1, 3)) is None
    assert groups((uniform((500, 20), stream(3)) < 0.5).float()) is None
    assert groups(torch.ones(10, 4)) is None


def test_a_mode_is_missed_where_chance_would_not_leave_it_out():
    rows = clusters(0.4)
    assert missing(rows, clusters(0.4, 16)) is None
    said = "40 % of the held-out rows lie apart from the others, where none of 16 chains came"
    assert missing(rows, clusters(0.0, 16)) == said
    assert missing(rows, clusters(1.0, 16)).startswith("60 % of")
    assert missing(rows, clusters(0.0, 8)) is None, "0.6^8 is 2 %"
    assert "where 1 of 50 chains came" in missing(rows, clusters(0.02, 50))
    assert missing(rows, rows[:0]) is None


def lost(models):
    """Of chains that begin as noise, none of which come to the ones that hold 0.6 of the rows."""
    with torch.no_grad():
        models[-1].c.sub_(25)
    about = subject(models)
    rows = clusters(0.6, 100, 24)
    split = Split(models[-1].space, rows, 1.0, stochastic=False, labels=None)
    return replace(about, data=replace(about.data, test=split))


def test_chains_that_lost_a_mode_say_which_and_what_may_find_it():
    """By trajectory tempering where the run kept checkpoints."""
    keys = {"chains": 40, "warmup": 50, "steps": 50, "projections": 1}
    alone = component("evaluation", "chains", **keys).evaluate(lost([wells(1)])).warnings
    assert alone[-1].startswith("chains from noise lost a mode: 60 % of the held-out rows")
    assert not any("trajectory" in sentence for sentence in alone)
    along = component("evaluation", "chains", **keys).evaluate(lost([wells(s) for s in np.linspace(0, 1, 8)]))
    assert "take sampler=trajectory, along the 7 checkpoints that the run kept" in along.warnings[-1]


def test_a_run_by_chains_of_a_trajectory_is_told_of_the_sampler():
    parts, state = small_run()
    about = subject([wells(1, 4)])
    assert laid.along(about) is None
    roams = replace(parts.components, chains=component("chains", "trajectory"))
    moving = Moving(roams.chains, about.sampler, 1, negatives=True)
    said = laid.along(replace(about, training=Training(state.store, moving, 0, list)))
    assert said == "sampler=trajectory, of a run with checkpoint.log_spaced=50"


def test_more_checkpoints_than_there_are_are_asked_for():
    assert laid.more(0) == "train with checkpoint.log_spaced=50, which keeps checkpoints all along"
    assert laid.more(12).startswith("train with checkpoint.log_spaced=50")
    assert laid.more(45) == "the 45 checkpoints that the run kept are too few; train with checkpoint.log_spaced=100"
    assert laid.more(80).endswith("checkpoint.log_spaced=200")
