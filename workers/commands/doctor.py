"""`zoo doctor`: what is wrong with the services that the zoo depends on, and how to fix it."""

import os
from dataclasses import asdict

import click

from registry.commands.output import Output, output_options
from registry.settings import Settings
from workers.checks.findings import FAULT


@click.command()
@output_options
def command(output: Output) -> None:
    """Check database, broker, artifact store, MLflow, disk and GPU, and say how to fix each fault.

    Exit code 0 without a fault, 6 if a service cannot be reached, 1 for any other fault. With -q, only what
    has a fault is named.

    Example: zoo doctor --json
    """
    from workers.checks.diagnosis import diagnose, exit_code

    findings = diagnose(Settings.from_env(os.environ))
    if output.is_quiet:
        faulty = dict.fromkeys(finding.check for finding in findings if finding.state == FAULT)
        output.emit([{"check": check} for check in faulty], key="check")
    else:
        rows = [asdict(finding) for finding in findings]
        output.emit(rows, key="check", columns=("check", "state", "finding"))
        output.section("to fix", [row for row in rows if row["fix"]], columns=("check", "fix"))
    click.get_current_context().exit(exit_code(findings))
