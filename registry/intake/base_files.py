"""A base model folder, copied and looked at without loading it: identity, sizes, modules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formats.base_modules import HEAD, HEADS, embedding_of
from registry.errors import InvalidBase
from registry.files.file_kinds import FileKind, kind_of_name
from registry.files.json_text import digest_of
from registry.files.linked_files import boundary_of, followed, list_folder, snapshot_of
from registry.files.model_card import licence_in
from registry.files.safetensors_file import TensorEntry
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
from registry.intake.base_kinds import without_config
from registry.intake.base_tokenizer import put_default, stage_template, template_warnings, token_warnings
from registry.intake.base_weights import (
    INDEX_FILE,
    SINGLE_FILE,
    Prove,
    find_weights,
    require_head,
    require_layers,
    stage_weights,
)
from registry.intake.tokenizer_files import CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILES

_JSON_FILES = (CONFIG_FILE, TOKENIZER_CONFIG_FILE, GENERATION_CONFIG_FILE)
#: One of these alone makes a tokenizer.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")

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
    #: Module path, in the loaded model if that was proven, else as the files have it -> (d_out, d_in); of an
    #: embedding (vocabulary, width).
    modules: Mapping[str, tuple[int, int]]
    #: Names of the files to keep.
    files: tuple[str, ...]
    warnings: tuple[str, ...]


def stage_base(
    folder: Path, staging: Staging, *, prove: Prove | None = None, chat_template: str | None = None
) -> BaseManifest:
    """Copy what is kept of a folder in the layout of transformers' `save_pretrained`, and look at the copies.

    With `prove` the weights are copied only once their names are proven to be those of a base model, and one
    without a chat template gets what the proof proposes. `chat_template` is as in `stage_template`.

    Raises:
        InvalidBase: a part is missing or damaged, or it is no causal language model; the message says which.
    """
    folder = snapshot_of(folder, refusal=InvalidBase)
    names = _names(folder)
    if CONFIG_FILE not in names and (instead := without_config(names)):
        raise InvalidBase(f"{folder} has no {CONFIG_FILE}: {instead}")
    index = (INDEX_FILE,) if INDEX_FILE in names and SINGLE_FILE not in names else ()
    for name in {CONFIG_FILE, *_kept(names), *index}:
        staging.copy(followed(folder, name), name, refusal=InvalidBase, limit_bytes=SIZE_LIMITS.get(name))
    is_proven = prove is not None
    for name in names.intersection(_JSON_FILES):
        read_json(staging[name].path, own_code=is_proven)
    config = read_base_config(staging.folder, own_code=is_proven)
    tokenizer_config = _stated(staging, TOKENIZER_CONFIG_FILE)
    _require_tokenizer(folder, staging)
    said = stage_template(folder, names, staging, asked=chat_template)
    found = find_weights(folder, names, staging)
    modules = _modules(found.entries, config)
    require_head(config, modules, heads=HEADS)
    require_layers(config, len(found.entries))
    proven = None if prove is None else prove(staging.folder, found.entries)
    if proven is not None and proven.template is not None:
        said = (*said, put_default(staging, proven.template))
    weights = stage_weights(folder, found, staging)
    tokenizer, template = _tokenizer_digests(staging, tokenizer_config)
    embedding = embedding_of(modules)
    written = [CHAT_TEMPLATE_FILE] if CHAT_TEMPLATE_FILE in staging else []
    files = tuple(sorted({*_kept(names), *written, *weights.shards, *index}))
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
        modules=modules if proven is None else proven.modules,
        files=files,
        warnings=(
            *(() if proven is None else proven.warnings),
            *said,
            *template_warnings(staging),
            *token_warnings(staging, embeddings=None if embedding is None else embedding[0]),
            *_left_out(names, files),
        ),
    )


def _names(folder: Path) -> frozenset[str]:
    """Names of the regular files; pickles and code among them are never copied or opened."""
    listing = list_folder(folder, within=boundary_of(folder), refusal=InvalidBase)
    for name, what in listing.unusable.items():
        raise InvalidBase(
            f"{folder / name} is {what}; copy the folder with its links resolved (cp -rL {folder} copy) and"
            " give the copy"
        )
    return frozenset(listing.files)


def _stated(staging: Staging, name: str) -> dict[str, Any]:
    """What a copied JSON file says, which was checked before; nothing if it is not there."""
    return read_json(staging[name].path, own_code=True) if name in staging else {}


def _generation_part(staging: Staging) -> dict[str, str]:
    """The generation config's part of the identity: it decides where an answer ends."""
    said = _stated(staging, GENERATION_CONFIG_FILE)
    if not said:
        return {}
    volatile = ("transformers_version", "_from_model_config")
    return {"generation_config": digest_of({key: said[key] for key in said if key not in volatile})}


def _require_tokenizer(folder: Path, staging: Staging) -> None:
    if not any(name in staging for name in _VOCABULARIES):
        raise InvalidBase(f"{folder} has no tokenizer; save it there with tokenizer.save_pretrained")


def _tokenizer_digests(staging: Staging, config: Mapping[str, Any]) -> tuple[str, str | None]:
    """Digests of the tokenizer without its chat template, and of the template."""
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


def _left_out(names: frozenset[str], files: Sequence[str]) -> tuple[str, ...]:
    """What of a folder is neither opened nor copied, and why."""
    left = sorted(name for name in names - set(files) if not name.startswith("."))
    runs = [name for name in left if kind_of_name(name) in (FileKind.PICKLE, FileKind.CODE)]
    other = [name for name in left if name not in runs]
    return (
        *([f"left out, because it could run code when it is loaded: {', '.join(runs)}"] if runs else ()),
        *([f"left out, because the model does not need it: {', '.join(other)}"] if other else ()),
    )
