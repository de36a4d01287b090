"""A registry with a pico base model, two adapters and their data, and jobs run in this process."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from registry.service import Registry
from tests.pico import pico_adapter, pico_base_folder
from workers.attempts.context import JobContext
from workers.attempts.process_group import GroupMember
from workers.requests.specs import Spec
from workers.tracking.spool import NoRun

DOMAINS = ("bio", "protein")

#: Starts a job, gives what its code sees, and ends nothing.
Started = Callable[[Spec], JobContext]


def write_chats(path: Path, *, domain: str, count: int) -> Path:
    """Questions of a domain, all of which have one answer."""
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"{domain} {number}?"},
                    {"role": "assistant", "content": domain[0] * 2},
                ],
                "domain": domain,
            }
        )
        for number in range(count)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def stocked(registry: Registry, tmp_path: Path) -> Registry:
    """`pico`, `bio` and `protein` on it, and `bio.train`, `bio.eval`, … on record."""
    registry.bases.register(pico_base_folder(tmp_path / "pico"), name="pico", source="here")
    for seed, domain in enumerate(DOMAINS):
        registry.adapters.register(pico_adapter(tmp_path / domain, seed=seed), name=domain, domains=[domain])
        for split, count in (("train", 12), ("eval", 4)):
            file = write_chats(tmp_path / f"{domain}.{split}.jsonl", domain=domain, count=count)
            registry.datasets.register(file)
    return registry


@pytest.fixture
def started(stocked: Registry, tmp_path: Path) -> Started:
    """Claim a job of this spec; its code may then be called with what is given."""

    def start(spec: Spec) -> JobContext:
        submitted = stocked.jobs.submit(spec.kind, spec.to_json())
        job = stocked.jobs.claim(submitted.id, owner="test", lease_s=3600)
        assert job is not None
        folder = stocked.settings.home / "jobs" / str(job.id)
        folder.mkdir(parents=True)
        return JobContext(
            registry=stocked,
            job=job,
            fence=job.fence,
            folder=folder,
            run=NoRun(),
            member=GroupMember(rendezvous=str(tmp_path / "rendezvous")),
            stop_requested=lambda: False,
            send=_nowhere,
        )

    return start


def _nowhere(_: Mapping[str, object]) -> Any:
    return None
