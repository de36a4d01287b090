"""What an X-LoRA model is configured with: one frozen value that refuses what cannot work."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from formats.names import NAME_ALLOWED, is_name
from xlora_engine.errors import ConfigInvalid


@dataclass(frozen=True, kw_only=True)
class XLoraConfig:
    """How hidden states become scalings, and scalings weigh experts (arXiv:2402.07148).

    Field names and defaults are PEFT's, so that a configuration can move between the two;
    `enable_relu_and_dropout` and `use_bias`, which PEFT lacks, are the original package's.

    Raises:
        ConfigInvalid: a field is out of range, or two fields contradict each other.
    """

    #: Expert names, in the order of the scaling head's outputs.
    adapters: tuple[str, ...] = ()
    #: Width of the base model's hidden states; 0 until a base model is known.
    hidden_size: int = 0
    #: One set of scalings for each wrapped layer, instead of one for all of them.
    layerwise_scalings: bool = False
    #: Linear layers in the scaling head; 1 is a single linear map.
    xlora_depth: int = 1
    #: Width of the scaling head's inner layers, where the depth is above 1.
    xlora_size: int = 2048
    #: Dropout between the scaling head's layers, while training.
    xlora_dropout_p: float = 0.2
    #: ReLU and dropout between the scaling head's layers; off, it is linear whatever its depth.
    enable_relu_and_dropout: bool = True
    #: Whether the scaling head's layers have a bias.
    use_bias: bool = True
    #: Softmax over the experts; off, the raw logits weigh them.
    enable_softmax: bool = True
    #: Divides the logits before a softmax.
    softmax_temperature: float = 1.0
    #: Only the k largest scalings of a token and layer act; None: all do.
    top_k_lora: int | None = None
    #: Softmax over the k kept logits alone, so that what acts sums to 1.
    enable_softmax_topk: bool = False
    #: What happens, at a layer that some experts do not adapt, to the share those experts have: "drop" it, as
    #: in the paper, or "renormalise": softmax and top-k of that layer run over the experts that adapt it.
    absent_experts: str = "drop"
    #: Constant scaling of every expert in the scaling pass; 0 makes it the plain base model.
    scaling_pass_value: float = 0.0
    #: Multiplies every expert's output, in both passes.
    global_scaling_weight: float = 1.0
    #: Train the experts along with the scaling head.
    use_trainable_adapters: bool = False

    def __post_init__(self) -> None:
        _check_types(self)
        _check_ranges(self)
        _check_combinations(self)

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON types, every field present."""
        return {**asdict(self), "adapters": list(self.adapters)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `to_json` gave; unknown fields are refused by name."""
        if not isinstance(data, Mapping):
            raise ConfigInvalid("config", "an object of fields", data)
        known = {field.name for field in fields(cls)}
        for name, value in data.items():
            if name not in known:
                raise ConfigInvalid(name, f"one of the known fields ({', '.join(sorted(known))})", value)
        values = dict(data)
        if isinstance(values.get("adapters"), list):
            values["adapters"] = tuple(values["adapters"])
        return cls(**values)


ABSENT_EXPERTS = ("drop", "renormalise")

_NUMBERS = {"softmax_temperature", "xlora_dropout_p", "scaling_pass_value", "global_scaling_weight"}
_INTEGERS = {"hidden_size", "xlora_depth", "xlora_size"}
_SWITCHES = {
    "layerwise_scalings",
    "enable_relu_and_dropout",
    "use_bias",
    "enable_softmax",
    "enable_softmax_topk",
    "use_trainable_adapters",
}


def _check_types(config: XLoraConfig) -> None:
    for name in _NUMBERS:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigInvalid(name, "a finite number", value)
    for name in _INTEGERS:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigInvalid(name, "an integer", value)
    for name in _SWITCHES:
        if not isinstance(getattr(config, name), bool):
            raise ConfigInvalid(name, "true or false", getattr(config, name))


def _check_ranges(config: XLoraConfig) -> None:
    _check_names(config.adapters)
    if config.hidden_size < 0:
        raise ConfigInvalid("hidden_size", "at least 1, or 0 to take the base model's", config.hidden_size)
    if config.xlora_depth < 1:
        raise ConfigInvalid("xlora_depth", "at least 1", config.xlora_depth)
    if config.xlora_size < 1:
        raise ConfigInvalid("xlora_size", "at least 1", config.xlora_size)
    if not 0 <= config.xlora_dropout_p < 1:
        raise ConfigInvalid("xlora_dropout_p", "in 0..1, 1 excluded", config.xlora_dropout_p)
    if config.softmax_temperature <= 0:
        raise ConfigInvalid("softmax_temperature", "above 0", config.softmax_temperature)
    if config.absent_experts not in ABSENT_EXPERTS:
        raise ConfigInvalid("absent_experts", f"one of {', '.join(ABSENT_EXPERTS)}", config.absent_experts)
    if config.top_k_lora is not None:
        _check_top_k(config.top_k_lora, len(config.adapters))


def _check_top_k(top_k: object, experts: int) -> None:
    limit = f"an integer in 1..{experts}" if experts else "an integer of at least 1"
    too_large = experts and isinstance(top_k, int) and top_k > experts
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1 or too_large:
        raise ConfigInvalid("top_k_lora", limit, top_k)


def _check_names(names: tuple[str, ...]) -> None:
    if not isinstance(names, tuple):
        raise ConfigInvalid("adapters", "a tuple of names", names)
    for name in names:
        if not isinstance(name, str) or not is_name(name):
            raise ConfigInvalid("adapters", f"names of {NAME_ALLOWED}", name)
    if len(set(names)) < len(names):
        raise ConfigInvalid("adapters", "names that differ from each other", names)


def _check_combinations(config: XLoraConfig) -> None:
    softmaxes = config.enable_softmax or config.enable_softmax_topk
    if config.enable_softmax_topk and config.top_k_lora is None:
        raise ConfigInvalid("enable_softmax_topk", "false where top_k_lora is not set", True)
    if config.enable_softmax_topk and config.enable_softmax:
        raise ConfigInvalid(
            "enable_softmax", "false where enable_softmax_topk is set (one softmax, not two)", True
        )
    if config.enable_softmax_topk and config.top_k_lora == 1:
        # The one kept scaling is 1 whatever its logit, so no gradient would ever reach the head.
        raise ConfigInvalid("top_k_lora", "at least 2 where enable_softmax_topk is set", 1)
    if config.absent_experts == "renormalise" and not softmaxes:
        # Raw logits are no shares of a whole.
        raise ConfigInvalid("absent_experts", "drop where there is no softmax", config.absent_experts)
    if config.softmax_temperature != 1 and not softmaxes:
        raise ConfigInvalid("softmax_temperature", "1 where there is no softmax", config.softmax_temperature)
