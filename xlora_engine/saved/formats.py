"""Every format of a saved X-LoRA model, in one table: how a folder is told, read and written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from formats.saved_model import MANIFEST_FILE
from xlora_engine.errors import CheckpointUnreadable, ConfigInvalid
from xlora_engine.saved import checkpoint, original_format
from xlora_engine.saved.expert_folders import Adapters
from xlora_engine.saved.mistralrs_format import has_ordering, read_mistralrs, write_mistralrs
from xlora_engine.saved.original_format import read_original, write_original
from xlora_engine.saved.peft_format import is_peft_xlora, read_peft, write_peft
from xlora_engine.saved.saved_model import SavedModel
from xlora_engine.sources.new_folder import filling


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to lay a saved model out."""

    #: Whether a folder is laid out so.
    marks: Callable[[Path], bool]
    read: Callable[[Path, Adapters | None], SavedModel]
    #: Fills a folder, given also the place it will have; None: only a live model can be written.
    write: Callable[[SavedModel, Path, Path], None] | None


def _read_own(folder: Path, given: Adapters | None) -> SavedModel:
    if given is not None:
        raise ConfigInvalid("adapters", "left out: this checkpoint holds its experts", tuple(given))
    return checkpoint.load_checkpoint(folder)


def _has(name: str) -> Callable[[Path], bool]:
    return lambda folder: (folder / name).is_file()


#: Asked in this order: an ordering file makes mistral.rs's folder of the original package's.
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "zoo": Format(marks=_has(MANIFEST_FILE), read=_read_own, write=None),
        "mistralrs": Format(
            marks=lambda folder: _has(original_format.CONFIG_FILE)(folder) and has_ordering(folder),
            read=read_mistralrs,
            write=lambda saved, folder, _: write_mistralrs(saved, folder),
        ),
        "xlora": Format(
            marks=_has(original_format.CONFIG_FILE),
            read=read_original,
            write=lambda saved, folder, _: write_original(saved, folder),
        ),
        "peft": Format(marks=is_peft_xlora, read=read_peft, write=write_peft),
    }
)

#: What a saved model can be turned into without its base model.
EXPORTED = tuple(name for name, row in FORMATS.items() if row.write is not None)


def format_of(folder: Path) -> str:
    """Name of the format a folder is in.

    Raises:
        CheckpointUnreadable: it is in none.
    """
    for name, row in FORMATS.items():
        if row.marks(folder):
            return name
    raise CheckpointUnreadable(
        f"cannot read {folder}: it holds no {MANIFEST_FILE} (save_pretrained), "
        f"{original_format.CONFIG_FILE} (the original package, mistral.rs) or adapter_config.json of "
        "an X-LoRA model (PEFT)"
    )


def read_model(folder: Path, adapters: Adapters | None = None) -> SavedModel:
    """Read a saved model of any format; `adapters` says where experts are that moved since training.

    Raises:
        CheckpointInvalid: the folder is of no format, damaged, or cannot be computed exactly.
        ExpertInvalid: an expert cannot be used.
        ConfigInvalid: `adapters` does not fit what the folder names.
    """
    return FORMATS[format_of(folder)].read(folder, adapters)


def write_model(saved: SavedModel, folder: Path, layout: str) -> None:
    """Write a model in the format of another implementation, to a new folder, whole or not at all.

    Raises:
        ConfigInvalid: there is no such format to write.
        CheckpointInvalid: the folder holds something already.
        NotRepresentable: the format cannot say what the model computes; the field is named.
    """
    write = FORMATS[layout].write if layout in FORMATS else None
    if write is None:
        raise ConfigInvalid("format", f"one of {', '.join(EXPORTED)}", layout)
    with filling(folder) as staging:
        write(saved, staging, folder.resolve())
