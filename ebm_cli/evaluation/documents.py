"""What evaluations of topic models share: the hidden units of documents, and LDA on the same documents."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ebm_cli.dataset.base import Split
from ebm_cli.dataset.sparse import SparseRows
from ebm_cli.evaluation.base import Evaluation, Subject
from ebm_cli.model.base import EnergyModel
from ebm_cli.model.replicated_softmax import ReplicatedSoftmax
from ebm_cli.sampler.base import Sampler
from ebm_cli.yardstick import lda
from ebm_cli.yardstick.lda import LDA

_AT_ONCE = 2**22  # counts


@dataclass(frozen=True, kw_only=True)
class BesideLDA(Evaluation):
    """Of the hidden units of documents, beside an LDA of `lda_topics` topics (null: as many as units; 0: none)."""

    lda_topics: Annotated[int, Field(ge=0)] | None
    lda_passes: Annotated[int, Field(ge=1)]
    lda_seed: Annotated[int, Field(ge=0, lt=2**32)]

    of_counts: ClassVar[bool] = True

    @override
    def refusal(self, model: EnergyModel, sampler: Sampler[Any, Any]) -> str | None:
        """Documents must have hidden units."""
        fits = isinstance(model, ReplicatedSoftmax)
        return None if fits else "this model has no hidden units of documents; a model that has is replicated_softmax"

    def lda(self, subject: Subject) -> LDA | None:
        """The LDA beside it, fitted to the training documents."""
        assert isinstance(subject.model, ReplicatedSoftmax)
        topics = subject.model.hidden if self.lda_topics is None else self.lda_topics
        return lda.fitted(subject.data, topics, self.lda_passes, self.lda_seed) if topics else None


def counts(split: Split) -> SparseRows:
    """The documents of a split, (n, K)."""
    assert isinstance(split.stored, SparseRows)
    return split.stored


def hidden_logits(model: ReplicatedSoftmax, documents: SparseRows) -> Tensor:
    """D c + v W of all documents, (n, hidden) float64 on the CPU; few of them are dense at a time."""
    index = torch.arange(len(documents), device=documents.device)
    parts = index.split(max(1, _AT_ONCE // documents.columns))
    found = [model.hidden_logits(documents[part].to(model.W.dtype)) for part in parts]
    return torch.cat(found).double().cpu()
