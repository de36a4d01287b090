"""Weights of the base model that PEFT saves with an adapter: equal to the base model's own, or refused.

PEFT does it by default where embedding or output head are adapted, or the vocabulary was changed.
"""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

from formats.base_modules import HEADS, TOKEN_EMBEDDINGS
from formats.module_names import is_of_no_text, place_independent
from registry.entities import FileRecord
from registry.errors import WeightsInvalid
from registry.files.safetensors_file import ELEMENT_BYTES, SafetensorsFile, TensorEntry, values_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Opens stored bytes by their digest.
OpenStored: TypeAlias = Callable[[str], IO[bytes] | io.RawIOBase]

_SAFETENSORS = ".safetensors"
_AT_ONCE = 4 * 1024 * 1024


def require_copy(
    file: SafetensorsFile,
    entry: TensorEntry,
    module: str,
    base_files: Sequence[FileRecord],
    opened: OpenStored,
) -> None:
    """Do nothing if the tensor is the base model's weight of this module, in either's dtype.

    Raises:
        WeightsInvalid: it is another, or the base model has none there.
    """
    with _base_weight(module, base_files, opened) as found:
        if found is None or found[1].shape != entry.shape or not _are_equal(file, entry, *found):
            sizes = "" if found is None or found[1].shape == entry.shape else (
                f": it is {list(entry.shape)}, the base model's {list(found[1].shape)}, as after added tokens"
            )  # fmt: skip
            raise WeightsInvalid(
                f"the adapter holds a weight for {module} itself ({entry.name}), which is not the base"
                f" model's{sizes}: it was trained along, or belongs to another base model; register the base"
                " model with that weight, or save the adapter with save_embedding_layers=False if it is not"
                " needed"
            )


@contextlib.contextmanager
def _base_weight(
    module: str, files: Sequence[FileRecord], opened: OpenStored
) -> Iterator[tuple[SafetensorsFile, TensorEntry] | None]:
    """The base model's weight of a module; a head that has none is the embedding."""
    shards = [file for file in files if file.path.endswith(_SAFETENSORS)]
    is_head = place_independent(module).rpartition(".")[2] in HEADS
    for wanted in (_is_of(module), *([_is_token_embedding] if is_head else [])):
        for shard in shards:
            with _opened_shard(shard, opened) as file:
                entry = next((e for e in file.entries if wanted(e.name)), None)
                if entry is not None:
                    yield file, entry
                    return
    yield None


def _is_of(module: str) -> Callable[[str], bool]:
    rest = place_independent(module)
    endings = {rest, rest.rpartition(".")[2]}
    return lambda key: not is_of_no_text(key) and place_independent(key.removesuffix(".weight")) in endings


def _is_token_embedding(key: str) -> bool:
    path = key.removesuffix(".weight")
    return not is_of_no_text(path) and path.rpartition(".")[2] in TOKEN_EMBEDDINGS


@contextlib.contextmanager
def _opened_shard(shard: FileRecord, opened: OpenStored) -> Iterator[SafetensorsFile]:
    with contextlib.ExitStack() as stack:
        stored = opened(shard.digest)
        stack.enter_context(contextlib.closing(stored))
        file = stored if isinstance(stored, io.FileIO) else stack.enter_context(_local_copy(stored))
        yield SafetensorsFile(file, Path(shard.path))


@contextlib.contextmanager
def _local_copy(stored: IO[bytes] | io.RawIOBase) -> Iterator[io.FileIO]:
    """The bytes of a remote store in a file that is gone afterwards."""
    with tempfile.NamedTemporaryFile() as copy:
        shutil.copyfileobj(stored, copy)
        copy.flush()
        with Path(copy.name).open("rb", buffering=0) as file:
            yield file


def _are_equal(
    one_file: SafetensorsFile, one: TensorEntry, other_file: SafetensorsFile, other: TensorEntry
) -> bool:
    """Whether two tensors of a shape are equal, whichever of them was rounded to a shorter dtype since."""
    shorter = min((one.dtype, other.dtype), key=lambda dtype: ELEMENT_BYTES[dtype])
    parts = zip(_parts(one_file, one), _parts(other_file, other), strict=True)
    return all((_rounded(a, shorter) == _rounded(b, shorter)).all() for a, b in parts)


def _parts(file: SafetensorsFile, entry: TensorEntry) -> Iterator["NDArray[np.float32]"]:
    """A tensor's values in pieces of the same number, whatever its dtype."""
    size = ELEMENT_BYTES[entry.dtype]
    for begin in range(entry.begin, entry.end, _AT_ONCE * size):
        end = min(begin + _AT_ONCE * size, entry.end)
        part = TensorEntry(
            name=entry.name, dtype=entry.dtype, shape=((end - begin) // size,), begin=begin, end=end
        )
        yield values_of(file.data_of(part), part, called=file.called)


def _rounded(values: "NDArray[np.float32]", dtype: str) -> "NDArray[np.float32]":
    import numpy as np

    if dtype == "F16":
        return values.astype(np.float16).astype(np.float32)
    if dtype == "BF16":  # to the nearest, of two equally near ones to the even one
        bits = values.view(np.uint32)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return nearest.astype(np.uint32).view(np.float32)
    return values
