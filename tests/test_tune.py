"""`ebm tune`: what is proposed, what became of it, what is known of the best; and that a search goes on as it was."""

import json
import math
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from helpers import processes
from helpers.cli import TINY, assert_refused, ebm, facts, snapshot
from test_resume import Killed, at_step

from ebm_cli.commands import multi, pruning, search, study, tune
from ebm_cli.errors import RunError, install
from ebm_cli.record import ledger
from ebm_cli.record.run import Run, create
from ebm_cli.training import loop

METRIC = "pseudo_likelihood/valid/log_pseudo_likelihood"
EVALS = (2, 4, 6, 8)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Trained:
    """Runs that do nothing but report; `fails`, `dies`, `at` are asked with their number."""

    def __init__(self):
        self.seen, self.fails, self.dies, self.reports = [], set(), set(), {METRIC}

    def __call__(self, request):
        number = int(request.directory.name)
        self.seen.append(number)
        if not (request.directory / "config.yaml").exists():
            create(request.directory, request.config, overrides=list(request.overrides))
        home, status = Run(request.directory), "done"
        home.write_bytes("metrics.jsonl", b"")
        judge = request.trial and pruning.judge(request.trial, EVALS[-1])
        for step in EVALS:
            if number in self.dies and step == 6:
                self.dies.clear()
                raise Killed
            values = {name: self.worth(request.config) * step / 8 for name in self.reports}
            home.append_metrics(step, values)
            if judge and judge(step, values):
                status = "pruned"
                break
        if number in self.fails:
            home.update_metadata(status="failed", error="it diverged")
            raise RunError("it diverged")
        home.update_metadata(status=status)
        if status == "done":
            home.write_json("summary.json", {"status": "done", "steps": step, "seconds": 1.0 + number, "x/y": 0.5})
        return 0

    @staticmethod
    def worth(config):
        """Never above 0; the best is optimizer.lr = 0.01 with 8 hidden units."""
        return -abs(math.log10(config["optimizer"]["lr"]) + 2) - abs(config["model"]["hidden"] - 8) / 4 - 0.01


def stubbed(monkeypatch) -> Trained:
    found = Trained()
    monkeypatch.setattr(multi, "train", found)
    monkeypatch.setattr(tune.pages, "of_multirun", lambda path: None)
    return found


@pytest.fixture
def trained(monkeypatch):
    return stubbed(monkeypatch)


SPACE = "'optimizer.lr=interval(0.0001,1,log)' 'model.hidden=choice(4,8,12)'"
FIXED = f"tracker=none steps=8 eval_every=2 metric={METRIC}"


def tuned(line: str = "trials=12", directory: str = "search", space: str = SPACE):
    return ebm(f"tune {FIXED} {space} hydra.sweep.dir={directory} {line}")


def again(line: str = ""):
    return ebm(f"tune resume=search {line}")


def trials(directory: str = "search") -> list[tuple]:
    """What was proposed and what came of it, in the order of the proposals."""
    jobs = {int(job["job"]): job for job in facts(Path(directory), "summary.json")["jobs"]}
    return [(jobs[n]["overrides"][-2:], jobs[n]["status"], jobs[n]["values"]) for n in sorted(jobs)]


@pytest.mark.long
def test_the_best_trial_is_found_and_named(trained):
    answer = tuned("trials=16 startup=6")
    assert answer.code == 0, answer.err
    [best] = facts(Path("search"), "summary.json")["best"]
    (value,) = best["metrics"].values()
    found = trials()
    assert len(found) == 16
    assert value == max(values[0] for _, status, values in found if status == "done")
    assert value > -0.5
    assert best["params"]["model.hidden"] == "8"
    number = best["trial"]
    said = f"best trial {number}: {METRIC} = {value:.6g} (max), best of 16 by the validation split"
    assert f"{said}\nrun directory search/{number}\n" in answer.out
    assert facts(Path("search"), "summary.json")["said"][0] == said
    words = answer.out.partition("train it again with: ebm ")[2].splitlines()[0]
    assert f"optimizer.lr={best['params']['optimizer.lr']!r} model.hidden=8" in words
    assert ebm(f"{words} hydra.run.dir=once_more --cfg job").code == 0
    assert sum(facts(Path("search"), "summary.json")["importances"].values()) == pytest.approx(1)
    done = sum(status == "done" for _, status, _ in found)
    assert f"what mattered among the {done} that are done: " in answer.out


@pytest.mark.long
def test_the_table_has_the_best_first_and_a_column_for_each_key(trained):
    trained.fails = {2}
    answer = tuned("trials=14 startup=6")
    head, *rows = answer.out.partition("search search")[2].splitlines()[1:16]
    assert head.split() == ["trial", "optimizer.lr", "model.hidden", METRIC, "status", "steps", "seconds"]
    states = [row.split()[4] if "failed" not in row else "failed" for row in rows]
    assert states == sorted(states, key=("done", "pruned", "failed").index)
    assert {"done", "pruned", "failed"} == set(states)
    worth = [float(row.split()[3]) for row in rows[: states.count("done")]]
    assert worth == sorted(worth, reverse=True)
    assert rows[0].split()[0] == f"{facts(Path('search'), 'summary.json')['best'][0]['trial']}*"
    assert rows[-1].split()[0] == "2"


@pytest.mark.quick("model.hidden=range(4,9)*", "optimizer.lr=tag*", "dataset.binarize*")
@pytest.mark.parametrize(
    ("space", "fits"),
    [
        ("optimizer.lr=interval(0.01,0.02)", lambda text: 0.01 <= float(text) <= 0.02),
        ("optimizer.lr=tag(log,interval(1e-9,1))", lambda text: 1e-9 <= float(text) <= 1),
        ("model.hidden=range(4,9,2)", lambda text: text in ("4", "6", "8")),
        ("model.hidden=range(4,9)", lambda text: text in ("4", "5", "6", "7", "8")),
        ("model.hidden=range(4,900,log)", lambda text: 4 <= int(text) < 900),
        ("objective=choice(cd,pcd)", lambda text: text in ("cd", "pcd")),
        ("dataset.binarize=choice(threshold,stochastic)", lambda text: text in ("threshold", "stochastic")),
    ],
)
def test_spaces(trained, space, fits):
    assert tuned("trials=3 pruner=none startup=3", space=f"'{space}'").code == 0
    values = [entry.overrides[-1].partition("=")[2] for entry in ledger.read(Path("search")).entries]
    assert all(fits(text) for text in values), values
    assert len(set(values)) == len(values) > 1
    if "log" in space:
        assert min(float(text) for text in values) < 0.5 * max(float(text) for text in values)


@pytest.mark.long
def test_bad_trials_are_pruned_and_that_is_no_failure(trained):
    answer = tuned("trials=10")
    assert answer.code == 0
    pruned = [number for number, (_, status, _) in enumerate(trials()) if status == "pruned"]
    assert pruned
    for number in pruned:
        assert facts(Path("search", str(number)))["status"] == "pruned"
        last = Path("search", str(number), "metrics.jsonl").read_text().splitlines()[-1]
        assert trials()[number][2] == [json.loads(last)[METRIC]]
        assert json.loads(last)["step"] < 8
    seen = list(trained.seen)
    assert again().code == 0
    assert trained.seen == seen


def test_no_pruning(trained):
    assert tuned("trials=9 pruner=none").code == 0
    assert {status for _, status, _ in trials()} == {"done"}


@pytest.mark.long
@pytest.mark.parametrize("pruner", ["halving", "hyperband"])
def test_other_pruners(trained, pruner):
    assert tuned(f"trials=10 pruner={pruner}").code == 0
    assert {status for _, status, _ in trials()} == {"done", "pruned"}


@pytest.mark.long
@pytest.mark.parametrize(
    "sampler", ["tpe", *(pytest.param(name, marks=pytest.mark.long) for name in ("random", "nsga2", "gp"))]
)
def test_a_search_is_a_function_of_its_seed(trained, sampler):
    for directory, seed in (("search", 3), ("other", 3), ("third", 4)):
        tuned(f"trials=5 startup=3 search={sampler} search_seed={seed}", directory)
    assert trials() == trials("other") != trials("third")


def test_each_random_proposal_is_another(trained):
    tuned("trials=3 search=random")
    assert trained.seen == [0, 1, 2]


def test_the_end_of_an_interval_is_one_point():
    """A sampler that climbs in the logarithm comes to it but for rounding, and again."""
    axis = search.Axis("optimizer.lr", "float", 0.001, 1.0, log=True)
    assert [axis.word(value) for value in (1.0, 0.9999999999999991)] == ["optimizer.lr=1.0"] * 2
    assert axis.word(0.0010000000000000002) == "optimizer.lr=0.001"
    assert axis.word(0.999999) == "optimizer.lr=0.999999"


@pytest.mark.long
def test_without_a_seed_of_its_own_it_is_that_of_the_runs(trained):
    for directory, line in (("search", "seed=3"), ("other", "seed=3"), ("third", "seed=4")):
        tuned(f"trials=3 {line}", directory)
    first = [[words[-2:] for words, _, _ in trials(name)] for name in ("search", "other", "third")]
    assert first[0] == first[1] != first[2]


def killed(monkeypatch, at: str, number: int):
    """The program dies just before or after a step of the search, at its trial of this number."""
    owner, name, when = {
        "propose": (study.Study, "propose", "after"),
        "enter": (tune.Tuning, "_enter", "before"),
        "entered": (tune.Tuning, "_enter", "after"),
        "tell": (study.Study, "tell", "before"),
        "told": (study.Study, "tell", "after"),
    }[at]
    original, calls = getattr(owner, name), []

    def dying(*arguments):
        calls.append(1)
        if when == "before" and len(calls) == number:
            raise Killed
        found = original(*arguments)
        if when == "after" and len(calls) == number:
            raise Killed
        return found

    monkeypatch.setattr(owner, name, dying)


@pytest.mark.quick("propose")
@pytest.mark.parametrize(
    "at",
    ["propose", "training", *(pytest.param(at, marks=pytest.mark.long) for at in ("enter", "entered", "tell", "told"))],
)
def test_killed_at_any_point_it_goes_on_as_if_it_had_not_been(trained, monkeypatch, at):
    tuned("trials=8 startup=3", "whole")
    with monkeypatch.context() as patched, pytest.raises(Killed):  # noqa: PT012 - patched for this call alone
        if at == "training":
            trained.dies = {4, 5, 6}
        else:
            killed(patched, at, 5)
        tuned("trials=8 startup=3")
    assert again().code == 0
    assert trials() == trials("whole")


@pytest.mark.long
def test_more_trials_are_those_that_a_longer_search_has(trained):
    tuned("trials=8 startup=3", "whole")
    tuned("trials=5 startup=3")
    seen = list(trained.seen)
    before = snapshot(Path("search/3"))
    assert again("trials=8").code == 0
    assert trials() == trials("whole")
    assert trained.seen == [*seen, *range(5, 8)]
    assert snapshot(Path("search/3")) == before
    assert facts(Path("search"), "tune.json")["trials"] == 8


def test_the_same_command_again(trained):
    tuned("trials=4 resume=auto")
    assert tuned("trials=4").code == 2
    assert tuned("trials=6 resume=auto").code == 0
    assert trained.seen == [0, 1, 2, 3, 4, 5]


@pytest.mark.long
def test_failed_trials_are_recorded_and_not_done_again(trained):
    trained.fails = {1, 3}
    answer = tuned("trials=7")
    assert answer.code == 0
    assert [n for n, (_, status, _) in enumerate(trials()) if status == "failed"] == [1, 3]
    assert "trial 1 (" in answer.out
    assert "failed: it diverged" in answer.out
    trained.fails = set()
    again("trials=8")
    assert trained.seen == list(range(8))
    words = [" ".join(words) for words, _, _ in trials()]
    assert len(set(words)) == len(words)


@pytest.mark.long
def test_where_all_fail_it_ends(trained):
    trained.fails = set(range(40))
    answer = tuned("trials=40 pruner=none")
    assert answer.code == 1
    assert "the first 5 trials all failed, the last of them because: it diverged" in answer.err
    assert trained.seen == [0, 1, 2, 3, 4]


def test_what_is_there_is_not_trained_again(trained):
    answer = tuned("trials=40 pruner=none", space="'model.hidden=choice(4,8,12)'")
    assert answer.code == 0
    assert trained.seen == [0, 1, 2]
    assert "the last 100 proposals were all trials that are there: the search ends" in answer.out


def test_a_sampler_that_names_the_same_again_and_again_does_not_end_the_search(trained, monkeypatch):
    """As that of gp does once the best is at an end of the space."""
    at_random, original = pytest.importorskip("optuna").samplers.RandomSampler, study._sampler

    def same(*arguments, **named):
        found = original(*arguments, **named)
        return found if isinstance(found, at_random) else at_random(0)

    monkeypatch.setattr(study, "_sampler", same)
    assert tuned("trials=5 startup=1 pruner=none").code == 0
    assert trained.seen == [0, 1, 2, 3, 4]


def test_a_metric_that_no_run_reports_ends_it_at_once(trained):
    trained.reports = {f"{METRIC}_", "ais/valid/log_z"}
    answer = tuned()
    assert answer.code == 1
    assert f"metric = {METRIC}: a run does not report it; did you mean {METRIC}_?" in answer.err
    assert trained.seen == [0]
    assert facts(Path("search/0"))["error"].startswith(f"metric = {METRIC}: a run does not report it")


def test_a_metric_of_the_end_is_looked_for_in_the_first_run(trained):
    answer = tuned("metric=energy_gapp")
    assert answer.code == 1
    assert "metric = energy_gapp: a run does not report it" in answer.err
    assert trained.seen == [0]


@pytest.mark.long
def test_several_metrics(trained):
    answer = tuned(f"metric={METRIC},seconds direction=max,min trials=6")
    assert answer.code == 0, answer.err
    found = [values for _, _, values in trials()]
    best = {fact["trial"] for fact in facts(Path("search"), "summary.json")["best"]}
    beaten = {n for n, (a, b) in enumerate(found) if any((c >= a and d <= b) and (c, d) != (a, b) for c, d in found)}
    assert best == set(range(6)) - beaten
    assert 0 in best
    assert f"none is better in all metrics than these (*): trials {', '.join(map(str, sorted(best)))}\n" in answer.out
    assert ebm(f"tune {FIXED} {SPACE} metric=a,b direction=[max,min,max]").code == 2


def test_least_is_best_where_that_is_said(trained):
    tuned("metric=seconds direction=min trials=4")
    assert facts(Path("search"), "summary.json")["best"][0]["trial"] == 0


@pytest.mark.parametrize(("monitor", "worth"), [(METRIC, 5.0), ("null", 1.0)])
def test_what_is_monitored_counts_at_its_best_all_else_at_the_end(trained, monkeypatch, monitor, worth):
    logged = iter([2.0, 5.0, 4.0, 1.0])
    monkeypatch.setattr(Trained, "worth", lambda self, config: 8 / step * next(logged) if (step := self.step) else 0)
    monkeypatch.setattr(Trained, "step", property(lambda self: EVALS[4 - logged.__length_hint__()]), raising=False)
    assert tuned(f"trials=1 checkpoint.monitor={monitor}").code == 0
    assert trials()[0][2] == [worth]


def test_a_number_that_is_not_finite_is_a_failure(trained, monkeypatch):
    monkeypatch.setattr(Trained, "worth", lambda self, config: math.nan if self.seen == [0] else -1.0)
    answer = tuned("trials=3")
    assert [status for _, status, _ in trials()] == ["failed", "done", "done"]
    assert "its metric is missing or no finite number" in answer.out


def test_the_test_split_is_optimistic(trained):
    answer = tuned("metric=x/y trials=2")
    assert_refused(answer, "metric = x/y: no evaluation reports it")
    answer = tuned("metric=ais/log_likelihood trials=1")
    assert "on the test split" in answer.out
    assert "metric=ais/valid/log_likelihood evaluation.ais.while_training=true" in answer.out


@pytest.mark.long
def test_half_a_line_at_the_end_of_the_journal_is_no_loss(trained):
    tuned("trials=6 startup=3", "whole")
    tuned("trials=5 startup=3")
    with Path("search/study.journal").open("a") as journal:
        journal.write('{"op_code":4,"wor')
    assert again("trials=6").code == 0
    assert again("trials=6").code == 0
    assert trials() == trials("whole")


@pytest.mark.long
def test_a_lock_of_a_dead_process_holds_nobody_up(trained):
    tuned("trials=2")
    for name in ("study.journal.lock", "study.journal.lock2"):
        Path("search", name).symlink_to("study.journal")
    assert again("trials=3").code == 0


def test_without_optuna(monkeypatch):
    found = tune_spec = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "optuna" else tune_spec(name))
    assert found is tune_spec
    assert_refused(ebm("tune model.hidden=choice(4,8)"), "optuna", install("tune"))


@pytest.mark.long
def test_a_request_to_stop_leaves_a_line_that_goes_on(trained, monkeypatch):
    """What the trial under way had, its own run keeps."""

    def stopped(request):
        create(request.directory, request.config)
        Run(request.directory).update_metadata(status="stopped")
        with tune.watching() as stop:
            stop.ask(15)
        return 75

    with monkeypatch.context() as patched:
        patched.setattr(multi, "train", stopped)
        answer = tuned("trials=2")
    assert answer.code == 75
    assert "go on with the search: ebm tune resume=search\n" in answer.out
    assert again().code == 0
    assert trained.seen == [0, 1]


def test_a_signal_that_comes_when_all_trials_are_done_changes_nothing(trained, monkeypatch):
    def asked(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    original = tune.trials.show
    monkeypatch.setattr(tune.trials, "show", asked)
    assert tuned("trials=2").code == 0


def real(line: str, directory: str = "search"):
    tiny = [word for word in TINY if not word.startswith("evaluation")]
    words = [*tiny, "evaluation=[pseudo_likelihood]", "eval_every=3", "save_every=4", f"metric={METRIC}", *line.split()]
    return ebm(f"tune hydra.sweep.dir={directory} 'optimizer.lr=interval(0.001,10,log)'", *words)


@pytest.mark.quick("seconds")
@pytest.mark.parametrize("metric", [METRIC, "seconds"])
def test_both_ways_to_go_on_are_said_where_a_search_is_stopped(metric, monkeypatch):
    with monkeypatch.context() as patched:
        at_step(patched, 5, lambda: os.kill(os.getpid(), signal.SIGINT))
        answer = real(f"trials=2 metric={metric}")
    assert answer.code == 130
    [one] = re.findall(r"^go on with this run alone: ebm (.*)$", answer.err, re.MULTILINE)
    [all_of_them] = re.findall(r"^go on with the search: ebm (.*)$", answer.out, re.MULTILINE)
    assert "go on with: " not in answer.out + answer.err
    assert ebm(one).code == 0
    assert facts(Path("search/0"))["status"] == "done"
    assert ebm(all_of_them).code == 0
    assert [status for _, status, _ in trials_of_real()] == ["done", "done"]


def test_a_run_that_is_pruned_ends_there_with_a_checkpoint(monkeypatch):
    monkeypatch.setattr(pruning, "judge", lambda trial, total: lambda step, values: step == 6)
    answer = real("trials=1")
    run = Path("search/0")
    assert facts(run)["status"] == facts(run, "summary.json")["status"] == "pruned"
    assert facts(run)["step"] == 6
    assert [path.name for path in sorted((run / "checkpoints").iterdir())][-1] == "step-00000006"
    assert "log_pseudo_likelihood" not in facts(run, "summary.json")
    assert "pruned at step 6" in (run / "train.log").read_text()
    assert answer.code == 1  # no trial is done
    shutil.rmtree("search")


def test_real_runs():
    assert real("trials=3").code == 0
    assert [status for _, status, _ in trials_of_real()] == ["done"] * 3
    [best] = facts(Path("search"), "summary.json")["best"]
    values = [
        json.loads(line).get(METRIC) for line in Path(best["directory"], "metrics.jsonl").read_text().splitlines()
    ]
    assert best["metrics"][METRIC] == max(value for value in values if value is not None)


def trials_of_real():
    return [(job["overrides"], job["status"], job["values"]) for job in facts(Path("search"), "summary.json")["jobs"]]


def test_the_loop_asks_the_judge_at_every_evaluation(monkeypatch):
    asked = []
    monkeypatch.setattr(pruning, "judge", lambda trial, total: lambda step, values: bool(asked.append(step)))
    real("trials=1")
    assert asked == [0, 3, 6, 9, 12]
    assert loop.Judge


@pytest.mark.long
def test_several_processes_at_a_time(monkeypatch):
    with monkeypatch.context() as patch:
        processes.keep_warm(patch)
        assert real("trials=5 n_jobs=2 startup=3").code == 0
    assert len(trials_of_real()) == 5
    assert {status for _, status, _ in trials_of_real()} <= {"done", "pruned"}
    assert ebm("tune resume=search trials=6 n_jobs=2").code == 0
    assert len(trials_of_real()) == 6
