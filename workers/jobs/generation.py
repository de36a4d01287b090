"""Put questions to a subject: the use case, which a command, a handler of HTTP or a test calls."""

from collections.abc import Callable, Iterator

from registry.service import Registry
from workers.processes.heavy_imports import heavy_imports
from workers.processes.spinning import limit_spinning
from workers.requests.answers import Answer, OnText
from workers.requests.generation import GenerateRequest
from workers.requests.subjects import find


def generate(
    registry: Registry,
    request: GenerateRequest,
    *,
    on_question: Callable[[str], None] = lambda _: None,
    on_text: OnText | None = None,
) -> Iterator[Answer]:
    """The answers, each as soon as it is complete; `on_question` receives a question before its answers.

    `on_text` is called where the request can be streamed. An unknown name is said at once, before torch is
    imported; what does not fit is said before weights are loaded.

    Raises:
        NotFound: there is no such subject.
        ChatInvalid: the base model's template refuses a question, or a token of it has no embedding.
        SpecInvalid: a question and its answer are longer than the base model reads.
    """
    find(registry, request.subject)
    with heavy_imports():
        from transformers.utils import logging as transformers_logging

        from workers.jobs.asking import answers

    limit_spinning()
    transformers_logging.disable_progress_bar()  # loading is over before a bar could tell anything
    return answers(registry, request, on_question=on_question, on_text=on_text)
