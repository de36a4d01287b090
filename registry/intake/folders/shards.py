"""Weights of an adapter in parts, joined to the one file that PEFT reads.

Transformers writes parts where an adapter is larger than `max_shard_size`, and beside them an index that it
calls as that of a base model. Source: transformers 5, `PreTrainedModel.save_pretrained`.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from formats.peft import CONFIG_FILE, WEIGHTS_FILE
from formats.strict_json import parse_object, shown
from registry.errors import PickleRefused, WeightsInvalid
from registry.files.regular_files import read_bounded
from registry.files.safetensors_file import SafetensorsFile, opened_tensors
from registry.files.safetensors_writing import NewTensor, safetensors_bytes
from registry.files.staging import Staging
from registry.intake.folders.adapter_names import Shard, shards_among
from registry.intake.folders.pickles import refuse_other_content
from registry.intake.folders.places import AdapterPlace

_INDEX_FILES = ("model.safetensors.index.json", f"{WEIGHTS_FILE}.index.json")
_INDEX_LIMIT_BYTES = 64 * 1024 * 1024


def stage_shards(place: AdapterPlace, staging: Staging) -> tuple[str, ...]:
    """Stage the weights file of an adapter whose weights are in parts; names of the files that were read.

    Raises:
        PickleRefused: the parts are pickles.
        WeightsInvalid: one is missing or damaged, two hold the same, or an index says otherwise.
    """
    shards = shards_among(place.files)
    if not shards or WEIGHTS_FILE in place.files or CONFIG_FILE not in place.files:
        return ()
    _require_all(place, shards)
    names = [shard.name for shard in shards]
    holders: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(_opened(place, staging, name)) for name in names]
        for name, file in zip(names, files, strict=True):
            for entry in file.entries:
                if holders.setdefault(entry.name, name) != name:
                    raise WeightsInvalid(
                        f"{place.folder}: {holders[entry.name]} and {name} both hold {shown(entry.name)}, so"
                        " they are parts of two adapters; save the one that is meant again"
                    )
        indices = _require_indexed(place, holders)
        staging.write(WEIGHTS_FILE, safetensors_bytes(_tensors(files)))
    return (*names, *indices)


def _require_all(place: AdapterPlace, shards: Sequence[Shard]) -> None:
    pickle = next((shard for shard in shards if shard.is_pickle), None)
    if pickle is not None:
        raise PickleRefused(
            f"{place.folder / pickle.name} is a part of an adapter in pickles, and loading a pickle can run"
            " code; load the adapter where it was made, and save it with safe_serialization=True"
        )
    of = {shard.of for shard in shards}
    missing = sorted(set(range(1, max(of) + 1)) - {shard.number for shard in shards})
    if len(of) > 1 or missing:
        what = f"part {missing[0]} is missing" if missing else "they are counted in two ways"
        raise WeightsInvalid(
            f"{place.folder}: the weights are in parts ({', '.join(shard.name for shard in shards[:3])}), and"
            f" {what}; fetch the folder again"
        )


@contextlib.contextmanager
def _opened(place: AdapterPlace, staging: Staging, name: str) -> Iterator[SafetensorsFile]:
    called = place.folder / name
    copy = staging.copy(place.files[name], name, refusal=WeightsInvalid)
    refuse_other_content(copy.path, called=called)
    with opened_tensors(copy.path, called=called) as file:
        yield file


def _require_indexed(place: AdapterPlace, holders: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the indices beside, each of which says what the parts hold."""
    found = tuple(name for name in _INDEX_FILES if name in place.files)
    for name in found:
        called = place.folder / name
        data = read_bounded(place.files[name], limit_bytes=_INDEX_LIMIT_BYTES, refusal=WeightsInvalid)
        stated = parse_object(data, what=str(called), refusal=WeightsInvalid).get("weight_map")
        wrong = stated.items() ^ holders.items() if isinstance(stated, dict) else {(name, "")}
        if wrong:
            raise WeightsInvalid(
                f"{called} does not tell where {shown(min(wrong)[0])} is; the parts are not those that were"
                " saved together: fetch the folder again"
            )
    return found


def _tensors(files: Sequence[SafetensorsFile]) -> Iterator[NewTensor]:
    for file in files:
        for entry in file.entries:
            yield NewTensor(name=entry.name, dtype=entry.dtype, shape=entry.shape, data=file.data_of(entry))
