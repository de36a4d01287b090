"""A validation split: some examples of a checked dataset, drawn by a seed, become a dataset of their own."""

import contextlib
import random
import weakref
from collections.abc import Sequence
from dataclasses import replace

from formats.chat_examples import ChatExample, read_chat_jsonl
from formats.near_duplicates import overlap
from registry.errors import InvalidDataset, InvalidField
from registry.files.artifacts import ArtifactStore
from registry.intake.dataset_files import dataset_name, inspect_dataset
from registry.registration.datasets import CheckedDataset


def split_off(
    checked: CheckedDataset, artifacts: ArtifactStore, *, share: float, seed: int
) -> tuple[CheckedDataset, CheckedDataset]:
    """What is trained on and what is held out; near duplicates of what is trained on are trained on too.

    Raises:
        InvalidField: the share is not between 0 and 1.
        InvalidDataset: none could be held out, or none was left to train on.
    """
    if not 0 < share < 1:
        raise InvalidField("hold_out", "a share between 0 and 1, such as 0.1", share)
    with checked.copy.path.open("rb") as opened:
        examples = list(read_chat_jsonl(opened, str(checked.file), _refused))
    training, held_out = drawn_apart(examples, share=share, seed=seed)
    if not training or not held_out:
        raise InvalidDataset(
            f"{checked.file}: {len(examples)} examples are too few, or too much alike, to hold {share:g} of"
            " them out"
        )
    how = {"hold_out": share, "seed": seed}
    return (
        _part(checked, training, artifacts, split="train", how=how),
        _part(checked, held_out, artifacts, split="eval", how=how),
    )


def drawn_apart(
    examples: Sequence[ChatExample], *, share: float, seed: int
) -> tuple[list[ChatExample], list[ChatExample]]:
    """Examples to train on and examples to hold out, in their order; they share nothing, not nearly."""
    count = max(1, round(len(examples) * share))
    numbered = [replace(example, line=number) for number, example in enumerate(examples)]
    drawn = random.Random(seed).sample(range(len(examples)), count)  # noqa: S311 - not a secret
    held_out = set(drawn)
    while True:
        apart = [example for example in numbered if example.line in held_out]
        training = [example for example in numbered if example.line not in held_out]
        shared = {one.line for one in overlap(training, apart).shared}
        if not shared:
            return training, apart
        held_out -= shared


def _part(
    checked: CheckedDataset,
    examples: Sequence[ChatExample],
    artifacts: ArtifactStore,
    *,
    split: str,
    how: dict[str, float],
) -> CheckedDataset:
    stored = f"{dataset_name(checked.stored)}.{split}.jsonl"
    with contextlib.ExitStack() as stack:
        staging = stack.enter_context(artifacts.staging())
        copy = staging.write(stored, b"".join(example.as_line() for example in examples))
        with copy.path.open("rb") as opened:
            manifest = inspect_dataset(opened, file=str(checked.file))
        part = CheckedDataset(
            file=checked.file.with_name(f"{dataset_name(checked.file.name)}.{split}.jsonl"),
            stored=stored,
            manifest=replace(manifest, reading={**checked.manifest.reading, **how}),
            staging=staging,
        )
        weakref.finalize(part, stack.pop_all().close)
    return part


def _refused(message: str, line: int | None) -> InvalidDataset:
    return InvalidDataset(message, line=line)


def parts_named(name: str | None, checked: CheckedDataset) -> tuple[str, str]:
    """What the two datasets are called."""
    stem = dataset_name(checked.file.name) if name is None else name
    return f"{stem}.train", f"{stem}.eval"
