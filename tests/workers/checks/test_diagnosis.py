"""`zoo doctor` as a whole: checks that hang or raise, the exit code, the output."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import zoo
from registry.settings import Settings
from workers.checks.diagnosis import CHECKS, diagnose, exit_code
from workers.checks.findings import FAULT, OK, Finding, fault, ok, warning


def test_a_check_that_hangs_times_out_and_hides_no_other(settings: Settings) -> None:
    forever = threading.Event()
    found = diagnose(
        settings,
        checks={
            "slow": lambda _: [ok("slow", str(forever.wait()))],
            "broken": lambda _: [ok("broken", str(1 / 0))],
            "quick": lambda _: [ok("quick", "well")],
        },
        deadline_s=0.3,
    )
    forever.set()
    assert [(finding.check, finding.state, finding.unreachable) for finding in found] == [
        ("slow", FAULT, True),
        ("broken", FAULT, False),
        ("quick", OK, False),
    ]


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([ok("a", "")], 0),
        ([warning("a", "", fix="x")], 0),
        ([fault("a", "", fix="x")], 1),
        ([fault("a", "", fix="x"), fault("b", "", fix="x", unreachable=True)], 6),
    ],
)
def test_the_exit_code_is_that_of_the_kind_of_fault(findings: list[Finding], code: int) -> None:
    assert exit_code(findings) == code


def test_the_command_names_every_check_and_says_how_to_fix_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOO_HOME", str(settings.home))
    monkeypatch.setenv("ZOO_BROKER_URL", "redis://127.0.0.1:9/0")
    monkeypatch.setenv("PATH", "/nowhere")
    said = {}
    for option in ("--json", "-q", None):
        with pytest.raises(SystemExit) as ended:
            zoo.main(["doctor", option] if option else ["doctor"])
        assert ended.value.code == 6
        said[option] = capsys.readouterr().out
    found = json.loads(said["--json"])
    assert list(dict.fromkeys(row["check"] for row in found)) == list(CHECKS)
    assert all(row["fix"] for row in found if row["state"] != OK)
    assert said["-q"] == "broker\n"
    assert "to fix" in str(said[None])
    assert "docker compose up -d broker" in str(said[None])


@pytest.mark.processes
def test_nothing_heavy_is_imported(settings: Settings) -> None:
    code = (
        "import os, sys, zoo\n"
        "try: zoo.main(['doctor', '-q'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'mlflow', 'celery'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environ = {**os.environ, "ZOO_HOME": str(settings.home), "PYTHONPATH": str(Path(zoo.__file__).parent)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environ)
