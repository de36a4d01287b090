"""Hidden states of the scaling pass, computed once for a dataset and read by every composition over it.

With experts silent in the scaling pass they depend on the base model and the tokens alone, neither on
experts nor on the scaling head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.cache_utils import Cache

from xlora_engine.data.chat import EncodedRow, length_grouped
from xlora_engine.data.shared_prefix import ScalingPass, SharedPrefix, run_shared_prefix
from xlora_engine.devices.host_copy import upload
from xlora_engine.errors import SavedFileUnreadable
from xlora_engine.head_training.hidden_states_file import new_hidden_states_file


@dataclass(frozen=True, kw_only=True, eq=False)
class HiddenStates:
    """Hidden states of many rows, laid end to end without padding, in bfloat16.

    A scaling head is not sensitive to the eighth bit. Those of a corpus larger than memory are computed
    into a file and read from it, mapped both times.
    """

    values: Float[Tensor, "token hidden"]
    #: Row i owns `values[starts[i] : starts[i + 1]]`.
    starts: Int[Tensor, " row_bound"]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, index: int) -> Float[Tensor, "token hidden"]:
        """One row's hidden states."""
        return self.values[int(self.starts[index]) : int(self.starts[index + 1])]

    def left_padded(self, indices: Sequence[int], *, after: int = 0) -> Float[Tensor, "batch seq hidden"]:
        """Several rows as one float32 batch, padded on the left by zeros, as `collate` pads tokens.

        Of each row, what comes `after` so many tokens.
        """
        rows = [self.row(index)[after:] for index in indices]
        width = max(len(row) for row in rows)
        batch = torch.zeros(len(rows), width, self.values.shape[1])
        for place, row in zip(batch, rows, strict=True):
            place[width - len(row) :] = row
        return batch

    @classmethod
    def load(cls, path: Path) -> "HiddenStates":
        """Map a file that they were computed into.

        Raises:
            SavedFileUnreadable: it is damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                return cls(values=file.get_tensor("values"), starts=file.get_tensor("starts"))
        except (OSError, SafetensorError) as error:
            raise SavedFileUnreadable(
                f"cannot read {path}: {error}; delete it to compute it again"
            ) from error


def compute_hidden_states(
    scaling_pass: ScalingPass,
    rows: Sequence[EncodedRow],
    *,
    new_cache: Callable[[], Cache],
    pad_id: int,
    tokens_per_batch: int,
    device: torch.device,
    into: Path | None = None,
    on_rows: Callable[[int], None] = lambda _: None,
) -> HiddenStates:
    """Run the scaling pass over all rows; `on_rows` hears how many more are done after each batch.

    What all rows begin with is run once; `new_cache` makes the empty cache that holds it. The states go
    `into` a file, whole or not at all, or stay in memory.

    Raises:
        OSError: the disk has no room for the file.
    """
    computed = partial(
        _computed,
        scaling_pass,
        rows,
        new_cache=new_cache,
        pad_id=pad_id,
        tokens_per_batch=tokens_per_batch,
        device=device,
        on_rows=on_rows,
    )
    if into is None:
        return computed(room=_in_memory)
    with new_hidden_states_file(into) as file:
        computed(room=file.lay_out)
        file.publish(into)
    return HiddenStates.load(into)


def _in_memory(starts: Int[Tensor, " row_bound"], width: int) -> Float[Tensor, "token hidden"]:
    return torch.empty(int(starts[-1]), width, dtype=torch.bfloat16)


def _computed(
    scaling_pass: ScalingPass,
    rows: Sequence[EncodedRow],
    *,
    new_cache: Callable[[], Cache],
    pad_id: int,
    tokens_per_batch: int,
    device: torch.device,
    on_rows: Callable[[int], None],
    room: Callable[[Tensor, int], Tensor],
) -> HiddenStates:
    """Values are written into the `room` that is made when their width is known."""
    prefix = run_shared_prefix(scaling_pass, rows, new_cache=new_cache, device=device)
    shared = 0 if prefix is None else prefix.length
    own = [EncodedRow(token_ids=row.token_ids[shared:], prompt_length=0) for row in rows]
    starts = torch.tensor([0, *(len(row.token_ids) for row in rows)]).cumsum(0)
    states = HiddenStates(values=torch.empty(0, 0, dtype=torch.bfloat16), starts=starts)
    for indices in length_grouped(own, tokens_per_batch=tokens_per_batch):
        token_ids = [own[index].token_ids for index in indices]
        hidden = _run(scaling_pass, token_ids, prefix, pad_id=pad_id, device=device)
        if not states.values.numel():
            states = HiddenStates(values=room(starts, hidden.shape[2]), starts=starts)
        for index, found in zip(indices, hidden.to("cpu", torch.bfloat16), strict=True):
            row = states.row(index)
            if prefix is not None:
                row[:shared] = prefix.hidden
            row[shared:] = found[: len(row) - shared]
        on_rows(len(indices))
    return states


def _run(
    scaling_pass: ScalingPass,
    token_ids: Sequence[Sequence[int]],
    prefix: SharedPrefix | None,
    *,
    pad_id: int,
    device: torch.device,
) -> Float[Tensor, "batch seq hidden"]:
    """One batch, after the prefix where there is one.

    Padded on the right: padding between a prefix and its row would use up sliding windows.
    """
    width = max(len(ids) for ids in token_ids)
    shared = 0 if prefix is None else prefix.length
    input_ids = torch.full((len(token_ids), width), pad_id)
    mask = torch.zeros(len(token_ids), shared + width, dtype=torch.long)
    for place, ids in enumerate(token_ids):
        input_ids[place, : len(ids)] = torch.tensor(ids)
        mask[place, : shared + len(ids)] = 1
    return scaling_pass(
        upload(input_ids, device),
        attention_mask=upload(mask, device),
        position_ids=torch.arange(shared, shared + width, device=device).expand(len(token_ids), -1),
        cache=None if prefix is None else prefix.repeated(len(token_ids)),
    )
