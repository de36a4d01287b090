"""What comes back when questions are put to a subject."""

from collections.abc import Callable
from dataclasses import dataclass

#: Receives a piece of an answer as soon as later tokens will not change it.
OnText = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RoutedToken:
    """How the experts were weighed when a token was chosen."""

    id: int
    token: str
    #: The mean over layers of each expert's scaling, in the order of `Routing.experts`.
    gates: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Routing:
    """How a composition weighed its experts for one answer."""

    experts: tuple[str, ...]
    #: Of all tokens of the answer.
    mean: tuple[float, ...]
    tokens: tuple[RoutedToken, ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a subject said."""

    subject: str
    question: str
    #: Which answer to its question it is, from 0.
    choice: int
    text: str
    new_tokens: int
    #: `stop` if it ended by itself or by a stop text, `length` if it has as many tokens as were allowed.
    finish_reason: str
    #: None unless it was asked for, and of what no head weighs.
    routing: Routing | None = None
