"""Base models as people have them: without a template, padded in any way, resized, tied, with more tokens.

Each is registered as `zoo register base` does it, trained on and asked in this process.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from registry.entities import BaseModel
from tests.command_line import Ask
from tests.pico import pico_base_folder, pico_tokenizer
from tests.workers.stocked_zoo import Started
from workers.jobs import train
from workers.jobs.answering import Answerer, answering
from workers.jobs.asking import ask as answers_of
from workers.requests.base_models import register_base
from workers.requests.generation import GenerateRequest
from workers.requests.specs import TrainSpec

#: Changes a tokenizer before it is saved beside the model.
Change = Callable[[PreTrainedTokenizerFast], None]


def spec(base: str, **fields: Any) -> TrainSpec:
    data: dict[str, Any] = {"train_dataset": "bio.train@1", "eval_dataset": "bio.eval@1"}
    return TrainSpec(name="new", base=base, steps=2, warmup_steps=0, rank=2, **data, **fields)


def unchanged(_: PreTrainedTokenizerFast) -> None:
    pass


def no_template(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = None


def begins(tokenizer: PreTrainedTokenizerFast) -> None:
    """Puts a token before every text, and has no template."""
    tokenizer.chat_template = None
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )


def pad_is_end(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.pad_token = tokenizer.eos_token


def no_pad(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.pad_token = None


def pad_beyond(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})


def more_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool>"]})


def folder_of(path: Path, change: Change, **config: Any) -> Path:
    pico_base_folder(path, seed=5, **config)
    (path / "chat_template.jinja").unlink()
    tokenizer = pico_tokenizer()
    change(tokenizer)
    tokenizer.save_pretrained(path)
    return path


def seen_by(answerer: Answerer) -> list[list[int]]:
    """The prompts that its model is given from now on."""
    prompts: list[list[int]] = []
    model = answerer.model
    generate = model.generate

    def seen(ids: Any, **rest: Any) -> Any:
        prompts.append(ids[0].tolist())
        return generate(ids, **rest)

    model.generate = seen
    return prompts


def registered(started: Started, folder: Path, **facts: Any) -> BaseModel:
    return register_base(started(spec("pico")).registry, folder, name="own", **facts)


VARIANTS: dict[str, tuple[Change, dict[str, Any]]] = {
    "as it is": (unchanged, {}),
    "padding is the end": (pad_is_end, {}),
    "no padding": (no_pad, {}),
    "padding without an embedding": (pad_beyond, {}),
    "vocabulary padded to a multiple of 64": (unchanged, {"vocab_size": 320}),
    "tied": (unchanged, {"tie_word_embeddings": True}),
    "more tokens": (more_tokens, {"vocab_size": 260}),
    "no template": (no_template, {}),
    "no template, and a token before every text": (begins, {}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_trained_scored_and_asked(variant: str, started: Started, tmp_path: Path) -> None:
    change, config = VARIANTS[variant]
    registered(started, folder_of(tmp_path / "own", change, **config))
    context = started(spec("own"))

    outcome = train.run(context)

    assert outcome["scores"]["loss"] > 0
    request = GenerateRequest(subject=outcome["adapter"], questions=("bio 1?",), max_new_tokens=4)
    with answering(context.registry, outcome["adapter"]) as answerer:
        assert next(answers_of(answerer, "bio 1?", request)).new_tokens in range(1, 5)


def test_how_it_pads_changes_no_score(started: Started, tmp_path: Path) -> None:
    losses = []
    for number, change in enumerate((unchanged, pad_is_end, no_pad, pad_beyond)):
        folder = folder_of(tmp_path / str(number), change)
        register_base(started(spec("pico")).registry, folder, name=f"own{number}")
        losses.append(train.run(started(spec(f"own{number}")))["scores"]["loss"])
    assert losses == pytest.approx([losses[0]] * 4, abs=1e-6)


def test_a_base_without_a_template_gets_the_default_and_its_record_says_so(
    started: Started, tmp_path: Path
) -> None:
    base = registered(started, folder_of(tmp_path / "own", no_template))
    (said,) = base.warnings
    assert said.startswith("it has no chat template, so the default, plain, was put in")
    assert "chat_template.jinja" in {file.path for file in base.files}


def test_a_token_before_every_text_is_written_once(started: Started, tmp_path: Path) -> None:
    base = registered(started, folder_of(tmp_path / "own", begins))
    registry = started(spec("pico")).registry
    asked = [
        GenerateRequest(subject="own", questions=("a",), raw=raw, max_new_tokens=1) for raw in (False, True)
    ]
    with answering(registry, base.reference) as answerer:
        prompts = seen_by(answerer)
        for request in asked:
            next(answers_of(answerer, "a", request))
    assert [prompt.count(1) for prompt in prompts] == [1, 1]
    assert pico_tokenizer().decode(prompts[0]) == "<|im_start|>User: a\nAssistant:"
    assert pico_tokenizer().decode(prompts[1]) == "<|im_start|>a"


def test_raw_continues_the_text_itself(started: Started) -> None:
    with answering(started(spec("pico")).registry, "pico") as answerer:
        prompts = seen_by(answerer)
        request = GenerateRequest(subject="pico", questions=("Once",), raw=True, max_new_tokens=1)
        next(answers_of(answerer, "Once", request))
    assert prompts == [pico_tokenizer()("Once")["input_ids"]]


def test_a_template_that_ends_no_turn_is_said(started: Started, tmp_path: Path) -> None:
    (tmp_path / "endless.jinja").write_text("{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    base = registered(
        started, folder_of(tmp_path / "own", no_template), chat_template=str(tmp_path / "endless.jinja")
    )
    assert any("no special token, so it cannot be trained on or evaluated" in said for said in base.warnings)


def test_the_command_takes_a_template_by_name(home: Path, ask: Ask, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "own", no_template)
    made = ask("register", "base", str(folder), "--name", "own", "--chat-template", "chatml")
    assert made.code == 0
    assert "its chat template is chatml, as asked for" in made.err
    refused = ask("register", "base", str(folder), "--name", "other", "--chat-template", "gemma")
    assert "writes <start_of_turn>, <end_of_turn>, which the tokenizer does not have" in refused.err
    shown = ask("bases", "show", "own", "--json").json
    assert "chatml" in json.dumps(shown["warnings"])


def test_raw_takes_no_system_message(ask: Ask) -> None:
    refused = ask("generate", "pico", "Once", "--raw", "--system", "Be brief.")
    assert refused.code == 2
    assert "--system must be left out with raw" in refused.err
