"""A job survives a crash at each crash point: the next attempt completes it."""

from dataclasses import replace
from pathlib import Path

import pytest

from registry.crash_points import CRASH_POINTS
from registry.service import Registry
from registry.settings import Settings
from tests.brokers import ValkeyServer
from tests.faults.chained import BASE, undisturbed
from tests.registry.folders import write_base
from tests.workers.started_processes import POLLING, RELAY, running, wait_for_state, wait_until

#: The others are of the relay, which has a test of its own.
_OF_JOBS = [name for name in CRASH_POINTS if name != "after_publish"]
#: Where the job process ends instead of its supervisor.
_IN_JOB_PROCESS = ("after_artifact_rename", "before_commit", "after_commit")


@pytest.mark.parametrize("point", _OF_JOBS)
def test_a_crash_at_any_point_loses_and_doubles_nothing(
    settings: Settings, tmp_path: Path, point: str
) -> None:
    with Registry.open(settings) as registry:
        registry.bases.register(write_base(tmp_path / "base"), name=BASE, source="hub:zoo/pico@abc")
        job = registry.jobs.submit("train", {"name": "chained"}).id
        with running(POLLING, settings, TEST_HANDLER="chain", ZOO_CRASH_AT=point) as worker:
            if point in _IN_JOB_PROCESS:
                wait_until(lambda: registry.jobs.get(job).fence > 1, what="a second attempt")
            else:
                worker.wait(timeout=120)
        with running(POLLING, settings, TEST_HANDLER="chain"):
            ended = wait_for_state(registry, job, "succeeded", "failed")
        assert (ended.state, ended.reason) == ("succeeded", "ok")
        assert ended.outcome["digest"] == undisturbed("chained")
        (adapter,) = registry.adapters.list()
        assert (adapter["reference"], adapter["job_id"]) == (ended.outcome["adapter"], job)
        assert [event.kind for event in registry.jobs.events(job)].count("succeeded") == 1


def test_a_relay_that_dies_after_publishing_is_made_good_by_the_next(
    settings: Settings, valkey: ValkeyServer
) -> None:
    served = replace(settings, broker_url=valkey.url)
    with Registry.open(served) as registry:
        for number in range(3):
            registry.jobs.submit("train", {"name": str(number)})
        with running(RELAY, served, ZOO_CRASH_AT="after_publish") as relay:
            assert relay.wait(timeout=120) == -9
        assert valkey.client().llen("zoo:cpu") == 1
        with running(RELAY, served):
            wait_until(lambda: valkey.client().llen("zoo:cpu") == 3, what="all messages")
