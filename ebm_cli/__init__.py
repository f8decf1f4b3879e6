"""Train, sample and evaluate energy-based models: the command `ebm`, and the same from Python.

import ebm_cli as ebm
run = ebm.load("outputs/RUN")
run.log_likelihood(rows)
"""

__version__ = "0.1.0"

_WHERE = {
    "load": "ebm_cli.api.loading",
    "train": "ebm_cli.api.training",
    "evaluate": "ebm_cli.api.training",
    "TrainedRun": "ebm_cli.api.run",
    "LogLikelihood": "ebm_cli.commands.score",
    "Imputed": "ebm_cli.api.run",
    "UserError": "ebm_cli.errors",
    "RunError": "ebm_cli.errors",
}
"""What there is for callers in Python, by where it lies; loaded when it is asked for. `__init__.pyi` has the types."""

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'ebm_cli' has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(_WHERE[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
