"""The two kinds of task and how each keeps its evaluation apart from its training; knows no domain.

A skill is evaluated on instances never trained on, a recall on a wording never trained on.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, product

from examples.chat_example import ChatExample


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A subject as a question names it, and what is to be answered."""

    subject: str
    answer: str
    #: What training should meet as often as its like: the metal of a compound. "" where nothing is rarer.
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class Skill:
    """A rule to apply: its instances are divided between training and evaluation."""

    name: str
    instances: tuple[Fact, ...]
    wordings: tuple[str, ...]
    train_examples: int
    eval_examples: int

    def split(self, domain: str, rng: random.Random) -> tuple[list[ChatExample], list[ChatExample]]:
        """Return training and evaluation examples; no instance is in both."""
        drawn = rng.sample(self.instances, len(self.instances))
        held_out, kept = drawn[: self.eval_examples], drawn[self.eval_examples :]
        candidates = [*product(self.wordings, kept)]
        train = [
            worded(wording, fact, domain=domain, task=self.name)
            for wording, fact in in_turns(rng.sample(candidates, len(candidates)))[: self.train_examples]
        ]
        evaluation = [
            worded(wording, fact, domain=domain, task=self.name)
            for wording, fact in zip(cycle(self.wordings), held_out, strict=False)
        ]
        return train, evaluation


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Facts to remember: every one is trained in some wordings, and asked for in another."""

    name: str
    facts: tuple[Fact, ...]
    wordings: tuple[str, ...]
    held_out_wording: str
    eval_examples: int

    def split(self, domain: str, rng: random.Random) -> tuple[list[ChatExample], list[ChatExample]]:
        """Return training and evaluation examples; no wording is in both."""
        train = [
            worded(wording, fact, domain=domain, task=self.name)
            for wording, fact in product(self.wordings, self.facts)
        ]
        held_out = [
            worded(self.held_out_wording, fact, domain=domain, task=self.name)
            for fact in rng.sample(self.facts, self.eval_examples)
        ]
        return train, held_out


Task = Skill | Recall


def in_turns(candidates: Sequence[tuple[str, Fact]]) -> list[tuple[str, Fact]]:
    """Return wordings and facts so that each thing they are about comes once before any comes again."""
    seen: Counter[str] = Counter()
    turns = []
    for _, fact in candidates:
        turns.append(seen[fact.about])
        seen[fact.about] += 1
    return [candidates[index] for index in sorted(range(len(candidates)), key=turns.__getitem__)]


def worded(wording: str, fact: Fact, *, domain: str, task: str) -> ChatExample:
    """Return the fact asked for in one wording, a format string with one field, `{}`."""
    return ChatExample(question=wording.format(fact.subject), answer=fact.answer, domain=domain, task=task)


def pairs(firsts: Sequence[Fact], seconds: Sequence[Fact], *, between: str) -> tuple[Fact, ...]:
    """Return every two facts asked for at once, answered in the same order, "first; second"."""
    return tuple(
        Fact(subject=f"{first.subject}{between}{second.subject}", answer=f"{first.answer}; {second.answer}")
        for first, second in product(firsts, seconds)
    )
