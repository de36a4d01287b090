"""The engine's parity tests, on the device."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

from benchmarks.on_gpu.parts import Setting
from benchmarks.on_gpu.rows import Row

_ROOT = Path(__file__).parents[2]


def run(setting: Setting, say: Callable[[Row], None]) -> None:
    """A row for each test that failed, and one for all of them."""
    report = setting.folder / "parity.xml"
    command = [sys.executable, "-m", "pytest", "tests/xlora_engine/on_device", f"--device={setting.device}"]
    command += [f"--junitxml={report}", "--tb=short", "-W", "ignore"]
    subprocess.run(command, cwd=_ROOT, check=False)
    cases = list(ET.parse(report).getroot().iter("testcase"))  # noqa: S314 - written by our own tests
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    for case in failed:
        found = case.find("failure") if case.find("failure") is not None else case.find("error")
        message = "" if found is None else str(found.get("message")).partition("\n")[0].replace("|", "/")
        say(Row(part="", what=str(case.get("name")), value=0, at_least=1, note=message[:160]))
    passed = float(len(cases) - len(failed))
    say(Row(part="", what=f"tests passed, of {len(cases)}", value=passed, at_least=max(len(cases), 1)))
