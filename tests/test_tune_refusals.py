"""What `ebm tune` refuses, before any work: spaces, keys, directories and files that cannot be those of a search."""

from pathlib import Path

import pytest
from helpers.cli import assert_refused, ebm, snapshot
from test_tune import METRIC, again, stubbed, tuned


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trained(monkeypatch):
    return stubbed(monkeypatch)


@pytest.mark.quick(
    "steps=8*",
    "model.hidden=interval*",
    "objective=glob*",
    "model.hidden=choice(4,8) search*",
    "model.hidden=choice(4,8) direction*",
    "model.hidden=choice(4,8) pruner=medan*",
    "model.hidden=choice(4,8) metric=second-*",
    "model.hidden=choice(4,8) metric=[seconds,exact*",
)
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-m model.hidden=choice(4,8)", ["ebm tune needs no -m"]),
        ("steps=8", ["there is nothing to search"]),
        ("model.hidden=4,8", ["model.hidden='choice(4,8)'", "ebm train -m"]),
        ("model.hidden=interval(4,8)", ["range(4,9)"]),
        ("model.hidden=range(0.5,4)", ["whole numbers", "interval(0.5,4)"]),
        ("model.hidden=range(16)", ["model.hidden=range(16)", "range(1,16)", "from 1 on, below 16"]),
        ("model.hidden=range(0)", ["model.hidden=range(0)", "range takes whole numbers, range(a,b)"]),
        ("optimizer.lr=interval(0.001,0.3,lgo)", ["interval takes two numbers, interval(a,b) or interval(a,b,log)"]),
        ("optimizer.lr=interval(0.001)", ["interval takes two numbers"]),
        ("optimizer.lr=interval(0.001,0.3", ["interval takes two numbers"]),
        ("optimizer.lr=tag(log,interval(0.001)", ["interval takes two numbers"]),
        ("optimizer.lr=interval[0.001,0.3]", ["interval takes two numbers"]),
        (
            "model.hidden=range(4,64,log,2)",
            ["range takes whole numbers", "range(a,b,step) or range(a,b,log)"],
        ),
        ("model.hidden=choice()", ["choice takes the values, choice(x,y,...)"]),
        ("'model.hidden=choice 4,8'", ["choice takes the values, choice(x,y,...)"]),
        ("model.hidden=choise(4,8)", ["no space is called choise; did you mean choice?", "choice(x,y,...)"]),
        (
            "optimizer.lr=uniform(0.001,0.3)",
            ["no space is called uniform", "interval(a,b)", "range(a,b)", "choice(x,y,...)", "put quotes around"],
        ),
        ("model.hidden=range(4,5)", ["holds nothing to search"]),
        ("optimizer.lr=interval(1,0.1)", ["holds nothing to search", "lower end first"]),
        ("optimizer.lr=interval(0,1)", ["optimizer.lr = 0.0"]),
        ("optimizer.lr=interval(0,1,log)", ["log needs a lower end above 0"]),
        ("optimizer.lr=tag(exp,interval(1,2))", ["no tag is called exp"]),
        ("model.hidden=range(1,9,2,log)", ["model.hidden"]),
        ("model.hidden=choice(4,4)", ["twice"]),
        ("model.hidden=choice(4,-1)", ["model.hidden = -1"]),
        ("model.hiden=choice(4,8)", ["did you mean model.hidden"]),
        ("objective=choice(pcd,pdc)", ["no objective named pdc"]),
        ("objective=glob(zz*)", ["nothing to choose from"]),
        ("model.hidden=choice(4,8) trials=0", ["trials = 0"]),
        ("model.hidden=choice(4,8) trials=many", ["trials"]),
        ("model.hidden=choice(4,8) trils=3", ["did you mean trials?"]),
        ("model.hidden=choice(4,8) pruner=medan", ["pruner", "median"]),
        ("model.hidden=choice(4,8) search=bayes", ["search", "tpe"]),
        ("model.hidden=choice(4,8) direction=up", ["direction", "max"]),
        ("model.hidden=choice(4,8) n_jobs=0", ["n_jobs = 0"]),
        ("model.hidden=choice(4,8) startup=-1", ["startup = -1"]),
        ("model.hidden=choice(4,8) metric=null checkpoint.monitor=null", ["metric is missing"]),
        ("model.hidden=choice(4,8) metric=seconds pruner=median", ["pruner = median", "at the end of a run"]),
        ("model.hidden=choice(4,8) metric=[seconds,steps] pruner=median", ["several metrics"]),
        ("model.hidden=choice(4,8) metric=[seconds,seconds]", ["twice"]),
        ("model.hidden=choice(4,8) metric=pseudo_likelihod/valid/x", ["no evaluation reports it"]),
        (
            "model.hidden=choice(4,8) metric=ais/valid/log_likelyhood",
            ["ais does not report it; did you mean ais/valid/log_likelihood"],
        ),
        ("model.hidden=choice(4,8) metric=raise/log_likelyhood", ["did you mean raise/log_likelihood"]),
        (
            "model.hidden=choice(4,8) metric=pseudo_likelihood/valid/zz",
            ["it reports pseudo_likelihood/valid/log_pseudo_likelihood, pseudo_likelihood/valid/standard_error"],
        ),
        ("model.hidden=choice(4,8) metric=[seconds,exact/kll]", ["exact does not report it; did you mean exact/kl"]),
        ("model.hidden=choice(4,8) metric=second", ["no run reports it; did you mean seconds"]),
        ("model.hidden=choice(4,8) metric=gradient_nrom", ["did you mean gradient_norm"]),
        ("model.hidden=choice(4,8) metric=units/ded", ["metric = units/ded: no evaluation reports it"]),
        (
            "model.hidden=choice(4,8) metric=log_likelihood",
            ["say whose it is", "metric=exact/valid/log_likelihood or ais/valid/log_likelihood"],
        ),
        ("model.hidden=choice(4,8) metric=ais/valid/log_likelyhood evaluation=[chains]", ["evaluation=[chains,ais]"]),
        ("model.hidden=choice(4,8) metric=chains/valid/r_hat", ["evaluation.chains.while_training=true"]),
        (f"model.hidden=choice(4,8) metric={METRIC} eval_every=0", ["eval_every=N"]),
        ("model.hidden=choice(4,8) hydra/launcher=joblib", ["hydra/launcher", "n_jobs=N"]),
        ("model.hidden=choice(4,8) hydra.sweep.subdir=x", ["hydra.sweep.subdir"]),
        ("model.hidden=choice(4,8) resume=auto", ["hydra.sweep.dir=DIR"]),
        ("resume=nowhere", ["no search is there"]),
        ("resume=", ["resume is empty"]),
        ("resume=[a,b]", ["one search goes on at a time"]),
    ],
)
def test_refusals(trained, line, words):
    assert_refused(ebm(f"tune tracker=none {line}"), *words)
    assert not any(Path().iterdir())


@pytest.mark.long
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("startup=3", ["startup: a search goes on with the words it began with"]),
        ("steps=9", ["steps: a search goes on with the words it began with"]),
        ("hydra.sweep.dir=other", ["hydra.sweep.dir: a search goes on where it is"]),
    ],
)
def test_a_search_goes_on_with_its_own_words(trained, line, words):
    tuned("trials=2")
    before = snapshot(Path("search"))
    assert_refused(again(line), *words)
    assert_refused(tuned("trials=2"), "hydra.sweep.dir = search: a search is there; go on with ebm tune resume=search")
    assert_refused(tuned("trials=2 batch_size=5 resume=auto"), "batch_size=5: a search goes on")
    assert_refused(tuned("trials=2 startup=3 resume=auto"), "startup = 3: this search has 10")
    assert snapshot(Path("search")) == before
    assert again("tracker=csv device=cpu trials=3").code == 0


@pytest.mark.long
def test_a_search_is_no_multirun_and_a_multirun_no_search(trained):
    tuned("trials=1")
    for line in (
        "train resume=search",
        "train -m resume=search",
        "train -m resume=auto hydra.sweep.dir=search seed=1,2",
    ):
        assert_refused(ebm(line), "resume = search: is a search; go on with it by ebm tune resume=search")
    ebm("train -m tracker=none seed=1,2 hydra.sweep.dir=sweep")
    assert_refused(ebm("tune resume=sweep"), "ebm train -m resume=sweep")
    assert_refused(tuned("", "sweep"), "hydra.sweep.dir = sweep: a multirun is there")
    assert_refused(ebm("tune resume=sweep/0"), "ebm train resume=sweep/0")
    assert_refused(ebm("train trials=3"), "trials=3: is for a search")


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("tune.json", lambda text: "{}"),
        ("tune.json", lambda text: text.replace('"trials": 2', '"trials": "2"')),
        ("sweep.json", lambda text: text[:100]),
        ("study.journal", lambda text: text.replace("op_code", "opcode")),
        ("study.journal", lambda text: text.replace("model.hidden", "model.other")),
        ("study.journal", lambda text: "nothing\n" + text),
    ],
)
def test_files_that_make_no_sense(trained, name, damage):
    tuned("trials=2")
    path = Path("search", name)
    assert damage(path.read_text()) != path.read_text()
    path.write_text(damage(path.read_text()))
    assert_refused(again("trials=3"), f"search/{name}")
    assert trained.seen == [0, 1]


@pytest.mark.long
def test_a_journal_that_is_a_link_is_not_followed(trained):
    tuned("trials=2")
    Path("search/study.journal").rename("elsewhere")
    Path("search/study.journal").symlink_to(Path("elsewhere").absolute())
    assert_refused(again("trials=3"), "search/study.journal")
