"""A request to stop that reached another rank is heard by this one."""

import os
import signal
from pathlib import Path

import pytest
from helpers.cli import facts, last_step, train

from ebm_cli.device.ranks import Ranks
from ebm_cli.training import loop


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("first", "step"), [(5, 10), (11, 12)])
def test_a_request_to_another_rank(first, step, monkeypatch):
    """Also one that comes after the last exchange before the end: the final evaluation is not begun."""
    now = [0]
    original = loop.train_step

    def stepping(parts, state, how):
        now[0] = state.step + 1
        return original(parts, state, how)

    monkeypatch.setattr(loop, "train_step", stepping)
    monkeypatch.setattr(Ranks, "highest", lambda self, number, device: signal.SIGTERM if now[0] >= first else number)
    asks = loop._agree
    monkeypatch.setattr(loop, "_stopping", lambda parts, state, stop: state.step % 10 == 0 and asks(parts, stop))
    answer = train()
    assert answer.code == 75
    assert (facts(Path("run"))["status"], last_step(Path("run")).name) == ("stopped", f"step-{step:08d}")
    assert "go on with: ebm train resume=run" in answer.err
    assert os.path.exists("run/summary.json")
