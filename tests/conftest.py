"""Every test runs on one CPU thread: small tensors gain nothing from more, and tests may run side by side."""

import gc
import os
import signal

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's and scipy's, which reads it once: before they are imported

import pytest
import torch

torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as nohup leaves it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is there then stays, and a search for garbage would look through all of it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


NAMED = pytest.StashKey()


def pytest_itemcollected(item):
    """`@pytest.mark.quick("a", "b*")`: all cases of a test are long but these, by their ids or how they begin."""
    if few := item.get_closest_marker("quick"):
        found = {name: _is_case(item.callspec.id, name) for name in few.args}
        if not any(found.values()):
            item.add_marker(pytest.mark.long)
        known = item.config.stash.setdefault(NAMED, {}).setdefault(item.nodeid.partition("[")[0], {})
        known.update({name: is_one or known.get(name, False) for name, is_one in found.items()})


def _is_case(case, name):
    return case.startswith(name[:-1]) if name.endswith("*") else case == name


@pytest.fixture
def no_such_case(request):
    """What `quick` names and no test has, of the files that were collected."""
    every = request.config.stash.get(NAMED, {})
    return [f"{test}[{name}]" for test, found in every.items() for name, is_one in found.items() if not is_one]


@pytest.fixture(scope="session", autouse=True)
def composed_once():
    """Command lines that are the same are composed once."""
    from helpers import composed

    with pytest.MonkeyPatch.context() as monkeypatch:
        composed.remember(monkeypatch)
        yield


@pytest.fixture(scope="session", autouse=True)
def headers_once():
    """All tests together compile many libraries, though each begins with none."""
    from ebm_cli.device import ahead

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(ahead, "_MANY", 0)
        yield


@pytest.fixture(scope="session", autouse=True)
def without_waiting_for_the_disk():
    """No test cuts the power: a tiny run would wait fourteen times for the disk, half as long as it computes."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def patience():
    """On a slow machine the plan of two jobs would be reported on, in the middle of what a test reads."""
    from ebm_cli import terminal

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(terminal, "_SILENCE", 100.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def margins_of_any_width():
    """Everything of a figure is drawn; finding margins takes twice as long, and `laid_out` has them for who looks."""
    from ebm_cli.record import picture

    with pytest.MonkeyPatch.context() as monkeypatch:
        yield _told_of_axes(monkeypatch, picture.Drawing, lambda at: at[0][0].figure.set_layout_engine("none"))


def _told_of_axes(monkeypatch, drawing, tell):
    original = drawing.__init__

    def made(self, at):
        original(self, at)
        tell(at)

    monkeypatch.setattr(drawing, "__init__", made)
    return original


@pytest.fixture(scope="session", autouse=True)
def nothing_undeclared():
    """Whatever a test measures, an evaluation that says what it reports reports nothing else."""
    from ebm_cli import registry
    from ebm_cli.evaluation.base import Result

    original = Result.__init__

    def checked(self, metrics, *values, **named):
        original(self, metrics, *values, **named)
        kinds = registry.components("evaluation")
        for name in metrics:
            reports = getattr(kinds.get(name.partition("/")[0]), "reports", ())
            assert not reports or name in reports, f"{name} is not among the reports of its evaluation"

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Result, "__init__", checked)
        yield


@pytest.fixture
def hasty(monkeypatch):
    """A classifier of few steps, where it matters that there is one and not how often it is right."""
    from ebm_cli.yardstick import classifier

    monkeypatch.setattr(classifier, "_UPDATES", 50)


@pytest.fixture
def small_text(tmp_path, monkeypatch):
    """In a directory of its own, which has a small text."""
    from helpers.text import SENTENCES, text_file

    monkeypatch.chdir(tmp_path)
    return text_file(tmp_path, *SENTENCES)


@pytest.fixture
def laid_out(monkeypatch, margins_of_any_width):
    """Figures with the margins that they have outside tests."""
    from ebm_cli.record import picture

    monkeypatch.setattr(picture.Drawing, "__init__", margins_of_any_width)


@pytest.fixture
def drawings(monkeypatch):
    """The axes of every figure that is drawn; what stands on them is easier to judge than pixels."""
    from ebm_cli.record import picture

    found, original = [], picture.Drawing.__init__

    def made(self, at):
        original(self, at)
        found.append(self)

    monkeypatch.setattr(picture.Drawing, "__init__", made)
    return found
