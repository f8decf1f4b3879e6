"""What a person wants to know of a run first, each answered in a sentence: did it end well, did it learn, and so on."""

import math
from collections.abc import Iterable, Sequence
from shlex import quote
from typing import Literal, NamedTuple

from ebm_cli.comparison import likelihood
from ebm_cli.comparison.facts import Facts
from ebm_cli.evaluation.bracket import AGREEMENT, WIDE, bracket, contradictions
from ebm_cli.evaluation.table import UNSURE
from ebm_cli.page import catalogue, command
from ebm_cli.page.catalogue import Entry
from ebm_cli.page.log import Line

State = Literal["good", "bad", "unsure", "unknown"]
_KINDS = {
    "learned": ("independent units", "how likely held-out rows are is not known", "nothing measured how likely"),
    "likelihood": ("RAISE", "AIS", "carry the estimate", "rests on one", "exact log-likelihood", "log Z", "rungs"),
    "overfit": ("fell from", "overfits"),
    "mixing": ("chain", "energy_gap", "replicas", "samples are all but the same", "accepted"),
}
"""Words by which a warning is known to answer one of the questions."""
_OF_THE_PAGE = "report.html was not written"
_LITTLE = 0.05  # of the whole rise
_LATE = 4  # the last part in so many


class Answer(NamedTuple):
    """To one question; `warnings` are what the run itself said, with the entry of the catalogue each belongs to."""

    question: str
    state: State
    text: str
    warnings: tuple[tuple[str, Entry | None], ...] = ()
    advice: str = ""  # where no entry of the catalogue says what to do, in Markdown


def answers(run: Facts, lines: Sequence[Line], monitored: Sequence[float], name: str = "") -> list[Answer]:
    """To every question there is. `monitored`: the watched figure, called `name`, in the order of the steps."""
    said = [line.text for line in lines if line.doubtful and not line.text.startswith(_OF_THE_PAGE)]
    sorted_out = _sorted_out(said)
    found = [
        _ended(run, sorted_out.pop("ended", [])),
        _learned(lines, sorted_out.pop("learned", [])),
        _converged(run, monitored, name),
        _mixing(run, sorted_out.pop("mixing", [])),
        _likelihood(run, sorted_out.pop("likelihood", []), monitored, name),
        _overfit(run, sorted_out.pop("overfit", []), monitored, name),
    ]
    rest = sorted_out.get("other", [])
    return [
        *found,
        *([Answer("Anything else?", "unsure", "The run warned of something else.", _linked(rest))] if rest else []),
    ]


def headline(found: Sequence[Answer]) -> tuple[State, str]:
    """The worst of it in a few words."""
    wrong = [answer for answer in found if answer.state == "bad"]
    if wrong:
        return "bad", " ".join(answer.text for answer in wrong)
    doubtful = [answer for answer in found if answer.state == "unsure"]
    if doubtful:
        return "unsure", " ".join(answer.text for answer in doubtful)
    open_ones = [answer.question for answer in found if answer.state == "unknown"]
    if open_ones:
        return "unknown", f"Nothing looks wrong, but some questions are open: {' '.join(open_ones)}"
    return "good", "This run looks healthy."


def steps_to_take(run: Facts, found: Iterable[Answer]) -> list[str]:
    """What to do next, in Markdown: first what the catalogue advises on warnings, each once."""
    order = ("bad",) if run.status == "failed" else ("bad", "unsure", "unknown")
    ranked = sorted((answer for answer in found if answer.state in order), key=lambda each: order.index(each.state))
    advice = list[str]()
    for answer in ranked:
        own = [entry.advice for _, entry in answer.warnings if entry is not None]
        advice += own or ([answer.advice] if answer.advice else [])
    place = quote(str(run.path))
    if not advice:
        advice = ["Nothing needs to be mended. Draw from it: `ebm sample run=outputs/RUN n=100`"]
    return [command.advised(run, text.replace("outputs/RUN", place)) for text in dict.fromkeys(advice)]


def _sorted_out(said: Iterable[str]) -> dict[str, list[str]]:
    """Sentences by the question that they answer."""
    found: dict[str, list[str]] = {}
    for sentence in dict.fromkeys(said):
        found.setdefault(_kind(sentence), []).append(sentence)
    return found


def _kind(sentence: str) -> str:
    entry = catalogue.of(sentence)
    if "not finite (" in sentence or (entry is not None and "failed" in entry.seen):
        return "ended"
    known = [kind for kind, words in _KINDS.items() if any(word in sentence for word in words)]
    return known[0] if known else "other"


def _linked(sentences: Iterable[str]) -> tuple[tuple[str, Entry | None], ...]:
    return tuple((sentence, catalogue.of(sentence)) for sentence in sentences)


def _ended(run: Facts, said: list[str]) -> Answer:
    question = "Did it come to its end?"
    if run.status == "done":
        return Answer(question, "bad" if said else "good", f"It is done, after {run.step} steps.", _linked(said))
    texts = list(dict.fromkeys([*([run.error] if run.error else []), *said]))
    if run.status == "failed":
        diverged = any("not finite (" in text for text in texts)
        how = "It diverged: the numbers grew without bound" if diverged else "It failed"
        return Answer(question, "bad", f"{how}, at step {run.ended_at}.", _linked(texts))
    word = {
        "running": "It is still running", "stopped": "It was stopped", "died": "Its process died",
        "pruned": "It was ended early, since other runs of its search were better",
    }  # fmt: skip
    state: State = "unknown" if run.status == "running" else "unsure"
    advice = "" if run.status == "running" else "Go on where it stopped: `ebm train resume=outputs/RUN`"
    return Answer(
        question, state, f"{word.get(run.status, 'It is not done')}, at step {run.step}.", _linked(texts), advice
    )


def _learned(lines: Sequence[Line], said: list[str]) -> Answer:
    question = "Did it learn anything beyond the means?"
    if said:
        bad = any("is not known" not in sentence for sentence in said)
        text = "It is no better than independent units." if bad else "It is not known how likely held-out rows are."
        if any(sentence.startswith("worse than") for sentence in said):
            text = "It is worse than independent units."
        return Answer(question, "bad" if bad else "unsure", text, _linked(said))
    verdicts = [line.text.removeprefix("verdict: ") for line in lines if line.text.startswith("verdict: ")]
    if not verdicts:
        return Answer(question, "unknown", "The run gave no verdict.", advice=_MEASURE)
    sentence = f"{verdicts[-1][:1].upper()}{verdicts[-1][1:]}."
    known = "nothing measured" not in sentence
    return Answer(question, "good" if known else "unknown", sentence, advice="" if known else _MEASURE)


_MEASURE = "Measure how likely held-out rows are: `ebm evaluate run=outputs/RUN evaluation=[ais]`"


def _converged(run: Facts, monitored: Sequence[float], name: str) -> Answer:
    question = "Has it converged?"
    values = [value for value in monitored if math.isfinite(value)]
    if len(values) < _LATE:
        advice = "Look more often: `ebm train eval_every=500`" if run.status == "done" else ""
        text = "It was looked at too rarely to say." if advice else "It did not come far enough to say."
        return Answer(question, "unknown", text, advice=advice)
    looks = len(values) // _LATE
    late, fallen = values[-1] - values[-1 - looks], max(values) - values[-1]
    whole = max(values) - min(values)
    lately = f"over the last {looks + 1} of {len(values)} looks"
    if late > _LITTLE * whole and fallen <= _LITTLE * whole:
        text = f"It was still getting better: {name} rose by {late:.3g} {lately}."
        return Answer(question, "unsure", text, advice=f"Train on: `ebm train resume=outputs/RUN steps={2 * run.step}`")
    if fallen > _LITTLE * whole:
        text = f"It is past its best: {name} was {max(values):.4g} at best and is {values[-1]:.4g}, {fallen:.3g} less."
        return Answer(question, "unsure", text)
    return Answer(
        question, "good", f"{name} moved by {late:+.3g} {lately}, by {values[-1] - values[0]:+.3g} since the first."
    )


def _mixing(run: Facts, said: list[str]) -> Answer:
    question = "Do the chains mix?"
    r_hat = run.metrics.get("chains/r_hat")
    if said:
        apart = any("do not mix" in sentence for sentence in said)
        return Answer(
            question, "bad", "Its chains do not mix." if apart else "Its chains have a problem.", _linked(said)
        )
    forgotten = run.metrics.get("mixing_time/steps")
    if r_hat is None and forgotten is not None:
        return Answer(question, "good", f"Its chains mix: after {forgotten:.0f} steps they forgot where they were.")
    if r_hat is None or not math.isfinite(r_hat):
        text = "Whether its chains mix was not measured." if r_hat is None else "Its chains could not be diagnosed."
        return Answer(
            question, "unknown", text, advice="Look at the chains: `ebm evaluate run=outputs/RUN evaluation=[chains]`"
        )
    if r_hat >= UNSURE:
        text = f"Its chains do not mix: chains from data and from noise disagree (R-hat {r_hat:.2f}, should be near 1)."
        return Answer(question, "bad", text, _linked([text]))
    time = run.metrics.get("chains/autocorrelation_time", math.nan)
    return Answer(
        question, "good", f"Its chains mix: R-hat is {r_hat:.3f}, an independent draw takes {time:.3g} steps."
    )


def _likelihood(run: Facts, said: list[str], monitored: Sequence[float], name: str) -> Answer:
    """From the figures, which `ebm evaluate` may have replaced since the run spoke."""
    question = "Is the likelihood known, and between which bounds?"
    found = likelihood.judged(run.metrics)
    if found is None or found.kind == "pseudo_likelihood":
        text = "No likelihood of test rows was measured."
        if monitored and name.endswith("/valid/log_likelihood") and not name.startswith("pseudo_likelihood/"):
            text = f"{text} While training {name} came to {monitored[-1]:.2f}."
        return Answer(question, "unknown", text, advice=_MEASURE)
    known = {name: value for name, value in run.metrics.items() if math.isfinite(value)}
    warnings = _linked(dict.fromkeys([*said, *contradictions(known)]))
    if found.doubtful is not None:
        return Answer(
            question,
            "bad",
            "The estimate of the likelihood cannot be relied on.",
            warnings or _linked([found.doubtful]),
        )
    if found.by == "ais" and known.get("ais/gap", 0.0) < -AGREEMENT - 2 * known.get("ais/gap_standard_error", 0.0):
        return Answer(
            question, "unsure", f"AIS and RAISE bracket nothing: {bracket(known)[6:]}.", warnings, advice=_ANNEAL
        )
    shown = likelihood.shown(found, lambda value: f"{value:.2f}")
    width = found.high - found.low
    if width == 0:
        return Answer(question, "good", f"It is known exactly: {shown} {found.unit}.", warnings)
    if not math.isfinite(width):
        return Answer(question, "unsure", f"Only one bound is known: {shown} {found.unit}.", warnings, advice=_MEASURE)
    if width > WIDE:
        text = f"It is known only within a wide bracket: {shown} {found.unit}, {width:.2f} nats from end to end."
        return Answer(question, "bad", text, warnings, advice=_ANNEAL)
    state: State = "unsure" if warnings else "good"
    return Answer(question, state, f"It is bracketed: {shown} {found.unit}.", warnings)


_ANNEAL = "Anneal more slowly: `ebm evaluate run=outputs/RUN evaluation=[ais] evaluation.ais.temperatures=20000`"


def _overfit(run: Facts, said: list[str], monitored: Sequence[float], name: str) -> Answer:
    question = "Does it overfit?"
    if said:
        named = any("the model overfits" in sentence for sentence in said)
        text = "It overfits: held-out rows got worse while training rows got better." if named else (
            "It got worse on held-out rows before the end.")  # fmt: skip
        return Answer(question, "bad", text, _linked(said))
    names = [name.removeprefix("best/") for name in run.metrics if name.startswith("best/") and name != "best/step"]
    steps = [run.metrics.get(f"{which}/step") for which in ("best", "last")]
    if (not names or None in steps) and monitored and "/valid/" in name:
        text = f"It was not judged: {name} was {max(monitored):.2f} at best and {monitored[-1]:.2f} last."
        return Answer(question, "unknown", text)
    if not names or None in steps:
        kept = run.settings.get("dataset.valid") != 0
        advice = "" if kept else "Keep validation rows: `ebm train dataset.valid=100`"
        return Answer(question, "unknown", "No figure on validation rows was watched.", advice=advice)
    if "/train/" in f"/{names[0]}":
        return Answer(question, "unknown", "These data have no validation rows, so nothing tells.")
    if steps[0] == steps[1]:
        return Answer(question, "good", "No: it was best on validation rows at its last step.")
    best, last = (run.metrics.get(f"{which}/{names[0]}", math.nan) for which in ("best", "last"))
    beside = f"best {best:.2f} at step {steps[0]:.0f}, last {last:.2f}"
    return Answer(
        question, "good", f"No: on validation rows its last step is as good as its best, up to the error ({beside})."
    )
