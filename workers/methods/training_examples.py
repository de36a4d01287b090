"""The examples a scaling head is trained on: drawn from the datasets, encoded, labelled as far as is known.

Examples of a domain's dataset belong to its expert. Those of a corpus do if they name its domain; which
experts the others need is found out from the experts themselves.
"""

import hashlib
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from formats.chat_examples import ChatExample
from registry.service import Registry
from xlora_engine.data.chat import ChatTokenizer, EncodedExample, encode, read_examples
from xlora_engine.data.shared_prefix import shared_prefix
from xlora_engine.head_training.expert_labels import SEVERAL, ExpertLabel, token_shares
from xlora_engine.head_training.hidden_states import HiddenStates
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.sources.base_model import ReadLimits

#: What stands for bytes that are no whole character.
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

#: One example in 8 is held out of training, to stop it early, up to 32 of a domain.
HELD_OUT_SHARE = 8
HELD_OUT_EXAMPLES = 32


@dataclass(frozen=True, kw_only=True)
class DrawnExamples:
    """Encoded examples of all datasets, end to end, and the expert each belongs to; None: not known yet."""

    encoded: tuple[EncodedExample, ...]
    experts: tuple[int | None, ...]
    train: tuple[int, ...]
    held_out: tuple[int, ...]

    @property
    def digest(self) -> str:
        """Over the tokens, in order: equal digests have equal hidden states under one base model."""
        return digest_of_tokens(self.encoded)

    @property
    def unlabelled(self) -> tuple[int, ...]:
        """Examples of which no expert is known."""
        return tuple(index for index, expert in enumerate(self.experts) if expert is None)

    def routed(self, hidden: HiddenStates, labels: Mapping[int, ExpertLabel] | None = None) -> RoutedExamples:
        """With hidden states, and labels for those that had none, as both training stages take them."""
        found = labels or {}
        experts = [found[i].expert if known is None else known for i, known in enumerate(self.experts)]
        return RoutedExamples(
            hidden=hidden,
            experts=torch.tensor(experts),
            train=self.train,
            held_out=self.held_out,
            shared=len(shared_prefix(self.encoded)),
            shares={
                index: token_shares(label, tokens=len(self.encoded[index].token_ids))
                for index, label in found.items()
                if label.expert == SEVERAL
            },
        )


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The files to draw from."""

    #: Of one expert each.
    labelled: Mapping[int, Path]
    #: Of any; `domains` says which expert owns a domain that an example names.
    corpora: Sequence[Path]
    domains: Mapping[str, int]


def draw_examples(
    sources: Sources,
    tokenizer: ChatTokenizer,
    *,
    count_per_domain: int,
    limits: ReadLimits,
    seed: int,
    reported: int = 0,
) -> DrawnExamples:
    """Draw examples from each dataset; the same seed draws the same ones and holds out the same.

    A corpus counts for all domains. `reported` examples of it at most are left for the report.
    """
    experts = max(1, len(sources.domains))
    draw = _Draw()
    for expert, path in sources.labelled.items():
        found = encode_sample(path, tokenizer, count=count_per_domain, limits=limits, seed=seed)
        draw.add(found, [expert] * len(found), most_held_out=HELD_OUT_EXAMPLES)
    for path in sources.corpora:
        count = count_per_domain * experts
        found = encode_sample(path, tokenizer, count=count, limits=limits, seed=seed)
        left = set(_for_the_report(len(found), reported=reported))
        kept = [example for index, example in enumerate(found) if index not in left]
        owners = [sources.domains.get(example.domain or "") for example in kept]
        draw.add(kept, owners, most_held_out=HELD_OUT_EXAMPLES * experts)
    return draw.drawn()


class _Draw:
    def __init__(self) -> None:
        self._encoded: list[EncodedExample] = []
        self._experts: list[int | None] = []
        self._train: list[int] = []
        self._held_out: list[int] = []

    def add(
        self, encoded: Sequence[EncodedExample], experts: Sequence[int | None], *, most_held_out: int
    ) -> None:
        stride = max(HELD_OUT_SHARE, math.ceil(len(encoded) / most_held_out))
        for index, (example, expert) in enumerate(zip(encoded, experts, strict=True)):
            (self._held_out if index % stride == 0 else self._train).append(len(self._encoded))
            self._encoded.append(example)
            self._experts.append(expert)

    def drawn(self) -> DrawnExamples:
        return DrawnExamples(
            encoded=tuple(self._encoded),
            experts=tuple(self._experts),
            train=tuple(self._train),
            held_out=tuple(self._held_out),
        )


def left_for_the_report(
    path: Path,
    tokenizer: ChatTokenizer,
    *,
    experts: int,
    count_per_domain: int,
    reported: int,
    limits: ReadLimits,
    seed: int,
) -> list[EncodedExample]:
    """The examples of a corpus that `draw_examples` leaves out when it is told the same."""
    count = count_per_domain * experts
    found = encode_sample(path, tokenizer, count=count, limits=limits, seed=seed)
    return [found[index] for index in _for_the_report(len(found), reported=reported)]


def _for_the_report(count: int, *, reported: int) -> list[int]:
    """Of so many examples of a corpus: one in 8 at most, one at least, from all parts."""
    if reported == 0:
        return []
    stride = max(HELD_OUT_SHARE, math.ceil(count / reported))
    return [*range(min(stride // 2, count - 1), count, stride)]


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
    return encode_all(draw_sample(path, count=count, seed=seed), tokenizer, limits=limits)


def draw_sample(path: Path, *, count: int | None, seed: int) -> list[ChatExample]:
    """The examples of a dataset, or `count` of them drawn by `seed`."""
    examples = read_examples(path)
    if count is None or len(examples) <= count:
        return examples
    return random.Random(seed).sample(examples, count)  # noqa: S311 - a sample, not a secret


def encode_all(
    examples: Sequence[ChatExample], tokenizer: ChatTokenizer, *, limits: ReadLimits
) -> list[EncodedExample]:
    """Examples as tokens, in their order.

    Raises:
        ChatInvalid: one cannot be encoded or read within the limits; the first such line is named.
    """
    encoded = {
        index: encode(tokenizer, examples[index], max_tokens=limits.tokens, embeddings=limits.embeddings)
        for index in sorted(range(len(examples)), key=lambda index: examples[index].line)
    }
    return [encoded[index] for index in range(len(examples))]


def share_of_bytes(examples: Sequence[EncodedExample], tokenizer: ChatTokenizer) -> float:
    """The share of all tokens that are a part of a character: what a tokenizer makes of a script it lacks."""
    counts = Counter(token for example in examples for token in example.token_ids)
    parts = sum(count for token, count in counts.items() if _REPLACEMENT in tokenizer.decode([token]))
    return parts / max(1, counts.total())


def digest_of_tokens(examples: Sequence[EncodedExample]) -> str:
    """Over the tokens of examples, in order."""
    hashed = hashlib.sha256()
    for example in examples:
        hashed.update(repr(example.token_ids).encode())
    return hashed.hexdigest()
