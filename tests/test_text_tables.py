"""Tables in text: which line names the columns, cells without a value, separators, quotation marks, files that are
packed."""

import gzip

import numpy as np
import pytest
from helpers.cli import assert_refused, ebm

from ebm_cli.dataset import mutations, own_rows, table_files
from ebm_cli.errors import UserError


def read(path, text: str):
    path.write_text(text)
    return own_rows.read(path, "data = FILE", None)


@pytest.mark.parametrize("nothing", ["NA", "N/A", "NaN", "nan", "null", "NULL", "?", "-", "", "NAN"])
def test_a_first_line_of_numbers_and_missing_cells_is_a_row(tmp_path, nothing):
    """As a line below is, whose cells that say there is no value are the same."""
    found = read(tmp_path / "rows.csv", f"1,{nothing},0,1\n0,1,1,{nothing}\n1,1,0,1\n")
    assert found.values.tolist() == [[1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 0, 1]]
    assert np.argwhere(found.missing).tolist() == [[0, 1], [1, 3]]
    assert found.place(0) == "line 1"


NAMED = {
    "a,b\n": [],
    "0,1,2\n": [],
    "a,NA\n": [],
    "0,1,label\n": ["x", "y"],
    "row,label,v_1,v_2\n": ["x", "y"],
    "row,a,b\n": [],
}


@pytest.mark.parametrize("first", NAMED)
def test_a_first_line_of_words_names_the_columns(tmp_path, first):
    """What they are called is not compared; row and label are no values."""
    cells = {"row": "9", "label": "xy"}
    lines = [
        ",".join(cells.get(name, "56")[i % len(cells.get(name, "56"))] for name in first.strip().split(","))
        for i in range(2)
    ]
    found = read(tmp_path / "rows.csv", first + "\n".join(lines) + "\n")
    assert set(found.values.flatten().tolist()) == {5, 6}
    assert len(found.values) == 2
    assert ([] if found.labels is None else found.labels.tolist()) == NAMED[first]
    assert found.place(0) == "line 2"


REFUSED = {
    "0.1,o.2,0.7\n0,1,1\n": r"line 1: has numbers and words \('o\.2'\), so it is neither a row nor",
    "0.1,0.2,label\n0,1,1\n": r"line 1: has numbers and words \('label'\)",
    "1,5;0,25;3\n": r"line 1: '1,5' is no number; write decimals with a point",
    "1,5\t0,25\n2,5\t3,5\n": r"line 1: '1,5' is no number; write decimals with a point",
    'a,b\n1,2\n1,"2\n3,4\n': "line 3: a quotation mark that opens there is never closed; close it, or take it out",
    'a,b\n"1"2,3\n': "line 2: cannot be told into cells .*; write a quotation mark within quoted text twice",
}


@pytest.mark.parametrize("text", REFUSED)
def test_lines_that_are_no_rows_are_refused_with_the_way_out(tmp_path, text):
    with pytest.raises(UserError, match=f"^data = FILE, {REFUSED[text]}"):
        read(tmp_path / "rows.csv", text)


def test_rows_may_be_packed_by_gzip_and_signs_stand_between_numbers(tmp_path):
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf1;2\n\n3;4\n"))
    assert own_rows.read(tmp_path / "rows.csv.gz", "data", None).values.tolist() == [[1, 2], [3, 4]]
    (tmp_path / "cut.csv.gz").write_bytes((tmp_path / "rows.csv.gz").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"^data: cannot be unpacked"):
        own_rows.read(tmp_path / "cut.csv.gz", "data", None)
    assert read(tmp_path / "rows.csv", "1|2\n3|4\n").values.tolist() == [[1, 2], [3, 4]]


HEADS = {
    "5.1,3.5,setosa": "its first line, 5.1, 3.5, setosa, looks like a row; it must name the columns",
    "39,77,39": "its first line, 39, 77, 39, looks like a row",
    "39, State-gov, 13": "its first line, 39, State-gov, 13, looks like a row",
    "NA,0.7": "its first line, NA, 0.7, looks like a row",
    "1,,2": "looks like a row",
    ",a,b": "column 1 has no name",
    "town,2019,2020": None,
    "0,1,label": None,
}


@pytest.mark.parametrize("head", HEADS)
def test_a_table_whose_first_line_is_a_row_is_refused(tmp_path, head):
    """Whole numbers that rise beside words may be names, as years are."""
    file = tmp_path / "t.csv"
    file.write_text(head + "\n" + ",".join("123"[: head.count(",") + 1]) + "\n")
    if HEADS[head] is None:
        assert table_files.read(file, "here").data.columns == head.split(",")
        return
    with pytest.raises(UserError) as error:
        table_files.read(file, "here")
    assert HEADS[head] in str(error.value)


def test_a_dash_is_missing_among_numbers_alone(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\n1.5,+,x\n-,-,-\nNA,+,null\n")
    found = table_files.read(tmp_path / "t.csv", "here").data
    assert found.to_dict(as_series=False) == {
        "a": ["1.5", None, None],
        "b": ["+", "-", "+"],
        "c": ["x", "-", None],
    }


def test_an_open_quotation_mark_is_named_in_every_table(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text('mutant,DMS_score\nA1G,1\n"A1G,2\n')
    wild = mutations.WildType(np.array([0]), "AG", 1)
    columns = mutations.Columns("mutant", "DMS_score")
    for reader in (lambda: table_files.read(file, "here"), lambda: mutations.read(file, "here", columns, wild)):
        with pytest.raises(UserError, match=r"^here, line 3: a quotation mark that opens there is never closed"):
            reader()
    file.write_text("mutant,DMS_score\nA1G,NA\n")
    assert np.isnan(mutations.read(file, "here", columns, wild).measured).all()


@pytest.mark.long
def test_what_commands_say_of_rows_that_may_be_meant_otherwise(tmp_path):
    """filled.csv can be scored; -1 and 1 alone are bits, with a warning; numbers far from all others are one too."""
    g = np.random.default_rng(0)
    np.savez(tmp_path / "bits.npz", train=(g.random((60, 4)) < 0.4).astype(np.uint8))
    np.savez(tmp_path / "real.npz", train=g.normal(size=(60, 2)))
    short = ("steps=4", "batch_size=10", "tracker=none", "device=cpu", "checkpoint.monitor=null", "evaluation=[]")
    of_real = ("model=gaussian_rbm", "dataset.standardise=true")
    for name, more in (("bits", ()), ("real", of_real)):
        line = ("model.hidden=2", f"dataset.path={tmp_path}/{name}.npz", f"hydra.run.dir={tmp_path}/{name}", *more)
        assert ebm("train dataset=array", *line, *short).code == 0
    bits, file = f"run={tmp_path}/bits", tmp_path / "rows.csv"
    file.write_text("1,NA,0,1\n1,?,0,1\n")
    answer = ebm("sample", bits, f"given={file}", "n=2", "steps=4", "device=cpu", f"out={tmp_path}/made")
    assert "2 rows, 2 values drawn" in answer.out
    answer = ebm("score", bits, f"data={tmp_path}/made/filled.csv", "device=cpu")
    assert (answer.code, answer.err) == (0, "")
    file.write_text("1,-1,1,-1\n1,1,1,1\n")
    assert "-1 is taken for the bit 0" in ebm("score", bits, f"data={file}", "device=cpu").err
    assert_refused(ebm("sample", bits, f"given={file}", "device=cpu"), "may be spins")
    file.write_text("0,0\n0,3e7\n")
    answer = ebm("score", f"run={tmp_path}/real", f"data={file}", "device=cpu")
    assert answer.code == 0
    assert "line 2: value 2 is 3e+07 standard deviations from the mean of the training rows" in answer.err
