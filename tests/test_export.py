"""`ebm export`: what is written is read back bit for bit, and by the packages themselves."""

import h5py
import numpy as np
import pytest
import torch
from helpers import peers
from helpers.cli import assert_refused, ebm
from helpers.foreign import built, needs, read
from helpers.models import small_model
from helpers.peers import SITES, drawn

from ebm_cli.errors import UserError
from ebm_cli.peers import formats
from ebm_cli.peers.foreign import Foreign
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Categorical, Real, Spin, Units

SMALL = {
    "rbm": ("rbm", Binary((2, 2)), {}),
    "rbm of categories": ("rbm", Categorical((4, 3)), {}),
    "rbm of spins": ("rbm", Spin((2, 2)), {"hidden_units": "drelu"}),
    "gaussian_rbm": ("gaussian_rbm", Real((2, 2)), {}),
    "boltzmann": ("boltzmann", Binary((2, 2)), {}),
    "ising": ("ising", Spin((2, 2)), {"graph": "complete"}),
    "lattice": ("ising", Spin((2, 2)), {"periodic": False}),
    "potts": ("potts", Categorical((4, 3)), {}),
    "chain of potts": ("potts", Categorical((4, 3)), {"graph": "lattice", "periodic": False}),
}
MIXED = Foreign({"name": "mixed_rbm"}, {}, Real((2, 2)), {})
ABOUT = {"step": 7, "batch_size": 10, "seed": 0, "learning_rate": 0.1, "energies": [0.0, 1.0]}


def foreign(name: str, *, chains: int = 2) -> Foreign:
    """A model with weights that are not 0, as a run has it."""
    choice, space, keys = SMALL[name]
    model = small_model(choice, space, **keys).float()
    weights = {key: value.detach() for key, value in model.state_dict().items()}
    kept = space.noise(chains, stream(0))
    kept = kept if isinstance(space, Real) else space.decode(kept)
    letters = "-AC" if isinstance(space, Categorical) else ""
    known = {"name": choice, "min_spread": 0.4, "hidden_units": keys.get("hidden_units", "binary")}
    return Foreign(known, weights, space, ABOUT, kept if chains else None, letters)


def again(model: Foreign, form: str, tmp_path) -> Foreign:
    """Written and read."""
    path = tmp_path / f"model.{formats.WRITTEN[form]}"
    path.write_bytes(formats.content(model, form))
    return read(path)


@pytest.mark.parametrize("name", SMALL)
def test_npz_is_read_back_bit_for_bit(name, tmp_path):
    model = foreign(name)
    found = again(model, "npz", tmp_path)
    space = found.space
    assert space == model.space
    assert torch.equal(found.chains, model.chains.float())
    x = space.noise(50, stream(1)).double()
    with torch.no_grad():
        assert torch.equal(built(found).energy(x), built_as(model, name).energy(x))
    assert found.letters == model.letters
    for key in found.weights.keys() & {"b", "c", "h", "r"}:
        assert torch.equal(found.weights[key], model.weights[key])


def built_as(model: Foreign, name: str):
    choice, space, keys = SMALL[name]
    made = small_model(choice, space, **keys).float()
    made.load_state_dict(dict(model.weights))
    return made.double()


@pytest.mark.parametrize("name", ["rbm", "rbm of categories", "potts", "chain of potts"])
def test_rbms_is_read_back_bit_for_bit(name, tmp_path):
    model = foreign(name)
    found = again(model, "rbms", tmp_path)
    x = found.space.noise(50, stream(1)).double()
    reshaped = x.reshape(-1, *model.space.shape)
    with torch.no_grad():
        assert torch.equal(built(found).energy(x), built_as(model, name).energy(reshaped))
    assert found.about["update"] == 7
    assert torch.equal(found.chains, model.chains.flatten(1).float())


def test_a_run_without_chains_is_written_too(tmp_path):
    """One by pseudo-likelihood keeps none."""
    for form in ("rbms", "adabmdca", "npz"):
        found = again(foreign("potts", chains=0), form, tmp_path)
        assert found.chains is None
        assert found.remarks == ()


@pytest.mark.parametrize("name", ["potts", "chain of potts"])
def test_adabmdca_is_read_back_bit_for_bit(name, tmp_path):
    model = foreign(name)
    found = again(model, "adabmdca", tmp_path)
    x = found.space.noise(50, stream(1)).double()
    with torch.no_grad():
        assert torch.equal(built(found).energy(x), built_as(model, name).energy(x))
    assert found.letters == "-AC"
    assert torch.equal(found.weights["h"], model.weights["h"])


def test_fasta_has_every_chain(tmp_path):
    model = foreign("potts")
    lines = formats.content(model, "fasta").decode().splitlines()
    assert lines[0] == ">chain_0 energy=0.0000"
    assert lines[1::2] == ["".join("-AC"[int(x)] for x in row) for row in model.chains]
    with pytest.raises(UserError, match="keeps no chains"):
        formats.content(foreign("potts", chains=0), "fasta")


def test_standardised_units_go_into_the_weights(tmp_path):
    """E(x) in units of the data is that of (x - mean) / deviation, but for a constant."""
    model = foreign("gaussian_rbm")
    units = Units((1.0, -2.0, 0.5, 3.0), (2.0, 0.1, 1.0, 4.0))
    found = again(Foreign(model.model, model.weights, Real((2, 2), units=units), ABOUT), "npz", tmp_path)
    v = drawn(20, 2, 2).astype(np.float64)
    x = v * np.reshape(units.deviation, (2, 2)) + np.reshape(units.mean, (2, 2))
    with torch.no_grad():
        inner = built_as(model, "gaussian_rbm").energy(torch.from_numpy(v))
        outer = built(found).energy(torch.from_numpy(x))
    np.testing.assert_allclose(outer - outer[0], inner - inner[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "form", "words"),
    [
        ("boltzmann", "rbms", "has no model like boltzmann on binary rows"),
        ("boltzmann", "rbms", "use format=npz or hub$"),
        ("rbm of spins", "rbms", "use format=npz or hub$"),
        ("rbm", "adabmdca", "holds Potts models, and no rbm; use format=npz or hub$"),
        ("rbm", "fasta", "is for categories, the model takes binary rows; use format=npz or hub$"),
        ("mixed", "adabmdca", "holds Potts models, and no mixed_rbm; use format=hub$"),
        ("mixed", "fasta", "is for categories, .*; use format=hub$"),
        ("mixed", "npz", "holds gaussian_rbm, rbm, boltzmann, potts, ising, and no mixed_rbm; use format=hub$"),
    ],
)
def test_formats_that_cannot_hold_it(name, form, words):
    with pytest.raises(UserError, match=words):
        formats.content(MIXED if name == "mixed" else foreign(name), form)


def test_letters_must_be_as_many_as_values():
    model = foreign("potts")
    bare = Foreign(model.model, model.weights, model.space, ABOUT, model.chains)
    with pytest.raises(UserError, match="have the letters none; give one for each, in their order, letters=STRING"):
        formats.content(bare, "adabmdca")
    double = Foreign(model.model, model.weights, model.space, ABOUT, model.chains, "AA-")
    with pytest.raises(UserError, match="have the letters AA-"):
        formats.content(double, "adabmdca")


def test_the_command(tmp_path):
    """From one file by way of a run to another, which is kept where it is there already."""
    arrays = peers.rbms_file(tmp_path / "theirs.h5")
    run = f"run={tmp_path}/run"
    assert ebm("import", f"{tmp_path}/theirs.h5", f"out={tmp_path}/run", "tracker=none").code == 0
    answer = ebm("export", run, "format=rbms", f"out={tmp_path}/ours.h5")
    assert answer.code == 0, answer.err
    with h5py.File(tmp_path / "ours.h5") as file:
        for name, array in arrays.items():
            assert np.array_equal(file[f"update_1/params/{name}"][()], array)
            assert np.array_equal(file[f"update_1/{name}"][()], array)
        assert file["parallel_chains"].shape == (5, SITES)
    assert_refused(ebm("export", run, "format=rbms", f"out={tmp_path}/ours.h5"), "is there already, and is kept")
    out = f"out={tmp_path}/new/"
    assert_refused(ebm("export", run, "format=rbms", out), "is a folder, format = rbms writes one file", "new/model.h5")
    assert_refused(ebm("export", run, "format=rbms", f"out={tmp_path}"), "is a folder, format = rbms writes one file")
    assert_refused(ebm("export", run, "format=npz", f"out={tmp_path}/ours.h5/x.npz"), "ours.h5 is a file, not a folder")
    assert_refused(
        ebm("export", run, "format=hub", f"out={tmp_path}/ours.h5"), "ours.h5 is a file, a folder is written"
    )
    assert_refused(ebm("export", run, "format=onnx"), "format", "onnx")
    assert_refused(ebm("export", run, "format=adabmdca"), "holds Potts models")
    assert not (tmp_path / "run" / "exports").exists()
    assert ebm("export", run, "format=npz").code == 0
    (found,) = (tmp_path / "run" / "exports").glob("*/model.npz")
    assert np.array_equal(np.load(found)["W"], arrays["weight_matrix"])


@needs("rbms")
@pytest.mark.parametrize("name", ["rbm", "rbm of categories"])
def test_rbms_itself_reads_it(name, tmp_path):
    from rbms.io import load_model

    path, model = tmp_path / "model.h5", foreign(name)
    path.write_bytes(formats.content(model, "rbms"))
    found, chains, _, known = load_model(str(path), 7, torch.device("cpu"), torch.float32)
    assert known["batch_size"] == 10
    theirs = found.compute_energy_visibles(chains["visible"])
    x = model.space.encode(model.chains.float())
    with torch.no_grad():
        np.testing.assert_allclose(built_as(model, name).energy(x.double()), theirs, rtol=0, atol=2e-4)


@needs("adabmDCA")
def test_adabmdca_itself_reads_it(tmp_path):
    from adabmDCA.io import load_chains, load_params

    model = foreign("potts")
    for form in ("adabmdca", "fasta"):
        (tmp_path / form).write_bytes(formats.content(model, form))
    found = load_params(str(tmp_path / "adabmdca"), "-AC", torch.device("cpu"))
    assert torch.equal(found["bias"], model.weights["h"])
    i, j = model.weights["edges"].unbind(1)
    assert torch.equal(found["coupling_matrix"].permute(0, 2, 1, 3)[i, j], model.weights["J"])
    (rows,) = load_chains(str(tmp_path / "fasta"), "-AC")
    assert torch.equal(rows.argmax(2), model.chains.long())
