"""One example as a subject answered it: all that a metric may look at. Knows no tensors."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of the answers to choose from."""

    text: str
    #: Of its tokens after the question (nats), without the end of the turn.
    log_likelihood: float


@dataclass(frozen=True, kw_only=True)
class AnsweredExample:
    """What was expected of a subject, and what it gave."""

    #: Of the dataset's file, counted from 1.
    line: int
    question: str
    expected: str
    #: Loss of the expected answer (nats), summed over its tokens, the end of its turn included.
    nats: float
    #: Of the expected answer, the end of its turn included.
    tokens: int
    #: UTF-8 bytes of the text that these tokens are.
    bytes: int
    #: Whether greedy decoding gives the expected answer; None for a text, which answers nothing.
    is_exact: bool | None = None
    #: What greedy decoding gives; None where no metric asked for it.
    answer: str | None = None
    #: The expected one among them; none where there is nothing to choose from.
    choices: tuple[Choice, ...] = ()
    #: How far a quantity may be off, as a share of what is expected.
    tolerance: float = 0.0
