"""Every method of the table can be made, stored, asked again and exported, through the job that composes."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from registry.entities import CompositionVersion
from registry.service import Registry
from tests.pico import pico_llama
from tests.workers.stocked_zoo import DOMAINS, Started
from workers.errors import SpecInvalid
from workers.jobs import compose
from workers.jobs.answering import answering
from workers.jobs.export import export
from workers.methods import kept_gates
from workers.methods.mixing import mixing_method, uniform
from workers.methods.training_examples import dataset_file, encode_sample
from workers.requests.composition_data import AskedData
from workers.requests.composition_plan import Request, make_plan
from workers.requests.methods import METHODS, Method, require_export, require_read
from xlora_engine.model import XLoraModel
from xlora_engine.sources.base_model import ReadLimits

LIMITS = ReadLimits(tokens=512, embeddings=512)
PROMPT = torch.arange(3, 12)[None]
#: Enough to train whatever there is to train.
SMALL = {"samples_per_domain": 4, "warm_start_steps": 2, "mixture_steps": 1, "gate_steps": 2}


def request_for(method: str, **given: object) -> Request:
    evaluated = {domain: f"{domain}.eval" for domain in DOMAINS}
    settings = METHODS[method].settings
    return Request(
        name="science",
        adapters=DOMAINS,
        method=method,
        data=AskedData(
            labelled={domain: f"{domain}.train" for domain in DOMAINS} if METHODS[method].needs_data else {},
            evaluated=evaluated,
        ),
        # As wide as the base model, which is as wide as one exported for mistral.rs may be.
        head={"xlora_size": 32} if "head" in settings else {},
        budget={**{name: value for name, value in SMALL.items() if name in settings}, **given},
    )


@pytest.fixture(autouse=True)
def _in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is compared differs by rounding alone, whatever this machine is fast at."""
    monkeypatch.setenv("ZOO_COMPUTE_DTYPE", "float32")


def logits_of(registry: Registry, composition: CompositionVersion) -> torch.Tensor:
    with answering(registry, f"composition:{composition.reference}") as answerer:
        positions = torch.arange(PROMPT.shape[1])[None]
        return answerer.logits(PROMPT, torch.ones_like(PROMPT), positions, logits_to_keep=0)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_composition_says_how_it_was_made_and_computes_the_same_wherever_it_is_exported(
    method: str, stocked: Registry, started: Started, tmp_path: Path
) -> None:
    spec = make_plan(stocked, request_for(method, eval_examples=2)).spec()
    composition = stocked.compositions.get(compose.run(started(spec))["composition"])
    assert composition.method == method
    static = [f"method {name}" for name in ("core-ties", "pico") if name != method]
    assert composition.report["subjects"] == ["base", *DOMAINS, "uniform", *static, "composed"]
    assert [verdict["task"] for verdict in composition.report["verdict"]] == list(DOMAINS)
    assert [expert.name for expert in composition.experts] == list(DOMAINS)
    expected = logits_of(stocked, composition)
    row = METHODS[method]
    for layout in row.exports:
        exported = tmp_path / layout
        export(stocked, composition.reference, exported, layout=layout, base_id="owner/pico")
        if row.is_adapter:
            found = _adapter_read_by_others(exported, layout)
        elif row.not_exported:
            found = _composition_read_by_its_method(method, exported)
        else:
            found = _model_read_by_the_engine(exported)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def _composition_read_by_its_method(method: str, folder: Path) -> torch.Tensor:
    composed = mixing_method(method).load(folder, pico_llama())
    with composed.weighed():
        logits: torch.Tensor = composed.model(input_ids=PROMPT).logits
    return logits


@torch.no_grad()
def _model_read_by_the_engine(folder: Path) -> torch.Tensor:
    logits: torch.Tensor = XLoraModel.from_pretrained(folder, pico_llama())(input_ids=PROMPT).logits
    return logits


@pytest.mark.parametrize("method", ["xlora", "cat", "spectr", "phatgoose"])
def test_a_report_scores_a_composition_as_an_evaluation_does(
    method: str, stocked: Registry, started: Started
) -> None:
    spec = make_plan(stocked, request_for(method)).spec()
    composition = stocked.compositions.get(compose.run(started(spec))["composition"])
    with answering(stocked, f"composition:{composition.reference}") as answerer:
        for domain in DOMAINS:
            file = dataset_file(stocked, f"{domain}.eval@1")
            examples = encode_sample(file, answerer.tokenizer, count=None, limits=LIMITS, seed=0)
            scored = answerer.score(examples, tokens_per_batch=64)
            reported = composition.report["scores"]["composed"][domain]
            assert reported["loss"] == pytest.approx(scored.loss, rel=1e-5)
            assert reported["exact_match"] == scored.exact_match


def test_a_gate_that_was_trained_once_is_found_again(
    stocked: Registry, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_plan(stocked, request_for("phatgoose", eval_examples=1)).spec()
    first = stocked.compositions.get(compose.run(started(spec))["composition"])
    monkeypatch.setattr(kept_gates, "train_gate", lambda *_, **__: pytest.fail("trained again"))
    again = make_plan(stocked, request_for("phatgoose", eval_examples=2)).spec()
    second = stocked.compositions.get(compose.run(started(again))["composition"])
    assert second.method_details == first.method_details


def test_a_router_cannot_be_exported_as_x_lora_and_says_why() -> None:
    with pytest.raises(SpecInvalid, match=r"got 'peft'") as refused:
        require_export("arrow", "peft")
    assert "no format of X-LoRA or PEFT can express it" in str(refused.value)


@torch.no_grad()
def _adapter_read_by_others(folder: Path, layout: str) -> torch.Tensor:
    """PEFT reads an adapter, and transformers a base model that it is merged into."""
    if layout == "merged":
        model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        model = PeftModel.from_pretrained(pico_llama(), folder)
    logits: torch.Tensor = model.eval()(input_ids=PROMPT).logits
    return logits


def test_a_linear_merge_scores_as_the_uniform_mixture_does(stocked: Registry, started: Started) -> None:
    spec = make_plan(stocked, request_for("linear")).spec()
    scores = stocked.compositions.get(compose.run(started(spec))["composition"]).report["scores"]
    for domain in DOMAINS:
        uniform_loss = scores["uniform"][domain]["loss"]
        assert scores["composed"][domain]["loss"] == pytest.approx(uniform_loss, rel=1e-4)


def test_a_merge_has_the_rank_and_the_scale_asked_for(stocked: Registry, started: Started) -> None:
    def logits(**given: object) -> torch.Tensor:
        spec = make_plan(stocked, request_for("ties", eval_examples=2, **given)).spec()
        composition = stocked.compositions.get(compose.run(started(spec))["composition"])
        assert composition.method_details["rank"] == 2
        return logits_of(stocked, composition)

    asked = {"merged_rank": 2, "density": 0.5}
    assert not torch.allclose(logits(**asked), logits(**asked, merge_scale=3.0))
    with pytest.raises(SpecInvalid, match="density must be left out with the method pico"):
        make_plan(stocked, request_for("pico", density=0.5))


def test_the_uniform_mixture_weighs_all_experts_the_same(stocked: Registry, started: Started) -> None:
    spec = make_plan(stocked, request_for("uniform")).spec()
    composition = stocked.compositions.get(compose.run(started(spec))["composition"])
    assert composition.method_details == {"weights": [0.5, 0.5]}
    assert composition.report["routing"] == {}
    scores = composition.report["scores"]
    assert scores["composed"] == scores["uniform"]
    folders = {name: stocked.materialise(stocked.adapters.get(name)) for name in DOMAINS}
    model = XLoraModel.from_adapters(pico_llama(), folders)
    with model.fixed_scalings(model.constant_scalings(uniform(2))):
        torch.testing.assert_close(
            logits_of(stocked, composition), model(input_ids=PROMPT).logits, atol=1e-6, rtol=1e-6
        )


@pytest.mark.parametrize("field", ["mixture_steps", "samples_per_domain"])
def test_what_a_method_does_not_read_may_not_be_given(stocked: Registry, field: str) -> None:
    with pytest.raises(SpecInvalid, match=f"{field} must be left out with the method uniform, got 3"):
        make_plan(stocked, request_for("uniform", **{field: 3}))


def test_data_is_not_read_by_a_method_that_needs_weights_alone() -> None:
    with pytest.raises(SpecInvalid, match="data must be left out with the method uniform"):
        require_read("uniform", {"data": {"bio": "bio.train@1"}})


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SpecInvalid, match=r"method must be one of xlora, uniform, .*, got 'moe'"):
        require_read("moe", {})


def test_a_format_that_a_method_cannot_be_exported_to_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    method = Method(summary="", implementation="", needs_data=False, exports=("zoo",))
    monkeypatch.setattr("workers.requests.methods.METHODS", {"merge": method})
    require_export("merge", "zoo")
    with pytest.raises(SpecInvalid, match=r"one of zoo for a composition of the method merge, got 'peft'"):
        require_export("merge", "peft")
