"""The way out of a sign is one that the run has: keys of its own objective where that makes its negatives itself."""

import re
from pathlib import Path

import pytest
from helpers.cli import ebm, facts
from helpers.components import shipped

from ebm_cli import registry
from ebm_cli.health import limits

OWN = {name: kind.ways for name, kind in registry.components("objective").items() if kind.ways}


@pytest.mark.parametrize("name", OWN)
def test_ways_of_an_objective_are_keys_that_it_has(name):
    keys, dotted = shipped("objective")[name], re.compile(r"objective\.([\w.]+)")
    for sign, way in OWN[name].items():
        assert limits.LIMITS[sign].way != way
        found = [key.split(".") for key in dotted.findall(way)]
        assert found
        for first, *rest in found:
            assert first in keys
            assert all(key in keys[first] for key in rest)


def test_a_sign_says_the_way_out_that_it_is_given():
    (sign,) = limits.signs({"gap": 20.0}, {"gap": "take more objective.k"})
    assert sign.text.endswith("; take more objective.k")
    (sign,) = limits.signs({"gap": 20.0}, {"acceptance": "take more objective.k"})
    assert sign.text.endswith("; " + limits.LIMITS["gap"].way)


@pytest.mark.long
def test_a_run_is_told_of_its_own_keys(tmp_path, monkeypatch):
    """While it trains, in its summary, and by `evaluation=health` of what was logged."""
    monkeypatch.chdir(tmp_path)
    line = (
        "model=leveled model.network.widths=[4] model.process.levels=4 dataset=points_2d objective=recovery "
        "objective.kernel.step_size=1e4 steps=200 evaluation=[] tracker=none hydra.run.dir=run "
        "device.compile=never eval_every=0"
    )
    assert ebm("train", *line.split()).code == 0
    way = OWN["recovery"]["acceptance"]
    (why,) = [text for text in facts(Path("run"), "summary.json")["health"]["why"] if "accept" in text]
    assert why.endswith(f"; {way}")
    answer = ebm("evaluate run=run evaluation=[health]")
    assert way in answer.out + answer.err
