"""Scores of everything a composition is compared with, all asked of one loaded X-LoRA model.

Constant scalings make the model each of its parts: all zero is the base, one-hot is one adapter alone,
1/n is the uniform mixture. So every figure of a report comes from the same code and the same rows.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from workers.jobs.figures import TokenMap
from workers.jobs.report import BASE, COMPOSED, UNIFORM
from xlora_engine.data.answer_scores import AnswerScores, score_answers
from xlora_engine.data.chat import ChatTokenizer, EncodedRow, collate, length_grouped
from xlora_engine.measuring.routing import Routing, RoutingRecorder
from xlora_engine.model import XLoraModel

#: Sample answers whose routing is drawn token by token, for each task.
SAMPLES_DRAWN = 1


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One thing to score, and the constant scalings that make the model it (None: the head's own)."""

    name: str
    scalings: tuple[float, ...] | None


def subjects(experts: Sequence[str]) -> list[Subject]:
    """The base, every expert alone, the uniform mixture and the composition, in the order of the report."""
    count = len(experts)
    alone = [
        Subject(name=name, scalings=tuple(float(i == place) for i in range(count)))
        for place, name in enumerate(experts)
    ]
    return [
        Subject(name=BASE, scalings=(0.0,) * count),
        *alone,
        Subject(name=UNIFORM, scalings=(1 / count,) * count),
        Subject(name=COMPOSED, scalings=None),
    ]


def score_subjects(
    model: XLoraModel,
    tokenizer: ChatTokenizer,
    rows: Mapping[str, Sequence[EncodedRow]],
    *,
    tokens_per_batch: int,
    on_scored: Callable[[float], None],
) -> dict[str, dict[str, AnswerScores]]:
    """Scores by subject and task; `on_scored` hears the loss of each."""
    scores: dict[str, dict[str, AnswerScores]] = {}
    for subject in subjects(model.config.adapters):
        scores[subject.name] = {}
        for task, encoded in rows.items():
            scores[subject.name][task] = score_answers(
                partial(_logits, model, subject),
                partial(_generate, model, subject),
                tokenizer,
                encoded,
                new_cache=partial(_new_cache, model, subject),
                tokens_per_batch=tokens_per_batch,
                device=model.device,
            )
            on_scored(scores[subject.name][task].loss)
    return scores


@torch.no_grad()
def record_routing(
    model: XLoraModel,
    tokenizer: ChatTokenizer,
    rows: Mapping[str, Sequence[EncodedRow]],
    *,
    tokens_per_batch: int,
    pad_id: int,
) -> tuple[dict[str, Routing], list[TokenMap]]:
    """How the head routes each task's rows, and token by token for a sample of each."""
    routing: dict[str, Routing] = {}
    maps: list[TokenMap] = []
    for task, encoded in rows.items():
        recorder = RoutingRecorder(model.config.adapters)
        for indices in length_grouped(encoded, tokens_per_batch=tokens_per_batch):
            batch = collate([encoded[index] for index in indices], pad_id=pad_id).to(model.device)
            recorder.add(_head_scalings(model, batch), batch.attention_mask)
        routing[task] = recorder.result()
        maps.extend(_token_map(model, tokenizer, task, row, pad_id) for row in encoded[:SAMPLES_DRAWN])
    return routing, maps


def _token_map(
    model: XLoraModel, tokenizer: ChatTokenizer, task: str, row: EncodedRow, pad_id: int
) -> TokenMap:
    scalings = _head_scalings(model, collate([row], pad_id=pad_id).to(model.device))
    return TokenMap(
        title=task,
        tokens=tuple(tokenizer.decode([token]) for token in row.token_ids),
        experts=model.config.adapters,
        shares=tuple(tuple(shares) for shares in scalings[0].mean(1).tolist()),
    )


def _head_scalings(model: XLoraModel, batch: Any) -> Float[Tensor, "batch seq layer expert"]:
    hidden = model.scaling_pass(
        batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
    )
    scalings: Tensor = model.head(hidden)
    return scalings


def _logits(
    model: XLoraModel,
    subject: Subject,
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"],
    position_ids: Int[Tensor, "batch seq"],
    logits_to_keep: int,
    cache: Cache | None,
) -> Float[Tensor, "batch kept vocabulary"]:
    with _as_subject(model, subject):
        logits: Tensor = model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            logits_to_keep=logits_to_keep,
            cache=cache,
            use_cache=cache is not None,
        ).logits
    return logits


def _new_cache(model: XLoraModel, subject: Subject) -> Cache:
    """Constant scalings take one pass, so one cache."""
    both = model.new_cache()
    return both if subject.scalings is None else both.mixture


def _generate(
    model: XLoraModel,
    subject: Subject,
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"],
    max_new_tokens: int,
) -> Int[Tensor, "batch longer"]:
    with _as_subject(model, subject):
        generated: Tensor = model.generate(
            input_ids, attention_mask=attention_mask, max_new_tokens=max_new_tokens, do_sample=False
        )
    return generated


def _as_subject(model: XLoraModel, subject: Subject) -> AbstractContextManager[None]:
    if subject.scalings is None:
        return nullcontext()
    return model.fixed_scalings(model.constant_scalings(subject.scalings) if any(subject.scalings) else None)
