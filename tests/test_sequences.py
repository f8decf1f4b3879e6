"""Alignments as tools write them: a2m, a3m, Stockholm, gzip; what letters are read as, what is left out."""

import gzip

import numpy as np
import pytest
from helpers.components import shipped

from ebm_cli import registry
from ebm_cli.dataset.alignment import distinct_rows
from ebm_cli.dataset.protein import sequence_weights
from ebm_cli.errors import UserError

PLAIN = ">q\nACDEFGHIKL\n>b\nACDEFGHIKV\n>c\nACDEFGHI-V\n>d\nACDEFGH--V\n"
A3M = "#A3M#\n>q\nACDEFGHIKL\n>b\nACDqwEFGHIKV\n>c\nACDEFGHI-Vw\n>d\nACDEFGH--V\n"
A2M = ">q\nACD..EFGHIKL.\n>b\nACDqwEFGHIKV.\n>c\nACD..EFGHI-Vw\n>d\nACD..EFGH--V.\n"
BLOCKS = """# STOCKHOLM 1.0
#=GF ID   Test
q ACD..EFG
b ACDqwEFG
#=GR b SS CCC..CCC
c ACD..EFG
d ACD..EFG
{}
q HIKL.
b HIKV.
c HI-Vw
d H--V.
{}
//
"""
STOCKHOLM = BLOCKS.format("", "")
REFERENCE = BLOCKS.format("#=GC RF xxx..xxx", "#=GC RF xxxx.")
PFAM = "# STOCKHOLM 1.0\nq ACDEFGHIKL\nb ACDEFGHIKV\nc ACDEFGHI.V\nd ACDEFGH..V\n//\n"


def alignment(path, **changes):
    registry.load_components()
    config = shipped("dataset")["protein"] | {"path": str(path), "root": None, "held_out": 0.25}
    return registry.build("dataset", config | changes)


def written(tmp_path, text, *, packed=False):
    path = tmp_path / "family.fasta"
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if packed else text.encode())
    return path


def rows_of(raw):
    return sorted(tuple(row) for part in raw.splits().values() for row in part.values.tolist())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (A3M, "3 letters of insert columns are left out; the 10 columns of the first sequence, q, are kept"),
        (A2M, "3 letters of insert columns are left out; the 10 columns of the first sequence, q, are kept"),
        (STOCKHOLM, "3 letters of insert columns are left out; the 10 columns of the first sequence, q, are kept"),
        (REFERENCE, None),
        (PFAM, "3 full stops are read as gaps: no letter is lower case, so none is an insert"),
        (PLAIN.replace("-", "."), "3 full stops are read as gaps: no letter is lower case, so none is an insert"),
    ],
    ids=["a3m", "a2m", "stockholm", "reference", "pfam", "fasta"],
)
def test_every_format_has_the_sites_of_the_query(tmp_path, text, said, packed):
    due = rows_of(alignment(written(tmp_path, PLAIN)).read())
    path = written(tmp_path, text, packed=packed)
    reader = alignment(path)
    raw = reader.read()
    assert rows_of(raw) == due
    assert raw.remarks == (() if said is None else (said,))
    own = reader.own_rows(path, "data = x", None)
    assert sorted(map(tuple, own.values.tolist())) == due
    assert own.labels.tolist() == ["q", "b", "c", "d"]


def test_rows_without_repetition():
    """As numpy has them, which makes a field of each site and is slow of ten million."""
    for letters, sites in ((2, 3), (21, 5), (256, 1)):
        rows = np.random.default_rng(0).integers(0, letters, (300, sites)).astype(np.uint8)
        for found, due in zip(distinct_rows(rows), np.unique(rows, axis=0, return_counts=True), strict=True):
            assert np.array_equal(found, due)
    long = np.zeros((3, 10**6), np.uint8)
    long[1, -1] = 1
    assert distinct_rows(long)[1].tolist() == [2, 1]


def test_names_have_no_signs_before_them(tmp_path):
    """Some tools write two; a name that is missing is the number of the sequence."""
    text = (
        PLAIN.replace(">q", ">>q").replace(">b", "> b of a long name").replace(">c", ">>").replace(">d", "\ufeff>d>e")
    )
    own = alignment(path := written(tmp_path, text.replace("\ufeff", ""))).own_rows(path, "data = x", None)
    assert own.labels.tolist() == ["q", "b", "3", "d>e"]


def test_a_sequence_is_found_by_its_name(tmp_path):
    """Typed with the signs before it or without; of others one may be left out, or not readable."""
    text = PLAIN.replace(">q", ">>q").replace(">b\nA", ">b long\nX") + ">d\nACDEFGHIKV\n>e\nACDEFGHI*V\n"
    path = written(tmp_path, text)
    reader = alignment(path, ambiguous="drop")
    for name in ("q", ">q", ">>q", "> q"):
        rows, names = reader.named(path, "x", name)
        assert "".join(reader.letters[k] for k in rows[0]) == "ACDEFGHIKL"
    assert names == ["q", "b", "c", "d", "d", "e"]
    assert len(reader.named(path, "x", "d")[0]) == 2
    assert len(reader.named(path, "x", "none")[0]) == 0
    for name, said in (("b", r"line 3: .*'X'"), ("e", r"line 11: .*'\*'")):
        with pytest.raises(UserError, match=said):
            reader.named(path, "x", name)


def test_letters_that_leave_the_residue_open_are_gaps_or_leave_with_their_sequence(tmp_path):
    path = written(tmp_path, PLAIN + ">x\nACXEFUHIKB\n")
    raw = alignment(path).read()
    assert "dataset.ambiguous = gap: 3 letters of 50 are read as -, BUX" in raw.remarks
    assert rows_of(raw) == rows_of(alignment(written(tmp_path, PLAIN + ">x\nAC-EF-HIK-\n")).read())
    path = written(tmp_path, PLAIN + ">x\nACXEFUHIKB\n")
    raw = alignment(path, ambiguous="drop").read()
    assert "1 of 5 sequences have one of BJOUXZ and are left out" in raw.remarks
    assert len(rows_of(raw)) == 4
    with pytest.raises(UserError, match=r"line 9: sequence 5 \(x\) has the letter 'B'.* dataset.ambiguous=gap reads"):
        alignment(path, ambiguous="refuse").read()
    with pytest.raises(UserError, match=r"data = x, line 9: sequence 5 \(x\) has the letter 'B'"):
        alignment(path, ambiguous="drop").own_rows(path, "data = x", None)
    with pytest.raises(UserError, match=r"line 9: sequence 5 \(x\) has the letter '1', .*; add it there if it is a st"):
        alignment(written(tmp_path, PLAIN + ">x\nACDEFGHIK1\n")).read()


def test_rna_and_dna_have_alphabets_with_names(tmp_path):
    path = written(tmp_path, ">a\nACGU\n>b\nACGT\n>c\nUUNA\n>d\nGGGG\n")
    raw = alignment(path, alphabet="rna").read()
    assert (raw.letters, raw.categories) == ("-ACGU", 5)
    assert raw.remarks[:2] == (
        "1 letters of 16 are read as U, T",
        "dataset.ambiguous = gap: 1 letters of 16 are read as -, N",
    )
    assert len(rows_of(raw)) == 3
    assert rows_of(alignment(path, alphabet="dna").read()) == rows_of(raw)
    assert alignment(path, alphabet="protein").letters == shipped("dataset")["protein"]["alphabet"]
    with pytest.raises(UserError, match=r"holds the letters of nucleotides, ACGNTU; set dataset.alphabet=rna"):
        alignment(path).read()


def test_sequences_of_gaps_are_left_out_and_counted(tmp_path):
    path = written(tmp_path, PLAIN)
    raw = alignment(path, max_gaps=0.1).read()
    assert "dataset.max_gaps = 0.1: 1 of 4 sequences have more than 10% gaps and are left out" in raw.remarks
    assert len(rows_of(raw)) == 3
    with pytest.raises(UserError, match=r"dataset.max_gaps = 0: each sequence of .* has more; raise it"):
        alignment(written(tmp_path, PLAIN.replace("A", "-")), max_gaps=0.0).read()


def test_sequences_that_repeat_weigh_as_many_as_they_are(tmp_path):
    """As the sum of the weights that each copy has where they are all kept."""
    rows = np.random.default_rng(0).integers(0, 3, (40, 4)).astype(np.uint8)
    distinct, count = np.unique(rows, axis=0, return_counts=True)
    each = sequence_weights(rows, 0.75)
    due = [each[(rows == row).all(1)].sum() for row in distinct]
    assert np.allclose(sequence_weights(distinct, 0.75, count.astype(float)), due)
    path = written(
        tmp_path, PLAIN + ">b2\nACDEFGHIKV\n>b3\nACDEFGHIKV\n>c2\nACDEFGHI-V\n>q2\nACDEFGHIKL\n>d2\nACDEFGH--V\n"
    )
    raw = alignment(path, duplicates="weigh", reweight=None).read()
    assert "5 of 9 sequences repeat others and are weighed as one" in raw.remarks
    assert set(raw.train.weights) <= {2.0, 3.0}
    assert alignment(path, reweight=None).read().train.weights is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (STOCKHOLM.replace("//\n", ""), "ends with a line //, so this one is cut short"),
        (STOCKHOLM + STOCKHOLM, "holds 2 alignments; take one out"),
        (STOCKHOLM.replace("b ACDqwEFG", "b ACDqw EFG"), "line 4: has 3 words; it must be a name and letters"),
        (REFERENCE.replace("c ACD..EFG", "c ACD..EF"), "line 6: c has 12 letters, the line #=GC RF 13; align them"),
        (A3M.replace("IKV", "IK"), r"line 4: sequence 2 \(b\) has 9 letters, the first one 10; align them"),
    ],
)
def test_files_that_are_no_alignment_are_refused_with_their_line(tmp_path, text, said):
    with pytest.raises(UserError, match=said) as caught:
        alignment(written(tmp_path, text)).read()
    assert "\n" not in str(caught.value)


def test_a_packed_file_larger_than_memory_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path, ">a\n" + "A" * 10**5, packed=True)
    monkeypatch.setattr("ebm_cli.device.memory.room", lambda: 10**5)
    with pytest.raises(UserError, match=r"reading it takes .* of memory, 100 kB are available"):
        alignment(path).read()
    path.write_bytes(path.read_bytes()[:-9])
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"cannot be read \(EOFError\)"):
        alignment(path).read()


def test_runs_of_before_read_their_alignment_as_they_did(tmp_path):
    keys = shipped("dataset")["protein"]
    before = {key: keys[key] for key in keys.keys() - {"ambiguous", "duplicates", "max_gaps"}}
    reader = registry.build("dataset", before | {"path": "x", "inserts": "refuse"})
    assert (reader.ambiguous, reader.duplicates, reader.max_gaps, reader.inserts) == ("refuse", "once", None, "refuse")
