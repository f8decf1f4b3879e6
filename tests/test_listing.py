"""`ebm list` reads source text; it must say what the imported components are."""

import dataclasses

import pytest
import yaml
from helpers.cli import ebm

from ebm_cli import registry
from ebm_cli.cli import listing
from ebm_cli.commands.session import USUAL
from ebm_cli.training import checks

registry.load_components()
PARTS = [part for group in registry.GROUPS for part in listing.choices_of(group)]


def of(part):
    return registry.components(part.group)[part.component]


def named(part):
    return f"{part.group}={part.choice}"


def test_every_component_has_a_choice_and_every_choice_a_component():
    registered = {(group, name) for group in registry.GROUPS for name in registry.components(group)}
    registered = {
        entry for entry in registered if registry.components(entry[0])[entry[1]].__module__.startswith("ebm_cli.")
    }
    assert {(part.group, part.component) for part in PARTS} == registered
    assert all(listing.component(*entry) is not None for entry in registered)


@pytest.mark.parametrize("part", PARTS, ids=named)
def test_keys_are_the_fields(part):
    assert [key.name for key in part.keys] == [field.name for field in dataclasses.fields(of(part))] or {
        key.name for key in part.keys
    } == {field.name for field in dataclasses.fields(of(part))}


@pytest.mark.parametrize("part", PARTS, ids=named)
def test_every_choice_and_key_is_explained(part):
    assert part.text
    assert all(key.default for key in part.keys)


@pytest.mark.quick("sampler=mala", "sampler=metropolis", "sampler=length_exchange")
@pytest.mark.parametrize("part", [part for part in PARTS if part.group == "sampler"], ids=named)
def test_fits_is_what_the_checks_accept(part):
    fitting = [model.choice for model in listing.choices_of("model") if checks._fits(of(part), of(model))]
    assert listing.fits(part) == (f"models {', '.join(fitting)}" if fitting else "the model of a run that is there")


@pytest.mark.parametrize("part", [part for part in PARTS if part.group in ("model", "objective")], ids=named)
def test_spaces_are_those_declared(part):
    assert listing.fits(part) == ", ".join(space.__name__.lower() for space in of(part).spaces)


def test_groups_are_those_of_the_registry():
    assert set(listing.GROUPS) == {*registry.GROUPS, "experiment"}


@pytest.mark.parametrize("group", listing.GROUPS)
def test_list_of_a_group_names_its_choices(group):
    answer = ebm(f"list {group}")
    assert answer.code == 0
    assert all(f"{group}={choice}" in answer.out for choice in listing.choices(group))


def test_list_of_everything():
    out = ebm("list").out
    assert all(part.choice in out for part in PARTS)


def test_list_of_one_part():
    out = ebm("list optimizer sgd").out
    assert "optimizer=adam" not in out
    assert all(f"optimizer.{key.name}" in out for key in listing.choices_of("optimizer")[-1].keys)
    assert "peak learning rate" in out


@pytest.mark.parametrize("words", ["sampler=pafs", "sampler/pafs"])
def test_a_part_may_be_named_as_it_is_typed(words):
    assert ebm(f"list {words}").out == ebm("list sampler pafs").out != ""


def test_keys_of_an_evaluation_are_listed_as_they_are_typed():
    """Of exact_if_possible, too, they are evaluation.exact.KEY."""
    lines = ebm("list evaluation exact_if_possible").out.splitlines()
    shown = [line.split()[0] for line in lines if line.startswith("    ")]
    assert shown == ["evaluation.exact.while_training", "evaluation.exact.if_too_large"]


def test_suggestions_know_every_key_of_the_composed_configuration():
    def leaves(values, prefix=""):
        for key, value in values.items():
            yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]

    composed = yaml.safe_load(ebm("train --cfg job").out)
    known = set(listing.keys_of("train"))
    assert {key for key in leaves(composed) if not key.endswith(".name")} <= known


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_the_usual_evaluations_are_those_of_the_commands(command):
    """Named as in the configuration, where each stands below its component."""
    named = next(entry["evaluation"] for entry in listing.packaged(command)["defaults"] if "evaluation" in entry)
    assert {part.component for part in listing.choices_of("evaluation") if part.choice in named} == USUAL


PLUGIN = """
from ebm_cli.registry import register
from ebm_cli.sampler.base import Sampler
from ebm_cli.space import Spin


@register("sampler", "own_walk")
class OwnWalk(Sampler):
    spaces = (Spin,)
"""


def test_a_plugin_is_listed_as_a_part_is(tmp_path, monkeypatch, capsys):
    """By its comment, though the name of its file stands before it, and with the models it fits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(PLUGIN)
    (tmp_path / "broken.py").write_text("from ebm_cli.registry import register\n@register(")
    (tmp_path / "conf" / "sampler").mkdir(parents=True)
    text = "# conf/sampler/own_walk.yaml\n# A walk of my own\nname: own_walk\nstep: 1.0  # how far\n"
    (tmp_path / "conf" / "sampler" / "own_walk.yaml").write_text(text)
    assert listing.main(["sampler", "own_walk", "plugins=[own]"]) == 0
    shown = capsys.readouterr().out
    assert "sampler=own_walk  A walk of my own" in shown
    assert "fits models class_rbm, exponential_family, ising" in shown
