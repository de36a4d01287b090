"""`zoo generate`: ask a composition, an adapter or a base model."""

import sys
from dataclasses import asdict
from functools import partial
from typing import Any

import click

from registry.commands.managing import opened
from registry.commands.output import Output, output_options
from workers.commands.field_options import field_options
from workers.processes.heavy_imports import heavy_imports
from workers.requests.generation import GenerateRequest


@click.command()
@click.argument("subject")
@click.argument("questions", nargs=-1, required=True)
@field_options(GenerateRequest, "system", "max_new_tokens", "temperature", "seed")
@output_options
def command(subject: str, questions: tuple[str, ...], output: Output, **drawing: Any) -> None:
    """Put QUESTIONS to SUBJECT, each by itself, and print the answers as they are made.

    Example: zoo generate science "Crystal structure of iron?"
    """
    from workers.requests.subjects import find

    request = GenerateRequest(subject=subject, questions=questions, **drawing)
    with opened() as registry:
        find(registry, subject)  # an unknown name is said at once, before torch is imported
        with heavy_imports():
            from transformers.utils import logging as transformers_logging

            from workers.jobs.generation import answers

        transformers_logging.disable_progress_bar()  # loading is over before a bar could tell anything
        streams = output.is_human and sys.stdout.isatty()
        given = []
        for answer in answers(
            registry,
            request,
            on_question=partial(_show_question, shown=output.is_human and len(questions) > 1),
            on_text=partial(click.echo, nl=False) if streams else None,
        ):
            given.append(answer)
            if not output.is_json:
                click.echo("" if streams else answer.text)
    if output.is_json:
        output.emit([asdict(answer) for answer in given], key="text")


def _show_question(question: str, *, shown: bool) -> None:
    if shown:
        click.echo(f"{question}  ", nl=False)
