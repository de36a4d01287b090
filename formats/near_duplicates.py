"""Examples of one set that stand in another, equal or nearly: contamination of what is held out.

Two examples are near when the sets of their word trigrams have a Jaccard similarity of at least 0.8, the
threshold of Lee et al., "Deduplicating training data makes language models better" (arXiv:2107.06499), where
it is estimated by MinHash; a held-out set is small enough to be indexed, so here it is exact. Case, spaces
and punctuation count for nothing, and neither do system messages.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from formats.chat_examples import ChatExample
from formats.chat_messages import SYSTEM, text_of

NEAR = 0.8
_WORDS_IN_A_ROW = 3
#: Trigrams of more held-out examples than these are phrases of all, and lead to no candidate.
_COMMON = 32
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class SharedExample:
    """A held-out example that stands in the training data."""

    #: Lines, in the held-out file and of the nearest example in the training file.
    line: int
    training_line: int
    #: Of their trigrams; 1 where they are equal.
    similarity: float


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What two sets of examples share."""

    #: How many are held out.
    examples: int
    #: By line of the held-out file.
    shared: tuple[SharedExample, ...]

    @property
    def equal(self) -> int:
        """How many stand in the training data as they are."""
        return sum(one.similarity == 1 for one in self.shared)

    @property
    def near(self) -> int:
        """How many more stand there nearly."""
        return len(self.shared) - self.equal

    def said(self, training: str) -> str:
        """In words, of training data of this name."""
        shown = ", ".join(str(one.line) for one in self.shared[:10]) + (
            ", …" if len(self.shared) > 10 else ""
        )
        return (
            f"{len(self.shared):,} of {self.examples:,} examples stand in {training} ({self.equal:,} equal,"
            f" {self.near:,} nearly), so scores on them say little: lines {shown}"
        )


def overlap(training: Iterable[ChatExample], held_out: Sequence[ChatExample]) -> Overlap:
    """The held-out examples that stand in the training data, each with the nearest one there."""
    wanted = [_words(example) for example in held_out]
    parts = [_trigrams(words) for words in wanted]
    index = _index(parts)
    equal: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, words in enumerate(wanted):
        equal[words].append(number)
    best: dict[int, tuple[float, int]] = {}
    for example in training:
        words = _words(example)
        near = _similar(_trigrams(words), parts, index)
        for number, similarity in {**near, **dict.fromkeys(equal.get(words, ()), 1.0)}.items():
            if similarity > best.get(number, (0.0, 0))[0]:
                best[number] = (similarity, example.line)
    shared = tuple(
        SharedExample(line=held_out[number].line, training_line=line, similarity=similarity)
        for number, (similarity, line) in sorted(best.items())
    )
    return Overlap(examples=len(held_out), shared=shared)


def _index(parts: Sequence[frozenset[tuple[str, ...]]]) -> dict[tuple[str, ...], list[int]]:
    """Trigram -> the held-out examples it is of, for trigrams that are not of many."""
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, trigrams in enumerate(parts):
        for trigram in trigrams:
            index[trigram].append(number)
    return {trigram: numbers for trigram, numbers in index.items() if len(numbers) <= _COMMON}


def _similar(
    trigrams: frozenset[tuple[str, ...]],
    parts: Sequence[frozenset[tuple[str, ...]]],
    index: dict[tuple[str, ...], list[int]],
) -> dict[int, float]:
    """Held-out examples that are near, with their similarity; below 1, for words may be in another order."""
    met = Counter(number for trigram in trigrams for number in index.get(trigram, ()))
    found = {}
    for number in met:
        both = len(trigrams & parts[number])
        similarity = both / (len(trigrams) + len(parts[number]) - both)
        if similarity >= NEAR:
            found[number] = min(similarity, 0.999)
    return found


def _words(example: ChatExample) -> tuple[str, ...]:
    said = [text_of(content) for role, content in example.messages if role != SYSTEM]
    return tuple(_WORD.findall(" ".join([*said, example.text or ""]).casefold()))


def _trigrams(words: Sequence[str]) -> frozenset[tuple[str, ...]]:
    last = max(len(words) - _WORDS_IN_A_ROW, 0)
    return frozenset(tuple(words[start : start + _WORDS_IN_A_ROW]) for start in range(last + 1))
