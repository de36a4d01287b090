"""Which base model an adapter gets: the one asked for, the one it names, or the only one it fits."""

from pathlib import Path

import pytest

from registry.entities import BaseModel
from registry.errors import BaseNotFound, Incompatible
from registry.service import Registry
from tests.registry.folders import write_adapter, write_base
from tests.registry.listed import listed

#: What is tested here runs no SQL of its own.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def twin(registry: Registry, tmp_path: Path) -> BaseModel:
    """A base model of the same shape as pico."""
    return registry.bases.register(write_base(tmp_path / "twin", seed=1), name="twin", source="file:twin")


@pytest.fixture
def wide(registry: Registry, tmp_path: Path) -> BaseModel:
    """A base model of another shape than pico's."""
    return registry.bases.register(write_base(tmp_path / "wide", hidden=16), name="wide", source="file:w")


def test_the_only_base_model_that_fits_is_taken(
    registry: Registry, pico: BaseModel, wide: BaseModel, tmp_path: Path
) -> None:
    assert registry.adapters.register(write_adapter(tmp_path / "a"), name="a").base_name == "pico"
    assert registry.adapters.register(write_adapter(tmp_path / "b", hidden=16), name="b").base_name == "wide"


@pytest.mark.parametrize("stated", ["pico", "zoo/pico", "hub:zoo/pico@abc"])
def test_the_base_model_an_adapter_names_goes_before_others_that_fit(
    registry: Registry, pico: BaseModel, twin: BaseModel, tmp_path: Path, stated: str
) -> None:
    folder = write_adapter(tmp_path / "a", base_model_name_or_path=stated)
    assert registry.adapters.register(folder, name="a").base_digest == pico.digest


def test_the_base_model_asked_for_goes_before_the_one_named(
    registry: Registry, pico: BaseModel, twin: BaseModel, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "a", base_model_name_or_path="pico")
    assert registry.adapters.register(folder, name="a", base="twin").base_digest == twin.digest


@pytest.mark.parametrize(
    ("stated", "asked", "is_noted"),
    [
        ("meta/other-7b", None, True),
        ("meta/other-7b", "pico", True),
        ("twin", "pico", True),
        (r"C:\models\pico", "pico", False),
        ("/home/me/models/pico/", None, False),
        ("zoo/pico", "pico", False),
        (None, "pico", False),
    ],
)
def test_an_adapter_that_names_another_base_model_is_registered_with_a_note(
    registry: Registry, pico: BaseModel, tmp_path: Path, stated: str | None, asked: str | None, is_noted: bool
) -> None:
    folder = write_adapter(tmp_path / "a", base_model_name_or_path=stated)
    warnings = registry.adapters.register(folder, name="a", base=asked, licence="MIT").warnings
    said = f"it was trained on {stated}, as its configuration says, and is registered for pico"
    assert [warning.startswith(said) for warning in warnings] == ([True] if is_noted else [])


def test_an_adapter_that_fits_several_and_names_none_asks_which(
    registry: Registry, pico: BaseModel, twin: BaseModel, tmp_path: Path
) -> None:
    with pytest.raises(Incompatible, match=r"pico, twin.*--base pico"):
        registry.adapters.register(write_adapter(tmp_path / "a"), name="a")
    assert listed(registry.adapters) == []


def test_a_named_base_model_that_does_not_fit_is_refused_with_the_reason(
    registry: Registry, pico: BaseModel, wide: BaseModel, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "a", base_model_name_or_path="wide")
    with pytest.raises(Incompatible, match="wide cannot carry") as refusal:
        registry.adapters.register(folder, name="a")
    assert any("ZOO-E272" in reason for reason in refusal.value.reasons)
    assert refusal.value.exit_code == 4


def test_an_adapter_that_fits_none_is_refused_with_every_reason(
    registry: Registry, pico: BaseModel, wide: BaseModel, tmp_path: Path
) -> None:
    with pytest.raises(Incompatible, match="zoo register base") as refusal:
        registry.adapters.register(write_adapter(tmp_path / "a", hidden=4), name="a")
    assert len(refusal.value.reasons) == 2


def test_without_base_models_the_way_to_register_one_is_named(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(BaseNotFound, match="zoo register base FOLDER"):
        registry.adapters.register(write_adapter(tmp_path / "a"), name="a")


def test_a_base_model_that_was_removed_is_not_chosen(
    registry: Registry, pico: BaseModel, twin: BaseModel, tmp_path: Path
) -> None:
    registry.bases.remove("pico")
    assert registry.adapters.register(write_adapter(tmp_path / "a"), name="a").base_name == "twin"
