"""`XLoraConfig` refuses what cannot work, and survives JSON."""

import json
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import jsonschema
import peft
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlora_engine.config import XLoraConfig
from xlora_engine.errors import ConfigInvalid

NAN, INFINITE = float("nan"), float("inf")

#: (fields given, the field at fault, a part of what is allowed)
INVALID: list[tuple[dict[str, Any], str, str]] = [
    ({"hidden_size": -1}, "hidden_size", "at least 0"),
    ({"hidden_size": 32.0}, "hidden_size", "a whole number"),
    ({"hidden_size": True}, "hidden_size", "a whole number"),
    ({"xlora_depth": 0}, "xlora_depth", "at least 1"),
    ({"xlora_depth": "2"}, "xlora_depth", "a whole number"),
    ({"xlora_size": 0}, "xlora_size", "at least 1"),
    ({"xlora_dropout_p": 1.0}, "xlora_dropout_p", "a number from 0 to below 1"),
    ({"xlora_dropout_p": -0.1}, "xlora_dropout_p", "a number from 0 to below 1"),
    ({"xlora_dropout_p": NAN}, "xlora_dropout_p", "a number from 0 to below 1"),
    ({"xlora_dropout_p": None}, "xlora_dropout_p", "a number from 0 to below 1"),
    ({"absent_experts": "dropped"}, "absent_experts", "one of drop, renormalise"),
    ({"unit_top_1": True, "enable_softmax": False}, "unit_top_1", "false unless enable_softmax is set"),
    ({"unit_top_1": True, "top_k_lora": 1}, "unit_top_1", "false unless enable_softmax is set"),
    ({"sigmoid_floor": 0.1}, "sigmoid_floor", "left out unless enable_softmax is false"),
    ({"sigmoid_floor": 1.0, "enable_softmax": False}, "sigmoid_floor", "below 1"),
    ({"absent_experts": None}, "absent_experts", "one of drop, renormalise"),
    ({"absent_experts": "renormalise", "enable_softmax": False}, "absent_experts", "drop where there is no"),
    ({"softmax_temperature": 0.0}, "softmax_temperature", "above 0"),
    ({"softmax_temperature": -1.0}, "softmax_temperature", "above 0"),
    ({"softmax_temperature": INFINITE}, "softmax_temperature", "a number above 0"),
    ({"softmax_temperature": 2.0, "enable_softmax": False}, "softmax_temperature", "no softmax"),
    ({"scaling_pass_value": NAN}, "scaling_pass_value", "a finite number"),
    ({"scaling_pass_value": True}, "scaling_pass_value", "a finite number"),
    ({"global_scaling_weight": INFINITE}, "global_scaling_weight", "a finite number"),
    ({"global_scaling_weight": "1"}, "global_scaling_weight", "a finite number"),
    ({"layerwise_scalings": 1}, "layerwise_scalings", "true or false"),
    ({"use_bias": None}, "use_bias", "true or false"),
    ({"enable_relu_and_dropout": 1}, "enable_relu_and_dropout", "true or false"),
    ({"enable_softmax": "yes"}, "enable_softmax", "true or false"),
    ({"enable_softmax_topk": 0}, "enable_softmax_topk", "true or false"),
    ({"use_trainable_adapters": 1}, "use_trainable_adapters", "true or false"),
    ({"top_k_lora": 0}, "top_k_lora", "at least 1"),
    ({"top_k_lora": -3}, "top_k_lora", "at least 1"),
    ({"top_k_lora": 1.5}, "top_k_lora", "a whole number"),
    ({"top_k_lora": True}, "top_k_lora", "a whole number"),
    ({"top_k_lora": 3, "adapters": ("a", "b")}, "top_k_lora", "1..2"),
    ({"enable_softmax_topk": True, "enable_softmax": False}, "enable_softmax_topk", "top_k_lora"),
    ({"enable_softmax_topk": True, "top_k_lora": 2}, "enable_softmax", "one softmax, not two"),
    ({"enable_softmax_topk": True, "enable_softmax": False, "top_k_lora": 1}, "top_k_lora", "at least 2"),
    ({"adapters": {"a"}}, "adapters", "a list of different entries"),
    ({"adapters": "ab"}, "adapters", "a list of different entries"),
    ({"adapters": ("a", "a")}, "adapters", "differ"),
    ({"adapters": ("a", 1)}, "adapters", "letters"),
    ({"adapters": ("",)}, "adapters", "letters"),
    ({"adapters": ("..",)}, "adapters", "letters"),
    ({"adapters": (".hidden",)}, "adapters", "letters"),
    ({"adapters": ("-x",)}, "adapters", "letters"),
    ({"adapters": ("a/b",)}, "adapters", "letters"),
    ({"adapters": ("a\\b",)}, "adapters", "letters"),
    ({"adapters": ("a b",)}, "adapters", "letters"),
    ({"adapters": ("a\n",)}, "adapters", "letters"),
    ({"adapters": ("é",)}, "adapters", "letters"),
    ({"adapters": ("٣",)}, "adapters", "letters"),
    ({"adapters": ("x" * 129,)}, "adapters", "128"),
]


@pytest.mark.parametrize(("given_fields", "at_fault", "allowed"), INVALID)
def test_an_invalid_field_is_refused_with_name_allowed_values_and_value(
    given_fields: dict[str, Any], at_fault: str, allowed: str
) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        XLoraConfig(**given_fields)

    message = str(refused.value)
    assert refused.value.field == at_fault
    assert message.startswith(f"{at_fault} must be ")
    assert allowed in message
    assert f"got {refused.value.value!r}" in message
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("name", ["bio", "0", "protein.v2", "mat-3", "a_b", "x" * 128, "LoRA.2024-01_final"])
def test_ordinary_names_are_allowed(name: str) -> None:
    assert XLoraConfig(adapters=(name,)).adapters == (name,)


def test_defaults_are_those_of_peft() -> None:
    theirs = peft.XLoraConfig(hidden_size=1, adapters={})
    for field in fields(XLoraConfig):
        # PEFT always has a bias, a ReLU between layers, and always loses the share of an absent expert.
        ours_alone = ("use_bias", "enable_relu_and_dropout", "absent_experts", "unit_top_1", "sigmoid_floor")
        if field.name not in ("adapters", "hidden_size", *ours_alone):
            assert getattr(XLoraConfig(), field.name) == getattr(theirs, field.name), field.name


def test_a_configuration_cannot_change() -> None:
    with pytest.raises(FrozenInstanceError):
        XLoraConfig().xlora_depth = 2  # type: ignore[misc]


@given(
    adapters=st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True), unique=True),
    xlora_depth=st.integers(1, 9),
    xlora_dropout_p=st.floats(0, 1, exclude_max=True),
    layerwise_scalings=st.booleans(),
    scaling_pass_value=st.floats(allow_nan=False, allow_infinity=False),
    top_k_lora=st.none() | st.just(1),
)
def test_json_gives_back_an_equal_configuration(adapters: list[str], **values: Any) -> None:
    config = XLoraConfig(adapters=tuple(adapters), **values)

    assert XLoraConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_what_came_later_is_written_only_where_it_is_set() -> None:
    """So that a head of before has the configuration, and the digest, that it had."""
    assert not {"unit_top_1", "sigmoid_floor"} & XLoraConfig().to_json().keys()
    for later in ({"unit_top_1": True}, {"sigmoid_floor": 0.0, "enable_softmax": False}):
        config = XLoraConfig(**later)
        assert later.items() <= config.to_json().items()
        assert XLoraConfig.from_json(config.to_json()) == config


def test_a_list_of_experts_and_whole_numbers_make_the_same_configuration() -> None:
    written = XLoraConfig(adapters=["b", "a"], softmax_temperature=2)  # type: ignore[arg-type]  # as from JSON
    same = XLoraConfig(adapters=("b", "a"), softmax_temperature=2.0)
    assert (written, hash(written)) == (same, hash(same))
    assert replace(written, adapters=()) == XLoraConfig(softmax_temperature=2.0)


def test_the_schema_takes_what_json_gives_and_says_what_each_field_is_for() -> None:
    schema = XLoraConfig.json_schema()
    jsonschema.validate(XLoraConfig(adapters=("a",), top_k_lora=1).to_json(), schema)
    for wrong in ({"xlora_depth": 0}, {"absent_experts": "ignore"}, {"adapters": ["a/b"]}, {"xlora_dept": 2}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
    assert all(field["description"].endswith(".") for field in schema["properties"].values())


def test_json_holds_every_field() -> None:
    later = {"unit_top_1", "sigmoid_floor"}
    assert set(XLoraConfig().to_json()) == {field.name for field in fields(XLoraConfig)} - later


def test_an_unknown_field_in_json_is_refused_by_name() -> None:
    with pytest.raises(ConfigInvalid, match=r"^xlora_dept must be left out.* xlora_depth\?\), got 2$"):
        XLoraConfig.from_json({"xlora_dept": 2})


@pytest.mark.parametrize("data", [[], "text", None, 3])
def test_json_that_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(ConfigInvalid, match="an object of fields"):
        XLoraConfig.from_json(data)


@pytest.mark.parametrize("adapters", ["ab", None, 3, {"a": 1}, [["a"]]])
def test_adapters_in_json_are_a_list_of_names_and_nothing_else(adapters: Any) -> None:
    with pytest.raises(ConfigInvalid, match="adapters"):
        XLoraConfig.from_json({"adapters": adapters})
