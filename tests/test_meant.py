"""What nearly says what was meant is answered with the way out."""

import re
import tomllib
from pathlib import Path

import pytest
from helpers.cli import assert_refused, ebm, trained
from helpers.components import ROOT

from ebm_cli.cli import meant
from ebm_cli.cli.listing import GROUPS, choices, keys_of
from ebm_cli.errors import install

LINES = {
    "train k=10 objective=cd": "unknown key k; did you mean chains.steps?",
    "train hidden=16": "unknown key hidden; did you mean model.hidden?",
    "train n_hidden=16": "did you mean model.hidden?",
    "train epochs=5": "training is counted in steps, one update of the weights each: steps=N",
    "train rbm": "rbm: not of the form KEY=VALUE; did you mean model=rbm?",
    "train --steps 5": "--steps: keys have no dashes before them; write steps=VALUE",
    "train --steps=5": "--steps=5: keys have no dashes before them; write steps=5",
    "train --model.hidden 5": "write model.hidden=VALUE",
    "train steps=1e4": "steps = 1e4: must be a whole number, without point or exponent; write steps=10000",
    "train model.hidden=8.0": "model.hidden = 8.0: must be a whole number, without point or exponent; write model",
    "train run=old": "unknown key run; did you mean resume?",
    "sample run=old data=rows.csv": "unknown key data; did you mean given?",
    "train -m hydra/launcher=clouds seed=0,1": "no hydra/launcher named clouds (one of: basic, stacked, joblib, ",
    "train -m hydra/launcher=stackd seed=0,1": "no hydra/launcher named stackd; did you mean stacked? (one of",
    "train hydra/launcher=stacked steps=1 evaluation=[]": "is for the jobs of a multirun; leave it out, or write ",
    "sample run=run hydra/launcher=joblib": "hydra/launcher=joblib: is for the jobs of a multirun; leave it out",
    "train -m hydra/sweeper=optuna seed=0,1": "it would search by the exit code of a job",
    "list rbm": "no group 'rbm'; it is a choice of a group: ebm list model rbm",
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.quick(
    "train epochs*",
    "train hidden*",
    "train n_hidden*",
    "train --steps=5",
    "list rbm*",
    "train -m hydra/sweeper*",
    "train steps=1e4",
    "train run*",
    "sample run=old*",
    "train rbm",
    "train hydra/launcher*",
)
@pytest.mark.parametrize("line", LINES)
def test_the_way_out_is_named(line):
    assert_refused(ebm(line), LINES[line])


@pytest.mark.long
def test_a_run_in_place_of_a_key():
    trained("steps=2")
    assert_refused(ebm("sample run"), "run: not of the form KEY=VALUE; did you mean run=run?")
    assert_refused(ebm("evaluate run"), "did you mean run=run?")
    assert_refused(ebm("train run"), "did you mean resume=run?")
    Path("folder").mkdir()
    assert "resume=" not in ebm("train folder").err


def test_what_only_other_commands_take():
    trained("steps=2")
    assert_refused(ebm("train resume=run checkpoint=best"), "a run goes on from its newest checkpoint; leave it out")
    assert_refused(ebm("sample run=run given=[1,0]"), "given = [1,0]: is for models of documents")


@pytest.mark.long
def test_what_is_offered_is_there():
    known = {*keys_of("train"), *(f"{group}={name}" for group in GROUPS for name in choices(group)), "hydra.run.dir"}
    assert set(meant._SAME.values()) <= known


def test_an_extra_is_installed_by_words_that_work_in_a_clone():
    """What is named is an extra of the clone, at the pinned versions where these allow it."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    code = "".join(path.read_text() for path in (ROOT / "ebm_cli").rglob("*.py"))
    called = {*re.findall(r"install\([\"'](\w+)[\"']\)", code), *meant._EXTRAS["hydra/launcher"].values()}
    trackers_and_launchers = {"mlflow", "tensorboard", "trackio", "joblib", "slurm", "ray"}
    assert called == trackers_and_launchers | {"fidelity", "tune", "hdf5", "notebook", "tables"}
    assert called <= {*extras}
    assert install("ray") == "in the folder of the clone: .venv/bin/pip install -c constraints.txt -e '.[ray]'"
    assert install("trackio") == "in the folder of the clone: .venv/bin/pip install -e '.[trackio]'"
