"""From single measurements to medians, and to how many times the base's (or PEFT's) each is. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, kw_only=True)
class Result:
    """Median of a contender's repetitions of one task."""

    task: str
    contender: str
    seconds: float
    cpu_seconds: float
    peak_mib: float
    repetitions: int


def summarise(measured: Mapping[tuple[str, str], Iterable[tuple[float, float, float]]]) -> list[Result]:
    """Medians of (seconds, CPU seconds, MiB) for each (task, contender)."""
    results = []
    for (task, contender), given in measured.items():
        rows = list(given)
        seconds, cpu_seconds, mib = (median(column) for column in zip(*rows, strict=True))
        results.append(
            Result(
                task=task,
                contender=contender,
                seconds=seconds,
                cpu_seconds=cpu_seconds,
                peak_mib=mib,
                repetitions=len(rows),
            )
        )
    return results


def table(results: Iterable[Result]) -> str:
    """A Markdown table; times of each task's first contender are 1."""
    lines = [
        "| task | contender | seconds | times the first's | by CPU time | peak MiB | n |",
        "|---|---|---|---|---|---|---|",
    ]
    first: dict[str, Result] = {}
    for result in results:
        unit = first.setdefault(result.task, result)
        lines.append(
            f"| {result.task} | {result.contender} | {result.seconds:.2f} "
            f"| {result.seconds / unit.seconds:.2f} | {result.cpu_seconds / unit.cpu_seconds:.2f} "
            f"| {result.peak_mib:.0f} | {result.repetitions} |"
        )
    return "\n".join(lines)
