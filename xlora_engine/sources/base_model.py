"""Base models on disk: loading, context length, conversion from GGUF."""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from xlora_engine.devices.attention import attend_in_float32_where_faster
from xlora_engine.errors import BaseUnreadable
from xlora_engine.sources.language_model import check_complete, language_model_of, require_known
from xlora_engine.sources.own_generation_config import token_ids_only

#: What `transformers` raises for files it cannot make a model of.
UNREADABLE = (OSError, ValueError, KeyError, IndexError, RuntimeError, SafetensorError)


def load_base(folder: Path, *, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Load a base model folder: only safetensors, nothing fetched, no code of its own, frozen.

    Of its generation configuration only the token ids are taken.

    Raises:
        BaseUnsupported: the folder holds no causal language model.
        BaseUnreadable: it is not complete, or cannot be read so.
    """
    config = load_config(folder)
    generation = token_ids_only(folder, config)
    model_class, part = language_model_of(config)
    try:
        loaded: Any = model_class.from_pretrained(
            folder,
            config=part,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            generation_config=generation,
        )
    except UNREADABLE as error:
        raise BaseUnreadable(f"cannot load a causal language model from {folder}: {error}") from error
    model, report = loaded
    check_complete(model, report, folder)
    model.requires_grad_(False)
    model.eval()
    model.get_output_embeddings().register_forward_pre_hook(_as_one_block)
    torch.nn.Module.to(model, device)
    attend_in_float32_where_faster(model)
    return cast("PreTrainedModel", model)


def _as_one_block(_head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The language-model head's input, made contiguous if it is the last tokens of longer sequences.

    Torch multiplies such a slice of a batch sequence by sequence, with a copy of the weight for each: 3 to
    50 times as slow on a CPU, the most in bfloat16.
    """
    return tuple(given.contiguous() for given in inputs)


def load_config(folder: Path) -> PreTrainedConfig:
    """Read a base model's configuration, without its weights.

    Raises:
        BaseUnsupported: it is of an architecture that `transformers` does not have itself.
        BaseUnreadable: there is none, or it cannot be read.
    """
    try:
        stated, _ = PreTrainedConfig.get_config_dict(folder, local_files_only=True)
        if stated:  # without a file, the next line says why
            require_known(stated)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except UNREADABLE as error:
        raise BaseUnreadable(f"cannot read the configuration of {folder}: {error}") from error
    return cast("PreTrainedConfig", config)


def context_length(config: PreTrainedConfig) -> int:
    """The most tokens a base model was made for; unbounded if its positions are relative (Bloom)."""
    return int(getattr(config.get_text_config(decoder=True), "max_position_embeddings", sys.maxsize))


@dataclass(frozen=True, kw_only=True)
class ReadLimits:
    """What a base model can read."""

    #: The most tokens of a question and its answer together.
    tokens: int
    #: Token ids from here on have no embedding.
    embeddings: int


def read_limits(config: PreTrainedConfig) -> ReadLimits:
    """What a base model of this configuration can read."""
    text = config.get_text_config(decoder=True)
    return ReadLimits(tokens=context_length(config), embeddings=int(text.vocab_size))


def load_tokenizer(folder: Path, *, called: Path | None = None) -> Any:
    """Load the tokenizer beside a base model; messages name the folder `called`.

    Without a padding token, or with one that the model has no embedding for, it pads with the end token.

    Raises:
        BaseUnreadable: there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises this class itself
        raise BaseUnreadable(f"cannot load a tokenizer from {called or folder}: {error}") from error
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= _embeddings(folder):
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _embeddings(folder: Path) -> int:
    """How many tokens the model beside a tokenizer reads; unbounded where there is none."""
    return read_limits(load_config(folder)).embeddings if (folder / "config.json").exists() else sys.maxsize


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Convert a GGUF file to a new folder of bfloat16 safetensors and tokenizer, complete or not at all.

    Raises:
        BaseUnreadable: `transformers` cannot read the file, or the folder exists already.
    """
    if folder.exists():
        raise BaseUnreadable(f"{folder} exists already; remove it or convert to another folder")
    if not _is_gguf(gguf):
        raise BaseUnreadable(f"{gguf} is no GGUF file: it does not begin with the bytes GGUF")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as staging:
        # A folder inside it, because a temporary one is not readable by other users.
        converted = Path(staging) / folder.name
        _convert(gguf, converted)
        converted.rename(folder)


def _convert(gguf: Path, folder: Path) -> None:
    source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            dtype=torch.bfloat16,
            # Without it the weights stay packed, and a packed model cannot be saved.
            quantization_config=GgufConfig(dequantize=True),
            **source,
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    except Exception as error:  # the tokenizers library raises this class itself
        raise BaseUnreadable(f"cannot read {gguf}: {error}") from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _forget_origin(folder / "config.json")
    _forget_origin(folder / "tokenizer_config.json")


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def _forget_origin(config_file: Path) -> None:
    """Drop fields that only describe the conversion: path or name of the source, how it was packed."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    origin = ("_name_or_path", "_model_name_or_path", "name_or_path", "quantization_config")
    for field in (*origin, "is_local", "local_files_only"):
        config.pop(field, None)
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
