"""Perplexity of held-out documents, in brackets, beside those of their word frequencies and of LDA."""

import math
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli import rng
from ebm_cli.dataset.base import Data, Split
from ebm_cli.evaluation.base import Result, Subject
from ebm_cli.evaluation.documents import BesideLDA, counts
from ebm_cli.evaluation.table import Numbers
from ebm_cli.functional import effective_count, log_mean_exp
from ebm_cli.log_z import length_annealing
from ebm_cli.log_z.length_annealing import LengthPath
from ebm_cli.model.replicated_softmax import ReplicatedSoftmax
from ebm_cli.registry import register

Count = Annotated[int, Field(ge=1)]
_AT_ONCE = 2**24  # counts
_WIDE = 0.05
_PER_WORD = "perplexity/log_likelihood_per_word"
"""log p / D of each document, minus whose mean is the logarithm of `perplexity/model`."""


class Documents(NamedTuple):
    """The documents of a split that have words: row (n,) in it, D > 0 of each, (n,), and which of `lengths` that is."""

    row: Tensor
    length: Tensor
    which: Tensor
    lengths: Tensor


class Estimate(NamedTuple):
    """log Z_D of each length, (lengths,) float64 nats, its bootstrapped values, and log w (lengths, chains)."""

    log_z: Tensor
    others: Tensor  # (bootstraps, lengths)
    above: Tensor  # what the chains down say
    log_w: Tensor

    def effective(self) -> Tensor:
        """Effective number of chains at each length, (sum of w)^2 / sum of w^2."""
        return effective_count(self.log_w)


@register("evaluation", "perplexity")
class Perplexity(BesideLDA):
    """exp(-mean over documents of log p(v) / D), of the D words of a document v in their order, without D = 0.

    log p(v) = -E(v) - log Z_D with a partition function for each length. All are found in one run of AIS (Neal 2001)
    in which D rises from 0, where the hidden units are coins, through all lengths there are, in `temperatures` steps
    beside them (`LengthPath`); and log Z_D is at least D s(h) for any h that was met, which long documents need.

    E[log Z_hat] <= log Z: `perplexity/model` errs downwards, and by much if the model has modes that no chain meets.
    `model_low` to `model_high`, 95 % by `bootstrap` over chains, knows nothing of these. `upper_bound` is of as many
    chains down again, begun where those up ended, drawn by their weights: it errs upwards, as far as these are draws of
    the model. Modes that neither has seen make both too low. Contrastive divergence with large steps leaves such modes,
    of a few words each: they outweigh all else in long documents, and a short AIS with few chains does not find them.

    `perplexity/documents/...` is of a random choice of `documents`, the same for every model and seed. On them
    `annealed_upper_bound` is RAISE with `reverse_chains` each (Burda, Grosse, Salakhutdinov 2015): on average above the
    perplexity of the annealed model. If it is below `perplexity/model`, AIS is too short to be the model.

    `unigram`: words drawn independently with their smoothed frequencies in the training documents. `lda`: latent
    Dirichlet allocation by scikit-learn with `lda_topics` topics (null: as many as hidden units; 0: none), estimated by
    `lda_particles` particles (`particles.py`), which errs upwards too, though less than `lda_bound`, the documents'
    part of its variational bound. `model_to_lda` is the ratio to `lda`.
    """

    while_training: bool
    documents: Count
    chains: Annotated[int, Field(ge=2)]
    temperatures: Count
    reverse_chains: Count
    bootstrap: Annotated[int, Field(ge=100)]
    lda_particles: Count

    standing = 60
    compared = ("perplexity/model",)

    @classmethod
    @override
    def lines(cls, values: Numbers, split: str) -> dict[str, str]:
        """From where it errs low to where it errs high, beside its yardsticks; the text has the rest."""
        values.leave("perplexity/")
        if not values.has("perplexity/model", "perplexity/upper_bound", "perplexity/unigram"):
            return {}
        low, high = values["perplexity/model"], values["perplexity/upper_bound"]
        lda = f"LDA at most {values['perplexity/lda']:.1f}, " if "perplexity/lda" in values else ""
        return {
            f"perplexity ({split})": f"{low:.1f} by AIS (errs low), {high:.1f} by chains back down (errs high)",
            "  beside": f"{lda}frequencies of words {values['perplexity/unigram']:.1f}",
        }

    @override
    def refusal_of_data(self, data: Data) -> str | None:
        """Documents without a word say nothing."""
        splits = {"train": data.train, "valid": data.valid, "test": data.test}
        bare = [name for name, split in splits.items() if split is not None and not len(_documents(split).row)]
        return f"no {bare[0]} document has a word of the vocabulary; take others, or a larger one" if bare else None

    @torch.no_grad()
    @override
    def evaluate(self, subject: Subject) -> Result:
        """`perplexity/...`, `perplexity/documents/...` and perplexity.txt."""
        model, split, engine = subject.model, subject.held_out, subject.device.engine
        assert isinstance(model, ReplicatedSoftmax)
        path, every = LengthPath(model), _documents(split)
        rungs = length_annealing.ladder(every.lengths, self.temperatures)
        estimate = self._log_z(path, rungs, every.lengths, subject)
        log_p = self._log_p(path.model, estimate.log_z, every, subject)
        chosen = rng.permutation(len(every.row), rng.stream(0, "perplexity"))[: self.documents].to(every.row.device)
        some = every._replace(row=every.row[chosen], length=every.length[chosen], which=every.which[chosen])
        x, key = counts(split)[some.row].double(), subject.key.fold("reverse")
        lower = length_annealing.reverse_log_p(path, rungs, x, self.reverse_chains, key, engine)
        whole = _measured(log_p, every, estimate)
        part = _measured({name: of[chosen] for name, of in log_p.items()}, some, estimate)
        part["annealed_upper_bound"] = _perplexity(lower, some.length)
        table = _table(whole, part, (subject.split, len(every.row), len(chosen)))
        metrics = whole | {f"documents/{name}": value for name, value in part.items()} | _chains(estimate, every)
        return Result(
            {f"perplexity/{name}": value for name, value in metrics.items()},
            warnings=self._warnings(metrics),
            files={"perplexity.txt": "".join(f"{line}\n" for line in table)},
            said=table,
            by_row={_PER_WORD: log_p["model"] / every.length},
            index={_PER_WORD: every.row},
        )

    def _log_z(self, path: LengthPath, rungs: Tensor, lengths: Tensor, subject: Subject) -> Estimate:
        """By AIS, and not below what the best state of the hidden units that was met has alone, D s(h)."""
        key, engine = subject.key, subject.device.engine
        risen = length_annealing.forward(path, rungs, lengths, self.chains, key.fold("forward"), engine)
        ends = risen.ends(key.fold("ends"))
        down = length_annealing.backward(path, rungs, lengths, ends, key.fold("backward"), engine)
        log_w, alone = risen.log_w, lengths.double() * risen.best - path.log_z_base
        index = rng.integers(self.chains, (self.bootstrap, self.chains), key.fold("bootstrap"), log_w.device)
        share = torch.zeros(self.bootstrap, self.chains, dtype=torch.float64, device=log_w.device)
        share.scatter_add_(1, index, torch.ones_like(share) / self.chains)
        top = log_w.amax(1)
        drawn = (share @ (log_w - top[:, None]).exp().T).log() + top
        found, drawn = torch.maximum(log_mean_exp(log_w), alone), torch.maximum(drawn, alone)
        base, above = path.log_z_base, -log_mean_exp(-down)
        return Estimate(found + base, drawn + base, above + base, log_w)

    def _log_p(self, model: ReplicatedSoftmax, log_z: Tensor, every: Documents, subject: Subject) -> dict[str, Tensor]:
        """log p of each document by each of the models compared, (n,) float64; of LDA its bound too."""
        rows, data = counts(subject.held_out), subject.data
        log_unigram, found = data.smoothed_mean().double().log(), []
        for part in every.row.split(max(1, _AT_ONCE // rows.columns)):
            x = rows[part].double()
            found.append(torch.stack([-model.energy(x), x @ log_unigram]))
        log_f, unigram = torch.cat(found, 1)
        log_p = {"model": log_f - log_z[every.which], "unigram": unigram}
        beside = self.lda(subject)
        if beside is None:
            return log_p
        key = rng.stream(self.lda_seed, "lda")  # the same beside every model
        of_lda = {
            "lda": beside.log_evidence(rows, self.lda_particles, key),
            "lda_bound": beside.log_bound(rows),
        }
        return log_p | {name: of.to(log_f)[every.row] for name, of in of_lda.items()}

    def _warnings(self, metrics: Mapping[str, float]) -> tuple[str, ...]:
        """A few chains carry the estimate, or the two ends of the bracket disagree."""
        found, effective = [], metrics["weight_ess"]
        bounds = {"upper_bound": metrics["model"], "documents/annealed_upper_bound": metrics["documents/model"]}
        if effective < self.chains / 5:
            found.append(
                f"only {effective:.1f} of {self.chains} chains carry the estimate, as the mean over the documents' "
                "lengths, so that the perplexity may be far too low"
            )
        for name, model in bounds.items():
            off = metrics[name] / model - 1
            if abs(off) > _WIDE:
                found.append(f"{name} differs from AIS by {100 * off:+.1f} %")
        advice = "; raise evaluation.perplexity.temperatures"
        return tuple(sentence + advice for sentence in found)


def _documents(split: Split) -> Documents:
    length = counts(split).of_rows()
    row = length.nonzero().squeeze(1)
    lengths, which = length[row].unique(return_inverse=True)
    return Documents(row, length[row], which, lengths)


def _perplexity(log_p: Tensor, length: Tensor) -> float:
    """exp(-mean of log p / D)."""
    return math.exp(-(log_p / length).mean().item())


def _measured(log_p: Mapping[str, Tensor], of: Documents, estimate: Estimate) -> dict[str, float]:
    """Perplexities of these documents, the interval and the upper bound of the model's, and its ratio to LDA's."""
    found = {name: _perplexity(each, of.length) for name, each in log_p.items()}
    share = torch.zeros_like(estimate.log_z).scatter_add_(0, of.which, 1 / of.length.double()) / len(of.row)
    factor = ((estimate.others - estimate.log_z) @ share).exp()
    low, high = factor.quantile(torch.tensor([0.025, 0.975]).to(factor)).tolist()
    above = ((estimate.above - estimate.log_z) @ share).exp().item()
    found |= {"model_low": low, "model_high": high, "upper_bound": above}
    found |= {name: found["model"] * found[name] for name in ("model_low", "model_high", "upper_bound")}
    return found | ({"model_to_lda": found["model"] / found["lda"]} if "lda" in found else {})


def _chains(estimate: Estimate, every: Documents) -> dict[str, float]:
    """Effective number of chains, as the mean over documents and at the longest one; there the spread of log w too."""
    effective = estimate.effective()
    return {
        "weight_ess": effective[every.which].mean().item(),
        "longest_weight_ess": effective[-1].item(),
        "longest_log_weight_std": estimate.log_w[-1].std().item(),
        "lengths": float(len(every.lengths)),
    }


_ROWS = {
    "model": "model, by AIS (errs low)",
    "model_low": "  95 % over chains, from",
    "model_high": "  to",
    "upper_bound": "model, by AIS downwards (errs high)",
    "annealed_upper_bound": "annealed model, by RAISE (errs high)",
    "unigram": "word frequencies alone",
    "lda": "LDA, by particles (errs high)",
    "lda_bound": "LDA, variational (errs higher)",
    "model_to_lda": "model, by AIS / LDA",
}


def _table(whole: Mapping[str, float], part: Mapping[str, float], about: tuple[str, int, int]) -> tuple[str, ...]:
    """Both sets of documents side by side."""
    split, all_of, some = about
    lines = [f"{'perplexity':<38}{f'{some} of split {split}':>20}{f'all {all_of}':>12}"]
    for name, said in _ROWS.items():
        digits = 3 if name == "model_to_lda" else 1
        values = [f"{of[name]:.{digits}f}" if name in of else "" for of in (part, whole)]
        if any(values):
            lines.append(f"{said:<38}{values[0]:>20}{values[1]:>12}".rstrip())
    return tuple(lines)
