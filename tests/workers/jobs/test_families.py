"""Families that need something of their own: registered, trained, scored, composed, asked, exported.

All families do by `python -m benchmarks.families`, through the command line.
"""

from pathlib import Path

import pytest

from tests.pico import pico_tokenizer
from tests.small_bases import SMALL_BASES
from tests.workers.stocked_zoo import DOMAINS, Started
from workers.jobs import compose, train
from workers.jobs.answering import answering
from workers.jobs.asking import ask
from workers.jobs.evaluation import job as evaluation
from workers.jobs.export import export
from workers.requests.base_models import register_base
from workers.requests.generation import GenerateRequest
from workers.requests.specs import ComposeSpec, EvalSpec, TrainSpec

#: Linear attention; a state and attention in one layer; latent attention; a picture encoder beside the text.
FAMILIES = ("Qwen3.5", "Falcon-H1", "DeepSeek V3", "Gemma 3 with pictures")


@pytest.mark.parametrize("name", FAMILIES)
def test_it_goes_the_whole_way(name: str, started: Started, tmp_path: Path) -> None:
    tokenizer = pico_tokenizer()
    SMALL_BASES[name].build(vocab_size=len(tokenizer), context=256).save_pretrained(tmp_path / "family")
    tokenizer.save_pretrained(tmp_path / "family")
    trained = [
        TrainSpec(
            name=f"{domain}-of-family",
            base="family",
            domains=(domain,),
            train_dataset=f"{domain}.train@1",
            eval_dataset=f"{domain}.eval@1",
            steps=2,
            warmup_steps=0,
            rank=2,
        )
        for domain in DOMAINS
    ]
    context = started(trained[0])
    registry = context.registry

    base = register_base(registry, tmp_path / "family", name="family")
    outcomes = [train.run(context), train.run(started(trained[1]))]
    adapters = [outcome["adapter"] for outcome in outcomes]
    asked = EvalSpec(subjects=(f"adapter:{adapters[0]}",), datasets={"bio": "bio.eval@1"})
    (scores,) = evaluation.run(started(asked))["scores"].values()
    spec = ComposeSpec(
        name="both",
        adapters=tuple(adapters),
        data={domain: f"{domain}.train@1" for domain in DOMAINS},
        eval_data={domain: f"{domain}.eval@1" for domain in DOMAINS},
        warm_start_steps=4,
        mixture_steps=1,
    )
    composition = compose.run(started(spec))["composition"]
    with answering(registry, composition) as answerer:
        request = GenerateRequest(subject=composition, questions=("bio 1?",), max_new_tokens=3)
        answer = next(ask(answerer, "bio 1?", request))
    exported = export(registry, composition, tmp_path / "exported", layout="peft")

    assert base.warnings == ()
    assert scores["bio"]["loss"] == pytest.approx(outcomes[0]["scores"]["loss"], abs=1e-4)
    assert answer.new_tokens in range(1, 4)
    assert exported.format == "peft"
    within = {path for adapter in adapters for path in registry.adapters.get(adapter).modules}
    assert not any("vision" in path for path in within)
