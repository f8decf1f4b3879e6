"""A run directory that comes from somebody else, cannot be written or has moved: nothing outside it is touched."""

import errno
import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.cli import assert_refused, ebm, facts, snapshot, trained

from ebm_cli.record import files
from ebm_cli.record import rows as kept

SECRET = "what-lies-outside"
COMMANDS = (
    "train resume=run steps=14 tracker=csv",
    "sample run=run n=2 steps=1",
    "evaluate run=run evaluation=[samples]",
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run of two checkpoints with the files that a tracker keeps."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return trained("tracker=csv eval_every=6 save_every=6").absolute()


@pytest.fixture
def run(good, tmp_path, monkeypatch):
    """A copy of it in the current directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(good, "run")
    return Path("run")


@pytest.fixture
def place(tmp_path):
    """A folder as a run directory is one, beside another that must stay as it is."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text(SECRET)
    (tmp_path / "in").mkdir()
    yield tmp_path / "in"
    assert {name.name: name.read_text() for name in (tmp_path / "out").iterdir()} == {"file": SECRET}


# The files themselves


def test_what_is_written_is_read(place):
    files.replace(place, "a/b/c", b"one")
    with files.append(place, "a/b/c") as file:
        assert file.tell() == 3
        file.write(b"two")
    assert files.read(place, "a/b/c") == b"onetwo"
    assert (files.size(place, "a/b/c"), files.size(place, "a/x"), files.names(place, "a"), files.names(place, "x")) == (
        6, None, ["b"], [],
    )  # fmt: skip
    files.move(place, "a/b", "a/d")
    files.remove(place, "a")
    assert not files.there(place, "a")


def test_what_is_interrupted_leaves_the_file_that_was_there_alone(place, monkeypatch):
    """As a signal does in the middle of writing."""
    files.replace(place, "known", b"old")
    before = snapshot(place)

    def interrupted(*paths, **folders):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.replace(place, "known", b"new")
    assert snapshot(place) == before


def test_the_directory_itself_may_be_reached_by_a_link(place):
    (place.parent / "link").symlink_to(place)
    files.replace(place.parent / "link", "a", b"1")
    assert (place / "a").read_bytes() == b"1"


READERS = {
    "read": lambda root, name: files.read(root, name),
    "size": lambda root, name: files.size(root, name),
    "append": lambda root, name: files.append(root, name),
}
THROUGH = READERS | {
    "names": lambda root, name: files.names(root, name.rpartition("/")[0]),
    "replace": lambda root, name: files.replace(root, name, b"x"),
    "claim": lambda root, name: files.claim(root, name, b"x"),
    "new_folder": lambda root, name: files.new_folder(root, name),
    "write_folder": lambda root, name: files.write_folder(root, name, ".writing", {"a": b"x"}, lambda: None),
    "remove": lambda root, name: files.remove(root, name),
    "move": lambda root, name: files.move(root, name, "other"),
    "check": lambda root, name: files.check(root, name),
}


@pytest.mark.parametrize("how", READERS)
@pytest.mark.parametrize("to", ["../out/file", "../out/new", "../out", "/dev/zero"])
def test_a_link_in_place_of_a_file_is_not_followed(how, to, place):
    (place / "a").symlink_to(to)
    with pytest.raises(OSError, match="it is a link, which is not followed") as found:
        READERS[how](place, "a")
    assert found.value.filename == str(place / "a")


@pytest.mark.parametrize("how", THROUGH)
def test_a_link_in_place_of_a_folder_is_not_followed(how, place):
    (place / "a").symlink_to("../out")
    with pytest.raises(OSError, match="it is a link, which is not followed"):
        THROUGH[how](place, "a/file")


@pytest.mark.parametrize("temporary", [".a.writing", f".a.{os.getpid()}.writing"], ids=["fixed", "of the process"])
@pytest.mark.parametrize("kind", ["link", "hard link", "folder", "link to a folder"])
def test_what_lies_under_a_temporary_name_is_in_nobodys_way(temporary, kind, place):
    if kind == "hard link":
        os.link(place.parent / "out" / "file", place / temporary)
    elif kind == "folder":
        (place / temporary / "deep").mkdir(parents=True)
    else:
        (place / temporary).symlink_to("../out" if "folder" in kind else "../out/file")
    files.claim(place, "a", b"1")
    files.replace(place, "a", b"2")
    files.write_folder(place, "b", temporary, {"c": b"3"}, lambda: None)
    assert (files.read(place, "a"), files.read(place, "b/c")) == (b"2", b"3")


def test_a_file_with_another_name_elsewhere_becomes_a_copy(place):
    os.link(place.parent / "out" / "file", place / "a")
    with files.append(place, "a") as file:
        file.truncate(4)
        file.write(b"!")
    assert files.read(place, "a").decode() == f"{SECRET[:4]}!"


@pytest.mark.parametrize("how", READERS)
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_what_is_no_file_is_refused_and_nothing_hangs(how, kind, place, monkeypatch):
    monkeypatch.chdir(place)  # names of sockets are short
    if kind == "pipe":
        os.mkfifo("a")
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind("a")
    else:
        os.mkdir("a")
    with pytest.raises(OSError, match=f"it is a {kind} and no file"):
        READERS[how](place, "a")


@pytest.mark.parametrize("name", ["../out/file", "/etc/hostname", "a/../../out/file", "./a", "a\0b"])
def test_a_name_leads_nowhere_else(name, place):
    for act in READERS.values():
        with pytest.raises(OSError, match="no name of a file below a run directory"):
            act(place, name)


def test_of_two_who_claim_a_file_one_has_it(place):
    files.claim(place, "a", b"1")
    with pytest.raises(FileExistsError):
        files.claim(place, "a", b"2")
    assert (files.read(place, "a"), files.names(place)) == (b"1", ["a"])


# Links in a run

FILES = ("config.yaml", "metadata.json", "metrics.jsonl", "summary.json", "train.log", "metrics.csv")
FOLDERS = ("checkpoints", "samples", "evaluations", "images", "wandb", "tensorboard")
STEP = "checkpoints/step-00000012"
STATE, REPLACED = ("state.json", "state.safetensors", "MANIFEST.json"), ("config.yaml", "metadata.json", "summary.json")
PLACEMENTS = [
    *((name, kind) for name in FILES for kind in ("link", "hard link", "dangling")),
    *((name, "folder") for name in (*FOLDERS, STEP)),
    *((f"{STEP}/{name}", kind) for name in STATE for kind in ("link", "dangling")),
    *((f".{name}.writing", kind) for name in REPLACED for kind in ("link", "hard link")),
    ("checkpoints/.writing-00000014", "folder"), ("checkpoints/step-00000014", "folder"),
    ("samples/samples.png", "link"), ("samples/step-00000014.png", "hard link"), ("vocabulary.txt", "link"),
    ("images/samples-00000014.png", "link"),
]  # fmt: skip


def put(run: Path, name: str, kind: str, outside: Path) -> None:
    """A link of this kind in place of a file of the run; what was there lies outside."""
    there = run / name
    there.parent.mkdir(exist_ok=True)
    target = outside / name.replace("/", "-")
    if kind == "folder":
        if there.exists():
            there.rename(target)
        else:
            target.mkdir()
        (target / "canary").write_text(SECRET)
    elif kind != "dangling":
        target.write_bytes(there.read_bytes() if there.exists() else SECRET.encode())
    there.unlink(missing_ok=True)
    if kind == "hard link":
        os.link(target, there)
    else:
        there.symlink_to(target.absolute())


@pytest.mark.quick("config.yaml link")
@pytest.mark.parametrize(
    ("name", "kind"),
    [pytest.param(*at, marks=[] if i % 8 == 0 else pytest.mark.long) for i, at in enumerate(PLACEMENTS)],
    ids=[" ".join(at) for at in PLACEMENTS],
)
def test_no_link_of_a_run_is_followed(name, kind, run, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    put(run, name, kind, outside)
    before = snapshot(outside)
    for command in COMMANDS:
        answer = ebm(command)
        assert "Traceback" not in answer.err
        assert answer.code in (0, 2), answer.err
        assert (
            answer.code == 0
            or "is a link" in answer.err
            or "no run is there" in answer.err
            or "metrics.jsonl" in answer.err
        ), answer.err
        assert SECRET not in answer.err + answer.out
    assert snapshot(outside) == before


# A run that can only be read


@pytest.fixture
def read_only(run, monkeypatch):
    """The run on a file system that is mounted to be read."""
    opened, made = os.open, os.mkdir
    place = os.path.realpath(run)

    def check(path, dir_fd):
        root = "" if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
        if f"{os.path.realpath(os.path.join(root, path))}/".startswith(f"{place}/"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    def open_(path, flags, *rest, dir_fd=None):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            check(path, dir_fd)
        return opened(path, flags, *rest, dir_fd=dir_fd)

    def mkdir(path, *rest, dir_fd=None):
        if not os.path.exists(path if dir_fd is None else f"/proc/self/fd/{dir_fd}/{path}"):
            check(path, dir_fd)
        return made(path, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "mkdir", mkdir)
    return run


def test_a_run_that_can_only_be_read_is_said_before_any_work(read_only, monkeypatch):
    monkeypatch.setattr("ebm_cli.training.state.load_data", None)
    before = snapshot(read_only)
    for command, way in zip(COMMANDS, ("as in a copy of it", "out=DIR", "out=DIR"), strict=True):
        assert_refused(ebm(command), "run: Read-only file system (run/", way)
    assert snapshot(read_only) == before


@pytest.mark.long
def test_results_can_go_elsewhere(read_only):
    before = snapshot(read_only)
    assert ebm("sample run=run n=2 steps=1 out=new/drawn").code == 0
    assert ebm("evaluate run=run evaluation=[samples] out=judged").code == 0
    assert sorted(path.name for path in Path("new/drawn").iterdir()) == ["grid.png", "samples.npz"]
    assert "samples/distinct" in json.loads(Path("judged/results.json").read_text())
    assert snapshot(read_only) == before


@pytest.mark.long
def test_nothing_is_overwritten_elsewhere(run):
    Path("there").mkdir()
    Path("there/mine").write_text("1")
    Path("file").write_text("1")
    for command in COMMANDS[1:]:
        assert_refused(ebm(f"{command} out=there"), "out = there: holds files already", "name a new folder")
        assert_refused(ebm(f"{command} out=file"), "out = file: ")
        assert_refused(ebm(f"{command} out=''"), "out")
    assert [path.name for path in Path("there").iterdir()] == ["mine"]


def test_of_a_refused_command_no_folder_is_left(run):
    before = {path for path in run.rglob("*")}
    assert_refused(ebm("sample run=run checkpoint=3 out=a/b"), "checkpoint=3")
    assert_refused(ebm("evaluate run=run checkpoint=3"), "checkpoint=3")
    assert_refused(ebm("sample run=nowhere out=a/b"), "run = nowhere: no run is there")
    assert not Path("a").exists()
    assert {path for path in run.rglob("*")} == before


# Data that have moved, and other data


def rows(seed: int, shape=(60, 3, 4)) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: (generator.random(shape) < 0.4).astype(np.int64) for name in ("train", "valid", "test")}


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """A run on rows that then moved from old.npz to new.npz."""
    monkeypatch.chdir(tmp_path)
    np.savez("old.npz", **rows(0))
    run = trained("dataset=array dataset.path=old.npz")
    Path("old.npz").rename("new.npz")
    return run


def results() -> dict:
    return json.loads(max(Path("run/evaluations").iterdir()).joinpath("results.json").read_text())


@pytest.mark.long
def test_a_run_finds_its_data_where_they_are_now(moved):
    assert_refused(ebm("evaluate run=run evaluation=[exact]"), "nothing is there")
    answer = ebm("evaluate run=run evaluation=[exact] dataset.path=new.npz")
    assert answer.code == 0, answer.err
    assert "judged by: test split, 60 rows\n" in answer.out
    assert "exact/log_likelihood" in results()
    assert "data" not in results()


@pytest.mark.parametrize("line", ["train resume=run steps=14", "evaluate run=run"])
def test_that_data_are_not_where_they_were_is_said_with_the_way_out(line, moved):
    said = "old.npz: nothing is there; where they are now can be said: dataset.path=PATH"
    assert_refused(ebm(line), "dataset.path = ", said)


@pytest.mark.long
def test_a_run_goes_on_with_its_data_where_they_are_now(moved):
    assert ebm("train resume=run steps=14 dataset.path=new.npz").code == 0
    assert yaml.safe_load((moved / "config.yaml").read_text())["dataset"]["path"] == str(Path("new.npz").absolute())
    assert ebm("train resume=run steps=15").code == 0
    again = "train dataset=array dataset.path=new.npz hydra.run.dir=run resume=auto model.hidden=8 batch_size=10"
    assert ebm(again).code == 0
    assert_refused(ebm(f"{again} seed=3"), "a resumed run keeps its own")
    assert facts(moved)["step"] == 15


@pytest.mark.long
def test_a_run_does_not_go_on_with_other_rows(moved):
    np.savez("other.npz", **rows(1))
    before = (moved / "config.yaml").read_bytes()
    assert_refused(ebm("train resume=run steps=14 dataset.path=other.npz"), "resume = run: ", "put those back")
    assert_refused(
        ebm("train resume=run steps=14 dataset.held_out=0.2"), "dataset.held_out: a resumed run keeps its own"
    )
    assert (moved / "config.yaml").read_bytes() == before


def test_other_rows_are_another_fact(moved):
    np.savez("other.npz", **rows(1))
    for line in ("dataset=array dataset.path=other.npz", "dataset.path=other.npz"):
        answer = ebm(f"evaluate run=run evaluation=[exact] {line}")
        assert answer.code == 0, answer.err
        found = results()
        assert "judged by: test split, 60 rows, of other data than it was trained on: " in answer.out
        assert "other.npz" in answer.out
        assert "on other data" in answer.out
        assert found["data"]["path"] == str(Path("other.npz").absolute())
        assert found["data"]["hash"] != found["data"]["trained_on"]
        assert "exact/other/log_likelihood" in found
        assert "exact/log_likelihood" not in found
        folder = max(Path("run/evaluations").iterdir()).name
        assert set(kept.read(Path("run"), f"evaluations/{folder}")[1]) == {"exact/other/log_likelihood"}
    ebm("evaluate run=run evaluation=[exact] dataset.path=other.npz split=train")
    assert "exact/other/train/log_likelihood" in results()


@pytest.mark.long
def test_other_rows_are_judged_as_any_rows_are(moved):
    """The run's own test rows in a file of other training rows have the likelihood they have as its own."""
    np.savez("other.npz", **(rows(1) | {"test": rows(0)["test"]}))
    ebm("evaluate run=run evaluation=[exact] dataset.path=new.npz")
    own = results()["exact/log_likelihood"]
    ebm("evaluate run=run evaluation=[exact] dataset.path=other.npz")
    assert results()["exact/other/log_likelihood"] == pytest.approx(own, rel=1e-6)


def test_its_rows_read_in_another_way_are_another_fact(run):
    answer = ebm("evaluate run=run evaluation=[pseudo_likelihood] dataset.binarize=threshold")
    assert "of the data it was trained on, read with other keys" in answer.out
    assert "pseudo_likelihood/other/log_pseudo_likelihood" in results()


@pytest.mark.long
def test_rows_of_another_kind_are_refused(moved):
    np.savez("other.npz", **rows(1, (60, 4, 4)))
    assert_refused(
        ebm("evaluate run=run evaluation=[exact] dataset.path=other.npz"), "reads 4x4 binary", "takes 3x4 binary"
    )
    assert_refused(ebm("evaluate run=run evaluation=[exact] dataset.paht=other.npz"), "unknown key dataset.paht")
    assert_refused(
        ebm("evaluate run=run evaluation=[exact] model.hidden=9"), "model.hidden: the run keeps its own model"
    )
    assert_refused(ebm("sample run=run model.hidden=9"), "model.hidden: the run keeps its own model")
