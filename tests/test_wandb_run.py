"""A whole run with the default tracker, read back from wandb's own offline file."""

import json

import pytest
import wandb_reader

from ebm_cli.cli import dispatch

ARGUMENTS = [
    "train", "hydra.run.dir=outputs/run", "model.hidden=8", "steps=40", "log_every=5", "eval_every=20", "tracker=wandb",
    "evaluation=[pseudo_likelihood,samples]", "evaluation.samples.count=9",
]  # fmt: skip


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No account, no configuration of wandb's, an empty working directory."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_ENTITY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_wandb_holds_every_metric_of_metrics_jsonl_and_the_pictures(offline, capfd):
    assert dispatch(ARGUMENTS) == 0
    run = offline / "outputs" / "run"
    assert "wandb sync" in capfd.readouterr().err
    shown = {entry["_step"]: entry for entry in wandb_reader.history(run)}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 10
    for line in lines:
        step = line.pop("step")
        assert line == {key: shown[step][key] for key in line}
    pictures = {key for entry in shown.values() for key, value in entry.items() if isinstance(value, dict)}
    assert {"chains", "samples", "neighbours", "weights/W"} <= pictures
    summary = json.loads((run / "summary.json").read_text())
    found = wandb_reader.summary(run)
    assert found["pseudo_likelihood/log_pseudo_likelihood"] == summary["pseudo_likelihood/log_pseudo_likelihood"]


@pytest.mark.parametrize("where", ["init", "log"])
def test_a_wandb_that_raises_does_not_stop_the_run(offline, monkeypatch, capfd, where):
    import wandb

    class Broken:
        def __getattr__(self, name):
            raise OSError("wandb is broken")

    def init(**_):
        if where == "init":
            raise OSError("wandb is broken")
        return Broken()

    monkeypatch.setattr(wandb, "init", init)
    assert dispatch(ARGUMENTS) == 0
    assert "wandb is broken" in capfd.readouterr().err
    assert len((offline / "outputs" / "run" / "metrics.jsonl").read_text().splitlines()) == 10
