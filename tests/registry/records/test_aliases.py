"""Aliases move by compare-and-swap, and every move is kept with who, when, why and from where."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.entities import AdapterVersion, Alias
from registry.errors import AdapterNotFound, AliasMoved, AliasNotFound, InvalidName
from registry.service import Registry
from tests.registry.folders import write_adapter, write_dataset


@pytest.fixture(autouse=True)
def two_versions(registry: Registry, bio: AdapterVersion, tmp_path: Path) -> None:
    registry.adapters.register(write_adapter(tmp_path / "second", seed=1), name="bio")


def test_an_alias_is_made_moved_and_taken_away_and_the_history_kept(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "marie")
    registry.adapters.set_alias("bio", "champion", 1, expected=0, reason="first")
    registry.adapters.set_alias("bio", "champion", 2, expected=1, reason="better on cells")
    assert registry.adapters.get("bio@champion").version == 2
    registry.adapters.set_alias("bio", "champion", None, expected=2)

    history = registry.adapters.alias_history("bio")

    assert [(move.previous, move.version, move.reason) for move in history] == [
        (None, 1, "first"),
        (1, 2, "better on cells"),
        (2, None, None),
    ]
    assert {move.moved_by for move in history} == {"marie"}
    assert history[0].moved_at <= history[1].moved_at <= history[2].moved_at
    with pytest.raises(AliasNotFound):
        registry.adapters.get("bio@champion")


def test_the_current_aliases_of_a_name_are_listed(registry: Registry) -> None:
    registry.adapters.set_alias("bio", "stable", 1)
    latest = registry.adapters.set_alias("bio", "latest", 2)
    registry.adapters.set_alias("bio", "old", 1)
    registry.adapters.set_alias("bio", "old", None)
    current = registry.adapters.aliases("bio")
    assert [(alias.alias, alias.version) for alias in current] == [("latest", 2), ("stable", 1)]
    assert current[0] == latest
    assert registry.adapters.aliases("none") == ()


@pytest.mark.parametrize("expected", [0, 2])
def test_an_alias_that_is_not_where_it_was_believed_stays(registry: Registry, expected: int) -> None:
    registry.adapters.set_alias("bio", "champion", 1)
    with pytest.raises(AliasMoved, match="bio@champion points to version 1") as refusal:
        registry.adapters.set_alias("bio", "champion", 2, expected=expected)
    assert (refusal.value.expected, refusal.value.actual) == (expected, 1)
    assert registry.adapters.get("bio@champion").version == 1
    assert len(registry.adapters.alias_history("bio")) == 1


def test_an_alias_believed_to_be_there_must_be(registry: Registry) -> None:
    with pytest.raises(AliasMoved, match="points to nothing, expected version 1"):
        registry.adapters.set_alias("bio", "champion", 2, expected=1)


def test_of_concurrent_moves_of_an_alias_all_but_one_are_refused(registry: Registry) -> None:
    registry.adapters.set_alias("bio", "champion", 1)

    def move(_: int) -> Alias | None:
        try:
            return registry.adapters.set_alias("bio", "champion", 2, expected=1)
        except AliasMoved:
            return None

    with ThreadPoolExecutor(4) as pool:
        moved = list(pool.map(move, range(8)))
    assert len([alias for alias in moved if alias]) == 1


def test_an_alias_needs_a_version_that_is_there(registry: Registry) -> None:
    with pytest.raises(AdapterNotFound):
        registry.adapters.set_alias("bio", "champion", 9)
    with pytest.raises(AdapterNotFound):
        registry.adapters.set_alias("none", "champion", 1)
    registry.adapters.remove("bio@2")
    with pytest.raises(AdapterNotFound, match="removed"):
        registry.adapters.set_alias("bio", "champion", 2)
    assert registry.adapters.alias_history("bio") == ()


def test_an_alias_that_is_not_there_cannot_be_taken_away(registry: Registry) -> None:
    with pytest.raises(AliasNotFound):
        registry.adapters.set_alias("bio", "champion", None)


def test_names_are_checked(registry: Registry) -> None:
    with pytest.raises(InvalidName):
        registry.adapters.set_alias("bio", "7", 1)


def test_each_kind_has_aliases_of_its_own(registry: Registry, tmp_path: Path) -> None:
    registry.datasets.register(write_dataset(tmp_path / "bio.jsonl"))
    registry.adapters.set_alias("bio", "champion", 2)
    registry.datasets.set_alias("bio", "champion", 1)
    assert registry.adapters.get("bio@champion").version == 2
    assert registry.datasets.get("bio@champion").version == 1
