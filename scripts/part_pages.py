"""Hook of mkdocs: a page for each part, made from its YAML, its class and what it fits with."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from ebm_cli.cli import listing
from ebm_cli.cli.listing import Choice

ROOT = Path(__file__).parents[1]
_CELL = re.compile(r"^\| (\w+) \| `(\w+)` \|", re.MULTILINE)
_PICTURES = {
    "samples.png": ("model rbm", "experiment rbm_mnist", "evaluation samples", "dataset mnist"),
    "mixing.png": (
        "evaluation mixing", "sampler gwg", "sampler dmala", "sampler block_gibbs", "experiment gwg_rbm_mixing",
    ),
    "contacts.png": ("evaluation contacts", "model potts", "dataset protein", "experiment potts_protein"),
    "digits.png": ("model resnet_binary", "experiment gwg_digits", "dataset digits"),
    "paradigms/maps.png": (
        "evaluation density_2d", "dataset points_2d", "model mlp", "experiment paradigms_2d", "objective nce",
        "objective score_matching", "objective flow_contrastive", "objective adversarial_contrastive", "objective pcd",
        "objective conditional_nce", "objective energy_discrepancy", "objective variational", "objective short_run",
        "objective negative_sampling", "objective cd", "noise flow", "noise fitted",
    ),
    "replicated_softmax/topics.png": (
        "evaluation topics", "model replicated_softmax", "dataset bag_of_words", "sampler length_exchange",
        "experiment rsm_20news",
    ),
    "replicated_softmax/retrieval.png": ("evaluation retrieval",),
    "cd_versus_likelihood/ml_replay_plain-noise.png": (
        "evaluation long_run", "objective ml_replay", "model convnet", "experiment chains_ml_replay_digits",
        "sampler langevin", "chains replay",
    ),
    "cd_versus_likelihood/true_cd_plain-data.png": (
        "objective cd_replay", "chains replay_data", "experiment chains_true_cd_digits",
    ),
    "cd_versus_likelihood/elastic_deformed-data.png": ("sampler augmented", "experiment chains_elastic_digits"),
}  # fmt: skip
_PICTURE_OF = {name: picture for picture, names in _PICTURES.items() for name in names}


def on_config(config: Any) -> Any:
    """Pages of parts below "Parts" in the navigation."""
    parts = next(entry["Parts"] for entry in config.nav if isinstance(entry, dict) and "Parts" in entry)
    parts += [{group: [_place(part) for part in listing.choices_of(group)]} for group in listing.GROUPS]
    return config


def on_files(files: Any, config: Any) -> Any:
    """The pages themselves, which lie in no folder."""
    for group in listing.GROUPS:
        for part in listing.choices_of(group):
            files.append(File.generated(config, _place(part), content="\n".join(_page(part)) + "\n"))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Names in the table of parts become links."""
    if page.file.src_uri != "parts.md":
        return markdown
    return _CELL.sub(lambda found: f"| {found[1]} | [`{found[2]}`](parts/{found[1]}/{found[2]}.md) |", markdown)


def _place(part: Choice) -> str:
    return f"parts/{part.group}/{part.choice}.md"


def _page(part: Choice) -> Iterator[str]:
    yield f"# {part.choice}\n"
    yield f"{_plain(part.text)}.\n"
    value = f"[{part.choice}]" if part.group == "evaluation" else part.choice
    yield f"`{part.group}={value}`, one choice of the group *{part.group}*: {listing.GROUPS[part.group]}.\n"
    yield from _explained(part)
    if part.group == "experiment":
        yield f"## The recipe\n\n```yaml\n{_yaml(part).read_text().strip()}\n```\n"
    elif part.keys:
        yield from _keys(part)
    if part.brings:
        brought = ", ".join(f"`{choice}`" for choice in part.brings)
        yield f"## What it brings\n\nUnless the command line says otherwise: {brought}.\n"
    yield from _fits(part)
    picture = _PICTURE_OF.get(f"{part.group} {part.choice}")
    if picture:
        yield f"## A picture\n\n![{part.text}](../../{picture})\n"
    code = "".join(f", code in `{path.relative_to(ROOT)}`" for path, _ in _classes(part)[:1])
    yield f"## Where it is\n\nKeys and defaults in `conf/{part.group}/{part.choice}.yaml`{code}.\n"


def _explained(part: Choice) -> Iterator[str]:
    """The docstrings of the class and, of a model, of what it builds."""
    texts = [ast.get_docstring(node) for _, node in _classes(part)]
    if any(texts):
        yield "## What it does\n"
        yield from (f"{_paragraphs(text)}\n" for text in texts if text)


def _keys(part: Choice) -> Iterator[str]:
    yield "## Keys\n\n| key | default | meaning |\n|---|---|---|"
    for key in part.keys:
        yield f"| `{listing.prefix(part)}.{key.name}` | `{key.default}` | {_plain(key.note).replace('|', '&#124;')} |"
    yield ""


def _fits(part: Choice) -> Iterator[str]:
    """What it goes with, as far as that is declared; models and samplers link each other."""
    if part.group == "sampler":
        models = listing.models_of(part)
        yield f"## What it fits\n\nModels: {_links('model', models) if models else 'that of a run that is there'}.\n"
    elif part.group in ("model", "objective") and listing.fits(part):
        yield f"## What it fits\n\nSpaces: {listing.fits(part)}.\n"
    if part.group == "model":
        fitting = [name for name in _choices("sampler") if part.choice in _models_of(name)]
        yield f"Samplers: {_links('sampler', fitting)}.\n"


@cache
def _models_of(sampler: str) -> frozenset[str]:
    return frozenset(listing.models_of(_choices("sampler")[sampler]))


@cache
def _choices(group: str) -> dict[str, Choice]:
    return {part.choice: part for part in listing.choices_of(group)}


def _links(group: str, names: list[str]) -> str:
    return ", ".join(f"[{name}](../{group}/{name}.md)" for name in names) or "none"


def _yaml(part: Choice) -> Path:
    return ROOT / "conf" / part.group / f"{part.choice}.yaml"


@cache
def _nodes() -> dict[str, tuple[Path, ast.ClassDef]]:
    """Every class of the package by its name."""
    trees = ((path, ast.parse(path.read_text())) for path in listing.files())
    return {node.name: (path, node) for path, tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def _classes(part: Choice) -> list[tuple[Path, ast.ClassDef]]:
    """The registered class and, of a model, the one that it builds, which has the energy."""
    own = next((n for n, s in listing.sources().items() if s.registered == (part.group, part.component)), None)
    if own is None:
        return []
    built = listing.sources()[own].declares.get("builds", ())
    return [_nodes()[name] for name in (own, *built) if name in _nodes()]


def _paragraphs(text: str) -> str:
    """A docstring as markdown: paragraphs as they are, and indented blocks as text that is set line by line."""
    blocks = re.split(r"\n\s*\n", text)
    return "\n\n".join(block if block.startswith("    ") else _plain(" ".join(block.split())) for block in blocks)


def _plain(text: str) -> str:
    """Text in which nothing but names between backticks means anything to markdown."""
    pieces = text.split("`")
    pieces[::2] = [re.sub(r"([\\*_\[\]{}#])", r"\\\1", piece).replace("<", "&lt;") for piece in pieces[::2]]
    return "`".join(pieces)
