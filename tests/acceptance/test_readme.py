"""README and documentation tell the truth: what they name exists, and every block is of a known kind."""

import re
from pathlib import Path

import pytest

from registry.settings import Settings
from tests.acceptance.conftest import ROOT
from tests.acceptance.documentation import PAGES, README, languages, named

#: Run by tests: console and python. Looked at only: sh (docker, clusters, installation) and json (data).
LANGUAGES = {"console", "python", "sh", "json"}

ARCHITECTURE = ROOT / "docs" / "explanation" / "architecture.md"


def test_the_readme_is_read_in_one_go() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_has_no_blocks_but_those_that_are_run_or_cannot_be(page: Path) -> None:
    assert languages(page) <= LANGUAGES


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert len(local) > 10
    assert not [link for link in local if not (ROOT / link).exists()]


def test_the_tree_names_what_is_there() -> None:
    tree = ARCHITECTURE.read_text(encoding="utf-8").partition("## The tree")[2]
    shown = [line.split()[0] for line in tree.splitlines() if line.startswith("    ")]
    assert shown
    assert not [name for name in shown if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=named)
def test_every_make_target_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`make (\w+)[^`]*`", page.read_text(encoding="utf-8"))) <= targets


def test_the_defaults_lie_in_the_home_folder(tmp_path: Path) -> None:
    settings = Settings.from_env({"ZOO_HOME": str(tmp_path)})
    assert settings.database_url == f"sqlite:///{tmp_path / 'zoo.db'}"
    assert settings.artifact_root == str(tmp_path / "artifacts")
    assert settings.broker_url is None
