"""Scripts that fork while another thread runs, each in a process of its own, checked by their event order."""

import subprocess
import sys

_BEGIN = """
import os, sys, threading, time
from pathlib import Path
from registry.database.database import Database
from registry.database.fork_gate import FORK_GATE, ForkGate
from tests.services import settings_for

order, inside = [], threading.Event()

def beside(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread

def fork(in_child=lambda: None):
    pid = os.fork()
    if pid == 0:
        os._exit(in_child() or 0)
    order.append("forked")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

_END = """
print(", ".join(order))
"""


def order_of(script: str, *arguments: str) -> str:
    """The events that the script recorded, in order."""
    done = subprocess.run(
        [sys.executable, "-c", _BEGIN + script + _END, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
