"""BernoulliRBM of scikit-learn, as its arrays in an .npz file; its pickles could run any code and are never read."""

from collections.abc import Sequence

from ebm_cli.dataset.files import read_npz
from ebm_cli.errors import UserError
from ebm_cli.peers.foreign import Foreign, Source, check_finite, check_shapes, rounded, single
from ebm_cli.space import Binary

NAMES = ("components_", "intercept_visible_", "intercept_hidden_")
WAY = "numpy.savez(FILE, components_=rbm.components_, intercept_visible_=..., intercept_hidden_=...)"


def recognised(names: Sequence[str]) -> bool:
    """Whether arrays of these names are such a model."""
    return NAMES[0] in names


def read(source: Source) -> Foreign:
    """E(v, h) = -b.v - c.h - v.W h with W = components_^T (features, components). Raises UserError."""
    arrays = read_npz(source.path, NAMES, source.said)
    lost = [name for name in NAMES if name not in arrays]
    if lost:
        raise UserError(f"{source.said}: has no array {', '.join(lost)}; write it by {WAY}")
    parts, b, c = (arrays[name] for name in NAMES)
    if parts.dtype.kind != "f" or parts.ndim != 2 or not parts.size:
        raise UserError(f"{source.said}: components_ has type {parts.dtype} and shape {parts.shape}; write it by {WAY}")
    check_shapes(source.said, {NAMES[1]: (b.shape, parts.shape[1:]), NAMES[2]: (c.shape, parts.shape[:1])})
    check_finite(source.said, **arrays)
    weights = {"W": single(parts.T), "b": single(b), "c": single(c)}
    model = {"name": "rbm", "hidden": len(parts)}
    about = {"format": "sklearn"}
    return Foreign(model, weights, Binary(b.shape), about, remarks=rounded(source.said, arrays))
