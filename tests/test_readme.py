"""What README and docs/ promise: tables of parts, links, commands, and the sentences that are quoted."""

import ast
import email
import re
import sys
from pathlib import Path

import pytest
from helpers.docs import PAGES, ROOT, commands, quick, shrunk, told_first, write_data, write_files
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ebm_cli.cli import listing
from ebm_cli.cli.main import COMMANDS, dispatch
from ebm_cli.dataset import stdlib_docs, text
from ebm_cli.errors import install
from ebm_cli.yardstick import classifier

_TEXT = re.compile(r"```.*?```", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_TYPED = [(page, words) for page in PAGES for words in commands(page)]


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_bytes()) <= 6 * 1024


def test_the_table_of_parts_is_that_of_ebm_list():
    """To mend it: replace the lines between the two comments by `ebm list --markdown`."""
    text = PAGES["parts"].read_text()
    between = text.split("<!-- parts: ebm list --markdown -->")[1].split("<!-- end of parts -->")[0]
    assert between.strip() == listing.markdown().strip()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    path = PAGES[page]
    for target in _LINK.findall(_TEXT.sub("", path.read_text())):
        assert not target.startswith("http"), target
        name, _, heading = target.partition("#")
        there = path.parent / name if name else path
        assert there.exists(), target
        assert not heading or heading in _anchors(there), target


def test_every_chapter_is_in_the_index():
    linked = {Path(target).stem for target in _LINK.findall(PAGES["index"].read_text())}
    assert linked == set(PAGES) - {"README", "index"}


def test_extras_are_installed_as_the_program_says():
    page = PAGES["running"].read_text().partition("## Extras")[2]
    for extra in ("mlflow,slurm", "trackio"):
        assert install(extra).removeprefix("in the folder of the clone: ") in page
    everywhere = [*PAGES.values(), *(ROOT / "conf").rglob("*.yaml"), *(ROOT / "ebm_cli").rglob("*.py")]
    assert not [path for path in everywhere if "ebm-cli[" in path.read_text()]


def _anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", _TEXT.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def test_there_are_commands_of_every_kind():
    assert {words[0] for _, words in _TYPED} == set(COMMANDS)
    assert len(_TYPED) > 100


@pytest.mark.parametrize(("page", "words"), _TYPED)
def test_every_choice_and_key_of_a_command_exists(page, words, known):
    """All are composed and run by the long test below; this one reads the configuration files alone."""
    for word in words[1:]:
        key, _, value = word.lstrip("+~").partition("=")
        group = key.partition("@")[0]
        if group in listing.GROUPS and value:
            assert {*filter(None, value.strip("[]").split(","))} <= known[group], word
        elif "=" in word and "." in key and not key.startswith("hydra."):
            assert key in known["keys"], word


@pytest.fixture(scope="module")
def known():
    """Choices of every group, with those of the page on extending, and all dotted keys."""
    own = {
        "sampler": {"barker"},
        "model": {"quartic"},
        "evaluation": {"moments"},
        "dataset": {"ring"},
        "experiment": {"small"},
    }
    found = {group: {*listing.choices(group), *own.get(group, ())} for group in listing.GROUPS}
    return found | {"keys": {*listing.keys_of("train"), *(f"evaluation.moments.{key}" for key in ("count", "steps"))}}


@pytest.mark.long
def test_every_sentence_of_the_catalogue_is_one_that_the_program_says():
    """`...` stands for what differs from run to run; the pieces between come one after the other in one sentence."""
    said = _sentences()
    rows = PAGES["numbers"].read_text().split("## A catalogue of failures")[1]
    quoted = re.findall(r"^\| \"(.*?)\" \|", rows, re.MULTILINE)
    assert len(quoted) > 30
    patterns = {text: ".*?".join(re.escape(piece) for piece in text.split("...")) for text in quoted}
    lost = [text for text, pattern in patterns.items() if not re.search(pattern, said)]
    assert not lost, "the program says it in other words; mend docs/numbers.md"


def _sentences() -> str:
    """Every string of the package, a line each, with ... for the values in it."""
    found = []
    for path in (ROOT / "ebm_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[a-z.\d]+", "...", node.value))
    return "\n".join(found)


@pytest.mark.parametrize("words", [words for page, words in _TYPED if page == "README" and words[0] == "train"])
def test_training_commands_of_the_readme_compose(words, capsys):
    single = [word.split(",")[0] for word in words if word != "-m"]
    assert dispatch([*single, "--cfg", "job"]) == 0
    assert "batch_size:" in capsys.readouterr().out


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A working directory with a few rows of all data and, trained a little, the runs that commands name."""
    (tmp_path / "data").mkdir()
    write_data(tmp_path / "data")
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EBM_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(classifier, "_UPDATES", 20)
    shrunk(monkeypatch)
    drawn_once(monkeypatch)
    code = "".join(path.read_text() for path in sorted(Path(email.__file__).parent.glob("*.py")))
    few = [(f"part{i}", code[i : i + 5000]) for i in range(0, len(code), 5000)]
    for module in (stdlib_docs, text):
        monkeypatch.setattr(module, "documents", lambda: few)
    return tmp_path


_DRAWN = set()


def drawn_once(monkeypatch) -> None:
    """Pixels of the first figure of each place in the code; the next ones are made too, and left white."""
    draw = FigureCanvasAgg.draw

    def drawn(canvas):
        place = sys._getframe(3).f_code  # the one with the axes, which context managers lie between
        if place not in _DRAWN:
            draw(canvas)
            _DRAWN.add(place)
        else:
            canvas.get_renderer().clear()

    monkeypatch.setattr(FigureCanvasAgg, "draw", drawn)


RUNS = {
    "RUN": "model.hidden=8 evaluation=[samples,pseudo_likelihood] "
    "checkpoint.monitor=pseudo_likelihood/valid/log_pseudo_likelihood checkpoint.log_spaced=4",
    "IMAGES": "model=convnet model.widths=[4] objective=ml_replay chains.size=20 chains.steps=2 evaluation=[]",
    "CODES": "model=latent_ebm model.widths=[4] dataset.binarize=none evaluation=[]",
    "TOPICS": "model=replicated_softmax model.hidden=2 dataset=bag_of_words dataset.path=FOLDER evaluation=[]",
    "CLASSES": "model=class_rbm model.hidden=4 evaluation=[]",
    "LEVELED": "model=leveled model.network.widths=[4] model.process.levels=4 dataset=points_2d evaluation=[]",
    "PLANE": "model=mlp model.widths=[4] dataset=points_2d evaluation=[]",
}


def run(words: list[str]) -> None:
    assert dispatch(quick(words)) == 0, " ".join(words)


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page) and page != "extending"])
def test_every_command_runs_on_small_data(page, workshop, capfd):
    """One after the other, so that a command may go on where one above it ended; the same one once."""
    for name in [name for name in RUNS if any(f"outputs/{name}" in word for words in commands(page) for word in words)]:
        assert dispatch([*quick(["train", f"hydra.run.dir=outputs/{name}", *RUNS[name].split()]), "eval_every=4"]) == 0
    for words in told_first(page):
        run([word.replace("SIGMA", "0.2") for word in words])
    capfd.readouterr()
