"""Subjects scored in shared passes: each as when it is asked alone, and the shared work done once."""

import copy
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.cache_utils import Cache

from tests.pico import pico_adapter, pico_tokenizer
from tests.small_bases import SMALL_BASES
from tests.xlora_engine.half_trained import EXPECTED, WRITTEN, example, half_trained
from xlora_engine.config import XLoraConfig
from xlora_engine.data.answer_scores import AnswerScores, score_answers
from xlora_engine.data.chat import EncodedExample
from xlora_engine.data.shared_prefix import shared_prefix
from xlora_engine.errors import ConfigInvalid, ScoreNotFinite
from xlora_engine.measuring import greedy_answers, joint_scores
from xlora_engine.measuring.joint_scores import score_jointly
from xlora_engine.measuring.subjects import Subject
from xlora_engine.model import XLoraModel

COUNT = 3
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return pico_tokenizer()


@pytest.fixture(scope="module")
def examples(tokenizer: PreTrainedTokenizerFast) -> list[EncodedExample]:
    return [
        example(tokenizer, f"{question}{number}", expected)
        for number, question in enumerate(WRITTEN)
        for expected in EXPECTED[::2]
    ]


@pytest.fixture(scope="module")
def base(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return half_trained(tokenizer)


@pytest.fixture(scope="module", params=[0.0, 1 / COUNT], ids=["of the base", "of the uniform mixture"])
def model(
    request: pytest.FixtureRequest, base: LlamaForCausalLM, expert_folders: dict[str, Path]
) -> XLoraModel:
    """Three experts, weakened so that the half of the answers that the base knows stays known."""
    config = XLoraConfig(
        xlora_depth=2,
        xlora_size=16,
        layerwise_scalings=True,
        scaling_pass_value=request.param,
        global_scaling_weight=0.3,
    )
    made = XLoraModel.from_adapters(copy.deepcopy(base), expert_folders, config)
    with torch.no_grad():
        for parameter in made.head.parameters():
            parameter.mul_(4.0)
    return made.eval()


def subjects_of(model: XLoraModel) -> list[Subject]:
    one_hot = torch.eye(COUNT).tolist()
    composed = Subject(name="composed", weights=(1.0,) * COUNT, reads_head=True)
    return [
        Subject(name="base", weights=(0.0,) * COUNT),
        *(
            Subject(name=name, weights=tuple(weights))
            for name, weights in zip(model.config.adapters, one_hot, strict=True)
        ),
        Subject(name="uniform", weights=(1 / COUNT,) * COUNT),
        composed,
        composed.scaled(0.5, name="halved"),
        composed.without(0, name="without the first", divides_share=True),
    ]


def alone(
    model: XLoraModel, tokenizer: PreTrainedTokenizerFast, subject: Subject, examples: list[EncodedExample]
) -> AnswerScores:
    """The reference: the scores of one subject by another path, every forward and every answer its own."""

    def call(
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        logits_to_keep: int,
        cache: Cache | None,
    ) -> Tensor:
        assert cache is None
        hidden = model.scaling_pass(input_ids, attention_mask=attention_mask, position_ids=position_ids)
        out: Any = model.mixture_pass(
            subject.scalings(model.head(hidden)),
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            logits_to_keep=logits_to_keep,
        )
        logits: Tensor = out.logits
        return logits

    def generate(input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int) -> Tensor:
        ids, mask = input_ids, attention_mask
        for _ in range(max_new_tokens):
            logits = call(ids, mask, (mask.cumsum(1) - 1).clamp_min(0), 1, None)
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        return ids

    whole: Any = SimpleNamespace(layers=[None])  # sequences are run without a shared prefix
    return score_answers(
        call,
        generate,
        tokenizer,
        examples,
        new_cache=lambda: whole,
        tokens_per_batch=2000,
        device=CPU,
    )


def test_each_subject_scores_as_it_does_alone(
    model: XLoraModel, tokenizer: PreTrainedTokenizerFast, examples: list[EncodedExample]
) -> None:
    # Given more subjects than fit into one forward, some asked of the first examples alone
    subjects = subjects_of(model)
    requests = {
        subject: range(len(examples) if number % 2 else 20) for number, subject in enumerate(subjects)
    }
    # When they are scored jointly
    scores = score_jointly(model, tokenizer, examples, requests, tokens_per_batch=500)
    # Then every loss and every match is that of asking the subject alone
    fates: Counter[float] = Counter()
    for subject, indices in requests.items():
        expected = alone(model, tokenizer, subject, examples[: len(indices)])
        found = scores[subject.name]
        assert found.example_losses == pytest.approx(expected.example_losses, abs=2e-5), subject.name
        assert found.example_matches == expected.example_matches, subject.name
        assert found.example_tokens == expected.example_tokens
        fates.update(found.example_matches)
    assert min(fates[0.0], fates[1.0]) > 10


def test_where_no_cache_can_be_continued_sequences_are_run_whole(
    model: XLoraModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: list[EncodedExample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given caches like those of a recurrent model
    for module in (joint_scores, greedy_answers):
        monkeypatch.setattr(module, "can_share", lambda *_, **__: False)
    composed, first = (each for each in subjects_of(model) if each.name in ("composed", "bio"))
    # When a subject that reads the head and one that does not are scored
    found = score_jointly(
        model, tokenizer, examples, {composed: range(30), first: range(30)}, tokens_per_batch=500
    )
    # Then they score as alone
    for subject in (composed, first):
        expected = alone(model, tokenizer, subject, examples[:30])
        assert found[subject.name].example_losses == pytest.approx(expected.example_losses, abs=2e-5)
        assert found[subject.name].example_matches == expected.example_matches


def test_the_work_that_subjects_share_is_done_once(
    model: XLoraModel, tokenizer: PreTrainedTokenizerFast, examples: list[EncodedExample]
) -> None:
    # Given a count of the sequences and tokens that the decoder runs
    run: list[tuple[int, int]] = []

    def count(_: nn.Module, __: Sequence[Any], given: dict[str, Any]) -> None:
        run.append(tuple(given["input_ids"].shape))

    handle = model.base.get_decoder().register_forward_pre_hook(count, with_kwargs=True)
    # When examples that teacher forcing decides are scored under the head, changed heads, and what has the
    # scalings of its scaling pass
    subjects = subjects_of(model)
    twin = next(s for s in subjects if set(s.weights) == {model.config.scaling_pass_value})
    reading = [subject for subject in subjects if subject.reads_head]
    decided = [e for e in examples if e.answer_ids == examples[0].answer_ids][:4]
    try:
        score_jointly(
            model,
            tokenizer,
            decided,
            {subject: range(len(decided)) for subject in (twin, *reading)},
            tokens_per_batch=10_000,
        )
    finally:
        handle.remove()
    # Then the prefix is run once by the scaling pass and once by each subject, the examples once by the
    # scaling pass, which is the twin's forward, and once by each subject that reads the head
    prefix, own = len(shared_prefix(decided)), run[2][1]
    assert run[:2] == [(1, prefix), (1 + len(reading), prefix)]
    forced = [sequences for sequences, tokens in run[2:] if tokens == own]
    assert forced.count(len(decided)) == 1 + len(reading)


def test_the_head_tells_its_scalings_of_every_token_but_the_last(
    model: XLoraModel, tokenizer: PreTrainedTokenizerFast, examples: list[EncodedExample]
) -> None:
    composed = next(subject for subject in subjects_of(model) if subject.name == "composed")
    told: dict[int, Tensor] = {}

    def listen(indices: Sequence[int], scalings: Tensor, mask: Tensor) -> None:
        for sequence, index in enumerate(indices):
            told[index] = scalings[sequence][mask[sequence].bool()]

    score_jointly(model, tokenizer, examples, {composed: range(3)}, tokens_per_batch=60, on_scalings=listen)
    assert sorted(told) == [0, 1, 2]
    for index, scalings in told.items():
        ids = torch.tensor([examples[index].token_ids[:-1]])
        expected = model.head(model.scaling_pass(ids))[0]
        torch.testing.assert_close(scalings, expected, atol=1e-5, rtol=1e-5)


def test_with_sliding_windows_subjects_score_as_they_do_alone(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    # Given a base of short windows, and examples whose padding would push a shared prefix out of them
    base: Any = SMALL_BASES["Mistral"].build()
    folders = {
        name: pico_adapter(tmp_path / name, seed=seed, base=base, target_modules=("q_proj", "down_proj"))
        for seed, name in enumerate(("bio", "protein"))
    }
    model = XLoraModel.from_adapters(base, folders, XLoraConfig(layerwise_scalings=True))
    examples = [
        EncodedExample(token_ids=(5, 6, 7, *own, 8, 2), prompt_length=3 + len(own))
        for own in ((9,), (10, 11, 12, 13, 14))
    ]
    composed = Subject(name="composed", weights=(1.0, 1.0), reads_head=True)
    subjects = [composed, Subject(name="bio", weights=(1.0, 0.0))]
    # When they are scored jointly, then each loss is that of asking alone
    found = score_jointly(model, tokenizer, examples, {s: range(2) for s in subjects}, tokens_per_batch=100)
    for subject in subjects:
        expected = alone(model, tokenizer, subject, examples)
        assert found[subject.name].example_losses == pytest.approx(expected.example_losses, abs=2e-5)


def test_nothing_to_score_is_refused(
    model: XLoraModel, tokenizer: PreTrainedTokenizerFast, examples: list[EncodedExample]
) -> None:
    base = subjects_of(model)[0]
    for given, requests in (([], {base: range(1)}), (examples, {}), (examples, {base: range(0)})):
        with pytest.raises(ConfigInvalid, match="at least one for each subject"):
            score_jointly(model, tokenizer, given, requests, tokens_per_batch=100)


def test_a_loss_that_is_not_finite_is_refused(
    model: XLoraModel, tokenizer: PreTrainedTokenizerFast, examples: list[EncodedExample]
) -> None:
    broken = Subject(name="broken", weights=(math.nan,) * COUNT)
    with pytest.raises(ScoreNotFinite, match=r"the loss of example [12] is nan"):
        score_jointly(model, tokenizer, examples, {broken: range(2)}, tokens_per_batch=500)


@pytest.mark.parametrize("divides", [True, False])
def test_without_an_expert_the_others_divide_its_share_or_it_is_dropped(divides: bool) -> None:
    of_head = torch.tensor([0.5, 0.3, 0.2]).view(1, 1, 1, 3)
    composed = Subject(name="composed", weights=(1.0,) * 3, reads_head=True)
    left = composed.without(0, name="left", divides_share=divides).scalings(of_head)
    assert left.flatten().tolist() == pytest.approx([0.0, 0.6, 0.4] if divides else [0.0, 0.3, 0.2])
    uniform = Subject(name="uniform", weights=(0.25,) * 4).without(1, name="left", divides_share=divides)
    assert uniform.weights == pytest.approx((1 / 3, 0, 1 / 3, 1 / 3) if divides else (0.25, 0, 0.25, 0.25))


def test_without_its_only_expert_nothing_is_left() -> None:
    only = Subject(name="composed", weights=(1.0,), reads_head=True)
    of_head = torch.ones(1, 1, 1, 1)
    assert float(only.without(0, name="left", divides_share=True).scalings(of_head)) == 0.0
    assert Subject(name="x", weights=(1.0,)).without(0, name="left", divides_share=True).weights == (0.0,)
