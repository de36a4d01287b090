"""The batches of training: each step's examples, cut into micro-batches that fit into memory.

If all examples begin with tokens that training leaves unchanged, batches continue from their keys and values.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from xlora_engine.data.chat import IGNORED, EncodedExample, collate


class Batches(Dataset[dict[str, Any]]):
    """The micro-batches of step 0, then those of step 1; `order` has the indices of each step's examples."""

    def __init__(
        self,
        examples: Sequence[EncodedExample],
        order: Sequence[Sequence[int]],
        *,
        parts: int,
        pad_id: int,
        cached: int = 0,
    ) -> None:
        """`cached` is the number of tokens of every example that are in a cache already."""
        self._cached = cached
        self.tokens = sum(len(examples[index].token_ids) for indices in order for index in indices)
        self._rows = [example.after(cached) for example in examples]
        self._order = order
        self._parts = parts
        self._pad_id = pad_id

    def __len__(self) -> int:
        return len(self._order) * self._parts

    def __getitem__(self, item: int) -> dict[str, Any]:
        step, part = divmod(item, self._parts)
        indices = self._order[step][part :: self._parts]
        # The last batch of an epoch may be too small for all parts: filled micro-batches have no labels.
        examples = [self._rows[index] for index in indices or self._order[step][:1]]
        batch = collate(examples, pad_id=self._pad_id)
        labels = batch.labels if indices else torch.full_like(batch.labels, IGNORED)
        return {
            "input_ids": batch.input_ids,
            "attention_mask": F.pad(batch.attention_mask, (self._cached, 0), value=1),
            "position_ids": batch.position_ids + self._cached,
            # The vocabulary is large: logits are computed only for the answers' positions.
            "labels": labels[:, -batch.keep :],
            "logits_to_keep": batch.keep,
            "use_cache": False,
        }


def only(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The Trainer's collator: a list of one item, which is a batch already."""
    return items[0]
