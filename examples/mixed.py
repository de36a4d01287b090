"""Questions that join two domains, one half from each, as no training example does."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from examples import bio, materials, protein
from examples.chat_example import ChatExample
from examples.tasks import Fact, pairs

DOMAIN = "mixed"
EXAMPLES_PER_JOIN = 12


@dataclass(frozen=True, kw_only=True)
class Halves:
    """What a domain can ask first, and what second."""

    first: Sequence[Fact]
    second: Sequence[Fact]


def examples(rng: random.Random) -> list[ChatExample]:
    """Return some questions for every two domains, in both orders."""
    joined = []
    for one, other in permutations(halves(), 2):
        facts = pairs(halves()[one].first, halves()[other].second, between="; ")
        joined += [
            ChatExample(question=fact.subject, answer=fact.answer, domain=DOMAIN, task=f"{one} and {other}")
            for fact in rng.sample(facts, EXAMPLES_PER_JOIN)
        ]
    return joined


def halves() -> Mapping[str, Halves]:
    """Return each domain's halves, which its own examples of two questions join."""
    return {
        "bio": Halves(first=bio.first_halves(), second=bio.second_halves()),
        "protein": Halves(first=protein.first_halves(), second=protein.second_halves()),
        "materials": Halves(first=materials.first_halves(), second=materials.second_halves()),
    }
