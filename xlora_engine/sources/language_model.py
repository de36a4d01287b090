"""Which class of `transformers` is a base model's causal language model, and whether weights are all of its.

A configuration with a text part beside others (pictures, sounds) is loaded as what answers to text: a class
of its text part alone where there is one, else the whole with its other parts unused.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
)

from xlora_engine.errors import BaseUnreadable, BaseUnsupported


def language_model_of(config: PreTrainedConfig) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    """The class that is loaded, and the part of the configuration that it takes.

    Raises:
        BaseUnsupported: it is an encoder-decoder or an encoder, or there is no causal language model for it.
    """
    named = (config.architectures or [type(config).__name__])[0]
    if config.is_encoder_decoder:
        raise BaseUnsupported(f"{named} is an encoder-decoder, no causal language model")
    kind = type(config)
    if kind in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        raise BaseUnsupported(f"{named} is an encoder, no causal language model")
    mappings = (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)
    offered = next((mapping[kind] for mapping in mappings if kind in mapping), None)
    if offered is None:
        raise BaseUnsupported(
            f"{named} is no causal language model: transformers {transformers.__version__} has no class that"
            f" writes text with a model of type {config.model_type!r}"
        )
    model_class = _named(offered, named) if isinstance(offered, Sequence) else offered
    text = config.sub_configs.get("text_config")
    is_of_text = text is not None and model_class.config_class == text
    return model_class, config.get_text_config() if is_of_text else config


def require_known(stated: Mapping[str, Any]) -> None:
    """Do nothing if `transformers` has itself what a config.json asks for.

    Raises:
        BaseUnsupported: it asks for code that comes with the model, or for a model of another release.
    """
    model_type, named = stated.get("model_type"), (stated.get("architectures") or [None])[0]
    has_code = "auto_map" in stated
    if model_type in CONFIG_MAPPING and not (has_code and not hasattr(transformers, str(named))):
        return
    if has_code:
        raise BaseUnsupported(
            f"{named or model_type} is code that comes with the model (auto_map in config.json), which is"
            " never run here; only architectures that transformers has itself can be loaded"
        )
    raise BaseUnsupported(
        f"transformers {transformers.__version__} knows no model of type {model_type!r}, which config.json"
        f" names for {named}; use a release that does"
    )


def check_complete(model: PreTrainedModel, report: Mapping[str, Iterable[str]], called: Path) -> None:
    """Do nothing if a loaded model, or its skeleton, has all its weights, and every layer's are taken.

    `report` is what `from_pretrained` says of the weights of the folder that is `called` so.

    Raises:
        BaseUnreadable: `transformers` would leave a weight random, or compute without one, and only warn.
    """
    missing = sorted(report["missing_keys"])
    if missing:
        raise BaseUnreadable(
            f"{called} lacks {len(missing)} of the model's weights, {missing[0]!r} for one; fetch the folder"
            " again"
        )
    unused = _unused_weights(model, report["unexpected_keys"])
    if unused:
        raise BaseUnreadable(
            f"{called} holds {unused[0]!r}, which no layer takes that its config.json describes "
            f"({len(unused)} such weights); correct config.json, or fetch the folder again"
        )


def _named(classes: Sequence[Any], name: str) -> type[PreTrainedModel]:
    found = next((one for one in classes if one.__name__ == name), classes[0])
    return cast("type[PreTrainedModel]", found)


def _unused_weights(model: PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    """Weights in the file that belong to a layer of the model, or to one more of them, and are not taken.

    What stands beside the decoder (a value head, a picture encoder) changes no answer, and a quantised layer
    may keep figures that only other programs read.
    """
    if getattr(model, "is_quantized", False):
        return []
    outer = ("", model.base_model_prefix)
    inner = {path for path, _ in model.named_modules() if path not in outer}
    return sorted(
        key for key in unexpected if any(part in inner for part in accumulate(key.split("."), _dotted))
    )


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}"
