"""A training step compiled ahead of time does what the same code does operation by operation, and is kept."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers.cli import assert_refused, ebm, train, trained
from helpers.components import SMALL_SPACES, component, shipped
from helpers.data import small_data
from helpers.models import small_model
from helpers.statistics import assert_close
from helpers.training import small_run
from test_compiled import COMPILER

from ebm_cli import acceleration
from ebm_cli.acceleration import resolved
from ebm_cli.device import ahead
from ebm_cli.device.engine import EAGER, INLINE, Work
from ebm_cli.device.leaves import Leaves
from ebm_cli.device.loops import Loops
from ebm_cli.errors import UserError
from ebm_cli.rng import stream
from ebm_cli.space import Binary
from ebm_cli.training import whole_step
from ebm_cli.training.plan import Planner, packs, plan, plans
from ebm_cli.training.step import execute
from ebm_cli.training.whole_step import WholeStep

long = pytest.mark.long
STEPS = {
    "rbm": ({}, ()),
    "noise": ({"objective": "nce"}, ()),
    "several transitions": ({"chains": {"steps": 3, "final_steps": 4}, "sampler": "gwg"}, long),
    "adam": ({"optimizer": {"name": "adam", "clip": 0.1, "ema": 0.9}}, long),
    "data": ({"objective": "cd", "chains": "data"}, long),
    "replay": ({"chains": {"name": "replay", "steps": 2, "size": 30}}, long),
    "boltzmann": ({"model": "boltzmann", "sampler": "gwg"}, long),
    "ising": ({"model": "ising", "sampler": "block_gibbs"}, long),
    "potts": ({"model": "potts", "sampler": "gwg"}, long),
    "fhmm": ({"model": "fhmm"}, long),
    "walls": ({"model": "gaussian_rbm", "sampler": "mala", "dataset": "points_2d"}, long),
    "energy discrepancy": ({"objective": "energy_discrepancy"}, long),
}


def changed(group, value):
    """The shipped settings of a part by its name, or some of the default part's with others in their places."""
    default = {"chains": "persistent", "optimizer": "sgd"}.get(group)
    if isinstance(value, str):
        return shipped(group)[value]
    return shipped(group).get(value.get("name", default), {}) | value


def run_of(engine=INLINE, **changes):
    return small_run(engine, **{group: changed(group, value) for group, value in changes.items()})


@pytest.mark.quick("noise")
@pytest.mark.parametrize(
    "changes", [pytest.param(found, id=name, marks=marks) for name, (found, marks) in STEPS.items()]
)
def test_what_is_compiled_is_the_step(changes):
    """Of two steps one after the other: the chains to the bit, numbers and weights but for roundings."""
    (parts, state), (_, other) = run_of(**changes), run_of(**changes)
    assert whole_step.refusal(parts, state, 10**6) is None
    how = whole_step.execution(parts, state)
    for _ in range(2):
        inputs, step = how.plan(parts, state), how.execute
        given = [*inputs.tensors(), *(tensor.detach() for tensor in step.tensors)]
        function = whole_step._Step(step.leaves, inputs)
        metrics, norms = ahead.traced(function, given)(*given)
        expected = execute(parts, other, plan(parts, other))
        assert function.facts() == {"names": expected.names, "moved": expected.moved}
        assert_close(metrics, expected.metrics, rtol=1e-5, atol=1e-5)
        assert_close(norms, expected.norms, rtol=1e-5, atol=1e-5)
        assert torch.equal(state.store, other.store)
        assert torch.equal(state.ages, other.ages)
        for name, tensor in state.tensors().items():
            assert_close(tensor.detach(), other.tensors()[name].detach(), rtol=1e-5, atol=1e-6)
        state.step = other.step = 1


def test_no_noise_that_compiles_has_parameters_of_its_own_to_learn():
    """What is traced has no parameters, so automatic differentiation within it would find none."""
    for name in shipped("noise"):
        spec = component("noise", name)
        for space in spec.spaces if spec.has_density else ():
            noise = spec.build(small_data(SMALL_SPACES[space]), stream(0, "noise"))
            assert not (noise.compiles and any(p.requires_grad for p in noise.parameters())), name


def test_what_cannot_be_one_region_is_known():
    for changes, at_once, why in [
        ({"objective": "exact"}, 10**6, "not compiled"),
        ({"sampler": "gibbs"}, 10**6, "this sampler is not compiled"),
        ({"chains": {"steps": 5}}, 10**6, "more than 4 transitions"),
        ({"chains": {"steps": 1, "final_steps": 5}}, 10**6, "more than 4 transitions"),
        ({}, 3, "in groups"),
    ]:
        assert why in whole_step.refusal(*run_of(EAGER, **changes), at_once)
    parts, state = run_of(EAGER)
    two = replace(parts, device=replace(parts.device, ranks=SimpleNamespace(count=2)))
    assert "ranks" in whole_step.refusal(two, state, 10**6)


def test_steps_are_planned_as_one_by_one():
    """Also from another step on; keys and numbers of every engine."""
    for engine in (EAGER, INLINE):
        parts, state = run_of(engine, chains={"steps": 1, "final_steps": 3}, optimizer={"schedule": "cosine"})
        planner = Planner(parts, plans)
        for step in [*range(60), 7, 8, 200]:
            state.step = step
            ahead_of_it, alone = planner(parts, state), plan(parts, state)
            assert len(ahead_of_it.sampler) == len(alone.sampler) == parts.components.chains.transitions(step, 50)
            pairs = zip(ahead_of_it.tensors(), alone.tensors(), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)
            if engine is EAGER:
                assert ahead_of_it[6:] == alone[6:]


@pytest.mark.parametrize("chains", ["persistent", "replay", "data"])
def test_a_library_is_given_what_a_step_takes(chains):
    """Also as other tensors, which are what is traced; with several transitions, and from a step on."""
    parts, state = run_of(chains={"name": chains, "steps": 2})
    state.step = 5
    for count, packed in enumerate(packs(parts, state, 3)):
        state.step = 5 + count
        given, expected = packed.inputs([tensor + 0 for tensor in packed.tensors()]), plan(parts, state)
        assert len(given.sampler) == 2
        assert all(torch.equal(one, other) for one, other in zip(given.tensors(), expected.tensors(), strict=True))
        assert given[4:6] == expected[4:6]


@dataclass(frozen=True)
class Part:
    """Something that holds tensors, itself and other things."""

    size: float
    inner: object


def test_leaves_are_each_tensor_once_and_are_put_back():
    a, b = torch.zeros(2), torch.ones(3)
    layer = torch.nn.Linear(2, 1)
    parts = {"x": [a, Part(1.0, (b, a))], "layer": layer, "again": layer, "nothing": Part(2.0, "text")}
    leaves = Leaves(parts)
    assert [tensor is found for tensor, found in zip([a, b, *leaves.tensors[2:]], leaves.tensors, strict=True)]
    assert len(leaves.tensors) == 4
    new = leaves.replaced([tensor + 5 for tensor in leaves.tensors])
    assert torch.equal(new["x"][0], a + 5)
    assert torch.equal(new["x"][1].inner[0], b + 5)
    assert new["x"][1].inner[1] is new["x"][0], "shared as before"
    assert new["layer"] is new["again"]
    assert new["layer"] is not layer
    assert torch.equal(new["layer"].weight, layer.weight + 5)
    assert new["nothing"] is parts["nothing"]
    assert torch.equal(a, torch.zeros(2)), "the given parts stay as they are"
    assert parts["x"][1].inner[1] is a


def test_a_description_tells_all_but_numbers():
    def of(*parts):
        return Leaves(parts).description()

    a = torch.zeros(2, 2)
    assert of(Part(1.0, a)) == of(Part(1.0, torch.ones(2, 2)))
    others = [Part(1.5, a), Part(1.0, a[:1]), Part(1.0, a.double()), Part(1.0, a[:, :1].expand(2, 2)), Part(1.0, [a])]
    assert len({of(part) for part in [Part(1.0, a), *others]}) == 6
    assert of(a, a) != of(a, a.clone()), "what is shared is changed by both"
    assert Leaves(Part(1.0, a)).foreign == {__name__}
    assert not Leaves(component("optimizer", "adam")).foreign


def test_a_step_does_not_depend_on_libraries_made_before_it():
    parts, state = run_of()
    made = Loops(1000, lambda: None)
    made.region(whole_step.refusal).libraries["chains of a run among others"] = [made]
    beside = replace(parts, device=replace(parts.device, loops=made))
    alone, among = (WholeStep(each, state) for each in (parts, beside))
    assert among.identity() == alone.identity() is not None
    assert among.leaves.replaced([torch.zeros_like(tensor) for tensor in among.tensors]).moves.device.loops is None


@long
def test_a_step_is_done_for_several_runs_without_a_loop_over_them(capfd):
    """Where torch.vmap has no rule for an operation it says so and does it for each run by itself."""
    parts, state = run_of()
    step, inputs = WholeStep(parts, state), Planner(parts, packs)(parts, state)
    tensors = [*inputs.tensors(), *step.tensors]
    one = ahead.traced(whole_step._Step(step.leaves, inputs), tensors, whole=True)
    ahead.traced(ahead._along(one, [0] * len(tensors)), [torch.stack([tensor] * 3) for tensor in tensors])
    assert "performance drop" not in capfd.readouterr().err


def test_the_rate_is_no_part_of_the_code_and_the_rest_of_an_update_is():
    """So that jobs that differ in it share a library."""

    def identity(**changes):
        return whole_step.WholeStep(*run_of(**changes)).leaves.description()

    plain = identity()
    assert identity(optimizer={"lr": 0.3, "schedule": "cosine", "warmup": 7}) == plain
    assert identity(optimizer={"clip": 1.0}) != plain
    assert identity(objective={**shipped("objective")["pcd"], "energy_l2": 0.1}) != plain
    assert identity(sampler={**shipped("sampler")["block_gibbs"], "backwards": True}) != plain


def test_auto_compiles_steps_alone_where_that_repays(monkeypatch):
    monkeypatch.setattr(acceleration, "_no_compiler", lambda: None)
    fits, unfit = ({"updates": why, "ahead": why} for why in (None, "ranks do"))
    model, many = small_model("rbm", Binary((2, 2))), Work(10**4, 10**2, 20_000)
    spec, said = resolved(component("device", "cpu"), model, many, fits)
    assert (spec.compile, spec.precision, said) == ("updates", "fp32", "training steps compiled")
    assert resolved(component("device", "cpu"), model, many._replace(updates=5000), fits)[0].compile == "never"
    assert resolved(component("device", "cpu"), model, many, unfit)[0].compile == "never"
    asked = component("device", "cpu", compile="updates")
    assert resolved(asked, model, Work(0, 0, 1), fits)[0].compile == "updates"
    with pytest.raises(UserError, match=r"device.compile = updates: ranks do; use device.compile=never"):
        resolved(asked, model, many, unfit)
    monkeypatch.setattr(acceleration, "_no_compiler", lambda: "there is no C++ compiler (install g++)")
    assert resolved(component("device", "cpu"), model, many, fits)[0].compile == "never"


def test_a_step_that_cannot_be_compiled_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(
        train("device.compile=updates sampler=gibbs"), "device.compile = updates: this sampler is not compiled",
        "device.compile=never",
    )  # fmt: skip


def test_libraries_stay_where_nobody_else_can_write(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = ahead._folder()
    assert folder == tmp_path / "ebm" / "steps"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    assert ahead._folder() is None
    folder.chmod(0o707)
    assert ahead._folder() is None
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert ahead._folder() is None


def test_one_of_those_that_want_a_library_makes_it(tmp_path, monkeypatch):
    """The others wait for it, though each looks before it is there, and no lock is left."""
    made, at_once = [], threading.Barrier(3)

    def begins():
        made.append(1)
        time.sleep(0.05)

    def files(graph, place):
        for name in ("new.so", "facts.json"):
            (place / name).touch()
        return place / "new.so", place / "facts.json"

    def wanted():
        at_once.wait()
        return ahead._library(list, [torch.zeros(2)], "one", begins)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ahead, "_made", files)
    monkeypatch.setattr(ahead, "Library", lambda path, facts: (path.exists(), facts.exists()))
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda _: wanted(), range(3))) == [(True, True)] * 3
    assert made == [1]
    assert sorted(path.suffix for path in ahead._folder().iterdir()) == [".json", ".so"]


def test_the_libraries_last_used_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "_KEPT", 2)
    for number, name in enumerate("abc"):
        for path in (tmp_path / f"{name}.so", tmp_path / f"{name}.json"):
            path.touch()
            os.utime(path, (number, number))
    ahead._prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "b.so", "c.json", "c.so"]


def test_headers_are_precompiled_where_many_libraries_were_made(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "_MANY", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder, found = ahead._folder(), []
    for name in "abc":
        found.append(ahead._many())
        (folder / f"{name}.so").touch()
    assert found == [False, False, True]
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert not ahead._many()


def test_a_name_is_of_code_machine_shapes_and_threads(monkeypatch):
    x, names = torch.zeros(2), [ahead._name("a", [torch.zeros(2)])]
    names += [ahead._name("b", [x]), ahead._name("a", [torch.zeros(3)]), ahead._name("a", [x.double()])]
    monkeypatch.setattr(ahead, "_source", lambda: "another")
    names.append(ahead._name("a", [x]))
    monkeypatch.setattr(ahead, "_machine", lambda: "another")
    names.append(ahead._name("a", [x]))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    names.append(ahead._name("a", [x]))
    assert len(set(names)) == 7


class Doubled:
    """y = 2 x, and x grows by 1."""

    def __call__(self, x):
        """The results."""
        y = 2 * x
        x.add_(1)
        return [y]

    def facts(self):
        """What it is."""
        return {"factor": 2}


@long
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler here: nothing can be compiled")
def test_a_library_changes_its_arguments_and_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for again in (False, True):
        if again:
            monkeypatch.setattr(ahead, "_made", lambda *_: pytest.fail("it is there"))
        x = torch.arange(3.0)
        found = library(x, "doubled")
        (y,) = found.call([], lasting := [x])
        assert y.tolist() == [0, 2, 4]
        assert x.tolist() == [1, 2, 3]
        assert found.call([], lasting)[0].tolist() == [2, 4, 6]
        assert found.facts == {"factor": 2}
    for name in ("another", None):
        with pytest.raises(pytest.fail.Exception):
            library(torch.zeros(3), name)


def library(x, name):
    return ahead.library(ahead.Wanted(Doubled(), [], [x], name, changes=True, begins=lambda: None))


@long
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler here: nothing can be compiled")
def test_a_compiled_run_is_resumed_to_the_bit_and_shares_its_library(tmp_path, monkeypatch):
    """Resumed from half way, to the bit; the same where evaluations are compiled too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # A look at how training goes is due at the last step of a run, also where it is then made longer.
    line = "optimizer.schedule=constant device.compile=updates steps=40 log_every=1 save_every=20 health=none"
    said = train(line, "whole").err
    assert "compiling the training step" in said
    whole = Path("whole")
    libraries = list((tmp_path / "ebm" / "steps").glob("*.so"))
    assert len(libraries) == 1
    began = time.time_ns()
    assert "compiling" not in train(f"{line} steps=20", "half").err
    assert ebm("train resume=half steps=40").code == 0
    assert list((tmp_path / "ebm" / "steps").glob("*.so")) == libraries
    assert libraries[0].stat().st_mtime_ns > began
    first, second = numbers(whole), numbers(Path("half"))
    assert first == second
    assert len(first) == 40
    assert yaml.safe_load(Path("half/config.yaml").read_text())["device"]["compile"] == "updates"
    regions = numbers(trained(line.replace("updates", "always") + " device.precision=fp32", "regions"))
    assert regions == first, "whole steps are one library there too"
    assert ebm("evaluate run=half evaluation=[pseudo_likelihood]").code == 0


def numbers(run):
    """What a run logged while it trained, without evaluations."""
    lines = map(json.loads, (Path(run) / "metrics.jsonl").read_text().splitlines())
    return [
        {k: v for k, v in line.items() if "seconds" not in k and "time" not in k} for line in lines if "loss" in line
    ]
