"""Downloads: complete and checked, or nothing is left and one sentence says what is missing."""

import gzip
import io
import socket
import time
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from helpers.components import component, real_data
from helpers.idx import idx, idx_files, md5, write_idx

from ebm_cli.dataset import files
from ebm_cli.errors import UserError


@pytest.fixture
def served(monkeypatch):
    """A network with the files of the returned dictionary (URL -> content, or the error to raise) and no others."""
    import torchvision.datasets.utils

    network: dict[str, bytes | Exception] = {}

    def download_url(url, root, filename):
        assert socket.getdefaulttimeout() == files.TIMEOUT
        if (Path(root) / filename).exists():  # as the real one does
            return
        content = network.get(url, URLError("no network"))
        (Path(root) / filename).write_bytes(content if isinstance(content, bytes) else b"the first half")
        if isinstance(content, Exception):
            raise content

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download_url)
    return network


def offer(monkeypatch, served, mirror: str = "http://mirror.invalid/") -> dict[str, bytes]:
    """Serve four small files as if they were MNIST."""
    from torchvision import datasets

    packed = {f"{name}.gz": gzip.compress(content) for name, content in idx_files().items()}
    served.update({f"{mirror}{name}": content for name, content in packed.items()})
    monkeypatch.setattr(datasets.MNIST, "resources", [(name, md5(content)) for name, content in packed.items()])
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://down.invalid/", "http://mirror.invalid/"])
    return packed


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "emnist"])
def test_without_network_the_missing_files_are_named(tmp_path, served, name):
    reader = component("dataset", name, root=str(tmp_path))
    raw = tmp_path / reader.folder / "raw"
    with pytest.raises(UserError) as caught:
        reader.read()
    message = str(caught.value)
    train, test = reader.stems()
    for stem in (train, test):
        assert f"{stem}-images-idx3-ubyte.gz" in message
        assert f"{stem}-labels-idx1-ubyte.gz" in message
    assert f"{raw} lacks " in message
    assert "set dataset.root or EBM_DATA" in message
    assert "no network" in message
    assert "\n" not in message
    assert list(raw.iterdir()) == []


def test_a_dead_address_fails_within_seconds(tmp_path, monkeypatch):
    """The real download function, at a port that nobody listens to and at a server that never answers."""
    monkeypatch.setattr(files, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = ("http://127.0.0.1:9/f", f"http://127.0.0.1:{silent.getsockname()[1]}/f")
        start = time.monotonic()
        with pytest.raises(UserError, match=r"refused.*timed out"):
            files.download(files.Remote("f", urls, "md5", "0"), tmp_path, "f")
        assert time.monotonic() - start < 5
    assert socket.getdefaulttimeout() is None


def test_download_from_the_second_mirror_is_complete_and_kept(tmp_path, monkeypatch, served):
    packed = offer(monkeypatch, served)
    reader = component("dataset", "mnist", root=str(tmp_path), valid=0)
    first = reader.read()
    raw = tmp_path / "MNIST" / "raw"
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == packed
    served.clear()
    assert np.array_equal(reader.read().train.values, first.train.values)


def test_only_missing_files_are_downloaded(tmp_path, monkeypatch, served):
    packed = offer(monkeypatch, served)
    write_idx(tmp_path / "MNIST" / "raw", idx_files())
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    for name in packed:
        if not name.startswith("t10k-labels"):
            del served[f"http://mirror.invalid/{name}"]
    assert len(component("dataset", "mnist", root=str(tmp_path), valid=0).read().test.labels) == 5


def test_download_with_the_wrong_hash_is_refused(tmp_path, monkeypatch, served):
    offer(monkeypatch, served)
    served["http://mirror.invalid/train-images-idx3-ubyte.gz"] = gzip.compress(idx(np.zeros((12, 28, 28))))
    with pytest.raises(UserError, match="its md5 is not"):
        component("dataset", "mnist", root=str(tmp_path), valid=0).read()
    assert list((tmp_path / "MNIST" / "raw").iterdir()) == []


def test_interrupted_download_leaves_nothing(tmp_path, monkeypatch, served):
    offer(monkeypatch, served)
    served["http://down.invalid/train-images-idx3-ubyte.gz"] = TimeoutError("stalled")
    served["http://mirror.invalid/train-images-idx3-ubyte.gz"] = TimeoutError("stalled")
    with pytest.raises(UserError, match="stalled"):
        component("dataset", "mnist", root=str(tmp_path), valid=0).read()
    assert list((tmp_path / "MNIST" / "raw").iterdir()) == []


def test_emnist_archive_is_unpacked_without_its_folder(tmp_path, monkeypatch, served):
    from torchvision import datasets

    contents = idx_files(("emnist-digits-train", "emnist-digits-test"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("gzip/", "")
        for name, content in contents.items():
            archive.writestr(f"gzip/{name}.gz", gzip.compress(content))
        archive.writestr("../../escape.gz", b"")
    served[datasets.EMNIST.url] = buffer.getvalue()
    monkeypatch.setattr(datasets.EMNIST, "md5", md5(buffer.getvalue()))
    raw = component("dataset", "emnist", root=str(tmp_path), valid=0, split="digits").read()
    assert raw.train.values.shape == (12, 28, 28)
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert names == sorted([*(f"{name}.gz" for name in contents), "escape.gz"])
    assert not (tmp_path / "escape.gz").exists()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path, served):
    (tmp_path / "MNIST").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"lacks train-images.*the download failed: .*MNIST"):
        component("dataset", "mnist", root=str(tmp_path)).read()


@pytest.mark.data
def test_caltech_is_downloaded_and_checked(tmp_path, served):
    name = "caltech101_silhouettes_28_split1.mat"
    original = Path(real_data(f"binary_images/{name}")) / "binary_images" / name
    url = f"https://people.cs.umass.edu/~marlin/data/{name}"
    reader = component("dataset", "caltech101", root=str(tmp_path))
    served[url] = original.read_bytes()[:-1]
    with pytest.raises(UserError, match=r"caltech101_silhouettes_28.npz or .*split1.mat.*its sha256 is not"):
        reader.read()
    served[url] = original.read_bytes()
    assert len(reader.read().train.values) == 4100
    (tmp_path / "binary_images" / name).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"split1.mat: its sha256 is not .*delete it"):
        reader.read()
