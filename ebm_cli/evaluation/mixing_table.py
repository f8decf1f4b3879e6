"""The table of evaluation=mixing: samplers side by side."""

from collections.abc import Mapping
from typing import Any

from ebm_cli.evaluation.table import UNSURE, Numbers, Table, short

_MIXING = {  # a metric of each sampler, in words
    "steps": "steps taken",
    "seconds": "seconds they took",
    "mmd": "MMD² at the end",
    "energy_error": "error of the mean energy at the end [nats]",
    "ess_per_step": "ESS per step of a chain",
    "ess_per_transition": "ESS per transition of a replica",
    "ess_per_energy_call": "ESS per energy call of a chain",
    "ess_per_gradient_call": "ESS per gradient call of a chain",
    "ess_per_second": "ESS per second of all chains",
    "r_hat": "R-hat (should be near 1)",
    "acceptance": "share of proposals accepted",
    "jump_distance": "sites changed by a step, or its squared length",
    "gradients": "gradients of a step",
}


def samplers(values: Mapping[str, Any]) -> list[str]:
    """Labels of those that evaluation=mixing compared."""
    paths = [key.split("/") for key in values if key.startswith("mixing/")]
    return list(dict.fromkeys(path[1] for path in paths if len(path) == 3))


def rows(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """What evaluation=mixing found, in words, with a number for each sampler."""
    names = samplers(values)
    levels = {key.partition("/steps_to_")[2] for key in values if key.startswith("mixing/")} - {""}
    words = {name: _MIXING[name] for name in ("steps", "seconds")}
    for level in sorted(levels, key=float, reverse=True):
        share = f"until MMD² is below {100 * float(level):g} % of noise's"
        words |= {f"steps_to_{level}": f"steps {share}", f"seconds_to_{level}": f"seconds {share}"}
    words |= _MIXING
    return {text: [_cell(values, sampler, name) for sampler in names] for name, text in words.items()}


def caption(values: Mapping[str, Any]) -> str:
    """What the numbers are, and which differences are chance."""
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
        return f"> {short(values[f'mixing/{sampler}/{kind}'])}" if reached else "-"
    doubtful = name.startswith("ess_") and values.get(f"mixing/{sampler}/r_hat", 1) > UNSURE
    return short(value) + (" ?" if doubtful else "")


def tables(values: Numbers) -> list[Table]:
    """One, if samplers were compared."""
    values.leave("mixing/")
    names = samplers(values)
    return [Table("samplers", names, rows(values), caption(values))] if names else []
