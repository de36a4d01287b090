"""`zoo generate`: ask a composition, an adapter or a base model."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from registry.commands.managing import opened
from registry.commands.output import Output, output_options
from workers.commands.field_options import field_options
from workers.errors import SpecInvalid
from workers.jobs.generation import generate
from workers.requests.answers import Answer
from workers.requests.generation import GenerateRequest, read_questions

_FIELDS = (
    *("system", "raw", "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
    *("num_beams", "num_return_sequences", "seed"),
)


@click.command()
@click.argument("subject")
@click.argument("questions", nargs=-1)
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help='More questions, one a line; of a .jsonl file each a JSON text or {"prompt": text}.',
)
@field_options(GenerateRequest, *_FIELDS)
@click.option(
    "--stop", multiple=True, help="A text that ends an answer, which is given without it; several may be."
)
@click.option(
    "--stream", is_flag=True, help="Print an answer while it is made, as is done on a terminal anyway."
)
@output_options
def command(
    subject: str,
    questions: tuple[str, ...],
    file: Path | None,
    stream: bool,
    output: Output,
    **drawing: Any,
) -> None:
    """Put QUESTIONS to SUBJECT, each by itself, and print the answers as they are made.

    With --json, a composition's answers say how its experts were weighed; with --stream as well, every piece
    of text is a line of JSON, and so is every answer.

    Example: zoo generate science "Crystal structure of iron?"
    """
    asked = (*questions, *(read_questions(file) if file else ()))
    request = GenerateRequest(subject=subject, questions=asked, routing=output.is_json, **drawing)
    if stream and not request.can_stream:
        raise SpecInvalid("stream", "left out with several beams or answers, none of which is first", True)
    with opened() as registry:
        _print(partial(generate, registry, request), request, output, stream=stream)


def _print(answers: Callable[..., Any], request: GenerateRequest, output: Output, *, stream: bool) -> None:
    if output.is_json:
        given = []
        for answer in answers(on_text=partial(_line, "text") if stream else None):
            given.append(asdict(answer))
            if stream:
                _line("answer", given[-1])
        if not stream:
            output.emit(given, key="text")
        return
    streams = request.can_stream and (stream or (output.is_human and sys.stdout.isatty()))
    on_question = partial(_show_question, shown=output.is_human and len(request.questions) > 1)
    on_text = partial(click.echo, nl=False) if streams else None
    for answer in answers(on_question=on_question, on_text=on_text):
        _show(answer, streamed=streams)


def _line(name: str, value: object) -> None:
    click.echo(json.dumps({name: value}, ensure_ascii=False))
    sys.stdout.flush()


def _show_question(question: str, *, shown: bool) -> None:
    if shown:
        click.echo(f"{question}  ", nl=False)


def _show(answer: Answer, *, streamed: bool) -> None:
    click.echo("" if streamed else answer.text)
