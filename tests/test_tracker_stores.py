"""Trackers with one store for all runs, MLflow and Trackio; stand-ins take the place of the libraries."""

import dataclasses
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from test_tracker import GRADIENT, info, spec

from ebm_cli.errors import UserError
from ebm_cli.tracker import process, worker
from ebm_cli.tracker.base import End

VALUES = np.array([0, 1, 2, np.nan], dtype=np.float32)


def module(monkeypatch, name, **members):
    """A package of this name that holds nothing else."""
    found = ModuleType(name)
    found.__spec__ = ModuleSpec(name, None)
    found.__path__ = []
    found.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, found)


class Server:
    """What a store of MLflow holds after the calls of its client, with the limits of the real one."""

    def __init__(self):
        self.runs, self.calls = {}, []

    def MlflowClient(self, tracking_uri):
        self.uri = tracking_uri
        return self

    def get_experiment_by_name(self, name):
        return getattr(self, "experiment", None)

    def create_experiment(self, name, artifact_location):
        self.experiment = SimpleNamespace(experiment_id="7", name=name, artifact_location=artifact_location)
        return "7"

    def search_runs(self, _, words, max_results):
        return [run for run in self.runs.values() if words == f"tags.`ebm.id` = '{run.data.tags['ebm.id']}'"]

    def create_run(self, _, tags, run_name):
        place = f"place-{len(self.runs)}"
        data = SimpleNamespace(tags=dict(tags), params={}, metrics={}, points=[], pictures=[])
        self.runs[place] = SimpleNamespace(info=SimpleNamespace(run_id=place), data=data)
        return self.runs[place]

    def update_run(self, place, status, name):
        self.runs[place].info.status, self.runs[place].info.name = status, name

    def set_terminated(self, place, status):
        self.runs[place].info.status = status

    def set_tag(self, place, key, value):
        self.runs[place].data.tags[key] = value

    def log_dict(self, place, values, name):
        self.runs[place].data.config = values

    def log_batch(self, place, metrics=(), params=(), tags=()):
        data = self.runs[place].data
        self.calls.append((len(metrics), len(params), len(tags)))
        assert max(len(metrics) / 10, len(params), len(tags)) <= 100, "more than a batch may have"
        for param in params:
            assert data.params.setdefault(param.key, param.value) == param.value, "a parameter cannot change"
        data.tags |= {tag.key: tag.value for tag in tags}
        data.points += metrics
        data.metrics |= {metric.key: metric.value for metric in metrics}

    def get_metric_history(self, place, key):
        return [point for point in self.runs[place].data.points if point.key == key]

    def log_image(self, place, pixels, key, step, synchronous):
        self.runs[place].data.pictures.append((key, step, pixels))

    def list_artifacts(self, place, folder):
        found = [(key.replace("/", "~"), step) for key, step, _ in self.runs[place].data.pictures]
        names = [f"{folder}/{key}+step+{step}+timestamp+5+1f" for key, step in found]
        return [SimpleNamespace(path=name + end) for name in names for end in (".png", "+compressed.webp")]


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    found = Server()

    def metric(key, value, timestamp, step):
        return SimpleNamespace(key=key, value=value, timestamp=timestamp, step=step)

    def pair(key, value):
        return SimpleNamespace(key=key, value=value)

    module(monkeypatch, "mlflow", MlflowClient=found.MlflowClient)
    module(monkeypatch, "mlflow.entities", Metric=metric, Param=pair, RunTag=pair)
    module(monkeypatch, "sqlalchemy")
    module(monkeypatch, "alembic")
    return found


def resumed(at, step, **changes):
    return dataclasses.replace(info(at), step=step, **changes)


def points(server, key="loss"):
    return [(point.step, point.value) for run in server.runs.values() for point in run.data.points if point.key == key]


def test_mlflow_holds_a_run(server, tmp_path):
    about = {"host": "here", "job": None}
    keys = {"project": "p", "tags": ["mine"], "notes": "why", "group": "g", "run_name": "n"}
    tracker = spec("mlflow", **keys).open(dataclasses.replace(info(tmp_path), about=about))
    (run,) = server.runs.values()
    assert (run.info.status, run.info.name, server.experiment.name) == ("RUNNING", "n", "p")
    for step in range(3):
        tracker.log(step, {"loss": step / 4, "odd(key)": 1.0})
    tracker.images(2, {"weights/W": GRADIENT})
    tracker.histograms(2, {"weights/W": VALUES})
    tracker.ended(End("done", 0))
    assert tracker.close({"best": 0.5}) == "mlflow: look at it with  mlflow ui --backend-store-uri sqlite:///mlflow.db"
    assert points(server) == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert points(server, "odd_key_") == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert points(server, "best") == [(2, 0.5)]
    assert [(key, step) for key, step, _ in run.data.pictures] == [("weights/W", 2)]
    assert run.data.params == {"seed": "3", "model.name": "rbm", "model.hidden": "500"}
    told = {"ebm.id": "r1", "ebm.host": "here", "group": "g", "mine": "true", "mlflow.note.content": "why"}
    assert run.data.tags == told | {"mlflow.source.name": "ebm train", "status": "done"}
    assert run.info.status == "FINISHED"
    assert server.experiment.artifact_location == (tmp_path / "mlruns" / "p").as_uri()


@pytest.mark.parametrize(
    ("end", "status", "tags"),
    [
        (End("done", 0), "FINISHED", {"status": "done"}),
        (End("pruned", 0), "FINISHED", {"status": "pruned"}),
        (End("failed", 1, "not finite"), "FAILED", {"status": "failed", "error": "not finite"}),
        (End("stopped", 75), "KILLED", {"status": "stopped"}),
        (None, "KILLED", {}),
    ],
)
def test_mlflow_is_told_how_a_run_ended(server, tmp_path, end, status, tags):
    tracker = spec("mlflow").open(info(tmp_path))
    if end:
        tracker.ended(end)
    tracker.close({})
    (run,) = server.runs.values()
    assert run.info.status == status
    assert {key: run.data.tags[key] for key in ("status", "error") if key in run.data.tags} == tags


def test_mlflow_goes_on_with_a_run_and_has_each_step_once(server, tmp_path):
    """The run was killed after step 5 and goes on from its checkpoint of step 3."""
    for step, steps in ((None, range(1, 6)), (3, range(4, 9))):
        tracker = spec("mlflow").open(resumed(tmp_path, step))
        for number in steps:
            tracker.log(number, {"loss": float(number)})
            tracker.images(number, {"weights/W": GRADIENT})
        tracker.close({})
    (run,) = server.runs.values()
    assert points(server) == [(step, float(step)) for step in range(1, 9)]
    assert [step for _, step, _ in run.data.pictures] == [*range(1, 9)]


def test_mlflow_keeps_parameters_and_has_the_configuration_as_it_is(server, tmp_path):
    spec("mlflow").open(info(tmp_path)).close({})
    spec("mlflow").open(resumed(tmp_path, 3, config={"seed": 4, "new": [1]})).close({})
    (run,) = server.runs.values()
    assert run.data.params == {"seed": "3", "model.name": "rbm", "model.hidden": "500", "new": "[1]"}
    assert run.data.config == {"seed": 4, "new": [1]}


def test_mlflow_is_sent_much_at_once(server, tmp_path):
    many = {f"key-{number}": 1.0 for number in range(250)}
    tracker = spec("mlflow").open(dataclasses.replace(info(tmp_path), config=many))
    assert [params for _, params, _ in server.calls if params] == [100, 100, 50]
    for step in range(2500):
        tracker.log(step, {"loss": 1.0})
    tracker.close({})
    assert len(points(server)) == 2500
    assert len([metrics for metrics, _, _ in server.calls if metrics]) < 50


def test_mlflow_takes_a_server(server, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    tracker = spec("mlflow").open(info(tmp_path))
    assert tracker.close({}) == "mlflow: http://127.0.0.1:5000/#/experiments/7/runs/place-0"
    assert server.experiment.artifact_location is None
    assert spec("mlflow").look() == "mlflow: look at it at http://127.0.0.1:5000"
    assert spec("mlflow", tracking_uri="sqlite:///x.db").look().endswith("sqlite:///x.db")


def test_mlflow_refuses_a_folder(server, monkeypatch):
    with pytest.raises(UserError, match=r"^tracker.tracking_uri = ./mlruns: .* sqlite:///FILE.db"):
        spec("mlflow", tracking_uri="./mlruns").check()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///mlruns")
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI = file:///mlruns: "):
        spec("mlflow").check()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    spec("mlflow").check()


@pytest.mark.parametrize(
    ("name", "package"), [("mlflow", "mlflow"), ("mlflow", "sqlalchemy"), ("mlflow", "alembic"), ("trackio", "trackio")]
)
def test_a_package_that_is_missing_is_named(server, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"^tracker={name}: the {package} package is .*'\.\[{name}\]'$"):
        spec(name).check()


class Database:
    """What a store of Trackio holds after the calls of its runs."""

    def __init__(self):
        self.rows, self.configs, self.alerts, self.warns = [], [], [], None

    def Run(self, *, url, project, client, **known):
        assert url is None, "it would be sent"
        run = SimpleNamespace(**known, project=project)
        self.configs.append(known["config"])

        def log(metrics, step):
            self.rows.append((known["run_id"], step, metrics))
            if self.warns:
                sys.modules["trackio.utils"].warn(self.warns)

        run.log, run.finish = log, lambda: self.rows.append((known["run_id"], -1, {}))
        run.alert = lambda title, text, level, step: self.alerts.append((title, text, level, step))
        self.last = run
        return run

    def get_logs(self, project, run_id):
        return [{**values, "step": step, "timestamp": "t"} for own, step, values in self.rows if own == run_id]

    def validate_project_name(self, project):
        if project == "registry-x":
            raise ValueError("reserved")


WARN = "import warnings\ndef warn(text):\n    warnings.warn(text)\n"


@pytest.fixture
def database(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("TRACKIO_DIR", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    found = Database()
    module(
        monkeypatch, "trackio", Run=found.Run, Image=lambda pixels: ("image", pixels.shape),
        Histogram=lambda np_histogram: ("histogram", int(np_histogram[0].sum())), AlertLevel=SimpleNamespace(ERROR="e"),
    )  # fmt: skip
    module(monkeypatch, "trackio.sqlite_storage", SQLiteStorage=found)
    module(monkeypatch, "trackio.utils")
    exec(compile(WARN, "/lib/trackio/utils.py", "exec"), sys.modules["trackio.utils"].__dict__)
    for name in ("gradio_client", "huggingface_hub", "starlette.applications", "uvicorn"):
        module(monkeypatch, name)
    return found


def rows(database):
    return [(step, values) for _, step, values in database.rows if values]


def test_trackio_holds_a_run(database, tmp_path):
    keys = {"project": "p", "tags": ["mine"], "notes": "why", "group": "g", "run_name": "a/b"}
    tracker = spec("trackio", **keys).open(dataclasses.replace(info(tmp_path), about={"host": "here"}))
    assert (database.last.name, database.last.run_id, database.last.group) == ("a_b", "r1", "g")
    assert database.configs[0]["run"]["status"] == "running"
    tracker.log(1, {"loss": 0.5})
    tracker.images(1, {"samples": GRADIENT})
    tracker.histograms(1, {"weights": VALUES, "lost": VALUES[3:]})
    tracker.ended(End("done", 0))
    assert tracker.close({"best": 0.25}) == "trackio: look at it with  trackio show --project p"
    shown = [{"loss": 0.5}, {"samples": ("image", (16, 16))}, {"weights": ("histogram", 3)}, {"best": 0.25}]
    assert rows(database) == [(1, values) for values in shown]
    about = {"host": "here", "tags": ["mine"], "notes": "why", "status": "done"}
    assert database.configs[-1] == {**info(tmp_path).config, "run": about}
    assert not database.alerts
    assert [step for _, step, _ in database.rows].count(-1) == 2  # all that it writes is written


def test_trackio_marks_a_run_that_failed_or_broke_off(database, tmp_path):
    tracker = spec("trackio").open(info(tmp_path))
    tracker.log(4, {"loss": 1.0})
    tracker.ended(End("failed", 1, "not finite"))
    tracker.close({})
    assert database.alerts == [("failed", "not finite", "e", 4)]
    assert database.configs[-1]["run"] | {"status": "failed", "error": "not finite"} == database.configs[-1]["run"]
    spec("trackio").open(info(tmp_path)).close({})
    assert database.configs[-1]["run"]["status"] == "broken off"


def test_trackio_goes_on_with_a_run_and_has_each_step_once(database, tmp_path):
    for step, steps in ((None, range(1, 6)), (3, range(4, 9))):
        tracker = spec("trackio").open(resumed(tmp_path, step))
        for number in steps:
            tracker.log(number, {"loss": float(number)})
            tracker.images(number, {"samples": GRADIENT})
        tracker.close({})
    assert [step for step, values in rows(database) if "loss" in values] == [*range(1, 9)]
    assert [step for step, values in rows(database) if "samples" in values] == [*range(1, 9)]


def test_what_trackio_only_warns_of_is_a_failure(database, tmp_path):
    import warnings

    tracker = spec("trackio").open(info(tmp_path))
    warnings.warn("of another library", stacklevel=1)
    tracker.log(1, {"loss": 1.0})
    database.warns = "trackio failed to flush: no space left"
    with pytest.raises(Exception, match="no space left"):
        tracker.log(2, {"loss": 1.0})
    database.warns = None
    assert "trackio show" in tracker.close({})


def test_trackio_is_kept_where_it_is_told(database, monkeypatch, tmp_path):
    tracker = spec("trackio", folder="my store").open(dataclasses.replace(info(tmp_path), in_sweep=True))
    assert sys.modules["os"].environ["TRACKIO_DIR"] == str(tmp_path / "my store")
    assert tracker.close({}) is None
    assert spec("trackio", folder="my store").look().endswith("TRACKIO_DIR='my store' trackio show --project ebm")
    with pytest.raises(ValueError, match="reserved"):
        spec("trackio", project="registry-x").open(info(tmp_path))


def test_each_tracker_has_a_process_of_its_own(monkeypatch):
    made = []
    monkeypatch.setattr(process, "_waiting", {})
    monkeypatch.setattr(process, "_Process", lambda name: made.append(name) or SimpleNamespace(name=name))
    for name in ("wandb", "csv", "mlflow", "wandb"):
        process.start(name)
    assert made == ["wandb", "mlflow"]
    asked = []
    monkeypatch.setattr(process, "_Remote", asked.append)
    for waiting in process._waiting.values():
        waiting.ask = lambda *_: None
    process.apart(spec("mlflow"), "mlflow").open(None)
    assert [one.name for one in asked] == ["mlflow"]
    assert list(process._waiting) == ["wandb"]
    assert not process.apart(spec("mlflow"), "mlflow").shows_histograms


def test_a_record_of_a_run_that_is_gone_is_closed():
    seen = []
    for tracker, code in ((None, 0), (SimpleNamespace(close=seen.append), 1)):
        with pytest.raises(SystemExit) as ended:
            worker._broken_off(tracker)
        assert ended.value.code == code
    assert seen == [{}]
