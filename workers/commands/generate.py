"""`zoo generate`: ask a composition, an adapter or a base model."""

import sys
from dataclasses import asdict
from functools import partial

import click

from registry.commands.managing import opened
from registry.commands.output import Output, output_options
from workers.processes.heavy_imports import heavy_imports


@click.command()
@click.argument("subject")
@click.argument("questions", nargs=-1, required=True)
@click.option("--system", help="System message; an adapter wants the one it was trained with.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of sampling, where the temperature is above 0."
)
@output_options
def command(
    subject: str,
    questions: tuple[str, ...],
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    output: Output,
) -> None:
    """Put QUESTIONS to SUBJECT, each by itself, and print the answers as they are made.

    Example: zoo generate science "Crystal structure of iron?"
    """
    from workers.requests.subjects import find

    with opened() as registry:
        find(registry, subject)  # an unknown name is said at once, before torch is imported
        with heavy_imports():
            from transformers.utils import logging as transformers_logging

            from workers.jobs.answering import answering
            from workers.jobs.generation import Sampling, ask, require_room

        transformers_logging.disable_progress_bar()  # loading is over before a bar could tell anything
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        fits = partial(require_room, questions=questions, system=system, sampling=sampling)
        answers = []
        with answering(registry, subject, before_weights=fits) as answerer:
            for question in questions:
                if output.is_human and len(questions) > 1:
                    click.echo(f"{question}  ", nl=False)
                streams = output.is_human and sys.stdout.isatty()
                on_text = partial(click.echo, nl=False) if streams else None
                answers.append(ask(answerer, question, system=system, sampling=sampling, on_text=on_text))
                if not output.is_json:
                    click.echo("" if streams else answers[-1].text)
    if output.is_json:
        output.emit([asdict(answer) for answer in answers], key="text")
