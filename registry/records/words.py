"""The words by which text search finds an adapter: separated, folded, each once, on both databases alike."""

import re
import unicodedata
from collections.abc import Iterable

from sqlalchemy.orm import Session

from registry.database.insertion import insert_or_update
from registry.records.adapter_models import AdapterTextRow
from registry.records.models import AdapterVersionRow

#: A card may be long; its first words say what it is about.
_MOST_WORDS = 2000
_LONGEST_WORD = 64
_WORD = re.compile(r"[^\W_]+")


def words_of(texts: Iterable[str]) -> list[str]:
    """The words of all texts, in lower case and without accents: letters and digits, nothing else."""
    folded = unicodedata.normalize("NFKD", " ".join(texts)).casefold()
    bare = "".join(character for character in folded if not unicodedata.combining(character))
    return list(dict.fromkeys(word[:_LONGEST_WORD] for word in _WORD.findall(bare)))


def note_words(session: Session, row: AdapterVersionRow, *, card: str) -> None:
    """Let a version be found by its name, domains, tags, description and the text of its card."""
    words = words_of((row.adapter.name, *row.domains, *row.tags, row.description, card))[:_MOST_WORDS]
    columns = {"adapter_version_id": row.id, "words": " ".join(words)}
    session.execute(insert_or_update(session, AdapterTextRow, columns, unique=("adapter_version_id",)))
