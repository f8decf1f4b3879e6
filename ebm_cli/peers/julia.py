"""Models of RestrictedBoltzmannMachines.jl, as RestrictedBoltzmannMachinesHDF5.jl writes them.

E(v, h) = V(v) + U(h) - v.w h; a layer is -theta.x or, of Gaussian units, |gamma| x^2 / 2 - theta x. Julia's arrays lie
by columns, so h5py has their axes the other way round: `weights` is (visible dims, hidden dims) there, `visible_par`
(parameters, visible dims), of Potts layers the values are the first of the visible dims.
"""

from dataclasses import dataclass

import numpy as np

from ebm_cli.errors import UserError
from ebm_cli.peers import hdf5, spins
from ebm_cli.peers.foreign import Array, Foreign, Source, check_finite, check_shapes, rounded, single
from ebm_cli.peers.hdf5 import Folder
from ebm_cli.peers.rbms import potts
from ebm_cli.space import Binary, Categorical, Real

HEADER = "rbm_hdf5_file_format_version"
_VISIBLE = ("Binary", "Spin", "Potts", "Gaussian")
_HIDDEN = ("Binary", "Spin", "Gaussian")
_OFFSETS = ("offset_v", "offset_h", "scale_v", "scale_h")


@dataclass(frozen=True)
class _Layers:
    """Sites in lines: W (sites or their values, hidden), theta of both layers, gamma of those that are Gaussian."""

    W: Array
    b: Array
    c: Array
    gamma_v: Array
    gamma_h: Array
    shape: tuple[int, ...]  # of the visible layer, of Potts layers with the values last


def recognised(root: Folder) -> bool:
    """Whether it is such a file."""
    return HEADER in root


def read(source: Source) -> Foreign:
    """The model of a file. Raises UserError naming the layer that no model here has, or what is wrong."""
    if source.checkpoint is not None:
        raise UserError(f"checkpoint = {source.checkpoint}: {source.said} holds one model; leave it out")
    with hdf5.opened(source.path) as root:
        kind = _kind(root, source.said)
        visible, hidden = root.text("visible_type"), root.text("hidden_type")
        _check_layers(visible, hidden, source.said)
        names = ("weights", "visible_par", "hidden_par", *(_OFFSETS if kind == "StandardizedRBM" else ()))
        arrays = {name: root.numbers(name).T for name in names}
    check_finite(source.said, **arrays)
    layers = _in_lines(arrays, visible, source.said)
    for name, kind, gamma in (("visible_par", visible, layers.gamma_v), ("hidden_par", hidden, layers.gamma_h)):
        if kind == "Gaussian" and not gamma.all():
            raise UserError(f"{source.said}: {name} has a gamma of 0, which leaves a unit without a density")
    found = _model(layers, visible, hidden)
    about = {"format": "rbms_jl", "visible_type": visible, "hidden_type": hidden}
    remarks = (*rounded(source.said, arrays), *found.remarks)
    return Foreign(found.model, found.weights, found.space, about, remarks=remarks)


def _kind(root: Folder, said: str) -> str:
    if "rbm_type" not in root:
        raise UserError(
            f"{said}: has no rbm_type; versions that wrote none gave the hidden layer the type of the visible one, so "
            "write it anew by save_rbm of RestrictedBoltzmannMachinesHDF5 1.0 or later"
        )
    kind = root.text("rbm_type")
    if kind not in ("RBM", "StandardizedRBM"):
        raise UserError(f"{said}: rbm_type = {kind}: must be RBM or StandardizedRBM")
    return kind


def _check_layers(visible: str, hidden: str, said: str) -> None:
    if visible not in _VISIBLE:
        raise UserError(f"{said}: visible_type = {visible}: no model here has such units; {_listed(_VISIBLE)} are read")
    if hidden not in _HIDDEN or (visible == hidden == "Gaussian"):
        beside = " under Gaussian ones" if visible == "Gaussian" else ""
        read = _HIDDEN[:2] if visible == "Gaussian" else _HIDDEN
        raise UserError(
            f"{said}: hidden_type = {hidden}: no model here has such units{beside}; {_listed(read)} are read"
        )


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _in_lines(arrays: dict[str, Array], visible: str, said: str) -> _Layers:
    """With the axes as Julia has them; offsets and scales are multiplied out."""
    w, v, h = (arrays[name].astype(np.float64) for name in ("weights", "visible_par", "hidden_par"))
    for name, par, kind in (("visible_par", v, visible), ("hidden_par", h, "")):
        if par.ndim < 2 or par.size == 0 or (kind == "Potts" and par.ndim < 3):
            raise UserError(f"{said}: {name} has shape {par.shape} in Julia; it must be (parameters, units)")
    check_shapes(said, {"weights, as Julia has it": (w.shape, (*v.shape[1:], *h.shape[1:]))})
    if visible == "Potts":
        w, v = np.moveaxis(w, 0, v.ndim - 2), np.moveaxis(v, 1, -1)
    shape, W = v.shape[1:], w.reshape(int(np.prod(v.shape[1:])), -1)
    b, c = v[0].reshape(-1), h[0].reshape(-1)
    if "scale_v" in arrays:
        W, b, c = _unscaled(W, b, c, {name: _line(arrays[name], visible) for name in _OFFSETS})
    return _Layers(W, b, c, np.abs(v[-1].reshape(-1)), np.abs(h[-1].reshape(-1)), shape)


def _line(array: Array, visible: str) -> Array:
    return (
        (np.moveaxis(array, 0, -1) if visible == "Potts" and array.ndim > 1 else array).astype(np.float64).reshape(-1)
    )


def _unscaled(W: Array, b: Array, c: Array, of: dict[str, Array]) -> tuple[Array, Array, Array]:
    """Of -w_ij (v_i - l_i) (h_j - m_j) / (s_i t_j): W = w / (s t), b - W m, c - l W, but for a constant."""
    W = W / of["scale_v"][:, None] / of["scale_h"]
    return W, b - W @ of["offset_h"], c - of["offset_v"] @ W


def _model(layers: _Layers, visible: str, hidden: str) -> Foreign:
    if hidden == "Gaussian":
        return _pairs(layers, visible)
    bits = spins.of_spins(layers.W, layers.b, layers.c, visible=visible == "Spin", hidden=hidden == "Spin")
    weights = {"W": single(bits.W), "b": single(bits.b), "c": single(bits.c)}
    model = {"name": "rbm", "hidden": len(bits.c)}
    remarks = (
        ("spins -1 and 1 are bits 0 and 1 here, the energy the same but for a constant",) if visible == "Spin" else ()
    )
    if visible == "Potts":
        return Foreign(model, weights, Categorical(layers.shape), {})
    if visible == "Gaussian":
        return gaussian(bits, layers.gamma_v, layers.shape)
    return Foreign(model, weights, Binary(layers.shape), {}, remarks=remarks)


def gaussian(bits: spins.Bits, precision: Array, shape: tuple[int, ...]) -> Foreign:
    """A Gaussian RBM of sum_i p_i v_i^2 / 2 - b.v - c.h - v.W h: means b / p, couplings W / p, s^2 = 1 / p.

    (v / s^2).W' h is v.W h with W' = W / p.
    """
    weights = {
        "W": single(bits.W / precision[:, None]),
        "b": single(bits.b / precision),
        "c": single(bits.c),
        "r": single(-np.log(precision)),
    }
    model = {"name": "gaussian_rbm", "hidden": len(bits.c), "min_spread": 0.0}
    return Foreign(model, weights, Real(shape), {})


def _pairs(layers: _Layers, visible: str) -> Foreign:
    """Without the hidden Gaussians, whose energy is quadratic in the visible units."""
    remark = ("hidden Gaussian units are summed out, which leaves couplings of pairs",)
    if visible == "Potts":
        scaled, flat = layers.W / layers.gamma_h, (-1, layers.shape[-1])
        fields = (layers.b + scaled @ layers.c).reshape(flat)
        return potts((scaled @ layers.W.T).reshape(*fields.shape, *fields.shape), fields, remark)
    summed = spins.spins_without_gaussians if visible == "Spin" else spins.without_gaussians
    J, fields = summed(layers.W, layers.b, layers.c, layers.gamma_h)
    return Foreign(
        {"name": "boltzmann"}, {"W": single(J), "b": single(fields)}, Binary(layers.shape), {}, remarks=remark
    )
