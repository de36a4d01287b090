"""adapter_config.json, rebuilt from an allow-list: what an adapter says of itself, typed and ranged.

Nothing of the file is passed on as it is: what is stored is written anew from the fields below.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from formats.errors import InvalidField
from formats.patterns import PatternRefused, by_pattern, is_plain_pattern, resolved_patterns
from formats.peft import CONFIG_FILE, config_text
from formats.refused_features import REFUSED_FEATURES, TYPE_FIELD, refused_feature
from formats.strict_json import has_key, parse_object, shown
from formats.target_modules import Targets
from formats.unknown_fields import unknown_field_note
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
    #: Module name or expression -> rank or alpha where it differs; the first that fits a path counts.
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    #: As stated, sorted; an expression is one entry. Which modules are touched is for the tensors to say.
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

    #: What is passed over, and why it may be.
    notes: tuple[str, ...] = ()
    #: The file as it was given.
    given: bytes = field(default=b"", compare=False, repr=False)

    def rank_of(self, path: str) -> int:
        """The rank that the configuration gives the module at `path`, its patterns being plain."""
        return by_pattern(self.rank_pattern, path, default=self.rank)

    def resolved(self, paths: Mapping[str, str]) -> "AdapterConfig":
        """The same for modules at these paths, each path -> the name it is to have: names for expressions.

        Unchanged where there are none, nothing is left out and every name is as it was.

        Raises:
            AdapterConfigInvalid: an expression is none, or takes too long.
        """
        stays = all(path == name for path, name in paths.items())
        patterns = (*self.rank_pattern, *self.alpha_pattern)
        try:
            resolved = self
            if not (stays and all(map(is_plain_pattern, patterns))):
                resolved = replace(
                    resolved,
                    rank_pattern=resolved_patterns(self.rank_pattern, paths, default=self.rank),
                    alpha_pattern=resolved_patterns(self.alpha_pattern, paths, default=self.alpha),
                )
            if not (stays and self.targets.are_names):
                names = tuple(sorted(paths.values()))
                resolved = replace(resolved, targets=Targets(modules=names))
        except PatternRefused as refused:
            raise AdapterConfigInvalid(f"{CONFIG_FILE}: {refused}") from refused
        return resolved


def stage_config(path: Path, staging: Staging) -> StagedFile:
    """The copy of an adapter_config.json; AdapterConfigInvalid if it is too large or cannot be read."""
    return staging.copy(path, CONFIG_FILE, refusal=AdapterConfigInvalid, limit_bytes=CONFIG_LIMIT_BYTES)


def parse_config(data: bytes) -> AdapterConfig:
    """Read the bytes of an adapter_config.json.

    Raises:
        AdapterConfigInvalid: it is not strict JSON, or a field is of a wrong type or range, asks for what a
            mixture cannot honour, or is unknown and may ask for it; the message names the field.
        NotALora: the adapter is of another type than LoRA.
    """
    stated = parse_object(data, what=CONFIG_FILE, refusal=AdapterConfigInvalid)
    if has_key(stated, "trust_remote_code"):
        raise AdapterConfigInvalid(f"{CONFIG_FILE}: trust_remote_code must not be there, whatever its value")
    _refuse_unsupported(stated)
    known = _FIELDS | {row.field for row in REFUSED_FEATURES}
    note = unknown_field_note(stated, known=known, refusal=AdapterConfigInvalid)
    config = _checked(stated)
    targets, excluded = config.target_modules, config.exclude_modules
    return AdapterConfig(
        rank=config.r,
        alpha=config.lora_alpha,
        use_rslora=config.use_rslora,
        rank_pattern=config.rank_pattern,
        alpha_pattern=config.alpha_pattern,
        target_modules=(targets,) if isinstance(targets, str) else tuple(sorted(set(targets))),
        targets=Targets(
            modules=() if isinstance(targets, str) else targets,
            expression=targets if isinstance(targets, str) else None,
            excluded=() if isinstance(excluded, str) else excluded,
            excluded_expression=excluded if isinstance(excluded, str) else None,
            layers=config.layers_to_transform,
            layer_lists=config.layers_pattern,
        ),
        fan_in_fan_out=config.fan_in_fan_out,
        lora_dropout=config.lora_dropout,
        init_lora_weights=_plain_start(config.init_lora_weights),
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path or None,
        peft_version=config.peft_version or None,
        notes=() if note is None else (note,),
        given=data,
    )


def rebuild_config(config: AdapterConfig, *, modules: Iterable[str]) -> bytes:
    """The adapter_config.json that is stored: PEFT reads it, and finds just the modules that have tensors.

    `modules` are the paths that the tensors touch; they replace expressions, and names whose meaning depends
    on the base model. A base model that lay in a folder is not repeated, it would mean nothing elsewhere.
    """
    config = config.resolved({path: path for path in modules})
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
        "target_modules": sorted(set(config.targets.modules)),
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


_FIELDS = frozenset(one.name for one in fields(StatedConfig))


def _checked(stated: Mapping[str, Any]) -> StatedConfig:
    try:
        return StatedConfig(**{name: stated[name] for name in _FIELDS if stated.get(name) not in (None, "")})
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
