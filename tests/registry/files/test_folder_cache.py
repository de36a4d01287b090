"""The cache of verified copies: the least recently used make room, those in use stay, whoever uses them."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.entities import FileRecord
from registry.files import folder_cache
from registry.files.artifacts import ArtifactStore
from tests.registry.staged import put_folder

SIZE_BYTES = 1000
ROOM_FOR_TWO = 2 * SIZE_BYTES + 500


@pytest.fixture
def records(tmp_path: Path) -> list[tuple[FileRecord, ...]]:
    """Four stored files of equal size, each of a record of its own."""
    store = ArtifactStore(str(tmp_path / "artifacts"))
    for number in range(4):
        (tmp_path / f"weights{number}").write_bytes(bytes([number]) * SIZE_BYTES)
    return [put_folder(store, tmp_path, [f"weights{number}"]) for number in range(4)]


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., ArtifactStore]:
    def open_store(limit_bytes: int | None = ROOM_FOR_TWO) -> ArtifactStore:
        return ArtifactStore(str(tmp_path / "artifacts"), cache_limit_bytes=limit_bytes)

    return open_store


def kept(cache: Path) -> set[str]:
    """The names of the files in the cache; nothing else may be there."""
    assert all(len(folder.name) == 64 for folder in cache.iterdir())
    return {path.name for path in cache.rglob("*") if path.is_file()}


def test_the_least_recently_used_makes_room(
    records: list[tuple[FileRecord, ...]], opened: Callable[..., ArtifactStore], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for number in (0, 1, 0, 2):  # 0 is asked for again, so 1 goes
        store = opened()
        store.materialise(records[number], cache)
        store.close()
    assert kept(cache) == {"weights0", "weights2"}


def test_what_is_in_use_stays_even_beyond_the_limit(
    records: list[tuple[FileRecord, ...]], opened: Callable[..., ArtifactStore], tmp_path: Path
) -> None:
    cache, trainer, other = tmp_path / "cache", opened(), opened()
    for number in range(3):
        trainer.materialise(records[number], cache)
    other.materialise(records[3], cache)
    assert kept(cache) == {"weights0", "weights1", "weights2", "weights3"}
    trainer.close()
    other.close()
    opened().materialise(records[1], cache)
    assert len(kept(cache)) == 4  # nothing new, so nothing goes
    last = opened(0)
    (tmp_path / "new").write_bytes(b"new")
    last.materialise(put_folder(last, tmp_path, ["new"]), cache)
    assert kept(cache) == {"weights1", "new"}


def test_without_a_limit_everything_stays(
    records: list[tuple[FileRecord, ...]], opened: Callable[..., ArtifactStore], tmp_path: Path
) -> None:
    for one in records:
        store = opened(None)
        store.materialise(one, tmp_path / "cache")
        store.close()
    assert len(kept(tmp_path / "cache")) == 4


def test_other_folders_beside_the_copies_are_left_alone(
    records: list[tuple[FileRecord, ...]], opened: Callable[..., ArtifactStore], tmp_path: Path
) -> None:
    states = tmp_path / "cache" / "hidden-states"
    states.mkdir(parents=True)
    (states / "states").write_bytes(b"x" * 10_000)
    store = opened(0)
    store.materialise(records[0], tmp_path / "cache")
    assert (states / "states").exists()


def test_a_process_locks_a_bounded_number_of_folders(
    records: list[tuple[FileRecord, ...]],
    opened: Callable[..., ArtifactStore],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folder_cache, "MOST_IN_USE", 2)
    cache, store = tmp_path / "cache", opened(None)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in (0, 1, 0, 2, 2):
        store.materialise(records[number], cache)
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 2
    opened(0).materialise(records[3], cache)
    assert kept(cache) == {"weights0", "weights2", "weights3"}  # 1 was not asked for the longest
    store.close()


def test_many_at_once_make_one_copy(
    records: list[tuple[FileRecord, ...]],
    opened: Callable[..., ArtifactStore],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched: list[str] = []
    fetch = ArtifactStore._fetch

    def counted(store: ArtifactStore, record: FileRecord, path: Path) -> None:
        fetched.append(record.path)
        fetch(store, record, path)

    monkeypatch.setattr(ArtifactStore, "_fetch", counted)
    stores = [opened() for _ in range(6)]
    threads = [
        threading.Thread(target=store.materialise, args=(records[0], tmp_path / "cache")) for store in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == ["weights0"]
    assert kept(tmp_path / "cache") == {"weights0"}


#: Uses and evicts at random until it has done so often enough; every folder it was given must stay whole.
_WORKER = """
import random, sys
from pathlib import Path
from registry.entities import FileRecord
from registry.files.artifacts import ArtifactStore
root, cache, seed, *digests = sys.argv[1:]
chosen = random.Random(seed)
for _ in range(150):
    store = ArtifactStore(root, cache_limit_bytes=2500)
    number = chosen.randrange(4)
    file = FileRecord(path=f"weights{number}", digest=digests[number], size_bytes=1000)
    folder = store.materialise([file], Path(cache))
    for _ in range(chosen.randrange(4)):
        assert (folder / file.path).read_bytes() == bytes([number]) * 1000
    store.close()
"""


@pytest.mark.processes
def test_processes_that_evict_each_others_folders_never_lose_one_in_use(
    records: list[tuple[FileRecord, ...]], tmp_path: Path
) -> None:
    arguments = [str(tmp_path / "artifacts"), str(tmp_path / "cache")]
    digests = [one[0].digest for one in records]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, *arguments, str(seed), *digests],
            cwd=Path(__file__).parents[3],
            stderr=subprocess.PIPE,
        )
        for seed in range(4)
    ]
    said = [process.communicate(timeout=60)[1].decode() for process in started]
    assert said == [""] * 4
    assert [process.returncode for process in started] == [0] * 4
    assert len(kept(tmp_path / "cache")) <= 4
