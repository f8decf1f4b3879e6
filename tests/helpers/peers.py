"""Files of other packages made by hand, and their law by enumeration: numpy alone, no code of ours."""

import itertools
from pathlib import Path

import h5py
import numpy as np

SITES, HIDDEN, VALUES = 4, 3, 3


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def in_file(path: Path, name: str) -> np.ndarray:
    """An array of a file that one of those below has written."""
    with h5py.File(path) as file:
        return np.asarray(file[name])


def states(values: tuple, sites: int = SITES) -> np.ndarray:
    return np.array([*itertools.product(values, repeat=sites)], np.float64)


def one_hot(x: np.ndarray, values: int = VALUES) -> np.ndarray:
    return np.eye(values)[x.astype(int)].reshape(len(x), -1)


def log_p(v: np.ndarray, W, a, b, hidden: str) -> np.ndarray:
    """Of states v (n, visible), E = -a.v - b.h - v.W h: hidden bits or spins enumerated, Gaussians of a precision."""
    fields = np.asarray(b, np.float64) + v @ np.asarray(W, np.float64)
    if hidden in ("bits", "spins"):
        h = states((0, 1) if hidden == "bits" else (-1, 1), fields.shape[1])
        of_hidden = np.log(np.exp(fields @ h.T).sum(1))
    else:
        of_hidden = (fields**2 / (2 * float(hidden))).sum(1)
    found = v @ np.asarray(a, np.float64) + of_hidden
    return found - np.log(np.exp(found).sum())


def log_p_pairs(v: np.ndarray, J, h) -> np.ndarray:
    """Of E = -v.J v / 2 - h.v."""
    found = np.einsum("ni,ij,nj->n", v, np.asarray(J, np.float64), v) / 2 + v @ np.asarray(h, np.float64)
    return found - np.log(np.exp(found).sum())


def couplings(seed: int = 3) -> np.ndarray:
    """Symmetric, (sites, values, sites, values), without a diagonal."""
    J = drawn(SITES, VALUES, SITES, VALUES, seed=seed)
    J = J + J.transpose(2, 3, 0, 1)
    J[np.arange(SITES), :, np.arange(SITES), :] = 0
    return J


RBMS = {
    "BBRBM": ({"weight_matrix": (SITES, HIDDEN), "vbias": (SITES,), "hbias": (HIDDEN,)}, "bits"),
    "IIRBM": ({"weight_matrix": (SITES, HIDDEN), "vbias": (SITES,), "hbias": (HIDDEN,)}, "spins"),
    "BGRBM": ({"weight_matrix": (SITES, HIDDEN), "vbias": (SITES,), "hbias": (HIDDEN,)}, str(SITES)),
    "IGRBM": ({"weight_matrix": (SITES, HIDDEN), "vbias": (SITES,), "hbias": (HIDDEN,)}, str(SITES)),
    "PBRBM": ({"weight_matrix": (SITES, VALUES, HIDDEN), "vbias": (SITES, VALUES), "hbias": (HIDDEN,)}, "bits"),
    "PBM": ({"weight_matrix": (SITES, VALUES) * 2, "bias": (SITES, VALUES)}, ""),
}


def rbms_file(path: Path, kind: str = "BBRBM", *, old: bool = False, updates: tuple[int, ...] = (1, 12)) -> dict:
    """A file as rbms writes it, of the layout without `params` if it is old; the arrays of its last update."""
    arrays = {name: drawn(*shape, seed=i) for i, (name, shape) in enumerate(RBMS[kind][0].items())}
    arrays |= {"weight_matrix": couplings()} if kind == "PBM" else {}
    with h5py.File(path, "w") as file:
        file["model_type"] = kind
        low = -1 if kind.startswith("I") else 0
        file["parallel_chains"] = np.where(drawn(5, SITES) > 0, 1, low).astype(np.float32)
        for update in updates:
            for name, array in arrays.items():
                file[f"update_{update}/{name}"] = array * (update == updates[-1])
                if not old:
                    file[f"update_{update}/params/{name}"] = array * (update == updates[-1])
    return arrays


def rbms_law(kind: str, arrays: dict) -> tuple[np.ndarray, np.ndarray]:
    """All states as values 0, 1, ... of the sites, and log p of each."""
    x = states(tuple(range(VALUES if kind.startswith("P") else 2)))
    if kind == "PBM":
        return x, log_p_pairs(one_hot(x), arrays["weight_matrix"].reshape(12, 12), arrays["bias"].reshape(-1))
    W, a, b = (arrays[name] for name in ("weight_matrix", "vbias", "hbias"))
    v = one_hot(x) if kind == "PBRBM" else 2 * x - 1 if kind.startswith("I") else x
    return x, log_p(v, W.reshape(v.shape[1], -1), a.reshape(-1), b, RBMS[kind][1])


JULIA = [
    ("Binary", "Binary"), ("Spin", "Spin"), ("Binary", "Spin"), ("Spin", "Binary"), ("Potts", "Binary"),
    ("Spin", "Gaussian"), ("Binary", "Gaussian"), ("Potts", "Gaussian"), ("Gaussian", "Binary"), ("Gaussian", "Spin"),
]  # fmt: skip


def julia_file(path: Path, visible: str, hidden: str, *, standardised: bool = False) -> dict:
    """A file as RestrictedBoltzmannMachinesHDF5.jl writes it: arrays of Julia, whose axes HDF5 has in reverse.

    The arrays are given back as Julia has them.
    """
    sites = (VALUES, 2, 2) if visible == "Potts" else (2, 2)
    arrays = {"weights": drawn(*sites, HIDDEN), "visible_par": drawn(1 + (visible == "Gaussian"), *sites, seed=1)}
    arrays |= {"hidden_par": drawn(1 + (hidden == "Gaussian"), HIDDEN, seed=2)}
    if standardised:
        arrays |= {"offset_v": drawn(*sites, seed=4), "offset_h": drawn(HIDDEN, seed=5)}
        arrays |= {"scale_v": 1 + drawn(*sites, seed=6) ** 2, "scale_h": 1 + drawn(HIDDEN, seed=7) ** 2}
    with h5py.File(path, "w") as file:
        file["rbm_hdf5_file_format_version"] = "1.0.0"
        file["rbm_type"] = "StandardizedRBM" if standardised else "RBM"
        file["visible_type"], file["hidden_type"] = visible, hidden
        for name, array in arrays.items():
            file[name] = array.T
    return arrays


def julia_energy(x: np.ndarray, arrays: dict, visible: str, hidden: str) -> np.ndarray:
    """F(v) of rows x (n, 2, 2) of values, bits for spins, with all the sums written out over Julia's arrays."""
    w, v, h = (arrays[name].astype(np.float64) for name in ("weights", "visible_par", "hidden_par"))
    x = 2 * x - 1 if visible == "Spin" else x
    x = np.moveaxis(np.eye(VALUES)[x.astype(int)], -1, 1) if visible == "Potts" else x
    flat = x.reshape(len(x), -1)
    own = -flat @ v[0].reshape(-1) + (0.5 * flat**2 @ np.abs(v[1]).reshape(-1) if visible == "Gaussian" else 0)
    shifted, scale, offset = flat, np.ones(HIDDEN), np.zeros(HIDDEN)
    if "scale_v" in arrays:
        shifted = (flat - arrays["offset_v"].reshape(-1)) / arrays["scale_v"].reshape(-1)
        scale, offset = arrays["scale_h"], arrays["offset_h"]
    inputs = shifted @ w.reshape(flat.shape[1], HIDDEN) / scale
    constant = (inputs * offset).sum(1)
    fields = inputs + h[0]
    if hidden == "Gaussian":
        return own + constant - (fields**2 / (2 * np.abs(h[1]))).sum(1)
    return own + constant - (np.logaddexp(0, fields) if hidden == "Binary" else np.logaddexp(fields, -fields)).sum(1)


def parameters(path: Path, J: np.ndarray, h: np.ndarray, letters, *, both: bool = False) -> Path:
    """params.dat of J (L, q, L, q) and h (L, q)."""
    sites, lines = range(len(h)), []
    for i, j in itertools.product(sites, sites):
        if i < j or (both and j < i):
            pairs = itertools.product(enumerate(letters), repeat=2)
            lines += [f"J {i} {j} {a} {b} {J[i, s, j, t]!s}" for (s, a), (t, b) in pairs]
    lines += [f"h {i} {a} {h[i, s]!s}" for i in sites for s, a in enumerate(letters)]
    path.write_text("\n".join(lines) + "\n")
    return path
