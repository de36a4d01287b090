"""From what is asked of training to a request whose data are registered."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from registry.registration.datasets import AS_IT_IS, Reading
from registry.service import Registry
from workers.requests.datasets import given_dataset
from workers.requests.specs import TrainSpec

#: What is asked where a field is left out.
_DEFAULTS = TrainSpec(name="any", base="any", train_dataset="any")


def training_request(
    registry: Registry,
    *,
    base: str,
    data: str,
    eval_data: str | None = None,
    further_data: Mapping[str, float] = MappingProxyType({}),
    reading: Reading = AS_IT_IS,
    say: Callable[[str], None] = lambda _: None,
    domains: Sequence[str] = (),
    **fields: Any,
) -> TrainSpec:
    """A request to train; `fields` are those of `TrainSpec`, and data are references or files.

    Files are read as `reading` tells, and `say` is told what they were taken for.

    A file is registered once everything else is known to be right. Domains that are left out are the data's;
    a warm-up that is left out is no longer than the training.

    Raises:
        NotFound: the base model or a dataset is unknown, or there is no such file.
        InvalidDataset: a file's examples are refused.
        SpecInvalid: a field is out of its range.
    """
    look_up = partial(given_dataset, registry, reading=reading, say=say)
    given = look_up(data)
    held_out = look_up(eval_data) if eval_data else None
    further = {look_up(one): weight for one, weight in further_data.items()}
    if "warmup_steps" not in fields:
        steps = fields.get("steps")
        longest = max(0, steps) if isinstance(steps, int) else _DEFAULTS.steps
        fields["warmup_steps"] = min(_DEFAULTS.warmup_steps, longest)
    request = partial(TrainSpec, base=registry.bases.get(base).name, **fields)
    # Only a request that holds puts files on record.
    request(
        train_dataset=given.name,
        eval_dataset=held_out.name if held_out else None,
        further_data={one.name: weight for one, weight in further.items()},
        domains=tuple(domains),
    )
    dataset = given.register(registry)
    return request(
        train_dataset=dataset.reference,
        eval_dataset=held_out.register(registry).reference if held_out else None,
        further_data={one.register(registry).reference: weight for one, weight in further.items()},
        domains=tuple(domains) or ((dataset.domain,) if dataset.domain else ()),
    )
