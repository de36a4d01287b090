"""What can be asked and measured, looked up by name: compositions, adapters, base models. No tensors."""

from collections.abc import Callable, Mapping

from registry.entities import AdapterVersion, BaseModel, CompositionVersion
from registry.errors import AliasNotFound, NotFound, SubjectNotFound
from registry.service import Registry

Record = BaseModel | AdapterVersion | CompositionVersion


def find(registry: Registry, reference: str) -> Record:
    """What a name means: a composition, else an adapter, else a base model.

    `composition:`, `adapter:` or `base:` before the name looks among these only.

    Raises:
        NotFound: nothing has that name; of the kind's own class where it has the name, not the version.
    """
    kind, separator, name = reference.partition(":")
    lookups: Mapping[str, Callable[[str], Record]] = {
        "composition": registry.compositions.get,
        "adapter": registry.adapters.get,
        "base": registry.bases.get,
    }
    if separator and kind in lookups:
        return lookups[kind](name)
    refusals: list[NotFound] = []
    for lookup in lookups.values():
        try:
            return lookup(reference)
        except NotFound as refusal:
            refusals.append(refusal)
    raise next(filter(_knows_the_name, refusals), _nothing(reference, refusals))


def subject_of(record: Record) -> str:
    """As evaluations name it."""
    kinds = {CompositionVersion: "composition", AdapterVersion: "adapter", BaseModel: "base"}
    return f"{kinds[type(record)]}:{record.reference}"


def _knows_the_name(refusal: NotFound) -> bool:
    return bool(refusal.detail) or isinstance(refusal, AliasNotFound)


def _nothing(reference: str, refusals: list[NotFound]) -> SubjectNotFound:
    nearest = dict.fromkeys(name for refusal in refusals for name in refusal.nearest)
    return SubjectNotFound(reference, nearest=tuple(nearest))
