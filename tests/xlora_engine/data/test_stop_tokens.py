"""An answer ends at what ended it in training, whatever else the tokenizer and the base model say."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from formats.chat_examples import ChatExample
from tests.pico import CHATML, pico_base_folder, pico_tokenizer
from xlora_engine.data.chat import encode
from xlora_engine.data.stop_tokens import named_tokens, stop_tokens, stop_where_answers_end, turn_end
from xlora_engine.sources.base_model import load_base

TEXT_END, TURN_START, TURN_END = 0, 1, 2


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """As most base models: text ends at one token, a turn at another."""
    made: Any = pico_tokenizer()
    made.eos_token = "<|endoftext|>"
    return made  # type: ignore[no-any-return]


def test_the_end_of_a_turn_is_the_last_token_that_is_learnt(tokenizer: PreTrainedTokenizerFast) -> None:
    example = ChatExample(messages=(("user", "q"), ("assistant", "answer")), line=1)
    assert turn_end(tokenizer) == encode(tokenizer, example, max_tokens=100).answer_ids[-1] == TURN_END


def test_a_template_that_wants_a_system_message_ends_a_turn_too(tokenizer: PreTrainedTokenizerFast) -> None:
    wants = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer.chat_template = wants + CHATML
    assert turn_end(tokenizer) == TURN_END


def test_a_template_that_ends_a_turn_with_text_adds_no_token(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = CHATML.replace("<|im_end|>", "END")
    assert turn_end(tokenizer) is None
    assert stop_tokens(tokenizer, ()) == (TEXT_END,)


def test_stops_are_those_of_turn_text_and_file(tokenizer: PreTrainedTokenizerFast) -> None:
    assert stop_tokens(tokenizer, [9, TURN_START]) == (TEXT_END, TURN_START, TURN_END, 9)


def test_a_model_stops_at_all_of_them(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = pico_base_folder(tmp_path / "base", eos_token_id=9)
    model: Any = load_base(folder, dtype=torch.float32, device=torch.device("cpu"))
    stop_where_answers_end(model, tokenizer)
    assert model.generation_config.eos_token_id == [TEXT_END, TURN_END, 9]
    ids = torch.tensor([[1, 40, 41]])
    asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 5, "do_sample": False}

    def ends(*_: Any) -> Any:
        logits = torch.zeros(1, len(tokenizer))
        logits[0, TURN_END] = 1
        return logits

    assert model.generate(ids, logits_processor=[ends], **asked)[0, 3:].tolist() == [TURN_END]


def test_a_record_names_them_by_text_and_id(tokenizer: PreTrainedTokenizerFast) -> None:
    assert named_tokens(tokenizer, (0, 2)) == {"<|endoftext|>": 0, "<|im_end|>": 2}
