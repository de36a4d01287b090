"""A base model folder, copied and looked at without loading it: identity, sizes, modules."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formats.base_modules import HEAD, HEADS, embedding_of
from formats.strict_json import shown
from registry.errors import InvalidBase, WeightsInvalid
from registry.files.digests import weights_digest
from registry.files.file_kinds import FileKind, kind_of_name
from registry.files.json_text import digest_of
from registry.files.model_card import licence_in
from registry.files.regular_files import names_in
from registry.files.safetensors_file import TensorEntry, opened_tensors
from registry.files.staging import Staging
from registry.intake.adapter_tensors import dtype_name
from registry.intake.base_config import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    SIZE_LIMITS,
    BaseConfig,
    read_base_config,
    read_chat_template,
    read_json,
)
from registry.intake.base_limits import require_head, template_warnings, token_warnings
from registry.intake.tokenizer_files import CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILES

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_JSON_FILES = (CONFIG_FILE, TOKENIZER_CONFIG_FILE, GENERATION_CONFIG_FILE)
#: One of these alone makes a tokenizer.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")

#: Model types whose attention and feed-forward layers are Conv1D, which keeps its weight as (d_in, d_out).
_CONV1D_TYPES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_CONV1D_MODULES = ("c_attn", "q_attn", "c_fc", "c_proj")


@dataclass(frozen=True, kw_only=True)
class BaseManifest:
    """What a base model folder holds, derived from its files."""

    #: Identity: over the four digests below.
    digest: str
    weights_digest: str
    config_digest: str
    tokenizer_digest: str
    chat_template_digest: str | None
    architecture: str
    model_type: str
    hidden_size: int
    layer_count: int
    vocabulary_size: int
    #: "float32", "bfloat16", …; several joined by a comma.
    dtype: str
    parameter_count: int
    #: Of the weights.
    size_bytes: int
    licence: str | None
    #: Module path -> (d_out, d_in); of an embedding (vocabulary, width).
    modules: Mapping[str, tuple[int, int]]
    #: Names of the files to keep.
    files: tuple[str, ...]
    warnings: tuple[str, ...]


def stage_base(folder: Path, staging: Staging) -> BaseManifest:
    """Copy what is kept of a folder in the layout of transformers' `save_pretrained`, and look at the copies.

    Raises:
        InvalidBase: a part is missing or damaged, or a file in it could run code; the message names it.
    """
    names = _checked_names(folder)
    index = (INDEX_FILE,) if INDEX_FILE in names and SINGLE_FILE not in names else ()
    for name in {CONFIG_FILE, *_kept(names), *index}:
        staging.copy(folder / name, name, refusal=InvalidBase, limit_bytes=SIZE_LIMITS.get(name))
    for name in names.intersection(_JSON_FILES):
        read_json(staging[name].path)
    config = read_base_config(staging.folder)
    tokenizer_config = _tokenizer_config(staging)
    tokenizer, template = _tokenizer_digests(folder, staging, tokenizer_config)
    weights = _stage_weights(folder, names, staging)
    modules = _modules(weights.entries, config)
    require_head(config, modules, heads=HEADS)
    embedding = embedding_of(modules)
    files = tuple(sorted((*_kept(names), *weights.shards, *index)))
    parts = {
        "weights": weights.digest,
        "config": config.digest,
        "tokenizer": tokenizer,
        "chat_template": template,
        **_generation_part(staging),
    }
    return BaseManifest(
        digest=digest_of(parts),
        weights_digest=weights.digest,
        config_digest=config.digest,
        tokenizer_digest=tokenizer,
        chat_template_digest=template,
        architecture=config.architecture,
        model_type=config.model_type,
        hidden_size=config.hidden_size,
        layer_count=config.layer_count,
        vocabulary_size=config.vocabulary_size,
        dtype=dtype_name(weights.entries),
        parameter_count=sum(entry.size for entry in weights.entries),
        size_bytes=sum(staging[shard].size_bytes for shard in weights.shards),
        licence=licence_in(staging),
        modules=modules,
        files=files,
        warnings=(
            *template_warnings(staging, tokenizer_config),
            *token_warnings(staging, embeddings=None if embedding is None else embedding[0]),
            *_warnings(names, files),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """The weights of a base model, in one file or several."""

    shards: tuple[str, ...]
    entries: tuple[TensorEntry, ...]
    digest: str


def _stage_weights(folder: Path, names: frozenset[str], staging: Staging) -> _Weights:
    weight_map = None if SINGLE_FILE in names else _weight_map(folder, names, staging)
    shards = (SINGLE_FILE,) if weight_map is None else tuple(sorted(set(weight_map.values())))
    for shard in shards:
        staging.copy(folder / shard, shard, refusal=InvalidBase)
    with contextlib.ExitStack() as stack:
        try:
            files = {
                shard: stack.enter_context(opened_tensors(staging[shard].path, called=folder / shard))
                for shard in shards
            }
            if weight_map is not None:
                found = {entry.name: shard for shard, file in files.items() for entry in file.entries}
                _check_index(found, weight_map)
            digest = weights_digest(*files.values())
        except WeightsInvalid as exc:
            raise InvalidBase(str(exc)) from exc
    entries = tuple(entry for file in files.values() for entry in file.entries)
    return _Weights(shards=shards, entries=entries, digest=digest)


def _checked_names(folder: Path) -> frozenset[str]:
    """Names of the regular files; refuses a folder with pickles or code."""
    names = names_in(folder, refusal=InvalidBase)
    for name, is_folder in names.items():
        kind = kind_of_name(name, is_folder=is_folder)
        if kind in (FileKind.PICKLE, FileKind.CODE):
            raise InvalidBase(
                f"{folder / name} could run code when it is loaded; give a copy of the folder without it,"
                f" with the weights as {SINGLE_FILE}"
            )
    return frozenset(name for name, is_folder in names.items() if not is_folder)


def _weight_map(folder: Path, names: frozenset[str], staging: Staging) -> Mapping[str, str]:
    if INDEX_FILE not in names:
        hint = "; a .gguf file is given by its own path" if any(n.endswith(".gguf") for n in names) else ""
        raise InvalidBase(
            f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}; save the model with"
            f" save_pretrained(..., safe_serialization=True){hint}"
        )
    weight_map = read_json(staging[INDEX_FILE].path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidBase(f"{INDEX_FILE}: weight_map must map tensors to files, got {shown(weight_map)}")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard) or shard not in names:
            raise InvalidBase(f"{INDEX_FILE} names {shown(shard)}, which is no safetensors file in {folder}")
    return weight_map


def _check_index(found: Mapping[str, str], weight_map: Mapping[str, str]) -> None:
    wrong = sorted(
        name for name in found.keys() | weight_map.keys() if found.get(name) != weight_map.get(name)
    )
    if wrong:
        raise InvalidBase(
            f"{INDEX_FILE} does not tell where {len(wrong)} tensors are, first {shown(wrong[0])}; the"
            " download is incomplete or mixed, fetch the model again"
        )


def _tokenizer_config(staging: Staging) -> dict[str, Any]:
    if TOKENIZER_CONFIG_FILE not in staging:
        return {}
    return read_json(staging[TOKENIZER_CONFIG_FILE].path)


def _generation_part(staging: Staging) -> dict[str, str]:
    """The generation config's part of the identity: it decides where an answer ends."""
    if GENERATION_CONFIG_FILE not in staging:
        return {}
    said = read_json(staging[GENERATION_CONFIG_FILE].path)
    volatile = ("transformers_version", "_from_model_config")
    return {"generation_config": digest_of({key: said[key] for key in said if key not in volatile})}


def _tokenizer_digests(folder: Path, staging: Staging, config: Mapping[str, Any]) -> tuple[str, str | None]:
    """Digests of the tokenizer without its chat template, and of the template."""
    if not any(name in staging for name in _VOCABULARIES):
        raise InvalidBase(f"{folder} has no tokenizer; save it there with tokenizer.save_pretrained")
    parts: dict[str, Any] = {name: staging[name].digest for name in TOKENIZER_FILES if name in staging}
    volatile = ("chat_template", "name_or_path", "is_local", "local_files_only")
    parts[TOKENIZER_CONFIG_FILE] = {key: value for key, value in config.items() if key not in volatile}
    return digest_of(parts), read_chat_template(staging.folder, tokenizer_config=config)


def _modules(entries: Sequence[TensorEntry], config: BaseConfig) -> dict[str, tuple[int, int]]:
    modules: dict[str, tuple[int, int]] = {}
    for entry in entries:
        if len(entry.shape) == 2 and entry.name.endswith(".weight"):
            path = entry.name.removesuffix(".weight")
            first, second = entry.shape
            transposed = config.model_type in _CONV1D_TYPES and path.rpartition(".")[2] in _CONV1D_MODULES
            modules[path] = (second, first) if transposed else (first, second)
    embedding = embedding_of(modules)
    if config.has_tied_head and embedding is not None:
        modules.setdefault(HEAD, embedding)
    return modules


def _kept(names: frozenset[str]) -> list[str]:
    known = {
        *TOKENIZER_FILES,
        TOKENIZER_CONFIG_FILE,
        CHAT_TEMPLATE_FILE,
        CONFIG_FILE,
        GENERATION_CONFIG_FILE,
    }
    return [name for name in names if name in known or kind_of_name(name) is FileKind.TEXT]


def _warnings(names: frozenset[str], files: Sequence[str]) -> tuple[str, ...]:
    left = sorted(name for name in names - set(files) if not name.startswith("."))
    return (f"left out, because the model does not need it: {', '.join(left)}",) if left else ()
