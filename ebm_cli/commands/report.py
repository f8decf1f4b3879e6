"""The last table of a run, and the table of a multirun."""

import math
from collections.abc import Mapping
from typing import Any

from ebm_cli.evaluation.bracket import doubt
from ebm_cli.evaluation.chains import UNSURE
from ebm_cli.terminal import columns, output, table

_NOT_FOUND_OUT = {"status", "seconds", "training_seconds", "steps", "step", "split", "judged", "judged_step"}


_AGREEMENT = 0.05  # nats: less is the noise of the estimates
_ERROR = 0.5  # nats


def show(title: str, values: Mapping[str, Any], split: str) -> None:
    """Print what was found, the log-likelihood with its bracket first; samplers side by side below.

    What is no finite number is not shown: a sentence said so where it was found.
    """
    values = {name: value for name, value in values.items() if not isinstance(value, float) or math.isfinite(value)}
    output.print(table(title, rows(values, split)))
    samplers = _samplers(values)
    if samplers:
        output.print(columns("samplers", samplers, mixing_rows(values), _mixing_caption(values)))
    films = long_run_rows(values)
    if films:
        heads = [text for name, text in _LONG_RUN.items() if any(key.endswith(f"/{name}") for key in values)]
        output.print(columns("long chains", heads, films, _LONG_RUN_CAPTION))


def rows(values: Mapping[str, Any], split: str) -> dict[str, str]:
    """What a person wants to know, in words, from flat keys; every other number stands under its own key."""
    found: dict[str, str] = {}
    used = _judged(values, found) | _likelihood(values, split, found) | _pseudo_likelihood(values, split, found)
    used |= _independent(values, split, found) | _chains(values, found) | _documents(values, split, found)
    used |= _units(values, found)
    if "training_seconds" in values:
        training = f"{values['training_seconds']:.1f} s for {values['steps']} steps of training"
        found["time"] = f"{training}, {values['seconds']:.1f} s with evaluation"
    rest = [key for key in values if key not in used | _NOT_FOUND_OUT and not _elsewhere(key)]
    return found | {key: f"{values[key]:.4g}" for key in rest if isinstance(values[key], int | float)}


def _elsewhere(key: str) -> bool:
    """Whether it stands in a table of its own."""
    return key.startswith("mixing/") or (key.startswith("long_run/") and "/from_" in key)


def _likelihood(values: Mapping[str, Any], split: str, found: dict[str, str]) -> set[str]:
    used = {"exact/log_likelihood", "exact/standard_error", "ais/log_likelihood", "ais/standard_error"}
    if "exact/log_likelihood" in values:
        found[f"log-likelihood ({split}), exact"] = _plus_minus(values, "exact") + " nats"
    if "ais/log_likelihood" in values:
        errs = "errs upwards" if doubt("ais", values) is None else "errs upwards, not to be relied on"
        found[f"log-likelihood ({split}), AIS"] = f"{_plus_minus(values, 'ais')} nats ({errs})"
    if "ais/gap" in values and "ais/log_likelihood" in values:
        used |= {"ais/gap", "ais/gap_standard_error", "raise/log_likelihood", "raise/points"}
        found["  bracket, RAISE to AIS"] = f"{bracket(values)}, RAISE on {values['raise/points']:.0f} rows"
    if _has(values, "ais/log_z", "ais/log_z_low", "ais/log_z_high"):
        used |= {"ais/log_z", "ais/log_z_low", "ais/log_z_high"}
        found["  log Z, AIS"] = _log_z(values, "ais")
    if _has(values, "bridge/log_likelihood", "bridge/log_z", "bridge/log_z_low", "bridge/log_z_high"):
        used |= {f"bridge/{name}" for name in ("log_likelihood", "standard_error", "log_z", "log_z_low", "log_z_high")}
        found[f"log-likelihood ({split}), bridge"] = _plus_minus(values, "bridge") + " nats"
        found["  log Z, bridge"] = _log_z(values, "bridge")
    return used


def _judged(values: Mapping[str, Any], found: dict[str, str]) -> set[str]:
    """Which checkpoint all this is of, and how the monitored metric was there and at the other one."""
    used = {key for key in values if key.startswith(("best/", "last/"))}
    if "judged_step" not in values:
        return used
    found["checkpoint"] = f"step {values['judged_step']:.0f}, the {values['judged']}"
    for metric in (key.removeprefix("best/") for key in used if key.startswith("best/") and key != "best/step"):
        found[f"  {metric}"] = f"best {values[f'best/{metric}']:.2f} at step {values['best/step']:.0f}"
        if f"last/{metric}" in values:
            found[f"  {metric}"] += f"; last {values[f'last/{metric}']:.2f} at step {values['last/step']:.0f}"
    return used


def _pseudo_likelihood(values: Mapping[str, Any], split: str, found: dict[str, str]) -> set[str]:
    name = "pseudo_likelihood"
    if not _has(values, f"{name}/log_pseudo_likelihood", f"{name}/rows"):
        return set()
    error = f" ± {values[f'{name}/standard_error']:.2f}" if f"{name}/standard_error" in values else ""
    rows = f"{values[f'{name}/rows']:.0f} rows"
    found[f"log-pseudo-likelihood ({split})"] = f"{values[f'{name}/log_pseudo_likelihood']:.2f}{error} nats, {rows}"
    return {f"{name}/{key}" for key in ("log_pseudo_likelihood", "standard_error", "rows")}


def _independent(values: Mapping[str, Any], split: str, found: dict[str, str]) -> set[str]:
    """Beside the likelihoods that of independent units; how far above it they are, the verdict says."""
    if "baseline/independent" in values:
        found[f"independent units ({split})"] = f"{values['baseline/independent']:.2f} nats"
    kinds = ("/above_independent", "/above_independent_error")
    return {"baseline/independent", *(key for key in values if key.endswith(kinds))}


def _units(values: Mapping[str, Any], found: dict[str, str]) -> set[str]:
    names = ("hidden", "dead", "saturated", "duplicate")
    if _has(values, *(f"units/{name}" for name in names)):
        hidden, dead, saturated, duplicate = (f"{values[f'units/{name}']:.0f}" for name in names)
        found["hidden units"] = f"{hidden}, of these {dead} dead, {saturated} saturated, {duplicate} duplicates"
    return {f"units/{name}" for name in names}


def _has(values: Mapping[str, Any], *keys: str) -> bool:
    return all(key in values for key in keys)


def _log_z(values: Mapping[str, Any], name: str) -> str:
    log_z, low, high = (values[f"{name}/{key}"] for key in ("log_z", "log_z_low", "log_z_high"))
    return f"{log_z:.2f}, 95 % [{low:.2f}, {high:.2f}]"


def bracket(values: Mapping[str, Any]) -> str:
    """From RAISE below to AIS above; where the two cross by more than their noise they bracket nothing."""
    high, low, gap = values["ais/log_likelihood"], values["raise/log_likelihood"], values["ais/gap"]
    if abs(gap) < _AGREEMENT:
        return f"both {high:.2f} nats, within {_AGREEMENT}"
    return f"[{low:.2f}, {high:.2f}] nats" if gap > 0 else f"none: RAISE lies {-gap:.4g} nats above AIS"


def contradictions(values: Mapping[str, Any]) -> list[str]:
    """Where the exact value shows that the estimates are wrong, although they may agree with each other; and where the
    log Z that training learned is another one."""
    return [sentence for sentence in (_refuted(values), _learned(values)) if sentence]


def _refuted(values: Mapping[str, Any]) -> str | None:
    if not _has(values, "exact/log_likelihood", "ais/log_likelihood"):
        return None
    error = values["ais/log_likelihood"] - values["exact/log_likelihood"]
    if abs(error) <= _ERROR:
        return None
    return (
        f"ais: off the exact log-likelihood by {error:.4g} nats; its chains miss part of the model, and RAISE may miss "
        "the same part. Believe the exact value"
    )


def _learned(values: Mapping[str, Any]) -> str | None:
    """By the most trustworthy of the evaluations that have a log Z, beyond its interval."""
    names = [name for name in ("exact", "density_2d", "ais") if f"{name}/learned_log_z_error" in values]
    if not names:
        return None
    log_z, error = (values[f"{names[0]}/{key}"] for key in ("log_z", "learned_log_z_error"))
    low, high = (values.get(f"{names[0]}/log_z_{end}", log_z) for end in ("low", "high"))
    if low - _ERROR <= log_z + error <= high + _ERROR:
        return None
    return (
        f"the log Z that training learned, {log_z + error:.4g}, is {abs(error):.4g} nats off the one by {names[0]}, "
        f"{log_z:.4g}: what the objective took for the model's density is not normalised; take more steps, or a noise "
        "nearer to the data"
    )


def _plus_minus(values: Mapping[str, Any], name: str) -> str:
    error = values.get(f"{name}/standard_error")
    return f"{values[f'{name}/log_likelihood']:.2f}" + (f" ± {error:.2f}" if error is not None else "")


def _chains(values: Mapping[str, Any], found: dict[str, str]) -> set[str]:
    used = {f"chains/{name}" for name in ("r_hat", "ess_bulk", "ess_tail", "autocorrelation_time")}
    if _has(values, *used):
        found["chains"] = (
            f"R-hat {values['chains/r_hat']:.3f}, ESS bulk {values['chains/ess_bulk']:.0f} tail "
            f"{values['chains/ess_tail']:.0f}, autocorrelation time {values['chains/autocorrelation_time']:.1f} steps"
        )
    return used


def _documents(values: Mapping[str, Any], split: str, found: dict[str, str]) -> set[str]:
    """Perplexity, topics and retrieval, each beside its yardsticks; the tables above have the rest."""
    if "exact/perplexity" in values:
        found[f"perplexity ({split}), exact"] = f"{values['exact/perplexity']:.1f}"
    if _has(values, "perplexity/model", "perplexity/upper_bound", "perplexity/unigram"):
        low, high = values["perplexity/model"], values["perplexity/upper_bound"]
        found[f"perplexity ({split})"] = f"{low:.1f} by AIS (errs low), {high:.1f} by chains back down (errs high)"
        lda = f"LDA at most {values['perplexity/lda']:.1f}, " if "perplexity/lda" in values else ""
        found["  beside"] = f"{lda}frequencies of words {values['perplexity/unigram']:.1f}"
    for name, what in (("npmi", "coherence of topics, NPMI"), ("distinct", "share of distinct top words")):
        if f"topics/{name}" in values:
            beside = f" (LDA {values[f'topics/lda_{name}']:.2f})" if f"topics/lda_{name}" in values else ""
            found[what] = f"{values[f'topics/{name}']:.2f}{beside}"
    if "retrieval/precision_at_10" in values:
        others = (("lda", "LDA"), ("tfidf", "tf-idf"))
        keys = {said: f"retrieval/{other}_precision_at_10" for other, said in others}
        beside = "".join(f", {said} {values[key]:.2f}" for said, key in keys.items() if key in values)
        chance = f"{values['retrieval/by_chance']:.2f} by chance"
        found["precision of ten retrieved"] = f"{values['retrieval/precision_at_10']:.2f} ({chance}{beside})"
    kinds = ("perplexity/", "topics/npmi", "topics/distinct", "topics/lda_", "retrieval/")
    return {"exact/perplexity", *(key for key in values if key.startswith(kinds))}


_MIXING = {  # a metric of each sampler, in words
    "steps": "steps taken",
    "seconds": "seconds they took",
    "mmd": "MMD² at the end",
    "energy_error": "error of the mean energy at the end [nats]",
    "ess_per_step": "ESS per step of a chain",
    "ess_per_energy_call": "ESS per energy call of a chain",
    "ess_per_second": "ESS per second of all chains",
    "r_hat": "R-hat (should be near 1)",
    "acceptance": "share of proposals accepted",
    "jump_distance": "sites changed by a step",
}


def _samplers(values: Mapping[str, Any]) -> list[str]:
    """Labels of those that evaluation=mixing compared."""
    paths = [key.split("/") for key in values if key.startswith("mixing/")]
    return list(dict.fromkeys(path[1] for path in paths if len(path) == 3))


def mixing_rows(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """What evaluation=mixing found, in words, with a number for each sampler."""
    samplers = _samplers(values)
    levels = {key.partition("/steps_to_")[2] for key in values if key.startswith("mixing/")} - {""}
    words = {name: _MIXING[name] for name in ("steps", "seconds")}
    for level in sorted(levels, key=float, reverse=True):
        share = f"until MMD² is below {100 * float(level):g} % of noise's"
        words |= {f"steps_to_{level}": f"steps {share}", f"seconds_to_{level}": f"seconds {share}"}
    words |= _MIXING
    return {text: [_cell(values, sampler, name) for sampler in samplers] for name, text in words.items()}


def _mixing_caption(values: Mapping[str, Any]) -> str:
    return (
        f"MMD²: squared maximum mean discrepancy to a long reference run, {values['mixing/noise_mmd']:.3g} for noise, "
        f"where all chains start, 0 ± {values['mixing/mmd_standard_error']:.2g} for a sampler that has mixed (its mean "
        f"energy: ± {values['mixing/energy_standard_error']:.2g} nats). ESS: effective sample size. ESS, R-hat, "
        "acceptance and sites: over the second half of the steps (of the first 2000 or more, once chains agree in it); "
        "an ESS with ? is a guess, since the chains disagree."
    )


def _cell(values: Mapping[str, Any], sampler: str, name: str) -> str:
    """A number; a level that was not reached as more than the steps or seconds there were."""
    kind, reached, _ = name.partition("_to_")
    value = values.get(f"mixing/{sampler}/{name}")
    if value is None:
        return f"> {_short(values[f'mixing/{sampler}/{kind}'])}" if reached else "-"
    doubtful = name.startswith("ess_") and values.get(f"mixing/{sampler}/r_hat", 1) > UNSURE
    return _short(value) + (" ?" if doubtful else "")


def _short(value: float) -> str:
    """Three digits, or all of a large number's before the point."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


_LONG_RUN = {  # a metric of chains that were followed, in a word or two
    "energy": "E [nats]",
    "energy_inside": "E as data",
    "recognised": "recognised",
    "largest_class": "largest class",
    "rarest_class": "rarest",
    "class_kept": "class kept",
    "class_changed_since_half": "changed late",
    "moved": "moved",
}
_LONG_RUN_CAPTION = (
    "At the end, as shares of the chains. E as data: between the 1 % and 99 % quantiles of held-out energies. "
    "Recognised: the classifier is as sure of the class as long_run.confident asks. Class kept: since the start; "
    "changed late: since half the steps. Moved: share of the distance between two rows of data. More: long_run.csv."
)


def long_run_rows(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """What evaluation=long_run found at the end, a row for each noise and start."""
    found = {}
    for film in dict.fromkeys(key.rpartition("/")[0] for key in values if _elsewhere(key) and "/from_" in key):
        words = film.removeprefix("long_run/").replace("/", ", ").replace("_", " ")
        found[words] = [f"{values[f'{film}/{name}']:.3g}" for name in _LONG_RUN if f"{film}/{name}" in values]
    return found
