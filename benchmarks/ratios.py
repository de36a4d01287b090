"""Medians of single measurements, and their ratios to the base's. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One repetition."""

    seconds: float
    cpu_seconds: float
    #: Peak memory without the interpreter and its libraries.
    peak_mib: float
    #: Base model, experts, head, and cached keys and values.
    tensors_mib: float


@dataclass(frozen=True, kw_only=True)
class Result(Sample):
    """Medians of a contender's repetitions of one task."""

    task: str
    contender: str
    repetitions: int


def summarise(measured: Mapping[tuple[str, str], Sequence[Sample]]) -> list[Result]:
    """Medians for each (task, contender)."""
    return [
        Result(
            task=task,
            contender=contender,
            seconds=median(sample.seconds for sample in samples),
            cpu_seconds=median(sample.cpu_seconds for sample in samples),
            peak_mib=median(sample.peak_mib for sample in samples),
            tensors_mib=median(sample.tensors_mib for sample in samples),
            repetitions=len(samples),
        )
        for (task, contender), samples in measured.items()
    ]


def table(results: Iterable[Result]) -> str:
    """A Markdown table; each task's first contender is the unit of its times."""
    lines = [
        "| task | contender | seconds | times the first's | by CPU time | tensors MiB | peak MiB | n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    first: dict[str, Result] = {}
    for result in results:
        unit = first.setdefault(result.task, result)
        lines.append(
            f"| {result.task} | {result.contender} | {result.seconds:.2f} "
            f"| {result.seconds / unit.seconds:.2f} | {result.cpu_seconds / unit.cpu_seconds:.2f} "
            f"| {result.tensors_mib:.0f} | {result.peak_mib:.0f}{_times(result)} | {result.repetitions} |"
        )
    return "\n".join(lines)


def _times(result: Result) -> str:
    return f" ({result.peak_mib / result.tensors_mib:.2f} x)" if result.tensors_mib else ""
