"""Replicated softmax: what its gradient and its chains decide, on 20 Newsgroups."""

import shutil
from pathlib import Path
from typing import NamedTuple

from _runs import Runs
from safetensors.torch import load_file

NEWS = "dataset=bag_of_words dataset.corpus=20newsgroups_2000 evaluation=[perplexity,topics,retrieval]"


class SetUp(NamedTuple):
    """What is typed, and what it is in words."""

    line: str
    words: str


SET_UPS = {
    "shared rate": SetUp(f"experiment=rsm_shared_rate {NEWS}", "exact gradient, one rate, CD-1, SGD"),
    "no length factor": SetUp(f"experiment=rsm_no_length_factor {NEWS}", "published update, one rate, CD-1, SGD"),
    "own rate": SetUp(f"experiment=rsm_own_rate {NEWS}", "exact gradient, c at a hundredth of the rate, CD-1, SGD"),
    "CD rising to 5": SetUp(
        "experiment=rsm_20news objective=cd sampler=block_gibbs chains.final_steps=5 optimizer.lr=0.01 steps=6800",
        "exact gradient, c at a tenth of the rate, CD-1 to CD-5, Adam from 0.01",
    ),
    "PCD, lengths apart": SetUp(
        "experiment=rsm_20news sampler=block_gibbs",
        "exact gradient, c at a tenth of the rate, PCD-1, Adam from 0.003",
    ),
    "PCD, lengths exchanging": SetUp("experiment=rsm_20news", "the same, chains exchange hidden units between lengths"),
}
SHOWN = ("shared rate", "no length factor", "own rate", "PCD, lengths exchanging")
TOPICS = 6


def _name(set_up: str) -> str:
    return set_up.replace(", ", "_").replace(" ", "_")


TRAINED = {_name(name): f"{of.line} device.threads=1" for name, of in SET_UPS.items()}
FEW = "CD_few_temperatures"
EVALUATED = {
    FEW: (
        _name("CD rising to 5"),
        "evaluation=[perplexity] evaluation.perplexity.temperatures=30 evaluation.perplexity.chains=20 "
        "evaluation.perplexity.lda_topics=0 device.threads=1",
    )
}


def text(runs: Runs, pictures: Path) -> str:
    """The page; figures of the last run beside it."""
    found = {name: runs.summary(_name(name)) for name in SET_UPS}
    best = runs.folder / _name("PCD, lengths exchanging")
    for figure in ("topics", "retrieval"):
        shutil.copyfile(best / "samples" / f"{figure}.png", pictures / f"{figure}.png")
    return (
        "\n\n".join(
            [
                _head(found),
                _cause(found),
                _table(runs, found),
                _seen(runs, found),
                _topics(runs),
                _beside(found),
                _commands(),
            ]
        )
        + "\n"
    )


def _head(found: dict[str, dict[str, float]]) -> str:
    seconds = sum(of["seconds"] for of in found.values())
    return f"""# Replicated softmax: why the exact gradient gave nonsense

Made by `scripts/results replicated_softmax`; numbers, topics and pictures are those of its {len(found)} runs, {seconds / 60:.0f} minutes of them
on one core each, two at a time. 20 Newsgroups, 2000 stemmed words, 50 hidden units, batches of 100 documents."""


def _cause(found: dict[str, dict[str, float]]) -> str:
    return """## The question and the answer

A replicated softmax whose energy was differentiated automatically gave the same words for all topics, updates copied from public code
gave good ones; they differ in a factor. Of a document v of D words, hidden units j and words k, the energy is

    E(v) = -b·v - Σ_j softplus(D c_j + (v W)_j),        dE/dc_j = -D σ(D c_j + (v W)_j).

**The factor D in the gradient of the hidden bias is right**: automatic differentiation, the formula and the enumeration of all documents of a
vocabulary agree to nine digits (`tests/test_replicated_softmax.py`), and without it they do not. The published update leaves it out, so
it is the gradient of no function; its direction is that of a hidden bias with a rate smaller by the length of the documents.

That is the cause. A document's units feel c multiplied by D, and the gradient of c is larger by D again: a step of c moves the
units' inputs D² times as far as its rate says, some thousands of times, for the longest documents millions. At a rate that suits W the units are thrown from *on in every document* to
*off in every document* and stay there, where no word can move them. Leave out D, or give c a rate of its own (`optimizer.rates=[[c,0.01]]`), or divide by the size of the gradient as Adam does:
each cures it, and only the last two follow the likelihood."""


COLUMNS = ("set-up", "", "perplexity, 50 documents", "whole test set", "NPMI", "distinct", "dead or always on", "precision at 10", "c", "seconds")  # fmt: skip


def _table(runs: Runs, found: dict[str, dict[str, float]]) -> str:
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for name, of in found.items():
        c = load_file(sorted((runs.folder / _name(name) / "checkpoints").glob("*/*.safetensors"))[-1])["model.c"]
        part = "perplexity/documents"
        rows.append(
            (
                name,
                SET_UPS[name].words,
                f"{of[f'{part}/model']:.0f} to {of[f'{part}/upper_bound']:.0f}",
                f"{of['perplexity/model']:.0f}",
                f"{of['topics/npmi']:.2f}",
                f"{of['topics/distinct']:.2f}",
                f"{of['topics/dead'] + of['topics/always_on']:.0f}",
                f"{of['retrieval/precision_at_10']:.2f}",
                f"{c.min():.2f} to {c.max():.2f}",
                f"{of['training_seconds']:.0f}",
            )
        )
    last = found["PCD, lengths exchanging"]
    part = "perplexity/documents"
    rows.append(
        (
            "LDA, 50 topics",
            "scikit-learn, batch, 20 passes",
            f"at most {last[f'{part}/lda']:.0f}",
            f"at most {last['perplexity/lda']:.0f}",
            f"{last['topics/lda_npmi']:.2f}",
            f"{last['topics/lda_distinct']:.2f}",
            "–",
            f"{last['retrieval/lda_precision_at_10']:.2f}",
            "–",
            "–",
        )
    )
    rows.append(
        (
            "frequencies of words",
            "one topic",
            f"{last[f'{part}/unigram']:.0f}",
            f"{last['perplexity/unigram']:.0f}",
            "–",
            "–",
            "–",
            f"{last['retrieval/tfidf_precision_at_10']:.2f} (tf-idf)",
            "–",
            "–",
        )
    )
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""## Side by side

*Perplexity* is exp(-mean log p(v) / D) of the words in their order, from AIS, which errs downwards, to the reverse chains, which err upwards;
*NPMI* and *distinct* are of the ten words that correlate most with each unit's share of a document's activity; *dead or always on* of 50.

{table}"""


def _seen(runs: Runs, found: dict[str, dict[str, float]]) -> str:
    few, part = runs.results(FEW), "perplexity/documents"

    def ppl(name: str) -> str:
        return f"{found[name]['perplexity/documents/model']:.0f}"

    return f"""* **The failing set-up fails.** With one rate {found["shared rate"]["topics/dead"] + found["shared rate"]["topics/always_on"]:.0f} of 50 units say nothing, their words are the same, and documents are retrieved hardly better than
  by chance. The published update and a rate of its own for c both learn.
* **Chains decide the likelihood.** CD-1 to CD-5 with Adam gives topics and retrieves well, but as a density it is at {ppl("CD rising to 5")}, worse than the
  frequencies of words: its chains never leave the data, so nothing takes probability from the states of the hidden units
  that no document has. Long documents meet them first: p_D(h) is proportional to exp(D s(h)), so a small excess of s is raised to the
  power D. An AIS with few temperatures misses some of these states and errs in the model's favour: with 30 and 20 chains it says
  {few[f"{part}/model"]:.0f} (and warns), and the reverse chains from the documents, which bound the annealed model alone, say {few[f"{part}/annealed_upper_bound"]:.0f}. Numbers for this model from few
  temperatures without a bracket are worth nothing; `evaluation=perplexity` counts the best state that any chain met as a bound on log Z.
* **Persistent chains mend it**, more so if documents of different lengths exchange their hidden units ({ppl("PCD, lengths apart")} without, {ppl("PCD, lengths exchanging")} with):
  lengths are inverse temperatures, so a batch of chains is a tempering ladder already."""


def _topics(runs: Runs) -> str:
    blocks = []
    for name in SHOWN:
        text = (runs.folder / _name(name) / "samples" / "topics.txt").read_text()
        shown = "\n".join(f"    {words}" for words in _coherent(text.split("LDA topics by")[-1]))
        blocks.append(f"**{name}**\n\n{shown}\n")
    return f"""## Topics

Of each the {TOPICS} most coherent units, by the words that come with their activity, without those that share half their words with a better one; of the first
there are no more.

{chr(10).join(blocks)}
![Words of the most coherent units](replicated_softmax/topics.png)

*PCD, lengths exchanging*"""


def _coherent(text: str) -> list[str]:
    """Top words of units in topics.txt, the most coherent first, none much like one before it."""
    units = [block.splitlines() for block in text.split("\n\n") if block.startswith("unit ")]
    found: list[str] = []
    for _head, *lines in sorted(units, key=lambda unit: -float(unit[0].rpartition("NPMI ")[2].rstrip(")"))):
        words = next(line for line in lines if line.startswith("  activity")).split()[1:]
        if len(found) < TOPICS and all(2 * len({*words} & {*other.split()}) < len(words) for other in found):
            found.append(" ".join(words))
    return found


_PARTICLES = 80  # evaluation.perplexity.lda_particles


def _beside(found: dict[str, dict[str, float]]) -> str:
    last = found["PCD, lengths exchanging"]
    part = "perplexity/documents"
    return f"""## Beside LDA

On the same 50 test documents the replicated softmax is at {last[f"{part}/model"] / last[f"{part}/lda"]:.2f} of LDA's perplexity by AIS and at {last[f"{part}/upper_bound"] / last[f"{part}/lda"]:.2f} by the reverse
chains; the ratio published in 2009 is 953/1091 = 0.87. LDA's number is
estimated by particles, {_PARTICLES} for each document, and errs high, as the bound that it is usually given by does, here {last[f"{part}/lda_bound"]:.0f}:
so its perplexity may be lower still. scikit-learn's `score` and `perplexity` add the topics' own term to the bound,
which no document has, and which dominates on few of them. LDA has 20 passes of batch updates; 10 passes of online updates with scikit-learn's defaults end 44 % higher.

![Precision over recall](replicated_softmax/retrieval.png)

*Test documents of the same newsgroup, retrieved from the training documents by hidden units, LDA's proportions and tf-idf*"""


def _commands() -> str:
    lines = "\n".join(f"ebm train {of.line}" for of in SET_UPS.values())
    return f"## Commands\n\n```\n{lines}\n```"
