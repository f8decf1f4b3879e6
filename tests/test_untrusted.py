"""What lies in a run directory cannot run code, read other files or show the environment, whatever it says."""

import dataclasses
import hashlib
import json
import math
import os
import pickle  # noqa: TID251 - to be refused
import shutil
import struct
import sys
from pathlib import Path

import pytest
import yaml
from helpers.cli import assert_refused, ebm, forge, last_step, trained

from ebm_cli.record import checkpoint
from ebm_cli.record.checkpoint import Invalid
from ebm_cli.record.run import Run

SECRET = "the-value-of-a-secret"
COMMANDS = ("train resume=run steps=13", "sample run=run n=2 steps=1", "evaluate run=run evaluation=[samples]")


class Canary:
    """Unpickling it makes a file."""

    def __reduce__(self):
        return (os.system, ("touch canary",))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run as it should be."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return (folder / trained()).absolute()


@pytest.fixture(autouse=True)
def run(good, tmp_path, monkeypatch):
    """A copy of it in the current directory; at the end nothing must have happened."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANARY", SECRET)
    shutil.copytree(good, "run")
    yield Path("run")
    assert not list(tmp_path.rglob("canary*"))
    assert "evil" not in sys.modules


EDITED = "run/config.yaml is not as this run wrote it; what it says is taken"


def refused(*words: str, by: tuple[str, ...] = COMMANDS) -> None:
    """By all three commands, and the secret is not shown; before it, that the configuration was edited if it was."""
    written = json.loads(Path("run/metadata.json").read_text())["config_sha256"]
    edited = written != hashlib.sha256(Path("run/config.yaml").read_bytes()).hexdigest()
    for command in by:
        answer = ebm(command)
        *said, refusal = answer.err.strip().splitlines()
        assert said in ([[], [EDITED]] if edited else [[]])
        assert_refused(dataclasses.replace(answer, err=refusal), *words)
        assert SECRET not in answer.err + answer.out


def change(run, group, **values):
    """Edit a group of config.yaml (the top for None)."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    (config if group is None else config[group]).update(values)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.long
def test_a_pickle_in_place_of_tensors(run):
    forge(last_step(run), tensors=pickle.dumps(Canary()))
    refused("no valid checkpoint", "not a checkpoint of this program")


def test_a_pickle_in_place_of_everything(run):
    for name in (checkpoint.TENSORS, checkpoint.NUMBERS, checkpoint.MANIFEST):
        (last_step(run) / name).write_bytes(pickle.dumps(Canary()))
    refused("no valid checkpoint")


def header(**tensors) -> bytes:
    """A safetensors file of 8 bytes of data whose header says these things."""
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


@pytest.mark.parametrize(
    "data",
    {
        "empty": b"",
        "header too long": struct.pack("<Q", 2**62) + b"{}",
        "no json": struct.pack("<Q", 4) + b"oops",
        "outside": header(a={"dtype": "F32", "shape": [2], "data_offsets": [0, 2**40]}),
        "backwards": header(a={"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}),
        "shape lies": header(a={"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 8]}),
        "negative": header(a={"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}),
        "no such type": header(a={"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}),
    }.values(),
)
def test_tensors_whose_header_lies(data, run):
    forge(last_step(run), tensors=data)
    with pytest.raises(Invalid, match="not a checkpoint of this program"):
        checkpoint.load(last_step(run))


def test_tensors_of_another_type_or_name(run):
    for name in ("model.W", "../../canary"):
        forge(last_step(run), tensors=header(**{name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}))
        for command in COMMANDS:
            assert_refused(ebm(command))


def known(change) -> bool:
    """Whether JSON has words for the values."""
    return not any(isinstance(value, float) and not math.isfinite(value) for value in change.values())


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1}, {"step": "12"}, {"step": 1e400}, {"step": None}, {"step": 2**80}, {"step": float("nan")},
        {"step": 12.0}, {"step": True}, {"step": [12]}, {"format": "1"}, {"format": None},
    ],
    ids=str,
)  # fmt: skip
def test_steps_that_are_none(change, run):
    numbers = json.loads((last_step(run) / checkpoint.NUMBERS).read_text())
    forge(last_step(run), numbers=json.dumps(numbers | change).encode())
    finite = r"^format .* of step .* in a directory named step-00000012$"
    with pytest.raises(Invalid, match=finite if known(change) else r"\(ValueError: (NaN|Infinity) is no number\)$"):
        checkpoint.load(last_step(run))


@pytest.mark.quick("{'metrics_bytes': -1}", "{'best': 3}", "{'best': [1]}", "{'metrics_bytes': 1180*")
@pytest.mark.parametrize(
    "change",
    [
        {"metrics_bytes": -1}, {"metrics_bytes": 2**70}, {"metrics_bytes": float("nan")},
        {"metrics_bytes": float("inf")}, {"metrics_bytes": "all"}, {"metrics_bytes": None}, {"metrics_bytes": [1]},
        {"best": 3}, {"best": "x"}, {"best": [1]}, {"best": {"step": "x", "value": 0}},
        {"best": {"step": float("inf"), "value": 0}}, {"best": {"step": 1, "value": []}},
        {"best": {}, "metrics_bytes": {}},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_that_are_none(change, run):
    numbers = json.loads((last_step(run) / checkpoint.NUMBERS).read_text())
    forge(last_step(run), numbers=json.dumps(numbers | change).encode())
    before = (run / "metrics.jsonl").read_bytes()
    assert_refused(ebm(COMMANDS[0]))
    assert (run / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "space",
    [
        None, 3, "binary", [], {}, {"name": "binary"}, {"name": "os", "shape": [8, 8]},
        {"name": ["binary"], "shape": [8]},
        {"name": "binary", "shape": [0]}, {"name": "binary", "shape": [-8, -8]}, {"name": "binary", "shape": ["8"]},
        {"name": "binary", "shape": [2**40]}, {"name": "binary", "shape": [8.0, 8]}, {"name": "real", "shape": [8, 8]},
        {"name": "binary", "shape": [9, 9]},
    ],
    ids=str,
)  # fmt: skip
def test_a_space_that_is_none(space, run):
    numbers = json.loads((last_step(run) / checkpoint.NUMBERS).read_text())
    forge(last_step(run), numbers=json.dumps(numbers | {"space": space}).encode())
    assert_refused(ebm(COMMANDS[1]))


@pytest.mark.parametrize("best", ["../../x", -1, 1e400, [3], {"a": 1}], ids=str)
def test_a_best_step_that_is_none(best, run):
    numbers = json.loads((last_step(run) / checkpoint.NUMBERS).read_text())
    forge(last_step(run), numbers=json.dumps(numbers | {"best": {"step": best, "value": 0}}).encode())
    why = f"its best step is {{'step': {best!r}, 'value': 0}}" if known({"step": best}) else "Infinity is no number"
    assert_refused(ebm("sample run=run checkpoint=best"), "no valid checkpoint in run/checkpoints (step-00000012", why)


# config.yaml


@pytest.mark.quick("{'name': 'os.system'}", "{'_target_'*")
@pytest.mark.parametrize(
    "values",
    [
        {"_target_": "os.system", "command": "touch canary"}, {"name": "builtins.open"}, {"name": "os.system"},
        {"name": "../../model/rbm"},
        *(pytest.param({"name": name}, marks=pytest.mark.long) for name in (["rbm"], None, {"a": 1})),
    ],
    ids=str,
)  # fmt: skip
def test_a_component_is_only_ever_a_registered_name(values, run):
    change(run, "model", **values)
    refused("model")


@pytest.mark.parametrize("group", ["sampler", "chains", "objective", "optimizer", "dataset"])
def test_that_holds_for_every_group(group, run):
    change(run, group, _target_="os.system", command="touch canary")
    refused(group, by=COMMANDS[:1])
    change(run, group, name="os.system")
    refused(group, by=COMMANDS[1:2])


@pytest.mark.quick("${oc.env*")
@pytest.mark.parametrize("text", ["${oc.env:CANARY}", "${oc.decode:${oc.env:CANARY}}", "${model.hidden}", "${now:%Y}"])
def test_interpolations_stay_text(text, run):
    change(run, "model", hidden=text)
    refused("model.hidden = ", text.split(":")[0])
    change(run, "model", hidden=8, name=text)
    refused("model.name = ", by=COMMANDS[:1])


@pytest.mark.parametrize(
    "line",
    [
        "!!python/object/apply:os.system ['touch canary']", "!!python/name:os.system", "!!python/module:os",
        "!!python/object/new:os.system ['touch canary']", "!include /etc/passwd", "2001-01-01",
        "!!set {a}", "!!binary aGk=",
    ],
)  # fmt: skip
def test_yaml_that_is_more_than_data(line, run):
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("hidden: 8", f"hidden: {line}"))
    refused("run/config.yaml is not a run's configuration: ", by=COMMANDS[:2])


def test_yaml_that_unfolds_to_gigabytes(run):
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30))]
    (run / "config.yaml").write_text("\n".join(lines))
    refused("run/config.yaml is not a run's configuration: it has YAML aliases")


@pytest.mark.parametrize("text", ["", "3", "- a", "{", "\x00", "a: 1", "model: rbm", "&a {b: *a}"], ids=repr)
def test_a_configuration_that_is_none(text, run):
    (run / "config.yaml").write_text(text)
    refused("run/config.yaml ", by=COMMANDS[:2])


def test_a_configuration_too_deep_to_read(run):
    (run / "config.yaml").write_text("[" * 600)
    refused("run/config.yaml is not a run's configuration: ", by=COMMANDS[:1])


@pytest.mark.parametrize("key", ["steps", "seed", "log_every", "model", "dataset", "checkpoint", "chains"])
def test_a_configuration_that_lacks_something(key, run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config[key]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    refused(key, by=COMMANDS[1:2])


@pytest.mark.parametrize("key", ["device", "tracker"])
def test_a_group_that_is_empty(key, run):
    change(run, None, **{key: None})
    refused(f"lacks {key}: it is not the configuration of a whole run", by=COMMANDS[:1])


@pytest.mark.parametrize("value", [[], 3, "x", None, {"keep_last": {}}, [["keep_last", 1]]], ids=str)
def test_settings_of_another_form(value, run):
    change(run, None, checkpoint=value)
    refused("checkpoint", by=COMMANDS[:2])


@pytest.mark.parametrize("value", [3, "x", ["samples"], {"samples": 3}, {"samples": {"name": "os.system"}}], ids=str)
def test_evaluations_of_another_form(value, run):
    change(run, None, evaluation=value)
    assert_refused(ebm("train resume=run"), "evaluation")


@pytest.mark.long
def test_a_plugin_is_never_imported_because_an_artifact_asks(run, monkeypatch):
    Path("evil.py").write_text("open('canary', 'w').close()\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    change(run, None, plugins=["evil"])
    for command in COMMANDS:
        assert ebm(command).code == 0
    change(run, "model", name="evil")
    refused("model.name = 'evil': no such model")


@pytest.mark.long
def test_resume_in_an_artifact_points_nowhere(run):
    trained(directory="other")
    change(run, None, resume="other", hydra={"run": {"dir": "other"}})
    before = (Path("other") / "metadata.json").read_text()
    for command in COMMANDS:
        assert ebm(command).code == 0
    assert (Path("other") / "metadata.json").read_text() == before


def test_names_cannot_leave_the_run_directory(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["evaluation"]["../../canary"] = config["evaluation"].pop("samples")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    metadata = json.loads((run / "metadata.json").read_text())
    (run / "metadata.json").write_text(json.dumps(metadata | {"id": "../../canary", "seconds": "soon"}))
    assert ebm(COMMANDS[0]).code == 0


def test_the_pictures_of_a_plain_text_run_say_nothing_of_the_environment(run):
    change(run, "dataset", path="${oc.env:CANARY}")
    for command in COMMANDS:
        assert SECRET not in ebm(command).err


# metrics.jsonl


@pytest.mark.parametrize(("old", "new"), [(b"1", b"2"), (b"{", b"\xe9")], ids=["a digit", "no UTF-8"])
def test_an_edited_record_is_not_gone_on_with(old, new, run):
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes().replace(old, new, 1))
    refused("metrics.jsonl is not what was logged until its checkpoint: it was edited or damaged", by=COMMANDS[:1])


def test_a_damaged_record_of_an_older_program_is_read_as_far_as_it_can_be(run):
    numbers = json.loads((last_step(run) / checkpoint.NUMBERS).read_text())
    del numbers["metrics_sha256"]
    forge(last_step(run), numbers=json.dumps(numbers).encode())
    gaps = Run(run).logged("energy_gap")
    assert gaps
    assert Run(run).logged_lines("health/")
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes().replace(b"{", b"\xe9"))
    assert Run(run).logged("energy_gap") == gaps, "what can be read of a line is"
    assert Run(run).logged_lines("health/") == []
    assert ebm(COMMANDS[0]).code == 0


@pytest.mark.long
def test_a_newest_checkpoint_that_is_gone_is_said(run):
    before = ebm("train resume=run steps=13 save_every=1")
    assert before.code == 0
    shutil.rmtree(last_step(run))
    for command in COMMANDS[1:]:
        answer = ebm(command)
        assert answer.code == 0
        assert "run got to step 13, its newest checkpoint is of step 12" in answer.err
