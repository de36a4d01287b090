"""What a name means that a composition, an adapter and a base model have, and how to name one of them."""

from pathlib import Path

import pytest

from registry.entities import ExpertRecord
from registry.errors import AdapterNotFound
from registry.service import Registry
from tests.registry.folders import XLORA, write_adapter, write_base, write_composition
from workers.requests.subjects import find, subject_of


@pytest.fixture
def _twins(registry: Registry, tmp_path: Path) -> None:
    """A base model, an adapter and a composition of one name."""
    base = registry.bases.register(write_base(tmp_path / "base"), name="twin", source="here")
    adapter = registry.adapters.register(write_adapter(tmp_path / "adapter"), name="twin")
    registry.compositions.register(
        write_composition(tmp_path / "composition", ["twin"]),
        name="twin",
        base_digest=base.digest,
        experts=[
            ExpertRecord(
                position=0,
                name=adapter.name,
                adapter_reference=adapter.reference,
                weights_digest=adapter.weights_digest,
            )
        ],
        method=XLORA,
        report={},
    )


@pytest.mark.usefixtures("_twins")
def test_a_name_is_a_composition_else_an_adapter_else_a_base(registry: Registry) -> None:
    named = {
        name: subject_of(find(registry, name)) for name in ("composition:twin", "adapter:twin", "base:twin")
    }
    assert named == {
        "composition:twin": "composition:twin@1",
        "adapter:twin": "adapter:twin@1",
        "base:twin": "base:twin",
    }
    assert subject_of(find(registry, "twin")) == "composition:twin@1"
    registry.compositions.remove("twin")
    assert subject_of(find(registry, "twin")) == "adapter:twin@1"
    registry.adapters.remove("twin")
    assert subject_of(find(registry, "twin")) == "base:twin"
    with pytest.raises(AdapterNotFound):
        find(registry, "adapter:twin")
