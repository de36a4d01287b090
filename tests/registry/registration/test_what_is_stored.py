"""What was checked is what is stored: each file is read once, and nothing is stored that nobody checked."""

import io
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.entities import ExpertRecord, FileRecord
from registry.errors import Incompatible, InvalidAdapter, InvalidBase, InvalidDataset, RegistryError
from registry.files.artifacts import ArtifactStore
from registry.files.staging import Staging
from registry.service import Registry
from registry.settings import Settings
from tests.registry.folders import XLORA, write_adapter, write_base, write_composition, write_dataset
from tests.registry.staged import digest_of_weights

KINDS = ("base", "adapter", "dataset", "composition")


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Path]:
    """What of each kind is to be registered."""
    return {
        "base": write_base(tmp_path / "given" / "base"),
        "adapter": write_adapter(tmp_path / "given" / "adapter"),
        "dataset": write_dataset(tmp_path / "given" / "bio.train.jsonl"),
        "composition": write_composition(tmp_path / "given" / "composition", ["bio"]),
    }


def register(registry: Registry, kind: str, path: Path) -> Any:
    """Register it as its kind; what it needs has been registered before."""
    if kind == "base":
        return registry.bases.register(path, name="pico", source="x")
    if kind == "adapter":
        return registry.adapters.register(path, name="bio")
    if kind == "dataset":
        return registry.datasets.register(path)
    adapter = registry.adapters.get("bio")
    expert = ExpertRecord(
        position=0, name="bio", adapter_reference="bio@1", weights_digest=adapter.weights_digest
    )
    return registry.compositions.register(
        path,
        name="science",
        base_digest=adapter.base_digest,
        experts=(expert,),
        method=replace(XLORA, details={"config": {}}, weights={"head": "head.safetensors"}),
        report={},
    )


def with_needs(registry: Registry, kind: str, given: dict[str, Path]) -> None:
    """Register what a thing of this kind needs."""
    for needed in {"adapter": ("base",), "composition": ("base", "adapter")}.get(kind, ()):
        register(registry, needed, given[needed])


def files_of(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def left_behind(settings: Settings) -> list[Path]:
    return list((Path(settings.artifact_root.removeprefix("file://")) / ".incoming").glob("*"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_swapped_after_it_was_checked_is_not_stored(
    kind: str, registry: Registry, given: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_needs(registry, kind, given)
    honest = {file.name: file.read_bytes() for file in files_of(given[kind])}
    store = ArtifactStore.store

    def after_a_swap(
        artifacts: ArtifactStore, staging: Staging, names: Iterable[str]
    ) -> tuple[FileRecord, ...]:
        for file in files_of(given[kind]):
            file.write_bytes(b"not what was checked")
        return store(artifacts, staging, names)

    monkeypatch.setattr(ArtifactStore, "store", after_a_swap)
    stored = registry.materialise(register(registry, kind, given[kind]))
    assert all(file.read_bytes() == b"not what was checked" for file in files_of(given[kind]))
    for file in files_of(stored):
        if file.name != "adapter_config.json" or kind == "composition":  # an adapter's is written anew
            assert file.read_bytes() == honest[file.name], file.name
        assert b"not what was checked" not in file.read_bytes()


class Reading:
    """Bytes read of each file, by path, and how often it was opened."""

    def __init__(self) -> None:
        self.read_bytes: Counter[Path] = Counter()
        self.opened: Counter[Path] = Counter()

    def counting(self) -> tuple[Callable[..., int], type[io.FileIO]]:
        """Stand-ins for `os.open` and `io.FileIO` that count."""
        paths: dict[int, Path] = {}
        reading, opening = self, os.open

        class Counting(io.FileIO):
            def read(self, size: int | None = -1, /) -> bytes:
                data = super().read(-1 if size is None else size) or b""
                reading.read_bytes[paths.get(self.fileno(), Path())] += len(data)
                return data

            def readinto(self, buffer: Any, /) -> int:
                count = super().readinto(buffer) or 0
                reading.read_bytes[paths.get(self.fileno(), Path())] += count
                return count

        def opened(path: Path, flags: int, *rest: Any, **options: Any) -> int:
            descriptor = opening(path, flags, *rest, **options)
            paths[descriptor] = Path(path)
            reading.opened[Path(path)] += 1
            return descriptor

        return opened, Counting


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_opened_and_read_once(
    kind: str, registry: Registry, given: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_needs(registry, kind, given)
    reading = Reading()
    opened, counting = reading.counting()
    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(io, "FileIO", counting)
    register(registry, kind, given[kind])
    monkeypatch.undo()
    for file in files_of(given[kind]):
        # What cannot be a base model is told by the weights' header, before they are copied whole.
        header = _header_bytes(file) if kind == "base" and file.suffix == ".safetensors" else 0
        assert reading.opened[file] == (2 if header else 1), file
        assert reading.read_bytes[file] == file.stat().st_size + header, file


def _header_bytes(file: Path) -> int:
    with file.open("rb") as opened:
        return 8 + int.from_bytes(opened.read(8), "little")


def test_a_copy_of_an_adapter_s_weights_is_opened_once_and_its_header_read_once(
    registry: Registry, given: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_needs(registry, "adapter", given)
    reading = Reading()
    opened, counting = reading.counting()
    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(io, "FileIO", counting)
    register(registry, "adapter", given["adapter"])
    monkeypatch.undo()
    size_bytes = (given["adapter"] / "adapter_model.safetensors").stat().st_size
    copies = [path for path in reading.opened if path.name == "adapter_model.safetensors"]
    assert len(copies) == 2  # the original, and the copy
    assert {reading.opened[path] for path in copies} == {1}
    assert {reading.read_bytes[path] for path in copies} == {size_bytes}


def emptied(folder: Path) -> Path:
    """The same path, with nothing there."""
    shutil.rmtree(folder)
    return folder


Spoil = Callable[[Path], object]

BAD: Sequence[tuple[str, Spoil, type[RegistryError]]] = (
    ("base", lambda path: (path / "model.safetensors").write_bytes(b"no weights"), InvalidBase),
    ("base", lambda path: (path / "config.json").write_text("{}"), InvalidBase),
    ("adapter", lambda path: (path / "adapter_model.safetensors").write_bytes(b"none"), InvalidAdapter),
    ("adapter", lambda path: (path / "adapter_config.json").write_text("{}"), InvalidAdapter),
    ("adapter", lambda path: write_adapter(emptied(path), hidden=4), Incompatible),
    ("dataset", lambda path: path.write_text("no example\n"), InvalidDataset),
    ("composition", lambda path: (path / "head.safetensors").write_bytes(b"none"), InvalidAdapter),
)


@pytest.mark.parametrize(
    ("kind", "spoil", "error"), BAD, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_refused_leaves_nothing_behind(
    kind: str,
    spoil: Spoil,
    error: type[RegistryError],
    registry: Registry,
    settings: Settings,
    given: dict[str, Path],
) -> None:
    with_needs(registry, kind, given)
    blobs = files_of(Path(settings.artifact_root))
    spoil(given[kind])
    with pytest.raises(error):
        register(registry, kind, given[kind])
    assert left_behind(settings) == []
    assert files_of(Path(settings.artifact_root)) == blobs


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_leaves_no_copy_beside_it(
    kind: str, registry: Registry, settings: Settings, given: dict[str, Path]
) -> None:
    with_needs(registry, kind, given)
    register(registry, kind, given[kind])
    assert left_behind(settings) == []


def test_digests_are_those_of_before(registry: Registry, given: dict[str, Path]) -> None:
    """They identify what is on record for years: literals from before files were copied first."""
    base, adapter, dataset, composition = (register(registry, kind, given[kind]) for kind in KINDS)
    assert base.digest == "sha256:cd8a445e7ede1e71fe8d7e201a76d48cdc30b2d77d6f3e116accd77e4f46da92"
    assert base.weights_digest == "sha256:15b8f785278b29d45fa4c91c668882d6ec073e8df73aa0f8660f15400d2cc4d1"
    assert adapter.weights_digest == "sha256:48a4cda242a1818f23d6d748a35046d691e4d2a7c642163d1594513e3c285dec"
    assert dataset.digest == "sha256:58a9ba53594ce519d0093fce5ff9f3ba28980d7dc7f764e728dff2437e6f0732"
    assert [(file.path, file.digest) for file in adapter.files] == [
        ("adapter_config.json", "sha256:0294555258174fcec39cac1f10aaf253d18f01502f54655b0ec62bd949079e28"),
        (
            "adapter_model.safetensors",
            "sha256:cd13c2684a0ab4b38f13188e7d0653355779d422c41eefdb65326ef528b8dd5c",
        ),
    ]
    assert [(file.path, file.digest) for file in composition.files] == [
        ("head.safetensors", "sha256:56d7a49535c1f018e6fdae35416da2e9c4f87bbc841588330d3771ed07f85313"),
        ("probe.safetensors", "sha256:cf9290b6fb4a2261a1bbe51647c295422a092b98800edca1d1044981af8ccf04"),
        ("xlora.json", "sha256:a7cb0ce6b72499e38fd35a308dcbb31a93202a09fe4eafa03eb709f3dbd076a7"),
        (
            "experts/bio/adapter_config.json",
            "sha256:b6522eab3e54d0fdaa5539ec3f8e8790ccf66e22bf0b194e50667c18fca39c52",
        ),
        (
            "experts/bio/adapter_model.safetensors",
            "sha256:cd13c2684a0ab4b38f13188e7d0653355779d422c41eefdb65326ef528b8dd5c",
        ),
    ]
    assert [file.path for file in base.files] == [
        *("chat_template.jinja", "config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    ]
    head = given["composition"] / "head.safetensors"
    assert composition.method_details == {"config": {}, "head": digest_of_weights(head)}
