"""From what is asked of training to a request whose data are registered."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from registry.entities import BaseModel
from registry.registration.datasets import AS_IT_IS, CheckedDataset, Reading
from registry.service import Registry
from workers.errors import SpecInvalid
from workers.requests.datasets import GivenDataset, given_dataset
from workers.requests.specs import TrainSpec

#: What is asked where a field is left out.
_DEFAULTS = TrainSpec(name="any", base="any", train_dataset="any")
#: What a request may say instead of `steps`.
EPOCHS = "epochs"
_MOST_EPOCHS = 10_000


@dataclass(frozen=True, kw_only=True)
class PlannedTraining:
    """A request that holds, and its data, of which files are not on record yet."""

    #: A file that is not on record is called by its path.
    spec: TrainSpec
    train: GivenDataset
    held_out: GivenDataset | None
    #: Further dataset -> its weight.
    further: Mapping[GivenDataset, float]

    def register(self, registry: Registry) -> TrainSpec:
        """The request that a job takes: its files are put on record."""
        dataset = self.train.register(registry)
        return replace(
            self.spec,
            train_dataset=dataset.reference,
            eval_dataset=self.held_out.register(registry).reference if self.held_out else None,
            further_data={one.register(registry).reference: weight for one, weight in self.further.items()},
        )


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
    data_fields = {"train_dataset": data, "eval_dataset": eval_data, "further_data": dict(further_data)}
    asked = {**fields, **data_fields, "base": base, "domains": domains}
    return planned_training(registry, asked, reading=reading, say=say).register(registry)


def planned_training(
    registry: Registry,
    asked: Mapping[str, Any],
    *,
    reading: Reading = AS_IT_IS,
    say: Callable[[str], None] = lambda _: None,
) -> PlannedTraining:
    """The request of these fields of `TrainSpec`, or with `epochs` instead of `steps`; registers nothing.

    An epoch is every example once, and those of further data as often as their weights say.

    Raises:
        NotFound, InvalidDataset, SpecInvalid: as for `training_request`.
    """
    epochs = asked.get(EPOCHS)
    if epochs is not None and "steps" in asked:
        raise SpecInvalid(EPOCHS, f"left out beside steps ({asked['steps']})", epochs)
    fields = _continued(registry, {name: value for name, value in asked.items() if name != EPOCHS})
    # Misspelt and missing fields are said before anything is looked up.
    first = TrainSpec(**_with_warmup(fields))
    base = registry.bases.get(first.base)
    _require_base_of_initial(registry, first, base)
    look_up = partial(given_dataset, registry, reading=reading, say=say)
    train = look_up(first.train_dataset)
    held_out = look_up(first.eval_dataset) if first.eval_dataset else None
    further = {look_up(one): weight for one, weight in first.further_data.items()}
    if epochs is not None:
        examples = train.examples + sum(one.examples * weight for one, weight in further.items())
        fields["steps"] = _steps(epochs, examples=examples, batch_size=first.batch_size)
    if not fields.get("domains"):
        fields["domains"] = (train.domain,) if train.domain else ()
    return PlannedTraining(
        spec=TrainSpec(
            **_with_warmup(
                {
                    **fields,
                    "base": base.name,
                    "train_dataset": called(train),
                    "eval_dataset": called(held_out) if held_out else None,
                    "further_data": {called(one): weight for one, weight in further.items()},
                }
            )
        ),
        train=train,
        held_out=held_out,
        further=further,
    )


def overridden(fields: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a request with others in their place; steps take the place of epochs, and epochs of steps."""
    instead = {"steps": EPOCHS, EPOCHS: "steps"}
    replaced = {instead[name] for name in by if name in instead} - set(by)
    return {**{name: value for name, value in fields.items() if name not in replaced}, **by}


def called(given: GivenDataset) -> str:
    """How a request that registers nothing names a dataset: a file by its path."""
    return str(given.found.file) if isinstance(given.found, CheckedDataset) else given.found.reference


def file_of(registry: Registry, given: GivenDataset) -> Path:
    """The examples of a dataset, on record or not, as a file."""
    if isinstance(given.found, CheckedDataset):
        return given.found.copy.path
    return registry.materialise(given.found) / given.found.files[0].path


def _continued(registry: Registry, fields: Mapping[str, Any]) -> dict[str, Any]:
    """With the base and the shape of the adapter that is continued from, if any."""
    reference = fields.get("initial_adapter")
    if not isinstance(reference, str) or not reference.strip():
        return dict(fields)
    initial = registry.adapters.get(reference)
    if initial.use_rslora or initial.rank_pattern or initial.alpha_pattern:
        allowed = "an adapter with one rank and alpha for all modules, and without rsLoRA"
        raise SpecInvalid("initial_adapter", allowed, reference)
    own = {"rank": initial.rank, "alpha": initial.alpha, "target_modules": initial.target_modules}
    for name, value in own.items():
        given = fields.get(name, value)
        if (tuple(given) if isinstance(given, list) else given) != value:
            raise SpecInvalid(name, f"left out, or as {initial.reference} has it: {value}", given)
    return {"base": initial.base_name, **fields, **own, "initial_adapter": initial.reference}


def _require_base_of_initial(registry: Registry, spec: TrainSpec, base: BaseModel) -> None:
    if spec.initial_adapter is None:
        return
    initial = registry.adapters.get(spec.initial_adapter)
    if initial.base_digest != base.digest:
        allowed = f"the base model of {initial.reference}, {initial.base_name}"
        raise SpecInvalid("base", allowed, spec.base)


def _with_warmup(fields: Mapping[str, Any]) -> dict[str, Any]:
    if "warmup_steps" in fields:
        return dict(fields)
    steps = fields.get("steps")
    longest = max(0, steps) if isinstance(steps, int) else _DEFAULTS.steps
    return {**fields, "warmup_steps": min(_DEFAULTS.warmup_steps, longest)}


def _steps(epochs: object, *, examples: float, batch_size: int) -> int:
    if isinstance(epochs, bool) or not isinstance(epochs, int | float) or not 0 < epochs <= _MOST_EPOCHS:
        raise SpecInvalid(EPOCHS, f"a number above 0 to {_MOST_EPOCHS}", epochs)
    return max(1, round(epochs * math.ceil(examples / batch_size)))
