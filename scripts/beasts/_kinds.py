"""What is trained: healthy settings of each model, settings that spoil them, by cause, and what tells them apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

CAUSES = ("rate", "steps", "step size", "temperature", "data scale", "initial weights", "momentum", "replay")


@dataclass(frozen=True)
class Kind:
    """One model with an objective and a sampler: words of its command line, healthy variants, spoilt ones by cause.

    The first healthy variant is tuned by hand. A run is bad if it ended by itself or if its `metric` is worse than the
    median of tuned runs by more than `margin`, and good if by less than half of that; `higher`: a higher one is better.
    """

    words: str
    healthy: Sequence[str]
    spoilt: Mapping[str, Sequence[str]]
    metric: str
    margin: float
    higher: bool = True
    steps: int = 400
    seeds: tuple[int, int] = (1, 1)  # of each healthy setting, and of each spoilt one
    steady: str = ""  # words by which runs that are compared with a tuned one end alike from seed to seed
    others: Mapping[str, str] = field(default_factory=dict)  # words by which other optimizers are tuned by hand


_LANGEVIN = "sampler=langevin sampler.step_size=10 sampler.noise=0.005 sampler.clip=0.03"
_IMAGES = "dataset=digits dataset.binarize=none optimizer=adam batch_size=64 chains.size=500"
_SITES = "dataset=bars_and_stripes dataset.side=4 batch_size=30"
_LIKELIHOOD = "exact/log_likelihood"

KINDS: Mapping[str, Kind] = {
    "rbm": Kind(
        "model=rbm dataset=digits objective=pcd model.hidden=12 evaluation=[exact]",
        [
            "optimizer=adam optimizer.lr=0.01",
            "optimizer.lr=2",
            "optimizer.lr=1",
            "optimizer=adam optimizer.lr=0.02",
            "objective=cd optimizer.lr=2",
            "objective=cd chains.steps=5 optimizer.lr=2",
            "model.hidden=14 optimizer=adam optimizer.lr=0.01",
            "chains.start=data optimizer.lr=2",
            "chains.steps=5 optimizer.lr=2",
        ],
        {
            "rate": [
                "optimizer.lr=50",
                "optimizer.lr=100",
                "optimizer=adam optimizer.lr=3",
                "optimizer.lr=50 objective=cd",
                "optimizer.lr=50 chains.steps=5",
                "optimizer=adam optimizer.lr=10",
            ],
            "steps": ["objective=cd_replay chains.steps=1 optimizer.lr=20 chains.restart=0"],
            "initial weights": ["model.weight_std=10", "model.weight_std=5", "model.weight_std=8 objective=cd"],
            "momentum": [
                "optimizer=sgd optimizer.lr=0.5 optimizer.momentum=0.999",
                "optimizer=sgd optimizer.lr=1 optimizer.momentum=0.99",
                "optimizer=sgd optimizer.lr=2 optimizer.momentum=0.95",
            ],
        },
        _LIKELIHOOD,
        4,
        steps=200,
        seeds=(5, 3),
    ),
    "boltzmann": Kind(
        f"model=boltzmann {_SITES} objective=pcd evaluation=[exact]",
        [
            "optimizer.lr=0.05",
            "optimizer.lr=0.1",
            "optimizer.lr=0.03",
            "chains.steps=5 optimizer.lr=0.05",
            "sampler=gwg chains.steps=20 optimizer.lr=0.05",
            "sampler=dmala chains.steps=5 optimizer.lr=0.05",
            "objective=cd optimizer.lr=0.05",
        ],
        {
            "rate": ["optimizer.lr=20", "optimizer=adam optimizer.lr=3", "optimizer.lr=50", "optimizer.lr=10"],
            "steps": ["sampler=gwg chains.steps=1 optimizer.lr=20", "sampler=gwg chains.steps=1 optimizer.lr=10"],
            "step size": [
                "sampler=dmala sampler.step_size=1e-5 optimizer.lr=0.1",
                "sampler=dmala sampler.step_size=1e-4 optimizer.lr=1",
                "sampler=dmala sampler.step_size=1e-3 optimizer.lr=1",
            ],
            "initial weights": ["model.weight_std=5", "model.weight_std=10"],
            "momentum": [
                "optimizer.lr=0.5 optimizer.momentum=0.999",
                "optimizer.lr=1 optimizer.momentum=0.99",
                "optimizer.lr=2 optimizer.momentum=0.99",
            ],
        },
        _LIKELIHOOD,
        2,
        steps=200,
        seeds=(5, 3),
    ),
    "potts": Kind(
        "model=potts dataset=protein objective=pcd optimizer=adam optimizer.lr=0.01 batch_size=30 "
        "evaluation=[pseudo_likelihood]",
        ["", "optimizer.lr=0.007", "optimizer.lr=0.015", "objective=cd", "chains.start=data"],
        {
            "rate": ["optimizer.lr=3", "optimizer=sgd optimizer.lr=50", "optimizer.lr=10"],
            "steps": ["sampler=gwg chains.steps=1 optimizer.lr=0.3", "sampler=gwg chains.steps=1 optimizer.lr=0.5"],
            "initial weights": ["model.coupling=5", "model.coupling=10"],
        },
        "pseudo_likelihood/log_pseudo_likelihood",
        10,
        steps=100,
        seeds=(2, 1),
        others={"optimizer=sgd": "optimizer=sgd optimizer.lr=0.4"},
    ),
    "resnet_binary": Kind(
        f"model=resnet_binary model.width=4 model.blocks=1 {_SITES} objective=ml_replay sampler=gwg evaluation=[exact] "
        "optimizer=adam optimizer.lr=0.0005 optimizer.warmup=20 chains.size=500 chains.restart=0.05 chains.steps=3",
        ["", "optimizer.lr=0.0003", "chains.steps=5"],
        {
            "rate": ["optimizer.lr=0.3", "optimizer.lr=1", "optimizer.lr=0.1"],
            "steps": ["chains.steps=1 optimizer.lr=0.03", "chains.steps=1 optimizer.lr=0.05"],
            "momentum": ["optimizer=sgd optimizer.lr=0.05 optimizer.momentum=0.999"],
        },
        _LIKELIHOOD,
        2,
        steps=100,
    ),
    "gaussian_rbm": Kind(
        "model=gaussian_rbm model.hidden=12 dataset=digits dataset.binarize=none model.spread=0.3 objective=pcd "
        "optimizer.lr=0.01 evaluation=[exact]",
        [
            "",
            "objective=cd",
            "optimizer.lr=0.007",
            "optimizer=adam optimizer.lr=0.005",
            "chains.steps=5",
        ],
        {
            "rate": ["optimizer.lr=5", "optimizer=adam optimizer.lr=1", "optimizer.lr=1", "optimizer.lr=0.5"],
            "data scale": ["dataset=array dataset.path={scaled} ~dataset.binarize"],
            "initial weights": ["model.weight_std=5", "model.weight_std=2"],
            "momentum": [
                "optimizer=sgd optimizer.lr=0.2 optimizer.momentum=0.999",
                "optimizer=sgd optimizer.lr=0.1 optimizer.momentum=0.99",
            ],
        },
        _LIKELIHOOD,
        10,
        seeds=(4, 2),
        steady="chains.steps=5",
        others={"optimizer=adam": "optimizer=adam optimizer.lr=0.005"},
    ),
    "mlp": Kind(
        "model=mlp dataset=points_2d dataset.train=5000 dataset.held_out=500 model.input_scale=4 objective=pcd "
        "sampler=metropolis sampler.step_size=1 optimizer=adam optimizer.lr=0.003 chains.steps=5 batch_size=100 "
        "evaluation=[density_2d] evaluation.density_2d.side=100",
        [
            "",
            "optimizer.lr=0.002",
            "chains.steps=10",
            "objective=ml_replay chains.size=2000 chains.steps=5",
            "objective=nce",
            "sampler=mala_mixed",
            "batch_size=150",
        ],
        {
            "rate": [
                "optimizer.lr=3",
                "objective=score_matching optimizer.lr=3",
                "objective=nce optimizer.lr=3",
                "optimizer.lr=1",
                "optimizer.lr=10",
            ],
            "steps": [
                "sampler=metropolis sampler.step_size=0.01 chains.steps=1 optimizer.lr=0.03",
                "sampler=metropolis sampler.step_size=0.03 chains.steps=1 optimizer.lr=0.03",
            ],
            "step size": [
                "sampler=mala sampler.step_size=100",
                "sampler=metropolis sampler.step_size=1000",
                "sampler=langevin sampler.step_size=10",
                "sampler=metropolis sampler.step_size=0.001",
            ],
            "temperature": [
                "sampler=langevin sampler.step_size=0.01 sampler.noise=0.0",
                "sampler=langevin sampler.step_size=0.03 sampler.noise=0.0",
                "sampler=langevin sampler.step_size=0.01 sampler.noise=3",
            ],
            "data scale": [
                "dataset=array dataset.path={plane} ~dataset.train ~dataset.held_out evaluation=[] "
                "~evaluation.density_2d.side"
            ],
            "replay": [
                "sampler=langevin sampler.step_size=1e-8 objective=ml_replay chains.restart=0 chains.steps=1 "
                "chains.size=1000 optimizer.lr=0.03",
                "sampler=langevin sampler.step_size=1e-6 objective=ml_replay chains.restart=0 chains.steps=1 "
                "chains.size=1000 optimizer.lr=0.03",
            ],
        },
        "density_2d/log_likelihood",
        0.5,
        steps=200,
        seeds=(2, 1),
    ),
    "convnet": Kind(
        f"model=convnet model.widths=[8,8] model.hidden=16 {_IMAGES} objective=ml_replay {_LANGEVIN} "
        "optimizer.lr=0.0003 chains.steps=10 evaluation=[ood]",
        ["", "optimizer.lr=0.0002", "chains.restart=0.1", "chains.steps=20"],
        {
            "rate": ["optimizer.lr=0.1", "optimizer.lr=1"],
            "step size": [
                "sampler=mala sampler.step_size=10 ~sampler.noise ~sampler.clip",
                "sampler=hmc sampler.step_size=10 ~sampler.noise ~sampler.clip",
            ],
            "temperature": ["sampler.noise=0.0 sampler.step_size=0.0001", "sampler.noise=1.0"],
            "replay": ["chains.restart=0 chains.steps=1 chains.size=100 optimizer.lr=0.001"],
        },
        "ood/shuffled/energy",
        0.15,
        steps=100,
    ),
    "replicated_softmax": Kind(
        "model=replicated_softmax model.hidden=8 optimizer.lr=0.002 batch_size=50 evaluation=[exact]",
        ["", "objective=cd", "optimizer.lr=0.0015", "model.hidden=10"],
        {
            "rate": ["optimizer.lr=1", "optimizer.lr=0.5", "optimizer.lr=3"],
            "initial weights": ["model.weight_std=3", "model.weight_std=6"],
        },
        "exact/perplexity",
        100,
        higher=False,
        steps=100,
    ),
}
