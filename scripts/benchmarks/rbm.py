"""One PCD-k update of a binary RBM with 784 visible and 500 hidden units."""

from collections.abc import Mapping
from functools import partial

import _peers
from _case import Case, Maker, Required, times_faster
from _ours import PRECISIONS, Size, training_step

FP32, BF16, FLOOR = "ours fp32", "ours bf16", "products alone"
OURS = f"ours {PRECISIONS[-1] if 'fixed16' in PRECISIONS else 'fp32'}"  # what device.precision=auto takes


def contenders(size: Size) -> Mapping[str, Maker]:
    """Ours in each arithmetic, by hand, and the peers that can do it: scikit-learn knows PCD-1 alone."""
    found = {f"ours {name}": partial(training_step, size, name) for name in PRECISIONS}
    found["ours fp32, eager"] = partial(training_step, size, compiled=False)
    found["plain torch"] = partial(_peers.plain_torch, size)
    if size.k == 1:
        found["scikit-learn"] = partial(_peers.scikit_learn, size)
        found["scikit-learn, partial_fit, float64"] = partial(_peers.scikit_learn_partial_fit, size)
    found["rbms"] = partial(_peers.rbms, size)
    found["learnergy"] = partial(_peers.learnergy, size)
    return found | {FLOOR: partial(_peers.products, size)}


def case(batch: int, k: int, turn: int, *required: Required) -> Case:
    """PCD-k with as many chains as rows in the batch; `turn` updates in a row, as in training."""
    title = f"One PCD-{k} update (learnergy: CD-{k}) of a 784-500 RBM, {batch} rows and {batch} chains."
    makers = partial(_makers, Size(batch, batch, k))
    return Case(f"rbm_pcd{k}_{batch}", title, makers, required, OURS, FLOOR, turn=turn, rounds=20)


def _makers(size: Size, quick: bool) -> Mapping[str, Maker]:
    return contenders(size)


def _share(bound: float) -> Required:
    return times_faster(FLOOR, FP32, bound)


CASES = (
    case(
        100,
        1,
        100,
        times_faster("scikit-learn", OURS, 2.0),
        times_faster("rbms", OURS, 2.0),
        times_faster("learnergy", OURS, 2.8),
    ),
    case(
        500,
        1,
        25,
        times_faster("scikit-learn", OURS, 3.0),
        times_faster("rbms", OURS, 3.2),
        times_faster("learnergy", OURS, 4.0),
    ),
    case(500, 10, 6, times_faster("rbms", FP32, 2.3), times_faster("rbms", BF16, 3.3), _share(0.9)),
)
