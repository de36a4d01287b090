"""Text search of adapters: what counts as a word, and how each database finds rows by words."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_LONGEST_WORD = 64
_WORD = re.compile(r"[^\W_]+")


def words_of(texts: Iterable[str]) -> list[str]:
    """The words of all texts, each once, in lower case, without accents: letters and digits alone."""
    folded = unicodedata.normalize("NFKD", " ".join(texts)).casefold()
    bare = "".join(character for character in folded if not unicodedata.combining(character))
    return list(dict.fromkeys(word[:_LONGEST_WORD] for word in _WORD.findall(bare)))


@dataclass(frozen=True, kw_only=True)
class TextSearch:
    """One database's full text search, over the index that the migrations make."""

    #: SQL that a version's id is among those found; takes one value.
    condition: str
    #: That value: rows that have, of every word, one that begins with it. Words are as `words_of` gives them,
    #: so nothing in them means something to a database.
    all_of: Callable[[Sequence[str]], str]


SQLITE = TextSearch(
    condition="v.id IN (SELECT rowid FROM adapter_search WHERE adapter_search MATCH ?)",
    all_of=lambda words: " AND ".join(f'"{word}"*' for word in words),
)
POSTGRESQL = TextSearch(
    condition="v.id IN (SELECT adapter_version_id FROM adapter_text"
    " WHERE array_to_tsvector(string_to_array(words, ' ')) @@ CAST(? AS tsquery))",
    all_of=lambda words: " & ".join(f"'{word}':*" for word in words),
)
