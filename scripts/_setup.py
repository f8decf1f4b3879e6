"""Make `.venv` on first use; the scripts next to this file start with it.

Standard library only, and no syntax newer than Python 3.6, so that an old `python3` gets a sentence, not a traceback.

`.venv/ebm-stamp` says what a finished set-up was made from; `.venv/ebm-unfinished` lies there while one runs, and stays
after one that failed, so that the next one starts clean. A `.venv` with neither was made by hand: it is completed in
place, never emptied.
"""

import hashlib
import os
import signal
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
VENV = os.path.join(ROOT, ".venv")
BIN = os.path.join(VENV, "bin")
PYTHON = os.path.join(BIN, "python")
STAMP = os.path.join(VENV, "ebm-stamp")
UNFINISHED = os.path.join(VENV, "ebm-unfinished")
LOCK = os.path.join(VENV, "ebm-lock")

PINS = ("pyproject.toml", "constraints.txt")
EXTRAS = "dev,tensorboard,joblib,tune,tables,hdf5,notebook,docs"
UV = "uv==0.13.8"
STOPS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
LOWEST, ABOVE = (3, 11), (3, 14)


class SetupError(Exception):
    """Why `.venv` could not be made, as one sentence."""


def hold_signals():
    """Let requests to stop wait for the program that is about to take the place of this process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)


def ensure():
    """Return when `.venv` is complete and up to date, making it if need be; on failure say why and exit."""
    if _ready():
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # this takes minutes
    try:
        _use_supported_python()
        _set_up()
    except KeyboardInterrupt:
        _say("set-up of .venv interrupted; run the command again to finish it")
        sys.exit(130)
    except (SetupError, OSError) as error:
        _say(str(error))
        sys.exit(2)


def execute(program, *args):
    """Replace this process by a program of `.venv/bin`."""
    sys.stdout.flush()
    sys.stderr.flush()
    path = os.path.join(BIN, program)
    os.execv(path, [path, *args])  # in full also as argv[0]: from it Python tells which environment it is in


def _say(line):
    print("ebm: " + line, file=sys.stderr, flush=True)


def _supported():
    return LOWEST <= sys.version_info[:2] < ABOVE


def _place():
    """What a change of which needs a fresh `.venv`: the Python release line and where the repository lies."""
    return "python {}.{}\nroot {}\n".format(*sys.version_info[:2], ROOT)


def _pins():
    digest = hashlib.sha256((EXTRAS + UV).encode())
    for name in PINS:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return "pins " + digest.hexdigest() + "\n"


def _read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def _ready():
    stamp = _read(STAMP)
    if not stamp or not os.path.exists(PYTHON) or not os.path.exists(os.path.join(BIN, "ebm")):
        return False
    if _supported():
        return stamp == _place() + _pins()
    # This Python would not be used for .venv anyway: any supported one that made it will do.
    return stamp.split("\n", 1)[1] == _place().split("\n", 1)[1] + _pins()


def _use_supported_python():
    """Start over under a Python that the project supports when this one is not; without one, raise."""
    if _supported():
        return
    import shutil
    import subprocess

    for name in ("python3.13", "python3.12", "python3.11"):
        path = shutil.which(name)
        # Asked to run, not only looked up: a pyenv shim lies on PATH for versions that are not switched on.
        check = "import sys; sys.exit('{}.{}'.format(*sys.version_info) != '" + name[len("python") :] + "')"
        if path and subprocess.call([path, "-c", check], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
            os.execv(path, [path, *sys.argv])
    raise SetupError(
        "needs Python 3.11, 3.12 or 3.13; python3 is {}.{} and none of python3.13, python3.12, python3.11 "
        "on PATH runs".format(*sys.version_info)
    )


def _set_up():
    import fcntl

    os.makedirs(VENV, exist_ok=True)
    with open(LOCK, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another set-up of .venv is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not _ready():
            _make(lock.fileno())


def _make(lock):
    begin = time.monotonic()
    complete = _prepare()
    if complete:
        _say("updating .venv (pyproject.toml or constraints.txt changed)")
    else:
        _say("setting up .venv once; downloads about 3 GB (PyTorch)")
    # The Python below any venv, so that it also works from inside the .venv that is being remade.
    base = getattr(sys, "_base_executable", None) or sys.executable
    if not complete and not _run(lock, base, "-m", "venv", VENV):
        raise SetupError("`python3 -m venv` failed, so .venv is not set up (its message is above)")
    _install(lock)
    if not os.path.exists(os.path.join(BIN, "ebm")):
        raise SetupError("the installation ended without a .venv/bin/ebm; run the command again")
    with open(STAMP + ".new", "w", encoding="utf-8") as file:
        file.write(_place() + _pins())
    os.replace(STAMP + ".new", STAMP)
    _remove(UNFINISHED)
    _say(f"set up .venv in {time.monotonic() - begin:.0f} s")


def _prepare():
    """Drop the stamp, empty a `.venv` that cannot be built upon; True if a complete one is left to update."""
    stamp, config = _read(STAMP), _read(os.path.join(VENV, "pyvenv.cfg"))
    by_hand = not stamp and not os.path.exists(UNFINISHED) and os.listdir(VENV) != [os.path.basename(LOCK)]
    if by_hand and not _same_python(config):
        raise SetupError(
            "{} was not made by this script, nor with this Python ({}.{}); move it away and run the command "
            "again".format(VENV, *sys.version_info)
        )
    complete = stamp.startswith(_place()) and os.path.exists(PYTHON) and not os.path.exists(UNFINISHED)
    if not complete:
        _check_venv_module()
    if not by_hand:
        with open(UNFINISHED, "w"):
            pass
    if not complete and not by_hand:
        _empty()
    _remove(STAMP)
    return complete


def _same_python(config):
    for line in config.splitlines():
        key, _, value = line.partition("=")
        if key.strip() in ("version", "version_info"):
            return value.strip().split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    return False


def _check_venv_module():
    from importlib.util import find_spec

    if not find_spec("venv") or not find_spec("ensurepip"):
        raise SetupError(
            "this Python cannot make virtual environments (no venv or ensurepip module); "
            "on Debian or Ubuntu: apt install python3-venv"
        )


def _empty():
    """Remove what is in `.venv`, but the lock and the mark that are in use."""
    import shutil

    for entry in list(os.scandir(VENV)):
        if entry.path in (LOCK, UNFINISHED):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _remove(path):
    if os.path.exists(path):
        os.unlink(path)


def _install(lock):
    what = ["-c", "constraints.txt", "-e", ".[" + EXTRAS + "]"]
    uv = _find_uv(lock)
    if uv and _run(lock, uv, "pip", "install", "-q", "--python", PYTHON, "-b", "constraints.txt", *what):
        return
    _say("uv could not install; trying pip" if uv else "no uv; using pip, which takes some minutes")
    if not _run(lock, PYTHON, "-m", "pip", "install", "-q", "--no-input", *what):
        raise SetupError("installing the dependencies failed (the reason is above); run the command again to retry")


def _find_uv(lock):
    import shutil

    uv = shutil.which("uv") or shutil.which("uv", path=BIN)
    if not uv and _run(lock, PYTHON, "-m", "pip", "install", "-q", "--no-input", UV):
        uv = shutil.which("uv", path=BIN)
    return uv


def _run(lock, *command):
    """Run in the repository root, everything said going to stderr; True if it succeeded.

    The child keeps the lock: should this process be killed alone, another set-up still waits for what it left running.
    """
    import subprocess

    return subprocess.call(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=sys.stderr, pass_fds=[lock]) == 0
