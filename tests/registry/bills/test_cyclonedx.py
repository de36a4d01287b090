"""A bill of materials names every part with its files and licence, and is what its standard's schema says."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from registry.bills.cyclonedx import as_cyclonedx
from registry.bills.materials import materials_of
from registry.entities import BaseModel, CompositionVersion, ExpertRecord
from registry.errors import InvalidField
from registry.service import Registry
from tests.command_line import Ask
from tests.registry.folders import XLORA, write_adapter, write_composition, write_dataset


@pytest.fixture
def science(registry: Registry, pico: BaseModel, tmp_path: Path) -> CompositionVersion:
    """Of two experts; one is trained from an earlier version, on data of its own, under other licences."""
    registry.datasets.register(write_dataset(tmp_path / "bio.train.jsonl"), licence="CC-BY-NC-4.0")
    trained: dict[str, Any] = {"train_dataset": "bio.train@1", "eval_dataset": "gone@7"}
    registry.adapters.register(
        write_adapter(tmp_path / "bio1"), name="bio", licence="GPL-3.0-only", parameters=trained
    )
    registry.adapters.register(
        write_adapter(tmp_path / "bio2", seed=1),
        name="bio",
        licence="mit",
        parameters={**trained, "initial_adapter": "bio@1"},
    )
    registry.adapters.register(write_adapter(tmp_path / "chem", seed=2), name="chem", licence="our terms")
    experts = [
        ExpertRecord(
            position=position,
            name=name,
            adapter_reference=reference,
            weights_digest=registry.adapters.get(reference).weights_digest,
        )
        for position, (name, reference) in enumerate({"bio": "bio@2", "chem": "chem@1"}.items())
    ]
    return registry.compositions.register(
        write_composition(tmp_path / "science", ["bio", "chem"]),
        name="science",
        base_digest=pico.digest,
        experts=experts,
        method=XLORA,
        report={},
    )


def test_the_bill_of_a_composition_holds_every_part_and_passes_its_schema(
    registry: Registry, science: CompositionVersion
) -> None:
    text = as_cyclonedx(materials_of(registry, science))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None

    bill = json.loads(text)
    main = bill["metadata"]["component"]
    assert (main["bom-ref"], main["type"]) == ("composition:science@1", "machine-learning-model")
    assert {part["bom-ref"]: _licence(part) for part in bill["components"]} == {
        "base:pico": None,
        "adapter:bio@2": "MIT",
        "adapter:chem@1": "our terms",
        "adapter:bio@1": "GPL-3.0-only",
        "dataset:bio.train@1": "CC-BY-NC-4.0",
    }
    assert {one["ref"]: sorted(one.get("dependsOn", [])) for one in bill["dependencies"]} == {
        "composition:science@1": ["adapter:bio@2", "adapter:chem@1", "base:pico"],
        "adapter:bio@2": ["adapter:bio@1", "base:pico", "dataset:bio.train@1"],
        "adapter:bio@1": ["base:pico", "dataset:bio.train@1"],
        "adapter:chem@1": ["base:pico"],
        "base:pico": [],
        "dataset:bio.train@1": [],
    }
    stored = {file.path: file.digest.removeprefix("sha256:") for file in science.files}
    assert {file["name"]: file["hashes"][0]["content"] for file in main["components"]} == stored
    said = {fact["name"]: fact["value"] for part in bill["components"] for fact in part["properties"]}
    assert said["zoo:missing:1"] == "dataset:gone@7"


def test_licences_are_listed_the_strictest_first(registry: Registry, science: CompositionVersion) -> None:
    bill = json.loads(as_cyclonedx(materials_of(registry, science)))
    assert [fact["value"].partition(" (")[0] for fact in bill["metadata"]["properties"]] == [
        "none stated: base:pico",
        "CC-BY-NC-4.0: dataset:bio.train@1",
        "our terms: adapter:chem@1",
        "GPL-3.0-only: adapter:bio@1",
        "mit: adapter:bio@2",
    ]


def test_a_bill_is_printed_instead_of_the_record(ask: Ask, catalogue: Path) -> None:
    for noun, reference in (("adapters", "bio@1"), ("compositions", "science")):
        answer = ask(noun, "show", reference, "--sbom")
        assert answer.code == 0
        assert answer.json["bomFormat"] == "CycloneDX"
        assert "base:pico" in answer.err


def test_without_its_library_the_error_says_what_to_install(
    registry: Registry, science: CompositionVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx.output.json", None)
    with pytest.raises(InvalidField, match=r"pip install 'adapter-zoo\[sbom\]'"):
        as_cyclonedx(materials_of(registry, science))


def _licence(part: dict[str, Any]) -> str | None:
    stated = [entry["license"] for entry in part.get("licenses", [])]
    return next((one.get("id") or one.get("name") for one in stated), None)
