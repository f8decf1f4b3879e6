"""Files of other packages: the law of what they hold is that of the model that is made of them."""

import h5py
import numpy as np
import pytest
import torch
from helpers import peers
from helpers.foreign import built, needs, read
from helpers.peers import HIDDEN, SITES, VALUES, couplings, drawn, one_hot, states

from ebm_cli.errors import UserError

TOLERANCE = {"rtol": 0, "atol": 2e-6}  # weights are float32; sums of them are not


def log_p(found, x):
    """Of all states x (n, sites)."""
    rows = found.space.encode(torch.from_numpy(x).reshape(-1, *found.space.site_shape))
    with torch.no_grad():
        energy = built(found).energy(rows.double())
    return (-energy - torch.logsumexp(-energy, 0)).numpy()


def log_z(found, x):
    rows = found.space.encode(torch.from_numpy(x).reshape(-1, *found.space.site_shape))
    with torch.no_grad():
        return torch.logsumexp(-built(found).energy(rows.double()), 0).item()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", peers.RBMS)
def test_rbms(kind, old, tmp_path):
    arrays = peers.rbms_file(tmp_path / "model.h5", kind, old=old)
    found = read(tmp_path / "model.h5")
    x, expected = peers.rbms_law(kind, arrays)
    np.testing.assert_allclose(log_p(found, x), expected, **TOLERANCE)
    assert found.about == {"format": "rbms", "model_type": kind, "update": 12}
    assert found.chains.shape == (5, SITES)
    assert set(found.chains.unique().tolist()) == {0, 1}


def test_rbms_log_z_is_that_of_the_sum_over_both_layers(tmp_path):
    arrays = peers.rbms_file(tmp_path / "model.h5")
    v, h = states((0, 1)), states((0, 1), HIDDEN)
    energy = -(v @ arrays["vbias"])[:, None] - h @ arrays["hbias"] - v @ arrays["weight_matrix"] @ h.T
    assert log_z(read(tmp_path / "model.h5"), v) == pytest.approx(np.log(np.exp(-energy).sum()), abs=1e-6)


def test_rbms_updates(tmp_path):
    peers.rbms_file(tmp_path / "model.h5", updates=(1, 2, 9, 30))
    assert read(tmp_path / "model.h5").about["update"] == 30
    for wanted in ("2", "update_2"):
        found = read(tmp_path / "model.h5", checkpoint=wanted)
        assert found.about["update"] == 2
        assert not found.weights["W"].any()
        assert found.chains is None  # those of the file are of its last update
    with pytest.raises(UserError, match=r"checkpoint = 3: .* has the updates 1, 2, 9, 30"):
        read(tmp_path / "model.h5", checkpoint="3")


@pytest.mark.parametrize("standardised", [False, True])
@pytest.mark.parametrize(("visible", "hidden"), peers.JULIA)
def test_julia(visible, hidden, standardised, tmp_path):
    """Differences of energies: a constant may be left out. The axes of the shape, 2 and 2, are not mixed up either."""
    path = tmp_path / "model.hdf5"
    arrays = peers.julia_file(path, visible, hidden, standardised=standardised)
    found = read(path)
    x = (
        drawn(20, 2, 2)
        if visible == "Gaussian"
        else states(tuple(range(3 if visible == "Potts" else 2))).reshape(-1, 2, 2)
    )
    rows = found.space.encode(torch.from_numpy(x).double().reshape(-1, *found.space.site_shape))
    with torch.no_grad():
        energy = built(found).energy(rows.double()).numpy()
    expected = peers.julia_energy(x, arrays, visible, hidden)
    np.testing.assert_allclose(energy - energy[0], expected - expected[0], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("visible", "hidden", "words"),
    [
        ("Binary", "xReLU", "hidden_type = xReLU: no model here has such units; Binary, Spin and Gaussian are read"),
        ("Gaussian", "Gaussian", "hidden_type = Gaussian: no model here has such units under Gaussian ones"),
        ("dReLU", "Binary", "visible_type = dReLU: no model here has such units"),
    ],
)
def test_julia_units_that_no_model_has(visible, hidden, words, tmp_path):
    peers.julia_file(tmp_path / "model.hdf5", visible, hidden)
    with pytest.raises(UserError, match=words):
        read(tmp_path / "model.hdf5")


def test_julia_without_the_kind_of_model(tmp_path):
    peers.julia_file(tmp_path / "model.hdf5", "Binary", "Binary")
    with h5py.File(tmp_path / "model.hdf5", "a") as file:
        del file["rbm_type"]
    with pytest.raises(UserError, match="has no rbm_type"):
        read(tmp_path / "model.hdf5")


@pytest.mark.parametrize("letters", ["-AC", "012", "CA-"])
def test_adabmdca(letters, tmp_path):
    J, h = couplings(), drawn(SITES, VALUES, seed=9)
    found = read(peers.parameters(tmp_path / "params.dat", J, h, letters))
    expected = peers.log_p_pairs(one_hot(states((0, 1, 2))), J.reshape(12, 12), h.reshape(-1))
    np.testing.assert_allclose(log_p(found, states((0, 1, 2))), expected, **TOLERANCE)
    assert found.letters == ("" if letters == "012" else letters)


def test_adabmdca_knows_the_order_of_its_letters(tmp_path):
    """Of a file with all of them in another order; an alphabet that is typed counts before all."""
    letters, protein = "ACDEFGHIKLMNPQRSTVWY-", "-ACDEFGHIKLMNPQRSTVWY"
    J, h = np.zeros((2, 21, 2, 21), np.float32), drawn(2, 21)
    path = peers.parameters(tmp_path / "params.dat", J, h, letters)
    assert read(path).letters == protein
    np.testing.assert_array_equal(read(path).weights["h"].numpy(), h[:, [20, *range(20)]])
    np.testing.assert_array_equal(read(path, letters=letters).weights["h"].numpy(), h)


def test_adabmdca_adds_what_both_triangles_hold(tmp_path):
    """As adabmDCA does; a model of half of each is the same."""
    J, h = couplings(), drawn(SITES, VALUES)
    found = read(peers.parameters(tmp_path / "both.dat", J / 2, h, "-AC", both=True))
    once = read(peers.parameters(tmp_path / "once.dat", J, h, "-AC"))
    np.testing.assert_array_equal(found.weights["J"], once.weights["J"])
    assert "J j i" in found.remarks[0]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("J 0 1 A C nan", r"line 3: nan is not finite"),
        ("J 0 1 A C 0,5", r"line 3: '0,5' is no number; write decimals with a point"),
        ("J 0 1 A 0.5", r"line 3: 'J 0 1 A 0.5' is no line of parameters"),
        ("J 0 -1 A C 0.5", r"line 3: '-1' is no position"),
        ("J 1 1 A C 0.5", r"line 3: couples site 1 to itself"),
        ("K 1 1 A C 0.5", r"line 3: 'K 1 1 A C 0.5' is no line of parameters"),
        ("J 0 1 A CC 0.5", r"'CC' is no state among others"),
        ("J 0 999999 A C 0.5", r"site 2 has no line h 2 A value, and 999999 is the last site"),
    ],
)
def test_adabmdca_names_the_line(lines, words, tmp_path):
    (tmp_path / "params.dat").write_text(f"h 0 A 0.1\nh 1 C 0.2\n{lines}\n")
    with pytest.raises(UserError, match=words):
        read(tmp_path / "params.dat", "adabmdca")


def test_adabmdca_missing_pairs_and_letters(tmp_path):
    (tmp_path / "params.dat").write_text("# sparse\nJ 0 2 A C 1e-1\nh 0 A 1\nh 1 C 2\nh 2 A 0\n")
    found = read(tmp_path / "params.dat")
    assert found.remarks == (f"{tmp_path}/params.dat: 2 of 3 pairs have no coupling; theirs are 0",)
    assert found.weights["J"][1, 0, 1] == np.float32(0.1)
    with pytest.raises(UserError, match=r"dataset.alphabet = AG: .* has the state 'C'"):
        read(tmp_path / "params.dat", letters="AG")


def test_scikit_learn(tmp_path):
    """Its own free energy, which counts the same; of components (hidden, visible)."""
    from sklearn.neural_network import BernoulliRBM

    x = (drawn(60, 6) > 0).astype(float)
    peer = BernoulliRBM(n_components=3, n_iter=3, random_state=0, learning_rate=0.5).fit(x)
    names = ("components_", "intercept_visible_", "intercept_hidden_")
    np.savez(tmp_path / "model.npz", **{name: getattr(peer, name) for name in names})
    found = read(tmp_path / "model.npz")
    with torch.no_grad():
        energy = built(found).energy(torch.from_numpy(x))
    np.testing.assert_allclose(energy, peer._free_energy(x), rtol=1e-6, atol=1e-6)
    np.savez(tmp_path / "half.npz", components_=peer.components_)
    with pytest.raises(UserError, match="has no array intercept_visible_, intercept_hidden_"):
        read(tmp_path / "half.npz")


NPZ = {
    "rbm": ({"W": (SITES, HIDDEN), "b": (SITES,), "c": (HIDDEN,)}, 2),
    "categories": ({"W": (SITES, VALUES, HIDDEN), "b": (SITES, VALUES), "c": (HIDDEN,)}, 3),
}


@pytest.mark.parametrize("name", NPZ)
def test_npz_of_rbms(name, tmp_path):
    shapes, values = NPZ[name]
    arrays = {key: drawn(*shape, seed=i) for i, (key, shape) in enumerate(shapes.items())}
    np.savez(tmp_path / "model.npz", shape=[2, 2], **arrays)
    found = read(tmp_path / "model.npz")
    x = states(tuple(range(values)))
    v = x if values == 2 else one_hot(x)
    expected = peers.log_p(v, arrays["W"].reshape(v.shape[1], -1), arrays["b"].reshape(-1), arrays["c"], "bits")
    np.testing.assert_allclose(log_p(found, x), expected, **TOLERANCE)
    assert found.space.site_shape == (2, 2)


@pytest.mark.parametrize(("name", "key"), [("boltzmann", "W"), ("ising", "J")])
def test_npz_of_pairs(name, key, tmp_path):
    J, b = np.triu(drawn(SITES, SITES), 1), drawn(SITES)
    x = states((0, 1))
    v = 2 * x - 1 if name == "ising" else x
    for square in (J, J + J.T):
        np.savez(tmp_path / "model.npz", **{key: square, "b": b})
        np.testing.assert_allclose(
            log_p(read(tmp_path / "model.npz"), x), peers.log_p_pairs(v, J + J.T, b), **TOLERANCE
        )
    np.savez(tmp_path / "model.npz", **{key: J + 2 * J.T, "b": b})
    with pytest.raises(UserError, match="neither symmetric nor an upper triangle"):
        read(tmp_path / "model.npz")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"W": drawn(4, 3), "b": drawn(3), "c": drawn(3)}, r"b has shape \(3,\); beside the other arrays it must be"),
        ({"W": drawn(4, 3) * np.nan, "b": drawn(4), "c": drawn(3)}, r"W\[0, 0\] is nan"),
        ({"W": np.float64([[1e39]]), "b": drawn(1), "c": drawn(1)}, r"W\[0, 0\] is 1e\+39"),
        ({"V": drawn(4)}, "has the arrays V"),
        ({"W": drawn(4, 3), "b": drawn(4), "c": drawn(3), "shape": [5]}, "whole numbers whose product is 4 sites"),
        ({"W": drawn(4, 3), "b": drawn(4), "c": drawn(3), "chains": drawn(2, 4)}, "chains are no states"),
        ({"W": np.array([["a"]]), "b": drawn(1), "c": drawn(1)}, "must hold numbers"),
    ],
)
def test_npz_that_is_no_model(arrays, words, tmp_path):
    np.savez(tmp_path / "model.npz", **arrays)
    with pytest.raises(UserError, match=words):
        read(tmp_path / "model.npz")


def test_hdf5_follows_no_link_and_holds_what_it_says(tmp_path):
    peers.rbms_file(tmp_path / "other.h5")
    path = tmp_path / "model.h5"

    def refused(words, **datasets):
        peers.rbms_file(path)
        with h5py.File(path, "a") as file:
            for name in ("update_12/params/vbias", "update_12/vbias"):
                del file[name]
            for key, value in datasets.items():
                value(file, key)
        with pytest.raises(UserError, match=words):
            read(path)

    place = "update_12/params/vbias"
    link = h5py.ExternalLink(str(tmp_path / "other.h5"), place)
    refused("is a link to somewhere else", a=lambda file, _: file.__setitem__(place, link))
    refused("is a link to somewhere else", a=lambda file, _: file.__setitem__(place, h5py.SoftLink("/update_1/vbias")))
    huge = {"shape": (2**26,), "dtype": "f4"}
    refused("declares 268435456 bytes, the file holds 0", a=lambda file, _: file.create_dataset(place, **huge))
    packed = {**huge, "chunks": (2**20,), "compression": "gzip"}
    refused("declares 268435456 bytes", a=lambda file, _: file.create_dataset(place, **packed))
    raw = [(str(tmp_path / "raw"), 0, 16)]
    refused("lies in another file", a=lambda file, _: file.create_dataset(place, (4,), "f4", external=raw))
    refused("has type object", a=lambda file, _: file.create_dataset(place, (4,), h5py.string_dtype()))
    refused("has no update_12/params/vbias")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="is not read as HDF5"):
        read(path)


def test_what_is_no_model(tmp_path):
    for name, content, words in (
        ("model.pkl", b"\x80\x04K\x01.", "numpy.savez\\(FILE, components_=rbm.components_"),
        ("model.csv", b"1,2\n3,4\n", "files of rbms, adabmdca"),
        ("model.png", b"\x89PNG", "a PNG picture; files of rbms"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words):
            read(tmp_path / name)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["samples"] = drawn(3, 3)
    with pytest.raises(UserError, match="is HDF5 that holds samples, and no model"):
        read(tmp_path / "data.h5")
    with pytest.raises(UserError, match=r"format = rbsm: must be auto or rbms.*did you mean rbms"):
        read(tmp_path / "data.h5", "rbsm")
    with pytest.raises(UserError, match="there is no such file"):
        read(tmp_path / "nothing")


@needs("rbms")
@pytest.mark.parametrize("kind", ["BBRBM", "PBRBM"])
def test_energies_are_those_of_rbms_itself(kind, tmp_path):
    """On 1000 rows, within 5e-5 a hidden unit: rbms takes x for softplus(x) from 10 on."""
    from rbms.io import load_params

    path, values = tmp_path / "model.h5", 3 if kind == "PBRBM" else 2
    peers.rbms_file(path, kind)
    x = torch.from_numpy(np.random.default_rng(0).integers(0, values, (1000, SITES))).float()
    theirs = load_params(str(path), 12, torch.device("cpu"), torch.float32).compute_energy_visibles(x)
    found = read(path)
    with torch.no_grad():
        ours = built(found).energy(found.space.encode(x).double())
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-5 * HIDDEN)


@needs("adabmDCA")
@pytest.mark.parametrize("old", [False, True])
def test_energies_are_those_of_adabmdca_itself(old, tmp_path):
    from adabmDCA import io
    from adabmDCA.statmech import compute_energy

    weights = {"coupling_matrix": torch.from_numpy(couplings()), "bias": torch.from_numpy(drawn(SITES, VALUES))}
    path, cpu = tmp_path / "params.dat", torch.device("cpu")
    if old:
        io.save_params_oldformat(str(path), weights)
        read_back = io.load_params_oldformat(str(path), cpu)
    else:
        io.save_params(str(path), weights, "-AC")
        read_back = io.load_params(str(path), "-AC", cpu)
    x = torch.eye(VALUES)[torch.from_numpy(np.random.default_rng(0).integers(0, VALUES, (1000, SITES)))]
    with torch.no_grad():
        ours = built(read(path)).energy(x.double())
    np.testing.assert_allclose(ours, compute_energy(x, read_back), rtol=0, atol=1e-5)
