"""A job's progress as text: `training 40/80, loss 1.234, 2 min left`."""

from collections.abc import Mapping
from typing import Any

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def describe(progress: Mapping[str, Any] | None) -> str:
    """The last report as text; empty before the first."""
    if not progress:
        return ""
    parts = [f"{progress.get('phase', '')} {progress.get('step', 0)}/{progress.get('total', '?')}".strip()]
    if (loss := progress.get("loss")) is not None:
        parts.append(f"loss {loss:.3f}")
    if (eta_s := progress.get("eta_s")) is not None:
        parts.append(f"{duration(eta_s)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time in at most two units: `45 s`, `12 min`, `3 h 20 min`, `2 d 5 h`."""
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"
    return f"{whole // _DAY_S} d {whole % _DAY_S // _HOUR_S} h"
