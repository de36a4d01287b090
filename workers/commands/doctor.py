"""`zoo doctor`: what is wrong with the services that the zoo depends on, and how to fix it."""

import os
from dataclasses import asdict

import click

from registry.commands.output import Output, output_options
from registry.settings import Settings
from workers.checks import stored_files
from workers.checks.findings import FAULT, Finding


@click.command()
@click.option("--verify", is_flag=True, help="Also read every stored file to its end, however long it takes.")
@output_options
def command(verify: bool, output: Output) -> None:
    """Check database, broker, artifact store, MLflow, disk and GPU, and say how to fix each fault.

    Exit code 0 without a fault, 6 if a service cannot be reached, 1 for any other fault. With -q, only what
    has a fault is named.

    Example: zoo doctor --json
    """
    from workers.checks.diagnosis import diagnose, exit_code

    settings = Settings.from_env(os.environ)
    findings = diagnose(settings)
    if verify:
        findings += _verified(settings, output)
    if output.is_quiet:
        faulty = dict.fromkeys(finding.check for finding in findings if finding.state == FAULT)
        output.emit([{"check": check} for check in faulty], key="check")
    else:
        rows = [asdict(finding) for finding in findings]
        output.emit(rows, key="check", columns=("check", "state", "finding"))
        output.section("to fix", [row for row in rows if row["fix"]], columns=("check", "fix"))
    click.get_current_context().exit(exit_code(findings))


def _verified(settings: Settings, output: Output) -> tuple[Finding, ...]:
    from workers.commands.running import progress_shown

    with progress_shown(output) as show:
        return tuple(
            stored_files.check(
                settings,
                on_file=lambda number, total: show({"phase": "stored files", "step": number, "total": total}),
            )
        )
