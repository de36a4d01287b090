"""Every template that a base model can be given writes conversations that training can learn from."""

from collections.abc import Sequence

import pytest
from transformers import PreTrainedTokenizerFast

from formats.chat_examples import ChatExample
from formats.chat_templates import CHAT_TEMPLATES, DEFAULT, plain_template
from tests.pico import pico_tokenizer
from xlora_engine.data.chat import encode, encode_question
from xlora_engine.data.stop_tokens import turn_end

TALK = (
    ("system", "Be brief."),
    ("user", "Why?"),
    ("assistant", "So."),
    ("user", "How?"),
    ("assistant", "Thus."),
)
WRITTEN = {
    "plain": (
        "System: Be brief.\nUser: Why?\nAssistant: So.<|im_end|>\nUser: How?\nAssistant: Thus.<|im_end|>"
    ),
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\nSo.<|im_end|>\n<|im_start|>user\nHow?<|im_end|>\n"
        "<|im_start|>assistant\nThus.<|im_end|>"
    ),
    "llama3": (
        "<|im_start|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nSo.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHow?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nThus.<|eot_id|>"
    ),
    "gemma": (
        "<|im_start|><start_of_turn>user\nBe brief.\n\nWhy?<end_of_turn>\n"
        "<start_of_turn>model\nSo.<end_of_turn>\n<start_of_turn>user\nHow?<end_of_turn>\n"
        "<start_of_turn>model\nThus.<end_of_turn>"
    ),
}


def tokenizer_with(text: str, tokens: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    tokenizer = pico_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    tokenizer.chat_template = text
    return tokenizer


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_a_conversation_is_written_as_its_models_expect_and_ends_at_a_special_token(name: str) -> None:
    template = CHAT_TEMPLATES[name]
    tokenizer = tokenizer_with(template.text, template.tokens)

    example = encode(tokenizer, ChatExample(messages=TALK, line=1), max_tokens=999)

    assert tokenizer.decode(list(example.token_ids)) == WRITTEN[name]
    assert str(tokenizer.decode(list(example.answer_ids))).strip().startswith("Thus.")
    assert turn_end(tokenizer) == example.answer_ids[-1]
    assert encode_question(tokenizer, TALK[:-1]) == example.token_ids[: example.prompt_length]


def test_the_default_begins_a_text_where_the_tokenizer_does() -> None:
    assert CHAT_TEMPLATES[DEFAULT].text == plain_template(begins=False)
    ids = encode_question(tokenizer_with(plain_template(begins=True)), [("user", "Why?")])
    assert ids.count(1) == 1
    assert ids[0] == 1
