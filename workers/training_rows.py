"""The rows a scaling head is trained on: drawn from the datasets, encoded, with their hidden states.

Hidden states depend on the base model and the tokens alone, so they are kept in `ZOO_HOME` and found
again by every composition over the same rows.
"""

import hashlib
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from registry.service import Registry
from xlora_engine.chat import ChatTokenizer, EncodedRow, encode, read_rows
from xlora_engine.hidden_states import HiddenStates, compute_hidden_states
from xlora_engine.model import XLoraModel
from xlora_engine.shared_prefix import shared_prefix
from xlora_engine.warm_start import RoutedRows

#: One row in so many is held out of training, to stop it early, up to so many a domain.
HELD_OUT_SHARE = 8
HELD_OUT_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class DrawnRows:
    """Encoded rows of all domains, end to end, and the expert each belongs to."""

    encoded: tuple[EncodedRow, ...]
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

    def routed(self, hidden: HiddenStates) -> RoutedRows:
        """With their hidden states, as both training stages take them."""
        return RoutedRows(
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
    encoded: list[EncodedRow] = []
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
    dataset = registry.dataset(reference)
    return registry.materialise(dataset) / dataset.files[0].path


def encode_sample(
    path: Path, tokenizer: ChatTokenizer, *, count: int | None, max_tokens: int, seed: int
) -> list[EncodedRow]:
    """Encode the rows of a dataset, or `count` of them drawn by `seed`."""
    rows = read_rows(path)
    if count is not None and len(rows) > count:
        rows = random.Random(seed).sample(rows, count)  # noqa: S311 - a sample, not a secret
    return [encode(tokenizer, row, max_tokens=max_tokens) for row in rows]


def cached_hidden_states(
    rows: DrawnRows,
    model: XLoraModel,
    *,
    folder: Path,
    base_digest: str,
    pad_id: int,
    tokens_per_batch: int,
    on_rows: Callable[[int], None],
) -> HiddenStates:
    """The rows' hidden states: as an earlier composition left them in `folder`, else computed and left."""
    key = hashlib.sha256(f"{base_digest} {rows.digest}".encode()).hexdigest()
    path = folder / f"{key}.safetensors"
    if path.exists():
        on_rows(len(rows.encoded))
        return HiddenStates.load(path)
    hidden = compute_hidden_states(
        model.scaling_pass,
        rows.encoded,
        new_cache=lambda: model.new_cache().scaling,
        pad_id=pad_id,
        tokens_per_batch=tokens_per_batch,
        device=model.device,
        on_rows=on_rows,
    )
    hidden.save(path)
    return hidden
