"""Hydra plugin: `ebm tune`. It composes configurations; which, and what becomes of them, `commands/tune.py` says."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, ValueType
from omegaconf import OmegaConf
from typing_extensions import override

from ebm_cli.cli.composing import chosen_parts, plain_data, seen_from_here
from ebm_cli.cli.spaces import one_end, sentence
from ebm_cli.cli.sweeper import ALONE, PLUGINS, LedgerSweeper
from ebm_cli.cli.tuning import KEYS, is_space
from ebm_cli.errors import RunError, UserError, advice, of_file


class TuneSweeper(LedgerSweeper):
    """Hands the search over to `commands/tune.py`."""

    def __init__(self, params: dict[str, str] | None, resume: bool, **orders: Any) -> None:
        super().__init__(params, resume, 0, fail_fast=False)
        self.orders = {key: orders.pop(key) for key in KEYS}
        for key in orders:
            raise UserError(f"hydra.sweeper.{key}: no search has such a key")

    @override
    def sweep(self, arguments: list[str]) -> None:
        """Do the search; its exit code is left in the outcome of the task."""
        from ebm_cli.commands import search, tune

        self._check_hydra()
        given = [*(f"{key}={values}" for key, values in self.params.items()), *arguments]
        self.plugins = [word for word in given if word.startswith(PLUGINS)]
        own = [word for word in given if word not in self.plugins]
        words = [word if is_space(word) else self._anchored(word) for word in own]
        parsed = OverridesParser.create(config_loader=self.loader).parse_overrides(words)
        axes = tuple(_axis(one) for one in parsed if one.is_sweep_override())
        fixed = tuple(str(one.input_line) for one in parsed if not one.is_sweep_override())
        found = search.built(self._orders_of(fixed))
        path = seen_from_here(Path(str(self.config.hydra.sweep.dir)).absolute())
        jobs, typed = self.orders["n_jobs"], tuple(map(quote, self.plugins))
        call = tune.Call(path, tuple(words), fixed, axes, found, self._composed, jobs, self.resume, typed)
        self.task.outcome.started = True
        try:
            self.task.outcome.swept = tune.run(call)
        except OSError as error:
            if error.errno is None:
                raise
            raise RunError(
                f"{of_file(error)}: {advice(error)}, then go on: ebm tune resume={quote(str(path))}"
            ) from error

    def _check_hydra(self) -> None:
        if self.config.hydra.launcher._target_ != ALONE:
            raise UserError("hydra/launcher: a search runs its trials on this machine; leave it out, and take n_jobs=N")
        if "hydra.sweep.subdir" in str(self.config.hydra.overrides.hydra):
            raise UserError("hydra.sweep.subdir: the runs of a search lie in folders by their number; leave it out")

    def _orders_of(self, fixed: Sequence[str]) -> dict[str, Any]:
        """The keys of the search, those that were not given from the configuration of its runs."""
        plain = {key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
                 for key, value in self.orders.items() if key != "n_jobs"}  # fmt: skip
        own = self._composed(fixed).config
        if plain["metric"] is None:
            plain["metric"] = own["checkpoint"]["monitor"]
        if plain["metric"] is None:
            raise UserError("metric is missing: say what a run reports and is to be best, metric=NAME")
        if plain["search_seed"] is None:
            plain["search_seed"] = own["seed"]
        return plain

    def _composed(self, words: Sequence[str]) -> Any:
        from ebm_cli.commands.tune import Composed

        config = self.loader.load_sweep_config(self.config, [*words, *self.plugins])
        return Composed(plain_data(config), chosen_parts(config.hydra), tuple(config.hydra.overrides.task))


def _axis(one: Override) -> Any:
    """What is searched by this word."""
    from ebm_cli.commands.search import Axis

    key, space = one.get_key_element(), one.value()
    if one.value_type == ValueType.SIMPLE_CHOICE_SWEEP:
        values = str(one.input_line).partition("=")[2]
        way = f"a search chooses, {key}='choice({values})'; every combination of values: ebm train -m"
        raise UserError(sentence(str(one.input_line)) or f"{one.input_line}: {way}")
    tags: set[str] = getattr(space, "tags", set())
    for tag in sorted(tags - {"log"}):
        raise UserError(f"{key}: no tag is called {tag}; write interval(a,b,log)")
    if isinstance(space, IntervalSweep):
        assert space.start is not None
        assert space.end is not None
        whole = isinstance(space.start, int) and isinstance(space.end, int)
        return Axis(key, "int" if whole else "float", space.start, space.end, log="log" in tags)
    if isinstance(space, RangeSweep):
        if unclear := one_end(str(one.input_line)):
            raise UserError(unclear)
        return _range(key, space, log="log" in tags)
    return Axis(key, "choice", choices=tuple(one.sweep_string_iterator()))


def _range(key: str, space: RangeSweep, *, log: bool) -> Any:
    from ebm_cli.commands.search import Axis

    numbers = space.range()
    if not isinstance(numbers, range):
        raise UserError(f"{key}: range is of whole numbers; for others write interval({space.start},{space.stop})")
    if len(numbers) < 2 or space.shuffle or numbers.step < 1:
        raise UserError(f"{key}: range({space.start},{space.stop},{space.step}) holds nothing to search")
    return Axis(key, "int", numbers[0], numbers[-1], numbers.step, log)
