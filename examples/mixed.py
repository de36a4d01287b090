"""Questions that join two domains, one half from each, as no domain's own training example does."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from examples import bio, materials, protein
from examples.chat_example import ChatExample
from examples.tasks import Fact, pairs

DOMAIN = "mixed"
TRAIN_EXAMPLES_PER_JOIN = 40
EVAL_EXAMPLES_PER_JOIN = 12


@dataclass(frozen=True, kw_only=True)
class Halves:
    """What a domain can ask first, and what second."""

    first: Sequence[Fact]
    second: Sequence[Fact]


def examples() -> tuple[list[ChatExample], list[ChatExample]]:
    """Return training examples in random order, and evaluation examples, of every two domains in both orders.

    No two facts that an evaluation question joins are joined in training.
    """
    rng, train_rng = random.Random("adapter-zoo mixed"), random.Random("adapter-zoo mixed training")
    train: list[ChatExample] = []
    evaluation: list[ChatExample] = []
    for one, other in permutations(halves(), 2):
        facts = pairs(halves()[one].first, halves()[other].second, between="; ")
        held_out = rng.sample(facts, EVAL_EXAMPLES_PER_JOIN)
        kept = [fact for fact in facts if fact not in held_out]
        task = f"{one} and {other}"
        evaluation += [_joined(fact, task) for fact in held_out]
        train += [_joined(fact, task) for fact in train_rng.sample(kept, TRAIN_EXAMPLES_PER_JOIN)]
    train_rng.shuffle(train)
    return train, evaluation


def _joined(fact: Fact, task: str) -> ChatExample:
    return ChatExample(question=fact.subject, answer=fact.answer, domain=DOMAIN, task=task)


def halves() -> Mapping[str, Halves]:
    """Return each domain's halves, which its own examples of two questions join."""
    return {
        "bio": Halves(first=bio.first_halves(), second=bio.second_halves()),
        "protein": Halves(first=protein.first_halves(), second=protein.second_halves()),
        "materials": Halves(first=materials.first_halves(), second=materials.second_halves()),
    }
