"""Models of rbms 0.5 and 0.6 (.h5): RBMs of bits, spins and categories, hidden Gaussians, Potts models.

`model_type` names the kind, `update_N/params` holds the weights of update N; files before 0.5 have them in `update_N`
itself. E(v, h) = -a.v - b.h - v.W h; hidden Gaussians have precision Nv, the number of visible units.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ebm_cli import graph
from ebm_cli.errors import UserError
from ebm_cli.peers import hdf5, spins
from ebm_cli.peers.foreign import Array, Foreign, Source, check_finite, check_shapes, others_that_hold, rounded, single
from ebm_cli.peers.hdf5 import Folder
from ebm_cli.space import Binary, Categorical

_UPDATE = re.compile(r"update_(\d{1,15})")
_GAUSSIAN = (
    "rbms draws hidden units of this kind around c + v W, its energy has them around (c + v W) / Nv: chains of rbms "
    "follow another law than this energy, which is what was imported"
)


def recognised(root: Folder) -> bool:
    """Whether it is such a file."""
    return "model_type" in root or any(map(_UPDATE.fullmatch, root.names()))


def read(source: Source) -> Foreign:
    """The model of an update, the last one where none is named. Raises UserError with the first thing wrong."""
    with hdf5.opened(source.path) as root:
        kind = root.text("model_type") if "model_type" in root else "BBRBM"
        if kind not in _KINDS:
            raise UserError(
                f"{source.said}: model_type = {kind}: no such model here; those there are: {', '.join(_KINDS)}"
            )
        update = _update(source, root)
        names = ("weight_matrix", "bias") if kind == "PBM" else ("weight_matrix", "vbias", "hbias")
        inner = root.folder(update)
        inner = inner.folder("params") if "params" in inner else inner
        arrays = {name: inner.numbers(name) for name in names}
        check_finite(source.said, **{f"{update}/{name}": array for name, array in arrays.items()})
        found = _KINDS[kind](source.said, arrays)
        chains, remarks = _chains(source, root, found, kind)
    about = {"format": "rbms", "model_type": kind, "update": int(update.removeprefix("update_"))}
    return Foreign(found.model, found.weights, found.space, about, chains, remarks=(*found.remarks, *remarks))


def _update(source: Source, root: Folder) -> str:
    """The name of the group of an update."""
    there = sorted(int(match[1]) for match in map(_UPDATE.fullmatch, root.names()) if match)
    if not there:
        raise UserError(f"{source.said}: holds no update_N, so no weights; name the file that rbms train wrote")
    if source.checkpoint is None:
        return f"update_{there[-1]}"
    wanted = source.checkpoint.removeprefix("update_")
    if wanted not in map(str, there):
        raise UserError(f"checkpoint = {source.checkpoint}: {source.said} has the updates {', '.join(map(str, there))}")
    return f"update_{wanted}"


def _chains(source: Source, root: Folder, found: Foreign, kind: str) -> tuple[Tensor | None, tuple[str, ...]]:
    """Those of the last update, as values of sites; none, with a remark, where they are something else."""
    if "parallel_chains" not in root or source.checkpoint is not None:
        return None, ()
    values = root.numbers("parallel_chains")
    if not values.size and values.ndim == 2:  # ebm export of a run without chains
        return None, ()
    values = (values + 1) / 2 if kind.startswith("I") else values
    most = found.space.values if isinstance(found.space, Categorical) else 2
    fits = values.ndim == 2 and values.shape[1] == found.space.sites
    if not fits or not np.isin(values, np.arange(most)).all():
        return None, (f"{source.said}: parallel_chains are no states of the model, so chains begin anew",)
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)), ()


def _bits(said: str, arrays: Mapping[str, Array]) -> Foreign:
    W, a, b = (arrays[name] for name in ("weight_matrix", "vbias", "hbias"))
    _check_rbm(said, W, a, b)
    return _rbm(W, a, b, rounded(said, arrays))


def _check_rbm(said: str, W: Array, a: Array, b: Array) -> None:
    if W.ndim != 2 or not W.size:
        raise UserError(f"{said}: weight_matrix has shape {W.shape}; it must be (visible, hidden)")
    check_shapes(said, {"vbias": (a.shape, W.shape[:1]), "hbias": (b.shape, W.shape[1:])})


def _rbm(W: Array, b: Array, c: Array, remarks: tuple[str, ...]) -> Foreign:
    weights = {"W": single(W), "b": single(b), "c": single(c)}
    return Foreign({"name": "rbm", "hidden": W.shape[1]}, weights, Binary((len(W),)), {}, remarks=remarks)


def _spins(said: str, arrays: Mapping[str, Array]) -> Foreign:
    W, a, b = (arrays[name] for name in ("weight_matrix", "vbias", "hbias"))
    _check_rbm(said, W, a, b)
    return _rbm(
        *spins.of_spins(W, a, b), ("spins -1 and 1 are bits 0 and 1 here, the energy the same but for a constant",)
    )


def _gaussian(said: str, arrays: Mapping[str, Array]) -> Foreign:
    return _pairs(said, arrays, spins.without_gaussians)


def _gaussian_spins(said: str, arrays: Mapping[str, Array]) -> Foreign:
    return _pairs(said, arrays, spins.spins_without_gaussians)


def _pairs(said: str, arrays: Mapping[str, Array], summed: Callable[..., spins.Pairs]) -> Foreign:
    W, a, b = (arrays[name] for name in ("weight_matrix", "vbias", "hbias"))
    _check_rbm(said, W, a, b)
    J, fields = summed(W, a, b, np.full(W.shape[1], len(W)))
    model = {"name": "boltzmann"}
    return Foreign(model, {"W": single(J), "b": single(fields)}, Binary((len(W),)), {}, remarks=(_GAUSSIAN,))


def _potts_rbm(said: str, arrays: Mapping[str, Array]) -> Foreign:
    W, a, b = (arrays[name] for name in ("weight_matrix", "vbias", "hbias"))
    if W.ndim != 3 or not W.size or W.shape[1] < 2:
        raise UserError(f"{said}: weight_matrix has shape {W.shape}; it must be (visible, values, hidden)")
    check_shapes(said, {"vbias": (a.shape, W.shape[:2]), "hbias": (b.shape, W.shape[2:])})
    weights = {"W": single(W.reshape(-1, W.shape[2])), "b": single(a.reshape(-1)), "c": single(b)}
    model = {"name": "rbm", "hidden": W.shape[2]}
    return Foreign(model, weights, Categorical(W.shape[:2]), {}, remarks=rounded(said, arrays))


def _potts(said: str, arrays: Mapping[str, Array]) -> Foreign:
    J, h = arrays["weight_matrix"], arrays["bias"]
    if h.ndim != 2 or h.shape[0] < 2 or h.shape[1] < 2:
        raise UserError(f"{said}: bias has shape {h.shape}; it must be (sites, values)")
    check_shapes(said, {"weight_matrix": (J.shape, h.shape * 2)})
    return potts(J, h, rounded(said, arrays))


def potts(J: Array, h: Array, remarks: tuple[str, ...] = ()) -> Foreign:
    """A Potts model E = -x.J x / 2 - h.x of J (L, q, L, q), whose two triangles are taken by half each.

    The diagonal couples a site to itself, which acts on one-hot rows as a field: J_ii(a, a) / 2 goes to h_i(a).
    """
    first, second = graph.complete(len(h)).numpy().T
    upper, lower = J[first, :, second, :], J[second, :, first, :].transpose(0, 2, 1)
    pairs = upper if np.array_equal(upper, lower) else (upper.astype(np.float64) + lower) / 2
    own = np.einsum("iaia->ia", J)
    fields = h if not own.any() else h + own.astype(np.float64) / 2
    weights = {"J": single(pairs), "h": single(fields)}
    return Foreign({"name": "potts", "graph": "complete"}, weights, Categorical(h.shape), {}, remarks=remarks)


_KINDS: dict[str, Callable[[str, Mapping[str, Array]], Foreign]] = {
    "BBRBM": _bits,
    "PBRBM": _potts_rbm,
    "IIRBM": _spins,
    "BGRBM": _gaussian,
    "IGRBM": _gaussian_spins,
    "PBM": _potts,
}


def content(model: Foreign) -> bytes:
    """A file that rbms reads: BBRBM, PBRBM or, for rbms 0.6, PBM. Raises UserError for another model.

    Its one update is the step of the weights, 1 at least.
    """
    kind, arrays = _arrays(model)
    step = max(1, int(model.about["step"]))
    place = f"update_{step}"
    chains = np.zeros((0, model.space.sites)) if model.chains is None else model.chains.numpy()
    found: dict[str, object] = {"model_type": kind, f"{place}/time": 0.0}
    for name, array in arrays.items():
        found |= {f"{place}/params/{name}": array, f"{place}/{name}": array}
    found |= {"parallel_chains": chains.reshape(len(chains), model.space.sites).astype(np.float32)}
    sizes = {"num_visibles": model.space.sites, "num_hiddens": arrays.get("hbias", np.zeros(0)).size}
    usual = {"gibbs_steps": 1, "L1": 0.0, "L2": 0.0, "num_chains": len(chains)}
    given = {key: model.about[key] for key in ("batch_size", "learning_rate", "seed")}
    return hdf5.written(found | {f"hyperparameters/{key}": value for key, value in (usual | sizes | given).items()})


def _arrays(model: Foreign) -> tuple[str, dict[str, Array]]:
    """What rbms calls the model, and its arrays there."""
    name, space = model.model["name"], model.space
    weights = {key: weight.numpy() for key, weight in model.weights.items()}
    if name == "potts" and isinstance(space, Categorical):
        whole = all_pairs(model.weights["J"], model.weights["edges"], space.sites)
        return "PBM", {"weight_matrix": whole, "bias": weights["h"]}
    units = model.model.get("hidden_units", "binary")
    if units != "binary":
        way = others_that_hold(model)
        raise UserError(f"format = rbms: has no hidden units like model.hidden_units = {units}; {way}")
    if name != "rbm" or not isinstance(space, Binary | Categorical):
        raise UserError(
            f"format = rbms: has no model like {name} on {space.name} rows, only RBMs of bits and categories and Potts "
            f"models; {others_that_hold(model)}"
        )
    sites = (space.sites, space.values) if isinstance(space, Categorical) else (space.sites,)
    arrays = {"weight_matrix": weights["W"].reshape(*sites, -1), "vbias": weights["b"].reshape(sites)}
    return "PBRBM" if isinstance(space, Categorical) else "BBRBM", arrays | {"hbias": weights["c"]}


def all_pairs(J: Tensor, edges: Tensor, sites: int) -> Array:
    """J (edges, K, K) or (edges,) as all pairs, (sites, K, sites, K) or (sites, sites), symmetric."""
    first, second = edges.unbind(1)
    pairs = J if J.dim() == 3 else J[:, None, None]
    found = pairs.new_zeros(sites, sites, *pairs.shape[1:])
    found = found.index_put((first, second), pairs).index_put((second, first), pairs.transpose(1, 2))
    array: Array = found.permute(0, 2, 1, 3).numpy()
    return array if J.dim() == 3 else array[:, 0, :, 0]
