"""Whatever can answer (a base model, an adapter, a composition), loaded from the registry by reference.

Adapters of one base model share it: they are the experts of one X-LoRA model, asked one at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from registry.entities import AdapterVersion, BaseModel, CompositionVersion
from registry.service import Registry
from workers.jobs.device import device_here
from workers.requests.subjects import Record, find, subject_of
from xlora_engine.data.answer_scores import AnswerScores, score_answers
from xlora_engine.data.chat import ChatTokenizer, EncodedRow
from xlora_engine.devices.compute_dtype import compute_dtype
from xlora_engine.model import XLoraModel
from xlora_engine.sources.base_model import context_length, load_base, load_config, load_tokenizer

#: Is told a base model's tokenizer and the most tokens it reads before its weights are loaded; may refuse.
BeforeWeights = Callable[[ChatTokenizer, int], None]


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """One subject, ready to be asked. `subject` is as evaluations name it, e.g. `adapter:bio@3`."""

    subject: str
    model: Any
    tokenizer: ChatTokenizer
    #: Makes `model` this subject for the calls inside.
    as_subject: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def device(self) -> torch.device:
        """Where the model's inputs must be."""
        device: torch.device = self.model.device
        return device

    @property
    def context_length(self) -> int:
        """The most tokens the base model was made for."""
        base = self.model.base if isinstance(self.model, XLoraModel) else self.model
        return context_length(base.config)

    def score(self, rows: Sequence[EncodedRow], *, tokens_per_batch: int) -> AnswerScores:
        """Loss and exact match of this subject's answers."""
        return score_answers(
            self.logits,
            self.generate,
            self.tokenizer,
            rows,
            new_cache=self.new_cache,
            tokens_per_batch=tokens_per_batch,
            device=self.device,
        )

    def new_cache(self) -> Cache:
        """An empty key-value cache that this subject fills."""
        if not isinstance(self.model, XLoraModel):
            return DynamicCache(config=self.model.config.get_text_config(decoder=True))
        both = self.model.new_cache()
        # An adapter alone is the mixture at constant scalings, which takes one pass.
        return both if self.as_subject is nullcontext else both.mixture

    @torch.no_grad()
    def logits(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"],
        position_ids: Int[Tensor, "batch seq"],
        logits_to_keep: int,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch kept vocabulary"]:
        """Logits of the last positions."""
        with self.as_subject():
            logits: Tensor = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                logits_to_keep=logits_to_keep,
                cache=cache,
                use_cache=cache is not None,
            ).logits
        return logits

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"],
        max_new_tokens: int,
        **options: Any,
    ) -> Int[Tensor, "batch longer"]:
        """Prompts with what follows them; greedy unless the options say otherwise."""
        with self.as_subject():
            generated: Tensor = self.model.generate(
                input_ids,
                attention_mask=attention_mask,
                max_new_tokens=max_new_tokens,
                **{"do_sample": False, **options},
            )
        return generated


def load_answerers(
    registry: Registry, references: Sequence[str], *, before_weights: BeforeWeights = lambda *_: None
) -> Iterator[Answerer]:
    """Load subjects one base model after another, its adapters together."""
    records = [find(registry, reference) for reference in references]
    by_base: dict[str, list[Record]] = {}
    for record in records:
        digest = record.digest if isinstance(record, BaseModel) else record.base_digest
        by_base.setdefault(digest, []).append(record)
    for digest, sharing in by_base.items():
        yield from _load_on(registry, registry.bases.get(digest), sharing, before_weights)


def _load_on(
    registry: Registry, base: BaseModel, records: Sequence[Record], before_weights: BeforeWeights
) -> Iterator[Answerer]:
    folder = registry.materialise(base)
    tokenizer = load_tokenizer(folder)
    before_weights(tokenizer, context_length(load_config(folder)))
    device = device_here()
    model = load_base(folder, dtype=compute_dtype(device), device=device)
    if any(isinstance(record, BaseModel) for record in records):
        yield Answerer(subject=subject_of(base), model=model, tokenizer=tokenizer)
    adapters = [record for record in records if isinstance(record, AdapterVersion)]
    if adapters:
        mixture = XLoraModel.from_adapters(
            model, {f"{a.name}.{a.version}": registry.materialise(a) for a in adapters}
        )
        for place, adapter in enumerate(adapters):
            one_hot = mixture.constant_scalings([float(i == place) for i in range(len(adapters))])
            yield Answerer(
                subject=subject_of(adapter),
                model=mixture,
                tokenizer=tokenizer,
                as_subject=partial(mixture.fixed_scalings, one_hot),
            )
        mixture.unload()
    for record in records:
        if isinstance(record, CompositionVersion):
            composed = XLoraModel.from_pretrained(registry.materialise(record), model)
            yield Answerer(subject=subject_of(record), model=composed, tokenizer=tokenizer)
            composed.unload()


def answerer_of(
    registry: Registry, reference: str, *, before_weights: BeforeWeights = lambda *_: None
) -> Answerer:
    """Load one subject."""
    return next(load_answerers(registry, [reference], before_weights=before_weights))
