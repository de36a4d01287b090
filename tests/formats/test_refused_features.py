"""What a mixture cannot honour: whoever registers an adapter and whoever loads it refuse the very same."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from formats.refused_features import REFUSED_FEATURES, refused_feature
from registry.errors import AdapterConfigInvalid, NotALora
from registry.intake.adapter_config import parse_config
from tests.pico import pico_adapter
from xlora_engine.errors import ExpertUnsupported
from xlora_engine.sources.adapter_weights import read_expert

#: field -> values that ask for its feature, and values that do not.
VALUES: Mapping[str, tuple[list[Any], list[Any]]] = {
    "peft_type": ([None, "IA3", "XLORA", "lora", ["LORA"], 1], ["LORA"]),
    "auto_map": ([{"AutoModel": "x--y"}], [{}, None]),
    "task_type": (
        ["SEQ_CLS", "TOKEN_CLS", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION", "QUESTION_ANS"],
        ["CAUSAL_LM", None],
    ),
    "use_dora": ([True, "no"], [False, None]),
    "bias": (["all", "lora_only", True], ["none", None]),
    "lora_bias": ([True], [False, None]),
    "modules_to_save": ([["lm_head"], ["score"], ["classifier", "x"]], [[], None]),
    "layer_replication": ([[[0, 4], [2, 5]]], [[], None]),
    "trainable_token_indices": ([[1], {"embed_tokens": [1]}], [[], None]),
    "target_parameters": ([["mlp.experts"]], [[], None]),
    "ensure_weight_tying": ([True], [False, None]),
    "megatron_config": ([{"x": 1}], [{}, None]),
    "megatron_core": (["evil", ""], ["megatron.core", None]),
    "auto_mapping": (
        [
            "os",
            {"custom": "x"},
            {"base_model_class": "a.b"},
            {"parent_library": "os", "base_model_class": "system"},
            {"parent_library": "transformers_evil", "base_model_class": "x"},
            {"parent_library": "transformers..x"},
            {"parent_library": "transformers_modules.x.y", "base_model_class": "Own"},
            {
                "parent_library": "transformers.models.llama",
                "base_model_class": "LlamaForSequenceClassification",
            },
            {"parent_library": "diffusers.models.unets", "base_model_class": "UNet2DConditionModel"},
        ],
        [
            {},
            None,
            {
                "base_model_class": "LlamaForCausalLM",
                "parent_library": "transformers.models.llama.modeling_llama",
            },
            {
                "base_model_class": "LlamaForCausalLM",
                "parent_library": "transformers.models.llama.modeling_llama",
                "unsloth_fixed": True,
            },
        ],
    ),
    "tokenizer_kwargs": ([{"a": 1}], [{}, None]),
    "alora_invocation_tokens": ([[1, 2]], [[], None]),
    "use_qalora": ([True], [False, None]),
    "use_bdlora": ([{"nblocks": 2}], [False, None]),
    "arrow_config": ([{"top_k": 3}], [{}, None]),
    "kasa_config": ([{"beta": 1}], [{}, None]),
    "monteclora_config": ([{"num_samples": 8}], [{}, None]),
    "corda_config": ([{"cache_file": "/x.pt"}], [{}, None]),
    "lora_ga_config": ([{"cache_file": "/x.pt"}], [{}, None]),
    "loftq_config": ([{"loftq_bits": 4}], [{}, None]),
    "init_lora_weights": (
        ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "mica", "whatever", 1, []],
        [True, False, None, "gaussian", "Orthogonal", "eva"],
    ),
}


def pairs(column: int) -> list[tuple[str, Any]]:
    return [(field, value) for field, values in VALUES.items() for value in values[column]]


@pytest.fixture
def folder(tmp_path: Path, plain: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "bio"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_adapter(tmp_path_factory.mktemp("plain") / "bio", seed=0)


def configured(folder: Path, field: str, value: Any) -> dict[str, Any]:
    """The folder's configuration with one field set, written there too."""
    path = folder / "adapter_config.json"
    config: dict[str, Any] = json.loads(path.read_text()) | {field: value}
    path.write_text(json.dumps(config))
    return config


def test_every_row_of_the_table_has_values_here() -> None:
    assert {row.field for row in REFUSED_FEATURES} == set(VALUES)


@pytest.mark.parametrize(("field", "value"), pairs(0), ids=lambda value: repr(value)[:40])
def test_a_refused_feature_is_refused_by_both(field: str, value: Any, folder: Path) -> None:
    config = configured(folder, field, value)
    feature = refused_feature(config)
    assert feature is not None
    assert feature.field == field
    with pytest.raises((AdapterConfigInvalid, NotALora)) as at_registration:
        parse_config(json.dumps(config).encode())
    with pytest.raises(ExpertUnsupported) as at_loading:
        read_expert(folder, "bio")
    assert str(at_registration.value) == f"adapter_config.json: {feature.refusal(config)}"
    assert str(at_loading.value) == f"expert 'bio': {feature.refusal(config)}"
    assert f"{field} = " in feature.refusal(config)


@pytest.mark.parametrize(("field", "value"), pairs(1), ids=lambda value: repr(value)[:40])
def test_what_asks_for_nothing_is_taken_by_both(field: str, value: Any, folder: Path) -> None:
    config = configured(folder, field, value)
    parse_config(json.dumps(config).encode())
    assert read_expert(folder, "bio").updates


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}, "classifier's"),
        ({"modules_to_save": ["score"], "bias": "all"}, "classifier's"),
        (
            {
                "auto_mapping": {"base_model_class": "UNet2DConditionModel", "parent_library": "diffusers.x"},
                "use_dora": True,
            },
            "diffusion model",
        ),
        (
            {"auto_mapping": {"base_model_class": "X", "parent_library": "transformers_modules.x"}},
            "remote code",
        ),
        ({"auto_map": {"AutoModel": "x--y"}, "task_type": "SEQ_CLS"}, "remote code"),
        ({"peft_type": "LOHA", "task_type": "SEQ_CLS"}, "no other kind of adapter"),
        ({"task_type": "SEQ_2_SEQ_LM", "lora_bias": True}, "encoder-decoder"),
    ],
)
def test_the_reason_given_is_what_it_is_before_what_it_asks_for(fields: dict[str, Any], what: str) -> None:
    config = {"peft_type": "LORA", **fields}
    feature = refused_feature(config)
    assert feature is not None
    assert what in feature.refusal(config)


def test_a_type_that_is_left_out_is_refused_by_both(folder: Path) -> None:
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    del config["peft_type"]
    path.write_text(json.dumps(config))
    with pytest.raises(NotALora, match="peft_type = None"):
        parse_config(path.read_bytes())
    with pytest.raises(ExpertUnsupported, match="peft_type = None"):
        read_expert(folder, "bio")
