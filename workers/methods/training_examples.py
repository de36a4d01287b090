"""The examples a scaling head is trained on: drawn from the datasets, encoded, with their hidden states.

Hidden states depend on the tokens and on what the scaling pass is of, the base model and the experts active
in it, and not on the head: they are kept in `ZOO_HOME` and found again by every composition of these.
"""

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from registry.entities import AdapterVersion, BaseModel
from registry.service import Registry
from xlora_engine.data.chat import ChatTokenizer, EncodedExample, encode, read_examples
from xlora_engine.data.shared_prefix import shared_prefix
from xlora_engine.head_training.hidden_states import HiddenStates, compute_hidden_states
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.model import XLoraModel
from xlora_engine.sources.base_model import ReadLimits

#: One example in 8 is held out of training, to stop it early, up to 32 of a domain.
HELD_OUT_SHARE = 8
HELD_OUT_EXAMPLES = 32


@dataclass(frozen=True, kw_only=True)
class DrawnExamples:
    """Encoded examples of all domains, end to end, and the expert each belongs to."""

    encoded: tuple[EncodedExample, ...]
    experts: tuple[int, ...]
    train: tuple[int, ...]
    held_out: tuple[int, ...]

    @property
    def digest(self) -> str:
        """Over the tokens, in order: equal digests have equal hidden states under one base model."""
        hashed = hashlib.sha256()
        for example in self.encoded:
            hashed.update(repr(example.token_ids).encode())
        return hashed.hexdigest()

    def routed(self, hidden: HiddenStates) -> RoutedExamples:
        """With their hidden states, as both training stages take them."""
        return RoutedExamples(
            hidden=hidden,
            experts=torch.tensor(self.experts),
            train=self.train,
            held_out=self.held_out,
            shared=len(shared_prefix(self.encoded)),
        )


def draw_examples(
    files: Mapping[int, Path],
    tokenizer: ChatTokenizer,
    *,
    count_per_domain: int,
    limits: ReadLimits,
    seed: int,
) -> DrawnExamples:
    """Draw examples from each expert's dataset; the same seed draws the same ones and holds out the same."""
    encoded: list[EncodedExample] = []
    experts: list[int] = []
    train: list[int] = []
    held_out: list[int] = []
    for expert, path in files.items():
        drawn = encode_sample(path, tokenizer, count=count_per_domain, limits=limits, seed=seed)
        stride = max(HELD_OUT_SHARE, math.ceil(len(drawn) / HELD_OUT_EXAMPLES))
        for index, example in enumerate(drawn):
            (held_out if index % stride == 0 else train).append(len(encoded))
            encoded.append(example)
            experts.append(expert)
    return DrawnExamples(
        encoded=tuple(encoded), experts=tuple(experts), train=tuple(train), held_out=tuple(held_out)
    )


def dataset_file(registry: Registry, reference: str) -> Path:
    """The verified file of a dataset."""
    dataset = registry.datasets.get(reference)
    return registry.materialise(dataset) / dataset.files[0].path


def encode_sample(
    path: Path, tokenizer: ChatTokenizer, *, count: int | None, limits: ReadLimits, seed: int
) -> list[EncodedExample]:
    """Encode the examples of a dataset, or `count` of them drawn by `seed`.

    Raises:
        ChatInvalid: one cannot be encoded or read within the limits; the first such line is named.
    """
    examples = read_examples(path)
    if count is not None and len(examples) > count:
        examples = random.Random(seed).sample(examples, count)  # noqa: S311 - a sample, not a secret
    encoded = {
        index: encode(tokenizer, examples[index], max_tokens=limits.tokens, embeddings=limits.embeddings)
        for index in sorted(range(len(examples)), key=lambda index: examples[index].line)
    }
    return [encoded[index] for index in range(len(examples))]


def scaling_pass_digest(base: BaseModel, adapters: Iterable[AdapterVersion], head: Mapping[str, Any]) -> str:
    """Names the model whose scaling pass it is: the base, with the experts where they are active in it."""
    active = {name: head[name] for name in ("scaling_pass_value", "global_scaling_weight") if name in head}
    if not active.get("scaling_pass_value"):
        return base.digest
    experts = [[(file.path, file.digest) for file in adapter.files] for adapter in adapters]
    return hashlib.sha256(json.dumps([base.digest, experts, active], sort_keys=True).encode()).hexdigest()


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
