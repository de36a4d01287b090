"""What the README shows is true: its commands run, its tree is the disk's, its settings are the code's."""

import re
import shlex
from pathlib import Path

from registry.settings import Settings
from tests.acceptance.conftest import ROOT, Zoo

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
    return [
        line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")
    ]


def test_every_command_of_the_tour_runs_in_order(zoo: Zoo) -> None:
    shown = commands()
    assert len(shown) > 15
    for command in shown:
        program, *arguments = shlex.split(command)
        assert program == "zoo"
        done = zoo(*arguments)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_tree_names_what_is_there() -> None:
    tree = README.partition("## The tree")[2].partition("## ")[0]
    named = [line.split()[0] for line in tree.splitlines() if line.startswith("    ")]
    assert named
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"`?make (\w+)`?", README))
    assert named
    assert named <= targets


def test_every_setting_the_code_reads_is_in_the_table() -> None:
    documented = set(re.findall(r"^\| `(\w+)`", README, flags=re.MULTILINE))
    sources = [path for folder in ("registry", "workers") for path in (ROOT / folder).rglob("*.py")]
    read = {
        name
        for path in (*sources, ROOT / "zoo.py")
        for name in re.findall(r'"(ZOO_[A-Z_]+[A-Z])"', path.read_text())
    }
    assert read
    assert read <= documented


def test_the_defaults_lie_in_the_home_folder(tmp_path: Path) -> None:
    settings = Settings.from_env({"ZOO_HOME": str(tmp_path)})
    assert settings.database_url == f"sqlite:///{tmp_path / 'zoo.db'}"
    assert settings.artifact_root == str(tmp_path / "artifacts")
    assert settings.broker_url is None
