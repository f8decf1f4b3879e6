"""What the README promises: its table of parts is the truth, and its commands are accepted and run."""

import re
import shlex
import sys
import textwrap
from pathlib import Path

import pytest

from ebm_cli import registry
from ebm_cli.cli import listing
from ebm_cli.cli.main import COMMANDS, dispatch
from ebm_cli.yardstick import classifier

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)
LINES = [line for language, block in BLOCKS if not language for line in block.splitlines() if line.startswith("ebm ")]
AFTER = re.compile("resume|plugins")  # lines that need a run or a module; they have tests of their own
SMALL = ["steps=20", "evaluation=[samples]", "tracker=none", "save_every=10"]


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)[1:]


def test_the_table_of_parts_is_that_of_ebm_list():
    """To mend it: replace the lines between the two comments by `ebm list --markdown`."""
    between = TEXT.split("<!-- parts: ebm list --markdown -->")[1].split("<!-- end of parts -->")[0]
    assert between.strip() == listing.markdown().strip()


def test_every_file_the_readme_shows_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("ebm train") and not AFTER.search(line)])
def test_training_commands_compose(line, capsys):
    arguments = [word for word in words(line) if word != "-m"]
    single = [word for word in arguments if "," not in word]
    assert dispatch([*single, "--cfg", "job"]) == 0
    assert "batch_size:" in capsys.readouterr().out


def test_there_are_commands_of_every_kind():
    assert {words(line)[0] for line in LINES} == set(COMMANDS)


@pytest.mark.long
def test_the_commands_after_training_run(tmp_path, monkeypatch, capfd):
    """Resume, sample and evaluate lines, on small runs in place of RUN, IMAGES and TOPICS."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(classifier, "_UPDATES", 20)
    assert dispatch(["train", "hydra.run.dir=outputs/RUN", "model.hidden=8", *SMALL]) == 0
    images = ["model=convnet", "model.widths=[4]", "objective=ml_replay", "chains.size=20", "chains.steps=2"]
    assert dispatch(["train", "hydra.run.dir=outputs/IMAGES", *images, *SMALL]) == 0
    (tmp_path / "texts").mkdir()
    for i in range(20):
        (tmp_path / f"texts/{i}.txt").write_text(f"server socket client connection request word{i % 7} other{i % 3}")
    counted = ["dataset=bag_of_words", "dataset.path=texts", "dataset.max_documents=1.0"]
    topics = ["model=replicated_softmax", "model.hidden=2", *counted, *SMALL[:1], "evaluation=[]", "tracker=none"]
    assert dispatch(["train", "hydra.run.dir=outputs/TOPICS", *topics]) == 0
    short = {"n=100": "n=4", "n=64": "n=4", "steps=1000": "steps=2", "steps=500": "steps=2", "steps=40000": "steps=30"}
    extra = ["evaluation.long_run.steps=4", "evaluation.long_run.chains=4", "evaluation.resample.steps=4",
             "evaluation.ais.temperatures=5", "evaluation.chains.steps=8", "evaluation.chains.warmup=2",
             "evaluation.mixing.steps=20", "evaluation.mixing.reference_steps=5", "evaluation.topics.words=2",
             "evaluation.topics.lda_topics=0"]  # fmt: skip
    for line in LINES:
        arguments = [short.get(word, word) for word in words(line)]
        if any(run in line for run in ("RUN", "IMAGES", "TOPICS")):
            typed = " ".join(arguments) if arguments[0] == "evaluate" else ""
            chosen = [word for word in extra if word.split(".")[1] in typed]
            assert dispatch(arguments + chosen) == 0, line
    assert list(tmp_path.glob("outputs/RUN/samples/*/grid.png"))
    assert list(tmp_path.glob("outputs/RUN/evaluations/*/results.json"))
    capfd.readouterr()


def test_the_part_of_ones_own_works(tmp_path, monkeypatch, capfd):
    """The Python and YAML blocks of "Adding a part", as printed."""
    code = next(block for language, block in BLOCKS if language == "python")
    yaml = next(block for language, block in BLOCKS if language == "yaml")
    (tmp_path / "my_parts.py").write_text(textwrap.dedent(code))
    (tmp_path / "conf" / "sampler").mkdir(parents=True)
    (tmp_path / "conf" / "sampler" / "forget.yaml").write_text(yaml)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert dispatch(["train", "sampler=forget", "plugins=[my_parts]", *SMALL]) == 0
    assert dispatch(["list", "sampler", "forget"]) == 0
    assert "probability of a 1" in capfd.readouterr().out
