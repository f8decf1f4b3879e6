"""Products and mixtures: their energies by enumeration, and parts that are trained runs, from the command line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from helpers.cli import assert_refused, ebm, forge, last_step, outcome
from helpers.components import component, shipped
from helpers.models import double_states, exact_p, randomised, small_model
from helpers.statistics import assert_close, assert_distributed
from safetensors.torch import load_file
from test_resume import Killed, at_step, die

from ebm_cli.log_z import enumeration
from ebm_cli.model.base import EnergySites
from ebm_cli.model.composition import Mixture, NormalisedMixture, Product, frozen
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Real

SPACE = Binary((2, 2))


def machines():
    return [small_model("boltzmann", SPACE, 1), small_model("rbm", SPACE, 2)]


def units(*seeds):
    return [small_model("exponential_family", SPACE, seed) for seed in seeds]


def test_a_product_is_proportional_to_the_product_of_powers():
    parts, weights = machines(), [0.5, -1.5]
    model = Product(SPACE, parts, weights).double()
    expected = torch.stack([w * exact_p(part).log() for w, part in zip(weights, parts, strict=True)]).sum(0)
    assert_close(exact_p(model), expected.softmax(0), rtol=1e-12)
    x = double_states(model)
    model.energy(x).sum().backward()
    assert_close(model.weights.grad, torch.stack([part.energy(x).sum() for part in parts]).detach(), rtol=1e-12)


def test_a_mixture_is_the_sum_of_shares():
    """Whether log Z is known or given: the energies of each part are those of an unnormalised density."""
    parts = [*machines(), *units(3)]
    model = Mixture(SPACE, parts, [enumeration.log_z(part).item() for part in machines()] + [99.0]).double()
    model.known.copy_(torch.stack([enumeration.log_z(part).detach() for part in parts]))  # in float64
    with torch.no_grad():
        model.logits.copy_(torch.tensor([0.1, 1.2, -0.4]))
    share = model.logits.softmax(0).detach()
    expected = sum(pi * exact_p(part) for pi, part in zip(share, parts, strict=True))
    assert_close((-model.energy(double_states(model))).exp().detach(), expected, rtol=1e-9)


def test_the_log_z_of_a_part_that_knows_it_is_its_own():
    model = Mixture(SPACE, [*machines()[:1], *units(3)], [0.0, 99.0]).double()
    other = Mixture(SPACE, [*machines()[:1], *units(3)], [0.0, -99.0]).double()
    assert torch.equal(model.energy(double_states(model)), other.energy(double_states(other)))


def test_draws_of_a_mixture_are_of_its_density():
    model = randomised(NormalisedMixture(SPACE, units(1, 2), [0.0, 0.0]), 4)
    assert enumeration.log_z(model).item() == 0
    assert (-model.energy(double_states(model))).exp().sum().item() == pytest.approx(1, rel=1e-12)
    assert_distributed(model, model.sample(100_000, stream(0, "x")))
    assert torch.equal(model.sample(9, stream(0, "x")), model.sample(20, stream(0, "x"))[:9])


def test_frozen_parts_have_no_parameters_and_the_same_energy_and_conditionals():
    part, whole = frozen(small_model("rbm", SPACE)), small_model("rbm", SPACE)
    x = double_states(part)
    assert [*part.parameters()] == []
    assert set(part.state_dict()) == set(whole.state_dict())
    assert torch.equal(part.energy(x), whole.energy(x))
    model = Product(SPACE, [part], [1.0]).double()
    found, expected = (EnergySites(m, x).logit(2) for m in (model, whole))
    assert_close(found.detach(), expected.detach(), rtol=1e-12)


def test_frozen_flows_still_draw():
    spec = component("model", "flow", kind="maf", hidden=4)
    part, whole = (spec.build(Real((2,)), torch.ones(2), stream(0)) for _ in range(2))
    assert torch.equal(frozen(part).sample(5, stream(1)), whole.sample(5, stream(1)))


# From the command line


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


LINE = "sampler=gibbs dataset=bars_and_stripes dataset.side=2 evaluation=[] tracker=none device=cpu batch_size=10"
MONITOR = "checkpoint.monitor=null"


def compose(line, directory="whole", kind="product"):
    return ebm(f"train model={kind} {LINE} {MONITOR} objective=pcd log_every=1 {line} hydra.run.dir={directory}")


def part(directory, line=""):
    return ebm(f"train {LINE} {MONITOR} steps=5 {line} hydra.run.dir={directory}")


def weights(run):
    return load_file(last_step(Path(run)) / "state.safetensors")


def two_parts():
    assert part("a", "model=boltzmann optimizer.ema=0.5 optimizer.lr=0.5").code == 0
    assert part("b", "model=rbm model.hidden=2 optimizer.ema=0").code == 0


@pytest.mark.long
def test_a_product_of_runs_has_their_newest_averages_and_outlives_them():
    two_parts()
    answer = compose("model.parts=[a,b] model.weights=[1,-0.5] steps=0")
    assert answer.code == 0, answer.err
    found, a, b = weights("whole"), weights("a"), weights("b")
    assert torch.equal(found["model.parts.0.W"], a["average.W"])
    assert not torch.equal(a["average.W"], a["model.W"])
    assert torch.equal(found["model.parts.1.c"], b["model.c"])
    assert found["model.weights"].tolist() == [1.0, -0.5]
    shutil.rmtree("a")
    shutil.rmtree("b")
    assert ebm("sample run=whole n=4 steps=2 sampler=gibbs device=cpu").code == 0
    assert ebm("train resume=whole steps=1").code == 0


@pytest.mark.parametrize("moving", ["false", pytest.param("true", marks=pytest.mark.long)])
def test_training_moves_the_parts_only_where_it_is_to_and_resumes_bit_for_bit(moving, monkeypatch):
    two_parts()
    line = f"model.parts=[a,b] model.train_parts={moving} steps=8 save_every=3"
    answer = compose(line)
    assert answer.code == 0, answer.err
    for step in (1, 5):
        with monkeypatch.context() as patch:
            at_step(patch, step, die)
            with pytest.raises(Killed):
                compose(line, "parts") if step == 1 else compose(f"{line} resume=auto", "parts")
        answer = part("b", "resume=auto model=rbm model.hidden=2 optimizer.ema=0 steps=7")
        assert answer.code == 0  # its newest weights are others
    assert ebm("train resume=parts").code == 0
    assert outcome(Path("parts")) == outcome(Path("whole"))
    found = weights("whole")
    assert torch.equal(found["model.parts.0.W"], weights("a")["average.W"]) == (moving == "false")
    assert not torch.equal(found["model.weights"], torch.ones(2))


@pytest.mark.long
def test_a_mixture_of_runs_that_can_be_enumerated_is_a_density():
    two_parts()
    answer = ebm(
        f"train model=mixture model.parts=[a,b] {LINE} {MONITOR} steps=0 evaluation=[exact] hydra.run.dir=whole"
    )
    assert answer.code == 0, answer.err
    assert abs(json.loads(Path("whole/summary.json").read_text())["exact/log_z"]) < 1e-6


@pytest.mark.long
def test_configured_parts_have_the_defaults_of_their_files():
    line = "'model.parts=[{name: rbm, hidden: 2}, {name: mixture, parts: [{name: exponential_family}]}]' steps=2"
    answer = compose(line)
    assert answer.code == 0, answer.err
    structure = yaml.safe_load(Path("whole/config.yaml").read_text())["model"]["structure"]
    assert structure[0]["model"] == shipped("model")["rbm"] | {"hidden": 2}
    assert {"model.parts.0.W", "model.parts.1.parts.0.b", "model.parts.1.logits"} < set(weights("whole"))
    assert ebm("train resume=whole steps=3").code == 0


def test_normalised_parts_learn_together_by_likelihood():
    line = "'model.parts=[{name: exponential_family}, {name: exponential_family}]' model.train_parts=true steps=2"
    assert ebm(f"train model=mixture {LINE} {MONITOR} objective=exact {line} hydra.run.dir=whole").code == 0


REFUSED = {
    "model.parts=[]": ("model.parts = []", "model.parts=[outputs/A,outputs/B]"),
    "model.parts=[nowhere]": ("model.parts[0] = ", "nowhere: no run is there"),
    "model.parts=[3]": ("model.parts[0] = 3: neither",),
    "'model.parts=[{name: rmb}]'": ("model.parts[0]", "neither a run's directory nor the keys of a model"),
    "'model.parts=[{name: rbm, hiden: 3}]'": ("model.parts[0]: unknown key model.hiden", "did you mean"),
    "'model.parts=[{name: rbm}, {name: mlp}]'": ("model.parts: have no space in common", "model.parts[1] takes real"),
    "'model.parts=[{name: mlp}]'": ("binary data", "takes real or boxed"),
    "'model.parts=[{name: rbm}]' model.weights=[1,2]": ("model.weights = [1.0, 2.0]: there are 1 parts",),
    "model.structure=[]": ("model.structure", "leave it out"),
    "model=mixture 'model.parts=[{name: rbm}]'": ("model.log_z = null", "model.parts[0] (rbm)", "ebm evaluate run=RUN"),
    "model=mixture 'model.parts=[{name: rbm}]' model.log_z=[1,2]": ("model.log_z = [1.0, 2.0]: there are 1 parts",),
    "model=mixture 'model.parts=[{name: rbm}]' model.log_z=[1] model.train_parts=true": ("would change log Z",),
}


@pytest.mark.quick("model.parts=*", "'model.parts=[{name: rmb*")
@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_composed_is_refused(line):
    assert_refused(compose(line), *REFUSED[line])
    assert not Path("whole").exists()


@pytest.mark.long
def test_runs_that_are_broken_or_of_other_data_are_refused():
    assert part("a", "model=rbm model.hidden=2").code == 0
    config, state = Path("a/config.yaml"), last_step(Path("a"))
    kept = config.read_text()
    config.write_text(kept.replace("hidden: 2", "hidden: 3"))
    assert_refused(compose("model.parts=[a]"), "model.parts[0] = ", "a: model.W is (4, 2) float32 in the checkpoint")
    config.write_text(kept.replace("hidden: 2", "hidden: 200000000000"))
    assert_refused(compose("model.parts=[a]"), "model.parts[0] = ", "not enough memory")
    config.write_text(kept.replace("model:", "modell:"))
    assert_refused(compose("model.parts=[a]"), "model.parts[0] = ", "has no model")
    config.write_text(kept)
    assert_refused(
        compose("model.parts=[a] dataset.side=3"), "model.parts[0] = ", "2x2 binary data, these are 3x3 binary"
    )
    numbers = json.loads((state / "state.json").read_text())
    forge(state, numbers=json.dumps(numbers | {"space": {"name": "plane"}}).encode())
    assert_refused(compose("model.parts=[a]"), "model.parts[0] = ", "records no known space")
    shutil.rmtree(state)
    assert_refused(compose("model.parts=[a]"), "model.parts[0] = ", "no valid checkpoint")
