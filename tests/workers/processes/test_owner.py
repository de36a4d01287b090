"""An owner is called dead only when that is certain."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workers.processes.owner import is_dead, owner_name

ROOT = Path(__file__).resolve().parents[3]


def test_this_process_is_alive() -> None:
    assert not is_dead(owner_name())


@pytest.mark.processes
def test_a_process_that_ended_is_dead_even_as_a_zombie() -> None:
    code = "from workers.processes.owner import owner_name; import sys; sys.stdout.write(owner_name())"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as stream:
        owner = stream.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # until it is a zombie, and it stays one
    assert is_dead(owner)
    process.wait()
    assert is_dead(owner)


def test_a_number_given_to_another_process_does_not_bring_the_old_one_back() -> None:
    assert is_dead(owner_name().rpartition("/")[0] + "/1")


def test_an_owner_of_before_the_reboot_is_dead() -> None:
    host, _, pid, started = owner_name().rsplit("/", 3)
    assert is_dead(f"{host}/another-boot/{pid}/{started}")


@pytest.mark.parametrize("owner", [None, "", "somebody", "elsewhere/boot/1/2", "a/b/c/d"])
def test_nothing_is_said_of_owners_elsewhere(owner: str | None) -> None:
    assert not is_dead(owner)
