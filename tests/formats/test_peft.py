"""PEFT's keys and patterns: as the installed PEFT writes and picks them."""

from typing import Any

import pytest
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from formats.module_names import is_module_path
from formats.patterns import by_pattern, is_plain_pattern
from formats.peft import Factor, base_copy_of, factor_of
from formats.target_modules import Targets

PATH = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("half", ["A", "B"])
@pytest.mark.parametrize("is_embedding", [True, False])
def test_a_key_says_what_it_was_made_of(half: str, is_embedding: bool) -> None:
    factor = Factor(module=PATH, half=half, is_embedding=is_embedding)
    assert factor_of(factor.key) == factor


def test_keys_are_those_of_peft() -> None:
    factor = Factor(module=PATH, half="A", is_embedding=False)
    assert factor.key == f"base_model.model.{PATH}.lora_A.weight"
    embedding = Factor(module="wte", half="B", is_embedding=True)
    assert embedding.key == "base_model.model.wte.lora_embedding_B"


@pytest.mark.parametrize(
    "key", ["", "lm_head.weight", f"{PATH}.lora_C.weight", f"base_model.model.{PATH}.base_layer.weight"]
)
def test_another_key_is_no_factor(key: str) -> None:
    assert factor_of(key) is None


@pytest.mark.parametrize(
    "key",
    [
        f"base_model.model.{PATH}.lora_A.default.weight",
        f"base_model.model.base_model.model.{PATH}.lora_A.weight",
        f"{PATH}.lora_A.weight",
        f"base_model.model._orig_mod.{PATH}.lora_A.weight",
        f"base_model.model.{PATH.replace('.self', '._fsdp_wrapped_module.self')}.lora_A.weight",
        f"module.base_model.model.{PATH}.lora_A.weight",
    ],
)
def test_names_of_adapters_and_wrappers_in_a_key_are_no_part_of_the_module(key: str) -> None:
    factor = factor_of(key)
    assert factor is not None
    assert factor.key == f"base_model.model.{PATH}.lora_A.weight"
    assert factor.adapter == ("default" if "default" in key else "")


@pytest.mark.parametrize(
    ("key", "module"),
    [
        ("base_model.model.lm_head.base_layer.weight", "lm_head"),
        ("base_model.model.model.embed_tokens.weight", "model.embed_tokens"),
        ("base_model.model.lm_head.weight", "lm_head"),
        (f"base_model.model.{PATH}.lora_A.weight", None),
        (f"base_model.model.{PATH}.weight", None),
        ("base_model.model.lm_head.bias", None),
    ],
)
def test_a_copy_of_the_base_model_s_weight_is_told_by_its_key(key: str, module: str | None) -> None:
    assert base_copy_of(key) == module


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("q_proj", True),
        ("self_attn.q_proj", True),
        (PATH, True),
        (f"^{PATH}", True),
        ("^q_proj", False),
        ("proj", False),
        ("layers.0.self_attn", False),
    ],
)
def test_a_pattern_is_matched_as_peft_matches_it(pattern: str, matches: bool) -> None:
    assert by_pattern({pattern: 2}, PATH, default=8) == (2 if matches else 8)
    assert {pattern: 2}.get(get_pattern_key([pattern], PATH), 8) == (2 if matches else 8)


def test_the_first_pattern_that_matches_counts() -> None:
    assert by_pattern({"v_proj": 1, "q_proj": 2, PATH: 3}, PATH, default=8) == 2


@pytest.mark.parametrize("text", ["(a+)+$", ".*", "q_proj.", "", "q proj", "ｑ_proj", "x" * 257, "q_proj\n"])
def test_a_regular_expression_is_no_module(text: str) -> None:
    assert not is_module_path(text)
    assert not is_plain_pattern(f"^{text}")


@pytest.mark.parametrize(
    "path", [PATH, "model.layers.1.experts.0.q_proj", "layers.1.q_proj", "q_proj", "h.x"]
)
@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["self_attn.q_proj"]},
        {"target_modules": [PATH]},
        {"target_modules": ["proj"]},
        {"target_modules": ["v_proj", "x"]},
        {"target_modules": ["q_proj"], "exclude_modules": ["self_attn.q_proj"]},
        {"target_modules": ["q_proj"], "exclude_modules": ["proj"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [0]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1, 2]},
        {"target_modules": [PATH], "layers_to_transform": [1]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["layers"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["h", "experts"]},
    ],
)
def test_a_module_is_a_target_where_it_is_one_to_peft(fields: dict[str, Any], path: str) -> None:
    targets = Targets(
        modules=tuple(fields["target_modules"]),
        excluded=tuple(fields.get("exclude_modules", ())),
        layers=tuple(fields.get("layers_to_transform", ())),
        layer_lists=tuple(fields.get("layers_pattern", ())),
    )
    found = check_target_module_exists(LoraConfig(**fields), path)
    assert (path in targets.included([path])) is (found is True)


def test_all_linear_takes_in_every_module_but_those_excluded() -> None:
    targets = Targets(modules=("all-linear",), excluded=("v_proj",))
    assert targets.included([PATH, "model.v_proj"]) == {PATH}
