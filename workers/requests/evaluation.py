"""From what is asked of an evaluation to a request whose data are registered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from formats.names import BASE
from registry.entities import BaseModel
from registry.registration.datasets import AS_IT_IS, Reading
from registry.service import Registry
from workers.errors import SpecInvalid
from workers.requests.datasets import GivenDataset, given_dataset
from workers.requests.specs import EvalSpec
from workers.requests.subjects import Record, find, subject_of


@dataclass(frozen=True, kw_only=True)
class AskedTask:
    """Data to score on: a reference or a file; a task that is left out is named after the data."""

    data: str
    task: str | None = None


def evaluation_request(
    registry: Registry,
    *,
    subjects: Sequence[str],
    tasks: Sequence[AskedTask],
    baseline: str | None = None,
    reading: Reading = AS_IT_IS,
    say: Callable[[str], None] = lambda _: None,
    **fields: Any,
) -> EvalSpec:
    """A request to score subjects, by name; `fields` are the others of `EvalSpec`.

    `baseline` is a subject too, or `base` for the base model of them all. A file is registered once
    everything else is known to be right.

    Raises:
        NotFound: a subject or a dataset is unknown, or there is no such file.
        InvalidDataset: a file's examples are refused.
        SpecInvalid: two tasks have one name, or a field is out of its range.
    """
    given = _by_task(tasks, partial(given_dataset, registry, reading=reading, say=say))
    records = [find(registry, subject) for subject in subjects]
    found = tuple(map(subject_of, records))
    if len(set(found)) < len(found):
        raise SpecInvalid("subjects", allowed="a list of different subjects", value=", ".join(found))
    if baseline is not None:
        against = subject_of(_baseline(registry, baseline, records))
        fields["baseline"] = against
        found = (against, *(subject for subject in found if subject != against))
    request = partial(EvalSpec, subjects=found, **fields)
    # Only a request that holds puts files on record.
    request(datasets={task: dataset.name for task, dataset in given.items()})
    return request(datasets={task: dataset.register(registry).reference for task, dataset in given.items()})


def _baseline(registry: Registry, asked: str, records: Sequence[Record]) -> Record:
    if asked != BASE:
        return find(registry, asked)
    digests = {record.digest if isinstance(record, BaseModel) else record.base_digest for record in records}
    if len(digests) > 1:
        raise SpecInvalid(
            "baseline", allowed="one subject by name: these have several base models", value=asked
        )
    return registry.bases.get(digests.pop())


def _by_task(tasks: Sequence[AskedTask], look_up: Callable[[str], GivenDataset]) -> dict[str, GivenDataset]:
    by_task: dict[str, GivenDataset] = {}
    for asked in tasks:
        dataset = look_up(asked.data)
        task = asked.task if asked.task is not None else dataset.domain or dataset.name
        if task in by_task:
            raise SpecInvalid("datasets", allowed="of different tasks: task=DATASET names one", value=task)
        by_task[task] = dataset
    return by_task
