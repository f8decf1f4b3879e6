"""`ebm score mutations=`: energies of mutants of a sequence, from the local fields or the conditionals of its sites."""

import csv
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm
from helpers.components import component, shipped
from helpers.models import PAIRS, small_model, target
from helpers.statistics import assert_close
from scipy.stats import spearmanr

from ebm_cli.commands import mutants, own
from ebm_cli.dataset import mutations
from ebm_cli.dataset.mutations import Change, Columns, WildType
from ebm_cli.errors import UserError
from ebm_cli.model import substitution
from ebm_cli.model.substitution import energies, substitutions
from ebm_cli.rng import stream
from ebm_cli.space import Categorical
from ebm_cli.yardstick.rank_correlation import spearman

LETTERS = "-ACDEFGHIKLMNPQRSTVWY"
OF_CATEGORIES = [name for name, (_, space) in PAIRS.items() if isinstance(space, Categorical)]
SHORT = ("steps=20", "batch_size=10", "tracker=none", "device=cpu", "eval_every=0", "evaluation=[]")


def brute(model, values):
    """One energy for each mutant."""
    wild, found = energies(model, values[None]), torch.zeros(model.space.sites, model.space.values).double()
    for site, letter in itertools.product(range(model.space.sites), range(model.space.values)):
        mutant = values.clone()
        mutant[site] = letter
        found[site, letter] = (energies(model, mutant[None]) - wild).item()
    return found


def values_of(model, number=7):
    return model.space.decode(model.space.enumerate(number, number + 1)).flatten()


@pytest.mark.parametrize("name", OF_CATEGORIES)
def test_all_substitutions_are_differences_of_energies(name):
    model = target(name)
    for number in (0, 7, 20):
        values = values_of(model, number)
        assert_close(substitutions(model, values), brute(model, values), rtol=0, atol=1e-11)


def test_of_many_sites_a_few_at_a_time(monkeypatch):
    """Of a lattice too, whose sites have few couplings; in single precision within 1e-5."""
    monkeypatch.setattr(substitution, "_STATES", 12)
    for name, changes in (("potts", {"graph": "lattice"}), ("potts", {"graph": "complete"}), ("rbm", {"hidden": 3})):
        model = small_model(name, Categorical((4, 3, 5)), **changes)
        values = torch.arange(12) * 3 % 5
        expected = brute(model, values)
        assert_close(substitutions(model, values), expected, rtol=0, atol=1e-11)
        assert_close(substitutions(model.float(), values).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("width", "shift"), [(0.1, 0), (30, 0), (400, 0), (2000, 0), (1, 800)])
def test_of_hidden_units_whose_weights_are_large(width, shift):
    """One logarithm for all of them, for one or two of them, and by conditionals where exp has no number."""
    model = small_model("rbm", Categorical((4, 3, 5)), hidden=40)
    with torch.no_grad():
        model.W *= width / (model.W.max() - model.W.min())
        model.W += shift
        size = 12 * 40 * model.W.abs().max().item()  # of the sums, which round
    for first in range(3):
        values = (torch.arange(12) * 3 + first) % 5
        assert_close(substitutions(model, values), brute(model, values), rtol=1e-12, atol=1e-11 + 1e-15 * size)
        single = substitutions(model.float(), values).double()
        assert_close(single, brute(model.double(), values), rtol=1e-5, atol=1e-6 + 1e-6 * size)


def test_another_gauge_changes_no_difference():
    model = target("potts-categorical")
    before = substitutions(model, values_of(model))
    of_site = torch.arange(9.0).reshape(3, 3).double()
    with torch.no_grad():
        model.J += of_site[:, :, None] + 5  # K_i(a) of the first site of each edge
        model.h.index_add_(0, model.edges[:, 0], -of_site)
        model.h += 3
    assert_close(substitutions(model, values_of(model)), before, rtol=0, atol=1e-12)


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A Potts model of 40 sequences of 6 letters; the alignment lies beside it."""
    folder = tmp_path_factory.mktemp("mutants")
    rows = np.random.default_rng(0).integers(0, 21, (40, 6))
    rows[0] = [10, 1, 0, 5, 20, 3]
    lines = (f">seq{i}\n{''.join(LETTERS[k] for k in row)}\n" for i, row in enumerate(rows))
    (folder / "family.fasta").write_text("".join(lines))
    data = ("dataset=protein", f"dataset.path={folder}/family.fasta")
    assert ebm("train model=potts", *data, *SHORT, f"hydra.run.dir={folder}/run").code == 0
    return folder / "run"


WILD = "LA-FYD"


def table(answer) -> dict[str, list[str]]:
    assert answer.code == 0, answer.err
    with Path(answer.out.splitlines()[-1].partition(": ")[2]).open() as file:
        lines = list(csv.reader(file))
    return {name: list(column) for name, column in zip(lines[0], zip(*lines[1:], strict=True), strict=True)}


@pytest.fixture(scope="module")
def trained(run):
    return own.opened(str(run), "last", [], {"device": shipped("device")["cpu"]})


@pytest.fixture(scope="module")
def single(trained) -> dict[str, float]:
    """E(mutant) - E(wild type) of all single mutants, one energy for each."""
    delta = brute(trained.state.averaged_model(), torch.tensor([LETTERS.index(letter) for letter in WILD]))
    numbered = [(site, k) for site in range(6) for k in range(21) if LETTERS[k] != WILD[site]]
    return {f"{WILD[site]}{site + 1}{LETTERS[k]}": delta[site, k].item() for site, k in numbered}


@pytest.mark.long
def test_all_mutants_of_a_sequence_however_it_is_named(run, single, tmp_path):
    answer = ebm("score mutations=all device=cpu", f"run={run}", "wild_type=seq0")
    found = table(answer)
    assert list(found) == ["position", "wild", "mutant", "delta"]
    names = zip(found["wild"], found["position"], found["mutant"], strict=True)
    assert ["".join(name) for name in names] == list(single)
    delta = np.array(found["delta"], float)
    assert delta == pytest.approx([*single.values()], abs=1e-5)
    assert f"120 single substitutions: energy above that of the wild type {delta.mean():.4f}" in answer.out
    assert f"below it {(delta < 0).sum()}" in answer.out
    assert "sites are counted from 1 to 6" in answer.out
    assert Path(answer.out.split("picture: ")[1].split("\n")[0]).is_file()
    (tmp_path / "wild.fasta").write_text(f">any\n{WILD}\n")
    line = ("score mutations=all device=cpu first_site=11", f"run={run}", f"wild_type={tmp_path}/wild.fasta")
    other = table(ebm(*line))
    assert other["delta"] == found["delta"]
    assert other["position"][0] == "11"


@pytest.mark.long
def test_mutants_of_a_file_against_measurements(run, trained, single, tmp_path):
    names = list(single)[::3]
    measured = np.random.default_rng(0).normal(size=len(names)) - [single[name] for name in names]
    lines = [f"x,{m:.6f},{name}" for m, name in zip(measured, names, strict=True)]
    lines[4] = f"x,,{names[4]}"
    file = tmp_path / "m.csv"
    file.write_text("\n".join(["about,DMS_score,mutant", *lines, "x,,L1A:A2L", "x,,L1L", ""]))
    answer = ebm("score device=cpu", f"run={run}", f"mutations={file}", f"wild_type={WILD}")
    found = table(answer)
    delta = np.array(found["delta"], float)
    assert delta[: len(names)] == pytest.approx([single[name] for name in names], abs=1e-5)
    assert delta[-1] == 0
    assert found["mutant"] == [*names, "L1A:A2L", "L1L"]
    there = np.arange(len(names)) != 4
    rho = spearmanr(-delta[: len(names)][there], measured[there]).statistic
    assert f"Spearman's rho of -delta and DMS_score: {rho:.3f}, 95 % interval" in answer.out
    assert f"({len(names) - 1} mutants)" in answer.out
    file.write_text("L1A:A2L\nL1A\nA2L\n")
    both, *alone = mutants.scored(trained, asked(mutations=str(file), wild_type="seq0")).columns["delta"]
    rows = torch.tensor([[LETTERS.index(letter) for letter in row] for row in (WILD, "AL-FYD")])
    wild, mutant = energies(trained.state.averaged_model(), rows).tolist()
    assert both == pytest.approx(mutant - wild, abs=1e-5)
    assert both != pytest.approx(sum(alone), abs=1e-5)  # the two sites are coupled


REFUSED = {
    "mutant,DMS_score\nL1A,1\n\nK2A,0": ("line 4: K2A has K at site 2, the wild type A", "first_site"),
    "mutant\nL7A": ("line 2: L7A is at site 7, the wild type has sites 1 to 6",),
    "mutant\nL0A": ("line 2: L0A is at site 0",),
    "mutant\nL1B": ("line 2: L1B has the letter 'B', which the alphabet of the run lacks", LETTERS),
    "mutant\nL1a": ("has the letter 'a'", "write A"),
    "mutant\n1A": ("line 2: '1A' is no mutation; write A12G",),
    "mutant\nL1A:L1C": ("line 2: L1A:L1C changes a site twice",),
    "mutants,DMS_score\nL1A,0": ("mutant_column = mutant", "has no such column; did you mean mutants?"),
    "mutant,DMS_score\nL1A,high": ("line 2: 'high' is no number",),
    "mutant,DMS_score\nL1A": ("line 2: has 1 cells, the first line 2",),
    "mutant\n": ("holds no mutant",),
    "": ("holds no mutant",),
}


@pytest.mark.parametrize("sign", [",", "\t", ";"])
def test_cells_are_apart_by_any_sign_of_tables(tmp_path, sign):
    (tmp_path / "m.csv").write_text(f"mutant{sign}DMS_score\nL1A:A2L{sign}0.5\n")
    wild = WildType(np.array([LETTERS.index(letter) for letter in WILD]), LETTERS, 1)
    found = mutations.read(tmp_path / "m.csv", "m.csv", Columns("mutant", "DMS_score"), wild)
    assert (found.written, found.measured.tolist()) == (("L1A:A2L",), [0.5])


@pytest.mark.parametrize("text", REFUSED)
def test_a_file_that_lists_no_mutants_of_the_wild_type(tmp_path, text):
    (tmp_path / "m.csv").write_text(text)
    wild = WildType(np.array([LETTERS.index(letter) for letter in WILD]), LETTERS, 1)
    with pytest.raises(UserError) as refused:
        mutations.read(tmp_path / "m.csv", "m.csv", Columns("mutant", "DMS_score"), wild)
    assert [word for word in ("m.csv", *REFUSED[text]) if word not in str(refused.value)] == []


WRONG = {
    ("all", None): ("wild_type=NAME",),
    ("all", "sec0"): ("wild_type = sec0", "no sequence of 6 letters and no file", "did you mean seq0"),
    ("all", "AAAAA"): ("no sequence of 6 letters (it has 5)",),
    ("all", "LA-FYB"): ("no sequence of 6 letters (it has 6, but letter 6 is 'B', and the alphabet is -ACD",),
    ("all", "LA-FYD" * 50): ("no sequence of 6 letters (it has 300)",),  # longer than a file may be called
    ("all", "la-fyd"): ("its letters are lower case", "upper case"),
    ("all", "family"): ("has no sequence of that name; the first ones there are seq0, seq1, seq2",),
    ("NONE.csv", "seq0"): ("mutations = NONE.csv", "no such file"),
    ("all", "two.fasta"): ("wild_type = two.fasta", "holds 2 sequences"),
    ("all", "open.fasta"): ("wild_type = open.fasta", "value 3 is missing"),
}


@pytest.mark.long
def test_keys_that_name_no_mutants(run, trained, tmp_path, monkeypatch):
    before = sorted(run.rglob("*"))
    for words, said in (
        (f"mutations=all wild_type=A2 run={run}", ("wild_type = A2", "no file")),
        (f"mutations=all data=FILE.csv wild_type=seq0 run={run}", ("are two things",)),
        (f"run={run}", ("data is missing", "data=FILE")),
    ):
        assert_refused(ebm(f"score device=cpu {words}"), *said)
    assert sorted(run.rglob("*")) == before
    monkeypatch.chdir(tmp_path)
    Path("two.fasta").write_text(">a\nLA-FYD\n>b\nLA-FYD\n")
    Path("open.fasta").write_text(">a\nLA?FYD\n")
    for (file, wild), said in WRONG.items():
        with pytest.raises(UserError) as refused:
            mutants.scored(trained, asked(mutations=file, wild_type=wild))
        assert [word for word in said if word not in str(refused.value)] == []
    other = replace(trained.parts.components, dataset=component("dataset", "digits"))
    with pytest.raises(UserError, match=r"is for runs on letters, this one is on dataset=protein; .*data=FILE"):
        mutants.scored(replace(trained, parts=replace(trained.parts, components=other)), asked(mutations="all"))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (None, r"built-in rows of dataset=protein, which have no names; .*dataset\.path=FILE"),
        ("gone.fasta", r"the alignment of the run is not there, gone\.fasta; .*dataset\.path=FILE"),
        ("rows.npz", r"sequences of rows\.npz have no names; .*dataset\.path=FILE"),
        ("twice.fasta", r"wild_type = a: 2 different sequences of twice\.fasta have that name"),
    ],
)
def test_names_that_no_alignment_has(trained, tmp_path, monkeypatch, path, said):
    monkeypatch.chdir(tmp_path)
    Path("twice.fasta").write_text(">a\nLA-FYD\n>>a\nLAAFYD\n")
    np.savez("rows.npz", msa=np.zeros((3, 6), int))
    dataset = replace(trained.parts.components.dataset, path=path)
    parts = replace(trained.parts, components=replace(trained.parts.components, dataset=dataset))
    with pytest.raises(UserError, match=said):
        mutants.scored(replace(trained, parts=parts), asked(mutations="all", wild_type="a"))


def asked(mutations, wild_type=None):
    return mutants.Asked(
        mutations=mutations, wild_type=wild_type, first_site=1, mutant_column="mutant", measured_column="DMS_score"
    )


def test_sites_and_letters_are_read_as_they_are_written():
    wild = WildType(np.array([0, 2, 1]), "-AC", -1)
    assert wild.changes("--1A: A1C", "") == (Change(0, 1), Change(2, 2))
    assert wild.changes("C0-", "") == (Change(1, 0),)
    with pytest.raises(UserError, match="here: A0C has A at site 0, the wild type C; sites are counted from -1"):
        wild.changes("A0C", "here")


# What else a run on letters writes


def test_samples_of_letters_are_a_fasta_file_with_energies(run, trained):
    answer = ebm("sample n=4 steps=2 device=cpu", f"run={run}")
    assert answer.code == 0, answer.err
    file = Path(answer.out.split("text: ")[1].split("\n")[0])
    assert file.name == "samples.fasta"
    lines = file.read_text().splitlines()
    numbers = np.load(file.with_name("samples.npz"))["samples"]
    assert lines[1::2] == ["".join(LETTERS[k] for k in row) for row in numbers]
    expected = energies(trained.state.averaged_model(), torch.from_numpy(numbers).long())
    names, found = zip(*(line.split(" energy=") for line in lines[::2]), strict=True)
    assert names == (">sample_1", ">sample_2", ">sample_3", ">sample_4")
    assert [*map(float, found)] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.fixture(scope="module")
def of_rna(tmp_path_factory) -> Path:
    """A Potts model of 30 sequences of 5 nucleotides, the alphabet by its name."""
    folder = tmp_path_factory.mktemp("rna")
    rows = np.random.default_rng(0).integers(0, 5, (30, 5))
    (folder / "family.fasta").write_text(
        "".join(f">seq{i}\n{''.join('-ACGU'[k] for k in row)}\n" for i, row in enumerate(rows))
    )
    data = ("dataset=protein", "dataset.alphabet=rna", f"dataset.path={folder}/family.fasta")
    assert ebm("train model=potts", *data, *SHORT, f"hydra.run.dir={folder}/run").code == 0
    return folder / "run"


@pytest.mark.long
def test_samples_have_the_letters_of_an_alphabet_that_has_a_name(of_rna, tmp_path):
    answer = ebm("sample n=9 steps=2 device=cpu", f"run={of_rna}", f"out={tmp_path}/new")
    assert answer.code == 0, answer.err
    numbers = np.load(tmp_path / "new/samples.npz")["samples"]
    lines = (tmp_path / "new/samples.fasta").read_text().splitlines()
    assert lines[1::2] == ["".join("-ACGU"[k] for k in row) for row in numbers]


def test_open_sites_of_sequences_come_back_as_sequences(of_rna, tmp_path):
    """Every draw by the name of its sequence, with its energy, and each sequence with the likeliest letters."""
    (tmp_path / "open.fasta").write_text(">first\nA?GU-\n>second\nAC??A\n>whole\nACGUX\n")
    answer = ebm(
        "sample n=3 steps=20 device=cpu", f"run={of_rna}", f"given={tmp_path}/open.fasta", f"out={tmp_path}/new"
    )
    assert answer.code == 0, answer.err
    assert f"sequences: {tmp_path}/new/samples.fasta" in answer.out
    assert f"sequences: {tmp_path}/new/filled.fasta" in answer.out
    draws = (tmp_path / "new/samples.fasta").read_text().splitlines()
    numbers = np.load(tmp_path / "new/samples.npz")["samples"].reshape(9, 5)
    names, found = zip(*(line.split(" energy=") for line in draws[::2]), strict=True)
    assert names == tuple(f">{name}_{draw}" for name in ("first", "second", "whole") for draw in (1, 2, 3))
    assert draws[1::2] == ["".join("-ACGU"[k] for k in row) for row in numbers]
    model = own.opened(str(of_rna), "last", [], {"device": shipped("device")["cpu"]}).state.averaged_model()
    assert [*map(float, found)] == pytest.approx(energies(model, torch.from_numpy(numbers).long()).tolist(), abs=1e-5)
    filled = (tmp_path / "new/filled.fasta").read_text().splitlines()
    assert [line.split(" energy=")[0] for line in filled[::2]] == [">first", ">second", ">whole"]
    whole = np.load(tmp_path / "new/samples.npz")["filled"]
    assert filled[1::2] == ["".join("-ACGU"[k] for k in row) for row in whole]
    assert filled[5] == "ACGU-"
    assert f"given = {tmp_path}/open.fasta: dataset.ambiguous = gap: 1 letters of 15 are read as -, X" in answer.err
    with (tmp_path / "new/imputed.csv").open() as table:
        header, *rows = csv.reader(table)
    assert header == ["row", "name", "site", "letter", "share", "r_hat"]
    assert [row[:3] for row in rows] == [["1", "first", "2"], ["2", "second", "3"], ["2", "second", "4"]]
    assert [row[3] for row in rows] == [filled[1][1], filled[3][2], filled[3][3]]
    assert all(0 < float(row[4]) <= 1 for row in rows)


@pytest.mark.long
def test_a_contact_map_may_be_given_later_and_sites_count_from_1(run, tmp_path):
    touching = np.eye(6, k=5) + np.eye(6, k=-5)
    np.savez(tmp_path / "map.npz", contacts=touching)
    line = ("evaluate evaluation=[contacts] device=cpu evaluation.contacts.separation=4", f"run={run}")
    answer = ebm(*line, f"dataset.contacts={tmp_path}/map.npz")
    assert answer.code == 0, answer.err
    assert "contacts/precision_by_chance" in answer.out
    listed = next((run / "evaluations").rglob("contacts.csv")).read_text().splitlines()
    assert listed[0] == "i,j,score,contact"
    assert [line.split(",")[:2] for line in listed[1:]] == [["1", "6"]]


# Ranks


@pytest.mark.long
def test_the_correlation_of_ranks_and_its_interval():
    """Equal values share their rank; of normal numbers the interval is as wide as 2 x 1.96 (1 - rho^2) / sqrt(n)."""
    draw = np.random.default_rng(3)
    a = draw.normal(size=900)
    b = a + draw.normal(size=900)
    found = spearman(a.round(1), b.round(1), stream(0, "test"))
    assert found is not None
    assert found.rho == pytest.approx(spearmanr(a.round(1), b.round(1)).statistic, abs=1e-12)
    assert found.low < found.rho < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * (1 - found.rho**2) / 30, rel=0.15)
    assert spearman(a, -a, stream(0, "test")) == pytest.approx((-1, -1, -1))
    assert spearman(a[:2], b[:2], stream(0, "test")) is None
    assert spearman(a, np.ones(900), stream(0, "test")) is None
