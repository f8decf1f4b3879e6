"""Sizes are read from headers and compared with the memory there is before anything is allocated."""

import gzip
import io
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from ebm_cli.dataset.files import npz_size, read_npz
from ebm_cli.dataset.mnist import read_idx
from ebm_cli.device import memory
from ebm_cli.errors import UserError
from ebm_cli.graph import complete
from ebm_cli.model.ising import Ising, IsingSpec
from ebm_cli.space import Spin


def header(shape, kind="|u1", by_columns=False):
    """Of a .npy file."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": kind, "fortran_order": by_columns, "shape": shape})
    return out.getvalue()


def written(path, content, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("train.npy", content)
    return path


def reading(path):
    """Bytes that were allocated at once, and the refusal."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as refusal:
            read_npz(path, ("train",), "said")
        return tracemalloc.get_traced_memory()[1], str(refusal.value)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("shape", [(10**12,), (10**6, 10**6), (2**40, 2**40), (0, 3), (5, 3)])
def test_a_header_that_declares_what_is_not_there_is_refused_before_memory_is_taken(tmp_path, method, shape):
    size, said = reading(written(tmp_path / "a.npz", header(shape) + bytes(7), method))
    assert "cannot read train (its header declares" in said
    assert size < 2**20


def test_an_archive_that_lies_about_a_size_is_refused(tmp_path):
    """Its list says 4 GB, which cannot come of a few bytes."""
    path = written(tmp_path / "a.npz", header((2**32 - 200,)) + bytes(7))
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = (2**32 - 200 + 128).to_bytes(4, "little")
    path.write_bytes(content)
    size, said = reading(path)
    assert "cannot read train (" in said
    assert "cannot be in a file of" in said
    assert size < 2**20


def test_rows_that_do_not_fit_are_refused_before_they_are_read(tmp_path, monkeypatch):
    """A megabyte of zeros in a file of one kilobyte, where there is less."""
    path = written(tmp_path / "a.npz", header((1024, 1024)) + bytes(2**20))
    assert path.stat().st_size < 3000
    monkeypatch.setattr(memory, "available", lambda device: 2**20 - 1)
    size, said = reading(path)
    assert said.startswith("said: reading it takes 1.05 MB of memory, 1.05 MB are available; take fewer rows")
    assert size < 2**19
    monkeypatch.setattr(memory, "available", lambda device: 2**20)
    assert read_npz(path, ("train",), "said")["train"].shape == (1024, 1024)


@pytest.mark.parametrize(
    ("kind", "by_columns", "each"), [("|u1", False, 1), ("|u1", True, 2), ("<f4", False, 4), ("<f8", False, 12)]
)
def test_what_becomes_of_the_numbers_counts_too(tmp_path, kind, by_columns, each):
    """Wide numbers become float32, columns rows."""
    content = header((30, 20), kind, by_columns) + bytes(600 * np.dtype(kind).itemsize)
    assert npz_size(written(tmp_path / "a.npz", content), ("train", "test")) == 600 * each


def test_the_size_of_a_file_that_cannot_be_read_is_for_reading_to_tell(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and no more")
    assert npz_size(tmp_path / "a.npz", ("train",)) == 0
    assert npz_size(tmp_path / "absent.npz", ("train",)) == 0


def test_images_that_do_not_fit_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "a.gz"
    head = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in (2**10, 2**5, 2**5))
    path.write_bytes(gzip.compress(head + bytes(2**20)))
    monkeypatch.setattr(memory, "available", lambda device: 2**20 - 1)
    with pytest.raises(UserError, match=r"a\.gz: reading it takes 1\.05 MB of memory"):
        read_idx(path, 3)
    monkeypatch.setattr(memory, "available", lambda device: 2**20)
    assert read_idx(path, 3).shape == (2**10, 2**5, 2**5)


def test_a_complete_graph_is_known_to_be_large():
    """Building one takes at least what the estimate says of 60 sites is in proportion to pairs."""
    spec = IsingSpec(graph="complete", periodic=False, degree=1.0, path=None, coupling=0.0, bias=0.0)
    edges, sites = complete(60), 60
    tracemalloc.start()
    Ising(Spin((sites,)), edges, torch.zeros(len(edges)), torch.zeros(sites))
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert spec.beside(Spin((sites,))) > taken
    assert spec.beside(Spin((10_000,))) > 10**10
