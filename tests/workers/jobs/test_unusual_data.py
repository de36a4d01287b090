"""Unusual adapters and data have their verdict before anything is trained, or simply work."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from registry.service import Registry
from tests.pico import pico_adapter
from tests.workers.stocked_zoo import DOMAINS, Started, write_chats
from workers.jobs import compose
from workers.requests.composition_data import AskedData
from workers.requests.composition_plan import Request, make_plan, require_compatible
from workers.requests.specs import ComposeSpec

SMALL = {"samples_per_domain": 8, "warm_start_steps": 2, "mixture_steps": 1, "eval_examples": 2}


def spec_for(registry: Registry, *, adapters: tuple[str, ...] = DOMAINS, **data: Any) -> ComposeSpec:
    plan = make_plan(
        registry,
        Request(
            name="science",
            adapters=adapters,
            data=AskedData(**data),
            head={"xlora_size": 8},
            budget={**SMALL, "without_help": True},
        ),
    )
    require_compatible(plan)
    return plan.registered(registry).spec()


def _chats(path: Path, *contents: str) -> str:
    lines = [
        {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": content[:4]}]}
        for content in contents
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def test_a_text_that_the_tokenizer_splits_into_bytes_is_warned_of(
    stocked: Registry, started: Started, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    thai = _chats(tmp_path / "thai.jsonl", *("ความรู้เป็นสิ่งสำคัญ" * n for n in range(1, 9)))
    evaluated = {domain: f"{domain}.eval" for domain in DOMAINS}
    with caplog.at_level(logging.WARNING):
        compose.run(started(spec_for(stocked, corpora=(thai,), evaluated=evaluated)))
    assert "of the training data's tokens are single bytes: pico has hardly any token" in caplog.text


def test_a_domain_of_two_examples_trains_on_one_and_stops_by_the_other(
    stocked: Registry, started: Started, tmp_path: Path
) -> None:
    two = str(write_chats(tmp_path / "two.jsonl", domain="bio", count=2))
    data = {"bio": two, "protein": "protein.train"}
    evaluated = {domain: f"{domain}.eval" for domain in DOMAINS}
    composition = stocked.compositions.get(
        compose.run(started(spec_for(stocked, labelled=data, evaluated=evaluated)))["composition"]
    )
    assert composition.report["training"]["examples"]["bio"] == 2


def test_two_adapters_of_one_domain_are_experts_under_their_own_names(
    stocked: Registry, started: Started, tmp_path: Path
) -> None:
    stocked.adapters.register(pico_adapter(tmp_path / "cells", seed=9), name="cells", domains=["bio"])
    plan = make_plan(
        stocked, Request(name="x", adapters=("bio", "cells"), data=AskedData(corpora=("bio.train",)))
    )
    assert "ZOO-W210" in [verdict.code for verdict in plan.verdicts]
    spec = spec_for(stocked, adapters=("bio", "cells"), corpora=("bio.train",))
    composition = stocked.compositions.get(compose.run(started(spec))["composition"])
    assert {"bio", "cells"} <= set(composition.report["subjects"])
