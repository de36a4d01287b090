"""What a report says of the training: whether layers differ, and whether more time would bring anything."""

from typing import Any

import pytest
import torch

from workers.methods.training_facts import layer_spread, training_facts
from xlora_engine.config import XLoraConfig
from xlora_engine.head_training.best_state import StageResult
from xlora_engine.head_training.expert_labels import SEVERAL
from xlora_engine.head_training.hidden_states import HiddenStates
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.mixture.head import ScalingHead

EXPERTS = ("bio", "protein")
CONFIG = XLoraConfig(adapters=EXPERTS, hidden_size=8, layerwise_scalings=True, xlora_depth=2, xlora_size=16)


@pytest.fixture
def examples() -> RoutedExamples:
    values = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    return RoutedExamples(
        hidden=HiddenStates(values=values, starts=torch.arange(4) * 4),
        experts=torch.tensor([0, SEVERAL, 0]),
        train=(0,),
        held_out=(1, 2),
        shared=1,
    )


def facts(examples: RoutedExamples, **result: Any) -> dict[str, Any]:
    stage = StageResult(first_held_out_loss=1.5, best_held_out_loss=0.5, **result)
    return training_facts(ScalingHead(CONFIG, layer_count=3), examples, stage, experts=EXPERTS)


def test_layers_that_repeat_one_gate_do_not_differ(examples: RoutedExamples) -> None:
    head = ScalingHead(CONFIG, layer_count=3).eval()
    own = torch.cat([examples.hidden.of(index)[1:] for index in examples.held_out]).float()
    expected = head(own[None]).std(2, correction=0).mean()
    assert layer_spread(head, examples) == pytest.approx(float(expected.detach()), rel=1e-4)
    head.repeat(head.single())
    assert layer_spread(head, examples) == pytest.approx(0, abs=1e-6)


def test_an_expert_that_no_example_needs_is_named(examples: RoutedExamples) -> None:
    found = facts(examples, steps=0, best_step=0)
    assert found["examples"] == {"bio": 2, "protein": 0, "of several": 1}
    assert "nothing says when protein would be of use" in found["sentences"][0]
    assert len(found["sentences"]) == 2


@pytest.mark.parametrize(
    ("best_step", "last_fall", "said"),
    [
        (60, 0.2, "it still fell by 20%: more time (--budget) would bring more"),
        (60, 0.001, "it has stopped falling"),
        (40, 0.2, "the best was step 40: more time would bring nothing"),
    ],
)
def test_it_says_what_more_time_would_bring(
    examples: RoutedExamples, best_step: int, last_fall: float, said: str
) -> None:
    found = facts(examples, steps=60, best_step=best_step, last_fall=last_fall)
    assert said in found["sentences"][-1]
    assert "held-out loss 1.500 to 0.500 in 60 steps" in found["sentences"][-1]
