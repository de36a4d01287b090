"""What passes over the training examples give, kept in `ZOO_HOME` and found again by later compositions.

Hidden states depend on the tokens and on what the scaling pass is of, the base model and the experts active
in it, and not on the head. An expert's losses depend on the tokens, the base model and that expert, and not
on the others.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from registry.entities import AdapterVersion, BaseModel
from workers.methods.training_examples import DrawnExamples, digest_of_tokens
from xlora_engine.data.chat import EncodedExample
from xlora_engine.head_training.expert_losses import answer_losses
from xlora_engine.head_training.hidden_states import HiddenStates, compute_hidden_states
from xlora_engine.model import XLoraModel


def scaling_pass_digest(base: BaseModel, adapters: Iterable[AdapterVersion], head: Mapping[str, Any]) -> str:
    """Names the model whose scaling pass it is: the base, with the experts where they are active in it."""
    active = {name: head[name] for name in ("scaling_pass_value", "global_scaling_weight") if name in head}
    if not active.get("scaling_pass_value"):
        return base.digest
    return digest_of([base.digest, [_files(adapter) for adapter in adapters], active])


def expert_digest(base: BaseModel, adapter: AdapterVersion | None, head: Mapping[str, Any]) -> str:
    """Names the model that one expert makes of the base; None: the base alone."""
    weight = {name: head[name] for name in ("global_scaling_weight",) if name in head}
    return digest_of([base.digest, None if adapter is None else _files(adapter), weight])


def cached_hidden_states(
    examples: DrawnExamples,
    model: XLoraModel,
    *,
    folder: Path,
    pass_digest: str,
    pad_id: int,
    tokens_per_batch: int,
    on_examples: Callable[[int], None],
) -> HiddenStates:
    """The examples' hidden states: as an earlier composition left them in `folder`, else computed and left.

    `pass_digest` names the model whose scaling pass it is.
    """
    key = hashlib.sha256(f"{pass_digest} {examples.digest}".encode()).hexdigest()
    path = folder / f"{key}.safetensors"
    if path.exists():
        on_examples(len(examples.encoded))
        return HiddenStates.load(path)
    return compute_hidden_states(
        model.scaling_pass,
        examples.encoded,
        new_cache=lambda: model.new_cache().scaling,
        pad_id=pad_id,
        tokens_per_batch=tokens_per_batch,
        device=model.device,
        into=path,
        on_examples=on_examples,
    )


def cached_answer_losses(
    examples: Sequence[EncodedExample],
    model: XLoraModel,
    *,
    folder: Path,
    digest: str,
    pad_id: int,
    tokens_per_batch: int,
    on_examples: Callable[[int], None],
) -> list[Float[Tensor, " answer"]]:
    """The loss of each token of each answer under the model `digest` names: found in `folder`, or left there.

    The model has the scalings of that one expert fixed, or of none.
    """
    sizes = [len(example.answer_ids) for example in examples]
    path = folder / f"{digest_of([digest, digest_of_tokens(examples), sizes])}.safetensors"
    if path.exists():
        on_examples(len(examples))
        return list(load_file(path)["losses"].split(sizes))
    found = answer_losses(
        model, examples, pad_id=pad_id, tokens_per_batch=tokens_per_batch, on_examples=on_examples
    )
    folder.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.partial")
    try:
        save_file({"losses": torch.cat(found)}, staging)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
    return found


def _files(adapter: AdapterVersion) -> list[tuple[str, str]]:
    return [(file.path, file.digest) for file in adapter.files]


def digest_of(facts: object) -> str:
    """Of anything that JSON can write."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
