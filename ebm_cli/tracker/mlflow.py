"""MLflow: a database on this machine, for which nobody needs an account, or a server."""

import fcntl
import importlib
import importlib.util
import json
import logging
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from typing_extensions import override

from ebm_cli.errors import UserError, install
from ebm_cli.registry import register
from ebm_cli.tracker.base import RunInfo, Tracker, TrackerSpec
from ebm_cli.tracker.mlflow_run import MlflowTracker, Record, named

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ID = "ebm.id"  # the tag by which a resumed run finds its own: mlflow gives ids itself
_SQLITE = "sqlite:///"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_AT_ONCE = 100  # parameters that mlflow takes in a batch
_LONGEST = {"param": 6000, "tag": 8000}  # characters of a value


@register("tracker", "mlflow")
class Mlflow(TrackerSpec):
    """Log to MLflow; without an address the record is in mlflow.db and mlruns/ of the working directory."""

    project: str | None
    tracking_uri: str | None
    run_name: str | None
    group: str | None
    tags: tuple[str, ...]
    notes: str | None

    shows_histograms = False

    @override
    def check(self) -> None:
        """Raise UserError if a package is missing, or for a store that mlflow no longer writes to."""
        scheme = urlsplit(self._uri()).scheme
        database = scheme.partition("+")[0] in _DATABASES
        for package in ("mlflow", "sqlalchemy", "alembic") if database else ("mlflow",):
            if importlib.util.find_spec(package) is None:
                raise UserError(f"tracker=mlflow: the {package} package is not installed; {install('mlflow')}")
        if scheme in ("", "file") and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
            cause = "tracker.tracking_uri" if self.tracking_uri else "MLFLOW_TRACKING_URI"
            raise UserError(
                f"{cause} = {self._uri()}: mlflow keeps no new records in folders; give a database, {_SQLITE}FILE.db, "
                "or the address of a server"
            )

    @override
    def open(self, run: RunInfo) -> Tracker:
        """Start the run in the store, or go on with the one of the interrupted run. Raises UserError like `check`."""
        self.check()
        load()
        from mlflow import MlflowClient

        uri = self._uri()
        with _alone(_database(uri)):
            client = MlflowClient(tracking_uri=uri)
            experiment = self._experiment(client)
        record = self._begun(client, experiment, run)
        return MlflowTracker(client, record, None if run.in_sweep else self._line(experiment, record))

    @override
    def look(self) -> str:
        uri = self._uri()
        if urlsplit(uri).scheme in ("http", "https"):
            return f"mlflow: look at it at {uri}"
        return f"mlflow: look at it with  mlflow ui --backend-store-uri {shlex.quote(uri)}"

    def _line(self, experiment: str, record: Record) -> str:
        uri = self._uri()
        if urlsplit(uri).scheme in ("http", "https"):
            return f"mlflow: {uri.rstrip('/')}/#/experiments/{experiment}/runs/{record.id}"
        return self.look()

    def _uri(self) -> str:
        return self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"

    def _experiment(self, client: "MlflowClient") -> str:
        """Its id; pictures of a new one lie beside the database."""
        name = self.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "ebm"
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        database = _database(self._uri())
        place = None if database is None else (database.parent / "mlruns" / named(name).replace("/", "_")).as_uri()
        return str(client.create_experiment(name, artifact_location=place))

    def _begun(self, client: "MlflowClient", experiment: str, run: RunInfo) -> Record:
        """The run of this id, a new one if there is none, with all that is known of it before it trains."""
        from mlflow.entities import Param, RunTag

        found = client.search_runs([experiment], f"tags.`{_ID}` = '{run.run_id}'", max_results=1)
        name = self.run_name or run.name
        own = found[0] if found else client.create_run(experiment, tags={_ID: run.run_id}, run_name=name)
        place = own.info.run_id
        client.update_run(place, status="RUNNING", name=name)
        new = {key: value for key, value in flat(run.config).items() if key not in own.data.params}
        params = [Param(key, value) for key, value in new.items()]
        for first in range(0, len(params), _AT_ONCE):
            client.log_batch(place, params=params[first : first + _AT_ONCE])
        client.log_batch(place, tags=[RunTag(key, value) for key, value in self._tags(run).items()])
        client.log_dict(place, dict(run.config), "config.json")
        return Record(place, run.step or 0, *(_beyond(client, own, run.step) if found and run.step is not None else ()))

    def _tags(self, run: RunInfo) -> dict[str, str]:
        """A tag has a value in mlflow: what is only named is true."""
        own = dict.fromkeys(self.tags, "true")
        told = {"group": self.group or run.group, "mlflow.note.content": self.notes, "mlflow.source.name": "ebm train"}
        about = {f"ebm.{key}": value for key, value in run.about.items()}
        return {named(k): _text(v, "tag") for k, v in {**about, **told, **own}.items() if v is not None}


def load() -> None:
    """Import mlflow, which else reports its use to its makers and says on the terminal that it makes tables."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    importlib.import_module("mlflow")
    importlib.import_module("mlflow.entities")


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Every key with the path to it, `model.hidden`, and its value as text."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{before}{key}.")
        else:
            found[named(f"{before}{key}")] = _text(value, "param")
    return found


def _text(value: Any, kind: str) -> str:
    text, most = value if isinstance(value, str) else json.dumps(value, default=str), _LONGEST[kind]
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _database(uri: str) -> Path | None:
    """The file of a store on this machine."""
    place = uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(place).absolute() if uri.startswith(_SQLITE) and place else None


@contextmanager
def _alone(database: Path | None) -> Iterator[None]:
    """Of runs that begin at once one makes the tables, which mlflow does not see to: the others would fail."""
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(database.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _beyond(client: "MlflowClient", run: Any, step: int) -> tuple[set[tuple[int, str]], set[tuple[int, str]]]:
    """The metrics and pictures that the store has of steps beyond this one: mlflow can delete none of them."""
    metrics = {
        (point.step, key)
        for key in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, key)
        if point.step > step
    }
    names = [os.path.basename(file.path) for file in client.list_artifacts(run.info.run_id, "images")]
    found = {tuple(name.split("+step+")) for name in names if name.count("+step+") == 1}
    pictures = {(int(rest.partition("+")[0]), key.replace("~", "/")) for key, rest in found}
    return metrics, {(at, key) for at, key in pictures if at > step}
