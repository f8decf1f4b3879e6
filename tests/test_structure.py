"""Rules about the code itself: who imports whom, what is never called, and that files, names and packages match."""

import ast
import dataclasses
import graphlib
import subprocess
import sys
import tomllib
from functools import cache

import pytest
from helpers.components import INTERPOLATED, ROOT, shipped
from helpers.house import LAYERS, PACKAGE, house

from ebm_cli import registry

SOURCES = sorted(PACKAGE.rglob("*.py"))
GROUPS = registry.GROUPS

RANK = {name: rank for rank, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()}


def layer(path) -> str:
    """The file or folder directly below the package."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(tree, package="ebm_cli"):
    """(line number, name below `package`) of every import of it; "" for the package itself."""
    for node in nodes(tree, (ast.Import, ast.ImportFrom)):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module == package:
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif module.startswith(f"{package}."):
                yield node.lineno, module.split(".")[1]
        else:
            for alias in node.names:
                if alias.name.split(".")[0] == package:
                    yield node.lineno, [*alias.name.split("."), ""][1]


def calls(tree):
    """(line number, dotted name, node) of every call whose function has a name."""
    for node in nodes(tree, (ast.Call,)):
        if isinstance(node.func, ast.Name | ast.Attribute):
            yield node.lineno, ast.unparse(node.func), node


@cache
def nodes(tree, kinds):
    """Those of these kinds, which many tests ask for."""
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


@cache
def parsed(paths=tuple(SOURCES)):
    return [(path, ast.parse(path.read_text())) for path in paths]


def test_every_file_has_its_place():
    found = {layer(path) for path in SOURCES} - {"__init__"}
    assert found == set(RANK), "name new files in LAYERS, and take away what is gone"


def test_the_house_of_the_manual_is_this_one():
    """To mend it: `.venv/bin/python tests/helpers/house.py`."""
    assert house() in (ROOT / "docs" / "design.md").read_text()


def test_few_modules_lie_beside_the_rooms():
    """Those who look for something read a dozen names, not fifty."""
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert len(loose) <= 14, sorted(loose)


def test_imports_point_one_way():
    wrong = []
    for path, tree in parsed():
        me = layer(path)
        if me == "__init__":
            continue
        for line, other in imported(tree):
            allowed = other == me or other not in RANK or RANK[other] < RANK[me]
            known = other in RANK or other == "__version__"
            if not (allowed and known):
                wrong.append(f"{path.name}:{line}: {me} imports {other or 'the package'}")
    assert not wrong


def test_the_package_itself_imports_nothing():
    """So that `ebm --help` need not wait, and no import can come round in a circle through it."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    assert not [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]


def test_only_the_command_line_knows_hydra():
    users = {layer(path) for path, tree in parsed() for package in ("hydra", "omegaconf") if [*imported(tree, package)]}
    assert users == {"cli"}


def _module(path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _wanted(tree, modules):
    """The modules that a file imports as it is read, not within its functions."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ebm_cli"):
            yield from ({f"{node.module}.{alias.name}" for alias in node.names} | {node.module}) & modules


def test_no_imports_go_in_a_circle():
    """Within a folder too: else it would matter which file is imported first."""
    modules = {_module(path) for path, _ in parsed()}
    graph = {_module(path): set(_wanted(tree, modules)) for path, tree in parsed()}
    order = graphlib.TopologicalSorter(graph).static_order()
    assert len([*order]) == len(modules)  # raises CycleError with the modules of a circle


def test_relative_imports_are_not_used():
    assert not [
        path for path, tree in parsed() for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level
    ]


DRAWS = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli", "multinomial",
    "poisson", "normal", "bernoulli_", "normal_", "uniform_", "random_", "exponential_", "cauchy_", "geometric_",
    "log_normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_",
    "orthogonal_",
}  # fmt: skip
GLOBAL_GENERATORS = ("random.", "np.random.", "numpy.random.", "torch.manual_seed", "torch.seed", "torch.random.",
                     "torch.cuda.manual_seed", "manual_seed_all")  # fmt: skip


def test_no_global_generator_is_used():
    """Every draw names its key, or in rng.py its generator; seeding or reading the global one is not allowed."""
    wrong = []
    for path, tree in parsed():
        for line, name, node in calls(tree):
            owner, _, function = name.rpartition(".")
            ours = owner in ("rng", "key", "self") or owner.startswith("_philox") or path.name == "rng.py"
            drawn = function in DRAWS and not ours
            if drawn and not any(keyword.arg == "generator" for keyword in node.keywords):
                wrong.append(f"{path.name}:{line}: {name}")
            if name.startswith(GLOBAL_GENERATORS) and path.name != "rng.py":
                wrong.append(f"{path.name}:{line}: {name}")
            if path.name == "rng.py" and owner == "torch" and function in DRAWS:
                assert any(keyword.arg == "generator" for keyword in node.keywords), f"rng.py:{line}: {name}"
        wrong += [f"{path.name}:{line}: import random" for line, _ in imported(tree, "random")]
    assert not wrong


FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "os.system", "yaml.load",
                   "yaml.unsafe_load", "yaml.full_load", "np.load", "joblib.load",
                   "hydra.utils.instantiate"}  # fmt: skip
FORBIDDEN_MODULES = ("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")


def test_nothing_read_can_run_code():
    """No pickle in any form, no eval; `np.load` only where pickles are refused."""
    wrong = []
    for path, tree in parsed():
        for line, name, node in calls(tree):
            refuses = any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in node.keywords)
            if name in FORBIDDEN_CALLS and not (name == "np.load" and refuses):
                wrong.append(f"{path.name}:{line}: {name}")
        for module in FORBIDDEN_MODULES:
            wrong += [f"{path.name}:{line}: import {module}" for line, _ in imported(tree, module)]
    assert not wrong


@pytest.mark.parametrize("modules", ["ebm_cli.cli.main, ebm_cli.cli.listing", "ebm_cli.__main__"])
def test_help_and_listing_do_not_wait_for_torch(modules):
    """A fresh interpreter: what these import must be quick."""
    code = f"import sys, {modules}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "hydra", "omegaconf", "numpy", "wandb", "pydantic", "scipy"} & set(done.stdout.split())


SLOW = ("sklearn", "scipy", "matplotlib", "arviz_stats", "torchvision", "wandb", "optuna", "bokeh", "jinja2")
"""Each takes some tenths of a second to import: a command that has no use for it does not wait for it."""


def test_slow_libraries_are_imported_where_they_are_used():
    wrong = [
        f"{path.name}:{node.lineno}"
        for path, tree in parsed()
        if layer(path) != "sklearn"  # whoever imports it has a use for scikit-learn
        for node in tree.body
        for name in _names(node)
        if name.partition(".")[0] in SLOW
    ]
    assert not wrong


def _names(node):
    """Modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


CONCRETE = {
    "commands/between.py": "codes of rows are those of latent models",
    "commands/documents.py": "given words and lengths are keys of replicated softmax alone",
    "commands/sample.py": "given words and lengths are keys of replicated softmax alone",
    "commands/verdict.py": "independent units need no comparison with independent units",
    "evaluation/annealing.py": "paths for joint energies of real hidden or visible units, and bases that are products",
    "evaluation/baseline.py": "families of closed form have no independent units beside them",
    "evaluation/base.py": "families of closed form have a support that chains do not come to",
    "evaluation/dbm_bound.py": "the bound is that of deep Boltzmann machines",
    "evaluation/dbn_bound.py": "the bound is that of deep belief networks",
    "evaluation/density_2d.py": "families on curves have no density over the plane",
    "evaluation/documents.py": "documents have topics in replicated softmax alone",
    "evaluation/exact.py": "a bound of replicated softmax",
    "evaluation/latent_bound.py": "the bound is that of an encoder of latent models",
    "evaluation/latent_chains.py": "chains of codes are those of latent models",
    "evaluation/perplexity.py": "annealing in the length is that of replicated softmax",
    "evaluation/retrieval.py": "documents have topics in replicated softmax alone",
    "evaluation/topics.py": "documents have topics in replicated softmax alone",
    "evaluation/words.py": "word vectors are those of the log-bilinear model",
    "log_z/transfer.py": "transfer matrices are those of lattices of spins",
    "objective/adversary.py": "which laws an adversary can be built from",
    "objective/greedy.py": "layer by layer is for deep belief networks",
    "objective/latent_pcd.py": "the bound is that of an encoder of latent models",
    "objective/mean_field_pcd.py": "mean field is that of deep Boltzmann machines",
    "objective/likelihood.py": "the centred gradient has offsets in RBMs alone",
}
"""Files outside model/ that may ask for a model by its class, and why it is no capability."""
CAPABILITIES = ("base", "levels")  # files of model/ whose classes are such


def _classes(folder):
    return {node.name for path, tree in parsed() if layer(path) == folder and path.stem not in CAPABILITIES
            for node in tree.body if isinstance(node, ast.ClassDef)}  # fmt: skip


def test_models_are_asked_for_by_what_they_can_do():
    concrete = _classes("model")
    found = set()
    for path, tree in parsed():
        for _, name, node in calls(tree):
            if name in ("isinstance", "issubclass") and layer(path) != "model":
                asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
                found |= {str(path.relative_to(PACKAGE))} if asked & concrete else set()
    assert found == set(CONCRETE)


# Configuration


@pytest.mark.parametrize("group", GROUPS)
def test_every_component_has_its_file_and_every_file_its_component(group):
    assert {config.get("name") for config in shipped(group).values()} == set(registry.components(group))


FILES = [(group, name) for group in GROUPS for name in shipped(group)]


@pytest.mark.parametrize(("group", "name"), FILES)
def test_a_file_holds_exactly_the_fields_of_its_component(group, name):
    """Defaults live in the files alone: none in the code, none missing in a file, and each file builds."""
    config = shipped(group)[name]
    fields = dataclasses.fields(registry.components(group)[config["name"]])
    assert set(config) - {"name"} == {field.name for field in fields}
    assert all(f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING for f in fields)
    assert dataclasses.is_dataclass(registry.build(group, config))


@pytest.mark.parametrize(("group", "name"), FILES)
def test_a_file_says_what_it_is(group, name):
    """Its first comment is the sentence that `ebm list` shows."""
    lines = (ROOT / "conf" / group / f"{name}.yaml").read_text().splitlines()
    comments = [line for line in lines if line.startswith("# ") and "@package" not in line]
    assert comments
    assert len(comments[0]) > 5


@pytest.mark.parametrize("group", GROUPS)
def test_components_are_frozen_and_documented(group):
    for name, cls in registry.components(group).items():
        assert cls.__dataclass_params__.frozen, name
        assert (cls.__doc__ or "").strip(), name
        assert not cls.__doc__.startswith(f"{cls.__name__}("), f"{name}: that is the docstring dataclasses write"


def test_interpolations_used_here_are_those_of_the_files():
    text = "".join(path.read_text() for group in GROUPS for path in (ROOT / "conf" / group).glob("*.yaml"))
    assert all(key in text for key in INTERPOLATED)


def test_every_folder_of_conf_is_a_group():
    folders = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {*GROUPS, "experiment", "hydra"}


# Packaging


def test_packages_are_listed():
    """Installed from a wheel, a folder that is not listed would be missing."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {".".join(("ebm_cli", *path.parent.relative_to(PACKAGE).parts)) for path in SOURCES}
    assert set(settings["packages"]) == folders | {"ebm_cli.conf"}
    assert settings["package-dir"] == {"ebm_cli.conf": "conf"}
    assert (ROOT / "conf" / "__init__.py").exists()


def test_every_folder_is_a_package_with_a_sentence():
    for folder in {path.parent for path in SOURCES}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


def test_no_test_file_is_too_long_to_be_read_at_once():
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "tests").rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_quick_names_cases_that_there_are(no_such_case, request):
    if not any("::" in word for word in request.config.args):  # else not all cases are collected
        assert no_such_case == []
