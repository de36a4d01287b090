"""Configurations that other X-LoRA implementations write: what their fields mean here, or why not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from formats.strict_json import read_object
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import ConfigInvalid, NotRepresentable, SavedFileUnreadable


@dataclass(frozen=True, kw_only=True)
class Inexact:
    """A setting with which another implementation computes something different."""

    field: str
    asks: Callable[[XLoraConfig], bool]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one implementation writes its configuration."""

    layout: str
    #: Fields of `XLoraConfig` that it has, with the same meaning.
    shared: frozenset[str]
    #: Values of fields that a file leaves out, where they are not `XLoraConfig`'s.
    defaults: Mapping[str, Any]
    #: Fields that do not affect what is computed.
    neutral: frozenset[str]
    inexact: tuple[Inexact, ...]
    #: Fields of `XLoraConfig` that it lacks: written in another way, or refused by `inexact`.
    otherwise: frozenset[str] = frozenset()

    def require_exact(self, config: XLoraConfig) -> None:
        """Refuse a configuration that this implementation and ours compute differently.

        Raises:
            NotRepresentable: naming the field and the difference.
        """
        for setting in self.inexact:
            if setting.asks(config):
                raise NotRepresentable(self.layout, setting.field, setting.reason)

    def written(self, config: XLoraConfig) -> dict[str, Any]:
        """The fields as this implementation reads them, experts left out.

        Raises:
            NotRepresentable: a field that it lacks is not the default, or `require_exact` refuses.
        """
        self.require_exact(config)
        plain = XLoraConfig()
        for name in (
            {field.name for field in fields(XLoraConfig)} - self.shared - self.otherwise - {"adapters"}
        ):
            if getattr(config, name) != getattr(plain, name):
                raise NotRepresentable(self.layout, name, "there is no such field")
        return {name: value for name, value in config.to_json().items() if name in self.shared}


#: What PEFT's configuration has.
PEFT_FIELDS = frozenset(
    {
        "enable_softmax",
        "enable_softmax_topk",
        "global_scaling_weight",
        "hidden_size",
        "layerwise_scalings",
        "scaling_pass_value",
        "softmax_temperature",
        "top_k_lora",
        "use_trainable_adapters",
        "xlora_depth",
        "xlora_dropout_p",
        "xlora_size",
    }
)

#: What the original package's and mistral.rs's have.
ORIGINAL_FIELDS = PEFT_FIELDS | {"enable_relu_and_dropout", "use_bias"}

SELECTS_FOR_SCALING_PASS = Inexact(
    field="scaling_pass_value",
    asks=lambda config: config.top_k_lora is not None and config.scaling_pass_value != 0,
    reason="in its scaling pass only the first k experts are active with top_k_lora; "
    "use a scaling_pass_value of 0",
)

TEMPERATURE_IGNORED = Inexact(
    field="softmax_temperature",
    asks=lambda config: config.enable_softmax_topk and config.softmax_temperature != 1,
    reason="it divides by no temperature before the softmax over the top k; use a temperature of 1",
)


def read_fields(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        SavedFileUnreadable: the file is missing, or holds something else.
    """
    return read_object(path, refusal=SavedFileUnreadable)


def config_of(
    found: Mapping[str, Any], dialect: Dialect, *, names: tuple[str, ...], path: Path
) -> XLoraConfig:
    """The configuration that a file describes, over experts of these names.

    Raises:
        NotRepresentable: it asks for something computed differently here, or unknown.
        SavedFileUnreadable: a field is out of range.
    """
    values = dict(dialect.defaults) | {name: found[name] for name in dialect.shared if name in found}
    for name, value in found.items():
        if name not in dialect.shared | dialect.neutral and value not in (None, False, "", [], {}):
            raise NotRepresentable(dialect.layout, name, f"{value!r} asks for something unknown here")
    if values.get("enable_softmax") is False:
        values["softmax_temperature"] = 1.0  # the others use it only in that softmax
    try:
        config = XLoraConfig(adapters=names, **values)
    except ConfigInvalid as error:
        raise SavedFileUnreadable(f"{path}: {error}") from error
    dialect.require_exact(config)
    return config
