"""Whatever can answer (a base model, an adapter, a composition), loaded from the registry by reference.

Adapters of one base model share it: they are the experts of one X-LoRA model, asked one at a time.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from registry.entities import AdapterVersion, BaseModel, CompositionVersion
from registry.service import Registry
from workers.jobs.loading import BeforeWeights, LoadedBase, loaded_base
from workers.methods.mixing import ComposedModel, alone, mixing_method
from workers.requests.subjects import Record, find, subject_of
from xlora_engine.data.answer_scores import AnswerScores, answer_losses, score_answers
from xlora_engine.data.chat import ChatTokenizer, EncodedExample
from xlora_engine.measuring.generated_texts import generated_texts
from xlora_engine.model import XLoraModel
from xlora_engine.sources.own_generation_config import stops_of


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """One subject, ready to be asked. `subject` is as evaluations name it, e.g. `adapter:bio@3`."""

    subject: str
    #: A base model as it is, or experts on it with what weighs them.
    asked: PreTrainedModel | ComposedModel
    tokenizer: ChatTokenizer

    @property
    def model(self) -> Any:
        """What is called for logits and for text."""
        return self.asked.model if isinstance(self.asked, ComposedModel) else self.asked

    @property
    def base_model(self) -> PreTrainedModel:
        """The base model, whose generation configuration holds for experts on it, too."""
        return self.asked.model.base if isinstance(self.asked, ComposedModel) else self.asked

    @property
    def device(self) -> torch.device:
        """Where the model's inputs must be."""
        device: torch.device = self.model.device
        return device

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts on the base model; none where there is nothing but the base model."""
        return self.asked.model.config.adapters if isinstance(self.asked, ComposedModel) else ()

    def score(self, examples: Sequence[EncodedExample], *, tokens_per_batch: int) -> AnswerScores:
        """Loss and exact match of this subject's answers."""
        return score_answers(
            self.logits,
            self.generate,
            self.tokenizer,
            examples,
            new_cache=self.new_cache,
            tokens_per_batch=tokens_per_batch,
            device=self.device,
            stops=stops_of(self.base_model.generation_config),
        )

    def losses(self, examples: Sequence[EncodedExample], *, tokens_per_batch: int) -> tuple[float, ...]:
        """Mean loss (nats) over each example's answer tokens; nothing is generated."""
        return answer_losses(
            self.logits,
            self.tokenizer,
            examples,
            new_cache=self.new_cache,
            tokens_per_batch=tokens_per_batch,
            device=self.device,
        )

    def texts(
        self, examples: Sequence[EncodedExample], *, max_new_tokens: int, tokens_per_batch: int
    ) -> tuple[str, ...]:
        """This subject's greedy answers to the examples' questions."""
        return generated_texts(
            self.generate,
            self.tokenizer,
            examples,
            max_new_tokens=max_new_tokens,
            tokens_per_batch=tokens_per_batch,
            device=self.device,
            stops=stops_of(self.base_model.generation_config),
        )

    def new_cache(self) -> Cache:
        """An empty key-value cache that this subject fills."""
        if not isinstance(self.asked, ComposedModel):
            return DynamicCache(config=self.asked.config.get_text_config(decoder=True))
        both = self.asked.model.new_cache()
        # Without a head there is one pass, so one cache.
        return both if self.asked.reads_head else both.mixture

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
        with self._weighed():
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
    def gates(self, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq expert"] | None:
        """How a head weighs the experts after each token, mean over layers; None where there is no head."""
        if not isinstance(self.asked, ComposedModel) or not self.asked.reads_head:
            return None
        scalings: Float[Tensor, "batch seq layer expert"] = self.model(
            input_ids=input_ids, logits_to_keep=1
        ).scalings
        return scalings.float().mean(2)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"],
        max_new_tokens: int,
        **options: Any,
    ) -> Int[Tensor, "batch longer"]:
        """Prompts with what follows them; greedy unless the options say otherwise."""
        with self._weighed():
            generated: Tensor = self.model.generate(
                input_ids,
                attention_mask=attention_mask,
                max_new_tokens=max_new_tokens,
                **{"do_sample": False, **options},
            )
        return generated

    def _weighed(self) -> AbstractContextManager[None]:
        return self.asked.weighed() if isinstance(self.asked, ComposedModel) else nullcontext()


def load_answerers(
    registry: Registry, references: Sequence[str], *, before_weights: BeforeWeights = lambda *_: None
) -> Generator[tuple[LoadedBase, Answerer], None, None]:
    """Load subjects one base model after another, its adapters together; close it to end early."""
    records = [find(registry, reference) for reference in references]
    by_base: dict[str, list[Record]] = {}
    for record in records:
        digest = record.digest if isinstance(record, BaseModel) else record.base_digest
        by_base.setdefault(digest, []).append(record)
    for digest, sharing in by_base.items():
        base = loaded_base(registry, registry.bases.get(digest), before_weights=before_weights)
        for answerer in answerers_on(registry, base, sharing):
            yield base, answerer


def answerers_on(
    registry: Registry, base: LoadedBase, records: Sequence[Record]
) -> Generator[Answerer, None, None]:
    """Subjects of one base model that is in memory, which is as it was once they have been asked."""
    if any(isinstance(record, BaseModel) for record in records):
        yield Answerer(subject=subject_of(base.record), asked=base.model, tokenizer=base.tokenizer)
    adapters = [record for record in records if isinstance(record, AdapterVersion)]
    if adapters:
        yield from _alone(registry, base, adapters)
    for record in records:
        if isinstance(record, CompositionVersion):
            yield from _composed(registry, base, record)


@contextmanager
def answering(
    registry: Registry, reference: str, *, before_weights: BeforeWeights = lambda *_: None
) -> Iterator[Answerer]:
    """One subject, in memory inside."""
    with closing(load_answerers(registry, [reference], before_weights=before_weights)) as loaded:
        yield next(loaded)[1]


@contextmanager
def answering_on(registry: Registry, base: LoadedBase, record: Record) -> Iterator[Answerer]:
    """One subject of a base model that is in memory already."""
    with closing(answerers_on(registry, base, [record])) as loaded:
        yield next(loaded)


def _alone(registry: Registry, base: LoadedBase, adapters: Sequence[AdapterVersion]) -> Iterator[Answerer]:
    folders = {f"{adapter.name}.{adapter.version}": registry.materialise(adapter) for adapter in adapters}
    model = XLoraModel.from_adapters(base.model, folders)
    try:
        for position, adapter in enumerate(adapters):
            asked = ComposedModel(model=model, weights=alone(position, of=len(adapters)))
            yield Answerer(subject=subject_of(adapter), asked=asked, tokenizer=base.tokenizer)
    finally:
        model.unload()


def _composed(registry: Registry, base: LoadedBase, record: CompositionVersion) -> Iterator[Answerer]:
    composed = mixing_method(record.method).load(registry.materialise(record), base.model)
    try:
        yield Answerer(subject=subject_of(record), asked=composed, tokenizer=base.tokenizer)
    finally:
        composed.model.unload()
