"""Two sets of rows beside each other: by a classifier, by neighbourhoods, and by who is nearest to whom."""

import warnings

import numpy as np
import torch
from torch import Tensor

from ebm_cli import rng
from ebm_cli.rng import Key
from ebm_cli.yardstick.mmd import squared_distance

FEWEST = 10
"""Rows of each kind below which none of it is measured."""
_ENOUGH = 50  # rows of each kind, with which one standard error of a share of them all is 0.05
_FOLDS, _NEIGHBOURS = 5, 3


def compared(x: Tensor, y: Tensor, key: Key) -> dict[str, float]:
    """How rows x (n, *shape) are told from as many rows y of the data, by name, each of `c2st` ... `aats` below."""
    near, kept = precision_recall(x, y)
    return {"c2st": c2st(x, y, key), "precision": near, "recall": kept, "aats": aats(x, y)}


def doubt(n: int) -> str | None:
    """That nothing can be told by n rows of each kind, or None."""
    if n < FEWEST:
        return (
            f"evaluation.samples.two_samples: the data have too few rows; it needs {FEWEST} for training and held out"
        )
    if n >= _ENOUGH:
        return None
    return (
        f"samples/c2st, precision, recall and aats are of {n} rows of each kind, so that they move by "
        f"{0.5 / (2 * n) ** 0.5:.2f} by chance alone (standard error of a share) and tell nothing; take more with "
        "evaluation.samples.two_samples and evaluation.samples.count, of data with more rows"
    )


def c2st(x: Tensor, y: Tensor, key: Key) -> float:
    """The share of rows of which a classifier says rightly whether they are of x or of y: 1/2 if both have one law.

    A perceptron with 64 hidden units on standardised rows, 200 passes at most, each row judged by one that was trained
    on four fifths of the others (Lopez-Paz & Oquab 2017).
    """
    from sklearn.exceptions import ConvergenceWarning  # slow to import, and few runs need it
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = torch.cat([x, y]).flatten(1).double().cpu().numpy()
    of_x = np.repeat([1, 0], [len(x), len(y)])
    seed = int(rng.integers(2**31, (1,), key))
    network = MLPClassifier((64,), alpha=0.01, max_iter=200, tol=1e-3, random_state=seed)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 passes are all that it gets
        return float(cross_val_score(make_pipeline(StandardScaler(), network), rows, of_x, cv=folds).mean())


def precision_recall(x: Tensor, y: Tensor) -> tuple[float, float]:
    """The share of x within a ball of y, and of y within a ball of x (Kynkäänniemi et al. 2019, eq. 1 and 2).

    The ball of a row reaches to its third nearest row of its own set. Samples that are no data lack precision, data
    that no sample is like lack recall; of one law both are the same.
    """
    across = squared_distance(x, y)
    return _within(across, y), _within(across.T, x)


def _within(across: Tensor, centres: Tensor) -> float:
    own = squared_distance(centres, centres).fill_diagonal_(torch.inf)
    radius = own.kthvalue(min(_NEIGHBOURS, len(centres) - 1), dim=1).values
    return (across <= radius).any(1).double().mean().item()


def aats(x: Tensor, y: Tensor) -> float:
    """Adversarial accuracy of the nearest neighbour (Yale et al. 2020, eq. 1): 1/2 is best.

    The mean of two shares: of rows of x whose nearest other row is of x too, and the same of y. Near 1 the two are
    apart; below 1/2 rows of x are copies of those of y. Ties are not nearer.
    """
    across = squared_distance(x, y)
    return (_among_its_own(across, x) + _among_its_own(across.T, y)) / 2


def _among_its_own(across: Tensor, rows: Tensor) -> float:
    own = squared_distance(rows, rows).fill_diagonal_(torch.inf).amin(1)
    return (across.amin(1) > own).double().mean().item()
