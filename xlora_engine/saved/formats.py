"""Every format of a saved X-LoRA model, in one table: how a folder is recognised, read and written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from formats.saved_model import MANIFEST_FILE
from xlora_engine.errors import ConfigInvalid, SavedFileUnreadable
from xlora_engine.saved import original_format, zoo_format
from xlora_engine.saved.expert_folders import Adapters
from xlora_engine.saved.mistralrs_format import has_ordering, read_mistralrs, write_mistralrs
from xlora_engine.saved.original_format import read_original, write_original
from xlora_engine.saved.peft_format import is_peft_xlora, read_peft, write_peft
from xlora_engine.saved.saved_model import SavedModel
from xlora_engine.saved.zoo_format import read_zoo, write_zoo
from xlora_engine.sources.new_folder import filling, replacing

#: The format of this engine itself.
OWN_FORMAT = "zoo"


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to lay a saved model out."""

    #: Whether a folder is laid out so.
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Adapters | None], SavedModel]
    #: Fills a folder; its second path is the one the folder will have.
    write: Callable[[SavedModel, Path, Path], None]
    #: Entries that a new model replaces where a folder holds one; empty: it takes a new folder.
    replaces: tuple[str, ...] = ()


def _has(name: str) -> Callable[[Path], bool]:
    return lambda folder: (folder / name).is_file()


#: Tried in this order: an ordering file makes mistral.rs's folder of the original package's.
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        OWN_FORMAT: Format(
            recognises=_has(MANIFEST_FILE),
            read=read_zoo,
            write=lambda saved, folder, _: write_zoo(saved, folder),
            replaces=zoo_format.ENTRIES,
        ),
        "mistralrs": Format(
            recognises=lambda folder: _has(original_format.CONFIG_FILE)(folder) and has_ordering(folder),
            read=read_mistralrs,
            write=write_mistralrs,
        ),
        "xlora": Format(
            recognises=_has(original_format.CONFIG_FILE),
            read=read_original,
            write=lambda saved, folder, _: write_original(saved, folder),
        ),
        "peft": Format(recognises=is_peft_xlora, read=read_peft, write=write_peft),
    }
)

#: Formats that other implementations read.
EXPORTED = tuple(name for name in FORMATS if name != OWN_FORMAT)


def format_of(folder: Path) -> str:
    """Name of the format a folder is in.

    Raises:
        SavedFileUnreadable: it is in none.
    """
    for name, row in FORMATS.items():
        if row.recognises(folder):
            return name
    raise SavedFileUnreadable(
        f"cannot read {folder}: it holds no {MANIFEST_FILE} (save_pretrained), "
        f"{original_format.CONFIG_FILE} (the original package, mistral.rs) or adapter_config.json of "
        "an X-LoRA model (PEFT)"
    )


def read_model(folder: Path, adapters: Adapters | None = None) -> SavedModel:
    """Read a saved model of any format; `adapters` says where experts are that moved since training.

    Raises:
        SavedModelInvalid: the folder is of no format, damaged, or cannot be computed exactly.
        ExpertInvalid: an expert cannot be used.
        ConfigInvalid: `adapters` does not fit what the folder names.
    """
    return FORMATS[format_of(folder)].read(folder, adapters)


def write_model(saved: SavedModel, folder: Path, layout: str) -> None:
    """Write a model in one of the formats, whole or not at all.

    Raises:
        ConfigInvalid: there is no such format.
        SavedModelInvalid: the folder is not empty, and holds no model that may be replaced.
        NotRepresentable: the format cannot represent what the model computes; the field is named.
    """
    if layout not in FORMATS:
        raise ConfigInvalid("format", f"one of {', '.join(FORMATS)}", layout)
    row = FORMATS[layout]
    with replacing(folder, row.replaces) if row.replaces else filling(folder) as staging:
        row.write(saved, staging, folder.resolve())
