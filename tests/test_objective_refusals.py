"""What an objective is refused with, and that everything a refusal offers is accepted."""

import dataclasses

import pytest
import torch
from helpers.components import component
from helpers.data import small_data
from helpers.models import PAIRS, example
from helpers.objectives import OBJECTIVES

from ebm_cli.errors import UserError
from ebm_cli.model.exponential_family import BernoulliProduct
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Real
from ebm_cli.training import checks


def test_keys_that_exclude_each_other_are_refused():
    assert component("objective", "exact", energy_l2=0.1).refusal()
    assert component("objective", "pcd", energy_l2=0.1).refusal() is None


def test_an_objective_for_other_data_is_refused_with_what_fits_on_both_sides():
    """Objectives by the names of their files, whatever component these configure."""
    choice = {"model": "rbm", "objective": "score_matching"}
    with pytest.raises(UserError) as refusal:
        checks.check_objective(component("objective", "score_matching"), component("model", "rbm"), choice)
    said = dict(part.split(": ") for part in str(refusal.value).split("; ")[1:])
    assert said["objectives that fit model=rbm"].split(", ") == sorted(OBJECTIVES)
    models = said["models that fit objective=score_matching"].split(", ")
    assert {"mlp", "gaussian_rbm"} <= set(models)
    assert not {"rbm", "boltzmann", "ising", "potts"} & set(models)


@pytest.mark.parametrize(
    ("name", "changes"), [*((name, {}) for name in OBJECTIVES), ("pseudo_likelihood", {"coupling_l1": 0.1})]
)
def test_every_model_that_a_refusal_offers_is_accepted(name, changes):
    objective, choice = component("objective", name, **changes), {"objective": name, "model": "its own"}
    offered = checks._models_for(objective)
    assert offered
    for model in offered:
        checks.check_objective(objective, component("model", model), choice)


def test_an_objective_for_other_data_is_refused_once_they_are_read():
    """A model may take spaces that the objective does not."""
    choice, spec = (
        {"model": "exponential_family", "objective": "ratio_matching"},
        component("model", "exponential_family"),
    )
    objective = component("objective", "ratio_matching")
    checks.check_objective(objective, spec, choice)
    checks.check_data(objective, Binary((2,)), spec, choice)
    with pytest.raises(UserError, match=r"works on binary or spin data, these are real; .*fit.*: .*score_matching"):
        checks.check_data(objective, Real((2,)), spec, choice)


def test_enumeration_refuses_a_large_model():
    model = component("model", "boltzmann").build(Binary((30,)), torch.full((30,), 0.5), stream(0))
    with pytest.raises(UserError, match=r"objective=exact: 30 sites, enumeration goes to 20"):
        checks.check_enumerable(component("objective", "exact"), model, {"objective": "exact"})


def test_shades_of_grey_have_walls_also_where_they_are_taken_as_real_numbers():
    data = component("dataset", "digits").load((Real,))
    with pytest.raises(UserError, match=r"shades of grey end at black and white"):
        checks.check_rows(component("objective", "score_matching", variant="explicit"), data)


@pytest.mark.parametrize("variant", ["explicit", "sliced", "sliced_vr"])
def test_integration_by_parts_needs_rows_without_walls_that_vary(variant):
    data, objective = small_data(Real((3,))), component("objective", "score_matching", variant=variant)
    checks.check_rows(objective, data)
    with pytest.raises(UserError, match=f"objective.variant = {variant}: .* black and white; set .*=denoising"):
        checks.check_rows(objective, dataclasses.replace(data, shaded=True))
    rows = data.train.stored.clone()
    rows[:, 1] = 2.5
    still = dataclasses.replace(data, train=dataclasses.replace(data.train, stored=rows))
    with pytest.raises(UserError, match=r"1 of 3 columns are the same in every training row, the first .* column 1;"):
        checks.check_rows(objective, still)
    checks.check_rows(component("objective", "score_matching"), still)


def test_penalties_need_couplings():
    for key in ("coupling_l1", "coupling_l2"):
        why = component("objective", "pseudo_likelihood", **{key: 0.1}).refusal_of_model(BernoulliProduct)
        assert why == f"objective.{key} = 0.1: this model has no couplings; set it to 0"


@pytest.mark.parametrize("name", PAIRS)
def test_every_objective_that_a_refusal_offers_is_accepted(name):
    model, space = example(name), PAIRS[name][1]
    kind = name.rpartition("-")[0]
    choice = {"model": kind, "objective": "mine", "sampler": "its own"}
    spec = component("model", kind)
    for offered in checks._objectives((type(space),), spec, choice).partition(": ")[2].split(", "):
        objective = component("objective", offered)
        checks.check_objective(objective, spec, choice)
        checks.check_data(objective, space, spec, choice)
        checks.check_enumerable(objective, model, choice)
