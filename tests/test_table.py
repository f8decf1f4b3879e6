"""`dataset=table`: what columns are taken for, rows matched by name, tables written back, and refusals."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli import assert_refused, ebm, snapshot
from helpers.components import component

from ebm_cli.commands import tables
from ebm_cli.dataset import table_columns, table_files, table_rows
from ebm_cli.dataset.base import Data
from ebm_cli.dataset.columns import Column, Columns
from ebm_cli.errors import UserError
from ebm_cli.model.mixed_rbm import MixedRBM
from ebm_cli.space import Binary, Categorical, Mixed, Real

NAMES = ("sick", "town", "age", "size", "weight")
SHORT = ("batch_size=50", "tracker=none", "device=cpu", "checkpoint.monitor=null", "eval_every=0", "evaluation=[]")


def drawn(rows: int) -> list[list[str]]:
    """Two classes with laws of their own."""
    g, found = np.random.default_rng(0), []
    for kind in g.integers(2, size=rows):
        sick, town = g.random() < (0.2, 0.8)[kind], g.choice(3, p=((0.7, 0.2, 0.1), (0.1, 0.3, 0.6))[kind])
        age, size = g.normal((30, 50)[kind], 5), g.choice(3, p=((0.6, 0.3, 0.1), (0.2, 0.2, 0.6))[kind])
        row = ["yes" if sick else "no", "ABC"[town], int(age), "SML"[size], f"{g.normal((1, 3)[kind], 1):.3f}"]
        found.append([str(cell) for cell in row])
    return found


def written(path: Path, names, rows, separator: str = ",") -> Path:
    path.write_text("\n".join(separator.join(cells) for cells in [names, *rows]) + "\n")
    return path


COLUMNS = "dataset.columns={size: [S, M, L]}"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    file = written(folder / "rows.csv", NAMES, drawn(300))
    line = (
        f"dataset.path={file}",
        COLUMNS,
        "model=mixed_rbm",
        "model.hidden=3",
        "steps=30",
        f"hydra.run.dir={folder}/run",
    )
    answer = ebm("train dataset=table", *line, *SHORT)
    assert answer.code == 0, answer.err
    return folder / "run"


def rows_of(answer, file: str) -> list[dict[str, str]]:
    """The lines of a table that a command wrote."""
    assert answer.code == 0, answer.err
    path = next(word for line in answer.out.splitlines() for word in line.split() if word.endswith(file))
    with Path(path).open() as text:
        return list(csv.DictReader(text))


def test_samples_are_a_table_of_the_same_columns_and_types(run, tmp_path):
    import polars

    found = rows_of(ebm("sample", f"run={run}", "n=20", "steps=5", "device=cpu"), "samples.csv")
    assert tuple(found[0]) == NAMES
    assert {row["town"] for row in found} <= {*"ABC"}
    assert {row["sick"] for row in found} <= {"yes", "no"}
    assert all(row["age"] == str(int(row["age"])) and 0 < int(row["age"]) < 90 for row in found)
    assert ebm("sample", f"run={run}", "n=7", "steps=5", "device=cpu", "format=parquet", f"out={tmp_path}/p").code == 0
    types = dict(polars.read_parquet(tmp_path / "p" / "samples.parquet").schema)
    text = polars.String
    assert types == dict(zip(NAMES, (text, text, polars.Int64, text, polars.Float64), strict=True))
    with np.load(tmp_path / "p" / "samples.npz") as arrays:
        assert arrays["samples"].shape == (7, 5)


@pytest.mark.long
def test_rows_are_matched_by_name_and_typed_cells_are_those_of_text(run, tmp_path):
    """Another order, columns in between, a Parquet file, and the codes themselves have the same scores."""
    import polars

    rows = drawn(12)
    others = [[row[i] for i in (3, 0, 4, 2, 1)] + ["x"] for row in rows]
    plain = written(tmp_path / "plain.csv", NAMES, rows)
    turned = written(tmp_path / "turned.tsv", [*(NAMES[i] for i in (3, 0, 4, 2, 1)), "note"], others, "\t")
    polars.read_csv(plain).write_parquet(tmp_path / "typed.parquet")
    polars.read_csv(plain).write_ipc(tmp_path / "typed.feather")
    codes = [[s == "yes", "ABC".index(t), float(a), "SML".index(z), float(w)] for s, t, a, z, w in rows]
    np.save(tmp_path / "codes.npy", np.array(codes, float))
    files = (plain, turned, tmp_path / "typed.parquet", tmp_path / "typed.feather", tmp_path / "codes.npy")
    found = [rows_of(ebm("score", f"run={run}", f"data={file}", "device=cpu"), "scores.csv") for file in files]
    assert all(table == found[0] for table in found)
    assert {"free_energy", "log_p"} < {*found[0][0]}


@pytest.mark.long
def test_gaps_are_filled_and_nothing_else_changes(run, tmp_path):
    rows = [["", "B", "31", "S", "1.50"], ["yes", "NA", "?", "M", "2.000"], ["no", "A", "40", "", ""], *drawn(1)]
    notes = [[*row, f"note {i}"] for i, row in enumerate(rows)]
    file = written(tmp_path / "gaps.csv", [*NAMES, "note"], notes)
    answer = ebm("sample", f"run={run}", f"given={file}", "n=4", "steps=20", "device=cpu")
    found = rows_of(answer, "filled.csv")
    assert [tuple(row) for row in found] == [(*NAMES, "note")] * 4
    for row, own in zip(found, notes, strict=True):
        cells = [*zip(row.values(), own, strict=True)]
        assert all(cell == there for cell, there in cells if there not in ("", "NA", "?"))
        assert all(cell not in ("", "NA", "?") for cell, _ in cells)
    figures = rows_of(answer, "imputed.csv")
    assert [(row["row"], row["column"]) for row in figures] == [
        ("1", "sick"), ("2", "town"), ("2", "age"), ("3", "size"), ("3", "weight"),
    ]  # fmt: skip
    assert figures[0]["mode"] == found[0]["sick"]
    assert figures[3]["q50"] in "SML"
    assert not figures[1]["mean"]


def test_features_of_a_table(run, tmp_path):
    file = written(tmp_path / "rows.csv", NAMES, drawn(3))
    answer = ebm("transform", f"run={run}", f"data={file}", "device=cpu")
    assert [*rows_of(answer, "features.csv")[0]] == ["row", "hidden_1", "hidden_2", "hidden_3"]


GOOD = ["yes", "B", "31", "S", "1.5"]


@pytest.mark.quick("names0*", "names5*", "names8*", "names9*")
@pytest.mark.parametrize(
    ("names", "rows", "words"),
    [
        (NAMES[:4], [GOOD[:4]], "has no column 'weight', which the run's model is of"),
        (NAMES, [GOOD, ["yes", "D", "31", "S", "1.5"]], "line 3: column 'town' holds 'D', which is none"),
        (NAMES, [GOOD, ["yes", "B", "31", "S", "1.5.2"]], "line 3: column 'weight' holds '1.5.2', which is no"),
        (NAMES, [["yes", "B", "31", "S", '"1,5"']], "line 2: column 'weight' holds '1,5', which is no number; w"),
        (NAMES, [["yes", "B", "31", "S", "1e400"]], "line 2: column 'weight' holds 1e400, which is no finite number"),
        (NAMES, [GOOD, GOOD[:3]], "line 3: has 3 cells, the first line 5; make them equal"),
        (NAMES, [[*GOOD, "x"]], "line 2: has 6 cells, the first line 5"),
        (("sick", "sick", *NAMES[1:]), [["no", *GOOD]], "two columns are called 'sick'"),
        (("", *NAMES), [["0", *GOOD]], "column 1 has no name"),
        (NAMES, [], "holds no row"),
        (NAMES, [["", *GOOD[1:]]], "line 2: column 'sick' is missing; fill it in"),
    ],
)  # fmt: skip
def test_rows_that_are_none_of_the_run_s(run, tmp_path, names, rows, words):
    file, before = written(tmp_path / "bad.csv", names, rows), snapshot(run)
    assert_refused(ebm("score", f"run={run}", f"data={file}", "device=cpu"), words)
    assert snapshot(run) == before


@pytest.mark.long
def test_numbers_in_exponent_form_are_numbers(run, tmp_path):
    one = written(tmp_path / "one.csv", NAMES, [GOOD])
    other = written(tmp_path / "other.csv", NAMES, [["yes", "B", "3.1e1", "S", "15E-1"]])
    found = [rows_of(ebm("score", f"run={run}", f"data={file}", "device=cpu"), "scores.csv") for file in (one, other)]
    assert found[0] == found[1]


@pytest.mark.long
def test_a_run_without_its_columns_says_so(run, tmp_path):
    file, own = written(tmp_path / "rows.csv", NAMES, [GOOD]), run / "columns.json"
    text = own.read_text()
    try:
        for bad in ("{}", text.replace('"binary"', '"numeric"'), text.replace('"M"', '"S"')):
            own.write_text(bad)
            assert_refused(
                ebm("score", f"run={run}", f"data={file}", "device=cpu"), "columns.json is missing or describ"
            )
        entries = json.loads(text)
        own.write_text(json.dumps(entries | {"columns": entries["columns"][:4]}))
        assert_refused(ebm("score", f"run={run}", f"data={file}", "device=cpu"), "has 4 columns, the model 5")
    finally:
        own.write_text(text)


def loaded(path: Path, spaces=(Binary, Categorical, Real, Mixed), **keys) -> Data:
    return component("dataset", "table", path=str(path), **keys).load(spaces)


def test_kinds_are_guessed_by_values_and_make_a_space(tmp_path):
    rows = [[f"{i % 2}", f"{i % 3}", f"{0.5 * i}", "ab"[i % 2], f"{i}", f"{i % 4}"] for i in range(40)]
    file = written(tmp_path / "t.csv", "abcdef", rows)
    found = loaded(file)
    assert [column.kind for column in found.columns.columns] == [
        "binary", "ordinal", "numeric", "binary", "numeric", "ordinal",
    ]  # fmt: skip
    assert found.space == Mixed((6,), (2, 3, 0, 2, 0, 4), units=found.space.units)
    assert "binary: a, d; ordinal: b, f; numeric: c, e" in found.remarks[0]
    ignored = dict.fromkeys("bcef", "ignore")
    assert loaded(file, columns=ignored).space == Binary((2,))
    assert loaded(file, (Mixed,), columns=ignored).space == Mixed((2,), (2, 2))
    assert loaded(file, columns=dict.fromkeys("abdf", "ignore")).space.name == "real"
    others = dict.fromkeys("acdef", "ignore")
    assert loaded(file, columns=others).space == Categorical((1, 3))
    numbers = loaded(file, columns={"c": "numeric"}, label="b")
    assert sorted({*numbers.train.labels.tolist()}) == [0, 1, 2]
    x = numbers.train.all()[:, 1]
    assert abs(x.mean().item()) < 1e-5
    assert abs(x.std(correction=0).item() - 1) < 1e-5
    back = numbers.space.as_data(numbers.train.all())[:, 1]
    assert ((2 * back).round() / 2 - back).abs().max().item() < 1e-5


@pytest.mark.parametrize(
    ("rows", "keys", "words"),
    [
        ([["1", "x"], ["1", "y"]] * 9, {}, "column 'a' is 1 in every row"),
        ([["", "x"], ["", "y"]] * 9, {}, "column 'a' has no value in any row"),
        ([["1,5", "x"], ["2,5", "y"]] * 9, {}, "holds '1,5', which is no number; write decimals with"),
        ([["1", "x"], ["2", "y"], ["oh", "y"]] * 9, {}, "line 4: column 'a' holds 'oh', which is no number"),
        ([[f"k{i}", "xy"[i % 2]] for i in range(40)], {}, "column 'a' holds 40 different texts in 40 rows"),
        ([["1", "x"], ["2", "y"]] * 9, {"columns": {"c": "binary"}}, "has no column 'c'; it has a, b"),
        ([["1", "x"], ["2", "y"]] * 9, {"columns": {"b": "numeric"}}, "line 2: column 'b' holds 'x'"),
        ([["1", "x"], ["2", "y"]] * 9, {"columns": {"b": "odd"}}, "b is said to be odd; kinds are binary"),
        ([["1", "x"], ["2", "y"], ["3", "y"]] * 9, {"columns": {"a": "binary"}}, "a is said to be binary, and has 3"),
        ([["1", "x"], ["2", "y"]] * 9, {"columns": {"b": ["x"]}}, "the list of b lacks 'y'"),
        ([["1", "x"], ["2", "y"]] * 9, {"columns": {"a": "ignore", "b": "ignore"}}, "leaves no column"),
        ([["1", "x"], ["2", "y"]], {}, "has 2 rows; the splits need 3 at least"),
        ([["1", "x"], ["2", "y"]] * 9, {"path": None}, "name the file of the table"),
    ],
)  # fmt: skip
def test_tables_that_say_nothing_are_refused(tmp_path, rows, keys, words):
    quoted = [[f'"{cell}"' for cell in row] for row in rows]
    file = written(tmp_path / "t.csv", "ab", quoted)
    with pytest.raises(UserError) as error:
        component("dataset", "table", **{"path": str(file), **keys}).load((Mixed,))
    assert words in str(error.value)


@pytest.mark.parametrize(("drawn", "form"), [(9.0, "UInt8"), (300.0, "Int64"), (-2.0, "Int64")])
def test_a_cell_keeps_the_type_of_its_column_where_that_has_room(drawn, form):
    import polars

    column = Column("a", "numeric", "integer", ())
    frame = table_files.Frame(polars.DataFrame({"a": polars.Series([1, None], dtype=polars.UInt8)}), None)
    rows = table_rows.of_frame(frame, "here", Columns((column,), None))
    found = tables.filled(rows, np.array([[1.0], [drawn]]))
    assert found["a"].to_list() == [1, drawn]
    assert str(found["a"].dtype) == form


def test_codes_are_text_and_whole_numbers_are_told_apart_exactly(tmp_path):
    """A zero before a number, or more digits than 64 bits hold, make a code; both are numbers where that is said."""
    for codes, said, due in (
        ([f"0123{i}" for i in range(4)], {}, ("categorical", "text", ("01230", "01231", "01232", "01233"))),
        (["0", "1", "10", "2"], {}, ("ordinal", "integer", (0, 1, 2, 10))),
        ([10**20, 10**20 + 1], {}, ("binary", "text", (str(10**20), str(10**20 + 1)))),
        ([2**62 + i for i in range(3)], {}, ("ordinal", "integer", tuple(2**62 + i for i in range(3)))),
        ([f"{i:02d}" for i in range(20)], {"a": "numeric"}, ("numeric", "integer", ())),
        ([10**20 * i for i in range(1, 20)], {"a": "numeric"}, ("numeric", "real", ())),
        ([10**20, 10**30, ""], {"a": "numeric"}, ("numeric", "real", ())),
        ([1_700_000_000_000_000_000 + 10**9 * i for i in range(20)], {}, ("numeric", "integer", ())),
    ):
        rows = [[str(codes[i % len(codes)]), f"{i % 3}.5"] for i in range(60)]
        data = loaded(written(tmp_path / "t.csv", "ab", rows), columns=said)
        column = data.columns.columns[0]
        assert (column.kind, column.type, column.values) == due
        if column.count:
            codes_of = table_columns.coded(table_files.read(tmp_path / "t.csv", "here"), column, "here")
            assert [str(column.values[int(code)]) for code in codes_of] == [row[0] for row in rows]
        else:
            assert np.ptp(data.train.all()[:, 0].numpy()) > 1


@pytest.mark.parametrize("start", [2**62, 2**63, 10**30])
def test_numbers_that_float64_does_not_tell_apart_are_refused_for_that_reason(tmp_path, start):
    import polars

    numbers = [start + i for i in range(40)]
    written(tmp_path / "t.csv", "ab", [[str(number), f"{number % 3}.5"] for number in numbers])
    form = polars.UInt64 if start < 2**64 else polars.Int128
    frame = polars.DataFrame({"a": polars.Series(numbers, dtype=form), "b": [float(n % 3) for n in numbers]})
    frame.write_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        with pytest.raises(UserError, match=rf"goes from {start} to {numbers[-1]}, where float64 .* subtract {start} "):
            loaded(tmp_path / name, columns={"a": "numeric"})
        if start > 2**62:
            with pytest.raises(UserError, match=rf"holds 40 different codes, such as {start} .*a: numeric"):
                loaded(tmp_path / name)


def test_files_of_other_kinds_are_refused(tmp_path):
    import polars

    nested = tmp_path / "nested.parquet"
    polars.DataFrame({"a": [[1, 2], [3]], "b": [1, 2]}).write_parquet(nested)
    dates = tmp_path / "dates.parquet"
    polars.DataFrame({"a": polars.Series(["2020-01-01", "2021-01-01"]).str.to_date(), "b": [1, 2]}).write_parquet(dates)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(nested.read_bytes()[:60])
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG....")
    for name, words in (
        ("nested.parquet", "column 'a' is nested"), ("dates.parquet", "column 'a' holds date"),
        ("broken.parquet", "cannot be read as a table"), ("picture.csv", "it is a PNG picture"),
        ("no.csv", "there is no such file"),
    ):  # fmt: skip
        with pytest.raises(UserError) as error:
            loaded(tmp_path / name)
        assert words in str(error.value)


def test_a_text_table_may_be_packed_by_gzip(tmp_path, monkeypatch):
    rows = [[f"{i % 2}", f"{i}.5"] for i in range(40)]
    plain = loaded(written(tmp_path / "plain.csv", "ab", rows))
    packed = tmp_path / "rows.csv"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + (tmp_path / "plain.csv").read_bytes().replace(b"\n", b"\r\n")))
    assert torch.equal(loaded(packed).train.all(), plain.train.all())
    assert table_files.is_table(packed)
    lines = table_files.read(packed, "here").lines
    assert lines is not None
    assert lines[0] == 2
    packed.write_bytes(gzip.compress((tmp_path / "plain.csv").read_bytes() + b"1,oh\n"))
    with pytest.raises(UserError, match="line 42: column 'b' holds 'oh'"):
        loaded(packed)
    monkeypatch.setattr("ebm_cli.device.memory.room", lambda: 1000)
    with pytest.raises(UserError, match=r"reading it takes .* of memory, 1 kB are available"):
        loaded(packed)
    monkeypatch.undo()
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot be unpacked"):
        loaded(packed)
    packed.write_bytes(gzip.compress(b"PAR1" + bytes(99)))
    with pytest.raises(UserError, match="it is packed by gzip; unpack it"):
        loaded(packed)


def test_rows_with_gaps_are_left_out_or_drawn(tmp_path):
    rows = [["" if i % 5 == 0 else f"{i % 2}", f"{0.5 * (i % 2) + i}"] for i in range(100)]
    file = written(tmp_path / "t.csv", "ab", rows)
    dropped, kept = loaded(file), loaded(file, missing="draw")
    assert len(dropped.train) + len(dropped.valid) + len(dropped.test) == 80
    assert dropped.train.missing is None
    assert "20 of 100 rows have missing cells and are left out" in dropped.remarks[0]
    assert len(kept.train) == 81
    assert kept.train.sweeps == 5
    assert kept.space.contains(kept.train.all())
    assert (
        kept.train.missing[:, 0].sum()
        == kept.train.missing.sum()
        == 100 - 80 - (10 - len(kept.test)) - (9 - len(kept.valid))
    )


@pytest.mark.long
def test_what_is_missing_is_learned_from_what_is_there(tmp_path):
    """Two bits that agree, one missing in two rows of three: drawn by the model they agree too, from other rows not.

    The model then gives the pair 11 what it has among whole rows.
    """
    g = np.random.default_rng(0)
    bit, hole = g.integers(2, size=(900, 1)).repeat(2, 1), g.integers(3, size=(900, 1)) == np.arange(2)
    names = ["no", "yes"]
    file = written(tmp_path / "t.csv", "ab", [[("" if h else names[b]) for b, h in zip(*row, strict=True)]
                                             for row in zip(bit, hole, strict=True)])  # fmt: skip
    line = "train dataset=table dataset.missing=draw model=mixed_rbm model.hidden=2 steps=300 objective=exact"
    assert ebm(line, "optimizer.lr=0.05", f"dataset.path={file}", f"hydra.run.dir={tmp_path}/run", *SHORT).code == 0
    pairs = written(tmp_path / "p.csv", "ab", [[a, b] for a in names for b in names])
    found = rows_of(ebm("score", f"run={tmp_path}/run", f"data={pairs}", "device=cpu"), "scores.csv")
    p = np.exp([float(row["log_p"]) for row in found])
    assert p.sum() == pytest.approx(1, abs=1e-6)
    assert p[1] + p[2] < 0.05


@pytest.mark.long
def test_a_model_that_draws_no_blocks_cannot_draw_gaps(tmp_path):
    rows = [["" if i % 5 == 0 else f"{i % 2}", f"{i // 2 % 2}"] for i in range(60)]
    file = written(tmp_path / "t.csv", "ab", rows)
    line = "train dataset=table dataset.missing=draw model=resnet_binary"
    assert_refused(
        ebm(line, f"dataset.path={file}", "tracker=none"), "dataset.missing = draw: model=resnet_binary draws no"
    )


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tuple[Path, MixedRBM]:
    """A machine fitted to many rows of the two classes by the exact gradient."""
    folder = tmp_path_factory.mktemp("fitted")
    file = written(folder / "rows.csv", NAMES, drawn(4000))
    line = "train dataset=table model=mixed_rbm model.hidden=2 steps=400 objective=exact optimizer.lr=0.03"
    wide = [word.replace("=50", "=500") for word in SHORT]
    assert ebm(line, f"dataset.path={file}", COLUMNS, f"hydra.run.dir={folder}/run", *wide).code == 0
    return folder / "run", file


@pytest.mark.long
def test_a_fitted_machine_has_the_pairs_of_the_law(fitted, tmp_path):
    """Pair probabilities of the classes that made the rows, within what 3240 rows can say, in 20 000 samples."""
    run, _ = fitted
    found = rows_of(ebm("sample", f"run={run}", "n=20000", "steps=60", "device=cpu"), "samples.csv")
    columns = {
        "sick": [row["sick"] == "yes" for row in found], "B": [row["town"] == "B" for row in found],
        "C": [row["town"] == "C" for row in found], "L": [row["size"] == "L" for row in found],
        "old": [int(row["age"]) >= 40 for row in found], "heavy": [float(row["weight"]) > 2 for row in found],
    }  # fmt: skip
    law = {
        "sick": (0.2, 0.8),
        "B": (0.2, 0.3),
        "C": (0.1, 0.6),
        "L": (0.1, 0.6),
        "old": (0.0228, 0.9772),
        "heavy": (0.1587, 0.8413),
    }
    for one in columns:
        for other in columns:
            if one < other and {one, other} != {"B", "C"}:
                due = np.mean(np.multiply(law[one], law[other]))
                error = (due * (1 - due) * (1 / 3240 + 1 / 20000)) ** 0.5
                share = np.mean(np.logical_and(columns[one], columns[other]))
                assert abs(share - due) < 5 * error + 0.01, (one, other, share, due)
