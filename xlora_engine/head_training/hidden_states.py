"""Hidden states of the scaling pass, computed once for a dataset and read by every composition over it.

With experts inactive in the scaling pass they depend only on the base model and the tokens, neither on
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

from xlora_engine.data.chat import EncodedExample, length_grouped
from xlora_engine.data.shared_prefix import ScalingPass, SharedPrefix, run_shared_prefix
from xlora_engine.devices.host_copy import upload
from xlora_engine.errors import SavedFileUnreadable
from xlora_engine.head_training.hidden_states_file import new_hidden_states_file


@dataclass(frozen=True, kw_only=True, eq=False)
class HiddenStates:
    """Hidden states of many examples, one after another without padding, in bfloat16.

    A scaling head needs no more precision. Those of a corpus larger than memory are computed into a
    memory-mapped file and read from it.
    """

    values: Float[Tensor, "token hidden"]
    #: Example i has `values[starts[i] : starts[i + 1]]`.
    starts: Int[Tensor, " row_bound"]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, index: int) -> Float[Tensor, "token hidden"]:
        """One example's hidden states."""
        return self.values[int(self.starts[index]) : int(self.starts[index + 1])]

    def left_padded(self, indices: Sequence[int], *, after: int = 0) -> Float[Tensor, "batch seq hidden"]:
        """Several examples as one float32 batch, padded with zeros on the left, as `collate` pads tokens.

        The first `after` tokens of each example are left out.
        """
        own = [self.of(index)[after:] for index in indices]
        width = max(len(states) for states in own)
        batch = torch.zeros(len(own), width, self.values.shape[1])
        for sequence, states in zip(batch, own, strict=True):
            sequence[width - len(states) :] = states
        return batch

    @classmethod
    def load(cls, path: Path) -> "HiddenStates":
        """Memory-map a file that they were computed into.

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
    examples: Sequence[EncodedExample],
    *,
    new_cache: Callable[[], Cache],
    pad_id: int,
    tokens_per_batch: int,
    device: torch.device,
    into: Path | None = None,
    on_examples: Callable[[int], None] = lambda _: None,
) -> HiddenStates:
    """Run the scaling pass over all examples; `on_examples` gets the number done in each batch.

    Tokens that all examples begin with are run once; `new_cache` makes the empty cache that holds them. The
    states go `into` a file, complete or not at all, or stay in memory.

    Raises:
        OSError: the disk has no room for the file.
    """
    computed = partial(
        _computed,
        scaling_pass,
        examples,
        new_cache=new_cache,
        pad_id=pad_id,
        tokens_per_batch=tokens_per_batch,
        device=device,
        on_examples=on_examples,
    )
    if into is None:
        return computed(allocate=_in_memory)
    with new_hidden_states_file(into) as file:
        computed(allocate=file.lay_out)
        file.publish(into)
    return HiddenStates.load(into)


def _in_memory(starts: Int[Tensor, " row_bound"], width: int) -> Float[Tensor, "token hidden"]:
    return torch.empty(int(starts[-1]), width, dtype=torch.bfloat16)


def _computed(
    scaling_pass: ScalingPass,
    examples: Sequence[EncodedExample],
    *,
    new_cache: Callable[[], Cache],
    pad_id: int,
    tokens_per_batch: int,
    device: torch.device,
    on_examples: Callable[[int], None],
    allocate: Callable[[Tensor, int], Tensor],
) -> HiddenStates:
    """`allocate(starts, width)` returns the output tensor; called when the width is known."""
    prefix = run_shared_prefix(scaling_pass, examples, new_cache=new_cache, device=device)
    shared = 0 if prefix is None else prefix.length
    own = [EncodedExample(token_ids=example.token_ids[shared:], prompt_length=0) for example in examples]
    starts = torch.tensor([0, *(len(example.token_ids) for example in examples)]).cumsum(0)
    states = HiddenStates(values=torch.empty(0, 0, dtype=torch.bfloat16), starts=starts)
    for indices in length_grouped(own, tokens_per_batch=tokens_per_batch):
        token_ids = [own[index].token_ids for index in indices]
        hidden = _run(scaling_pass, token_ids, prefix, pad_id=pad_id, device=device)
        if not states.values.numel():
            states = HiddenStates(values=allocate(starts, hidden.shape[2]), starts=starts)
        for index, found in zip(indices, hidden.to("cpu", torch.bfloat16), strict=True):
            whole = states.of(index)
            if prefix is not None:
                whole[:shared] = prefix.hidden
            whole[shared:] = found[: len(whole) - shared]
        on_examples(len(indices))
    return states


def _run(
    scaling_pass: ScalingPass,
    token_ids: Sequence[Sequence[int]],
    prefix: SharedPrefix | None,
    *,
    pad_id: int,
    device: torch.device,
) -> Float[Tensor, "batch seq hidden"]:
    """One batch, after the prefix if there is one.

    Padded on the right: padding between a prefix and its example would fill up sliding windows.
    """
    width = max(len(ids) for ids in token_ids)
    shared = 0 if prefix is None else prefix.length
    input_ids = torch.full((len(token_ids), width), pad_id)
    mask = torch.zeros(len(token_ids), shared + width, dtype=torch.long)
    for index, ids in enumerate(token_ids):
        input_ids[index, : len(ids)] = torch.tensor(ids)
        mask[index, : shared + len(ids)] = 1
    return scaling_pass(
        upload(input_ids, device),
        attention_mask=upload(mask, device),
        position_ids=torch.arange(shared, shared + width, device=device).expand(len(token_ids), -1),
        cache=None if prefix is None else prefix.repeated(len(token_ids)),
    )
