"""What is no causal language model is told as what it is, from its own words."""

from pathlib import Path
from typing import Any

import pytest

from registry.errors import InvalidBase
from registry.intake.base_config import read_base_config
from registry.intake.base_kinds import not_causal
from tests.registry.intake.test_base_config import LLAMA, written
from tests.registry.staged import read_base

NO_BASES: dict[str, tuple[dict[str, Any], str]] = {
    "classifier": (
        {"architectures": ["BertForSequenceClassification"]},
        "BertForSequenceClassification is a classifier",
    ),
    "tokens": ({"architectures": ["LlamaForTokenClassification"]}, "is a classifier"),
    "pictures": ({"architectures": ["ViTForImageClassification"]}, "is a classifier"),
    "sounds": ({"architectures": ["Wav2Vec2ForCTC"]}, "Wav2Vec2ForCTC is a speech model"),
    "speech by its field": (
        {"architectures": ["MoonForConditionalGeneration"], "num_mel_bins": 80},
        "a speech model",
    ),
    "encoder": ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM is an encoder"),
    "span": ({"architectures": ["BertForQuestionAnswering"]}, "marks answers in a text and writes none"),
    "encoder-decoder": (
        {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
        "T5ForConditionalGeneration is an encoder-decoder",
    ),
    "encoder-decoder without a class": ({"model_type": "t5", "is_encoder_decoder": True}, "t5 is an enc"),
    "diffusion": (
        {"_class_name": "UNet2DConditionModel"},
        "UNet2DConditionModel is a part of a diffusion model",
    ),
}


@pytest.mark.parametrize("what", NO_BASES)
def test_the_first_true_reason_is_given_before_any_missing_size(what: str, tmp_path: Path) -> None:
    config, reason = NO_BASES[what]
    with pytest.raises(InvalidBase, match=reason):
        read_base_config(written(tmp_path, config))


@pytest.mark.parametrize(
    "named",
    ["LlamaForCausalLM", "GPT2LMHeadModel", "Gemma3ForConditionalGeneration"],
)
def test_a_language_model_is_none_of_these(named: str) -> None:
    assert not_causal({**LLAMA, "architectures": [named]}) is None


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("model_index.json", "a diffusion model"),
        ("adapter_config.json", "an adapter; register that with: zoo register adapter"),
        ("params.json", "as their makers released them"),
    ],
)
def test_a_folder_without_a_config_is_told_by_its_files(file: str, said: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("{}")
    with pytest.raises(InvalidBase, match=said):
        read_base(tmp_path)
