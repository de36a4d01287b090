"""What is stored is what comes back, whatever happens to the disk; one suite for every kind of root."""

import hashlib
import os
import resource
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry.entities import FileRecord
from registry.errors import ArtifactError, ArtifactMissing, DigestMismatch, DiskFull
from registry.files.artifacts import ArtifactStore
from registry.files.digests import file_digest
from tests.registry.staged import put_folder

NAMES = ("adapter_config.json", "bio/adapter_model.safetensors")


@pytest.fixture(params=["path", "file", "memory", "s3"])
def root_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/artifacts"
    return {
        "path": str(tmp_path / "artifacts"),
        "file": f"file://{tmp_path / 'artifacts'}",
        "memory": f"memory://artifacts-{uuid.uuid4().hex}",
    }[request.param]


@pytest.fixture
def store(root_url: str) -> ArtifactStore:
    return ArtifactStore(root_url)


@pytest.fixture
def local(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "artifacts"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "given"
    (made / "bio").mkdir(parents=True)
    (made / NAMES[0]).write_bytes(b'{"r": 8}')
    (made / NAMES[1]).write_bytes(os.urandom(3_000_000))
    return made


def blob(tmp_path: Path, record: FileRecord) -> Path:
    digits = record.digest.removeprefix("sha256:")
    return tmp_path / "artifacts" / "sha256" / digits[:2] / digits


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


def damage(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_stored_file_is_recorded_with_its_digest_and_size(store: ArtifactStore, folder: Path) -> None:
    record = put_folder(store, folder, NAMES[:1])[0]
    expected = hashlib.sha256(b'{"r": 8}').hexdigest()
    assert record == FileRecord(path=NAMES[0], digest=f"sha256:{expected}", size_bytes=8)
    assert store.exists(record.digest)
    with store.open(record.digest) as stored:
        assert stored.read() == b'{"r": 8}'


def test_what_is_materialised_is_what_was_stored(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    records = put_folder(store, folder, NAMES)
    made = store.materialise(records, tmp_path / "cache")
    assert [record.path for record in records] == list(NAMES)
    assert {path.relative_to(made).as_posix() for path in files_under(made)} == set(NAMES)
    for name in NAMES:
        assert (made / name).read_bytes() == (folder / name).read_bytes()


def test_storing_again_gives_the_same_records(store: ArtifactStore, folder: Path) -> None:
    assert put_folder(store, folder, NAMES) == put_folder(store, folder, NAMES)


def test_bytes_can_replace_a_file(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    records = put_folder(store, folder, NAMES, instead={NAMES[0]: b"{}"})
    made = store.materialise(records, tmp_path / "cache")
    assert (made / NAMES[0]).read_bytes() == b"{}"


def test_a_second_call_gives_the_folder_that_is_there(
    store: ArtifactStore, folder: Path, tmp_path: Path
) -> None:
    records = put_folder(store, folder, NAMES)
    made = store.materialise(records, tmp_path / "cache")
    before = (made / NAMES[1]).stat().st_ino
    assert store.materialise(records, tmp_path / "cache") == made
    assert (made / NAMES[1]).stat().st_ino == before


@pytest.mark.parametrize("harm", ["changed", "removed", "added", "linked"])
def test_a_cached_folder_that_was_tampered_with_is_made_anew(
    store: ArtifactStore, folder: Path, tmp_path: Path, harm: str
) -> None:
    records = put_folder(store, folder, NAMES)
    weights = store.materialise(records, tmp_path / "cache") / NAMES[1]
    if harm == "changed":
        damage(weights)
    elif harm == "removed":
        weights.unlink()
    elif harm == "added":  # PEFT takes this file where the other is missing
        (weights.parent / "adapter_model.bin").write_bytes(b"pickle")
    else:
        weights.unlink()
        weights.symlink_to(folder / NAMES[1])
    made = store.materialise(records, tmp_path / "cache")
    assert {path.relative_to(made).as_posix() for path in files_under(made)} == set(NAMES)
    assert not weights.is_symlink()
    assert file_digest(weights)[0] == records[1].digest
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [made.name]


def test_a_damaged_blob_is_named_and_nothing_is_handed_out(
    local: ArtifactStore, folder: Path, tmp_path: Path
) -> None:
    records = put_folder(local, folder, NAMES)
    damage(blob(tmp_path, records[1]))
    with pytest.raises(DigestMismatch, match=r"bio/adapter_model.safetensors.*register the same files again"):
        local.materialise(records, tmp_path / "cache")
    assert files_under(tmp_path / "cache") == []


def test_a_cached_copy_outlives_damage_to_its_blob(
    local: ArtifactStore, folder: Path, tmp_path: Path
) -> None:
    records = put_folder(local, folder, NAMES)
    made = local.materialise(records, tmp_path / "cache")
    damage(blob(tmp_path, records[1]))
    assert local.materialise(records, tmp_path / "cache") == made
    assert file_digest(made / NAMES[1])[0] == records[1].digest


def test_storing_the_same_file_again_heals_a_damaged_blob(
    local: ArtifactStore, folder: Path, tmp_path: Path
) -> None:
    records = put_folder(local, folder, NAMES)
    damage(blob(tmp_path, records[1]))
    put_folder(local, folder, NAMES)
    made = local.materialise(records, tmp_path / "cache")
    assert file_digest(made / NAMES[1])[0] == records[1].digest


def test_a_blob_that_is_gone_is_named(local: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    records = put_folder(local, folder, NAMES)
    blob(tmp_path, records[0]).unlink()
    assert not local.exists(records[0].digest)
    with pytest.raises(ArtifactMissing, match=r"adapter_config.json: the stored file is gone"):
        local.materialise(records, tmp_path / "cache")


def test_an_unknown_digest_is_not_there(store: ArtifactStore) -> None:
    digest = f"sha256:{'0' * 64}"
    assert not store.exists(digest)
    with pytest.raises(ArtifactMissing):
        store.open(digest)


def test_what_is_stored_is_listed_until_it_is_deleted(store: ArtifactStore, folder: Path) -> None:
    began = time.time()
    records = put_folder(store, folder, NAMES)
    listed = {blob.digest: blob for blob in store.blobs()}
    assert {blob.digest: blob.size_bytes for blob in listed.values()} == {
        record.digest: record.size_bytes for record in records
    }
    assert all(began - 2 < (blob.stored_at or 0) < time.time() + 2 for blob in listed.values())
    store.delete(records[0].digest)
    store.delete(records[0].digest)
    assert [blob.digest for blob in store.blobs()] == [records[1].digest]
    assert not store.exists(records[0].digest)


def test_nothing_is_listed_of_a_store_that_nothing_was_put_in(store: ArtifactStore) -> None:
    assert list(store.blobs()) == []


def test_a_stored_file_is_verified_as_it_is_read(store: ArtifactStore, folder: Path) -> None:
    config, weights = put_folder(store, folder, NAMES)
    assert store.read(config.digest) == b'{"r": 8}'
    assert store.verify(weights.digest) == weights.size_bytes


def test_a_store_tells_whether_it_takes_files(store: ArtifactStore) -> None:
    store.try_writing()
    assert list(store.blobs()) == []


@pytest.mark.parametrize("digest", ["", "sha256:../../etc/passwd", "md5:00", f"sha256:{'A' * 64}"])
def test_what_is_no_digest_is_never_made_a_path(store: ArtifactStore, digest: str) -> None:
    with pytest.raises(ArtifactMissing, match="is no digest"):
        store.open(digest)


@pytest.mark.parametrize(
    "name",
    ["../x", "/abs", "a/../../b", "a//b", "a/./b", ".", "", "..\\x", "a\\b", "x\x00", ".hidden", "a.", "a b",
     "ａ", "%2e%2e%2f", "a/", "x" * 300],
)  # fmt: skip
def test_a_path_that_could_lead_elsewhere_is_refused(local: ArtifactStore, tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with local.staging() as staging, pytest.raises(ArtifactError, match="cannot be a stored file's path"):
        staging.copy(tmp_path / "x", name, refusal=ArtifactMissing)
    record = FileRecord(path=name, digest=f"sha256:{'0' * 64}", size_bytes=0)
    with pytest.raises(ArtifactError, match="cannot be a stored file's path"):
        local.materialise([record], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_names_that_differ_by_case_alone_are_refused(local: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with local.staging() as staging:
        staging.copy(tmp_path / "x", "README.md", refusal=ArtifactMissing)
        with pytest.raises(ArtifactError, match="only by case"):
            staging.copy(tmp_path / "x", "readme.md", refusal=ArtifactMissing)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "nothing"])
def test_only_regular_files_are_stored(local: ArtifactStore, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights"
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(ArtifactMissing, match="weights"):
        put_folder(local, tmp_path, ["weights"])


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """Stand-in for a full disk: the kernel refuses to let a file grow beyond this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_of_the_file_behind(
    local: ArtifactStore, folder: Path, tmp_path: Path
) -> None:
    with file_size_limit(1_000_000), pytest.raises(DiskFull, match=r"3,000,000 bytes, [\d,]+ bytes are free"):
        put_folder(local, folder, NAMES[1:])
    assert files_under(tmp_path / "artifacts") == []


def test_a_full_disk_leaves_nothing_of_the_folder_behind(
    local: ArtifactStore, folder: Path, tmp_path: Path
) -> None:
    records = put_folder(local, folder, NAMES)
    with file_size_limit(1_000_000), pytest.raises(DiskFull, match="ZOO_HOME"):
        local.materialise(records, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_refusal_of_the_system_is_not_called_a_full_disk(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_bytes(b"a file where the folder should be")
    with pytest.raises(ArtifactError, match=r"cannot store anything: .*Not a directory") as caught:
        put_folder(ArtifactStore(str(tmp_path / "artifacts")), folder, NAMES)
    assert not isinstance(caught.value, DiskFull)


def test_leftovers_of_a_killed_process_are_swept_after_a_day(
    local: ArtifactStore, folder: Path, tmp_path: Path
) -> None:
    incoming, cache = tmp_path / "artifacts" / ".incoming", tmp_path / "cache"
    incoming.mkdir(parents=True)
    (cache / ".half").mkdir(parents=True)
    for name in ("old", "new"):
        (incoming / name).write_bytes(b"half a file")
    os.utime(incoming / "old", (0, 0))
    os.utime(cache / ".half", (0, 0))
    records = put_folder(local, folder, NAMES)
    made = local.materialise(records, cache)
    assert [path.name for path in incoming.iterdir()] == ["new"]
    assert list(cache.iterdir()) == [made]


def test_stored_files_are_read_only(local: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    record = put_folder(local, folder, NAMES[:1])[0]
    assert blob(tmp_path, record).stat().st_mode & 0o222 == 0
