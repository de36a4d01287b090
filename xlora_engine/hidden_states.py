"""Hidden states of the scaling pass, computed once for a dataset and read by every composition over it.

With experts silent in the scaling pass they depend on the base model and the tokens alone, neither on
experts nor on the scaling head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xlora_engine.chat import EncodedRow, collate, length_grouped
from xlora_engine.errors import CheckpointUnreadable


class ScalingPass(Protocol):
    """What computes hidden states; `XLoraModel.scaling_pass` is one."""

    def __call__(
        self,
        input_ids: Int[Tensor, "batch seq"],
        *,
        attention_mask: Int[Tensor, "batch seq"],
        position_ids: Int[Tensor, "batch seq"],
    ) -> Float[Tensor, "batch seq hidden"]:
        """Last hidden states of the base model, after its final norm."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HiddenStates:
    """Hidden states of many rows, laid end to end without padding, in bfloat16.

    A scaling head is not sensitive to the eighth bit, and half the bytes let a corpus larger than
    memory be read from a memory-mapped file.
    """

    values: Float[Tensor, "token hidden"]
    #: Row i owns `values[starts[i] : starts[i + 1]]`.
    starts: Int[Tensor, " row_bound"]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, index: int) -> Float[Tensor, "token hidden"]:
        """One row's hidden states."""
        return self.values[int(self.starts[index]) : int(self.starts[index + 1])]

    def left_padded(self, indices: Sequence[int]) -> Float[Tensor, "batch seq hidden"]:
        """Several rows as one float32 batch, padded on the left by zeros, as `collate` pads tokens."""
        rows = [self.row(index) for index in indices]
        width = max(len(row) for row in rows)
        batch = torch.zeros(len(rows), width, self.values.shape[1])
        for place, row in zip(batch, rows, strict=True):
            place[width - len(row) :] = row
        return batch

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_suffix(".partial")
        save_file({"values": self.values, "starts": self.starts}, staging)
        staging.replace(path)

    @classmethod
    def load(cls, path: Path) -> "HiddenStates":
        """Map the file `save` wrote.

        Raises:
            CheckpointUnreadable: it is damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                return cls(values=file.get_tensor("values"), starts=file.get_tensor("starts"))
        except (OSError, SafetensorError) as error:
            raise CheckpointUnreadable(
                f"cannot read {path}: {error}; delete it to compute it again"
            ) from error


def compute_hidden_states(
    scaling_pass: ScalingPass,
    rows: Sequence[EncodedRow],
    *,
    pad_id: int,
    tokens_per_batch: int,
    device: torch.device,
    on_rows: Callable[[int], None] = lambda _: None,
) -> HiddenStates:
    """Run the scaling pass over all rows; `on_rows` hears how many more are done after each batch."""
    found: dict[int, Tensor] = {}
    for indices in length_grouped(rows, tokens_per_batch=tokens_per_batch):
        batch = collate([rows[index] for index in indices], pad_id=pad_id).to(device)
        hidden = scaling_pass(
            batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
        )
        for index, states in zip(indices, hidden.to("cpu", torch.bfloat16), strict=True):
            found[index] = states[-len(rows[index].token_ids) :].clone()
        on_rows(len(indices))
    lengths = torch.tensor([0, *(len(row.token_ids) for row in rows)])
    return HiddenStates(values=torch.cat([found[i] for i in range(len(rows))]), starts=lengths.cumsum(0))
