"""A configuration completed with what the base model and the experts determine."""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from xlora_engine.config import XLoraConfig
from xlora_engine.errors import ConfigInvalid
from xlora_engine.mixture.wrapping import require_plain
from xlora_engine.sources.adapter_weights import Expert
from xlora_engine.sources.architectures import check_architecture, hidden_width


def resolved(config: XLoraConfig, base: PreTrainedModel, experts: Sequence[Expert]) -> XLoraConfig:
    """Fill in the names of the experts, in order, and the width of the hidden states.

    Raises:
        ConfigInvalid: the configuration contradicts them, or there are no experts.
        BaseUnsupported: the base model cannot have two passes, or holds adapters already.
    """
    require_plain(base)
    check_architecture(base)
    width = hidden_width(base)
    if config.hidden_size not in (0, width):
        raise ConfigInvalid("hidden_size", f"{width}, the base model's", config.hidden_size)
    names = tuple(expert.name for expert in experts)
    if not names:
        raise ConfigInvalid("adapters", "at least one expert", names)
    if config.adapters not in ((), names):
        raise ConfigInvalid("adapters", f"{names}, the experts given", config.adapters)
    return replace(config, hidden_size=width, adapters=names)
