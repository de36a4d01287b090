"""Chat templates by name, for base models that come without one; `plain` is put in where none is asked for.

Each ends an answer with a special token, at which training learns to stop.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NamedTemplate:
    """A Jinja template, and the special tokens that it writes by their text."""

    text: str
    tokens: tuple[str, ...] = ()


#: Every tokenizer with an end token can write it; see `plain_template`.
DEFAULT = "plain"
_BEGIN = "{{ bos_token }}"
_PLAIN = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim"
    " + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
# Gemma has no role for a system message: it goes before the first question.
_GEMMA = (
    "{{ bos_token }}{% set ns = namespace(before='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set ns.before = message['content'] + '\\n\\n' %}{% else %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n'"
    " + ns.before + message['content'] | trim + '<end_of_turn>\\n' }}{% set ns.before = '' %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)

#: Name -> template.
CHAT_TEMPLATES: Mapping[str, NamedTemplate] = {
    DEFAULT: NamedTemplate(text=_PLAIN),
    "chatml": NamedTemplate(text=_CHATML, tokens=("<|im_start|>", "<|im_end|>")),
    "llama3": NamedTemplate(text=_LLAMA_3, tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "gemma": NamedTemplate(text=_GEMMA, tokens=("<start_of_turn>", "<end_of_turn>")),
}


def plain_template(*, begins: bool) -> str:
    """The default, with the token that begins a text where the tokenizer puts one before every text."""
    return f"{_BEGIN}{_PLAIN}" if begins else _PLAIN
