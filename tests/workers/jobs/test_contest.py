"""`--method all`: every method is made and scored in one job, the best is registered."""

import pytest
import torch

from registry.service import Registry
from tests.workers.stocked_zoo import DOMAINS, Started
from workers.jobs import compose, contest, loading
from workers.jobs.answering import answering
from workers.methods.training_examples import dataset_file, encode_sample
from workers.requests.composition_data import AskedData
from workers.requests.composition_plan import Request, make_plan
from workers.requests.methods import ALL_METHODS, METHODS
from workers.requests.specs import ComposeSpec
from xlora_engine.sources.base_model import ReadLimits


@pytest.fixture(autouse=True)
def _in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is compared differs by rounding alone, whatever this machine is fast at."""
    monkeypatch.setattr(loading, "dtype_here", lambda _: torch.float32)


def spec_for(registry: Registry, data: AskedData) -> ComposeSpec:
    return make_plan(
        registry,
        Request(
            name="science",
            adapters=DOMAINS,
            method=ALL_METHODS,
            data=data,
            head={"xlora_size": 8},
            budget={
                "samples_per_domain": 4,
                "warm_start_steps": 2,
                "mixture_steps": 1,
                "gate_steps": 2,
                "without_help": True,
            },
        ),
    ).spec()


def labelled() -> AskedData:
    return AskedData(
        labelled={domain: f"{domain}.train" for domain in DOMAINS},
        evaluated={domain: f"{domain}.eval" for domain in DOMAINS},
    )


def mean_loss(registry: Registry, subject: str) -> float:
    losses = []
    with answering(registry, subject) as answerer:
        for domain in DOMAINS:
            file = dataset_file(registry, f"{domain}.eval@1")
            limits = ReadLimits(tokens=512, embeddings=512)
            examples = encode_sample(file, answerer.tokenizer, count=None, limits=limits, seed=0)
            losses.append(answerer.score(examples, tokens_per_batch=64).loss)
    return sum(losses) / len(losses)


def test_all_methods_are_compared_and_the_best_is_registered(stocked: Registry, started: Started) -> None:
    outcome = compose.run(started(spec_for(stocked, labelled())))
    composition = stocked.compositions.get(outcome["composition"])
    report = composition.report
    rows = report["methods"]
    assert {row["method"] for row in rows} == set(METHODS)
    assert [row["mean_loss"] for row in rows] == sorted(row["mean_loss"] for row in rows)
    assert composition.method == rows[0]["method"]
    others = [f"method {name}" for name in METHODS if name != composition.method]
    assert set(report["subjects"]) == {"base", *DOMAINS, "uniform", *others, "composed"}
    assert report["subjects"][-1] == "composed"
    # The same numbers as from what was registered, and for a method that is not kept as for one of its own.
    assert rows[0]["mean_loss"] == pytest.approx(mean_loss(stocked, "composition:science"), rel=1e-5)
    alike = {row["method"]: row["mean_loss"] for row in rows}
    assert alike["linear"] == pytest.approx(alike["uniform"], rel=1e-4)


def test_a_static_winner_is_an_adapter_with_its_lineage(
    stocked: Registry, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest, "METHODS", {"ties": METHODS["ties"]})  # the only one, so the best
    outcome = compose.run(started(spec_for(stocked, labelled())))
    ties = stocked.compositions.get(outcome["composition"])
    assert ties.method == "ties"
    adapter = stocked.adapters.get(outcome["adapter"])
    assert adapter.name == "science"
    assert adapter.parameters["adapters"] == ["bio@1", "protein@1"]
    assert adapter.parameters["method"] == "ties"
    assert mean_loss(stocked, f"adapter:{adapter.reference}") == pytest.approx(
        mean_loss(stocked, f"composition:{ties.reference}"), rel=1e-6
    )


def test_what_cannot_be_made_of_the_data_is_left_out_with_the_reason(
    stocked: Registry, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest, "METHODS", {name: METHODS[name] for name in ("uniform", "phatgoose")})
    data = AskedData(corpora=("bio.train",), evaluated={domain: f"{domain}.eval" for domain in DOMAINS})
    rows = stocked.compositions.get(compose.run(started(spec_for(stocked, data)))["composition"]).report[
        "methods"
    ]
    left_out = {row["method"]: row["left_out"] for row in rows if "left_out" in row}
    assert left_out == {
        "phatgoose": "it needs data of every adapter's own, and there is none for bio, protein"
    }
