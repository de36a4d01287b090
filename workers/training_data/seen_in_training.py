"""What of held-out data a subject was trained on: an adapter, or a composition by its experts."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from formats.near_duplicates import overlap
from registry.entities import AdapterVersion, CompositionVersion
from registry.errors import NotFound
from registry.service import Registry
from workers.requests.subjects import find
from xlora_engine.data.chat import read_examples


def seen_in_training(registry: Registry, subject: str, held_out: Sequence[str]) -> tuple[str, ...]:
    """Sentences about each held-out dataset that shares examples with what the subject was trained on.

    Adapters that were not trained here, and datasets that were removed, say nothing.
    """
    examples = {reference: read_examples(_file(registry, reference)) for reference in held_out}
    said = []
    for training in dict.fromkeys(_trained_on(registry, subject)):
        try:
            learnt = read_examples(_file(registry, training))
        except NotFound:
            continue
        for reference, asked in examples.items():
            found = overlap(learnt, asked)
            if found.shared:
                said.append(f"{reference}: {found.said(training)}")
    return tuple(said)


def _trained_on(registry: Registry, subject: str) -> Iterator[str]:
    record = find(registry, subject)
    if isinstance(record, CompositionVersion):
        for expert in record.experts:
            yield from _trained_on(registry, f"adapter:{expert.adapter_reference}")
    elif isinstance(record, AdapterVersion) and "train_dataset" in record.parameters:
        yield record.parameters["train_dataset"]
        yield from record.parameters.get("further_data", {})


def _file(registry: Registry, reference: str) -> Path:
    dataset = registry.datasets.get(reference)
    return registry.materialise(dataset) / dataset.files[0].path
