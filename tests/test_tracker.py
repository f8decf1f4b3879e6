"""Trackers: what they write can be read back, and none of them can harm the run."""

import csv
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import wandb
import yaml
from helpers import wandb_reader
from PIL import Image

from ebm_cli.errors import UserError, install
from ebm_cli.registry import build, load_components
from ebm_cli.tracker.base import RunInfo, Tracker, TrackerSpec
from ebm_cli.tracker.guard import Guarded, guarded
from ebm_cli.tracker.wandb_account import api_key

CONF = Path(__file__).parent.parent / "conf" / "tracker"
GRADIENT = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
KEY = "0123456789" * 4


def spec(name, **changes):
    load_components()
    return build("tracker", yaml.safe_load((CONF / f"{name}.yaml").read_text()) | changes)


def info(directory, run_id="r1", name="run-one"):
    return RunInfo(directory, run_id, name, "sweep-1", {"seed": 3, "model": {"name": "rbm", "hidden": 500}})


@pytest.fixture(autouse=True)
def _nobody(monkeypatch, tmp_path):
    """No account, and no network: everything of wandb in the environment is gone, and so is the home directory."""
    for name in list(os.environ):
        if name == "NETRC" or (name.startswith("WANDB_") and name != "WANDB_SERVICE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    connect = socket.socket.connect

    def local_only(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a connection to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


# wandb


def record_run(directory, **changes):
    """Pictures at the last step, since steps never decrease."""
    tracker = spec("wandb", **changes).open(info(directory))
    for step in range(5):
        tracker.log(step, {"loss": step / 4, "chains/accept": 0.5})
        tracker.log(step, {"extra": float(step)})
    tracker.images(4, {"samples/grey": GRADIENT, "samples/rgb": np.stack([GRADIENT, GRADIENT.T, GRADIENT], axis=-1)})
    tracker.histograms(4, {"weights": np.array([0, 1, 2, np.nan], dtype=np.float32)})
    return tracker.close({"best": 0.25})


@pytest.mark.long
def test_wandb_offline_reads_back(tmp_path, capfd):
    line = record_run(tmp_path / "out", tags=["a"])
    rows = wandb_reader.history(tmp_path / "out")
    assert [row["_step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["loss"] for row in rows] == [0, 0.25, 0.5, 0.75, 1]
    assert [(row["chains/accept"], row["extra"]) for row in rows] == [(0.5, float(step)) for step in range(5)]
    grey = np.array(Image.open(wandb_reader.media(tmp_path / "out", rows[4]["samples/grey"])))
    rgb = np.array(Image.open(wandb_reader.media(tmp_path / "out", rows[4]["samples/rgb"])))
    np.testing.assert_array_equal(grey, GRADIENT)
    np.testing.assert_array_equal(rgb, np.stack([GRADIENT, GRADIENT.T, GRADIENT], axis=-1))
    assert rows[4]["weights"]["_type"] == "histogram"
    assert sum(rows[4]["weights"]["values"]) == 3
    run = wandb_reader.runs(tmp_path / "out")[0]
    assert run["config"]["model"] == {"name": "rbm", "hidden": 500}
    assert (run["id"], run["name"], run["group"], run["job_type"]) == ("r1", "run-one", "sweep-1", "train")
    assert (run["project"], run["tags"], run["config"]["seed"]) == ("ebm", ["a"], 3)
    assert wandb_reader.summary(tmp_path / "out")["best"] == 0.25
    folder = next((tmp_path / "out" / "wandb").glob("offline-run-*"))
    path = f"out/wandb/{folder.name}"
    assert line == f"wandb (offline): look at it with  wandb leet {path}  and send it with  wandb sync {path}"
    assert capfd.readouterr() == ("", "")  # the caller prints our line and wandb prints nothing
    assert not list(folder.rglob("*.py")) + list(folder.rglob("*.patch")) + list(folder.rglob("output.log"))


@pytest.mark.long
def test_wandb_resumed_run_keeps_its_id(tmp_path):
    for first in (0, 3):
        tracker = spec("wandb").open(info(tmp_path / "out"))
        for step in range(first, first + 3):
            tracker.log(step, {"loss": float(step)})
        line = tracker.close({})
    assert [run["id"] for run in wandb_reader.runs(tmp_path / "out")] == ["r1", "r1"]
    assert [row["loss"] for row in wandb_reader.history(tmp_path / "out")] == [0, 1, 2, 3, 4, 5]
    assert line.endswith("look at it with  wandb leet out/wandb  and send it with  wandb sync out/wandb/offline-run-*")


@pytest.mark.long
def test_wandb_runs_in_one_process_do_not_mix(tmp_path):
    one = spec("wandb").open(info(tmp_path / "one", "r1"))
    two = spec("wandb").open(info(tmp_path / "two", "r2"))
    one.log(0, {"x": 1.0})
    two.log(0, {"x": 2.0})
    one.close({})
    two.close({})
    assert [row["x"] for row in wandb_reader.history(tmp_path / "one")] == [1]
    assert [row["x"] for row in wandb_reader.history(tmp_path / "two")] == [2]


@pytest.mark.long
def test_wandb_keeps_code_and_console_to_itself(tmp_path):
    tracker = spec("wandb").open(info(tmp_path / "out"))
    used = tracker._run.settings
    stays_global = wandb.run
    tracker.close({})
    assert (used.console, used.save_code, used.silent) == ("off", False, True)
    assert used.disable_code
    assert used.disable_git  # the difference to the last commit is code
    assert used.disable_job_creation
    assert stays_global is None  # the next run of a multirun would log into it


def test_wandb_refuses_floats(tmp_path):
    tracker = spec("wandb").open(info(tmp_path / "out"))
    with pytest.raises(TypeError, match="samples is float64, not uint8"):
        tracker.images(0, {"samples": np.zeros((4, 4))})
    tracker.close({})


def test_wandb_online_without_key_is_refused(monkeypatch):
    with pytest.raises(UserError, match=r"tracker.mode=online.*`wandb login`"):
        spec("wandb", mode="online").check()
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UserError, match=r"WANDB_MODE=online.*`wandb login`"):
        spec("wandb").check()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    spec("wandb").check()
    monkeypatch.setenv("WANDB_MODE", "wat")
    with pytest.raises(UserError, match="WANDB_MODE=wat: there are online, offline and disabled"):
        spec("wandb").check()


@pytest.mark.parametrize(
    ("mode", "variable", "key", "expected"),
    [
        ("auto", None, False, "offline"),
        ("auto", None, True, "online"),
        ("auto", "", True, "online"),
        ("auto", "offline", True, "offline"),
        ("auto", "dryrun", True, "offline"),
        ("auto", "disabled", True, "disabled"),
        ("online", "offline", True, "offline"),
        ("online", "disabled", True, "disabled"),
        ("offline", "online", True, "offline"),
        ("offline", None, True, "offline"),
        ("offline", "disabled", False, "disabled"),
    ],
)
def test_wandb_mode(monkeypatch, mode, variable, key, expected):
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert spec("wandb", mode=mode)._mode() == expected


def test_wandb_key_is_found_where_wandb_puts_it(monkeypatch, tmp_path):
    home = tmp_path / "home"
    (home / ".config" / "wandb").mkdir(parents=True)
    assert api_key() is None
    (home / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    (home / ".netrc").chmod(0o600)
    assert api_key() == KEY
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert api_key() is None  # a key of another server
    monkeypatch.setenv("NETRC", str(tmp_path / "other"))
    (tmp_path / "other").write_text("machine wandb.example.org login user password other\n")
    assert api_key() == "other"
    (home / ".config" / "wandb" / "settings").write_text("[default]\napi_key = stored\nmode = offline\n")
    assert api_key() == "stored"
    assert spec("wandb")._mode() == "offline"


def test_wandb_disabled_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert record_run(tmp_path / "out") == "wandb: disabled"
    assert not list(tmp_path.rglob("*.wandb"))


@pytest.mark.long
def test_wandb_falls_back_to_offline(monkeypatch, tmp_path, capfd):
    """A server that takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr("ebm_cli.tracker.wandb._ONLINE_SECONDS", 1.0)
        wandb.teardown()  # an earlier test's wandb would not see the server
        line = record_run(tmp_path / "out")
        wandb.teardown()
        server.settimeout(0)
        server.accept()  # it was asked
    pattern = (
        r"wandb \(offline; going online failed with CommError\): look at it with  wandb leet out/wandb/offline-run-\S+"
        r"  and send it with  wandb sync out/wandb/offline-run-\S+"
    )
    assert re.fullmatch(pattern, line)
    folder = next((tmp_path / "out" / "wandb").glob("offline-run-*"))
    assert line.endswith(folder.name)
    rows = wandb_reader.history(tmp_path / "out")
    assert [row["loss"] for row in rows] == [0, 0.25, 0.5, 0.75, 1]
    assert capfd.readouterr() == ("", "")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


OFFLINE_RUN = """
import sys
from pathlib import Path
from ebm_cli.registry import build, load_components
from ebm_cli.tracker.base import RunInfo
load_components()
config = dict(name="wandb", project=None, entity=None, mode="auto", tags=[])
config |= dict(run_name=None, group=None, notes=None, job_type=None)
tracker = build("tracker", config).open(RunInfo(Path(sys.argv[1]), "r1", "n", None, {}))
tracker.log(0, {"x": 1.0})
print(tracker.close({}))
"""


def traced(command, log):
    tool = ["strace", "-f", "-qq", "-e", "trace=connect", "-o", str(log)]
    return subprocess.run([*tool, *command], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace to see what wandb's helper processes do")
@pytest.mark.long
def test_wandb_offline_connects_to_nothing(tmp_path):
    log = tmp_path / "calls"
    if traced(["true"], log).returncode:
        pytest.skip("strace may not trace here")
    root = str(CONF.parent.parent)
    command = [sys.executable, "-c", OFFLINE_RUN, str(tmp_path / "out")]
    result = traced(["env", f"PYTHONPATH={root}", *command], log)
    assert "wandb (offline)" in result.stdout, result.stderr
    calls = [call for call in log.read_text().splitlines() if "AF_INET" in call]
    assert not [call for call in calls if '"127.0.0.1"' not in call and '"::1"' not in call]


# csv, tensorboard, none


def test_csv_reads_back(tmp_path):
    for first in (0, 2):
        tracker = spec("csv").open(info(tmp_path))
        tracker.log(first, {"loss": 0.1, "a/b": 2.0})
        tracker.images(first, {"samples/grey": GRADIENT})
        line = tracker.close({})
    rows = list(csv.reader((tmp_path / "metrics.csv").open()))
    assert rows == [["step", "loss", "a/b"], ["0", "0.1", "2.0"], ["2", "0.1", "2.0"]]
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [
        "samples_grey-00000000.png",
        "samples_grey-00000002.png",
    ]
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "images" / "samples_grey-00000000.png")), GRADIENT)
    assert line == "csv: metrics.csv"


@pytest.mark.parametrize(
    "there",
    ["step,loss\n0,1.0\n1,2", "step,loss\n0,1.0\n", "step,loss\n0,1.0\n1,2.0,7\n", "step,key,value\n0,loss,1.0\n1,lo"],
)
def test_csv_goes_on_after_half_a_row(tmp_path, there):
    (tmp_path / "metrics.csv").write_text(there)
    tracker = spec("csv").open(info(tmp_path))
    tracker.log(1, {"loss": 2.0})
    tracker.close({})
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n0,1.0\n1,2.0\n"


def test_csv_is_a_table_at_any_time(tmp_path):
    """What comes later at the same step is in the same row; what comes for the first time has a column of its own."""
    tracker, seen = spec("csv").open(info(tmp_path)), []
    for step, values in ((1, {"a": 1.0}), (2, {"a": 2.0}), (2, {"b, c": 3.0}), (3, {"a": 4.0}), (3, {"b, c": 5.0})):
        tracker.log(step, values)
        seen.append((tmp_path / "metrics.csv").read_text())
    head = 'step,a,"b, c"\n1,1.0,\n2,2.0,3.0\n'
    assert seen == ["step,a\n1,1.0\n", "step,a\n1,1.0\n2,2.0\n", head, head + "3,4.0,\n", head + "3,4.0,5.0\n"]


@pytest.mark.long
def test_tensorboard_reads_back(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = spec("tensorboard").open(info(tmp_path))
    for step in range(3):
        tracker.log(step, {"loss": step / 4})
    tracker.images(2, {"grey": GRADIENT, "rgb": np.stack([GRADIENT] * 3, axis=-1)})
    tracker.histograms(2, {"weights": np.array([1, 2, np.inf], dtype=np.float32)})
    tracker.histograms(2, {"lost": np.array([np.nan], dtype=np.float32)})
    assert tracker.close({"best": 0.5}) == "tensorboard: look at it with  tensorboard --logdir tensorboard"
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert events.Scalars("summary/best")[0].value == 0.5
    assert events.Histograms("weights")[0].histogram_value.num == 2
    assert sorted(events.Tags()["images"]) == ["grey", "rgb"]
    (tmp_path / "grey.png").write_bytes(events.Images("grey")[0].encoded_image_string)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "grey.png").convert("L")), GRADIENT)


def test_tensorboard_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for attempt in (spec("tensorboard").check, lambda: spec("tensorboard").open(info(tmp_path))):
        with pytest.raises(UserError, match=re.escape(install("tensorboard"))):
            attempt()
    assert not (tmp_path / "tensorboard").exists()


def test_none_shows_nothing(tmp_path):
    tracker = spec("none").open(info(tmp_path / "out"))
    tracker.log(0, {"loss": 1.0})
    tracker.images(0, {"samples": GRADIENT})
    assert tracker.close({}) is None
    assert not (tmp_path / "out").exists()


# Guarded


class Fake(TrackerSpec, Tracker):
    """Keeps what it gets; at the named place it does `trouble`."""

    def __init__(self, place="", trouble=lambda: None):
        self.place, self.trouble, self.seen = place, trouble, []

    def _at(self, place, *given):
        self.seen.append((place, *given))
        if place == self.place:
            self.trouble()

    def open(self, run):
        self._at("open")
        return self

    def log(self, step, metrics):
        self._at("log", step, metrics)

    def images(self, step, images):
        self._at("images", step, images)

    def histograms(self, step, values):
        self._at("histograms", step, values)

    def close(self, summary):
        self._at("close", summary)
        return "fake: all there"


def fail():
    raise OSError("no space left\nin the attic")


@pytest.fixture
def stuck():
    """Something that hangs until the test is over."""
    release = threading.Event()
    yield lambda: release.wait(60)
    release.set()


def timed(call, *args):
    start = time.monotonic()
    return call(*args), time.monotonic() - start


def use(tracker):
    for step in range(100):
        tracker.log(step, {"loss": 1.0})
        tracker.images(step, {"samples": GRADIENT})
        tracker.histograms(step, {"weights": np.ones(4, dtype=np.float32)})


@pytest.mark.long
def test_guard_keeps_order_and_loses_nothing(tmp_path):
    fake = Fake()
    tracker = Guarded(fake, info(tmp_path))
    values = np.zeros(3, dtype=np.float32)
    pixels = GRADIENT.copy()
    metrics = {"loss": 0.0}
    for step in range(10_000):
        metrics["loss"] = float(step)
        tracker.log(step, metrics)
    tracker.histograms(10_000, {"weights": values})
    tracker.images(10_000, {"samples": pixels})
    values[:] = 7  # the caller may reuse its arrays
    pixels[:] = 7
    assert tracker.close({"best": 1.0}) == "fake: all there"
    assert not tracker.hung
    logs = [("log", step, {"loss": float(step)}) for step in range(10_000)]
    assert fake.seen[:10_001] == [("open",), *logs]
    assert [seen[0] for seen in fake.seen[10_001:]] == ["histograms", "images", "close"]
    np.testing.assert_array_equal(fake.seen[10_001][2]["weights"], np.zeros(3))
    np.testing.assert_array_equal(fake.seen[10_002][2]["samples"], GRADIENT)
    assert fake.seen[-1] == ("close", {"best": 1.0})


@pytest.mark.parametrize("place", ["open", "log", "images", "histograms", "close"])
def test_guard_survives_what_raises(tmp_path, place):
    fake = Fake(place, fail)
    tracker = Guarded(fake, info(tmp_path), timeout=5)
    _, seconds = timed(use, tracker)
    assert seconds < 2
    line, seconds = timed(tracker.close, {})
    assert line == "tracker stopped: OSError: no space left; metrics.jsonl is complete"
    assert seconds < 3
    assert not tracker.hung
    places = [seen[0] for seen in fake.seen]
    assert places.count(place) == 1  # nothing more after the first trouble
    assert places.count("close") == (place != "open")  # its helper process must end


@pytest.mark.quick("log")
@pytest.mark.parametrize("place", ["open", "log", "close"])
def test_guard_survives_what_hangs(tmp_path, stuck, place):
    tracker = Guarded(Fake(place, stuck), info(tmp_path), timeout=0.5)
    _, seconds = timed(use, tracker)
    assert seconds < 2
    line, seconds = timed(tracker.close, {})
    assert line == "tracker did not answer within 0.5 s; metrics.jsonl is complete"
    assert 0.4 < seconds < 3
    assert tracker.hung


def test_guard_does_not_wait_for_a_full_queue(tmp_path, stuck):
    tracker = Guarded(Fake("open", stuck), info(tmp_path), timeout=0.3, capacity=10)
    _, seconds = timed(use, tracker)
    assert seconds < 2
    line, seconds = timed(tracker.close, {})
    assert (line, tracker.hung) == ("tracker did not answer within 0.3 s; metrics.jsonl is complete", True)
    assert seconds < 3


@pytest.mark.parametrize("bound", [{"capacity": 10}, {"budget": GRADIENT.nbytes * 10}])
def test_guard_bounds_what_waits_and_counts_what_it_drops(tmp_path, bound):
    ready = threading.Event()
    fake = Fake("open", lambda: ready.wait(10))
    tracker = Guarded(fake, info(tmp_path), timeout=5, **bound)
    for step in range(25):
        tracker.images(step, {"samples": GRADIENT})
    ready.set()
    line = tracker.close({})
    assert line.startswith("fake: all there (15 records were dropped")
    assert [seen[1] for seen in fake.seen if seen[0] == "images"] == list(range(10))


def test_nothing_waits_for_a_tracker_that_shows_nothing(tmp_path):
    """Not even arrays larger than may wait are dropped, nor is there anything to say in the end."""
    huge = np.broadcast_to(np.float32(1), (1 << 29,))
    tracker = guarded(spec("none"), info(tmp_path))
    assert not isinstance(tracker, Guarded)
    tracker.histograms(1, {"weights": huge})
    assert tracker.close({}) is None
    rows = guarded(spec("csv"), info(tmp_path))
    assert isinstance(rows, Guarded)
    rows.histograms(1, {"weights": huge})
    assert "dropped" not in (rows.close({}) or "")


def test_guard_gives_room_back(tmp_path):
    shown = threading.Semaphore(0)
    fake = Fake("images", shown.release)
    tracker = Guarded(fake, info(tmp_path), timeout=5, budget=GRADIENT.nbytes * 2)
    for step in range(25):
        tracker.images(step, {"samples": GRADIENT})
        assert shown.acquire(timeout=5)
    assert tracker.close({}) == "fake: all there"


@pytest.mark.long
def test_guard_with_wandb(tmp_path):
    tracker = Guarded(spec("wandb"), info(tmp_path / "out"))
    for step in range(200):
        tracker.log(step, {"loss": float(step)})
    tracker.images(199, {"samples": GRADIENT})
    assert "wandb sync" in tracker.close({"best": 1.0})
    rows = wandb_reader.history(tmp_path / "out")
    assert [row["loss"] for row in rows] == list(range(200))
    assert rows[-1]["samples"]["_type"] == "image-file"
