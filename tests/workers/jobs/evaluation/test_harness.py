"""lm-evaluation-harness on subjects of the zoo, in a process of its own: its libraries slow others down."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LM_EVAL = Path(sys.prefix) / "lm_eval"
CHECKS = Path(__file__).with_name("check_harness.py")


@pytest.mark.processes
def test_scores_are_those_of_the_harness_itself(tmp_path: Path) -> None:
    assert LM_EVAL.is_dir(), f"{LM_EVAL} is missing; `make .venv/.apart` installs it"
    environment = os.environ | {"PYTHONPATH": str(LM_EVAL), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    checked = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "ignore", str(CHECKS)],
        env=environment,
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "6 passed" in checked.stdout
