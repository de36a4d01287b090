"""A process that was isolated opens no socket, starts no program, and has no memory or time without end."""

import json
import subprocess
import sys
from typing import Any

import pytest

from workers.processes.child_environment import child_environment

pytestmark = pytest.mark.processes

#: Tries each of these after the isolation that its argument names, and prints what came of it.
_PROGRAM = """
import json, os, socket, sys, threading
from workers.conversion.isolation import leave_network, limit_resources, refuse_system_calls

def outcome(try_it):
    try:
        return str(try_it())
    except BaseException as error:
        return type(error).__name__

def in_a_thread(try_it):
    found = []
    thread = threading.Thread(target=lambda: (go.wait(), found.append(outcome(try_it))))
    thread.start()
    return thread, found

def connect():
    with socket.socket() as one:
        one.settimeout(2)
        one.connect(("127.0.0.1", int(sys.argv[2])))
    return "connected"

go = threading.Event()
earlier, found = in_a_thread(connect)
asked = sys.argv[1]
done = {"namespace": leave_network, "filter": refuse_system_calls,
        "limits": lambda: limit_resources(further_bytes=2**28, written_bytes=2**20, cpu_s=2),
        "none": lambda: None}
said = done[asked]()
go.set(); earlier.join()

def write():
    with open(os.path.join(os.environ["TMPDIR"], "large"), "wb") as file:
        file.write(b"x" * 2**21)

print(json.dumps({
    "said": said, "connect": outcome(connect), "earlier thread": found[0],
    "program": outcome(lambda: os.posix_spawn("/bin/true", ["true"], {}) and "started"),
    "replace": outcome(lambda: os.execv("/bin/false-that-is-not-there", ["x"])),
    "memory": outcome(lambda: len(bytearray(2**30))), "file": outcome(write)}))
"""


@pytest.fixture
def tried(tmp_path: Any) -> Any:
    """What a process can do after the isolation of a name."""
    import os
    import socket

    def run(name: str) -> dict[str, Any]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = str(server.getsockname()[1])
            ended = subprocess.run(
                [sys.executable, "-P", "-c", _PROGRAM, name, port],
                env=child_environment(os.environ) | {"TMPDIR": str(tmp_path)},
                capture_output=True,
                check=True,
            )
        found: dict[str, Any] = json.loads(ended.stdout)
        return found

    return run


def test_without_isolation_all_is_possible(tried: Any) -> None:
    found = tried("none")
    assert (found["connect"], found["earlier thread"], found["program"]) == (
        "connected",
        "connected",
        "started",
    )
    assert (found["replace"], found["memory"], found["file"]) == ("FileNotFoundError", str(2**30), "None")


def test_a_namespace_of_its_own_has_no_way_out(tried: Any) -> None:
    found = tried("namespace")
    if found["said"]:
        assert found["connect"] == "OSError"
    else:  # forbidden here, so the filter alone counts
        assert found["connect"] == "connected"


def test_the_filter_refuses_sockets_and_programs_in_every_thread(tried: Any) -> None:
    found = tried("filter")
    assert found["said"] is True
    assert found["connect"] == "PermissionError"
    assert found["earlier thread"] == "PermissionError"
    assert found["program"] == "PermissionError"
    assert found["replace"] == "PermissionError"


def test_memory_and_files_have_an_end(tried: Any) -> None:
    found = tried("limits")
    assert (found["memory"], found["file"]) == ("MemoryError", "OSError")
