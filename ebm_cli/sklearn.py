"""`RBM`, an estimator in scikit-learn's manner, for a Pipeline or GridSearchCV in which BernoulliRBM stood."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from typing_extensions import override

from ebm_cli.api import fitting
from ebm_cli.api.process import as_before
from ebm_cli.commands import transform
from ebm_cli.commands.own import ROWS_AT_ONCE
from ebm_cli.errors import UserError
from ebm_cli.evaluation.pseudo_likelihood import expected_log_pseudo_likelihood
from ebm_cli.model.rbm import RBM as Model
from ebm_cli.rng import stream
from ebm_cli.terminal import logging_to, steps_shown_by

_CONSTANT = ("optimizer.schedule=constant", "optimizer.ema=0.0")
_SEEDS = 2**31 - 1
_COMPONENTS = 64
_OWN = ("model", "dataset", "steps", "seed", "batch_size", "resume")  # what parameters and rows say


class RBM(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Restricted Boltzmann machine with binary units, p(v, h) ~ exp(b.v + c.h + v.W h).

    X holds bits, or numbers between 0 and 1, which are probabilities of a 1: in training bits are drawn with them anew
    at each visit, elsewhere they are taken as they are, as BernoulliRBM does. Other numbers are cut off at 0 and 1,
    with a warning. Sparse matrices are made dense.

    Parameters
    ----------
    n_components : hidden units; `hidden`, the word of `ebm train`, is another name for it; only one is set
    objective : what training minimises: "pcd", "cd", or another that fits an RBM (`ebm list objective`)
    learning_rate : at the beginning; it falls to 0 evenly, and weights are averaged
    batch_size : rows of an update, and chains
    n_iter : passes over the rows
    verbose : whether how far it is is shown
    random_state : an int makes a fit repeatable
    words : more words of `ebm train`, such as ("chains.steps=10", "optimizer=adam")

    Attributes
    ----------
    components_ : W transposed, (n_components, n_features)
    intercept_hidden_, intercept_visible_ : c (n_components,) and b (n_features,)
    n_steps_ : updates so far
    n_features_in_, feature_names_in_ : as everywhere in scikit-learn
    """

    def __init__(  # noqa: PLR0913 (scikit-learn takes every parameter here)
        self,
        n_components: int = _COMPONENTS,
        *,
        hidden: int | None = None,
        objective: str = "pcd",
        learning_rate: float = 0.1,
        batch_size: int = 10,
        n_iter: int = 10,
        verbose: int = 0,
        random_state: Any = None,
        words: tuple[str, ...] = (),
    ) -> None:
        self.n_components = n_components
        self.hidden = hidden
        self.objective = objective
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.verbose = verbose
        self.random_state = random_state
        self.words = words

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Train anew on the rows X (n, features); the estimator itself. y is not looked at.

        Raises ValueError for bad parameters and RunError for a run that cannot go on.
        """
        x, seed = self._rows(X, reset=True), self._seed()
        self._check()
        steps = int(self.n_iter) * -(-len(x) // int(self.batch_size))
        with self._training():
            run = fitting.begun(self._words(), x, int(self.batch_size), steps, seed)
            fitting.trained(run)
        return self._taken(run, seed)

    def partial_fit(self, X: ArrayLike, y: object = None) -> Self:
        """One update on all the rows X as a batch, from where the weights and chains are; the estimator itself.

        The rate stays what it is and weights are not averaged, since how many updates follow is not known.
        """
        first = not hasattr(self, "_kept")
        x = self._rows(X, reset=first)
        self._check()
        seed, step = (self._seed(), 0) if first else (self.seed_, self.n_steps_)
        with self._training():
            run = fitting.begun((*self._words(), *_CONSTANT), x, len(x), step + 1, seed)
            if not first:
                fitting.resumed(run.state, step, self._kept)
            fitting.trained(run)
        return self._taken(run, seed)

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """p(h_j = 1 | v) of each row, (n, n_components)."""
        check_is_fitted(self)
        x = self._rows(X)
        model, rows = self._model(x)
        found: NDArray[Any] = transform.of_pieces(model, rows.split(ROWS_AT_ONCE))["hidden"]
        return found.astype(x.dtype, copy=False)

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Log-pseudo-likelihood of each row, sum_i log p(v_i | the others), (n,) in nats.

        That of BernoulliRBM is an estimate of it by one feature, drawn at random; this one takes all, and is the same
        every time. A value x between 0 and 1 counts as x log p(1 | the others) + (1 - x) log p(0 | the others).
        """
        check_is_fitted(self)
        model, rows = self._model(self._rows(X))
        found = torch.cat([expected_log_pseudo_likelihood(model, part) for part in rows.split(ROWS_AT_ONCE)])
        return np.asarray(found)

    def score(self, X: ArrayLike, y: object = None) -> float:
        """The mean of `score_samples`, by which a search can choose."""
        return float(self.score_samples(X).mean())

    def gibbs(self, v: ArrayLike) -> NDArray[Any]:
        """h ~ p(h | v), then v ~ p(v | h): bits (n, features). Each call draws anew, the same after each fit."""
        check_is_fitted(self)
        x = self._rows(v)
        self._draws += 1
        model, rows = self._model(x)
        key = stream(self.seed_, "gibbs", self._draws)
        found: NDArray[Any] = model.sweep(rows, key, backwards=False).numpy()
        return found.astype(x.dtype, copy=False)

    def _model(self, x: NDArray[Any]) -> tuple[Model, Tensor]:
        """The machine, and the rows for it, both in the numbers of x."""
        rows = torch.from_numpy(x)
        model = fitting.model_of(self._kept, self._words(), x.shape[1], rows.dtype)
        assert isinstance(model, Model)
        return model, rows

    @override
    def __sklearn_tags__(self) -> Any:
        """Sparse rows are taken, and float32 stays float32."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _rows(self, X: ArrayLike, *, reset: bool = False) -> NDArray[Any]:
        """X checked, dense, within [0, 1]."""
        x: Any = validate_data(self, X, accept_sparse=True, reset=reset, dtype=(np.float64, np.float32))
        x = x.toarray() if hasattr(x, "toarray") else x
        if x.min() < 0 or x.max() > 1:
            warnings.warn(
                f"X has values from {x.min():.4g} to {x.max():.4g}, which are cut off at 0 and 1; scale them first, "
                "for example by MinMaxScaler",
                UserWarning,
                stacklevel=3,
            )
            x = x.clip(0, 1)
        return np.ascontiguousarray(x)

    def _check(self) -> None:
        """Raise ValueError for parameters that words alone would not catch."""
        for name, least in (("batch_size", 1), ("n_iter", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} = {value!r}: must be a whole number, {least} or more")
        if self.hidden not in (None, self.n_components) and self.n_components != _COMPONENTS:
            raise ValueError(
                f"hidden = {self.hidden!r}, n_components = {self.n_components!r}: two names for one number; set one"
            )
        if isinstance(self.words, str):
            raise ValueError(f"words = {self.words!r}: must be a list of words, such as [{self.words!r}]")
        for word in self.words:
            if word.partition("=")[0].partition(".")[0] in _OWN:
                raise ValueError(f"words: {word} is for the command ebm train; this estimator has its own parameters")

    def _words(self) -> tuple[str, ...]:
        """What `ebm train` would be told."""
        hidden = self.n_components if self.hidden is None else self.hidden
        own = (f"model.hidden={hidden}", f"objective={self.objective}", f"optimizer.lr={self.learning_rate}")
        return (*own, f"batch_size={self.batch_size}", "tracker=none", "evaluation=[]", *self.words)

    def _seed(self) -> int:
        rng = check_random_state(self.random_state)
        return int(rng.randint(_SEEDS))

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Within, what is wrong with words is a ValueError, as scikit-learn has it."""
        shown = nullcontext() if self.verbose else steps_shown_by(_silent)
        try:
            with as_before(), shown, logging_to(None, logging.INFO if self.verbose else logging.WARNING):
                yield
        except UserError as error:
            raise ValueError(str(error)) from error

    def _taken(self, run: fitting.Begun, seed: int) -> Self:
        """What the run came to."""
        self._kept, self.n_steps_, self.seed_, self._draws = fitting.kept(run.state), run.state.step, seed, 0
        self.components_ = self._kept["model.W"].T
        self.intercept_hidden_, self.intercept_visible_ = self._kept["model.c"], self._kept["model.b"]
        self._n_features_out = len(self.components_)
        return self


def _silent(step: int, total: int, numbers: str) -> None:
    """How far it is, told nobody."""
