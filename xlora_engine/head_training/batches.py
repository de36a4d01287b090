"""Which examples each step of mixture training takes."""

import random
from collections.abc import Iterator, Sequence

from xlora_engine.head_training.expert_labels import SEVERAL
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.head_training.settings import MixtureTraining

#: Held-out examples that a stage looks at, from all groups alike: a look costs as much as a few steps.
_LOOKED_AT = 96


def batches(examples: RoutedExamples, settings: MixtureTraining) -> Iterator[list[int]]:
    """Batches without end, decided by the seed; a group's examples are reshuffled when they are used up.

    Every expert's examples in turn; where there are examples of several experts too, these take their share
    of each batch: they say most of what labels leave open.
    """
    generator = random.Random(settings.seed)  # noqa: S311 - a data order, not a secret
    groups = _by_expert(examples, examples.train)
    queues: dict[int, list[int]] = {expert: [] for expert in groups}
    several = round(settings.batch_size * settings.several_share) if SEVERAL in groups else 0
    single = [expert for expert in sorted(groups) if expert != SEVERAL]
    if not single:
        several = settings.batch_size

    def drawn(expert: int) -> int:
        if not queues[expert]:
            queues[expert] = generator.sample(groups[expert], len(groups[expert]))
        return queues[expert].pop()

    turn = 0
    while True:
        batch = [drawn(SEVERAL) for _ in range(several)]
        while len(batch) < settings.batch_size:
            batch.append(drawn(single[turn % len(single)]))
            turn += 1
        yield batch


def looked_at(examples: RoutedExamples) -> Sequence[int]:
    """The held-out examples that decide when to stop, in their order."""
    groups = _by_expert(examples, examples.held_out)
    each = max(1, _LOOKED_AT // max(1, len(groups)))
    return sorted(index for group in groups.values() for index in group[:each])


def _by_expert(examples: RoutedExamples, indices: Sequence[int]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for index in indices:
        groups.setdefault(int(examples.experts[index]), []).append(index)
    return groups
