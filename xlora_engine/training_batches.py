"""What each step of training is taught: its batch of rows, cut into micro-batches that fit into memory."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from xlora_engine.chat import IGNORED, EncodedRow, collate
from xlora_engine.prefix_strength import prefix_strengths, token_strengths
from xlora_engine.shared_prefix import shared_prefix_length

#: The item of a batch that is not the model's.
STRENGTHS = "adapter_strengths"


class Batches(Dataset[dict[str, Any]]):
    """The micro-batches of step 0, then those of step 1; `order` has the rows of each step by index."""

    def __init__(
        self,
        rows: Sequence[EncodedRow],
        order: Sequence[Sequence[int]],
        *,
        parts: int,
        least_strength: float,
        pad_id: int,
    ) -> None:
        self._rows = rows
        self._order = order
        self._parts = parts
        self._least_strength = least_strength
        self._prefix_length = shared_prefix_length(rows)
        self._pad_id = pad_id

    @property
    def tokens(self) -> int:
        """Tokens in all steps, without padding."""
        return sum(len(self._rows[index].token_ids) for indices in self._order for index in indices)

    def __len__(self) -> int:
        return len(self._order) * self._parts

    def __getitem__(self, item: int) -> dict[str, Any]:
        step, part = divmod(item, self._parts)
        indices = self._order[step][part :: self._parts]
        spread = prefix_strengths(len(self._order[step]), least=self._least_strength, turn=step)
        # The last batch of an epoch may be too short for all its parts; what fills one teaches nothing.
        rows = [self._rows[index] for index in indices or self._order[step][:1]]
        batch = collate(rows, pad_id=self._pad_id)
        labels = batch.labels if indices else torch.full_like(batch.labels, IGNORED)
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "position_ids": batch.position_ids,
            # The vocabulary is wide: logits are made for the answers' positions alone.
            "labels": labels[:, -batch.keep :],
            "logits_to_keep": batch.keep,
            "use_cache": False,
            STRENGTHS: token_strengths(
                rows, (spread[part :: self._parts] or spread[:1]), prefix_length=self._prefix_length
            ),
        }


def only(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The Trainer collates lists of one, for an item is a batch already."""
    return items[0]
