"""Whether wandb could log in here: the places where wandb itself looks, read without importing it.

`wandb.init` asks on the terminal when it finds no key, and checking a key needs the network. This does neither.
"""

import configparser
import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

# Under which names `wandb login` has stored the key of the public server.
_PUBLIC_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")


def api_key() -> str | None:
    """The API key from WANDB_API_KEY, a wandb settings file, or the netrc file."""
    return os.environ.get("WANDB_API_KEY") or settings().get("api_key") or _netrc_key()


def has_account() -> bool:
    """Whether there is an API key or an identity token."""
    return bool(os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or api_key())


def settings() -> dict[str, str]:
    """What `wandb login --host` and `wandb offline` have written; the file of the working directory wins."""
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    found: dict[str, str] = {}
    for path in (folder / "settings", Path("wandb/settings")):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # wandb treats a damaged file as empty, too
        if parser.has_section("default"):
            found |= dict(parser["default"])
    return found


def _netrc_key() -> str | None:
    server = os.environ.get("WANDB_BASE_URL") or settings().get("base_url")
    hosts = (urlsplit(server).netloc,) if server else _PUBLIC_HOSTS
    try:
        entries = netrc.netrc(_netrc_path())
    except (netrc.NetrcParseError, OSError):
        return None
    logins = [entries.authenticators(host) for host in hosts]
    return next((login[2] for login in logins if login and login[2]), None)


def _netrc_path() -> Path:
    if chosen := os.environ.get("NETRC"):
        return Path(chosen).expanduser()
    usual = Path("~/.netrc").expanduser()
    windows = Path("~/_netrc").expanduser()
    return windows if windows.exists() and not usual.exists() else usual
