"""What each step of training is taught: its batch of rows, cut into micro-batches that fit into memory.

Where all rows begin with tokens that training leaves as they are, batches go on from their keys and values.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from xlora_engine.data.chat import IGNORED, EncodedRow, collate


class Batches(Dataset[dict[str, Any]]):
    """The micro-batches of step 0, then those of step 1; `order` has the rows of each step by index."""

    def __init__(
        self,
        rows: Sequence[EncodedRow],
        order: Sequence[Sequence[int]],
        *,
        parts: int,
        pad_id: int,
        cached: int = 0,
    ) -> None:
        """`cached` tells how many tokens of every row are in a cache that the batches go on from."""
        self._cached = cached
        self.tokens = sum(len(rows[index].token_ids) for indices in order for index in indices)
        self._rows = [row.after(cached) for row in rows]
        self._order = order
        self._parts = parts
        self._pad_id = pad_id

    def __len__(self) -> int:
        return len(self._order) * self._parts

    def __getitem__(self, item: int) -> dict[str, Any]:
        step, part = divmod(item, self._parts)
        indices = self._order[step][part :: self._parts]
        # The last batch of an epoch may be too short for all its parts; what fills one teaches nothing.
        rows = [self._rows[index] for index in indices or self._order[step][:1]]
        batch = collate(rows, pad_id=self._pad_id)
        labels = batch.labels if indices else torch.full_like(batch.labels, IGNORED)
        return {
            "input_ids": batch.input_ids,
            "attention_mask": F.pad(batch.attention_mask, (self._cached, 0), value=1),
            "position_ids": batch.position_ids + self._cached,
            # The vocabulary is wide: logits are made for the answers' positions alone.
            "labels": labels[:, -batch.keep :],
            "logits_to_keep": batch.keep,
            "use_cache": False,
        }


def only(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The Trainer collates lists of one, for an item is a batch already."""
    return items[0]
