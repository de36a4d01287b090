"""LoRA adapters on disk to expert tensors, and back."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from formats.patterns import PatternRefused, by_patterns, is_plain_pattern
from formats.peft import (
    CONFIG_FILE,
    PICKLED_WEIGHTS_FILE,
    WEIGHTS_FILE,
    Factor,
    base_copy_of,
    config_text,
    factor_of,
)
from formats.refused_features import refused_feature
from formats.strict_json import read_object
from formats.target_modules import Targets, passed_over, targets_of
from xlora_engine.errors import (
    ExpertUnreadable,
    ExpertUnsupported,
    SavedModelInvalid,
)
from xlora_engine.sources.weights_file import load_weights

#: PEFT's, where a configuration leaves them out.
_DEFAULT_RANK = _DEFAULT_ALPHA = 8

#: Fields that leave out some of the target modules.
_NARROWING = ("exclude_modules", "layers_to_transform", "layers_pattern")
_UNCHANGED = object()

#: What a written configuration keeps; other fields may name paths of the machine that trained the adapter.
_KEPT_FIELDS = (
    "peft_type",
    "task_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "fan_in_fan_out",
    "bias",
    "peft_version",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """One expert's update of one module: `scale · B A`."""

    A: Float[Tensor, "rank d_in"]
    B: Float[Tensor, "d_out rank"]
    #: alpha / r, or alpha / √r with rsLoRA.
    scale: float
    is_embedding: bool

    @property
    def rank(self) -> int:
        """The width between A and B."""
        return self.A.shape[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Expert:
    """An adapter as read from disk: its configuration and its updates by module path, in the stored dtype."""

    name: str
    config: Mapping[str, Any]
    updates: Mapping[str, LowRank]
    #: By module path, weights of the base model that PEFT saves with an update of embeddings or output layer.
    base_copies: Mapping[str, Tensor] = field(default_factory=dict)


def read_expert(
    folder: Path,
    name: str,
    *,
    prefix: str = "",
    select: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> Expert:
    """Read a PEFT LoRA folder; `select` may leave out tensors, or put other keys, before they are checked.

    `prefix` is what the names of its files begin with, where several adapters lie in one folder.

    Raises:
        ExpertUnreadable: a file is missing or damaged, or an A lacks its B.
        ExpertUnsupported: the adapter uses a feature that a mixture cannot honour, which is named.
    """
    config, tensors = _read_config(folder, prefix, name), _read_tensors(folder, prefix, name)
    return _make_expert(name, config, select(tensors))


def _make_expert(name: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Expert:
    feature = refused_feature(config)
    if feature is not None:
        raise ExpertUnsupported(f"expert {name!r}: {feature.refusal(config)}")
    copies = {module: t for key, t in tensors.items() if (module := base_copy_of(key)) is not None}
    factors = _pair_factors({key: t for key, t in tensors.items() if base_copy_of(key) is None}, name)
    _require_targets(tuple(factors), config, name)
    ranks = _by_path("rank_pattern", config.get("r", _DEFAULT_RANK), tuple(factors), config, name)
    alphas = _by_path("alpha_pattern", config.get("lora_alpha", _DEFAULT_ALPHA), tuple(factors), config, name)
    return Expert(
        name=name,
        config=with_plain_patterns(config, {path: path for path in factors}, name),
        updates={
            path: _low_rank(path, pair, config, name, rank=ranks[path], alpha=alphas[path])
            for path, pair in factors.items()
        },
        base_copies=copies,
    )


def with_plain_patterns(config: Mapping[str, Any], names: Mapping[str, str], name: str) -> Mapping[str, Any]:
    """The configuration for modules under new names, path -> name: plain names instead of expressions.

    It is the same where there are no expressions, nothing is left out and every name is as it was.

    Raises:
        ExpertUnsupported: an expression is none, or takes too long.
        ExpertUnreadable: a pattern is no object of names.
    """
    stays = all(path == new for path, new in names.items())
    patterns = [*_patterns("rank_pattern", config, name), *_patterns("alpha_pattern", config, name)]
    changed: dict[str, Any] = {}
    if not (stays and all(map(is_plain_pattern, patterns))):
        for field in ("rank_pattern", "alpha_pattern"):
            found = _by_path(field, _UNCHANGED, tuple(names), config, name)
            changed[field] = {names[path]: value for path, value in found.items() if value is not _UNCHANGED}
    if not (stays and _targets(config, name).are_names):
        changed.update(target_modules=sorted(names.values()), **dict.fromkeys(_NARROWING))
    return {**config, **changed}


def _by_path(
    field: str, default: object, paths: tuple[str, ...], config: Mapping[str, Any], name: str
) -> Mapping[str, Any]:
    try:
        return by_patterns(_patterns(field, config, name), paths, default=default)
    except PatternRefused as refused:
        raise ExpertUnsupported(f"expert {name!r}: {refused}") from refused


def _patterns(field: str, config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    patterns = config.get(field)
    if not isinstance(patterns, Mapping | None):
        raise ExpertUnreadable(
            f"expert {name!r}: {field} in {CONFIG_FILE} must map module names to numbers, not {patterns!r}"
        )
    return patterns or {}


def _targets(config: Mapping[str, Any], name: str) -> Targets:
    try:
        return targets_of(config)
    except (TypeError, ValueError) as error:
        raise ExpertUnreadable(f"expert {name!r}: {CONFIG_FILE}: {error}") from error


def _require_targets(paths: tuple[str, ...], config: Mapping[str, Any], name: str) -> None:
    """Refuse tensors of modules that the configuration leaves out: PEFT passes over them."""
    if not config.get("target_modules"):
        return
    try:
        refusal = passed_over(_targets(config, name), paths)
    except PatternRefused as refused:
        raise ExpertUnsupported(f"expert {name!r}: {refused}") from refused
    if refusal is not None:
        raise ExpertUnreadable(f"expert {name!r}: {refusal}")


def write_expert(
    folder: Path,
    expert: Expert,
    updates: Mapping[str, LowRank],
    *,
    prefix: str = "",
    base_id: str | None = None,
) -> None:
    """Write the files `read_expert` reads, with the given updates (those read, or trained on since).

    `base_id` is the base model's name on the hub, if the files are to say it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for path, update in updates.items():
        for half, tensor in (("A", update.A), ("B", update.B)):
            factor = Factor(module=path, half=half, is_embedding=update.is_embedding)
            tensors[factor.key] = tensor.detach().cpu().contiguous()
    save_file(tensors, folder / f"{prefix}{WEIGHTS_FILE}", metadata={"format": "pt"})
    kept = {field: expert.config[field] for field in _KEPT_FIELDS if field in expert.config}
    config = {**kept, "base_model_name_or_path": base_id, "inference_mode": True}
    (folder / f"{prefix}{CONFIG_FILE}").write_text(config_text(config), encoding="utf-8")


def _read_config(folder: Path, prefix: str, name: str) -> dict[str, Any]:
    def refusal(message: str) -> ExpertUnreadable:
        return ExpertUnreadable(f"expert {name!r}: {message}")

    return read_object(folder / f"{prefix}{CONFIG_FILE}", refusal=refusal)


def _read_tensors(folder: Path, prefix: str, name: str) -> dict[str, Tensor]:
    try:
        return load_weights(folder / f"{prefix}{WEIGHTS_FILE}", pickled=f"{prefix}{PICKLED_WEIGHTS_FILE}")
    except SavedModelInvalid as error:
        raise ExpertUnreadable(f"expert {name!r}: {error}") from error


def _pair_factors(tensors: Mapping[str, Tensor], name: str) -> dict[str, dict[str, tuple[Tensor, bool]]]:
    factors: dict[str, dict[str, tuple[Tensor, bool]]] = {}
    adapters: set[str] = set()
    for key, tensor in tensors.items():
        factor = factor_of(key)
        if factor is None:
            raise ExpertUnsupported(f"expert {name!r} holds {key!r}, which is no LoRA factor of a module")
        adapters.add(factor.adapter)
        factors.setdefault(factor.module, {})[factor.half] = (tensor, factor.is_embedding)
    if not factors:
        raise ExpertUnreadable(f"expert {name!r} holds no LoRA tensors")
    if len(adapters) > 1:
        found = " and ".join(sorted(adapters))
        raise ExpertUnreadable(
            f"expert {name!r} holds several adapters ({found}); save the one that is meant"
        )
    return factors


def _low_rank(
    path: str,
    pair: Mapping[str, tuple[Tensor, bool]],
    config: Mapping[str, Any],
    name: str,
    *,
    rank: object,
    alpha: object,
) -> LowRank:
    if set(pair) != {"A", "B"}:
        missing = ({"A", "B"} - set(pair)).pop()
        raise ExpertUnreadable(f"expert {name!r} lacks lora_{missing} of {path!r}")
    (A, is_embedding), (B, B_is_embedding) = pair["A"], pair["B"]
    is_pair = A.dim() == B.dim() == 2 and A.shape[0] == B.shape[1] > 0 and is_embedding is B_is_embedding
    if not is_pair:
        raise ExpertUnsupported(
            f"expert {name!r}: A {tuple(A.shape)} and B {tuple(B.shape)} of {path!r} are no linear update"
        )
    if not (A.isfinite().all() and B.isfinite().all()):
        raise ExpertUnreadable(f"expert {name!r} holds values at {path!r} that are no finite numbers")
    if A.shape[0] != rank:
        raise ExpertUnreadable(
            f"expert {name!r} has rank {A.shape[0]} at {path!r}, where {CONFIG_FILE} says {rank!r}"
        )
    return LowRank(A=A, B=B, scale=_scale(path, alpha, A.shape[0], config, name), is_embedding=is_embedding)


def _scale(path: str, alpha: object, rank: int, config: Mapping[str, Any], name: str) -> float:
    """The expert's alpha / r at a module, or alpha / √r with rsLoRA."""
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ExpertUnreadable(
            f"expert {name!r} has the alpha {alpha!r} at {path!r}, which is no finite number"
        )
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def stacked(
    updates: Mapping[int, LowRank], *, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "ranks d_in"], Float[Tensor, "d_out ranks"]]:
    """All experts' A under each other and all their B side by side; scales stay out of both."""
    down = torch.cat([update.A for update in updates.values()], 0).to(device=device, dtype=dtype)
    up = torch.cat([update.B for update in updates.values()], 1).to(device=device, dtype=dtype)
    return down, up
