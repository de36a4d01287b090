"""Every command of the README and of the documentation runs, in the order of its page, and succeeds."""

import shlex
import shutil
from pathlib import Path

import pytest

from tests.acceptance.conftest import ROOT, Zoo, zoo_in
from tests.acceptance.documentation import PAGES, README, commands, named

WITH_COMMANDS = [page for page in PAGES if page != README and commands(page)]
#: Elsewhere no job looks for MLflow, which costs each three seconds.
ABOUT_MLFLOW = ROOT / "docs" / "howto" / "mlflow.md"


@pytest.fixture(scope="module")
def reader(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkout and the home of somebody who followed the README."""
    folder = tmp_path_factory.mktemp("reader")
    checkout = folder / "checkout"
    shutil.copytree(workplace, checkout)
    (checkout / "examples").mkdir()
    for file in workplace.glob("*.*.jsonl"):
        shutil.copy(file, checkout / "examples")
    # What the pages call a corpus: examples of all domains, which do not say so.
    corpus = "".join(file.read_text(encoding="utf-8") for file in sorted(workplace.glob("*.train.jsonl")))
    (checkout / "corpus.jsonl").write_text(corpus, encoding="utf-8")
    follow(README, zoo_in(checkout, home=folder / "home"))
    return folder


def follow(page: Path, zoo: Zoo, **environment: str) -> None:
    """Run a page's commands in order."""
    for command in commands(page):
        program, *arguments = shlex.split(command)
        assert program == "zoo"
        done = zoo(*arguments, **environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_readmes_tour_makes_a_composition_in_ten_commands(reader: Path) -> None:
    assert len(commands(README)) == 10
    zoo = zoo_in(reader / "checkout", home=reader / "home")
    assert zoo("compositions", "show", "science@1").returncode == 0


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=named)
def test_every_command_of_a_page_runs_in_order_after_those_of_the_readme(
    page: Path, reader: Path, tmp_path: Path
) -> None:
    shutil.copytree(reader, tmp_path, dirs_exist_ok=True)
    tracking = {"MLFLOW_TRACKING_URI": ""} if page == ABOUT_MLFLOW else {}
    follow(page, zoo_in(tmp_path / "checkout", home=tmp_path / "home"), **tracking)
