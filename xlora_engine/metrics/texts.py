"""How much of an expected text another one has: F1 of words as SQuAD's, ROUGE-L as `rouge_score`'s."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WORD = re.compile(r"[^\W_]+")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def word_f1(answer: str, expected: str) -> float:
    """F1 of the words that both have, case, punctuation and articles aside (Rajpurkar et al. 2016)."""
    given, wanted = _plain_words(answer), _plain_words(expected)
    if not given or not wanted:
        return float(given == wanted)
    return _f1((Counter(given) & Counter(wanted)).total(), given, wanted)


def rouge_l(answer: str, expected: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004), without stemming.

    Words are those of any script; of ASCII texts they are those of Google's `rouge_score`.
    """
    given, wanted = _WORD.findall(answer.lower()), _WORD.findall(expected.lower())
    return _f1(_longest_common(given, wanted), given, wanted) if given and wanted else 0.0


def _plain_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _f1(common: int, given: Sequence[str], wanted: Sequence[str]) -> float:
    return 2 * common / (len(given) + len(wanted))


def _longest_common(left: Sequence[str], right: Sequence[str]) -> int:
    lengths = [0] * (len(right) + 1)
    for word in left:
        before = 0
        for position, other in enumerate(right, 1):
            diagonal, before = before, lengths[position]
            longest = max(lengths[position], lengths[position - 1])
            lengths[position] = diagonal + 1 if word == other else longest
    return lengths[-1]
