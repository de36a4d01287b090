"""Which examples a scaling head is trained on, and which are held out to stop it early."""

import json
from pathlib import Path

import pytest

from registry.service import Registry
from tests.pico import pico_tokenizer
from tests.registry.folders import write_adapter, write_base
from workers.methods.kept_passes import scaling_pass_digest
from workers.methods.training_examples import DrawnExamples, Sources, draw_examples, encode_sample
from xlora_engine.errors import AnswerTooLong
from xlora_engine.sources.base_model import ReadLimits

LIMITS = ReadLimits(tokens=512, embeddings=512)


def drawn(folder: Path, *, examples: int, count_per_domain: int) -> DrawnExamples:
    file = folder / "examples.jsonl"
    asked = [
        [{"role": "user", "content": f"{number:04}"}, {"role": "assistant", "content": "ok"}]
        for number in range(examples)
    ]
    file.write_text("\n".join(json.dumps({"messages": messages}) for messages in asked), encoding="utf-8")
    tokenizer = pico_tokenizer()
    return draw_examples(
        Sources(labelled={0: file, 1: file}, corpora=(), domains={}),
        tokenizer,
        count_per_domain=count_per_domain,
        limits=LIMITS,
        seed=0,
    )


@pytest.mark.parametrize(
    ("examples", "count_per_domain", "held_out"), [(16, 16, 2), (64, 16, 2), (256, 512, 32), (400, 512, 31)]
)
def test_one_example_in_eight_is_held_out_up_to_a_bound(
    tmp_path: Path, examples: int, count_per_domain: int, held_out: int
) -> None:
    found = drawn(tmp_path, examples=examples, count_per_domain=count_per_domain)
    per_domain = min(examples, count_per_domain)
    assert [sum(found.experts[index] == expert for index in found.held_out) for expert in (0, 1)] == [
        held_out
    ] * 2
    assert sorted(found.train + found.held_out) == list(range(2 * per_domain))
    # From all parts of a file, which may be sorted by topic.
    indices = [index for index in found.held_out if found.experts[index] == 0]
    assert max(indices) >= per_domain / 2


def test_hidden_states_are_of_the_experts_that_are_active_in_the_scaling_pass(
    registry: Registry, tmp_path: Path
) -> None:
    base = registry.bases.register(write_base(tmp_path / "base"), name="pico", source="here")
    bio, protein = (
        registry.adapters.register(write_adapter(tmp_path / name, seed=seed), name=name)
        for seed, name in enumerate(("bio", "protein"))
    )

    def digests(head: dict[str, object]) -> list[str]:
        chosen = ([bio], [protein], [bio, protein], [protein, bio])
        return [scaling_pass_digest(base, adapters, head) for adapters in chosen]

    assert len(set(digests({"scaling_pass_value": 0.5}))) == 4
    assert set(digests({})) == set(digests({"scaling_pass_value": 0.0, "global_scaling_weight": 2.0}))
    assert set(digests({})) == {base.digest}
    settings: list[dict[str, object]] = [
        {"scaling_pass_value": 0.5},
        {"scaling_pass_value": 0.25},
        {"scaling_pass_value": 0.5, "global_scaling_weight": 2.0},
    ]
    assert len({digests(head)[0] for head in settings}) == 3


def test_of_examples_that_are_drawn_the_first_line_that_is_too_long_is_named(tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    lines = [f'{{"messages": {json.dumps(_chat(length))}}}\n' for length in range(1, 60)]
    file.write_text("".join(lines), encoding="utf-8")
    limits = ReadLimits(tokens=40, embeddings=512)
    with pytest.raises(AnswerTooLong) as refused:
        encode_sample(file, pico_tokenizer(), count=58, limits=limits, seed=0)
    with pytest.raises(AnswerTooLong) as of_all:
        encode_sample(file, pico_tokenizer(), count=None, limits=limits, seed=0)
    assert str(refused.value) == str(of_all.value)


def _chat(length: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a" * length}]
