"""Potts models, alignments and the contacts they predict."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import ebm
from helpers.components import component, shipped
from helpers.models import double_states, exact_p, randomised, small_model, target
from helpers.statistics import assert_close

from ebm_cli import registry
from ebm_cli.dataset import sequences
from ebm_cli.dataset.base import Truth, placeholder
from ebm_cli.dataset.protein import sequence_weights
from ebm_cli.errors import UserError
from ebm_cli.evaluation.base import Subject
from ebm_cli.evaluation.contacts import ranked, scores
from ebm_cli.rng import stream
from ebm_cli.space import Categorical, Spin

EXACT = {"rtol": 1e-12, "atol": 1e-12}


# The model


def test_energy_is_the_sum_over_edges_and_sites():
    model = target("potts-categorical")
    values = model.space.decode(double_states(model)).flatten(1).tolist()
    for row, energy in zip(values, model.energy(double_states(model)).tolist(), strict=True):
        expected = -sum(model.h[i, k].item() for i, k in enumerate(row))
        for number, (i, j) in enumerate(itertools.combinations(range(3), 2)):
            expected -= model.J[number, row[i], row[j]].item()
        assert energy == pytest.approx(expected, rel=1e-12)


def test_the_zero_sum_gauge_is_the_same_distribution():
    model = target("potts-categorical")
    J, h = model.zero_sum()
    for axis in (1, 2):
        assert_close(J.sum(axis), torch.zeros_like(J.sum(axis)), **EXACT)
    assert_close(h.sum(1), torch.zeros(3, dtype=torch.float64), **EXACT)
    p = exact_p(model)
    with torch.no_grad():
        model.J.copy_(J)
        model.h.copy_(h)
    assert_close(exact_p(model), p, **EXACT)


@pytest.mark.parametrize(("graph", "edges"), [("complete", 15), ("lattice", 7)])
def test_graphs(graph, edges):
    """A lattice of 2 x 3 sites that does not wrap."""
    model = small_model("potts", Categorical((2, 3, 4)), graph=graph, periodic=False)
    assert len(model.edges) == edges
    assert model.J.shape == (edges, 4, 4)
    for _, here in model.colours():
        assert not model.coupling().reshape(6, 4, 6, 4)[here][:, :, here].any()


def test_two_values_are_an_ising_model():
    """J = [[a, -a], [-a, a]] and h = (-b, b) on one-hot rows has the energies of spins with coupling a and field b."""
    space = Categorical((4, 2))
    potts = small_model("potts", space)
    ising = small_model("ising", Spin((4,)), graph="complete")
    with torch.no_grad():
        sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
        potts.J.copy_(ising.J[:, None, None] * sign)
        potts.h.copy_(torch.stack([-ising.b, ising.b], 1))
    assert_close(potts.energy(double_states(potts)), ising.energy(double_states(ising)), **EXACT)


# Alignments


def fasta(tmp_path, text):
    path = tmp_path / "family.fasta"
    path.write_text(text)
    return path


def alignment(path, **changes):
    config = shipped("dataset")["protein"] | {"path": str(path), "root": None, "held_out": 0.25}
    config |= {"ambiguous": "refuse", "inserts": "refuse"}
    return registry.build("dataset", config | changes)


ROWS = ">a one\nAC-\nD\n>b\nACCD\n>c\nDDDD\n>d\nCCCC\n>e\nACCD\n"


def test_fasta_records_may_be_broken_into_lines(tmp_path):
    assert sequences.read(fasta(tmp_path, ROWS), "file")[0] == ("a", "AC-D", 1)


def test_letters_are_their_places_in_the_alphabet_and_repeated_sequences_are_read_once(tmp_path):
    data = alignment(fasta(tmp_path, ROWS), alphabet="-ACD").load((Categorical,))
    assert data.space == Categorical((4, 4))
    splits = torch.cat([part.stored for part in (data.train, data.valid, data.test)])
    assert {tuple(row) for row in splits.tolist()} == {(1, 2, 0, 3), (1, 2, 2, 3), (3, 3, 3, 3), (2, 2, 2, 2)}
    assert len(splits) == 4
    x = data.train.all()
    assert data.space.contains(x)
    assert torch.equal(data.space.decode(x), data.train.stored.long())


def test_other_letters_are_read_as_the_unknown_one(tmp_path):
    data = alignment(fasta(tmp_path, ROWS), alphabet="-AC", unknown="-").load((Categorical,))
    assert max(part.stored.max() for part in (data.train, data.valid, data.test)) == 2


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        (ROWS, {"alphabet": "-AC"}, "sequence 1 (a) has the letter 'D', which dataset.alphabet lacks"),
        (ROWS + ">f\nACC\n", {}, "sequence 6 (f) has 3 letters, the first one 4; align them"),
        ("ACD\n", {}, "line 1: a FASTA file begins with a line >NAME"),
        ("", {}, "holds no sequence"),
        (">a\n", {}, "holds no sequence"),
        (ROWS, {"alphabet": "AAC"}, "dataset.alphabet = AAC: a letter is there twice"),
        (ROWS, {"alphabet": "-AC", "unknown": "?"}, "dataset.unknown = ?: not a letter of dataset.alphabet"),
        (">a\nAC\n>b\nAC\n", {}, "too few distinct sequences"),
    ],
)
def test_bad_alignments_are_refused_in_one_sentence(tmp_path, text, changes, expected):
    with pytest.raises(UserError, match=r"^[^\n]*$") as refused:
        alignment(fasta(tmp_path, text), **changes).read()
    assert expected in str(refused.value)


LONG = ">a\nACDEFGHIKL\n>b\nACDEFGHIKV\n>c\nACDEFGHI-V\n>d\nACDEFGH--V\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            LONG.replace("ACDEFGHIKV", "ACDaEFGHIKV"),
            "sequence 2 (b) has the letter 'a'; lower-case letters and full stops are the insert columns of a2m and "
            "a3m files, which are no sites; dataset.inserts=drop leaves them out",
        ),
        (LONG.replace("GH-", "GH."), "sequence 4 (d) has the letter '.'; in a2m files it marks insert columns"),
        (LONG.lower(), "its letters are lower case, which marks insert columns; write them in upper case"),
        (LONG.replace("IKL", "IK*"), "sequence 1 (a) has the letter '*', which ends a protein and is no site"),
        (">a\nACGU\n>b\nACG-\n>c\nUUGA\n", "holds the letters of nucleotides, -ACGU; set dataset.alphabet=rna"),
        (
            LONG.replace("IKL", "IKX"),
            "has the letter 'X', which dataset.alphabet lacks; it says that the residue is not known: dataset.ambig",
        ),
    ],
)
@pytest.mark.parametrize("unknown", [None, "-"])
def test_letters_that_are_no_sites_are_never_read_as_gaps(tmp_path, text, expected, unknown):
    """Whatever `unknown` says, which is for letters of residues nobody knows."""
    read = alignment(fasta(tmp_path, text), unknown=unknown).read
    if unknown and "'X'" in expected:
        assert "dataset.unknown = -: 1 letters of 40 are read as -, X" in read().remarks
        return
    with pytest.raises(UserError, match=r"^[^\n]*$") as refused:
        read()
    assert expected in str(refused.value)


def test_insert_columns_are_left_out_where_that_is_asked_for(tmp_path):
    text = LONG.replace("ACDEFGHIKV", "ACDqwEFGHIKV").replace("ACDEFGHIKL", "ACD..EFGHIKL")
    dropped = alignment(fasta(tmp_path, text), inserts="drop").load((Categorical,))
    plain = alignment(fasta(tmp_path, LONG)).load((Categorical,))
    assert dropped.fingerprint == plain.fingerprint
    assert dropped.space.sites == 10


def test_letters_of_dna_for_amino_acids_are_said(tmp_path):
    bases = np.random.Generator(np.random.Philox(2)).integers(0, 4, (9, 30))
    text = "".join(f">{i}\n{''.join('ACGT'[k] for k in row)}\n" for i, row in enumerate(bases))
    assert "only A, C, G and T occur" in alignment(fasta(tmp_path, text)).read().remarks[0]
    assert not alignment(fasta(tmp_path, text), alphabet="-ACGT").read().remarks
    with pytest.raises(UserError, match=r"letters of nucleotides, ACGT; set dataset.alphabet=dna"):
        alignment(fasta(tmp_path, text), alphabet="-ACGU").read()


def test_repeated_sequences_and_sites_of_gaps_are_said(tmp_path):
    text = ">a\nA-D\n>b\nD-D\n>c\n--A\n>d\nA-D\n"
    remarks = alignment(fasta(tmp_path, text), alphabet="-AD").read().remarks
    assert remarks == (
        "1 of 4 sequences repeat others and are read once",
        "1 of 3 sites are gaps in all sequences; take them out",
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"CLUSTAL W\n\na ACD\n", "it is an alignment in Clustal format; write it as aligned FASTA"),
        (LONG.encode("utf-16"), "it is text in UTF-16; convert it to UTF-8"),
        (b">a\nAC\xe9\n", r"cannot be read \(UnicodeDecodeError\); name a text file in UTF-8"),
    ],
    ids=["Clustal", "UTF-16", "Latin-1"],
)
def test_alignments_in_other_formats_are_called_by_their_names(tmp_path, content, expected):
    (tmp_path / "family.fasta").write_bytes(content)
    with pytest.raises(UserError, match=expected):
        alignment(tmp_path / "family.fasta").read()


@pytest.mark.parametrize("name", ["family.npz", "family.dat"])
def test_an_archive_is_known_by_its_content_and_its_letters_are_checked(tmp_path, name):
    msa = np.arange(27).reshape(9, 3) % 5
    with (tmp_path / name).open("wb") as file:
        np.savez(file, msa=msa, alphabet=np.array(list("ACDE-")))
    with pytest.raises(UserError, match=r"dataset.alphabet = -ACD.*: .* says ACDE-; set dataset.alphabet=ACDE-"):
        alignment(tmp_path / name).read()
    assert alignment(tmp_path / name, alphabet="ACDE-").load((Categorical,)).letters == "ACDE-"


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"rows": np.zeros((9, 3), int)}, "has no key msa"),
        ({"msa": np.zeros((9, 3))}, "msa has type float64 and shape (9, 3)"),
        ({"msa": np.full((9, 3), 21)}, "msa holds 21, dataset.alphabet has letters 0 to 20"),
        ({"msa": np.arange(27).reshape(9, 3) % 5, "contacts": np.eye(4)}, "sequences have 3 sites, contacts (4, 4)"),
        ({"msa": np.arange(27).reshape(9, 3) % 5, "contacts": np.triu(np.ones((3, 3)))}, "must be a symmetric matrix"),
        ({"msa": np.arange(27).reshape(9, 3) % 5, "contacts": np.full((3, 3), 7.5)}, "contacts has values from 7.5 to"),
        ({"msa": np.arange(27).reshape(9, 3) % 5, "contacts": np.zeros((3, 3))}, "contacts has values from 0 to 0"),
    ],
)
def test_bad_arrays_are_refused_in_one_sentence(tmp_path, arrays, expected):
    np.savez(tmp_path / "family.npz", **arrays)
    with pytest.raises(UserError) as refused:
        alignment(tmp_path / "family.npz").read()
    assert expected in str(refused.value)


def test_weights_share_what_is_alike():
    """Rows 0 and 1 agree in 3 of 4 sites, row 1 and 2 too, rows 0 and 2 in 2; row 3 stands alone."""
    rows = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1], [2, 2, 2, 2]], np.uint8)
    assert sequence_weights(rows, 0.75).tolist() == [1 / 2, 1 / 3, 1 / 2, 1]
    assert sequence_weights(rows, 0.5).tolist() == [1 / 3, 1 / 3, 1 / 3, 1]
    assert sequence_weights(rows, 1.0).tolist() == [1, 1, 1, 1]


def test_a_share_a_little_above_counts_what_is_above_alone():
    """As adabmDCA does: at a whole number of sites that agree, here 4 of 5, the two rules differ."""
    rows = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 0, 1]], np.uint8)
    assert sequence_weights(rows, 0.8).tolist() == [0.5, 0.5]
    assert sequence_weights(rows, 0.80001).tolist() == [1, 1]


def test_the_mean_is_weighted(tmp_path):
    data = alignment(fasta(tmp_path, ROWS), alphabet="-ACD", reweight=0.5).load((Categorical,))
    weights, x = data.train.weights, data.train.all().double()
    assert_close(data.train.mean().double(), (weights[:, None, None] * x).sum(0) / weights.sum(), rtol=1e-6, atol=0)
    assert data.train.size == weights.sum().item()


# Contacts


def test_scores_are_those_of_the_definition():
    """Frobenius norms without the gap in the zero-sum gauge, then the average product correction, in loops."""
    model = randomised(small_model("potts", Categorical((5, 4))))
    found, sites, edges = scores(model, 0), 5, model.edges.tolist()
    plain = np.zeros((sites, sites))
    for (i, j), J in zip(edges, model.J.detach().numpy(), strict=True):
        centred = J - J.mean(0) - J.mean(1)[:, None] + J.mean()
        plain[i, j] = plain[j, i] = np.sqrt((centred[1:, 1:] ** 2).sum())
    mean = plain.sum(1) / (sites - 1)
    whole = plain.sum() / sites / (sites - 1)
    for i, j in itertools.permutations(range(sites), 2):
        assert found[i, j].item() == pytest.approx(plain[i, j] - mean[i] * mean[j] / whole, rel=1e-12)


def test_pairs_are_ranked_by_score_beyond_the_separation():
    score = torch.zeros(6, 6)
    for rank, (i, j) in enumerate([(0, 5), (1, 2), (2, 5), (0, 3)]):
        score[i, j] = score[j, i] = 10 - rank
    assert ranked(score, 2).tolist()[:3] == [[0, 5], [2, 5], [0, 3]]
    assert all(j - i > 2 for i, j in ranked(score, 2).tolist())


def family(tmp_path: Path, rows: int = 3000) -> Path:
    """Sequences of 8 letters where sites 0 and 4, 1 and 6 agree three times in four."""
    key = np.random.Generator(np.random.Philox(1))
    msa = key.integers(0, 5, (rows, 8))
    for i, j in ((0, 4), (1, 6)):
        same = key.random(rows) < 0.75
        msa[same, j] = msa[same, i]
    contacts = np.zeros((8, 8), bool)
    contacts[[0, 4, 1, 6], [4, 0, 6, 1]] = True
    np.savez(tmp_path / "family.npz", msa=msa, contacts=contacts)
    return tmp_path / "family.npz"


def summary(out):
    """The numbers that a run prints at its end."""
    lines = [line.split() for line in out.splitlines()]
    return {line[0]: float(line[1]) for line in lines if len(line) == 2 and line[0].startswith("contacts/")}


@pytest.mark.long
@pytest.mark.parametrize("objective", ["pseudo_likelihood", "pcd"])
def test_a_run_finds_contacts(tmp_path, objective, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = ebm(
        f"train experiment=potts_protein objective={objective} dataset.path={family(tmp_path)} dataset.alphabet=-ACDE "
        "dataset.reweight=null steps=150 batch_size=100 chains.count=50 tracker=none hydra.run.dir=run eval_every=0 "
        "evaluation=[contacts] evaluation.contacts.separation=2 evaluation.contacts.top=2"
    )
    assert answer.code == 0, answer.err
    assert summary(answer.out)["contacts/precision_top2"] == 1
    assert Path("run/samples/contacts.png").exists()
    listed = Path("run/samples/contacts.csv").read_text().splitlines()
    assert listed[0] == "i,j,score,contact"
    assert {line.split(",")[0] + line.split(",")[1] + line[-1] for line in listed[1:3]} == {"151", "271"}  # from 1
    assert len(listed) == 1 + 5 * 6 // 2
    assert ebm("sample run=run n=5 steps=3").code == 0
    samples = np.load(next(Path("run/samples").glob("*/samples.npz")))["samples"]
    assert samples.dtype == np.uint8
    assert samples.shape == (5, 8)
    assert samples.max() < 5


@pytest.mark.long
def test_pairs_are_scored_where_no_contacts_are_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = np.load(family(tmp_path, 300))["msa"]
    Path("family.fasta").write_text(
        "".join(f">{n}\n{''.join('-ACDE'[i] for i in row)}\n" for n, row in enumerate(rows))
    )
    answer = ebm(
        "train experiment=potts_protein dataset.path=family.fasta dataset.alphabet=-ACDE dataset.reweight=null "
        "steps=100 batch_size=100 tracker=none hydra.run.dir=run eval_every=0 evaluation=[contacts] "
        "evaluation.contacts.separation=2"
    )
    assert answer.code == 0, answer.err
    assert "the contacts of these data are not known, so nothing is compared" in answer.err
    assert Path("run/samples/contacts.png").exists()
    assert Path("run/samples/contacts.csv").read_text().splitlines()[0] == "i,j,score"


def of_letters(letters: str, **changes):
    """(the evaluation of contacts, a subject) of a Potts model with sites 0 and 4, 1 and 6 coupled and gaps that lie.

    Gaps go together at sites 2 and 7, as they do in real alignments.
    """
    space = Categorical((8, len(letters) or 5))
    model = small_model("potts", space)
    gap = (letters or "-").index("-") if "-" in (letters or "-") else None
    with torch.no_grad():
        model.J.zero_()
        for edge, pair in enumerate(model.edges.tolist()):
            if pair in ([0, 4], [1, 6]):
                model.J[edge] = torch.eye(space.values)
            if pair == [2, 7] and gap is not None:
                model.J[edge, gap, gap] = 9
    contacts = torch.zeros(8, 8, dtype=torch.bool)
    contacts[[0, 4, 1, 6], [4, 0, 6, 1]] = True
    data = dataclasses.replace(placeholder(space), truth=Truth(contacts=contacts), letters=letters)
    evaluation = component("evaluation", "contacts", **{"separation": 2, "top": 2} | changes)
    return evaluation, Subject(model, data, "test", component("sampler", "gibbs"), torch.zeros(0), stream(0))


@pytest.mark.parametrize("letters", ["-ACGU", "ACGU-", "AC-GU"])
def test_the_gap_is_found_by_its_letter(letters):
    evaluation, subject = of_letters(letters)
    result = evaluation.evaluate(subject)
    assert result.metrics["contacts/precision_top2"] == 1
    assert result.warnings == ()


@pytest.mark.parametrize(("letters", "said"), [("ACGUX", "the letters ACGUX have no gap"), ("", "have no letters")])
def test_where_no_letter_is_a_gap_that_is_said(letters, said):
    evaluation, subject = of_letters(letters)
    (warning,) = evaluation.evaluate(subject).warnings
    assert said in warning
    assert of_letters(letters, gap=0)[0].evaluate(subject).warnings == ()


def test_couplings_of_zero_rank_nothing():
    evaluation, subject = of_letters("-ACGU")
    torch.nn.init.zeros_(subject.model.J)
    result = evaluation.evaluate(subject)
    assert result.metrics == {}
    assert result.warnings == ("all couplings are 0, so no pair has a score",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"separation": 7}, "evaluation.contacts.separation = 7: 8 sites have no such pairs; 6 at most"),
        ({"gap": 5}, "evaluation.contacts.gap = 5: the values are 0 to 4"),
    ],
)
def test_pairs_and_gaps_that_are_not_there_are_refused(changes, said):
    evaluation, subject = of_letters("-ACGU", **changes)
    assert evaluation.refusal_of_data(subject.data).startswith(said)
    assert of_letters("-ACGU")[0].refusal_of_data(subject.data) is None


@pytest.mark.data
@pytest.mark.long
@pytest.mark.parametrize("objective", ["pseudo_likelihood", "pcd"])
def test_contacts_of_kunitz_domains(tmp_path, objective, monkeypatch):
    """Precision of the top 20 at least 0.95, of the top 53 at least 0.88, after a tenth of the experiment's steps."""
    monkeypatch.chdir(tmp_path)
    answer = ebm(
        f"train experiment=potts_protein objective={objective} steps=150 eval_every=0 evaluation=[contacts] "
        "tracker=none hydra.run.dir=run"
    )
    assert answer.code == 0, answer.err
    found = summary(answer.out)
    assert found["contacts/precision_top20"] >= 0.95
    assert found["contacts/precision_l"] >= 0.88


def test_a_random_graph_is_a_function_of_the_key():
    space = Categorical((30, 3))
    spec = component("model", "potts", graph="erdos_renyi")
    mean = torch.full(space.shape, 1 / 3)
    a, b, c = (spec.build(space, mean, stream(seed, "model")).edges for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
