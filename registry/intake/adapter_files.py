"""An adapter folder, copied and looked at without trusting it: which files it holds, and what is in them.

Nothing is loaded: configuration and tensors are read by parsers of our own, a pickle by none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from formats.peft import CONFIG_FILE, PICKLED_WEIGHTS_FILE, WEIGHTS_FILE
from registry.errors import AdapterConfigInvalid, InvalidAdapter, PickleRefused, WeightsInvalid
from registry.files.file_kinds import FileKind, kind_of_name
from registry.files.model_card import licence_in
from registry.files.regular_files import names_in, read_bounded
from registry.files.safetensors_file import opened_tensors
from registry.files.staging import Staging
from registry.intake.adapter_config import CONFIG_LIMIT_BYTES, AdapterConfig, parse_config, rebuild_config
from registry.intake.adapter_tensors import ModuleShape, dtype_name, pair_modules, read_values
from registry.intake.tokenizer_files import (
    LIMIT_BYTES,
    NAMES,
    TokenizerFiles,
    UnreadableFile,
    read_tokenizer,
)

_TEXT_LIMIT_BYTES = 1024 * 1024

#: File -> what refuses it, and how large it may be; for texts see above.
_LIMITS = {CONFIG_FILE: (AdapterConfigInvalid, CONFIG_LIMIT_BYTES)}

#: Beginnings of what `torch.save` writes: a zip, or a bare pickle of protocol 2 to 5.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True, kw_only=True)
class AdapterManifest:
    """What an adapter folder holds, derived from its files."""

    config: AdapterConfig
    #: Module path -> its update, resolved from the tensors.
    modules: Mapping[str, ModuleShape]
    #: "float32", "bfloat16", …; several joined by a comma.
    dtype: str
    parameter_count: int
    #: Of the weights file.
    size_bytes: int
    weights_digest: str
    #: Names of the files to keep.
    files: tuple[str, ...]
    licence: str | None
    #: Of the tokenizer beside it, which is compared with the base model's and not kept.
    tokenizer: TokenizerFiles = field(default_factory=TokenizerFiles)
    warnings: tuple[str, ...]


def stage_adapter(folder: Path, staging: Staging) -> AdapterManifest:
    """Copy the files of a PEFT LoRA folder that are kept, and look at the copies.

    The configuration among them is the one written anew.

    Raises:
        InvalidAdapter: it is none, or holds what must not be loaded; the message names file, field or tensor.
            Subclasses tell a bad configuration, bad weights, a pickle, another kind of adapter, and one that
            changes nothing from each other.
    """
    files, ignored = _choose_files(folder)
    for name in files:
        if name != WEIGHTS_FILE:
            refusal, limit_bytes = _LIMITS.get(name, (InvalidAdapter, _TEXT_LIMIT_BYTES))
            staging.copy(folder / name, name, refusal=refusal, limit_bytes=limit_bytes)
    config = parse_config(staging[CONFIG_FILE].read())
    copy = staging.copy(folder / WEIGHTS_FILE, WEIGHTS_FILE, refusal=WeightsInvalid)
    _refuse_disguised_pickle(copy.path, called=folder / WEIGHTS_FILE)
    with opened_tensors(copy.path, called=folder / WEIGHTS_FILE) as weights:
        entries = weights.entries
        modules = pair_modules(entries, config)
        values = read_values(weights)
    staging.write(CONFIG_FILE, rebuild_config(config, modules=modules))
    return AdapterManifest(
        config=config,
        modules=modules,
        dtype=dtype_name(entries),
        parameter_count=sum(entry.size for entry in entries),
        size_bytes=copy.size_bytes,
        weights_digest=values.digest,
        files=files,
        licence=licence_in(staging),
        tokenizer=read_tokenizer(ignored, lambda name: _read_beside(folder / name)),
        warnings=tuple(
            _warnings(
                [name for name in ignored if name not in NAMES],
                zero=values.zero_modules,
                modules=len(modules),
            )
        ),
    )


def _read_beside(path: Path) -> bytes:
    return read_bounded(path, limit_bytes=LIMIT_BYTES, refusal=UnreadableFile)


def _choose_files(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names to keep and names that are ignored; refuses the folder for any other."""
    kept, ignored = [], []
    names = names_in(folder, refusal=InvalidAdapter)
    kinds = {name: kind_of_name(name, is_folder=is_folder) for name, is_folder in names.items()}
    for name, kind in kinds.items():
        if name in (CONFIG_FILE, WEIGHTS_FILE) or kind is FileKind.TEXT:
            kept.append(name)
        elif kind is FileKind.PICKLE:
            raise PickleRefused(_pickle_advice(folder / name, has_weights=WEIGHTS_FILE in names))
        elif kind is FileKind.BYSTANDER:
            ignored.append(name)
        else:
            raise InvalidAdapter(
                f"{folder / name} is no file of a LoRA adapter, which is {CONFIG_FILE}, {WEIGHTS_FILE} and"
                " texts such as README.md or LICENSE; move it away, or give a copy of the folder without it"
            )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if names.get(name) is not False:
            raise InvalidAdapter(f"{folder} has no {name}; give the folder that PEFT's save_pretrained wrote")
    return tuple(kept), tuple(ignored)


def _pickle_advice(path: Path, *, has_weights: bool) -> str:
    refused = f"{path} is a pickle or may hold one, and loading a pickle can run code"
    if has_weights or not path.name.startswith("adapter_model"):
        return f"{refused}; it is no part of an adapter: delete it, then register the folder again"
    return f"{refused}. {_conversion(path)}, delete it, then register the folder again"


def _conversion(path: Path) -> str:
    return (
        "If you trust it, convert it, on a machine you can spare: python -c "
        f'"import torch, safetensors.torch as s; s.save_file({{k: v.contiguous() for k, v in'
        f' torch.load({str(path)!r}, weights_only=True).items()}}, {str(path.with_name(WEIGHTS_FILE))!r})"'
    )


def _refuse_disguised_pickle(copy: Path, *, called: Path) -> None:
    with copy.open("rb") as file:
        start = file.read(9)
    # A safetensors file has a small number and a brace here.
    if start.startswith(_PICKLE_STARTS) and start[8:] != b"{":
        raise PickleRefused(
            f"{called} is a pickle under another name, and loading a pickle can run code. Rename it to"
            f" {PICKLED_WEIGHTS_FILE}. {_conversion(called.with_name(PICKLED_WEIGHTS_FILE))}"
        )


def _warnings(ignored: Sequence[str], *, zero: int, modules: int) -> list[str]:
    warnings = []
    left_out = [name for name in ignored if name not in NAMES]
    if left_out:
        warnings.append(f"left out, because an adapter does not need it: {', '.join(left_out)}")
    if zero:
        warnings.append(f"the update is zero in {zero} of {modules} modules")
    return warnings
