"""What refers to a record is listed, and what needs it keeps it from being removed."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.entities import AdapterVersion, BaseModel, ExpertRecord, NewEvaluation
from registry.errors import AdapterNotFound, Conflict, InUse
from registry.records import removal
from registry.records.mentions import mentioned
from registry.records.uses import Use
from registry.service import Registry
from tests.registry.folders import XLORA, write_adapter, write_composition, write_dataset

Nouns = Callable[[Registry], Any]


def told(uses: tuple[Use, ...]) -> list[tuple[str, str, str, bool]]:
    return [(use.kind, use.reference, use.how, use.needs) for use in uses]


def compose(registry: Registry, bio: AdapterVersion, folder: Path) -> None:
    registry.compositions.register(
        write_composition(folder, ["bio"]),
        name="science",
        base_digest=bio.base_digest,
        experts=[
            ExpertRecord(position=0, name="bio", adapter_reference="bio@1", weights_digest=bio.weights_digest)
        ],
        method=XLORA,
        report={},
    )


def measured(subject: str, digest: str = "sha256:data") -> NewEvaluation:
    return NewEvaluation(subject=subject, task="bio", metric="loss", value=1.0, n=3, dataset_digest=digest)


def test_everything_that_refers_to_an_adapter_is_listed_and_what_needs_it_comes_first(
    registry: Registry, bio: AdapterVersion, tmp_path: Path
) -> None:
    compose(registry, bio, tmp_path / "science")
    registry.adapters.set_alias("bio", "champion", 1)
    registry.adapters.register(
        write_adapter(tmp_path / "further", seed=1), name="further", parameters={"initial_adapter": "bio@1"}
    )
    registry.adapters.register(
        write_adapter(tmp_path / "merged", seed=2), name="merged", parameters={"merged_from": ["bio@1"]}
    )
    registry.evaluations.record([measured("adapter:bio@1")])
    queued = registry.jobs.submit("compose", {"name": "next", "adapters": ["bio@1", "chem@2"]})
    ended = registry.jobs.submit("eval", {"subjects": ["adapter:bio@1"]})
    registry.jobs.request_cancel(ended.id)

    assert told(registry.adapters.uses("bio")) == [
        ("composition", "science@1", "expert", True),
        ("alias", "bio@champion", "points to it", True),
        ("job", str(queued.id), "compose adapters", True),
        ("job", str(ended.id), "eval subjects", False),
        ("adapter", "further@1", "trained from it", False),
        ("adapter", "merged@1", "merged from it", False),
        ("evaluation", "adapter:bio@1", "bio loss", False),
    ]
    with pytest.raises(InUse) as refusal:
        registry.adapters.remove("bio")
    assert refusal.value.users == ("science@1", "the alias bio@champion", f"job {queued.id} (queued)")
    assert "zoo adapters uses bio@1" in str(refusal.value)


def test_what_only_comes_from_an_adapter_does_not_keep_it(
    registry: Registry, bio: AdapterVersion, tmp_path: Path
) -> None:
    registry.adapters.register(
        write_adapter(tmp_path / "further", seed=1), name="further", parameters={"initial_adapter": "bio@1"}
    )
    registry.evaluations.record([measured("adapter:bio@1")])
    assert registry.adapters.remove("bio").state == "deleted"
    assert [use.reference for use in registry.adapters.uses("bio@1")] == ["further@1", "adapter:bio@1"]


def test_a_dataset_stays_while_an_open_job_reads_it(
    registry: Registry, pico: BaseModel, tmp_path: Path
) -> None:
    dataset = registry.datasets.register(write_dataset(tmp_path / "bio.train.jsonl"))
    registry.adapters.register(
        write_adapter(tmp_path / "bio"), name="bio", parameters={"train_dataset": "bio.train@1"}
    )
    registry.evaluations.record([measured("base:pico", dataset.digest)])
    job = registry.jobs.submit("compose", {"data": {"biology": "bio.train@1"}, "adapters": ["bio@1"]})

    assert told(registry.datasets.uses("bio.train")) == [
        ("job", str(job.id), "compose data", True),
        ("adapter", "bio@1", "trained on it", False),
        ("evaluation", "base:pico", "bio loss", False),
    ]
    with pytest.raises(InUse, match=rf"job {job.id} \(queued\).*zoo jobs cancel {job.id}"):
        registry.datasets.remove("bio.train")
    registry.jobs.request_cancel(job.id)
    assert registry.datasets.remove("bio.train").state == "deleted"


def test_a_base_model_stays_while_a_job_trains_on_it(registry: Registry, pico: BaseModel) -> None:
    job = registry.jobs.submit("train", {"base": "pico", "name": "bio"})
    assert told(registry.bases.uses("pico")) == [("job", str(job.id), "train base", True)]
    with pytest.raises(InUse, match="zoo bases uses pico"):
        registry.bases.remove("pico")


def test_a_composition_is_used_by_its_aliases_and_by_what_measures_it(
    registry: Registry, bio: AdapterVersion, tmp_path: Path
) -> None:
    compose(registry, bio, tmp_path / "science")
    registry.compositions.set_alias("science", "best", 1)
    registry.jobs.submit("eval", {"subjects": ["composition:science@1"]})
    assert [(use.kind, use.needs) for use in registry.compositions.uses("science")] == [
        ("alias", True),
        ("job", True),
    ]


def test_an_error_names_twenty_users_and_counts_the_others(registry: Registry, bio: AdapterVersion) -> None:
    for number in range(23):
        registry.adapters.set_alias("bio", f"alias{number:02}", 1)
    with pytest.raises(InUse, match=r"alias19, 3 more; ") as refusal:
        registry.adapters.remove("bio")
    assert "alias20" not in str(refusal.value)


def test_what_is_not_there_has_no_uses(registry: Registry) -> None:
    with pytest.raises(AdapterNotFound):
        registry.adapters.uses("bio")


@pytest.mark.parametrize(
    ("facts", "kind", "fields"),
    [
        ({"adapters": ["bio@1"]}, "adapter", ("adapters",)),
        ({"adapters": ["bio@11"]}, "adapter", ()),
        ({"train_dataset": "bio@1"}, "adapter", ()),
        ({"train_dataset": "bio@1"}, "dataset", ("train_dataset",)),
        (
            {"further_data": {"bio@1": 2.0}, "eval_data": {"x": "bio@1"}},
            "dataset",
            ("further_data", "eval_data"),
        ),
        ({"subjects": ["composition:bio@1"]}, "adapter", ()),
        ({"subjects": ["adapter:bio@1"]}, "adapter", ("subjects",)),
        ({"description": "like bio@1"}, "adapter", ()),
    ],
)
def test_a_field_names_records_of_its_own_kind(
    facts: dict[str, Any], kind: str, fields: tuple[str, ...]
) -> None:
    assert mentioned(facts, kind=kind, reference="bio@1") == fields


def test_an_alias_never_points_to_a_version_that_is_removed_meanwhile(
    registry: Registry, bio: AdapterVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The removal has found no alias and waits, while the alias is set; then it commits.
    refused = [removed_while(registry, monkeypatch, lambda: registry.adapters.set_alias("bio", "best", 1))]
    assert isinstance(refused[0], AdapterNotFound)
    assert registry.adapters.aliases("bio") == ()


def test_a_composition_never_comes_back_without_an_expert_that_is_removed_meanwhile(
    registry: Registry, bio: AdapterVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compose(registry, bio, tmp_path / "science")
    registry.compositions.remove("science")
    refused = removed_while(registry, monkeypatch, lambda: registry.compositions.restore("science"))
    assert isinstance(refused, Conflict)
    assert registry.compositions.get("science", include_deleted=True).state == "deleted"


def removed_while(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]
) -> Exception | None:
    """Begin to remove bio@1, do something else, then let the removal commit; how the other ended."""
    checked, ended, outcome = threading.Event(), threading.Event(), []
    refuse_if_used = removal._refuse_if_used

    def slowly(*arguments: Any) -> None:
        refuse_if_used(*arguments)
        checked.set()
        ended.wait(0.2)  # the other may not get any further than its lock

    def other() -> None:
        checked.wait(10)
        try:
            act()
        except Exception as error:
            outcome.append(error)
        ended.set()

    monkeypatch.setattr(removal, "_refuse_if_used", slowly)
    thread = threading.Thread(target=other)
    thread.start()
    registry.adapters.remove("bio@1")
    thread.join(30)
    return outcome[0] if outcome else None
