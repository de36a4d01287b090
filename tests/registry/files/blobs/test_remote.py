"""An object store: uploads in parts, what an interrupted one leaves, and what its failures are called."""

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from registry.entities import FileRecord
from registry.errors import ArtifactError, ArtifactMissing, DigestMismatch
from registry.files.artifacts import ArtifactStore
from registry.files.blobs import remote
from registry.files.blobs.remote import StoreUnreachable
from registry.files.digests import file_digest
from tests.registry.staged import put_folder

MIB = 2**20
#: A little more than two of the smallest parts that S3 takes.
WEIGHTS_BYTES = 11 * MIB


@pytest.fixture
def store(s3: str, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """A store whose large files go up in parts of 5 MiB."""
    monkeypatch.setattr(remote, "PART_BYTES", 5 * MIB)
    return ArtifactStore(f"{s3}/zoo")


@pytest.fixture
def system(s3: str) -> Any:
    return fsspec.filesystem("s3", use_listings_cache=False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "weights"
    path.write_bytes(os.urandom(WEIGHTS_BYTES))
    return path


def unfinished(system: Any, s3: str) -> list[str]:
    found = system.call_s3("list_multipart_uploads", Bucket=s3.removeprefix("s3://"))
    return [upload["Key"] for upload in found.get("Uploads") or ()]


def stored(store: ArtifactStore, weights: Path) -> FileRecord:
    return put_folder(store, weights.parent, [weights.name])[0]


def test_a_large_file_goes_up_in_parts_and_comes_back_whole(
    store: ArtifactStore, system: Any, s3: str, weights: Path, tmp_path: Path
) -> None:
    record = stored(store, weights)
    (blob,) = store.blobs()
    assert (blob.digest, blob.size_bytes) == (record.digest, WEIGHTS_BYTES)
    key = f"{s3}/zoo/sha256/{record.digest[7:9]}/{record.digest[7:]}"
    assert system.info(key)["ETag"].strip('"').endswith("-3")  # S3's mark of an object of three parts
    assert unfinished(system, s3) == []
    made = store.materialise([record], tmp_path / "cache")
    assert file_digest(made / weights.name)[0] == record.digest


def test_nothing_is_seen_of_an_upload_before_its_end(
    store: ArtifactStore, system: Any, s3: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, seen = file_digest(weights)[0], []
    require = remote._require

    def looked_at(*found: Any) -> None:
        seen.append((len(unfinished(system, s3)), store.exists(digest), list(store.blobs())))
        require(*found)

    monkeypatch.setattr(remote, "_require", looked_at)
    stored(store, weights)
    assert seen == [(1, False, [])]
    assert store.exists(digest)


@pytest.mark.parametrize("fault", [ConnectionResetError("gone"), KeyboardInterrupt()])
def test_an_upload_that_breaks_off_leaves_nothing(
    store: ArtifactStore,
    system: Any,
    s3: str,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: BaseException,
) -> None:
    def breaks_off(source: Any, target: Any) -> Any:
        target.write(source.read(6 * MIB))
        assert unfinished(system, s3)  # one part is there
        raise fault

    monkeypatch.setattr(remote, "copy_hashed", breaks_off)
    with pytest.raises(StoreUnreachable if isinstance(fault, OSError) else KeyboardInterrupt):
        stored(store, weights)
    assert list(store.blobs()) == []
    assert unfinished(system, s3) == []


def test_bytes_that_changed_after_they_were_checked_are_not_published(
    store: ArtifactStore, system: Any, s3: str, weights: Path
) -> None:
    for size_bytes in (10, WEIGHTS_BYTES):
        with store.staging() as staging:
            staging.write("weights", weights.read_bytes()[:size_bytes])
            with staging["weights"].path.open("r+b") as swapped:
                swapped.write(b"other")
            with pytest.raises(DigestMismatch, match="register it again"):
                store.store(staging, ["weights"])
    assert list(store.blobs()) == []
    assert unfinished(system, s3) == []


def test_an_object_that_was_changed_feeds_no_model(
    store: ArtifactStore, system: Any, s3: str, weights: Path, tmp_path: Path
) -> None:
    record = stored(store, weights)
    key = f"{s3}/zoo/sha256/{record.digest[7:9]}/{record.digest[7:]}"
    system.pipe_file(key, b"other" + weights.read_bytes()[5:])
    with pytest.raises(DigestMismatch, match=f"Restore {key} from a backup"):
        store.materialise([record], tmp_path / "cache")
    with pytest.raises(DigestMismatch):
        store.verify(record.digest)
    with pytest.raises(DigestMismatch):
        store.read(record.digest)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    system.rm_file(key)
    with pytest.raises(ArtifactMissing, match="weights: the stored file is gone"):
        store.materialise([record], tmp_path / "cache")


def test_what_another_machine_stores_is_seen_at_once(s3: str, weights: Path) -> None:
    ours, theirs = ArtifactStore(f"{s3}/zoo"), ArtifactStore(f"{s3}/zoo/")
    assert list(ours.blobs()) == []
    record = stored(theirs, weights)
    assert ours.exists(record.digest)
    assert [blob.digest for blob in ours.blobs()] == [record.digest]
    theirs.delete(record.digest)
    assert not ours.exists(record.digest)


def test_a_bucket_that_is_not_there_is_not_made(s3: str, weights: Path) -> None:
    missing = ArtifactStore(f"{s3}-typo/zoo")
    with pytest.raises(ArtifactError, match="check that the bucket or folder exists"):
        stored(missing, weights)
    with pytest.raises(ArtifactError, match="check that the bucket or folder exists"):
        missing.try_writing()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch, s3: str) -> ArtifactStore:
    """A store whose server is gone."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    system = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    monkeypatch.setattr(system, "retries", 1)
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **_: (system, url))
    return ArtifactStore(f"{s3}/zoo")


def test_a_server_that_does_not_answer_is_a_fault_of_its_own(silent: ArtifactStore) -> None:
    with pytest.raises(StoreUnreachable, match="does not answer") as caught:
        silent.exists(f"sha256:{'0' * 64}")
    assert (caught.value.code, caught.value.exit_code, caught.value.reason) == ("ZOO-E284", 6, "infra")


def test_no_key_of_a_url_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    store = ArtifactStore("memory://key:secret@bucket/zoo")
    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "info", fails)
    with pytest.raises(StoreUnreachable, match="memory://bucket/zoo") as caught:
        store.exists(f"sha256:{'0' * 64}")
    assert "secret" not in str(caught.value)
