"""Runs on images from the command line: long chains, divergence, and what a newcomer meets."""

import json

import numpy as np
import pytest
from helpers.cli import ebm

from ebm_cli import rng
from ebm_cli.rng import stream

# From the command line

QUICK = (
    "train model=convnet dataset=digits objective=ml_replay optimizer=adam model.widths=[4,4] chains.size=20 "
    "batch_size=10 chains.steps=3 steps=4 tracker=none hydra.run.dir=run checkpoint.monitor=null "
)


@pytest.mark.long
@pytest.mark.usefixtures("hasty")
def test_an_image_run_from_start_to_long_chains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = ebm(QUICK + "sampler=augmented sampler.kernel.noise=0.01 objective.kl=du2021 evaluation=[samples]")
    assert answer.code == 0, answer.err
    assert "boxed in [0, 1], 17 levels spread evenly" in answer.err
    answer = ebm("evaluate run=run evaluation=long_run evaluation.long_run.steps=8 evaluation.long_run.chains=9 "
                 "evaluation.long_run.noises=[0.01,0.1]")  # fmt: skip
    assert answer.code == 0, answer.err
    folder = next((tmp_path / "run" / "evaluations").iterdir())
    names = {path.name for path in folder.iterdir()}
    assert {"long_run.png", "long_run.csv", "results.json", "long_run_noise_0.1_from_noise.png"} <= names
    assert "long chains" in answer.out
    assert all(f"noise {noise}, from {start}" in answer.out for noise in (0.01, 0.1) for start in ("noise", "data"))
    lines = (folder / "long_run.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 3 * 5
    answer = ebm("sample run=run n=4 steps=5 sampler.every=2 sampler.kernel.noise=0.5")
    assert answer.code == 0
    assert "temperature 12.5" in answer.err
    assert "elastic every 2 steps" in answer.err
    answer = ebm("sample run=run n=4 steps=5 sampler.kernel.nose=0.5")
    assert answer.code == 2
    assert "sampler.kernel.nose" in answer.err
    assert "did you mean" in answer.err


@pytest.mark.long
def test_a_run_that_diverges_stops_by_name_and_leaves_a_healthy_checkpoint(tmp_path, monkeypatch):
    """A step that is far too long: within 25 steps, the reason on the screen, and the run can be sampled."""
    monkeypatch.chdir(tmp_path)
    answer = ebm(QUICK + "steps=400 save_every=2 log_every=1 optimizer.lr=0.05 sampler.step_size=10 sampler.noise=0.01 "
                 "objective.max_gap=3 evaluation=[samples]")  # fmt: skip
    assert answer.code == 1
    assert "energy_gap is" in answer.err
    assert "beyond objective.max_gap = 3" in answer.err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(abs(line["energy_gap"]) <= 3 for line in lines)
    kept = int(answer.err.partition("the newest checkpoint is of step ")[2].split()[0])
    assert lines[-1]["step"] - 2 <= kept <= lines[-1]["step"] + 2
    assert {"chains_gradient", "chains_temperature", "energy_data", "energy_chains"} <= set(lines[0])
    assert ebm("sample run=run n=4 steps=5").code == 0


def test_what_is_usual_and_does_not_apply_is_left_out(tmp_path, monkeypatch):
    """A newcomer's first image model: no likelihood by chains that do not sample it; asked for, it is refused."""
    monkeypatch.chdir(tmp_path)
    answer = ebm("train model=convnet model.widths=[4] chains.count=4 batch_size=4 steps=2 tracker=none "
                 "hydra.run.dir=run evaluation.samples.steps=2 evaluation.chains.steps=20 "
                 "evaluation.chains.warmup=2")  # fmt: skip
    assert answer.code == 0, answer.err
    assert "evaluation ais does not apply: sampler=langevin does not leave" in answer.err
    answer = ebm("evaluate run=run evaluation=[ais]")
    assert answer.code == 2
    assert (
        "evaluation=ais: sampler=langevin does not leave the model invariant; samplers that do and fit this model: "
        "hmc, mala, mala_mixed, metropolis, nuts, underdamped"
    ) in answer.err


@pytest.mark.long
def test_long_runs_want_langevin_for_their_noises(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ebm(QUICK + "sampler=mala evaluation=[samples]").code == 0
    answer = ebm("evaluate run=run evaluation=long_run evaluation.long_run.noises=[0.1]")
    assert answer.code == 2
    assert "evaluation=long_run: noises are those of sampler=langevin" in answer.err


@pytest.mark.long
@pytest.mark.usefixtures("hasty")
def test_samples_of_an_image_run_have_distances(tmp_path, monkeypatch):
    """Those of data are small, those of noise are not; Inception is refused by name where it is not at hand."""
    monkeypatch.chdir(tmp_path)
    assert ebm(QUICK + "evaluation=[samples] evaluation.samples.features=classifier evaluation.samples.steps=1 "
               "evaluation.samples.count=200 evaluation.samples.start=noise").code == 0  # fmt: skip
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["samples/frechet_distance"] > 10 * found["samples/frechet_distance_of_data"] > 0
    assert found["samples/kernel_distance"] > 10 * abs(found["samples/kernel_distance_of_data"])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    answer = ebm("evaluate run=run evaluation=[samples] evaluation.samples.features=inception")
    assert answer.code == 2
    assert "evaluation.samples.features = inception: " in answer.err


# What a newcomer meets


def test_images_with_channels_last_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("rgb.npz", train=np.arange(7680, dtype=np.uint8).reshape(40, 8, 8, 3))
    answer = ebm("train model=convnet dataset=array dataset.path=rgb.npz tracker=none")
    assert answer.code == 2
    assert "the data have shape 8x8x3; store channels first" in answer.err


def test_floats_beyond_one_are_no_images_and_the_way_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", train=np.linspace(-1, 1, 640, dtype=np.float32).reshape(10, 8, 8))
    answer = ebm("train model=convnet dataset=array dataset.path=x.npz dataset.box=symmetric tracker=none")
    assert answer.code == 2
    assert "rescale the data to [0, 1], or store images as uint8" in answer.err


@pytest.mark.long
def test_a_classifier_of_samples_without_labels_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", train=np.arange(640, dtype=np.uint8).reshape(10, 8, 8))
    answer = ebm("train model=convnet dataset=array dataset.path=x.npz evaluation=[samples] tracker=none "
                 "evaluation.samples.features=classifier hydra.run.dir=run")  # fmt: skip
    assert answer.code == 2
    assert "the data have no labels to train one by; set evaluation.samples.features=none" in answer.err
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.long
def test_chains_that_ran_away_are_said(tmp_path, monkeypatch):
    """Numbers of the order of 100 on a machine made for numbers of the order of 1."""
    monkeypatch.chdir(tmp_path)
    table = 100 + 50 * rng.normal((400, 7), stream(0)).numpy()
    np.savez("table.npz", train=table)
    answer = ebm("train model=gaussian_rbm model.hidden=8 dataset=array dataset.path=table.npz steps=100 tracker=none "
                 "evaluation=[samples] hydra.run.dir=run")  # fmt: skip
    assert answer.code == 0
    assert "the chains have run away; standardise the data" in answer.err


@pytest.mark.long
def test_a_key_of_the_kernel_is_found_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ebm(QUICK + "sampler=augmented evaluation=[samples]").code == 0
    answer = ebm("sample run=run sampler.noise=0.1")
    assert answer.code == 2
    assert "sampler.noise: is a key of its kernel in this run; use sampler.kernel.noise" in answer.err
    answer = ebm("train resume=run steps=9 sampler.every=3")
    assert answer.code == 2
    assert "sampler.every: a resumed run keeps its own" in answer.err
