"""`ebm_cli.sklearn.RBM`: an estimator that trains as `ebm train` does and stands where BernoulliRBM stood."""

import copy
import os

import numpy as np
import pytest
import torch
from helpers.cli import ebm, last_step
from safetensors.torch import load_file


def rbm(**keys):
    from ebm_cli.sklearn import RBM

    return RBM(**{"n_components": 5, "n_iter": 2, "random_state": 0, **keys})


@pytest.fixture(scope="module")
def x():
    rows = np.random.default_rng(0).random((60, 1)) < 0.5
    return ((np.random.default_rng(1).random((60, 9)) < 0.2) ^ rows).astype(float)


@pytest.fixture(scope="module")
def fitted(x):
    return rbm().fit(x)


def bernoulli(fitted):
    """scikit-learn's own machine with these weights."""
    from sklearn.neural_network import BernoulliRBM

    other = BernoulliRBM(n_components=5)
    for name in ("components_", "intercept_hidden_", "intercept_visible_"):
        setattr(other, name, getattr(fitted, name).astype(float))
    other.n_features_in_ = 9
    return other


def test_a_fit_is_that_of_the_command_to_the_last_bit_and_writes_nothing(x, fitted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rbm().fit(x)
    assert os.listdir() == []
    np.savez("x.npz", **dict.fromkeys(("train", "valid", "test"), x.astype(np.uint8)))
    words = ("model.hidden=5", "objective=pcd", "batch_size=10", "steps=12", f"seed={fitted.seed_}", "device.threads=1")
    line = ("dataset=array", "dataset.path=x.npz", "evaluation=[]", "tracker=none", "checkpoint.monitor=null")
    assert ebm("train", *words, *line, "optimizer.lr=0.1", "hydra.run.dir=run").code == 0
    saved = load_file(last_step(tmp_path / "run") / "state.safetensors")
    assert torch.equal(saved["average.W"].T, torch.from_numpy(fitted.components_.copy()))
    assert torch.equal(saved["average.c"], torch.from_numpy(fitted.intercept_hidden_))
    assert torch.equal(saved["chains"].flatten(1), torch.from_numpy(fitted._kept["chains"]))
    assert fitted.n_steps_ == 12


def test_features_and_scores_are_those_of_scikit_learn_with_the_same_weights(x, fitted):
    other = bernoulli(fitted)
    assert np.allclose(fitted.transform(x), other.transform(x), atol=1e-6)
    total = np.zeros(len(x))
    for site in range(9):
        flipped = x.copy()
        flipped[:, site] = 1 - flipped[:, site]
        total -= np.logaddexp(0, other._free_energy(x) - other._free_energy(flipped))
    assert np.allclose(fitted.score_samples(x), total, atol=1e-5)
    assert fitted.score(x) == pytest.approx(total.mean(), abs=1e-5)
    assert list(fitted.get_feature_names_out()) == [f"rbm{i}" for i in range(5)]


def test_a_value_between_0_and_1_is_a_probability(x, fitted):
    """Of one feature between bits the score is the mean of the scores of both bits, but for what others see of it."""
    rows, low, high = (x[:1].copy() for _ in range(3))
    rows[0, 0], low[0, 0], high[0, 0] = 0.25, 0, 1
    logit = -(bernoulli(fitted)._free_energy(high) - bernoulli(fitted)._free_energy(low))
    own = 0.25 * -np.logaddexp(0, -logit) + 0.75 * -np.logaddexp(0, logit)
    from ebm_cli.evaluation.pseudo_likelihood import expected_log_pseudo_likelihood

    model, tensor = fitted._model(rows)
    others = sum(
        rows[0, site] * -np.logaddexp(0, -one) + (1 - rows[0, site]) * -np.logaddexp(0, one)
        for site, one in ((i, model.sites(tensor).logit(i).item()) for i in range(1, 9))
    )
    assert expected_log_pseudo_likelihood(model, tensor).item() == pytest.approx(own.item() + others, abs=1e-5)


def test_gibbs_draws_bits_anew_at_each_call_from_the_conditionals(x, fitted):
    one, two = copy.deepcopy(fitted), copy.deepcopy(fitted)
    many = np.repeat(x[:1], 4000, 0)
    first = one.gibbs(many)
    assert set(np.unique(first)) == {0, 1}
    assert np.array_equal(first, two.gibbs(many))
    assert not np.array_equal(first, one.gibbs(many))
    other = bernoulli(fitted)
    due = np.mean([other.gibbs(many).mean(0) for _ in range(10)], 0)
    assert np.abs(first.mean(0) - due).max() < 5 * np.sqrt(0.25 / 4000 * 1.1)


@pytest.mark.long
def test_partial_fit_goes_on_with_weights_and_chains(x):
    batches = np.split(x, 6)
    one = rbm()
    for batch in batches:
        one.partial_fit(batch)
    two = rbm()
    for batch in batches[:3]:
        two.partial_fit(batch)
    two = copy.deepcopy(two)
    for batch in batches[3:]:
        two.partial_fit(batch)
    assert np.array_equal(one.components_, two.components_)
    assert one.n_steps_ == 6
    another = rbm().partial_fit(batches[1]).partial_fit(batches[1])
    assert not np.array_equal(rbm().partial_fit(batches[0]).partial_fit(batches[1]).components_, another.components_)
    assert one._kept["ages"].min() >= 6
    after = rbm().fit(x)
    before, chains = after.components_.copy(), after._kept["chains"].copy()
    after.partial_fit(batches[0])
    assert 0 < np.abs(after.components_ - before).max() < 0.2
    assert (after._kept["chains"] != chains).any()


def test_parameters_are_those_of_the_command(x):
    assert rbm(n_components=64, hidden=3, n_iter=1).fit(x).components_.shape == (3, 9)
    with pytest.raises(ValueError, match="hidden = 3, n_components = 5: two names for one number"):
        rbm(hidden=3).fit(x)
    ten = rbm(words=("chains.steps=10",)).fit(x)
    assert ten._kept["ages"].max() == 120
    for keys, words in {
        ("objective", "pdc"): "did you mean pcd",
        ("batch_size", 0): "batch_size = 0: must be a whole number, 1 or more",
        ("n_iter", 1.5): "n_iter = 1.5: must be a whole number",
        ("words", "chains.steps=2"): "words = 'chains.steps=2': must be a list of words",
        ("words", ("model=dbn",)): "words: model=dbn is for the command",
    }.items():
        with pytest.raises(ValueError, match=words):
            rbm(**dict([keys])).fit(x)


def test_what_is_no_probability_is_cut_off_and_said(x, fitted):
    with pytest.warns(UserWarning, match="values from -1 to 1, which are cut off at 0 and 1; scale them first"):
        found = fitted.transform(2 * x - 1)
    assert np.array_equal(found, fitted.transform(x))
    from scipy.sparse import csr_array

    assert np.array_equal(fitted.transform(csr_array(x)), found)
    assert np.array_equal(rbm().fit(csr_array(x)).components_, fitted.components_)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_it_passes_the_checks_of_scikit_learn():
    """All of them: nothing is excepted."""
    from sklearn.utils.estimator_checks import check_estimator

    found = check_estimator(rbm(n_components=4, n_iter=1))
    assert {one["status"] for one in found} <= {"passed", "skipped"}
    assert [one["check_name"] for one in found if one["status"] == "skipped"] == ["check_array_api_input"]


@pytest.mark.long
def test_it_stands_where_bernoulli_rbm_stood():
    """In a search over a pipeline, with the same grid; features that are at least as good at the same budget."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, train_test_split
    from sklearn.neural_network import BernoulliRBM
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import MinMaxScaler

    images, digits = load_digits(return_X_y=True)
    train, test, due, there = train_test_split(images, digits, train_size=600, test_size=600, random_state=0)
    reached = {}
    for machine in (BernoulliRBM(), rbm()):
        machine.set_params(n_components=64, n_iter=6, batch_size=20, random_state=0)
        steps = [
            ("scale", MinMaxScaler(clip=True)),
            ("rbm", machine),
            ("classify", LogisticRegression(C=100, max_iter=500)),
        ]
        search = GridSearchCV(Pipeline(steps), {"rbm__learning_rate": [0.05, 0.1]}, cv=2).fit(train, due)
        reached[type(machine).__name__] = search.score(test, there)
    assert reached["RBM"] >= reached["BernoulliRBM"], reached
