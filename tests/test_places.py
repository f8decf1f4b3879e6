"""Keys that say where files are: of shipped parts and of a plugin's, from whatever folder a run goes on."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.cli import TINY, assert_refused, ebm, facts

from ebm_cli import registry
from ebm_cli.cli.arguments import _FILE_KEYS
from ebm_cli.commands.places import given_anew, names_file, rooted, without
from ebm_cli.errors import UserError

PLUGIN = '''
from typing import Annotated

import numpy as np

from ebm_cli.dataset.base import Arrays, Binarize, Dataset, Raw
from ebm_cli.registry import Files, register
from ebm_cli.space import Binary


@register("dataset", "own_bits")
class OwnBits(Dataset):
    """Bits of an .npy file, with their names beside it."""

    file: str
    names: Annotated[str, Files()] | None
    binarize: Binarize

    values = "binary"

    def read(self):
        """The last ten rows are for testing, the ten before for validation."""
        rows = np.load(self.file, allow_pickle=False)
        if self.names:
            open(self.names).close()
        return Raw("binary", Arrays(rows[:-20], None), Arrays(rows[-20:-10], None), Arrays(rows[-10:], None))
'''
MOMENTS = '''
from ebm_cli.evaluation.base import Evaluation, Result
from ebm_cli.registry import register


@register("evaluation", "own_moments")
class OwnMoments(Evaluation):
    """Mean of the held-out rows."""

    while_training: bool

    compared = ("own_moments/mean",)

    @classmethod
    def lines(cls, values, split):
        """The mean in words."""
        return {f"mean ({split})": f"{values['own_moments/mean']:.1f} of one"}

    def evaluate(self, subject):
        """Of all sites."""
        return Result({"own_moments/mean": subject.held_out.all().mean().item()})
'''


BITS = "# Bits of my own\nname: own_bits\nfile: null\nnames: null\nbinarize: auto\n"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a plugin of one part of a group, as `own(group, name, code, yaml)` writes it."""
    monkeypatch.chdir(tmp_path)
    registry.load_components()
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(group, name, code, config):
        Path(f"plugin_of_{name}.py").write_text(code)
        Path("conf", group).mkdir(parents=True)
        Path("conf", group, f"{name}.yaml").write_text(config)
        return f"plugins=[plugin_of_{name}]"

    return write


@pytest.mark.long
def test_a_run_on_a_plugins_file_goes_on_from_another_folder(own, tmp_path, monkeypatch):
    """Whether its key has one of the usual names or is marked."""
    plugin = own("dataset", "own_bits", PLUGIN, BITS)
    np.save("bits.npy", np.random.default_rng(0).integers(0, 2, (60, 9), np.uint8))
    Path("names.txt").write_text("a")
    words = ["dataset=own_bits", "dataset.file=bits.npy", "dataset.names=names.txt", "evaluation=[]"]
    few = [word for word in TINY if not word.startswith(("dataset", "evaluation"))]
    assert ebm("train", *few, *words, plugin, "hydra.run.dir=run").code == 0
    saved = yaml.safe_load(Path("run/config.yaml").read_text())["dataset"]
    assert saved["file"] == str(tmp_path / "bits.npy")
    assert saved["names"] == str(tmp_path / "names.txt")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    answer = ebm("train", f"resume={tmp_path / 'run'}", "steps=16", plugin)
    assert answer.code == 0, answer.err
    assert facts(tmp_path / "run")["step"] == 16


@pytest.mark.long
def test_an_evaluation_of_a_plugin_is_one_file(own):
    """It gives its own line and column; a YAML without its first line is answered with that line."""
    plugin = own("evaluation", "own_moments", MOMENTS, "# Moments\nname: own_moments\nwhile_training: false\n")
    few = [word for word in TINY if not word.startswith("evaluation")]
    line = "its file must begin with the line '# @package evaluation.own_moments'"
    assert_refused(ebm("train", *few, "evaluation=[own_moments]", plugin), "evaluation=own_moments: ", line)
    assert_refused(ebm("train", *few, "evaluation=[ais,own_moments]", plugin), "evaluation=own_moments: ", line)
    file = Path("conf/evaluation/own_moments.yaml")
    file.write_text(f"# @package evaluation.own_moments\n{file.read_text()}")
    answer = ebm("train", *few, "evaluation=[own_moments]", plugin, "hydra.run.dir=run")
    assert answer.code == 0, answer.err
    assert re.search(r"^ *mean \(test\) +0\.\d of one *$", answer.out, re.MULTILINE), answer.out
    assert "own_moments/mean" not in answer.out
    swept = ebm("train", "-m", *few, "evaluation=[own_moments]", plugin, "seed=0,1", "hydra.sweep.dir=sweep")
    assert re.search(r"own_moments/ *\n.* mean ", swept.out), swept.out
    assert 0 < facts(Path("run"), "summary.json")["own_moments/mean"] < 1


CONFIG = {
    "dataset": {"name": "protein", "path": "a.fasta", "root": None, "contacts": "b.npz", "reweight": 0.8},
    "model": {"name": "product", "parts": ["runs/a", {"name": "rbm"}], "weights": None},
    "sampler": {"name": "augmented", "kernel": {"name": "gibbs"}},
    "noise": {"name": "dataset", "source": {"name": "array", "path": "c.npz", "held_out": 0.1}},
    "evaluation": {"ood": {"name": "ood", "root": "data"}},
}


def test_files_are_found_wherever_a_part_lies(tmp_path, monkeypatch):
    """Of data sets, of a model's parts, of the data that are noise, of evaluations; other keys stay."""
    registry.load_components()
    monkeypatch.chdir(tmp_path)
    found = rooted(CONFIG)
    assert found["dataset"] == CONFIG["dataset"] | {"path": f"{tmp_path}/a.fasta", "contacts": f"{tmp_path}/b.npz"}
    assert found["model"]["parts"] == [f"{tmp_path}/runs/a", {"name": "rbm"}]
    assert found["noise"]["source"]["path"] == f"{tmp_path}/c.npz"
    assert found["noise"]["source"]["held_out"] == 0.1
    assert found["evaluation"]["ood"]["root"] == f"{tmp_path}/data"
    assert found["sampler"] == CONFIG["sampler"]


def test_what_moved_may_be_given_anew_and_no_more():
    registry.load_components()
    anew = [("dataset", "path"), ("dataset", "contacts"), ("noise", "source", "path")]
    own = [
        ("dataset", "reweight"),
        ("model", "parts"),
        ("noise", "source", "held_out"),
        ("noise", "source"),
        ("dataset",),
    ]
    assert all(names_file(key, CONFIG) for key in anew)
    assert not any(names_file(key, CONFIG) for key in own)
    left = without(CONFIG)
    assert left["dataset"] == {"name": "protein", "reweight": 0.8}
    assert left["model"] == CONFIG["model"]
    assert left["noise"]["source"] == {"name": "array", "held_out": 0.1}
    changed = given_anew(CONFIG["noise"], {"source": {"path": "d.npz"}}, "noise")
    assert changed["source"] == {"name": "array", "path": "d.npz", "held_out": 0.1}
    with pytest.raises(UserError, match=r"noise\.source\.held_out: the run keeps its own noise"):
        given_anew(CONFIG["noise"], {"source": {"held_out": 0.2}}, "noise")


def test_the_command_line_takes_every_such_key_without_quotes():
    """It knows them by name alone: components are not loaded yet when their paths are quoted."""
    registry.load_components()
    declared = {
        key
        for group in registry.GROUPS
        for name in registry.components(group)
        for key, moves in registry.file_keys(group, name).items()
        if moves
    }
    assert declared <= set(_FILE_KEYS)
    assert set(registry.FILE_KEYS) <= set(_FILE_KEYS)


NESTED = {
    (
        "sampler",
        "evaluation.mixing.samplers.a",
        '{"name": "gibbs", "scan": 3}',
    ): "evaluation.mixing.samplers.a.scan = 3: ",
    ("sampler", "evaluation.mixing.reference", '{"name": "augmented", "kernel": {"name": "gibs"}}'): (
        "evaluation.mixing.reference.kernel.name = 'gibs': no such sampler"
    ),
    ("dataset", "noise.source", '{"name": "digits", "levels": 16}'): "noise.source.binarize is missing",
    ("sampler", None, '{"name": "augmented", "kernel": {"name": "gibbs", "scan": 3}}'): "sampler.kernel.scan = 3: ",
}


@pytest.mark.parametrize(("group", "at", "text"), NESTED)
def test_a_key_is_named_where_it_stands(group, at, text):
    """Of a part within another, and within one that is within another."""
    registry.load_components()
    with pytest.raises(UserError) as caught:
        registry.build(group, json.loads(text), at=at)
    assert str(caught.value).startswith(NESTED[group, at, text])
