"""One corpus is enough to compose: the experts themselves label what names no domain of theirs."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.service import Registry
from tests.pico import pico_adapter, pico_llama, pico_tokenizer
from tests.workers.stocked_zoo import DOMAINS, Started, write_chats
from workers.errors import NoExpertHelps
from workers.jobs import compose
from workers.methods import kept_passes
from workers.methods.training_examples import Sources, draw_examples
from workers.requests.composition import composition_request, planned_composition
from workers.requests.composition_data import AskedData
from workers.requests.composition_plan import Request
from workers.requests.specs import ComposeSpec
from xlora_engine.errors import AnswerTooLong
from xlora_engine.model import XLoraModel
from xlora_engine.sources.base_model import ReadLimits

LIMITS = ReadLimits(tokens=512, embeddings=512)
SMALL: dict[str, Any] = {"warm_start_steps": 4, "mixture_steps": 2, "eval_examples": 4}

#: Writes a corpus of answers, each in the words of what it names: an expert, or the base.
Write = Callable[[Sequence[str]], Path]


@pytest.fixture(autouse=True)
def _in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_COMPUTE_DTYPE", "float32")


@pytest.fixture
def write(stocked: Registry, tmp_path: Path) -> Write:
    tokenizer, letters = pico_tokenizer(), [ord(letter) for letter in "abcdefghijklmnopqrst"]
    allowed = [pico_tokenizer()(chr(letter), add_special_tokens=False)["input_ids"][0] for letter in letters]
    folders = {name: stocked.materialise(stocked.adapters.get(name)) for name in DOMAINS}
    model = XLoraModel.from_adapters(pico_llama(), folders)
    weights = {"base": (0.0, 0.0), "bio": (1.0, 0.0), "protein": (0.0, 1.0)}

    def answer(question: str, writer: str) -> str:
        chat = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        written: list[int] = []
        with model.fixed_scalings(model.constant_scalings(weights[writer])), torch.no_grad():
            for _ in range(6):
                logits = model(input_ids=torch.tensor([ids + written])).logits[0, -1]
                written.append(allowed[int(logits[allowed].argmax())])
        return str(tokenizer.decode(written))

    def corpus(writers: Sequence[str]) -> Path:
        path = tmp_path / "corpus.jsonl"
        lines = []
        for number, writer in enumerate(writers):
            question = f"question {number}"
            messages = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer(question, writer)},
            ]
            lines.append(json.dumps({"messages": messages}))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return corpus


def asked(
    registry: Registry, *corpora: Path, adapters: Sequence[str] = DOMAINS, **fields: Any
) -> ComposeSpec:
    request = Request(
        name="science",
        adapters=tuple(adapters),
        data=AskedData(corpora=tuple(map(str, corpora))),
        budget={**SMALL, **fields},
    )
    return composition_request(registry, planned_composition(registry, request))


def test_a_corpus_is_labelled_by_the_experts_once_and_a_part_of_it_is_left_for_the_report(
    stocked: Registry, started: Started, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = asked(stocked, write(["bio", "protein", "protein", "bio"] * 6))
    assert (spec.data, spec.corpora, spec.eval_data) == ({}, ("corpus@1",), {})
    composition = stocked.compositions.get(compose.run(started(spec))["composition"])
    report = composition.report
    assert report["tasks"] == ["corpus"]
    assert report["scores"]["composed"]["corpus"]["n"] == 3
    examples = report["training"]["examples"]
    # Each is found to have written what it wrote; what is left for the report is not learnt from.
    assert min(examples["bio"], examples["protein"]) >= 7
    assert sum(examples.values()) == 21
    assert report["training"]["mixture"]["steps"] == 2
    assert len(report["training"]["sentences"]) == 3
    recorded = stocked.evaluations.list(f"composition:{composition.reference}")
    assert {evaluation.task for evaluation in recorded} == {"corpus"}

    def computed_again(*_: Any, **__: Any) -> Any:
        raise AssertionError("the experts' losses were kept")

    monkeypatch.setattr(kept_passes, "answer_losses", computed_again)
    compose.run(started(asked(stocked, Path("corpus.jsonl").with_suffix(""), seed=1)))


def test_nothing_is_trained_on_a_corpus_on_which_no_expert_is_better_than_the_base_unless_asked_to(
    stocked: Registry, started: Started, write: Write
) -> None:
    corpus = write(["base"] * 12)
    with pytest.raises(NoExpertHelps, match=r"no expert of bio@1, protein@1 helps .* --without-help"):
        compose.run(started(asked(stocked, corpus)))
    outcome = compose.run(started(asked(stocked, corpus, without_help=True)))
    assert outcome["composition"] == "science@1"


def test_eight_experts_of_eight_ranks_and_different_targets_need_one_corpus_in_any_script(
    stocked: Registry, started: Started, tmp_path: Path
) -> None:
    targets = (("q_proj",), ("v_proj", "down_proj"), ("gate_proj", "up_proj"), ("k_proj", "o_proj"))
    names = [f"expert{number}" for number in range(8)]
    for number, name in enumerate(names):
        folder = pico_adapter(
            tmp_path / name, seed=number + 5, rank=number + 1, target_modules=targets[number % 4]
        )
        stocked.adapters.register(folder, name=name)
    file = write_chats(tmp_path / "ქართული.jsonl", domain="ცილა და დნმ", count=16)
    file = file.rename(tmp_path / "georgian.jsonl")
    spec = asked(stocked, file, adapters=names, without_help=True)
    report = stocked.compositions.get(compose.run(started(spec))["composition"]).report
    assert report["subjects"] == [*("base", *names, "uniform", "method core-ties", "method pico", "composed")]
    assert sum(report["training"]["examples"].values()) == 14


def test_examples_of_a_corpus_that_are_too_long_are_named_before_anything_is_trained(
    stocked: Registry, started: Started, tmp_path: Path
) -> None:
    file = tmp_path / "long.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": "q" * n}, {"role": "assistant", "content": "a"}]}
        for n in (1, 2, 600)
    ]
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with pytest.raises(AnswerTooLong, match=r"long\.jsonl, line 3 has \d+ tokens .* limit is 512"):
        compose.run(started(asked(stocked, file)))


def test_an_example_that_names_a_domain_belongs_to_its_expert_unless_two_have_that_domain(
    tmp_path: Path,
) -> None:
    lines = [write_chats(tmp_path / f"{name}.jsonl", domain=name, count=2).read_text() for name in ("a", "b")]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(lines), encoding="utf-8")

    def experts(domains: dict[str, int]) -> list[int | None]:
        sources = Sources(labelled={}, corpora=(corpus,), domains=domains)
        drawn = draw_examples(sources, pico_tokenizer(), count_per_domain=2, limits=LIMITS, seed=0)
        return sorted(drawn.experts, key=str)

    assert experts({"a": 0, "b": 1}) == [0, 0, 1, 1]
    # Two adapters of the domain `a` own their names instead.
    assert experts({"cells": 0, "plants": 1}) == [None] * 4
    assert experts({"cells": 0, "b": 1}) == [1, 1, None, None]
