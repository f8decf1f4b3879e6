"""The pages of parts that `scripts/docs` makes; that the whole site builds without a warning is a stage of CI."""

import importlib.util
import subprocess
from functools import cache

import pytest
from helpers.docs import ROOT

from ebm_cli.cli import listing

_SPEC = importlib.util.spec_from_file_location("part_pages", ROOT / "scripts" / "part_pages.py")
assert _SPEC is not None
assert _SPEC.loader is not None
part_pages = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(part_pages)


@cache
def pages(group: str) -> dict[str, tuple[listing.Choice, str]]:
    """Every part of a group by its name, and its page."""
    return {part.choice: (part, "\n".join(part_pages._page(part))) for part in listing.choices_of(group)}


@pytest.mark.quick("experiment", "evaluation", "objective", "optimizer", "tracker", "chains", "device", "noise")
@pytest.mark.parametrize("group", listing.GROUPS)
def test_a_page_says_what_a_part_is_its_keys_and_where_it_lies(group):
    for part, text in pages(group).values():
        assert text.startswith(f"# {part.choice}\n")
        assert f"conf/{group}/{part.choice}.yaml" in text
        keys = [] if group == "experiment" else part.keys
        assert all(f".{key.name}` | `{key.default}`" in text for key in keys), part.choice


@pytest.mark.parametrize("group", [group for group in listing.GROUPS if group != "experiment"])
def test_every_part_but_a_recipe_is_explained(group):
    assert all("## What it does" in text for _, text in pages(group).values())


def test_a_model_has_its_energy_and_the_samplers_that_fit():
    _, text = pages("model")["rbm"]
    assert "E(v, h) = -b.v - c.h - v.W h" in text
    assert "[block_gibbs](../sampler/block_gibbs.md)" in text
    assert "[mala]" not in text


def test_nothing_but_names_between_backticks_means_anything_to_markdown():
    assert part_pages._plain("a_i * b_i < [x] `c_i * d`") == r"a\_i \* b\_i &lt; \[x\] `c_i * d`"


def test_the_table_of_parts_links_the_pages():
    class Page:
        class file:
            src_uri = "parts.md"

    assert part_pages.on_page_markdown("| sampler | `mala` | x |", Page, None, None) == (
        "| sampler | [`mala`](parts/sampler/mala.md) | x |"
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("link", "code"), [("other.md", 0), ("other.md#title", 0), ("none.md", 1), ("other.md#none", 1)]
)
def test_a_broken_link_is_an_error(link, code, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"[x]({link})")
    (tmp_path / "docs" / "other.md").write_text("# Title")
    own = f"INHERIT: {ROOT}/mkdocs.yml\ndocs_dir: docs\nsite_dir: site\nhooks: []\nnav: [index.md, other.md]\n"
    (tmp_path / "mkdocs.yml").write_text(own)
    made = subprocess.run([ROOT / "scripts" / "docs", "-f", tmp_path / "mkdocs.yml"], capture_output=True, check=False)
    assert made.returncode == code, made.stderr
