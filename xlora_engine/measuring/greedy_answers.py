"""Greedy decoding of answers that teacher forcing leaves open, many at once, each until it is decided."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache

from xlora_engine.data.chat import ChatTokenizer, EncodedExample, collate, length_grouped, pad_token
from xlora_engine.data.exact_match import decide_beginning
from xlora_engine.data.shared_prefix import can_share
from xlora_engine.devices.host_copy import upload
from xlora_engine.measuring.joint_passes import JointPasses, Prefix, selected


class Asked(NamedTuple):
    """One example under one subject, by their indices."""

    subject: int
    example: int


@dataclass(eq=False)
class _Open:
    """Answers that are not decided yet, and all that their next tokens are computed from."""

    asked: list[Asked]
    beginnings: list[tuple[int, ...]]
    input_ids: Int[Tensor, "batch seq"]
    mask: Int[Tensor, "batch cached_and_seq"]
    positions: Int[Tensor, "batch seq"]
    #: Of both passes; None where a cache cannot be cut down to some of its sequences.
    caches: tuple[Cache, Cache] | None

    def next(self, tokens: Sequence[int], left: Sequence[int]) -> "_Open":
        """With a token more each, and only these of them."""
        chosen = upload(list(left), self.mask.device)
        ids = upload([tokens[index] for index in left], self.mask.device)[:, None]
        next_positions = self.positions[chosen, -1:] + 1
        if self.caches is None:
            ids = torch.cat([self.input_ids[chosen], ids], 1)
            next_positions = torch.cat([self.positions[chosen], next_positions], 1)
        return _Open(
            asked=[self.asked[index] for index in left],
            beginnings=[self.beginnings[index] for index in left],
            input_ids=ids,
            mask=F.pad(self.mask[chosen], (0, 1), value=1),
            positions=next_positions,
            caches=None
            if self.caches is None
            else (selected(self.caches[0], chosen), selected(self.caches[1], chosen)),
        )


class GreedyAnswers:
    """Whether greedy decoding gives the expected answers, from a beginning of each."""

    def __init__(
        self,
        passes: JointPasses,
        prefix: Prefix,
        tokenizer: ChatTokenizer,
        examples: Sequence[EncodedExample],
        *,
        tokens_per_batch: int,
        stops: Collection[int] = (),
    ) -> None:
        self._passes = passes
        self._prefix = prefix
        self._tokenizer = tokenizer
        self._examples = examples
        self._tokens_per_batch = tokens_per_batch
        self._stops = stops

    def matches(self, beginnings: Mapping[Asked, tuple[int, ...]]) -> dict[Asked, bool]:
        """Decode each answer until it is the expected one or cannot become it."""
        subjects = self._passes.subjects
        found: dict[Asked, bool] = {}
        # Apart, because a constant weight needs no scaling pass.
        for reads_head in (False, True):
            order = [asked for asked in beginnings if subjects[asked.subject].reads_head is reads_head]
            self._decode({asked: beginnings[asked] for asked in order}, found)
        return found

    def _decode(self, beginnings: Mapping[Asked, tuple[int, ...]], found: dict[Asked, bool]) -> None:
        order = list(beginnings)
        sequences = [self._read(asked, beginnings[asked]) for asked in order]
        for group in length_grouped(sequences, tokens_per_batch=self._tokens_per_batch):
            opened: _Open | None = self._opened(
                [order[index] for index in group],
                [sequences[index] for index in group],
                [beginnings[order[index]] for index in group],
            )
            while opened is not None:
                opened = self._step(opened, found)

    def _read(self, asked: Asked, beginning: tuple[int, ...]) -> EncodedExample:
        example = self._examples[asked.example]
        prompt = example.token_ids[self._prefix.length : example.prompt_length]
        return EncodedExample(token_ids=prompt + beginning, prompt_length=len(prompt))

    def _opened(
        self,
        asked: list[Asked],
        sequences: Sequence[EncodedExample],
        beginnings: list[tuple[int, ...]],
    ) -> _Open:
        model, prefix = self._passes.model, self._prefix
        batch = collate(sequences, pad_id=pad_token(self._tokenizer)).to(model.device)
        caches: tuple[Cache, Cache] | None
        if prefix.length:
            subjects = [each.subject for each in asked]
            caches = (prefix.scaling_cache(len(asked)), prefix.mixture_cache(subjects, model.device))
        else:
            empty = model.new_cache()
            continues = can_share(empty.mixture, left_padded=False)
            caches = (empty.scaling, empty.mixture) if continues else None
        return _Open(
            asked=asked,
            beginnings=beginnings,
            input_ids=batch.input_ids,
            mask=prefix.mask(batch.attention_mask),
            positions=batch.position_ids + prefix.length,
            caches=caches,
        )

    def _step(self, now: _Open, found: dict[Asked, bool]) -> _Open | None:
        """One token more for each answer; those that are decided by it are found, the others stay open."""
        subjects = [asked.subject for asked in now.asked]
        tokens = self._passes.step(now.input_ids, now.mask, now.positions, subjects, now.caches).tolist()
        left = []
        for index, (asked, token) in enumerate(zip(now.asked, tokens, strict=True)):
            now.beginnings[index] = (*now.beginnings[index], token)
            decided = decide_beginning(
                self._tokenizer,
                self._examples[asked.example],
                now.beginnings[index],
                stops=self._stops,
            )
            if decided is None:
                left.append(index)
            else:
                found[asked] = decided
        return now.next(tokens, left) if left else None
