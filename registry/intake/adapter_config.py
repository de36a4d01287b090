"""adapter_config.json, rebuilt from an allow-list: what an adapter says of itself, typed and ranged.

Nothing of the file is passed on as it is: what is stored is written anew from the fields below.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from formats.errors import InvalidField
from formats.peft import ALL_LINEAR, CONFIG_FILE, Targets, by_pattern, config_text
from formats.refused_features import REFUSED_FEATURES, TYPE_FIELD, refused_feature
from formats.strict_json import has_key, parse_object, shown
from registry.errors import AdapterConfigInvalid, NotALora
from registry.files.staging import StagedFile, Staging
from registry.intake.stated_config import StatedConfig

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
    #: The same with the fields that leave out some of these.
    targets: Targets
    fan_in_fan_out: bool
    lora_dropout: float
    init_lora_weights: bool | str
    task_type: str | None
    #: What the author says it was trained on: to compare with names, never a path to open.
    base_model_name_or_path: str | None
    peft_version: str | None

    @property
    def is_narrowed(self) -> bool:
        """Whether other fields, or `all-linear`, leave out modules that the names would take in."""
        targets = self.targets
        return bool(targets.modules == (ALL_LINEAR,) or targets.excluded or targets.layers)

    def rank_of(self, path: str) -> int:
        """The rank that the configuration gives the module at `path`."""
        return by_pattern(self.rank_pattern, path, default=self.rank)


def stage_config(path: Path, staging: Staging) -> StagedFile:
    """The copy of an adapter_config.json; AdapterConfigInvalid if it is too large or cannot be read."""
    return staging.copy(path, CONFIG_FILE, refusal=AdapterConfigInvalid, limit_bytes=CONFIG_LIMIT_BYTES)


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
    config = _checked(stated)
    return AdapterConfig(
        rank=config.r,
        alpha=config.lora_alpha,
        use_rslora=config.use_rslora,
        rank_pattern=config.rank_pattern,
        alpha_pattern=config.alpha_pattern,
        target_modules=tuple(sorted(set(config.target_modules))),
        targets=Targets(
            modules=config.target_modules,
            excluded=config.exclude_modules,
            layers=config.layers_to_transform,
            layer_lists=config.layers_pattern,
        ),
        fan_in_fan_out=config.fan_in_fan_out,
        lora_dropout=config.lora_dropout,
        init_lora_weights=_plain_start(config.init_lora_weights),
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path or None,
        peft_version=config.peft_version or None,
    )


def rebuild_config(config: AdapterConfig, *, modules: Iterable[str]) -> bytes:
    """The adapter_config.json that is stored: PEFT reads it, and finds just the modules that have tensors.

    `modules` are the paths that the tensors touch; they replace names whose meaning depends on the base
    model. A base model that lay in a folder is not repeated, it would mean nothing elsewhere.
    """
    base = config.base_model_name_or_path
    stored = {
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
    return config_text(stored).encode()


def _without_point(number: float) -> float:
    return int(number) if number == int(number) else number


_FIELDS = frozenset(field.name for field in fields(StatedConfig))


def _checked(stated: Mapping[str, Any]) -> StatedConfig:
    try:
        return StatedConfig(**{name: stated[name] for name in _FIELDS if stated.get(name) is not None})
    except InvalidField as refused:
        said = f"{refused.field} must be {refused.allowed}, got {shown(refused.value)}"
        raise AdapterConfigInvalid(f"{CONFIG_FILE}: {said}") from refused


def _plain_start(start: bool | str) -> bool | str:
    return start.lower() if isinstance(start, str) else start


def _refuse_unsupported(stated: Mapping[str, Any]) -> None:
    feature = refused_feature(stated)
    if feature is not None:
        refusal = NotALora if feature.field == TYPE_FIELD else AdapterConfigInvalid
        raise refusal(f"{CONFIG_FILE}: {feature.refusal(stated)}")
    known = _FIELDS | {row.field for row in REFUSED_FEATURES}
    for field in stated.keys() - known:
        # A field of a later PEFT that is not set asks for nothing.
        if stated[field]:
            raise AdapterConfigInvalid(
                f"{CONFIG_FILE}: the field {shown(field)} = {shown(stated[field])} is unknown; if it does not"
                " change what the adapter computes, remove it from the file"
            )
