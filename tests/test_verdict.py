"""What is said in the end: better than independent units or not, chains that lag, samples that are all the same."""

import math

import pytest
from helpers.components import component
from helpers.data import small_data
from helpers.models import small_model, target
from test_evaluation import subject

from ebm_cli.commands import report
from ebm_cli.commands.verdict import runaway, verdict
from ebm_cli.evaluation.above import above, sentences
from ebm_cli.evaluation.samples import spread_beside
from ebm_cli.space import Binary

BETTER = {"exact/above_independent": 1.0, "exact/above_independent_error": 0.2}
UNSURE = {"ais/above_independent": 1.0, "ais/above_independent_error": 0.2, "ais/gap": 0.7}


def said(found, *, known=True):
    return sentences(above(found), known=known)


def test_what_is_better_by_more_than_twice_the_error_is_better():
    assert said(BETTER) == (
        ("verdict: better than independent units by 1.00 ± 0.20 nats a row (exact log-likelihood)",),
        (),
    )
    (), (warning,) = said({**BETTER, "exact/above_independent": 0.39})
    assert warning.startswith("no better than independent units: between -0.01 and 0.79 nats a row above them")
    (), (warning,) = said({**BETTER, "exact/above_independent": -1.0})
    assert warning.startswith("worse than independent units, by 1.00 ± 0.20 nats a row")


@pytest.mark.parametrize("middle", [0.0, -0.004, 0.003])
def test_an_interval_that_is_one_number_is_shown_as_one(middle):
    (), (warning,) = said({"exact/above_independent": middle})
    assert warning == "no better than independent units: 0.00 nats a row above them (exact log-likelihood)"


@pytest.mark.parametrize("gap", [0.7, -0.7])
def test_the_whole_bracket_must_lie_above(gap):
    """AIS alone would say better: 1.0 - 2 * 0.2 > 0; RAISE, 0.7 nats away, does not."""
    assert said({**UNSURE, "ais/gap": 0.1})[0]
    assert said({**UNSURE, "ais/gap": gap})[1][0].startswith("no better than independent units")


CROSSED = {**UNSURE, "ais/gap": -35.0, "ais/log_likelihood": -88.0, "raise/log_likelihood": -53.0}
OTHERS = {"pseudo_likelihood/above_independent": 1.0}


def test_a_bracket_that_contradicts_itself_gives_no_number():
    """Nor does a pseudo-likelihood in its place; the exact value does, and a bridge that RAISE does not contradict."""
    (), (warning,) = said({**CROSSED, **OTHERS})
    assert warning == (
        "how likely held-out rows are is not known: RAISE, a lower bound, lies 35 nats above AIS, so the two "
        "contradict each other"
    )
    assert said({**CROSSED, **BETTER}) == said(BETTER)
    bridge = {"bridge/above_independent": 40.0, "bridge/log_likelihood": -52.5}
    assert "by 40.00 nats a row (log-likelihood by bridge sampling)" in said({**CROSSED, **bridge})[0][0]
    assert said({**CROSSED, **bridge, "bridge/log_likelihood": -88.0})[1] == (warning,)


@pytest.mark.parametrize("name", ["ais", "dbn_bound"])
def test_an_estimate_that_rests_on_one_chain_gives_no_number(name):
    found = {f"{name}/above_independent": 60.0, f"{name}/weight_ess": 1.2, **OTHERS}
    (), (warning,) = said(found)
    assert warning == f"how likely held-out rows are is not known: the estimate by evaluation={name} rests on one chain"
    assert said({**found, f"{name}/weight_ess": 3.0})[0]


def test_documents_of_which_one_chain_says_all_give_no_number():
    found = {"perplexity/unigram": 1000.0, "perplexity/model": 800.0, "perplexity/upper_bound": 900.0}
    assert "is not known" in said({**found, "perplexity/weight_ess": 1.0})[1][0]


def test_a_figure_that_is_not_to_be_relied_on_is_called_so():
    about = {"ais/standard_error": 0.5}
    (row, _) = report.rows({**CROSSED, **about, "raise/points": 9.0}, "test").values()
    assert row == "-88.00 ± 0.50 nats (errs upwards, not to be relied on)"
    (row,) = report.rows({"ais/log_likelihood": -88.0}, "test").values()
    assert row == "-88.00 nats (errs upwards)"


def test_the_map_of_a_density_is_listened_to():
    assert "by 1.00 nats a row (log-likelihood by the map)" in said({"density_2d/above_independent": 1.0})[0][0]


def test_the_bracket_of_windows_of_text_is_listened_to():
    """Its ends are those of log Z, the middle what the estimate of log Z says."""
    name = "text_perplexity"
    ends = {f"{name}/log_z": 0.2, f"{name}/log_z_low": 0.0, f"{name}/log_z_high": 0.3}
    found = above({f"{name}/above_independent": 0.9, **ends})
    assert (found.low, found.middle, found.high) == pytest.approx((0.8, 0.9, 1.1))
    assert "by 0.90 nats a row" in said({f"{name}/above_independent": 0.9, **ends})[0][0]


def test_the_most_trustworthy_judges():
    worse = {f"pseudo_likelihood/{key}": -1.0 for key in ("above_independent",)}
    assert above({**worse, **UNSURE, **BETTER}).by == "exact log-likelihood"
    assert above({**worse, **UNSURE}).by == "log-likelihood by AIS"
    assert "pseudo-likelihood alone, which is no likelihood" in said(worse)[1][0]
    assert said({}) == ((said({})[0][0],), ())
    assert "nothing measured how likely held-out rows are" in said({})[0][0]
    assert said({}, known=False) == ((), ())


def test_documents_are_judged_by_the_ratio_of_perplexities():
    found = {"perplexity/unigram": 1000.0, "perplexity/model": 800.0, "perplexity/upper_bound": 900.0}
    assert above(found).middle == pytest.approx(math.log(1000 / 800))
    assert said(found)[0]
    assert said({**found, "perplexity/upper_bound": 1001.0})[1][0].startswith("no better")


def test_a_model_that_has_learned_the_means_and_nothing_else_is_told_so():
    """An RBM without weights is independent units, and with the biases of the data it is as good as these."""
    model = target("rbm-binary")
    about = subject(model, data=small_data(model.space, 400))
    about.model.W.data.zero_()
    about.model.b.data.copy_(about.data.smoothed_mean().flatten().logit())
    found = component("evaluation", "exact").evaluate(about).metrics
    result = verdict(about, found)
    assert result.warnings[-1].startswith("no better than independent units")
    assert result.metrics["baseline/independent"] == pytest.approx(found["exact/log_likelihood"], abs=1e-4)


def test_independent_units_are_not_told_that_they_are_no_better():
    about = subject(small_model("exponential_family", Binary((5,))))
    assert not verdict(about, component("evaluation", "exact").evaluate(about).metrics).warnings


def test_an_energy_gap_far_from_zero_is_said_and_noise_about_zero_is_not():
    assert "energy_gap was -33 nats" in runaway([0.0] * 20 + [-33.0] * 5)
    assert runaway([-33.0] * 20 + [0.5] * 5) is None
    assert runaway([30.0, -30.0] * 50) is None
    assert runaway([]) is None


def test_samples_that_are_all_the_same_are_said():
    about = subject(target("rbm-binary"))
    rows = about.held_out.all()
    assert spread_beside(rows[:1].expand_as(rows), rows) == 0
    assert spread_beside(rows, rows) == pytest.approx(1)
    assert spread_beside(rows, rows[:1].expand_as(rows)) is None
    about.model.W.data.zero_()
    about.model.b.data.fill_(40.0)
    (warning,) = component("evaluation", "samples", count=8, steps=2).evaluate(about).warnings
    assert warning.startswith("the 8 samples are all but the same")


def test_the_table_has_independent_units_the_rows_of_pseudo_likelihood_and_the_checkpoint():
    values = {
        "baseline/independent": -25.19, "pseudo_likelihood/log_pseudo_likelihood": -18.7,
        "pseudo_likelihood/standard_error": 0.25, "pseudo_likelihood/rows": 360.0,
        "pseudo_likelihood/above_independent": 6.0, "judged": "best", "judged_step": 10, "best/step": 10,
        "best/pl": -1.0, "last/step": 20, "last/pl": -2.0,
        "units/hidden": 6.0, "units/dead": 2.0, "units/saturated": 0.0, "units/duplicate": 1.0,
    }  # fmt: skip
    assert report.rows(values, "test") == {
        "checkpoint": "step 10, the best",
        "  pl": "best -1.00 at step 10; last -2.00 at step 20",
        "log-pseudo-likelihood (test)": "-18.70 ± 0.25 nats, 360 rows",
        "independent units (test)": "-25.19 nats",
        "hidden units": "6, of these 2 dead, 0 saturated, 1 duplicates",
    }


def test_numbers_that_are_not_finite_have_no_line():
    """A sentence says so where they were found."""
    assert report.rows({"chains/x": float("nan"), "ais/log_likelihood": float("-inf"), "chains/y": 2.0}, "test") == {
        "chains/y": "2"
    }


def test_what_a_line_only_asks_for_keeps_a_line_of_its_own():
    """The chains that count decide how the likelihood is spoken of, and nobody else says how many they are."""
    found = report.rows({"ais/log_likelihood": -88.0, "ais/weight_ess": 97.3}, "test")
    assert found == {"log-likelihood (test), AIS": "-88.00 nats (errs upwards)", "ais/weight_ess": "97.3"}
