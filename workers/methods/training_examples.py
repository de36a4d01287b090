"""The rows a scaling head is trained on: drawn from the datasets, encoded, with their hidden states.

Hidden states depend on the tokens and on what the scaling pass is of, the base model and the experts heard
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

#: One row in so many is held out of training, to stop it early, up to so many a domain.
HELD_OUT_SHARE = 8
HELD_OUT_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class DrawnRows:
    """Encoded rows of all domains, end to end, and the expert each belongs to."""

    encoded: tuple[EncodedExample, ...]
    experts: tuple[int, ...]
    train: tuple[int, ...]
    held_out: tuple[int, ...]

    @property
    def digest(self) -> str:
        """Over the tokens, in order: equal digests have equal hidden states under one base model."""
        hashed = hashlib.sha256()
        for row in self.encoded:
            hashed.update(repr(row.token_ids).encode())
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


def draw_rows(
    files: Mapping[int, Path], tokenizer: ChatTokenizer, *, rows_per_domain: int, max_tokens: int, seed: int
) -> DrawnRows:
    """Draw rows from each expert's dataset; the same seed draws the same rows and holds out the same."""
    encoded: list[EncodedExample] = []
    experts: list[int] = []
    train: list[int] = []
    held_out: list[int] = []
    for expert, path in files.items():
        drawn = encode_sample(path, tokenizer, count=rows_per_domain, max_tokens=max_tokens, seed=seed)
        stride = max(HELD_OUT_SHARE, math.ceil(len(drawn) / HELD_OUT_ROWS))
        for place, row in enumerate(drawn):
            (held_out if place % stride == 0 else train).append(len(encoded))
            encoded.append(row)
            experts.append(expert)
    return DrawnRows(
        encoded=tuple(encoded), experts=tuple(experts), train=tuple(train), held_out=tuple(held_out)
    )


def dataset_file(registry: Registry, reference: str) -> Path:
    """The verified file of a dataset."""
    dataset = registry.datasets.get(reference)
    return registry.materialise(dataset) / dataset.files[0].path


def encode_sample(
    path: Path, tokenizer: ChatTokenizer, *, count: int | None, max_tokens: int, seed: int
) -> list[EncodedExample]:
    """Encode the rows of a dataset, or `count` of them drawn by `seed`."""
    rows = read_examples(path)
    if count is not None and len(rows) > count:
        rows = random.Random(seed).sample(rows, count)  # noqa: S311 - a sample, not a secret
    return [encode(tokenizer, row, max_tokens=max_tokens) for row in rows]


def scaling_pass_digest(base: BaseModel, adapters: Iterable[AdapterVersion], head: Mapping[str, Any]) -> str:
    """Names the model whose scaling pass it is: the base, with the experts where they are heard in it."""
    heard = {name: head[name] for name in ("scaling_pass_value", "global_scaling_weight") if name in head}
    if not heard.get("scaling_pass_value"):
        return base.digest
    experts = [[(file.path, file.digest) for file in adapter.files] for adapter in adapters]
    return hashlib.sha256(json.dumps([base.digest, experts, heard], sort_keys=True).encode()).hexdigest()


def cached_hidden_states(
    rows: DrawnRows,
    model: XLoraModel,
    *,
    folder: Path,
    pass_digest: str,
    pad_id: int,
    tokens_per_batch: int,
    on_examples: Callable[[int], None],
) -> HiddenStates:
    """The rows' hidden states: as an earlier composition left them in `folder`, else computed and left.

    `pass_digest` names the model whose scaling pass it is.
    """
    key = hashlib.sha256(f"{pass_digest} {rows.digest}".encode()).hexdigest()
    path = folder / f"{key}.safetensors"
    if path.exists():
        on_examples(len(rows.encoded))
        return HiddenStates.load(path)
    return compute_hidden_states(
        model.scaling_pass,
        rows.encoded,
        new_cache=lambda: model.new_cache().scaling,
        pad_id=pad_id,
        tokens_per_batch=tokens_per_batch,
        device=model.device,
        into=path,
        on_examples=on_examples,
    )
