"""A chat template that writes the date writes the same one for ever."""

from datetime import date
from typing import Any

import pytest

from formats.chat_examples import ChatExample
from tests.pico import CHATML, pico_tokenizer
from xlora_engine.data.chat import encode, encode_question
from xlora_engine.data.dated_template import DatedTokenizer

DAY = date(2024, 7, 26)
#: Llama 3.2's way to find a date, and to the minute, so that a clock that runs would show.
WRITES_THE_DATE = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y %H:%M') %}{%- else %}{%- set date_string = 'none' %}"
    "{%- endif %}{%- endif %}{{ '<|im_start|>system\nToday is ' + date_string + '.<|im_end|>\n' }}" + CHATML
)


def dated(template: Any) -> DatedTokenizer:
    tokenizer = pico_tokenizer()
    tokenizer.chat_template = template
    return DatedTokenizer(tokenizer=tokenizer, today=DAY)


@pytest.mark.parametrize("template", [WRITES_THE_DATE, {"default": WRITES_THE_DATE, "tools": CHATML}])
def test_the_date_is_the_one_that_is_given(template: Any) -> None:
    tokenizer = dated(template)
    example = ChatExample(messages=(("user", "q"), ("assistant", "a")), line=1)
    learnt = encode(tokenizer, example, max_tokens=512)
    asked = encode_question(tokenizer, example.messages[:-1])
    assert "Today is 26 Jul 2024 00:00." in tokenizer.decode(list(asked))
    assert learnt.token_ids[: learnt.prompt_length] == asked
    assert tokenizer.date_written == DAY


def test_a_template_without_a_date_is_rendered_as_ever() -> None:
    example = ChatExample(messages=(("user", "q"), ("assistant", "a")), line=1)
    plain = encode(pico_tokenizer(), example, max_tokens=512)
    assert encode(dated(CHATML), example, max_tokens=512) == plain
    assert dated(CHATML).date_written is None


def test_a_template_that_names_a_date_itself_keeps_it() -> None:
    own = "{%- if not date_string is defined %}{%- set date_string = '1 Jan 2001' %}{%- endif %}"
    tokenizer = dated(own + "{{ date_string }}" + CHATML)
    assert tokenizer.decode(list(encode_question(tokenizer, [("user", "q")]))).startswith("1 Jan 2001")


@pytest.mark.parametrize("begins", ["", "\n", "  ", "\n\n  ", "{%- if true %} {% endif %}", "{{ 'x' }}\n"])
def test_nothing_else_of_a_template_changes(begins: str) -> None:
    template = begins + "{% if false %}{{ strftime_now('%d') }}{% endif %}" + CHATML
    plain = pico_tokenizer()
    plain.chat_template = template
    messages = [{"role": "user", "content": "q"}]
    expected = plain.apply_chat_template(messages, tokenize=False)
    assert dated(template).apply_chat_template(messages, tokenize=False) == expected


@pytest.mark.parametrize(
    ("directives", "written"),
    [
        ("%d %b %Y", "26 Jul 2024"),
        ("%Y-%m-%d", "2024-07-26"),
        ("%A, %B %-d", "Friday, July 26"),
        ("%%d", "%d"),
    ],
)
def test_dates_are_written_as_python_writes_them(directives: str, written: str) -> None:
    tokenizer = dated(
        "{% macro at() %}{{ strftime_now(format='" + directives + "') }}{% endmacro %}{{ at() }}"
    )
    assert tokenizer.apply_chat_template([{"role": "user", "content": "q"}], tokenize=False) == written
