"""From what is asked of a composition to a request whose data are registered."""

from registry.service import Registry
from workers.requests.composition_plan import Plan, Request, make_plan, require_compatible
from workers.requests.specs import ComposeSpec


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
