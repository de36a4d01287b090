"""A base model folder, looked at without loading it: identity, sizes, and the modules adapters can touch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formats.strict_json import shown
from registry.errors import InvalidBase, WeightsInvalid
from registry.files.digests import file_digest, weights_digest
from registry.files.file_kinds import FileKind, kind_of_name
from registry.files.json_text import digest_of
from registry.files.model_card import read_licence
from registry.files.regular_files import names_in
from registry.files.safetensors_header import TensorEntry, read_header
from registry.intake.adapter_tensors import dtype_name
from registry.intake.base_config import (
    CHAT_TEMPLATE_FILE,
    CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
    BaseConfig,
    read_base_config,
    read_chat_template,
    read_json,
)

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt"),
    *("added_tokens.json", "special_tokens_map.json"),
)
_JSON_FILES = (CONFIG_FILE, TOKENIZER_CONFIG_FILE, "generation_config.json")
#: One of these alone makes a tokenizer.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")

#: Model types whose attention and feed-forward layers are Conv1D, which keeps its weight as (d_in, d_out).
_CONV1D_TYPES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_CONV1D_MODULES = ("c_attn", "q_attn", "c_fc", "c_proj")
#: What transformers calls the output head of every causal language model that an adapter may name.
_HEAD = "lm_head"
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")


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


def read_base(folder: Path) -> BaseManifest:
    """Look at a base model folder in the layout that transformers' `save_pretrained` writes.

    Raises:
        InvalidBase: a part is missing or damaged, or a file in it could run code; the message names it.
    """
    names = _checked_names(folder)
    for name in names.intersection(_JSON_FILES):
        read_json(folder / name)
    config = read_base_config(folder)
    shards = _shards(folder, names)
    try:
        entries = [entry for shard in shards for entry in read_header(folder / shard)]
        weights = weights_digest(*(folder / shard for shard in shards))
    except WeightsInvalid as exc:
        raise InvalidBase(str(exc)) from exc
    tokenizer, template = _tokenizer_digests(folder, names)
    files = (*_kept(names), *shards, *(() if SINGLE_FILE in shards else (INDEX_FILE,)))
    parts = {"weights": weights, "config": config.digest, "tokenizer": tokenizer, "chat_template": template}
    return BaseManifest(
        digest=digest_of(parts),
        weights_digest=weights,
        config_digest=config.digest,
        tokenizer_digest=tokenizer,
        chat_template_digest=template,
        architecture=config.architecture,
        model_type=config.model_type,
        hidden_size=config.hidden_size,
        layer_count=config.layer_count,
        vocabulary_size=config.vocabulary_size,
        dtype=dtype_name(entries),
        parameter_count=sum(entry.size for entry in entries),
        size_bytes=sum((folder / shard).stat().st_size for shard in shards),
        licence=read_licence(folder, refusal=InvalidBase),
        modules=_modules(entries, config),
        files=tuple(sorted(files)),
        warnings=_warnings(names, files),
    )


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


def _shards(folder: Path, names: frozenset[str]) -> tuple[str, ...]:
    if SINGLE_FILE in names:
        return (SINGLE_FILE,)
    if INDEX_FILE not in names:
        hint = "; a .gguf file is given by its own path" if any(n.endswith(".gguf") for n in names) else ""
        raise InvalidBase(
            f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}; save the model with"
            f" save_pretrained(..., safe_serialization=True){hint}"
        )
    weight_map = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidBase(f"{INDEX_FILE}: weight_map must map tensors to files, got {shown(weight_map)}")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard) or shard not in names:
            raise InvalidBase(f"{INDEX_FILE} names {shown(shard)}, which is no safetensors file in {folder}")
    shards = tuple(sorted(set(weight_map.values())))
    _check_index(folder, weight_map, shards)
    return shards


def _check_index(folder: Path, weight_map: Mapping[str, str], shards: Sequence[str]) -> None:
    try:
        found = {entry.name: shard for shard in shards for entry in read_header(folder / shard)}
    except WeightsInvalid as exc:
        raise InvalidBase(str(exc)) from exc
    wrong = sorted(
        name for name in found.keys() | weight_map.keys() if found.get(name) != weight_map.get(name)
    )
    if wrong:
        raise InvalidBase(
            f"{INDEX_FILE} does not tell where {len(wrong)} tensors are, first {shown(wrong[0])}; the"
            " download is incomplete or mixed, fetch the model again"
        )


def _tokenizer_digests(folder: Path, names: frozenset[str]) -> tuple[str, str | None]:
    """Digests of the tokenizer without its chat template, and of the template."""
    if not any(name in names for name in _VOCABULARIES):
        raise InvalidBase(f"{folder} has no tokenizer; save it there with tokenizer.save_pretrained")
    config: dict[str, Any] = {}
    if TOKENIZER_CONFIG_FILE in names:
        config = read_json(folder / TOKENIZER_CONFIG_FILE)
    parts: dict[str, Any] = {
        name: file_digest(folder / name, refusal=InvalidBase)[0] for name in TOKENIZER_FILES if name in names
    }
    volatile = ("chat_template", "name_or_path", "is_local", "local_files_only")
    parts[TOKENIZER_CONFIG_FILE] = {key: value for key, value in config.items() if key not in volatile}
    return digest_of(parts), read_chat_template(folder, tokenizer_config=config)


def _modules(entries: Sequence[TensorEntry], config: BaseConfig) -> dict[str, tuple[int, int]]:
    modules: dict[str, tuple[int, int]] = {}
    for entry in entries:
        if len(entry.shape) == 2 and entry.name.endswith(".weight"):
            path = entry.name.removesuffix(".weight")
            first, second = entry.shape
            transposed = config.model_type in _CONV1D_TYPES and path.rpartition(".")[2] in _CONV1D_MODULES
            modules[path] = (second, first) if transposed else (first, second)
    embedding = next((path for path in modules if path.rpartition(".")[2] in _EMBEDDINGS), None)
    if config.has_tied_head and embedding is not None:
        modules.setdefault(_HEAD, modules[embedding])
    return modules


def _kept(names: frozenset[str]) -> list[str]:
    known = {
        *TOKENIZER_FILES,
        TOKENIZER_CONFIG_FILE,
        CHAT_TEMPLATE_FILE,
        CONFIG_FILE,
        "generation_config.json",
    }
    return [name for name in names if name in known or kind_of_name(name) is FileKind.TEXT]


def _warnings(names: frozenset[str], files: Sequence[str]) -> tuple[str, ...]:
    left = sorted(name for name in names - set(files) if not name.startswith("."))
    return (f"left out, because the model does not need it: {', '.join(left)}",) if left else ()
