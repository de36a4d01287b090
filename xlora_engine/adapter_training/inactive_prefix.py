"""Training an adapter to be inactive on the shared prompt prefix, so that it behaves the same in a mixture.

In a mixture the gates cannot know the domain before the first token that depends on it: until then every
expert has a scaling of about 1/n. An adapter that is trained alone always has a scaling of 1 there and learns
to rely on it, so its answers get worse in every mixture, however good the routing. So its factors A are kept
orthogonal to the input of each module on those tokens. There it adds nothing at any scaling, and later tokens
see the keys and values of the base model.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from xlora_engine.data.shared_prefix import can_share
from xlora_engine.devices.host_copy import upload
from xlora_engine.errors import ConfigInvalid

#: A prefix takes one direction a token from each module's input, and at most this share of them.
_DIRECTIONS_TO_KEEP = 8


class InactivePrefix:
    """Keeps the adapter of one PEFT model inactive on a prefix, from its construction on.

    Args:
        model: a base model with a LoRA adapter that changes nothing yet (B = 0).
        prefix_ids: the tokens that all examples begin with; if they are more than an eighth of the narrowest
            input, only the first of them count.

    Raises:
        ConfigInvalid: embeddings are adapted, and with them the modules' input on the prefix.
    """

    def __init__(self, model: PeftModel, prefix_ids: Sequence[int]) -> None:
        downs = [
            module
            for name, module in model.named_modules()
            if ".lora_A." in f".{name}." and isinstance(module, nn.Linear)
        ]
        limit = min((down.in_features for down in downs), default=0) // _DIRECTIONS_TO_KEEP
        #: Number of tokens on which the adapter is inactive.
        self.length = min(len(prefix_ids), limit)
        #: Keys and values of those tokens for one sequence, which no step changes; None if there are none, or
        #: no batch can continue them.
        self.cache: Cache | None = None
        self._directions: dict[nn.Linear, Float[Tensor, "in direction"]] = {}
        if self.length:
            _require_plain_embeddings(model)
            with _inputs_noted(downs, self._note):
                cache = _run(model, prefix_ids[: self.length])
            self.cache = cache if can_share(cache, left_padded=True) else None
        self.impose()

    @torch.no_grad()
    def impose(self) -> None:
        """Remove from every A what the last optimiser step added along the prefix."""
        for down, directions in self._directions.items():
            weight = down.weight.float()
            down.weight.copy_(weight - weight @ directions @ directions.T)

    def _note(self, down: nn.Linear, given: Float[Tensor, "1 seq in"]) -> None:
        self._directions[down] = _spanned(given.reshape(-1, down.in_features).float())


def _spanned(vectors: Float[Tensor, "seq in"]) -> Float[Tensor, "in direction"]:
    """An orthonormal basis of the vectors' span; they are normalised, as the first token's is far longer."""
    unit = vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    basis, sizes, _ = torch.linalg.svd(unit.T, full_matrices=False)
    spanned: Tensor = basis[:, sizes > 1e-5 * sizes[0]]
    return spanned


@contextmanager
def _inputs_noted(downs: Sequence[nn.Linear], note: Callable[[nn.Linear, Tensor], None]) -> Iterator[None]:
    hooks = [
        down.register_forward_pre_hook(lambda down, given, note=note: note(down, given[0])) for down in downs
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _require_plain_embeddings(model: PeftModel) -> None:
    for name, _ in model.named_parameters():
        if ".lora_embedding_A." in name:
            raise ConfigInvalid("inactive_prefix", "off where embeddings are adapted", True)


@torch.no_grad()
def _run(model: PeftModel, token_ids: Sequence[int]) -> Cache:
    # A PEFT model is in training mode even if everything that it wraps is not.
    training = [module for module in model.modules() if module.training]
    model.eval()
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    input_ids = upload([list(token_ids)], model.device)
    model(input_ids=input_ids, cache=cache, use_cache=True, logits_to_keep=1)
    for module in training:
        module.training = True
    return cache
