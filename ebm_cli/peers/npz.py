"""Models as plain arrays in an .npz file, by documented names: the format for everything that has no other.

`model` says which it is, `W`, `b`, `c`, `J`, `h`, `r` are its weights, `shape` is that of a row. `hidden_units` of
an RBM are bits unless they are said, drelu has `delta` and `eta` too, and with `spins` its visible units are -1 and 1.
If you like, `letters` are those of categories and `chains` (n, *shape) states to go on from.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ebm_cli import graph
from ebm_cli.dataset.files import npz_keys, read_npz
from ebm_cli.errors import UserError
from ebm_cli.model.hidden_units import UNITS, Name
from ebm_cli.peers.foreign import (
    PLAIN,
    Array,
    Foreign,
    Source,
    check_finite,
    check_shapes,
    others_that_hold,
    rounded,
    single,
)
from ebm_cli.peers.rbms import all_pairs, potts
from ebm_cli.space import Binary, Categorical, Real, Space, Spin

_BESIDE = ("model", "shape", "letters", "chains")
_OPTIONAL = ("min_spread", "delta", "eta", "spins")
_Read = Callable[[str, Mapping[str, Array]], Foreign]


def read(source: Source) -> Foreign:
    """The model of a file. Raises UserError naming the first array that is missing or does not fit the others."""
    if source.checkpoint is not None:
        raise UserError(f"checkpoint = {source.checkpoint}: {source.said} holds one model; leave it out")
    there = npz_keys(source.path)
    said = _text(read_npz(source.path, ("model",), source.said).get("model"), source.said, "model")
    kind = said or next((name for name, (needed, _) in _KINDS.items() if {*needed} <= {*there}), "")
    if kind not in _KINDS:
        wanted = "; ".join(f"{name}: {', '.join(needed)}" for name, (needed, _) in _KINDS.items())
        raise UserError(
            f"{source.said}: has the arrays {', '.join(there)}, model = {kind or 'not said'}; those of a model are "
            f"{wanted}"
        )
    needed, made = _KINDS[kind]
    arrays = read_npz(source.path, (*needed, *_OPTIONAL), source.said)
    for name in {*needed, *arrays}:
        if name not in arrays:
            raise UserError(
                f"{source.said}: has no array {name}, which model = {kind} needs; it has {', '.join(there)}"
            )
        if arrays[name].dtype.kind not in "biuf":
            raise UserError(f"{source.said}: {name} has type {arrays[name].dtype}; it must hold numbers")
    check_finite(source.said, **arrays)
    units = read_npz(source.path, ("hidden_units",), source.said)
    return _beside(source, made(source.said, arrays | units), arrays)


def _beside(source: Source, found: Foreign, arrays: Mapping[str, Array]) -> Foreign:
    """With shape, letters and chains where the file has them."""
    more = read_npz(source.path, _BESIDE, source.said)
    space, chains = _shaped(found.space, more.get("shape"), source.said), None
    if "chains" in more:
        chains = torch.from_numpy(more["chains"].astype(np.float32))
        if chains.shape[1:] != space.site_shape or not space.contains(space.encode(chains)):
            raise UserError(
                f"{source.said}: chains are no states of a {space.name} space {space.site_shape}; leave them out"
            )
    letters = _text(more.get("letters"), source.said, "letters")
    if letters and (not isinstance(space, Categorical) or len(letters) != space.values):
        raise UserError(f"{source.said}: letters = {letters}: there must be one for each value of a site")
    remarks = (*rounded(source.said, arrays), *found.remarks)
    return Foreign(found.model, found.weights, space, {"format": "npz"}, chains, letters, remarks)


def _text(array: Array | None, said: str, name: str) -> str:
    if array is None:
        return ""
    if array.dtype.kind != "U" or array.shape != ():
        raise UserError(f"{said}: {name} has type {array.dtype} and shape {array.shape}; it must be one text")
    return str(array)


def _shaped(space: Space, shape: Array | None, said: str) -> Space:
    """The space with its sites arranged as the file says."""
    if shape is None:
        return space
    sites = tuple(int(number) for number in shape.reshape(-1)) if shape.dtype.kind in "iu" else ()
    if not sites or min(sites) < 1 or int(np.prod(sites)) != space.sites:
        raise UserError(f"{said}: shape = {shape.tolist()}: must be whole numbers whose product is {space.sites} sites")
    return type(space)((*sites, space.values) if isinstance(space, Categorical) else sites)


def _rbm(said: str, arrays: Mapping[str, Array]) -> Foreign:
    W, b, c = (arrays[name] for name in ("W", "b", "c"))
    if W.ndim not in (2, 3) or not W.size:
        raise UserError(f"{said}: W has shape {W.shape}; it must be (visible, hidden) or (sites, values, hidden)")
    check_shapes(said, {"b": (b.shape, W.shape[:-1]), "c": (c.shape, W.shape[-1:])})
    units = _hidden_units(said, arrays)
    weights = {"W": single(W.reshape(-1, len(c))), "b": single(b.reshape(-1)), "c": single(c)}
    for name in UNITS[units].shape_names:
        if name not in arrays:
            raise UserError(f"{said}: has no array {name}, which hidden_units = {units} need, (hidden,)")
        check_shapes(said, {name: (arrays[name].shape, c.shape)})
        weights[name] = single(arrays[name])
    space = (Spin if "spins" in arrays else Binary)(b.shape) if W.ndim == 2 else Categorical(b.shape)
    visible = "spin" if isinstance(space, Spin) else "auto"
    model = {"name": "rbm", "hidden": len(c), "hidden_units": units, "visible": visible}
    return Foreign(model, weights, space, {})


def _hidden_units(said: str, arrays: Mapping[str, Array]) -> Name:
    """Of an RBM; bits where the file does not say."""
    name = _text(arrays.get("hidden_units"), said, "hidden_units") or "binary"
    for known in UNITS:
        if name == known:
            return known
    raise UserError(f"{said}: hidden_units = {name}: must be one of {', '.join(UNITS)}")


def _gaussian(said: str, arrays: Mapping[str, Array]) -> Foreign:
    W, b, c, r = (arrays[name] for name in ("W", "b", "c", "r"))
    if W.ndim != 2 or not W.size:
        raise UserError(f"{said}: W has shape {W.shape}; it must be (visible, hidden)")
    check_shapes(said, {"b": (b.shape, W.shape[:1]), "c": (c.shape, W.shape[1:]), "r": (r.shape, W.shape[:1])})
    least = float(arrays.get("min_spread", np.float64(0)))
    model = {"name": "gaussian_rbm", "hidden": len(c), "min_spread": least}
    weights = {name: single(arrays[name]) for name in ("W", "b", "c", "r")}
    return Foreign(model, weights, Real(b.shape), {})


def _square(said: str, arrays: Mapping[str, Array], name: str) -> Array:
    """The strict upper triangle of couplings; a lower one that is there must be its mirror image."""
    J, b = arrays[name], arrays["b"]
    if b.ndim != 1 or len(b) < 2:
        raise UserError(f"{said}: b has shape {b.shape}; it must be (sites,), two at least")
    check_shapes(said, {name: (J.shape, b.shape * 2)})
    if J.diagonal().any():
        raise UserError(f"{said}: the diagonal of {name} is not 0; a site is not coupled to itself")
    if np.tril(J).any() and not np.array_equal(J, J.T):
        raise UserError(f"{said}: {name} is neither symmetric nor an upper triangle; pairs would count twice")
    return np.triu(J, 1)


def _boltzmann(said: str, arrays: Mapping[str, Array]) -> Foreign:
    weights = {"W": single(_square(said, arrays, "W")), "b": single(arrays["b"])}
    return Foreign({"name": "boltzmann"}, weights, Binary(arrays["b"].shape), {})


def _ising(said: str, arrays: Mapping[str, Array]) -> Foreign:
    first, second = graph.complete(len(arrays["b"])).numpy().T
    weights = {"J": single(_square(said, arrays, "J")[first, second]), "b": single(arrays["b"])}
    return Foreign({"name": "ising", "graph": "complete"}, weights, Spin(arrays["b"].shape), {})


def _potts(said: str, arrays: Mapping[str, Array]) -> Foreign:
    J, h = arrays["J"], arrays["h"]
    if h.ndim != 2 or min(h.shape) < 2:
        raise UserError(f"{said}: h has shape {h.shape}; it must be (sites, values), two of each at least")
    check_shapes(said, {"J": (J.shape, h.shape * 2)})
    return potts(J, h)


_KINDS: dict[str, tuple[tuple[str, ...], _Read]] = {
    "gaussian_rbm": (("W", "b", "c", "r"), _gaussian),
    "rbm": (("W", "b", "c"), _rbm),
    "boltzmann": (("W", "b"), _boltzmann),
    "potts": (("J", "h"), _potts),
    "ising": (("J", "b"), _ising),
}
"""What a model is made of, those with more arrays first: a file without `model` is the first that it has all of."""


def content(model: Foreign) -> bytes:
    """A file that `read` reads. Raises UserError for a model that is not made of such arrays."""
    name = model.model["name"]
    if name not in PLAIN:
        raise UserError(f"format = npz: holds {', '.join(PLAIN)}, and no {name}; {others_that_hold(model)}")
    arrays = {"model": np.array(name), "shape": np.array(model.space.site_shape), **_arrays(model)}
    arrays |= {"letters": np.array(model.letters)} if model.letters else {}
    arrays |= {} if model.chains is None else {"chains": model.chains.numpy()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _arrays(model: Foreign) -> dict[str, Array]:
    """Weights by their names in the file."""
    name, space, weights = model.model["name"], model.space, model.weights
    if name == "boltzmann":
        upper = weights["W"].triu(1)
        return {"W": (upper + upper.T).numpy(), "b": weights["b"].numpy()}
    if name in ("ising", "potts"):
        field = "b" if name == "ising" else "h"
        J = all_pairs(weights["J"], weights["edges"], space.sites)
        return {"J": J, field: weights[field].numpy()}
    if isinstance(space, Real):
        return _in_units(weights, space, model.model["min_spread"])
    found = {key: weights[key].numpy() for key in ("W", "b", "c", "delta", "eta") if key in weights}
    units = model.model.get("hidden_units", "binary")
    if units != "binary":
        found["hidden_units"] = np.array(units)
    if isinstance(space, Spin):
        found["spins"] = np.array(1)
    if isinstance(space, Categorical):
        found["W"] = found["W"].reshape(space.sites, space.values, -1)
        found["b"] = found["b"].reshape(space.sites, space.values)
    return found


def _in_units(weights: Mapping[str, Tensor], space: Real, least: float) -> dict[str, Array]:
    """Of a Gaussian RBM, in units of the data x = m + d v where its v are standardised: s' = d s, b' = m + d b.

    W' = d W, and of (x - m).W h / (d s^2) what does not depend on x goes to c' = c - (m / (d s^2)) W.
    """
    found = {key: weights[key].numpy() for key in ("W", "b", "c", "r")}
    if space.units is None:
        return found | {"min_spread": np.array(least)}
    mean, deviation = (np.array(column) for column in (space.units.mean, space.units.deviation))
    W, b, c, r = (found[key].astype(np.float64) for key in ("W", "b", "c", "r"))
    variance = least**2 + np.exp(r)
    moved = {"W": deviation[:, None] * W, "b": mean + deviation * b, "c": c - (mean / (deviation * variance)) @ W}
    return {**moved, "r": np.log(variance * deviation**2), "min_spread": np.array(0.0)}
