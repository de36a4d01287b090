"""From what is asked of a composition to a request whose adapters are known and whose data are registered."""

from collections.abc import Sequence

from registry.errors import InvalidField
from registry.service import Registry
from workers.requests.composition_plan import Plan, Request, make_plan, require_compatible
from workers.requests.specs import ComposeSpec

#: Stands for the names of adapters.
AUTO = "auto"

#: Adapters that are composed unless a number is given.
DEFAULT_CHOICE = 3

#: Candidates whose weights are loaded beside each other to be compared on the data.
MOST_CANDIDATES = 64


def candidates(registry: Registry, named: Sequence[str], *, base: str | None) -> tuple[str, ...]:
    """References of the candidates, by name; of adapters with the same weights the first.

    Raises:
        InvalidField: no base model is given, adapters are named beside it, or there are too few or too many.
        NotFound: there is no such base model.
    """
    if tuple(named) != (AUTO,):
        raise InvalidField("--base", allowed=f"left out unless adapters are {AUTO}", value=base)
    if base is None:
        raise InvalidField("--base", allowed=f"given with --adapters {AUTO}", value=None)
    registry.bases.get(base)
    newest: dict[str, str] = {}
    for row in registry.adapters.list(base=base, sort="name"):
        newest[row["name"]] = row["reference"]  # versions come in their order
    kept: dict[str, str] = {}
    for reference in newest.values():
        kept.setdefault(registry.adapters.get(reference).weights_digest, reference)
    if not 2 <= len(kept) <= MOST_CANDIDATES:
        allowed = f"a base model of 2 to {MOST_CANDIDATES} adapters; name those to choose from, with --choose"
        raise InvalidField("--base", allowed=allowed, value=f"{base} of {len(kept)}")
    return tuple(kept.values())


def planned_composition(registry: Registry, request: Request) -> Plan:
    """What would be done, to be shown: everything is looked up and in range, nothing is on record.

    Raises:
        NotFound: an adapter or dataset is unknown, or there is no such file.
        InvalidField: a field is out of its range, or data are missing.
    """
    plan = make_plan(registry, request)
    if not plan.is_refused:
        plan.spec()  # what is out of range is refused before anything is shown
    return plan


def composition_request(registry: Registry, plan: Plan) -> ComposeSpec:
    """The request that carries the plan out; files among its data are registered.

    Raises:
        Incompatible: the adapters do not go together; every reason is given.
    """
    require_compatible(plan)
    return plan.registered(registry).spec()
