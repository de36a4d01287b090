"""The rule for names, which become folder names and parts of URLs."""

import re

NAME_RULE = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
#: The rule in words, for messages.
NAME_ALLOWED = "letters, digits, '.', '_' and '-', starting with a letter or digit, at most 128 characters"
_NAME = re.compile(NAME_RULE)

#: Subjects of a composition's report beside its experts, which appear there under their own names.
BASE, UNIFORM, COMPOSED = "base", "uniform", "composed"
#: What no adapter may be called.
RESERVED_NAMES = frozenset({BASE, UNIFORM, COMPOSED})


def is_name(text: str) -> bool:
    """Whether a text follows the rule."""
    return _NAME.fullmatch(text) is not None


def of_method(method: str) -> str:
    """What another method's composition of the same experts is called; no name has a space."""
    return f"method {method}"


def is_method(subject: str) -> bool:
    """Whether a subject of a report is called so."""
    return subject.startswith(of_method(""))
