"""`notify.url`: a small JSON that is posted when a run or a multirun ends. It can neither hold it up nor fail it."""

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from typing_extensions import override

from ebm_cli.errors import UserError
from ebm_cli.record import lease, plain_json
from ebm_cli.terminal import log

VARIABLE = "EBM_NOTIFY_URL"
_SECONDS = 5.0  # in which it must be posted
_NUMBERS = 20  # of an evaluation, at most


class _Unmoved(urllib.request.HTTPRedirectHandler):
    """Nothing is sent to another address than the one that was given."""

    @override
    def redirect_request(self, *_: Any) -> None:
        return None


class Notice:
    """A thread that posts facts to an address; without one nothing is done."""

    def __init__(self, url: str | None, facts: Mapping[str, Any]) -> None:
        self._trouble: str | None = None
        self._until = time.monotonic() + _SECONDS
        self._thread: threading.Thread | None = None
        if url is not None:
            data = plain_json.dumps({**facts, "host": lease.about()["host"]}).encode()
            self._thread = threading.Thread(target=self._post, args=(url, data), name="notify", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Until it is posted or its time is up; what went wrong is said."""
        if self._thread is None:
            return
        self._thread.join(max(0.0, self._until - time.monotonic()))
        if self._thread.is_alive():
            self._trouble = f"no answer within {_SECONDS:g} s"
        if self._trouble:
            log.warning("notify.url: not posted: %s", self._trouble)

    def _post(self, url: str, data: bytes) -> None:
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method="POST")
        try:
            with urllib.request.build_opener(_Unmoved).open(request, timeout=_SECONDS):
                pass
        except urllib.error.HTTPError as error:
            self._trouble = f"the server answered {error.code}"
        except (OSError, HTTPException, ValueError) as error:
            self._trouble = str(getattr(error, "reason", None) or error) or type(error).__name__


def address(config: Mapping[str, Any]) -> str | None:
    """Where to post: notify.url, else the environment. Raises UserError for what is no address of the web."""
    found, said = config.get("notify"), "notify.url"
    keys = {"url": None, **found} if isinstance(found, Mapping) else {"url": found}
    for key in keys:
        if key != "url":
            raise UserError(f"unknown key notify.{key} (takes: url)")
    url = keys["url"]
    if url is None:
        url, said = os.environ.get(VARIABLE) or None, VARIABLE
    if url is not None and not _of_the_web(url):
        raise UserError(f"{said} = {json.dumps(url)}: must be an address, http://... or https://...")
    return url


def _of_the_web(url: Any) -> bool:
    try:
        parts = urlsplit(url) if isinstance(url, str) and url.isprintable() and " " not in url else None
        return parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def of_run(path: str, name: str, summary: Mapping[str, Any], error: str | None) -> dict[str, Any]:
    """What is posted of a run: how it ended and its main numbers."""
    numbers = {key: value for key, value in summary.items() if "/" in key and type(value) in (int, float)}
    main = dict([*numbers.items()][:_NUMBERS])
    shown = next((f", {key} {value:.4g}" for key, value in main.items() if value is not None), "")
    status = summary["status"]
    text = f"ebm: {name} {status}" + (f": {error}" if error else shown)
    known = {key: summary[key] for key in ("steps", "seconds") if key in summary}
    return {
        "text": text,
        "kind": "run",
        "run": path,
        "name": name,
        "status": status,
        **known,
        "error": error,
        "metrics": main,
    }


def of_sweep(path: str, jobs: Sequence[Mapping[str, Any]], status: str) -> dict[str, Any]:
    """What is posted of a multirun: how many of its jobs ended how, and why some failed."""
    counts = Counter(str(job["status"]) for job in jobs)
    errors = {str(job["job"]): job["error"] for job in jobs if job.get("error")}
    said = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    text = f"ebm: multirun {path} {status}: {said}"
    some = dict([*errors.items()][:_NUMBERS])
    return {"text": text, "kind": "multirun", "run": path, "status": status, "jobs": dict(counts), "errors": some}
