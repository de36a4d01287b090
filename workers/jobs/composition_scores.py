"""Scores of everything a composition is compared with, all asked of the one model that was composed.

Constant weights make the model each of its parts: all zero is the base, one-hot is one adapter alone,
1/n is the uniform mixture. So every figure of a report comes from the same code and the same examples.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from formats.names import BASE, COMPOSED, UNIFORM
from workers.jobs.answering import Answerer
from workers.jobs.figures import TokenMap
from workers.methods.mixing import ComposedModel, alone, uniform
from xlora_engine.data.answer_scores import AnswerScores
from xlora_engine.data.chat import Batch, ChatTokenizer, EncodedExample, collate, length_grouped, pad_token
from xlora_engine.measuring.routing import Routing, RoutingRecorder
from xlora_engine.model import XLoraModel

#: Sample answers whose routing is drawn token by token, for each task.
SAMPLES_DRAWN = 1

#: Encoded examples by task.
Examples = Mapping[str, Sequence[EncodedExample]]


def compared(composed: ComposedModel, tokenizer: ChatTokenizer) -> list[Answerer]:
    """The base, every expert alone, the uniform mixture and the composition, in the order of the report."""
    experts = composed.model.config.adapters
    count = len(experts)
    weights = {
        BASE: (0.0,) * count,
        **{name: alone(position, of=count) for position, name in enumerate(experts)},
        UNIFORM: uniform(count),
        COMPOSED: composed.weights,
    }
    return [
        Answerer(subject=name, asked=ComposedModel(model=composed.model, weights=chosen), tokenizer=tokenizer)
        for name, chosen in weights.items()
    ]


def score_all(
    answerers: Sequence[Answerer],
    examples: Examples,
    *,
    tokens_per_batch: int,
    on_scored: Callable[[float], None],
) -> dict[str, dict[str, AnswerScores]]:
    """Scores by subject and task; `on_scored` receives the loss of each."""
    scores: dict[str, dict[str, AnswerScores]] = {}
    for answerer in answerers:
        scores[answerer.subject] = {}
        for task, encoded in examples.items():
            score = answerer.score(encoded, tokens_per_batch=tokens_per_batch)
            scores[answerer.subject][task] = score
            on_scored(score.loss)
    return scores


@torch.no_grad()
def record_routing(
    model: XLoraModel, tokenizer: ChatTokenizer, examples: Examples, *, tokens_per_batch: int
) -> tuple[dict[str, Routing], list[TokenMap]]:
    """How the head routes each task's examples, and token by token for a sample of each."""
    pad_id = pad_token(tokenizer)
    routing: dict[str, Routing] = {}
    maps: list[TokenMap] = []
    for task, encoded in examples.items():
        recorder = RoutingRecorder(model.config.adapters)
        for indices in length_grouped(encoded, tokens_per_batch=tokens_per_batch):
            batch = collate([encoded[index] for index in indices], pad_id=pad_id).to(model.device)
            recorder.add(_head_scalings(model, batch), batch.attention_mask)
        routing[task] = recorder.result()
        maps.extend(_token_map(model, tokenizer, task, example) for example in encoded[:SAMPLES_DRAWN])
    return routing, maps


def _token_map(model: XLoraModel, tokenizer: ChatTokenizer, task: str, example: EncodedExample) -> TokenMap:
    batch = collate([example], pad_id=pad_token(tokenizer)).to(model.device)
    scalings = _head_scalings(model, batch)
    return TokenMap(
        title=task,
        tokens=tuple(tokenizer.decode([token]) for token in example.token_ids),
        experts=model.config.adapters,
        shares=tuple(tuple(shares) for shares in scalings[0].mean(1).tolist()),
    )


def _head_scalings(model: XLoraModel, batch: Batch) -> Float[Tensor, "batch seq layer expert"]:
    hidden = model.scaling_pass(
        batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
    )
    scalings: Tensor = model.head(hidden)
    return scalings
