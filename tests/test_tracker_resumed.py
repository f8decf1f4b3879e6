"""A tracker of a run that goes on."""

import dataclasses

import pytest
from test_tracker import info, spec


def test_steps_that_are_trained_again_stand_once_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step, last in ((None, 4), (2, 6)):
        tracker = spec("tensorboard").open(dataclasses.replace(info(tmp_path), step=step))
        for number in range(1 if step is None else step + 1, last):
            tracker.log(number, {"loss": number / 4})
        tracker.close({})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [event.step for event in events] == [1, 2, 3, 4, 5]
