"""`zoo lm-eval`: lm-evaluation-harness's own command line, where `--model zoo` is registered.

The harness finds no models of other packages by itself: it has no entry point for them.
"""

import importlib.util
import sys

import click

from workers.errors import HarnessMissing


@click.command(
    name="lm-eval",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Run lm-evaluation-harness with ARGUMENTS; `--model zoo --model_args subject=bio` asks a subject.

    Example: zoo lm-eval run --model zoo --model_args subject=bio --tasks bio_choice --include_path tasks
    """
    if "--help" in arguments and importlib.util.find_spec("lm_eval") is None:
        click.echo(context.get_help())
        return
    try:
        import lm_eval.models  # noqa: F401 - it fills the registry only while that is empty
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise HarnessMissing(str(error)) from error
    model_registry.register("zoo", target="workers.jobs.evaluation.harness_model:ZooLM")
    sys.argv = ["lm-eval", *arguments]
    cli_evaluate()
