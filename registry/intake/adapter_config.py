"""adapter_config.json, rebuilt from an allow-list: what an adapter says of itself, typed and ranged.

Nothing of the file is passed on as it is: what
is stored is written anew from the fields below. Field names and defaults: peft 0.21.2, `LoraConfig`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from formats.peft import CONFIG_FILE, by_pattern
from formats.refused_features import REFUSED_FEATURES, TYPE_FIELD, refused_feature
from formats.strict_json import has_key, parse_object, shown
from registry.errors import AdapterConfigInvalid, NotALora
from registry.intake import config_fields
from registry.intake.config_fields import ALL_LINEAR, Reader

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
        return by_pattern(self.rank_pattern, path, default=self.rank)


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


def _refuse_unsupported(stated: Mapping[str, Any]) -> None:
    feature = refused_feature(stated)
    if feature is not None:
        refusal = NotALora if feature.field == TYPE_FIELD else AdapterConfigInvalid
        raise refusal(f"{CONFIG_FILE}: {feature.refusal(stated)}")
    known = _READERS.keys() | _INERT.keys() | {row.field for row in REFUSED_FEATURES}
    for field in stated.keys() - known:
        # A field of a later PEFT that is not set asks for nothing.
        if stated[field]:
            raise AdapterConfigInvalid(
                f"{CONFIG_FILE}: the field {shown(field)} = {shown(stated[field])} is unknown; if it does not"
                " change what the adapter computes, remove it from the file"
            )
