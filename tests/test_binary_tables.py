"""Binary tables: NLTCS, plants, jester, mushrooms, DNA and NIPS."""

import numpy as np
import pytest
import torch
from helpers.components import component, real_data

from ebm_cli import rng
from ebm_cli.errors import UserError
from ebm_cli.space import Binary, Spin


def table(tmp_path, **changes) -> dict[str, np.ndarray]:
    """Writes nltcs.npz with a few rows of its own for each split."""
    drawn = rng.bernoulli(torch.zeros(3, 5, 16), rng.stream(0, "table")).byte().numpy()
    arrays = dict(zip(("train", "val", "test"), (drawn[0], drawn[1, :2], drawn[2, :4]), strict=True)) | changes
    (tmp_path / "binary_tabular").mkdir()
    np.savez(tmp_path / "binary_tabular" / "nltcs.npz", **arrays)
    return arrays


def test_binary_tables_are_read_split_by_split(tmp_path):
    arrays = table(tmp_path)
    data = component("dataset", "binary_tabular", root=str(tmp_path)).load((Binary,))
    assert data.space == Binary((16,))
    for part, key in ((data.train, "train"), (data.valid, "val"), (data.test, "test")):
        assert np.array_equal(part.all().numpy(), arrays[key])
        assert part.labels is None
    assert component("dataset", "binary_tabular", root=str(tmp_path)).load((Spin,)).space == Spin((16,))


def test_a_table_that_is_missing_or_another_is_named(tmp_path):
    with pytest.raises(UserError, match=r"binary_tabular lacks dna.npz \(keys train, val, test\); put it there, or "):
        component("dataset", "binary_tabular", table="dna", root=str(tmp_path)).read()
    table(tmp_path, test=np.zeros((4, 69), np.uint8))
    with pytest.raises(UserError, match=r"nltcs.npz: key test has .* shape \(4, 69\), it must be uint8 and \(n, 16\)"):
        component("dataset", "binary_tabular", root=str(tmp_path)).read()


TABLES = {
    "nltcs": ((16181, 2157, 3236), 16),
    "plants": ((17412, 2321, 3482), 69),
    "jester": ((9000, 1000, 4116), 100),
    "mushrooms": ((2000, 500, 5624), 112),
    "dna": ((1600, 400, 1186), 180),
    "nips": ((400, 100, 1240), 500),
}


@pytest.mark.data
@pytest.mark.parametrize("name", TABLES)
def test_binary_tables_have_their_official_sizes(name):
    data = component("dataset", "binary_tabular", table=name, root=real_data(f"binary_tabular/{name}.npz")).load(
        (Binary,)
    )
    sizes, variables = TABLES[name]
    assert tuple(len(part) for part in (data.train, data.valid, data.test)) == sizes
    assert data.space == Binary((variables,))
    assert data.space.contains(data.test.all())
