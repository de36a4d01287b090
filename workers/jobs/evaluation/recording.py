"""A measurement put on record: a value a metric, its examples as a file, and all that it depends on."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from registry.entities import NewEvaluation
from workers.attempts.context import JobContext
from workers.jobs.evaluation.measuring import Asking, Measurement
from workers.jobs.evaluation.questions import SEED
from workers.jobs.example_tables import columns_of
from workers.jobs.loading import LoadedBase, dates
from xlora_engine.metrics.metric import Measured

#: Where the examples of a job's measurements are: files in its folder, tables in its run.
FOLDER = "examples"
#: What a score may change with.
_LIBRARIES = ("torch", "transformers", "tokenizers")


def settings_of(
    base: LoadedBase, measurement: Measurement, asking: Asking, *, limit: int | None
) -> dict[str, Any]:
    """What a measurement depends on beside subject and data."""
    generated = {"max_new_tokens": measurement.max_new_tokens, "tolerance": asking.tolerance}
    return {
        "limit": limit,
        "seed": SEED,
        "batch_tokens": asking.tokens_per_batch,
        **(generated if measurement.max_new_tokens is not None else {}),
        **computed_with(base),
    }


def computed_with(base: LoadedBase) -> dict[str, Any]:
    """What any score may change with: device, dtype, libraries, the date that a chat template writes."""
    return {
        "compute_dtype": base.compute_dtype,
        "device": base.model.device.type,
        **dates(base.tokenizer),
        "versions": {library: version(library) for library in _LIBRARIES},
    }


def record(
    context: JobContext,
    *,
    subject: str,
    task: str,
    values: Mapping[str, Measured],
    rows: Sequence[Mapping[str, Any]],
    dataset_digest: str,
    settings: Mapping[str, Any],
) -> None:
    """Put one subject's values on one task on its record, with the examples behind them."""
    folder = context.folder / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{len(list(folder.iterdir())) + 1}.jsonl"
    lines = [json.dumps(row, ensure_ascii=False, default=str) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    context.run.table(f"{FOLDER}/{subject}/{task}", columns_of(rows))
    context.run.metrics({f"{subject}/{task}/{name}": value for name, value in with_errors(values).items()})
    files = context.registry.evaluations.store_examples(path)
    context.registry.evaluations.record(
        [
            NewEvaluation(
                subject=subject,
                task=task,
                metric=name,
                value=found.value,
                standard_error=found.standard_error,
                n=found.n,
                dataset_digest=dataset_digest,
                settings=settings,
                files=files,
                job_id=context.job.id,
            )
            for name, found in values.items()
        ],
        fence=context.fence,
    )


def with_errors(values: Mapping[str, Measured]) -> dict[str, float]:
    """Values by metric, and beside each its standard error where it has one."""
    errors = {f"{name}_standard_error": found.standard_error for name, found in values.items()}
    known = {name: error for name, error in errors.items() if error is not None}
    return {**{name: found.value for name, found in values.items()}, **known}


def summary_of(values: Mapping[str, Measured], *, n: int) -> dict[str, Any]:
    """A measurement as the job's outcome holds it: value by metric, `n`, and the standard errors."""
    return {
        **{name: found.value for name, found in values.items()},
        "n": n,
        "standard_errors": {name: found.standard_error for name, found in values.items()},
    }
