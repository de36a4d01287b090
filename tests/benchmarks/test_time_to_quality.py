"""The engine's training of a head and PEFT's are evaluated in the same way, and stop where they should."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.contenders import new_peft_xlora
from benchmarks.subject import DOMAINS
from benchmarks.time_to_quality import (
    EVALUATED_AFTER,
    GOAL,
    STEPS,
    Bounds,
    Evaluation,
    bounds,
    engine_evaluations,
    peft_evaluations,
    until_reached,
)
from formats.chat_examples import ChatExample
from tests.pico import ALL_PROJECTIONS, pico_adapter, pico_llama, pico_tokenizer
from xlora_engine.config import XLoraConfig
from xlora_engine.data.chat import EncodedExample, encode
from xlora_engine.model import XLoraModel

HEAD = XLoraConfig(layerwise_scalings=True, xlora_depth=2, xlora_size=8)
BETWEEN = Bounds(uniform={"bio": 2.0, "protein": 1.0}, own={"bio": 1.0, "protein": 0.5})


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("experts")
    return {
        name: pico_adapter(root / name, seed=seed, rank=2, target_modules=ALL_PROJECTIONS)
        for seed, name in enumerate(DOMAINS)
    }


@pytest.fixture(scope="module")
def examples() -> dict[str, list[EncodedExample]]:
    def example(domain: str, number: int) -> EncodedExample:
        messages = (("user", f"{domain} {number}?"), ("assistant", f"{number}"))
        return encode(pico_tokenizer(), ChatExample(messages=messages), max_tokens=128)

    return {domain: [example(domain, number) for number in range(8)] for domain in DOMAINS}


def ticking() -> Callable[[], float]:
    return itertools.count().__next__


def evaluation(bio: float, protein: float) -> Evaluation:
    return Evaluation(seconds=1.0, steps=1, losses={"bio": bio, "protein": protein})


@pytest.mark.parametrize(
    ("losses", "share"),
    [({"bio": 1.0, "protein": 0.5}, 1.0), ({"bio": 1.1, "protein": 0.8}, 0.4), ({"bio": 3.0}, -1.0)],
)
def test_the_share_of_the_way_is_that_of_the_worst_domain(losses: dict[str, float], share: float) -> None:
    assert BETWEEN.share(losses) == pytest.approx(share)


def test_looking_ends_at_the_first_look_that_reached_the_goal() -> None:
    evaluations = [evaluation(1.5, 0.5), evaluation(1.11, 0.5), evaluation(1.05, 0.52), evaluation(1.0, 0.5)]

    assert until_reached("ours", iter(evaluations), BETWEEN) == evaluations[:3]
    assert BETWEEN.share(evaluations[1].losses) < GOAL


def test_the_engine_begins_anew_for_each_budget(
    experts: dict[str, Path], examples: dict[str, list[EncodedExample]]
) -> None:
    evaluations = engine_evaluations(
        lambda: XLoraModel.from_adapters(pico_llama(), experts, HEAD),
        examples,
        examples,
        pad_id=0,
        clock=ticking(),
    )

    found = list(itertools.islice(evaluations, 2))

    assert [one.steps for one in found] == list(STEPS[:2])
    assert [one.seconds for one in found] == [1, 1]


def test_peft_trains_its_head_until_its_time_is_up(
    experts: dict[str, Path], examples: dict[str, list[EncodedExample]]
) -> None:
    model = XLoraModel.from_adapters(pico_llama(), experts, HEAD)
    between = bounds(model, examples, pad_id=0)
    theirs = new_peft_xlora(pico_llama(), experts.values(), HEAD, model.head.state_dict())

    settings = {"pad_id": 0, "batch_size": 4, "limit_s": 4.0, "clock": ticking()}
    evaluations = list(peft_evaluations(theirs, examples, examples, learning_rate=0.05, **settings))  # type: ignore[arg-type]

    assert [one.steps for one in evaluations] == [max(1, 4 * share) for share in EVALUATED_AFTER]
    assert evaluations[0].losses == evaluations[1].losses
    assert sum(evaluations[-1].losses.values()) < sum(evaluations[0].losses.values())
    assert set(between.own) == set(between.uniform) == set(evaluations[0].losses)
