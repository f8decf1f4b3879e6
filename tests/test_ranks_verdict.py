"""The exit code of several ranks."""

import signal

import pytest

from ebm_cli.device.launch import _verdict
from ebm_cli.errors import RunError
from ebm_cli.signals import StopRequest


@pytest.mark.parametrize(("codes", "expected"), [([0, 0], 0), ([0, 1], 1), ([2, 1], 2), ([0, 75], 0), ([75, 75], 75)])
def test_a_rank_that_failed_is_no_success(codes, expected):
    assert _verdict(codes, set(), StopRequest()) == expected


def test_a_rank_that_was_killed_is_named():
    with pytest.raises(RunError, match="rank 1 was killed by SIGKILL"):
        _verdict([0, -signal.SIGKILL], set(), StopRequest())
