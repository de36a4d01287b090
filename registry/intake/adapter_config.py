"""adapter_config.json, rebuilt from an allow-list: what an adapter says of itself, typed and ranged.

What a mixture of plain LoRA cannot honour is refused by name. Nothing of the file is passed on as it is: what
is stored is written anew from the fields below. Field names and defaults: peft 0.21.2, `LoraConfig`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from registry.errors import AdapterConfigInvalid, NotALora
from registry.files.strict_json import has_key, parse_object, shown
from registry.intake import config_fields
from registry.intake.config_fields import ALL_LINEAR, CONFIG_FILE, Reader, Value, is_transformers_class

CONFIG_LIMIT_BYTES = 1024 * 1024

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The part of a LoRA configuration that its tensors do not say themselves."""

    rank: int
    alpha: float
    use_rslora: bool
    #: Module name -> rank or alpha where it differs; the first name that ends a module's path counts.
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    #: As stated, sorted; which modules are really touched is for the tensors to say.
    target_modules: tuple[str, ...]
    #: Whether other fields, or `all-linear`, leave out modules that the names would take in.
    is_narrowed: bool
    fan_in_fan_out: bool
    lora_dropout: float
    init_lora_weights: bool | str
    task_type: str | None
    #: What the author says it was trained on: to compare with names, never a path to open.
    base_model_name_or_path: str | None
    peft_version: str | None

    def rank_of(self, path: str) -> int:
        """The rank that the configuration gives the module at `path`."""
        return _by_pattern(self.rank_pattern, path, default=self.rank)


def parse_config(data: bytes) -> AdapterConfig:
    """Read the bytes of an adapter_config.json.

    Raises:
        AdapterConfigInvalid: it is not strict JSON, or a field is of a wrong type or range, asks for what a
            mixture cannot honour, or is unknown and set; the message names the field.
        NotALora: the adapter is of another type than LoRA.
    """
    stated = parse_object(data, what=CONFIG_FILE, refusal=AdapterConfigInvalid)
    if has_key(stated, "trust_remote_code"):
        raise AdapterConfigInvalid(f"{CONFIG_FILE}: trust_remote_code must not be there, whatever its value")
    if stated.get("peft_type") != "LORA":
        raise NotALora(
            f"{CONFIG_FILE}: peft_type must be 'LORA', got {shown(stated.get('peft_type'))};"
            " only LoRA adapters can be catalogued and composed"
        )
    _refuse_unsupported(stated)
    read = {field: reader(field, stated.get(field)) for field, reader in _READERS.items()}
    for field, reader in _INERT.items():
        reader(field, stated.get(field))
    return AdapterConfig(
        rank=read.pop("r"),
        alpha=read.pop("lora_alpha"),
        is_narrowed=read["target_modules"] == (ALL_LINEAR,)
        or any(stated.get(field) is not None for field in ("exclude_modules", "layers_to_transform")),
        **read,
    )


def rebuild_config(config: AdapterConfig, *, modules: Iterable[str]) -> bytes:
    """The adapter_config.json that is stored: PEFT reads it, and finds just the modules that have tensors.

    `modules` are the paths that the tensors touch; they stand in for names that do not tell by themselves.
    A base model that lay in a folder is not repeated, it would mean nothing elsewhere.
    """
    base = config.base_model_name_or_path
    fields = {
        "peft_type": "LORA",
        "task_type": config.task_type,
        "base_model_name_or_path": base if base is not None and _HUB_ID.fullmatch(base) else None,
        "r": config.rank,
        "lora_alpha": _without_point(config.alpha),
        "lora_dropout": config.lora_dropout,
        "use_rslora": config.use_rslora,
        "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": {name: _without_point(alpha) for name, alpha in config.alpha_pattern.items()},
        "target_modules": sorted(modules) if config.is_narrowed else list(config.target_modules),
        "fan_in_fan_out": config.fan_in_fan_out,
        "bias": "none",
        # How training began is over; a name here would only make PEFT look for what it began from.
        "init_lora_weights": True,
        "inference_mode": True,
        "peft_version": config.peft_version,
    }
    return (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode()


def _by_pattern(patterns: Mapping[str, Value], path: str, *, default: Value) -> Value:
    """The first name that is the path, or ends it after a dot unless it starts with `^`: as PEFT picks it."""
    for name, value in patterns.items():
        plain = name.removeprefix("^")
        if path == plain or (plain == name and path.endswith(f".{plain}")):
            return value
    return default


def _without_point(number: float) -> float:
    return int(number) if number == int(number) else number


#: What is kept: field -> how its value is read; null and absent are the same.
_READERS: Mapping[str, Reader[Any]] = {
    "r": config_fields.rank,
    "lora_alpha": config_fields.alpha,
    "use_rslora": config_fields.switch,
    "rank_pattern": config_fields.pattern(config_fields.rank),
    "alpha_pattern": config_fields.pattern(config_fields.alpha),
    "target_modules": config_fields.names,
    "fan_in_fan_out": config_fields.switch,
    "lora_dropout": config_fields.dropout,
    "init_lora_weights": config_fields.start,
    "task_type": config_fields.task,
    "base_model_name_or_path": config_fields.text,
    "peft_version": config_fields.text,
}

#: What matters while training only, or is said by the tensors: checked and dropped.
_INERT: Mapping[str, Reader[Any]] = {
    "inference_mode": config_fields.switch,
    "revision": config_fields.text,
    "exclude_modules": config_fields.optional_names,
    "layers_to_transform": config_fields.layers,
    "layers_pattern": config_fields.optional_names,
    "qalora_group_size": config_fields.whole,
    "eva_config": config_fields.mapping,
    "velora_config": config_fields.mapping,
    "runtime_config": config_fields.mapping,
}


def _is_unset(value: Any) -> bool:
    return not value


#: What a mixture of plain LoRA cannot honour: field -> whether the value asks for nothing, and the reason.
_UNSUPPORTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "use_dora": (_is_unset, "DoRA rescales the base model's weights"),
    "bias": (lambda value: value in (None, "none"), "biases of the base model would change"),
    "lora_bias": (_is_unset, "a bias beside B is not part of a mixture"),
    "modules_to_save": (_is_unset, "whole layers of the base model would be replaced"),
    "layer_replication": (_is_unset, "the base model would get other layers"),
    "trainable_token_indices": (_is_unset, "the vocabulary would change"),
    "target_parameters": (_is_unset, "only whole modules can be experts"),
    "ensure_weight_tying": (_is_unset, "tied adapters are not part of a mixture"),
    "megatron_config": (_is_unset, "it makes PEFT import code"),
    "megatron_core": (lambda value: value in (None, "megatron.core"), "it makes PEFT import code"),
    "auto_mapping": (lambda value: not value or is_transformers_class(value), "it makes PEFT import code"),
    "tokenizer_kwargs": (_is_unset, "it belongs to prompt tuning and can load code"),
    "alora_invocation_tokens": (_is_unset, "activated LoRA changes only what follows an invocation"),
    "use_qalora": (_is_unset, "QALoRA needs a quantised base model"),
    "use_bdlora": (_is_unset, "block-diagonal factors are not plain LoRA"),
    "arrow_config": (_is_unset, "Arrow routes adapters in a way of its own"),
    "kasa_config": (_is_unset, "KaSA truncates the base model's weights"),
    "monteclora_config": (_is_unset, "Monte Carlo samples would be added to the weights"),
    "corda_config": (_is_unset, "CorDA changes the base model and can load a pickle"),
    "lora_ga_config": (_is_unset, "LoRA-GA changes the base model and can load a pickle"),
    "loftq_config": (_is_unset, "LoftQ changes the base model's weights"),
}


def _refuse_unsupported(stated: Mapping[str, Any]) -> None:
    for field, (asks_nothing, reason) in _UNSUPPORTED.items():
        if not asks_nothing(stated.get(field)):
            raise AdapterConfigInvalid(
                f"{CONFIG_FILE}: {field} = {shown(stated[field])} cannot be honoured: {reason};"
                " train the adapter again without it"
            )
    known = _READERS.keys() | _INERT.keys() | _UNSUPPORTED.keys() | {"peft_type"}
    for field in stated.keys() - known:
        # A field of a later PEFT that is not set asks for nothing.
        if stated[field]:
            raise AdapterConfigInvalid(
                f"{CONFIG_FILE}: the field {shown(field)} = {shown(stated[field])} is unknown; if it does not"
                " change what the adapter computes, remove it from the file"
            )
