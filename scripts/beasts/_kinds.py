"""What is trained: healthy settings of each model, and the settings that spoil them, by cause."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CAUSES = ("rate", "steps", "step size", "temperature", "data scale", "initial weights", "momentum", "replay")


@dataclass(frozen=True)
class Kind:
    """One model with an objective and a sampler: words of its command line, healthy variants, spoilt ones by cause."""

    words: str
    healthy: Sequence[str]
    spoilt: Mapping[str, Sequence[str]]
    steps: int = 400
    seeds: int = 1  # of each spoilt setting, in each part


_LANGEVIN = "sampler=langevin sampler.step_size=10 sampler.noise=0.005 sampler.clip=0.03"
_IMAGES = "dataset=digits dataset.binarize=none optimizer=adam batch_size=64 chains.size=1000"

KINDS: Mapping[str, Kind] = {
    "rbm": Kind(
        "model=rbm dataset=digits objective=pcd",
        [
            "model.hidden=16",
            "model.hidden=64",
            "model.hidden=32 optimizer.lr=0.05",
            "model.hidden=32 chains.steps=5",
            "model.hidden=32 objective=cd",
            "model.hidden=64 objective=cd chains.steps=5 optimizer.lr=0.05",
            "model.hidden=16 optimizer=adam optimizer.lr=0.003",
            "model.hidden=64 chains.start=data",
            "model.hidden=32 sampler=parallel_tempering",
            "model.hidden=128 batch_size=50 optimizer.lr=0.03",
        ],
        {
            "rate": ["optimizer.lr=50", "optimizer.lr=10 model.hidden=32", "optimizer=adam optimizer.lr=3"],
            "steps": ["objective=cd_replay chains.steps=1 optimizer.lr=5 chains.restart=0"],
            "initial weights": ["model.weight_std=10", "model.weight_std=5 model.hidden=32"],
            "momentum": ["optimizer=sgd optimizer.lr=0.5 optimizer.momentum=0.999"],
        },
    ),
    "boltzmann": Kind(
        "model=boltzmann dataset=digits objective=pcd",
        [
            "",
            "optimizer.lr=0.02",
            "chains.steps=5",
            "objective=cd",
            "objective=pseudo_likelihood",
            "sampler=gwg chains.steps=20",
            "sampler=dmala chains.steps=5",
            "objective=ratio_matching",
        ],
        {
            "rate": ["optimizer.lr=20", "optimizer=adam optimizer.lr=3"],
            "steps": ["sampler=gwg chains.steps=1 optimizer.lr=20"],
            "step size": [
                "sampler=dmala sampler.step_size=1e-5 optimizer.lr=0.1",
                "sampler=dmala sampler.step_size=1e-4 optimizer.lr=1",
            ],
            "initial weights": ["model.weight_std=5"],
            "momentum": ["optimizer.lr=0.5 optimizer.momentum=0.999"],
        },
    ),
    "potts": Kind(
        "model=potts dataset=protein objective=pcd optimizer=adam optimizer.lr=0.01 batch_size=30",
        ["", "optimizer.lr=0.003", "objective=pseudo_likelihood", "objective=cd", "chains.start=data"],
        {
            "rate": ["optimizer.lr=3", "optimizer=sgd optimizer.lr=50"],
            "steps": ["sampler=gwg chains.steps=1 optimizer.lr=0.3"],
            "initial weights": ["model.coupling=5"],
        },
        steps=120,
    ),
    "resnet_binary": Kind(
        "model=resnet_binary model.width=16 model.blocks=2 dataset=digits objective=ml_replay sampler=gwg "
        "optimizer=adam optimizer.lr=0.0005 optimizer.warmup=50 chains.size=500 chains.restart=0 chains.steps=20 "
        "batch_size=50",
        ["", "optimizer.lr=0.0002", "optimizer.warmup=20", "chains.steps=40"],
        {
            "rate": ["optimizer.lr=0.3"],
            "steps": ["chains.steps=1 optimizer.lr=0.01"],
            "momentum": ["optimizer=sgd optimizer.lr=0.05 optimizer.momentum=0.999"],
        },
        steps=300,
    ),
    "gaussian_rbm": Kind(
        "model=gaussian_rbm dataset=digits dataset.binarize=none model.spread=0.3 objective=pcd optimizer.lr=0.003",
        [
            "",
            "objective=cd",
            "optimizer=adam optimizer.lr=0.001",
            "model.hidden=32 chains.steps=5",
            "objective=score_matching optimizer=adam optimizer.lr=0.001",
        ],
        {
            "rate": ["optimizer.lr=5", "optimizer=adam optimizer.lr=1"],
            "data scale": ["dataset=array dataset.path={scaled} dataset.binarize=auto"],
            "initial weights": ["model.weight_std=5"],
            "momentum": ["optimizer=sgd optimizer.lr=0.2 optimizer.momentum=0.999"],
        },
    ),
    "mlp": Kind(
        "model=mlp dataset=points_2d dataset.train=5000 dataset.held_out=500 model.input_scale=4 objective=pcd "
        "sampler=metropolis sampler.step_size=1 optimizer=adam optimizer.lr=0.003 chains.steps=10 batch_size=200",
        [
            "",
            "dataset.kind=moons",
            "dataset.kind=rings objective=ml_replay chains.size=2000 chains.steps=10",
            "objective=nce",
            "objective=score_matching",
            "objective=conditional_nce",
            "objective=energy_discrepancy",
            "sampler=mala_mixed",
            "dataset.kind=gaussians8 sampler=hmc sampler.step_size=0.05",
        ],
        {
            "rate": ["optimizer.lr=3", "objective=score_matching optimizer.lr=3", "objective=nce optimizer.lr=3"],
            "steps": ["sampler=metropolis sampler.step_size=0.01 chains.steps=1 optimizer.lr=0.03"],
            "step size": [
                "sampler=mala sampler.step_size=100",
                "sampler=metropolis sampler.step_size=1000",
                "sampler=langevin sampler.step_size=10",
            ],
            "temperature": ["sampler=langevin sampler.step_size=0.01 sampler.noise=0.0"],
            "data scale": ["dataset=array dataset.path={plane} ~dataset.train ~dataset.held_out"],
            "replay": [
                "sampler=langevin sampler.step_size=1e-8 objective=ml_replay chains.restart=0 chains.steps=1 "
                "chains.size=1000 optimizer.lr=0.03"
            ],
        },
    ),
    "convnet": Kind(
        f"model=convnet model.widths=[16,16] model.hidden=32 {_IMAGES} objective=ml_replay {_LANGEVIN} "
        "optimizer.lr=0.0003 chains.steps=20",
        ["", "optimizer.lr=0.0001", "chains.restart=0.1", "chains.steps=40"],
        {
            "rate": ["optimizer.lr=0.1"],
            "step size": [
                "sampler=mala sampler.step_size=10 ~sampler.noise ~sampler.clip",
                "sampler=hmc sampler.step_size=10 ~sampler.noise ~sampler.clip",
            ],
            "temperature": ["sampler.noise=0.0 sampler.step_size=0.0001", "sampler.noise=1.0"],
            "replay": ["chains.restart=0 chains.steps=1 chains.size=100 optimizer.lr=0.001"],
        },
        steps=250,
    ),
    "replicated_softmax": Kind(
        "model=replicated_softmax model.hidden=20 optimizer.lr=0.002 batch_size=50",
        ["", "objective=cd", "optimizer.lr=0.001", "model.hidden=10"],
        {
            "rate": ["optimizer.lr=1", "optimizer.lr=0.5"],
            "initial weights": ["model.weight_std=3"],
        },
        steps=250,
    ),
}
