"""What is wrong with a command line is said in one sentence, with exit code 2, and nothing is left behind."""

import numpy as np
import pytest
from helpers.cli import TINY, assert_refused, ebm, snapshot, train, trained

from ebm_cli.commands import session


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


UNKNOWN = {
    "model.hiden=3": "unknown key model.hiden; did you mean model.hidden",
    "+model.foo=1": "unknown key model.foo (takes: hidden, hidden_units, visible, weight_std)",
    "modle=rbm": "unknown key modle; did you mean model",
    "+modle=rbm": "unknown key modle; did you mean model",
    "+stpes=3": "unknown key stpes; did you mean steps or stop?",
    "+checkpoint.keep=3": "unknown key checkpoint.keep",
    "model=rmb": "no model named rmb; did you mean rbm? (model is one of: autoencoder, boltzmann, ",
    "dataset=dna": "no dataset named dna; did you mean dataset=binary_tabular dataset.table=dna? (dataset is one of: ",
    "dataset.name=moons": "no dataset named moons; did you mean dataset=points_2d dataset.kind=moons? (dataset is ",
    "sampler.name=steps": "no sampler named steps (sampler is one of: acs, augmented, ",
    "objective.name=pcd": "objective.name=pcd: choose with objective=pcd",
    "device=gpu": "did you mean cpu? (device is one of: auto, cpu, cuda)",
    "evaluation=[sampels]": "no evaluation named sampels; did you mean samples or resample? (evaluation is one of: ",
    "experiment=nope": "no experiment named nope (experiment is one of: ",
    "evaluation.ais.chains=3": "evaluation.ais.chains is a key of evaluation=ais, which is not chosen here",
    "model=boltzmann": "model.hidden is a key of model=",
    "plugins=[no_such_plugin]": "no Python module 'no_such_plugin'; it must lie in the working directory or on PYTHON",
    "--foo": "unknown flag --foo",
    "--config-dir=nowhere": "nowhere",
}
TYPES_AND_RANGES = {
    "model.hidden=abc": 'model.hidden = "abc": must be a valid integer',
    "model.hidden=null": "model.hidden = null: must be a valid integer",
    "model.hidden=0": "model.hidden = 0: must be greater than or equal to 1",
    "steps=1.5": "steps = 1.5: must be a valid integer",
    "steps=-1": "steps = -1: must be greater than or equal to 0",
    "steps=null": "steps = null: must be a valid integer",
    "steps=": 'steps = "": must be a valid integer',
    "seed=-1": "seed = -1: must be greater than or equal to 0",
    "optimizer.lr=fast": 'optimizer.lr = "fast": must be a valid number',
    "sampler=acs sampler.balance=barker": 'sampler.balance = "barker": must be a number from 0.5 to 1, the power of t',
    "model=class_rbm objective.likelihood_weight=1.5": "objective.likelihood_weight = 1.5: must be less than",
    "optimizer.lr=-1": "optimizer.lr = -1: must be greater than 0",
    "optimizer.lr=nan": "optimizer.lr = NaN",
    "chains.steps=0": "chains.steps = 0: must be greater than or equal to 1",
    "chains=replay chains.restart=2": "chains.restart = 2: must be less than or equal to 1",
    "sampler=metropolis sampler.flips=0": "sampler.flips = 0: must be greater than or equal to 1",
    "device.threads=0": "device.threads = 0: must be greater than or equal to 1",
    "checkpoint.keep_last=0": "checkpoint.keep_last = 0: must be greater than or equal to 1",
    "evaluation.samples.count=0": "evaluation.samples.count = 0: must be greater than or equal to 1",
    "plugins=my_module": 'plugins = "my_module": must be a list of Python modules, plugins=[my_module]',
    "model=null": "model = null: name one (see: ebm list model)",
    "model=[rbm]": "model=[rbm]: model takes one name, model=NAME",
    "model=3": "a part is chosen by its name, GROUP=NAME",
}
FORM = {
    "steps": "steps: not of the form KEY=VALUE (see: ebm train --help)",
    "stpes": "stpes: not of the form KEY=VALUE; did you mean steps or stop?",
    "steps=3,4": "steps = 3,4: several values need -m (ebm train -m steps=3,4), a list needs brackets",
    "model.hidden=range(1,8)": "several values need -m (ebm train -m 'model.hidden=range(1,8)')",
    "optimizer.lr=interval(0.001,0.3,log)": "interval(0.001,0.3,log): is a space of a search; take ebm tune",
    "-m optimizer.lr=interval(0.001,0.3)": "optimizer.lr=interval(0.001,0.3): is a space of a search; take ebm tune",
    "model.hidden==3": "model.hidden==3: not understood; put quotes around a value",
    "model.hidden=[3": "model.hidden=[3: not understood",
    "'model.hidden=${nowhere}'": "Interpolation key 'nowhere' not found",
    "hydra.run.dir=/proc/nowhere": "hydra.run.dir: cannot make the directory /proc/nowhere",
}
DO_NOT_FIT = {
    "sampler=block_gibbs model=boltzmann": "sampler=block_gibbs wants a block-structured and binary, spin, "
    "categorical, real, mixed or counts model, model=boltzmann is not; samplers that fit: acs, dlmc, dmala, gibbs, "
    "gwg, hamming_ball, metropolis, pafs, parallel_tempering",
    "objective.centered=true model=boltzmann": "models that fit: rbm; or set objective.centered=false",
    "objective=score_matching": "objective=score_matching works on real or boxed data, model=rbm takes binary, "
    "spin or categorical; objectives that fit model=rbm: adversarial_contrastive, cd, ",
    "dataset.binarize=none model=exponential_family sampler=mala objective=ratio_matching": "binary or spin data, "
    "these are real; objectives that fit model=exponential_family: adversarial_contrastive, cd, ",
    "dataset.binarize=none model=boltzmann sampler=gibbs": "gives real data, model=boltzmann takes binary; models that "
    "fit: autoencoder, exponential_family",
    "objective=exact": "objective=exact: the smaller side has 64 units, enumeration goes to 20; use objective=pcd, or "
    "a smaller model",
    "evaluation=[exact]": "evaluation=exact: the smaller side has 64 units, enumeration goes to 20; leave it out "
    "(choose others: ebm list evaluation)",
    "evaluation=[exact,ais]": "evaluation=exact: the smaller side has 64 units, enumeration goes to 20; leave it out "
    "(evaluation=[ais])",
    "device=cuda": "torch sees no CUDA device here; use device=cpu, or device=auto",
    "dataset=array": "dataset.path = null: name the file of arrays, dataset.path=FILE",
    "dataset=array dataset.path=/nowhere.npz": "dataset.path = /nowhere.npz: there is no such file",
    "dataset.valid=2000": "dataset.valid = 2000: must be below 1437",
}


@pytest.mark.quick(
    "model=rmb*",
    "model.hiden*",
    "steps=1.5*",
    "optimizer.lr=nan*",
    "optimizer.lr=-1*",
    "evaluation=[sampels]*",
    "model.hidden=[3*",
    "model=null*",
    "model=[rbm]*",
    "device=gpu*",
    "plugins=my_module*",
    "--config-dir*",
    "steps=3,4*",
    "optimizer.lr=interval*",
    "model=3*",
    "objective.name*",
    "model.hidden==3*",
    "model.hidden=range*",
    "hydra.run.dir*",
    "sampler.name*",
    "+checkpoint*",
)
@pytest.mark.parametrize(("line", "words"), (UNKNOWN | TYPES_AND_RANGES | FORM).items())
def test_a_key_or_value_that_is_wrong(line, words, tmp_path):
    assert_refused(ebm(f"train {' '.join(TINY)} {line}"), words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.quick(
    "sampler=block_gibbs*", "dataset=array dataset.path=/nowhere*", "objective=score_matching*", "evaluation=[exact]-*"
)
@pytest.mark.parametrize(("line", "words"), DO_NOT_FIT.items())
def test_parts_that_do_not_fit(line, words, tmp_path, monkeypatch):
    if line == "device=cuda":
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert_refused(ebm(f"train tracker=none steps=3 {line}"), words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_an_empty_directory_of_the_users_own_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    assert_refused(train("steps=-1", "mine"))
    assert_refused(train("steps=-1", "mine/below/deep"))
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_unknown_command():
    assert_refused(ebm("trian"), "no command 'trian'; did you mean train?")


@pytest.mark.quick("list*", "train resume*", "sample run=nowhere*", "sample run=empty*", "evaluate run=empty*")
@pytest.mark.parametrize(
    ("line", "words"),
    {
        "sample": "run is missing: give it as run=DIR",
        "evaluate": "run is missing: give it as run=DIR",
        "train 'run=???'": "run",
        "sample 'run=???'": "run is missing: give it as run=DIR",
        "sample run=": 'run = "": string should have at least 1 character',
        "sample run=nowhere": "run = nowhere: no run is there (there is no such directory)",
        "evaluate run=empty": "run = empty: no run is there (it has no config.yaml)",
        "train resume=nowhere": "resume = nowhere: no run is there (there is no such folder)",
        "train resume=empty": "resume = empty: no run is there (the folder is empty)",
        "train resume=": "resume is empty: name a run directory, resume=DIR",
        "sample run=empty -m": "sample takes one run at a time; leave out -m",
        "list models": "no group 'models'; did you mean model?",
        "list model rmb": "no model named rmb; did you mean rbm?",
        "list model rbm more": "usage: ebm list [GROUP [NAME]]",
    }.items(),
)
def test_a_run_that_is_not_there(line, words, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_refused(ebm(line), words)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return (folder / trained()).absolute()


@pytest.mark.quick(
    "train hydra.run.dir*",
    "train resume=RUN hydra*",
    "train resume=RUN -m*",
    "train resume=RUN steps=2*",
    "sample run=RUN n=0*",
    "sample run=RUN checkpoint*",
    "evaluate run=RUN split*",
)
@pytest.mark.parametrize(
    ("line", "words"),
    {
        "train resume=RUN model.hidden=9": "model.hidden: a resumed run keeps its own; only steps, ",
        "train resume=RUN model=boltzmann": "model: a resumed run keeps its own",
        "train resume=RUN +foo=9": "foo: a resumed run keeps its own",
        "train resume=RUN steps=2": "is at step 12 already; give more, or none",
        "train resume=RUN -m": "one run is there, and no multirun; leave out -m",
        "train resume=RUN hydra.run.dir=other": "hydra.run.dir: a resumed run stays where it is",
        "train hydra.run.dir=RUN": "a run is there already; continue it with `ebm train resume=",
        "sample run=RUN checkpoint=abc": "checkpoint=abc: RUN has steps 12, last and best",
        "sample run=RUN checkpoint=3": "checkpoint=3: RUN has steps 12, last and best",
        "sample run=RUN checkpoint=best": "no held-out metric was monitored in RUN; use checkpoint=last",
        "sample run=RUN n=0": "n = 0: must be greater than or equal to 1",
        "sample run=RUN steps=many": 'steps = "many": must be a number, or auto',
        "sample run=RUN start=data": "start = \"data\": must be 'noise' or 'chains'",
        "sample run=RUN +foo=1": "unknown key foo",
        "sample run=RUN model=rbm": "unknown group or key model (see: ebm sample --help)",
        "sample run=RUN sampler=nope": "no sampler named nope (sampler is one of: acs, augmented, block_gibbs, ",
        "evaluate run=RUN split=dev": "split = \"dev\": must be 'train', 'valid' or 'test'",
        "evaluate run=RUN evaluation=[]": "evaluation = []: name at least one",
        "evaluate run=RUN evaluation=[nope]": "no evaluation named nope (evaluation is one of: ais, ",
    }.items(),
)
def test_a_run_that_is_there_is_left_as_it_is(line, words, run, tmp_path):
    before = snapshot(run)
    assert_refused(ebm(line.replace("RUN", str(run))), words.replace("RUN", str(run)))
    assert snapshot(run) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_nothing_is_read_before_the_command_line_is_checked(monkeypatch):
    monkeypatch.setattr(session, "load_data", lambda *_, **__: pytest.fail("the data were read"))
    for line in (
        "steps=-1",
        "model.hidden=0",
        "evaluation.samples.count=0",
        "device.threads=0",
        "checkpoint.keep_last=0",
    ):
        assert_refused(train(line))


def rows(*shape):
    return (np.arange(np.prod(shape)).reshape(shape) % 2).astype(np.float32)


@pytest.mark.quick("train-train", "test-has*", "train-holds*", "train-train has type*")
@pytest.mark.parametrize(
    ("arrays", "words"),
    {
        "nan": ({"train": np.full((20, 4), np.nan)}, "NaN or infinite"),
        "infinite": ({"train": rows(20, 4), "test": np.full((2, 4), np.inf)}, "test has 8 of 8 values NaN or infinite"),
        "shapes": ({"train": rows(20, 4), "test": rows(2, 5)}, "rows of test have shape (5,), those of train (4,)"),
        "flat": ({"train": rows(20)}, "train has shape (20,); it must be (n, *shape)"),
        "objects": ({"train": np.array([[{}, 1], [2, 3]], dtype=object)}, "train"),
        "strings": ({"train": np.array([["a", "b"]])}, "train has type <U1"),
        "empty": ({"train": rows(0, 4)}, "train has shape (0, 4), so it is empty"),
        "empty test": ({"train": rows(20, 4), "test": rows(0, 4)}, "test has shape (0, 4), so it is empty"),
        "no train": ({"test": rows(20, 4)}, "has no key train; it has test"),
        "range": ({"train": 3 * rows(20, 4)}, "holds real data, model=rbm takes binary"),
    }.values(),
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_arrays_of_the_users_own(arrays, words, tmp_path):
    np.savez(tmp_path / "own.npz", **arrays)
    assert_refused(train("dataset=array dataset.path=own.npz"), words)
    assert [path.name for path in tmp_path.iterdir()] == ["own.npz"]


@pytest.mark.long
def test_a_batch_may_be_larger_than_the_data(tmp_path):
    np.savez(tmp_path / "own.npz", train=rows(20, 4))
    trained("dataset=array dataset.path=own.npz batch_size=50")


@pytest.mark.long
def test_a_run_directory_may_have_any_name(tmp_path):
    for name in ("it's a, b=1", 'say "hi"', "back\\slash\\", "[ü]"):
        answer = ebm("train", *TINY, f"hydra.run.dir={name}")
        assert answer.code == 0, answer.err
        assert (tmp_path / name / "config.yaml").is_file()
        assert ebm("train", f"resume={name}").code == 0
        assert ebm("sample", f"run={name}", "steps=1", "n=1").code == 0
