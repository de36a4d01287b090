"""Requests: what is refused and how, and that JSON gives back the same request."""

import json
from typing import Any

import pytest

from registry.jobs.states import KINDS
from workers.attempts.job_process import HANDLERS
from workers.errors import SpecInvalid
from workers.requests.specs import SPECS, ComposeSpec, EvalSpec, Spec, TrainSpec

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
    assert again.spec_digest == spec.spec_digest
    assert spec.spec_digest.startswith("sha256:")


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
        ("name", " ", "1 to 128 characters of text"),
        ("domains", "biology", "a list of 0 or more different, non-empty names"),
        ("target_modules", (), "a list of 1 or more different, non-empty names"),
        ("target_modules", ("q_proj", "q_proj"), "a list of 1 or more different, non-empty names"),
        (
            "target_modules",
            ("q_proj", "wte"),
            "without embeddings (wte) unless silent_prefix is off (--no-silent-prefix)",
        ),
        ("licence", 3, "1 to 128 characters of text, or left out"),
        ("warmup_steps", 201, "at most the 200 steps"),
        ("processes", 0, "a whole number in 1..64"),
        ("processes", 65, "a whole number in 1..64"),
        ("processes", 3, "a divisor of the 8 rows of a batch, which they share evenly"),
    ],
)
def test_a_field_out_of_range_is_named_with_what_is_allowed(field: str, value: object, allowed: str) -> None:
    with pytest.raises(SpecInvalid) as refused:
        TrainSpec(**{**TRAIN, field: value})
    assert str(refused.value) == f"{field} must be {allowed}, got {value!r}"
    assert (refused.value.code, refused.value.exit_code) == ("ZOO-E401", 2)


def test_embeddings_are_adapted_where_the_prefix_need_not_be_silent() -> None:
    asked = {**TRAIN, "target_modules": ("q_proj", "embed_tokens"), "silent_prefix": False}
    assert TrainSpec(**asked).target_modules == ("q_proj", "embed_tokens")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapters": ("bio", "protein@2")}, "adapters must be resolved references like 'bio@3', got 'bio'"),
        ({"adapters": ("bio@1", "bio@1")}, "adapters must be a list of 1 or more different"),
        ({"data": {}}, "data must be 1 or more entries"),
        ({"data": {"bio": ""}}, "data must be 1 or more entries"),
        ({"eval_data": {"law": "law.eval@1"}}, "eval_data must be for the domains ['bio'], got ['law']"),
        ({"head": {"softmax_temperature": float("nan")}}, "head must be a mapping of option names to JSON"),
        ({"warm_start_steps": 0, "mixture_steps": 0}, "mixture_steps must be above 0"),
    ],
)
def test_a_composition_that_cannot_be_meant_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecInvalid) as refused:
        ComposeSpec(**{**COMPOSE, **change})
    assert str(refused.value).startswith(message)


def test_an_unknown_field_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SpecInvalid, match=r"called 'learning_rate' perhaps, got 'learnin_rate'"):
        TrainSpec.from_json({**TRAIN, "learnin_rate": 1e-4})


def test_every_kind_that_can_be_looked_for_can_be_asked_for_and_carried_out() -> None:
    assert set(KINDS) == set(SPECS) == set(HANDLERS)


def test_only_training_has_processes() -> None:
    for spec, fields in ((ComposeSpec, COMPOSE), (EvalSpec, EVAL)):
        with pytest.raises(SpecInvalid, match=rf"the field name in a {spec.kind} spec .* got 'processes'"):
            spec.from_json({**fields, "processes": 2})
    asked = [TrainSpec(**TRAIN, processes=processes).spec_digest for processes in (1, 2)]
    assert asked[0] == TrainSpec(**TRAIN).spec_digest != asked[1]


def test_a_missing_field_is_refused_by_name() -> None:
    with pytest.raises(SpecInvalid, match=r"base must be given in a train spec"):
        TrainSpec.from_json({"name": "bio", "train_dataset": "bio.train@1"})


def test_the_digest_follows_meaning_not_spelling() -> None:
    two_tasks = EvalSpec(subjects=("a@1",), datasets={"bio": "x@1", "law": "y@1"})
    other_order = EvalSpec(subjects=("a@1",), datasets={"law": "y@1", "bio": "x@1"})
    assert two_tasks.spec_digest == other_order.spec_digest
    assert two_tasks.spec_digest != EvalSpec(subjects=("a@1",), datasets={"bio": "x@1"}).spec_digest


def test_equal_requests_are_equal_however_they_were_written() -> None:
    written = TrainSpec(**TRAIN, domains=["biology"], alpha=16)  # type: ignore[arg-type]  # a list, as from YAML
    assert written == TrainSpec(**TRAIN, domains=("biology",), alpha=16.0)
    assert written.spec_digest == TrainSpec(**TRAIN, domains=("biology",), alpha=16.0).spec_digest


def test_the_order_of_experts_is_part_of_the_request() -> None:
    swapped = {**COMPOSE, "adapters": ("protein@2", "bio@1")}
    assert ComposeSpec(**COMPOSE).spec_digest != ComposeSpec(**swapped).spec_digest
