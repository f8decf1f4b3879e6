"""What ended the work: a request to stop, in whatever disguise it comes, or a fault."""

import signal
from pathlib import Path

import pytest
from helpers.cli import TINY, ebm, facts, last_step
from helpers.libraries import uncompiled
from torch._inductor.exc import InvalidCxxCompiler

from ebm_cli.commands import train
from ebm_cli.device import ahead
from ebm_cli.signals import StopRequest


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_compiler_that_a_signal_ended_is_no_fault():
    stop = StopRequest()
    assert not stop.broke(InvalidCxxCompiler()), "nobody has asked to stop: there is none"
    stop.ask(signal.SIGINT)
    assert stop.broke(InvalidCxxCompiler())
    assert not stop.broke(ValueError("of our own"))
    stop.raised = True
    assert stop.broke(ValueError("what a library made of a KeyboardInterrupt"))
    assert StopRequest().broke(KeyboardInterrupt())


def test_ctrl_c_while_the_compiler_runs_stops_the_run(monkeypatch):
    """It reaches the whole group of processes, the compiler too, which a library then says is missing.

    Such a run has no checkpoint yet: resumed, it begins.
    """

    def fit(parts, state, recorder, stop):
        stop.ask(signal.SIGINT)
        raise InvalidCxxCompiler

    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", fit)
        answer = ebm("train", *TINY, "hydra.run.dir=run")
    assert answer.code == 130
    assert "stopped at step 0" in answer.err
    assert "Traceback" not in answer.err + answer.out
    assert facts(Path("run"))["status"] == "stopped"
    again = ebm("train resume=run")
    assert again.code == 0, again.err
    assert "no checkpoint was written yet, so the run starts again" in again.err
    assert facts(Path("run"))["status"] == "done"


@pytest.mark.long
@pytest.mark.parametrize(("keys", "at", "step"), [((), 1, 0), (("chains.final_steps=2",), 2, 7)])
def test_a_compiler_is_waited_for_where_work_would_be_lost(keys, at, step, monkeypatch):
    """Before the first step a stop ends the run at once; later it saves the steps that were made so far."""
    made = uncompiled(monkeypatch)
    plain = ahead._library

    def compiled(*given):
        if len(made.identities) == at - 1:
            signal.raise_signal(signal.SIGTERM)
        return plain(*given)

    monkeypatch.setattr(ahead, "_library", compiled)
    answer = ebm("train", *TINY, "hydra.run.dir=run", "device.compile=ahead", *keys)
    assert answer.code == 75
    assert f"stopped at step {step}; " in answer.err
    assert len(made.identities) == at - (step == 0)
    if step:
        assert last_step(Path("run")).name == f"step-{step:08d}"
