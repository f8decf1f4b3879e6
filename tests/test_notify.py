"""notify.url: what is posted when runs and multiruns end, and that no server can hold them up."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from helpers.cli import TINY, assert_refused, ebm, train
from test_resume import at_step

from ebm_cli.commands import notify
from ebm_cli.errors import RunError, UserError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(notify.VARIABLE, raising=False)


@pytest.fixture
def server():
    """A server on this machine; `posted` has what it got, `answer` its answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.posted.append((self.headers["Content-Type"], json.loads(body)))
            self.send_response(found.answer)
            if found.answer == 302:
                self.send_header("Location", found.url + "/elsewhere")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_):
            pass

    found = HTTPServer(("127.0.0.1", 0), Handler)
    found.posted, found.answer = [], 200
    found.url = f"http://127.0.0.1:{found.server_port}"
    threading.Thread(target=found.serve_forever, args=(0.05,), daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def test_a_run_that_is_done(server):
    assert train(f"notify.url={server.url}").code == 0
    [(kind, facts)] = server.posted
    assert kind == "application/json"
    assert (facts["kind"], facts["status"], facts["steps"], facts["error"]) == ("run", "done", 12, None)
    assert facts["run"].endswith("/run")
    assert facts["text"].startswith("ebm: run done, samples/")
    assert 0 < len(facts["metrics"]) <= 20


def test_a_run_that_fails(server, monkeypatch):
    def fails():
        raise RunError("out of luck")

    monkeypatch.setenv(notify.VARIABLE, server.url)
    at_step(monkeypatch, 6, fails)
    assert train().code == 1
    [(_, facts)] = server.posted
    assert (facts["status"], facts["error"], facts["text"]) == ("failed", "out of luck", "ebm: run failed: out of luck")


@pytest.mark.long
def test_a_multirun_tells_once_and_jobs_that_fail(server, monkeypatch):
    def fails(seen=[]):  # noqa: B006 - how often
        seen.append(1)
        if len(seen) == 1:
            raise RunError("out of luck")

    at_step(monkeypatch, 6, fails)
    answer = ebm("train -m hydra.sweep.dir=sweep", *TINY, "seed=1,2", f"notify.url={server.url}")
    assert answer.code == 1
    assert [(facts["kind"], facts["status"]) for _, facts in server.posted] == [
        ("run", "failed"),
        ("multirun", "failed"),
    ]
    assert server.posted[1][1]["jobs"] == {"failed": 1, "done": 1}
    assert server.posted[1][1]["errors"] == {"0": "out of luck"}


@pytest.mark.long
def test_what_the_server_answers_changes_nothing(server):
    for code in (500, 302):
        server.answer = code
        answer = train(f"notify.url={server.url}", directory=f"run-{code}")
        assert answer.code == 0
        assert f"notify.url: not posted: the server answered {code}" in answer.err
    assert len(server.posted) == 2  # it is sent nowhere else


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    answer = train(f"notify.url=http://127.0.0.1:{port}")
    assert answer.code == 0
    assert "notify.url: not posted: [Errno 111] Connection refused" in answer.err


def test_a_server_that_hangs(monkeypatch):
    monkeypatch.setattr(notify, "_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        notice = notify.Notice(f"http://127.0.0.1:{deaf.getsockname()[1]}", {"status": "done"})
        began = time.monotonic()
        notice.wait()
        assert time.monotonic() - began < 3


@pytest.mark.long
def test_a_server_that_never_ends_its_answer(monkeypatch):
    """Each piece comes in time, and all together never."""
    monkeypatch.setattr(notify, "_SECONDS", 0.4)
    done = threading.Event()

    def drip(server):
        connection, _ = server.accept()
        while not done.wait(0.05):
            connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,), daemon=True)
        thread.start()
        notice, began = notify.Notice(f"http://127.0.0.1:{server.getsockname()[1]}", {}), time.monotonic()
        notice.wait()
        assert time.monotonic() - began < 6
        assert notice._trouble == "no answer within 0.4 s"
        done.set()
        thread.join(5)


@pytest.mark.parametrize(
    "url",
    ["ftp://x", "file:///etc/passwd", "x", "http://", "https:///x", "http://a b", "http://a:99999", "http://a\x00"],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UserError, match=r"must be an address, http://\.\.\. or https://"):
        notify.address({"notify": {"url": url}})


def test_it_is_refused_before_any_work():
    assert_refused(train("notify.url=ftp://x"), 'notify.url = "ftp://x": must be an address')
    assert_refused(ebm("train -m hydra.sweep.dir=sweep seed=1,2", *TINY, "notify.url=x"), 'notify.url = "x": must be')
    assert_refused(train("+notify.urk=x"), "unknown key notify.urk")


def test_an_older_run_has_no_such_key():
    assert notify.address({}) is None
