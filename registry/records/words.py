"""The words by which text search finds an adapter, beside its record."""

from sqlalchemy.orm import Session

from registry.database.insertion import insert_or_update
from registry.database.text_search import words_of
from registry.records.adapter_models import AdapterTextRow
from registry.records.models import AdapterVersionRow

#: A card may be long; its first words say what it is about.
_MOST_WORDS = 2000


def note_words(session: Session, row: AdapterVersionRow, *, card: str) -> None:
    """Let a version be found by its name, domains, tags, description and the text of its card."""
    words = words_of((row.adapter.name, *row.domains, *row.tags, row.description, card))[:_MOST_WORDS]
    columns = {"adapter_version_id": row.id, "words": " ".join(words)}
    session.execute(insert_or_update(session, AdapterTextRow, columns, unique=("adapter_version_id",)))
