"""`ebm sample steps=auto`: twice the mixing time, said and recorded, or why there is none."""

import numpy as np
import pytest
from helpers.cli import TINY, assert_refused, ebm, trained

import ebm_cli
from ebm_cli.commands import auto_steps
from ebm_cli.errors import UserError


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny run."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path_factory.mktemp("auto"))
        yield trained().resolve()


def drawn(home, tmp_path, line):
    """What the command says, and the arrays it writes."""
    answer = ebm(f"sample run={home} n=5 device=cpu out={tmp_path / 'out'} {line}")
    assert answer.code == 0, answer.err
    with np.load(tmp_path / "out" / "samples.npz") as file:
        return answer, dict(file)


@pytest.fixture(scope="module")
def automatic(home, tmp_path_factory):
    return drawn(home, tmp_path_factory.mktemp("drawn"), "steps=auto seed=3")


def test_samples_are_those_of_twice_the_mixing_time(home, automatic, tmp_path):
    answer, found = automatic
    time = int(found["mixing_time"])
    assert found["steps"] == 2 * time
    assert f"5 samples after {2 * time} steps, twice the mixing time {time}: " in answer.out
    _, by_number = drawn(home, tmp_path, f"steps={2 * time} seed=3")
    assert np.array_equal(found["samples"], by_number["samples"])
    assert set(by_number) == {"samples"}


def test_python_draws_the_same(home, automatic):
    run = ebm_cli.load(home)
    assert np.array_equal(run.sample(5, steps="auto", seed=3), automatic[1]["samples"])
    with pytest.raises(UserError, match="steps = auto: measures chains of whole configurations"):
        run.impute(np.full((1, 64), np.nan), steps="auto")
    with pytest.raises(UserError, match="steps = auto: measures chains of whole configurations"):
        run.sample(2, "auto", given=np.full((1, 64), np.nan))


@pytest.mark.long
def test_chains_go_on_from_those_of_the_run(home, tmp_path):
    _, found = drawn(home, tmp_path, "steps=auto start=chains")
    assert found["steps"] == 2 * found["mixing_time"]


def test_chains_that_do_not_mix_are_warned_of(home, tmp_path):
    answer, found = drawn(home, tmp_path, "steps=auto max_steps=3 sampler=metropolis")
    assert "5 samples after 6 steps, twice max_steps: " in answer.out
    assert "chains do not mix in 3 steps" in answer.err
    assert "a higher max_steps" in answer.err
    assert "mixing_time" not in found
    assert found["steps"] == 6


def test_keys_of_it_beside_a_number_are_refused_and_few_steps_find_no_step_size(home, tmp_path):
    assert_refused(ebm(f"sample run={home} steps=5 max_steps=5 device=cpu"), "max_steps = 5: has no effect")
    assert_refused(ebm(f"sample run={home} steps=Auto device=cpu"), 'steps = "Auto": must be a number, or auto')
    few, _ = drawn(home, tmp_path, "steps=4 sampler=dmala sampler.adapt=0.7")
    assert "steps = 4: the first half of them is too short to find that; take 100 or more" in few.err


def test_a_step_size_is_found_before(home, tmp_path, monkeypatch):
    monkeypatch.setattr(auto_steps, "_WARMUP", 50)
    answer, found = drawn(home, tmp_path, "steps=auto max_steps=5 sampler=dmala sampler.adapt=0.7")
    assert f"sampler.step_size = {found['step_size']:.4g}, found before" in answer.err
    assert "found in the first half of the steps" not in answer.err


@pytest.mark.long
def test_where_it_means_nothing_is_a_sentence(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [word for word in TINY if not word.startswith(("model", "steps", "evaluation"))]
    for name, words, said in (
        ("exact", "model=exponential_family objective=exact", "this model is drawn exactly, without steps"),
        ("real", "model=gaussian_rbm dataset=points_2d model.hidden=4", "this model is of real data; give a number"),
    ):
        assert ebm("train", *lines, *words.split(), "steps=2", "evaluation=[]", "checkpoint.monitor=null",
                   f"hydra.run.dir={name}").code == 0  # fmt: skip
        assert_refused(ebm(f"sample run={name} steps=auto"), "steps = auto", said)
        assert not [*(tmp_path / name).rglob("samples.npz")]
    assert_refused(ebm(f"sample run={home} steps=null"), "steps = null: must be a number, or auto")
    assert_refused(ebm(f"sample run={home} steps=0"), "steps = 0: must be greater than or equal to 1")
    np.save("gaps.npy", np.full((2, 64), np.nan))
    assert_refused(
        ebm(f"sample run={home} steps=auto given=gaps.npy"), "what each given row lacks mixes in a time of its"
    )
