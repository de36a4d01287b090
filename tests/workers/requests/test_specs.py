"""Requests: what is refused and how, what their schema says, and that JSON gives back the same request."""

import json
from hashlib import sha256
from typing import Any

import jsonschema
import pytest

from registry.errors import InvalidName
from registry.files.json_text import digest_of
from registry.jobs.states import KINDS
from workers.attempts.job_process import HANDLERS
from workers.errors import SpecInvalid
from workers.requests.specs import SPECS, ComposeSpec, EvalSpec, Spec, TrainSpec, schema_of

NAMES = "different entries, each 1 to 256 characters of text"
TRAIN: dict[str, Any] = {"name": "bio", "base": "smollm2", "train_dataset": "bio.train@1"}
EVAL: dict[str, Any] = {"subjects": ("adapter:bio@1",), "datasets": {"bio": "bio.eval@1"}}
COMPOSE: dict[str, Any] = {
    "name": "science",
    "adapters": ("bio@1", "protein@2"),
    "data": {"bio": "bio.train@1"},
}


@pytest.mark.parametrize(
    "spec", [TrainSpec(**TRAIN, domains=("biology",)), EvalSpec(**EVAL), ComposeSpec(**COMPOSE)]
)
def test_a_spec_comes_back_from_json_equal_and_with_the_same_digest(spec: Spec) -> None:
    stored = json.loads(json.dumps(spec.to_json()))
    again = SPECS[spec.kind].from_json(stored)
    assert again == spec
    assert digest_of(again.to_json()) == digest_of(spec.to_json())


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("rank", 0, "a whole number in 1..1024"),
        ("rank", 10**9, "a whole number in 1..1024"),
        ("rank", True, "a whole number in 1..1024"),
        ("rank", "8", "a whole number in 1..1024"),
        ("alpha", float("nan"), "a number above 0 to 65536"),
        ("alpha", 10**400, "a number above 0 to 65536"),
        ("alpha", 0.0, "a number above 0 to 65536"),
        ("dropout", 1e308, "a number from 0 to 0.95"),
        ("learning_rate", -1e-4, "a number above 0 to 1"),
        ("seed", -1, "a whole number in 0..4294967295"),
        ("base", " ", "1 to 256 characters of text"),
        ("domains", "biology", f"a list of {NAMES}"),
        ("target_modules", (), f"a list of 1 or more {NAMES}"),
        ("target_modules", ("q_proj", "q_proj"), f"a list of 1 or more {NAMES}"),
        (
            "target_modules",
            ("q_proj", "wte"),
            "without embeddings (wte) unless inactive_prefix is off (--no-inactive-prefix)",
        ),
        ("licence", 3, "1 to 128 characters of text, or left out"),
        ("warmup_steps", 201, "at most the 200 steps"),
        ("processes", 0, "a whole number in 1..64"),
        ("processes", 65, "a whole number in 1..64"),
        ("processes", 3, "a divisor of the 8 examples of a batch, which they share evenly"),
    ],
)
def test_a_field_out_of_range_is_named_with_what_is_allowed(field: str, value: object, allowed: str) -> None:
    with pytest.raises(SpecInvalid) as refused:
        TrainSpec(**{**TRAIN, field: value})
    assert str(refused.value) == f"{field} must be {allowed}, got {value!r}"
    assert (refused.value.code, refused.value.exit_code) == ("ZOO-E401", 2)


def test_embeddings_are_adapted_where_the_prefix_may_be_active() -> None:
    asked = {**TRAIN, "target_modules": ("q_proj", "embed_tokens"), "inactive_prefix": False}
    assert TrainSpec(**asked).target_modules == ("q_proj", "embed_tokens")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapters": ("bio", "protein@2")}, "adapters must be resolved references like 'bio@3', got 'bio'"),
        ({"adapters": ("bio@1", "bio@1")}, "adapters must be a list of 1 or more different"),
        ({"data": {}}, "data must be given: the method xlora learns from it"),
        ({"method": "moe"}, "method must be one of xlora, uniform, "),
        ({"data": {"": "bio.train@1"}}, "data must be entries name -> "),
        ({"data": {"bio": ""}}, "data.bio must be 1 to 256 characters of text, got ''"),
        ({"eval_data": {"law": "law.eval@1"}}, "eval_data must be for the domains ['bio'], got ['law']"),
        ({"head": {"softmax_temperature": float("nan")}}, "head.softmax_temperature must be a JSON value"),
        ({"warm_start_steps": 0, "mixture_steps": 0}, "mixture_steps must be above 0"),
    ],
)
def test_a_composition_that_cannot_be_meant_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecInvalid) as refused:
        ComposeSpec(**{**COMPOSE, **change})
    assert str(refused.value).startswith(message)


def test_an_unknown_field_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SpecInvalid, match=r"^learnin_rate .*\(did you mean learning_rate\?\), got 0.0001$"):
        TrainSpec.from_json({**TRAIN, "learnin_rate": 1e-4})


def test_every_kind_that_can_be_looked_for_can_be_asked_for_and_carried_out() -> None:
    assert set(KINDS) == set(SPECS) == set(HANDLERS)


def test_only_training_has_processes() -> None:
    for spec, fields in ((ComposeSpec, COMPOSE), (EvalSpec, EVAL)):
        with pytest.raises(
            SpecInvalid, match=r"^processes must be left out, as an? .* request has .* got 2$"
        ):
            spec.from_json({**fields, "processes": 2})
    asked = [TrainSpec(**TRAIN, processes=processes) for processes in (1, 2)]
    assert asked[0] == TrainSpec(**TRAIN) != asked[1]


def test_a_missing_field_is_refused_by_name() -> None:
    with pytest.raises(SpecInvalid, match=r"base must be given in a train request, got None"):
        TrainSpec.from_json({"name": "bio", "train_dataset": "bio.train@1"})


def test_the_digest_follows_meaning_not_spelling() -> None:
    two_tasks = EvalSpec(subjects=("a@1",), datasets={"bio": "x@1", "law": "y@1"})
    other_order = EvalSpec(subjects=("a@1",), datasets={"law": "y@1", "bio": "x@1"})
    one_task = EvalSpec(subjects=("a@1",), datasets={"bio": "x@1"})
    digests = [digest_of(spec.to_json()) for spec in (two_tasks, other_order, one_task)]
    assert digests[0] == digests[1] != digests[2]


def test_equal_requests_are_equal_however_they_were_written() -> None:
    written = TrainSpec(**TRAIN, domains=["biology"], alpha=16)  # type: ignore[arg-type]  # a list, as from YAML
    assert written == TrainSpec(**TRAIN, domains=("biology",), alpha=16.0)
    stored = digest_of(TrainSpec(**TRAIN, domains=("biology",), alpha=16.0).to_json())
    assert digest_of(written.to_json()) == stored


def test_a_stored_request_has_every_field_and_the_same_digest_in_every_run() -> None:
    asked = EvalSpec(**EVAL)
    assert asked.to_json() == {
        "subjects": ["adapter:bio@1"],
        "datasets": {"bio": "bio.eval@1"},
        "batch_tokens": 1024,
        "limit": None,
        "metrics": [],
        "max_new_tokens": None,
        "tolerance": 0.01,
        "baseline": None,
        "lm_eval": [],
        "include_path": None,
        "fewshot": None,
        "chat_template": False,
    }
    canonical = (
        '{"baseline":null,"batch_tokens":1024,"chat_template":false,"datasets":{"bio":"bio.eval@1"},'
        '"fewshot":null,"include_path":null,"limit":null,"lm_eval":[],"max_new_tokens":null,"metrics":[],'
        '"subjects":["adapter:bio@1"],"tolerance":0.01}'
    )
    assert digest_of(asked.to_json()) == f"sha256:{sha256(canonical.encode()).hexdigest()}"


def test_the_order_of_experts_is_part_of_the_request() -> None:
    swapped = {**COMPOSE, "adapters": ("protein@2", "bio@1")}
    assert ComposeSpec(**COMPOSE) != ComposeSpec(**swapped)


#: Of each kind, one that holds and changes that do not.
REQUESTS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "train": (
        {**TRAIN, "domains": ["biology"], "alpha": 16},
        [
            {"rank": 0},
            {"rank": "8"},
            {"dropout": 0.96},
            {"learning_rate": 0},
            {"target_modules": []},
            {"domains": ["a", "a"]},
            {"licence": 3},
            {"name": "-x"},
            {"base": " "},
            {"inactive_prefix": 1},
            {"learnin_rate": 1e-4},
        ],
    ),
    "eval": (
        {**EVAL, "subjects": ["adapter:bio@1"]},
        [{"subjects": []}, {"datasets": {"bio": ""}}, {"limit": 0}, {"tolerance": 2}, {"batch_tokens": 0.5}],
    ),
    "compose": (
        {**COMPOSE, "adapters": ["bio@1", "protein@2"], "head": {"xlora_depth": 2}},
        [{"adapters": []}, {"method": "moe"}, {"head": []}, {"samples_per_domain": 1}, {"seed": -1}],
    ),
}


@pytest.mark.parametrize("kind", SPECS)
def test_the_schema_takes_and_refuses_what_the_request_does(kind: str) -> None:
    schema, (holds, changes) = schema_of(kind), REQUESTS[kind]
    jsonschema.Draft202012Validator.check_schema(schema)
    known = jsonschema.Draft202012Validator(schema)
    known.validate(holds)
    known.validate(SPECS[kind].from_json(holds).to_json())
    for change in changes:
        asked = {**holds, **change}
        assert not known.is_valid(asked), change
        with pytest.raises((SpecInvalid, InvalidName)):
            SPECS[kind].from_json(asked)
    for name in schema["required"]:
        assert not known.is_valid({field: value for field, value in holds.items() if field != name})


def test_the_schema_says_of_each_field_what_it_is_for_and_its_default() -> None:
    for spec in SPECS.values():
        for name, field in spec.json_schema()["properties"].items():
            assert field["description"].endswith("."), name
    learning_rate = schema_of("train")["properties"]["learning_rate"]
    said = {name: learning_rate[name] for name in ("default", "exclusiveMinimum", "maximum")}
    assert said == {"default": 2e-4, "exclusiveMinimum": 0, "maximum": 1}


def test_there_is_no_schema_of_an_unknown_kind() -> None:
    with pytest.raises(SpecInvalid, match="kind must be one of train, eval, compose, got 'bake'"):
        schema_of("bake")


def test_equal_requests_draw_from_their_datasets_in_one_order() -> None:
    spec = ComposeSpec(
        name="x", adapters=("b@1", "a@1"), data={"b": "b@1", "a": "a@1"}, eval_data={"b": "b@2", "a": "a@2"}
    )
    assert (list(spec.data), list(spec.eval_data)) == (["a", "b"], ["a", "b"])
    assert list(ComposeSpec.from_json(spec.to_json()).data) == ["a", "b"]
    assert spec.adapters == ("b@1", "a@1")
