"""`ebm score` and `ebm transform`: rows of the user's own, read, checked and scaled as the data of the run."""

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, facts, snapshot
from helpers.docs import write_data
from helpers.models import PAIRS, small_model
from scipy.sparse import csr_array

from ebm_cli import registry
from ebm_cli.dataset import own_rows
from ebm_cli.dataset.conformed import conformed
from ebm_cli.dataset.own_rows import OwnRows
from ebm_cli.errors import UserError
from ebm_cli.model.composition import NormalisedMixture
from ebm_cli.record import rows
from ebm_cli.space import Binary, Box, Categorical, Real, Units

SHORT = ("steps=8", "batch_size=10", "tracker=none", "device=cpu", "checkpoint.monitor=null")
FEW = ("evaluation.ais.chains=10", "evaluation.ais.temperatures=10", "evaluation.ais.bootstrap=100")


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """The test rows of the digits as grey values, and their labels."""
    settings = {"name": "digits", "valid": 144, "binarize": "none", "box": "unit", "dequantise": False, "noise": 0.0}
    raw = registry.build("dataset", settings).read()
    return raw.test.values, raw.test.labels


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Of digits that are binarised anew at each visit; log Z is a sum of 2^6 terms."""
    path = tmp_path_factory.mktemp("score") / "run"
    line = ("model.hidden=6", "dataset.binarize=stochastic", "evaluation=[exact,pseudo_likelihood]")
    assert ebm("train", *SHORT, *line, "evaluation.pseudo_likelihood.points=360", f"hydra.run.dir={path}").code == 0
    return path


def table(answer) -> dict[str, list[str]]:
    """The columns of the .csv file that a command names at last."""
    assert answer.code == 0, answer.err
    with Path(answer.out.splitlines()[-1].partition(": ")[2]).open() as file:
        lines = list(csv.reader(file))
    return {name: list(column) for name, column in zip(lines[0], zip(*lines[1:], strict=True), strict=True)}


def scored(run: Path, file: Path, *more: str) -> dict[str, np.ndarray]:
    found = table(ebm("score", f"run={run}", f"data={file}", "device=cpu", *more))
    return {name: np.array(column, float) for name, column in found.items() if name != "label"}


def as_csv(path: Path, values: np.ndarray, header: str = "", labels=None) -> Path:
    lines = [",".join(f"{value:g}" for value in row) for row in values.reshape(len(values), -1)]
    lines = lines if labels is None else [f"{line},{label}" for line, label in zip(lines, labels, strict=True)]
    path.write_text("\n".join([*([header] if header else []), *lines]) + "\n")
    return path


@pytest.fixture
def files(tmp_path, digits):
    """The test rows in every form."""
    values, labels = digits
    np.savez(tmp_path / "a.npz", train=values[:5], test=values, test_label=labels)
    np.save(tmp_path / "a.npy", values.reshape(360, 64))
    names = ",".join(f"pixel {i}" for i in range(64)) + ",label"
    return {
        "npz": (tmp_path / "a.npz", "array=test"),
        "npy": (tmp_path / "a.npy",),
        "csv": (as_csv(tmp_path / "a.csv", values, names, labels),),
        "tsv": (as_csv(tmp_path / "b.csv", values),),
    }


def test_scores_of_the_test_split_are_those_of_the_evaluations(run, files):
    """Mean and every single row, whatever the form of the file: bits are drawn as they were."""
    summary, kept = facts(run, "summary.json"), rows.read(run)[1]
    for file, *more in files.values():
        found = scored(run, file, *more)
        assert found["log_p"].mean() == pytest.approx(summary["exact/log_likelihood"], abs=1e-12)
        assert np.abs(found["log_p"] - kept["exact/log_likelihood"].values).max() < 1e-12
        assert found["log_p"] == pytest.approx(-found["free_energy"] - summary["exact/log_z"], abs=1e-10)
        assert list(found["row"]) == list(range(1, 361))
    pseudo = kept["pseudo_likelihood/log_pseudo_likelihood"]
    assert found["log_pseudo_likelihood"].shape == (360,)
    assert pseudo.values.shape == (360,)


@pytest.mark.long
def test_labels_go_along_and_nothing_is_overwritten(run, files, digits):
    before = snapshot(run)
    for kind in ("npz", "csv"):
        answer = ebm("score", f"run={run}", f"data={files[kind][0]}", *files[kind][1:], "pseudo_likelihood=false")
        found = table(answer)
        assert list(map(int, found["label"])) == digits[1].tolist()
        assert list(found) == ["row", "label", "free_energy", "log_p"]
    after = snapshot(run)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2
    answer = ebm("score", f"run={run}", f"data={files['npz'][0]}", "array=test", "format=npz", f"out={run}/elsewhere")
    with np.load(run / "elsewhere" / "scores.npz") as arrays:
        assert arrays["label"].tolist() == digits[1].tolist()
        assert arrays["log_p"].tolist() == pytest.approx([float(value) for value in found["log_p"]])
    assert_refused(ebm("score", f"run={run}", f"data={files['npy'][0]}", f"out={run}/elsewhere"), "holds files already")
    assert answer.code == 0


@pytest.mark.long
def test_the_newest_bracket_of_the_same_step_is_taken(tmp_path, files):
    """24 hidden units are too many for a sum: AIS below, RAISE above it in log Z."""
    run = tmp_path / "run"
    assert ebm("train", *SHORT, "model.hidden=24", "evaluation=[]", f"hydra.run.dir={run}").code == 0
    file = files["npy"][0]
    nothing = ebm("score", f"run={run}", f"data={file}", "device=cpu")
    assert "log p is not known" in nothing.out
    assert set(table(nothing)) == {"row", "free_energy", "log_pseudo_likelihood"}
    for seed in (1, 2):
        evaluate = ("evaluate", f"run={run}", "device=cpu", "evaluation=[ais]", *FEW, f"seed={seed}", "split=valid")
        assert ebm(*evaluate).code == 0
    first, last = sorted((run / "evaluations").iterdir())
    results = json.loads((last / "results.json").read_text())
    assert json.loads((first / "results.json").read_text())["ais/valid/log_z"] != results["ais/valid/log_z"]
    found = scored(run, file)
    log_z = {end: results[f"ais/valid/{end}"] for end in ("log_z", "log_z_low", "log_z_high")}
    ends = [log_z["log_z"], log_z["log_z_low"], log_z["log_z_high"], log_z["log_z"] + results["ais/valid/gap"]]
    assert found["log_p"] == pytest.approx(-found["free_energy"] - log_z["log_z"], abs=1e-9)
    assert found["log_p_lower"] == pytest.approx(-found["free_energy"] - max(ends), abs=1e-9)
    assert found["log_p_upper"] == pytest.approx(-found["free_energy"] - min(ends), abs=1e-9)
    said = ebm("score", f"run={run}", f"data={file}", "device=cpu").out
    assert f"by AIS of evaluations/{last.name}" in said
    (last / "results.json").write_text(json.dumps(results | {"step": 3}))
    earlier = json.loads((first / "results.json").read_text())["ais/valid/log_z"]
    assert scored(run, file)["log_p"] == pytest.approx(-found["free_energy"] - earlier, abs=1e-9)


@pytest.mark.long
def test_standardised_numbers_have_log_p_in_their_own_units(tmp_path):
    values = np.random.default_rng(0).normal(3.0, [0.5, 2.0, 40.0], (300, 3))
    np.savez(tmp_path / "data.npz", train=values[:200], test=values[200:])
    line = (f"dataset.path={tmp_path}/data.npz", "dataset.standardise=true", "model.hidden=3", "evaluation=[exact]")
    run = tmp_path / "run"
    assert ebm("train dataset=array model=gaussian_rbm", *SHORT, *line, f"hydra.run.dir={run}").code == 0
    found = scored(run, tmp_path / "data.npz", "array=test")
    assert found["log_p"].mean() == pytest.approx(facts(run, "summary.json")["exact/log_likelihood"], abs=1e-9)
    (tmp_path / "data.npz").rename(tmp_path / "moved.npz")  # the units are in the checkpoint
    assert scored(run, tmp_path / "moved.npz", "array=test")["log_p"] == pytest.approx(found["log_p"])


@pytest.mark.long
def test_documents_have_log_p_given_their_length(tmp_path):
    (tmp_path / "data").mkdir()
    write_data(tmp_path / "data")
    file = tmp_path / "data" / "text" / "20newsgroups_2000.npz"
    with np.load(file) as parts:
        parts = {key: parts[f"test_{key}"] for key in ("data", "indices", "indptr", "shape", "label")}
    counts = csr_array((parts["data"], parts["indices"], parts["indptr"]), shape=tuple(parts["shape"])).toarray()
    np.savez(tmp_path / "rows.npz", rows=counts, labels=parts["label"])
    run = tmp_path / "run"
    line = ("train model=replicated_softmax dataset=bag_of_words", f"dataset.path={file}", "model.hidden=2")
    answer = ebm(*line, *SHORT, "evaluation=[exact]", f"hydra.run.dir={run}")
    assert answer.code == 0, answer.err
    found = scored(run, tmp_path / "rows.npz")
    assert found["log_p"].mean() == pytest.approx(facts(run, "summary.json")["exact/log_likelihood"], abs=1e-9)
    topics = table(ebm("transform", f"run={run}", f"data={tmp_path}/rows.npz", "device=cpu"))
    assert list(topics) == ["row", "label", "topic_1", "topic_2"]
    counts[3] = 0
    np.savez(tmp_path / "empty.npz", rows=counts)
    asked = ("score", f"run={run}", f"data={tmp_path}/empty.npz", "device=cpu")
    assert_refused(ebm(*asked), "row 4: holds no word; leave such documents out")


@pytest.mark.long
def test_whether_numbers_are_grey_is_known_from_the_data_of_the_run(tmp_path):
    """Bits of an .npz file: floats between 0 and 1 are refused; if the data are gone, those of the file decide."""
    rng = np.random.default_rng(0)
    bits = (rng.random((60, 5)) < 0.5).astype(np.uint8)
    np.savez(tmp_path / "data.npz", train=bits)
    np.save(tmp_path / "grey.npy", rng.random((4, 5)))
    run = tmp_path / "run"
    line = (f"dataset.path={tmp_path}/data.npz", "model.hidden=3", "evaluation=[]")
    assert ebm("train dataset=array", *SHORT, *line, f"hydra.run.dir={run}").code == 0
    asked = ("score", f"run={run}", f"data={tmp_path}/grey.npy", "device=cpu")
    assert_refused(ebm(*asked), "row 1: value 1 is", "the run's are 0 and 1")
    (tmp_path / "data.npz").rename(tmp_path / "moved.npz")
    answer = ebm(*asked)
    assert answer.code == 0
    assert "those of the file alone decide" in answer.err
    assert_refused(ebm(*asked, f"dataset.path={tmp_path}/moved.npz"), "row 1: value 1 is")


def forged() -> bytes:
    """An .npy file of a kilobyte that says it holds 2 GB."""
    found = io.BytesIO()
    np.lib.format.write_array_header_1_0(found, {"descr": "<f8", "fortran_order": False, "shape": (2**22, 64)})
    return found.getvalue() + bytes(1000)


BAD = {
    "nothing": (lambda path: None, "there is no such file"),
    "shape": (lambda path: np.save(path, np.zeros((3, 63))), "its rows have 63 values, those of the run 8x8"),
    "beyond": (lambda path: np.save(path, np.full((3, 64), 1.5)), "row 1: value 1 is 1.5; the run's are grey levels"),
    "codes": (lambda path: np.save(path, np.arange(192, dtype=np.uint8).reshape(3, 64) % 17), "nearly black"),
    "gap": (lambda path: np.save(path, np.where(np.eye(3, 64), np.nan, 0.5)), "row 1: value 1 is missing; fill it in"),
    "infinite": (lambda path: np.save(path, np.full((3, 64), np.inf)), "row 1: value 1 is inf"),
    "text": (lambda path: np.save(path, np.full((3, 64), "a")), "must be numbers (n, *shape)"),
    "rows": (lambda path: np.save(path, np.zeros((0, 64))), "has shape (0, 64), so it is empty; give it rows"),
    "folder": (lambda path: path.mkdir(), "is a folder, and the run is not on pictures"),
    "cut": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(30)), "an archive that is cut short, such as an .npz"),
    "packed": (lambda path: path.write_bytes(gzip.compress(b"\x93NUMPY")), "it is packed by gzip"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "pickle": (lambda path: path.write_bytes(b"\x80\x04."), "Python pickle"),
    "ragged": (lambda path: path.write_text("1,0\n1,0,1\n"), "line 2: has 3 cells, the first line 2"),
    "comma": (lambda path: path.write_text("0;1\n0,5;1\n"), "line 2: '0,5' is no number; write decimals with a point"),
    "under": (lambda path: path.write_text("0,1_0\n0,1\n0,1_0\n"), "line 1: has numbers and words ('1_0')"),
    "forged": (lambda path: path.write_bytes(forged()), "its header declares 2147483648 bytes"),
    "word": (lambda path: path.write_text("a,b\n0,1\n0,yes\n"), "line 3: 'yes' is no number"),
    "twice": (lambda path: path.write_text("a,a\n0,1\n"), "two columns are called 'a'"),
    "names": (lambda path: path.write_text("a,b\n"), "holds no row of numbers"),
    "several": (lambda path: np.savez(path.open("wb"), x=np.zeros((2, 64)), y=np.zeros(3)), "array=NAME"),
    "labels": (lambda path: np.savez(path.open("wb"), x=np.zeros((2, 64)), labels=np.zeros(3)), "one for each row"),
    "mask": (lambda path: np.savez(path.open("wb"), x=np.zeros((2, 64)), mask=np.zeros(3)), "it must be bool of shape"),
}  # fmt: skip


@pytest.mark.quick("shape", "text", "pickle", "twice", "names", "several")
@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_scored_is_refused_in_a_sentence(run, tmp_path, name):
    write, words = BAD[name]
    file = tmp_path / "bad.npy"
    write(file)
    before = snapshot(run)
    assert_refused(ebm("score", f"run={run}", f"data={file}", "device=cpu"), f"data = {file}", words)
    assert snapshot(run) == before


@pytest.mark.long
def test_keys_that_do_not_fit_are_refused(run, files):
    file = files["npz"][0]
    assert_refused(ebm("score", f"run={run}"), "data is missing")
    assert_refused(ebm("score", f"run={run}", f"data={file}", "array=none"), "it has train, test, test_label")
    assert_refused(ebm("score", f"run={run}", f"data={files['csv'][0]}", "array=x"), "is no file of arrays")
    assert_refused(ebm("score", f"run={run}", f"data={file}", "array=test", "format=xml"), "format")


def own(values, dtype=None) -> OwnRows:
    array = np.asarray(values, dtype)
    missing = np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, bool)
    return OwnRows(np.where(missing, 0, array), missing)


def split_of(choice: str, kind: str, space, values, **changes):
    from helpers.components import shipped

    dataset = registry.build("dataset", shipped("dataset")[choice] | changes)
    return conformed(dataset, own(values), kind, space, "data = FILE").split


def test_rows_are_scaled_as_the_data_of_each_kind():
    """Grey levels between walls, levels as categories, units, spins as bits, categories."""
    box = split_of(
        "digits", "grey", Box((2,), -1.0, 1.0), [[0.0, 1.0], [0.25, 0.5]], box="symmetric", dequantise=False
    ).all()
    assert box.tolist() == [[-1.0, 1.0], [-0.5, 0.0]]
    shades = split_of("digits", "grey", Box((2,), 0.0, 1.0), np.array([[0, 255]], np.uint8), dequantise=False).all()
    assert shades.tolist() == [[0.0, 1.0]]
    levels = split_of("digits", "grey", Categorical((2, 17)), [[0.25, 1.0]]).all()
    assert levels.argmax(2).tolist() == [[4, 16]]
    halves = split_of("digits", "grey", Binary((2,)), [[0.5, 0.49]], binarize="threshold").all()
    assert halves.tolist() == [[1.0, 0.0]]
    units = Real((2,), units=Units((1.0, 2.0), (2.0, 4.0)))
    assert split_of("array", "real", units, [[3.0, 0.0]]).all().tolist() == [[1.0, -0.5]]
    assert split_of("array", "binary", Binary((2,)), [[-1, 1]]).all().tolist() == [[0.0, 1.0]]
    assert split_of("protein", "categorical", Categorical((2, 21)), [[20, 3]]).all().argmax(2).tolist() == [[20, 3]]
    with pytest.raises(UserError, match="row 2: value 1 is 21; the run's are the numbers of categories, 0 to 20"):
        split_of("protein", "categorical", Categorical((2, 21)), [[20, 3], [21, 0]])


def test_noise_and_levels_are_added_as_in_evaluations():
    values = np.full((2000, 1), 0.5)
    spread = split_of("digits", "grey", Box((1,), 0.0, 1.0), values, dequantise=True).all()
    assert spread.min() == pytest.approx(8 / 17, abs=0.001)
    assert spread.max() == pytest.approx(9 / 17, abs=0.001)
    noisy = split_of("array", "real", Real((1,)), values, noise=0.1).all()
    assert noisy.std().item() == pytest.approx(0.1, rel=0.1)


def test_sequences_are_read_by_the_alphabet_of_the_run(tmp_path):
    from helpers.components import shipped

    file = tmp_path / "some.fasta"
    file.write_text(">one\nAC-\n>two\nA?D\n")
    dataset = registry.build("dataset", shipped("dataset")["protein"])
    found = dataset.own_rows(file, "data = some.fasta", None)
    assert [[dataset.alphabet[n] for n in row] for row in found.values] == [["A", "C", "-"], ["A", "-", "D"]]
    assert found.missing.tolist() == [[False] * 3, [False, True, False]]
    assert found.labels.tolist() == ["one", "two"]
    assert found.place(1) == "line 3 (two)"


def test_cells_without_a_value_are_missing(tmp_path):
    (tmp_path / "a.csv").write_text("a,label,b\n1,x,\n\n,y,0\n")
    found = own_rows.read(tmp_path / "a.csv", "data", None)
    assert found.missing.tolist() == [[False, True], [True, False]]
    assert (found.values.dtype.kind, found.labels.tolist()) == ("i", ["x", "y"])
    assert (found.place(0), found.place(1)) == ("line 2", "line 4")
    np.savez(tmp_path / "a.npz", rows=np.array([[1, 0]]), mask=np.array([[0, 1]]))
    assert own_rows.read(tmp_path / "a.npz", "data", None).missing.tolist() == [[False, True]]


def test_columns_that_are_numbered_have_names(tmp_path):
    """As pandas names those of an array; of two columns 0 and 1 may be values."""
    (tmp_path / "a.csv").write_text("0,1,2\n5,6,7\n")
    assert own_rows.read(tmp_path / "a.csv", "data", None).values.tolist() == [[5, 6, 7]]
    (tmp_path / "b.csv").write_text("0,1\n5,6\n")
    assert own_rows.read(tmp_path / "b.csv", "data", None).values.tolist() == [[0, 1], [5, 6]]


def test_what_is_wrong_among_bits_is_named():
    with pytest.raises(UserError, match="row 2: value 1 is -1; the run's are 0 and 1"):
        split_of("array", "binary", Binary((2,)), [[0, 1], [-1, 1]])


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if not pair.startswith("flow")])
def test_features_are_numbers_of_each_row(pair):
    """(rows, numbers) by name, and of a row alone what they are among others."""
    choice, space = PAIRS[pair]
    model = small_model(choice, space)
    x = space.noise(5, torch_key()).double()
    with torch.no_grad():
        found, alone = model.features(x), model.features(x[3:4])
    assert all(column.shape[0] == 5 and column.dim() == 2 for column in found.values())
    for name, column in found.items():
        assert torch.allclose(column[3:4], alone[name])


def torch_key():
    from ebm_cli.rng import stream

    return stream(0, "features")


def test_what_the_energy_is_made_of():
    """p(h | v) of an RBM, and of a network the units that its energy is linear in."""
    rbm = small_model("rbm", PAIRS["rbm-binary"][1])
    x = rbm.space.noise(4, torch_key()).double()
    assert torch.equal(rbm.features(x)["hidden"], rbm.hidden_logits(x).sigmoid())
    mlp = small_model("mlp", PAIRS["mlp-real"][1], spread=None)
    y = mlp.space.noise(4, torch_key()).double()
    assert torch.allclose(mlp.features(y)["penultimate"] @ mlp.last.weight.squeeze(0), -mlp.energy(y))
    jem = small_model("jem", PAIRS["jem-boxed"][1])
    z = jem.space.noise(4, torch_key()).double()
    found = jem.features(z)
    assert torch.allclose(jem.last(found["penultimate"]).softmax(1), found["class"])


def test_parts_of_a_mixture_share_a_row():
    """p(i | x) of two products of known probabilities."""
    space = Binary((3,))
    parts = [small_model("exponential_family", space, seed=seed) for seed in (1, 2)]
    model = NormalisedMixture(space, parts, [0.0, 0.0]).double()
    with torch.no_grad():
        model.logits.copy_(torch.tensor([0.3, -0.2]))
        x = space.enumerate().double()
        p = torch.stack([(-part.energy(x) - part.log_z()).exp() for part in parts], 1) * model.logits.softmax(0)
        found = model.features(x)["part"]
    assert torch.allclose(found, p / p.sum(1, keepdim=True))


@pytest.mark.long
def test_transform_writes_a_line_for_each_row(run, files, tmp_path):
    file, *more = files["csv"]
    found = table(ebm("transform", f"run={run}", f"data={file}", *more, "device=cpu"))
    assert list(found) == ["row", "label", *(f"hidden_{j}" for j in range(1, 7))]
    assert {len(column) for column in found.values()} == {360}
    answer = ebm("transform", f"run={run}", f"data={file}", "format=npz", "device=cpu", f"out={tmp_path}/made")
    assert answer.code == 0
    with np.load(tmp_path / "made" / "features.npz") as arrays:
        assert arrays["hidden"].shape == (360, 6)
        assert arrays["hidden"][:, 2] == pytest.approx(np.array(found["hidden_3"], float), abs=1e-6)
    plain = tmp_path / "plain"
    assert ebm("train model=exponential_family", *SHORT, "evaluation=[]", f"hydra.run.dir={plain}").code == 0
    assert_refused(ebm("transform", f"run={plain}", f"data={file}", "device=cpu"), "neither hidden units nor layers")


@pytest.mark.long
def test_what_has_no_energy_has_features(tmp_path, files):
    line = ("train model=dbn objective=greedy sampler=up_down", "model.layers=[4,3]", "evaluation=[]")
    answer = ebm(*line, *SHORT, f"hydra.run.dir={tmp_path}/run")
    assert answer.code == 0, answer.err
    asked = (f"run={tmp_path}/run", f"data={files['csv'][0]}", "device=cpu")
    assert_refused(ebm("score", *asked), "has no energy that can be computed; ebm transform")
    assert "hidden" in ebm("transform", *asked).out
