"""Our contenders in the benchmarks run: nothing else would notice that one has fallen behind the code."""

import importlib

import pytest
import torch
from helpers.components import ROOT

QUICK = ("gibbs_boltzmann", "gwg", "replicated_softmax", "boltzmann_nce", "potts")  # the others compile, or take long


@pytest.mark.long
@pytest.mark.parametrize("name", QUICK)
def test_our_contender_runs(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts" / "benchmarks")
    for case in importlib.import_module(name).CASES:
        assert case.ours is not None
        with torch.compiler.set_stance("force_eager"):  # what compiling does to it is tested elsewhere, and takes long
            case.makers(quick=True)[case.ours]()()


@pytest.mark.long
@pytest.mark.parametrize("name", ["rbm", "gwg", "potts", "rsm", "convnet"])
def test_an_update_of_what_grows_runs(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts" / "benchmarks")
    growth = importlib.import_module("growth")
    growth.KINDS[name].update(growth.Shape(2, 2, 16, 2))()
