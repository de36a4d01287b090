"""What a model folder holds that is no causal language model, told from its config.json's own words. Pure."""

import re
from collections.abc import Mapping
from typing import Any

#: How the class of a model that writes no text is called -> what it is; the first that fits is said.
_CLASSES = (
    (re.compile(r"Classification|MultipleChoice|NextSentencePrediction|RewardModel"), "a classifier"),
    (re.compile(r"ForCTC|ForRNNT|ForTDT|XVector|Whisper|Speech"), "a speech model"),
    (re.compile(r"Segmentation|ObjectDetection|DepthEstimation|MaskedImage"), "a model of images"),
    (re.compile(r"QuestionAnswering"), "a model that marks answers in a text and writes none"),
    (re.compile(r"MaskedLM|ForPreTraining|EncoderModel"), "an encoder"),
)


def not_causal(config: Mapping[str, Any]) -> str | None:
    """What the model is instead of a causal language model; None if its configuration does not tell.

    What only the libraries know that load models (which classes there are) is told when they load it.
    """
    if isinstance(part := config.get("_class_name"), str):
        return f"{part} is a part of a diffusion model"
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    what = next((what for pattern, what in _CLASSES if pattern.search(name)), None)
    if "num_mel_bins" in config:
        what = "a speech model"
    if what is None and config.get("is_encoder_decoder") is True:
        what = "an encoder-decoder"
    return f"{name or config.get('model_type')} is {what}" if what else None


def without_config(names: frozenset[str]) -> str | None:
    """What a folder without a config.json is, by the names of its files; None if these do not tell."""
    if "model_index.json" in names:
        return "it holds a diffusion model (model_index.json)"
    if "adapter_config.json" in names:
        return "it holds an adapter; register that with: zoo register adapter FOLDER --name NAME"
    if "params.json" in names:
        return (
            "it holds the weights as their makers released them (params.json); take the same model in the"
            " layout of transformers, with a config.json"
        )
    return None
