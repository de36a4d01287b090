"""PEFT's keys and patterns: as the installed PEFT writes and picks them."""

import pytest
from peft.utils.other import get_pattern_key

from formats.peft import Factor, by_pattern, factor_of, is_module_path, is_plain_pattern

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
    "key", ["", "lm_head.weight", f"{PATH}.lora_A.weight", f"base_model.model.{PATH}.base_layer.weight"]
)
def test_another_key_is_no_factor(key: str) -> None:
    assert factor_of(key) is None


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
