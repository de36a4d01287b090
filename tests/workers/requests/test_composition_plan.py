"""What `zoo compose` refuses before anything is loaded."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from registry.errors import InvalidField
from registry.service import Registry
from tests.registry.folders import write_adapter, write_base
from workers.errors import SpecInvalid
from workers.requests.composition_data import AskedData
from workers.requests.composition_plan import Plan, Request, domain_names, make_plan


@pytest.fixture
def _bio(registry: Registry, tmp_path: Path) -> None:
    """An adapter, and datasets of one row and of two."""
    registry.bases.register(write_base(tmp_path / "base"), name="pico", source="here")
    registry.adapters.register(write_adapter(tmp_path / "adapter"), name="bio")
    for name, rows in (("one", 1), ("two", 2)):
        file = tmp_path / f"{name}.jsonl"
        chats = [
            [{"role": "user", "content": f"{row}?"}, {"role": "assistant", "content": "ok"}]
            for row in range(rows)
        ]
        file.write_text("\n".join(json.dumps({"messages": chat}) for chat in chats), encoding="utf-8")
        registry.datasets.register(file)


def planned(registry: Registry, data: str, **budget: int) -> Plan:
    return make_plan(
        registry,
        Request(
            name="x",
            adapters=("bio",),
            data=AskedData(labelled={"bio": data}, evaluated={"bio": "one"}),
            budget=budget,
        ),
    )


@pytest.mark.usefixtures("_bio")
def test_a_domain_needs_a_training_example_beside_the_held_out_one(registry: Registry) -> None:
    assert planned(registry, "two").spec().data == {"bio": "two@1"}
    with pytest.raises(InvalidField, match=r"--data must be of at least 2 examples.* 'bio=one@1 of 1'"):
        planned(registry, "one")
    with pytest.raises(SpecInvalid, match=r"samples_per_domain .* 2"):
        planned(registry, "two", samples_per_domain=1).spec()


@pytest.mark.usefixtures("_bio")
def test_experts_are_equally_active_in_the_scaling_pass_by_default(
    registry: Registry, tmp_path: Path
) -> None:
    registry.adapters.register(write_adapter(tmp_path / "other", seed=1), name="other")
    data = {"bio": "two", "other": "two"}

    def value(**head: float) -> object:
        asked = AskedData(labelled=data, evaluated=data)
        request = Request(name="x", adapters=("bio", "other"), data=asked, head=head)
        return make_plan(registry, request).spec().head["scaling_pass_value"]

    assert value() == 0.5
    assert value(scaling_pass_value=0.0) == 0.0


def _owned(*adapters: tuple[str, tuple[str, ...]]) -> dict[str, str]:
    made: list[Any] = [SimpleNamespace(name=name, domains=domains) for name, domains in adapters]
    owners = domain_names(made)
    # Whatever the order, everyone owns the same.
    assert owners == domain_names(list(reversed(made)))
    assert len(set(owners.values())) == len(made)
    return owners


def test_every_expert_owns_a_domain_that_no_other_owns() -> None:
    assert _owned(("a", ("bio",)), ("b", ("law",))) == {"a": "bio", "b": "law"}
    assert _owned(("cells", ("bio",)), ("plants", ("bio",))) == {"cells": "cells", "plants": "plants"}
    assert _owned(("cells", ("bio",)), ("all", ("bio", "law"))) == {"cells": "cells", "all": "all"}
    # One that is called as another's domain.
    assert _owned(("cells", ("bio",)), ("bio", ("other", "more"))) == {"cells": "cells", "bio": "bio"}
    assert _owned(("a", ("b",)), ("b", ("a",))) == {"a": "a", "b": "b"}


@pytest.mark.usefixtures("_bio")
@pytest.mark.parametrize("mixed", [("bio.eval",), ("both.eval", "both")])
def test_a_mixed_dataset_called_as_another_task_is_refused(
    mixed: tuple[str, ...], registry: Registry, tmp_path: Path
) -> None:
    for name in mixed:
        registry.datasets.register(tmp_path / "one.jsonl", name=name)
    with pytest.raises(InvalidField, match="--mixed must be datasets whose tasks differ"):
        make_plan(
            registry,
            Request(
                name="x",
                adapters=("bio",),
                data=AskedData(labelled={"bio": "two"}, evaluated={"bio": "one"}, mixed=mixed),
            ),
        )
