"""A SQLite file that cannot be written to: because of its permissions, or a process that holds its lock.

SQLite's write lock never expires: a process frozen inside a transaction blocks every other writer.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from workers.checks.findings import Finding, fault

_WAIT_S = 2.0
#: In WAL mode writers lock this byte of the -shm file; https://www.sqlite.org/walformat.html#wal_locks
_WRITE_LOCK_BYTE = 120
_PROC = Path("/proc")
_FROZEN = "T"


def stuck(path: Path) -> Finding | None:
    """The reason why the file cannot be written to; None if it can."""
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(path.parent, os.W_OK):
        return fault(
            "database",
            f"{path} or its folder may not be written to",
            fix=f"chown -R {os.geteuid()} {path.parent}",
        )
    try:
        with closing(_connected(path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        return _locked(path) if "locked" in str(error) else _damaged(path, error)
    except sqlite3.DatabaseError as error:
        return _damaged(path, error)
    return None


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw", uri=True, timeout=_WAIT_S, isolation_level=None
    )


def _locked(path: Path) -> Finding:
    holder = lock_holder(path)
    if holder is None:
        return fault(
            "database",
            f"some process holds the write lock of {path}",
            fix=f"find it and end it: fuser -v {path}",
            unreachable=True,
        )
    state = _state(holder)
    frozen = state == _FROZEN
    return fault(
        "database",
        f"process {holder} ({_command(holder)}, {'stopped' if frozen else f'state {state}'})"
        f" holds the write lock of {path}",
        fix=f"kill -CONT {holder}" if frozen else f"let it finish, or: kill {holder}",
        unreachable=True,
    )


def lock_holder(path: Path) -> int | None:
    """The process that holds the write lock of a database in WAL mode, as the kernel lists it."""
    try:
        inode = path.with_name(path.name + "-shm").stat().st_ino
        lines = (_PROC / "locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        # 1: POSIX ADVISORY WRITE 4711 08:01:1234 120 120; a line of a waiter has one field more
        if len(fields) == 8 and fields[3] == "WRITE" and fields[5].rpartition(":")[2] == str(inode):
            first, last = fields[6], fields[7]
            if int(first) <= _WRITE_LOCK_BYTE and (last == "EOF" or int(last) >= _WRITE_LOCK_BYTE):
                return int(fields[4])
    return None


def _state(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def _command(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return "ended"


def _damaged(path: Path, error: sqlite3.Error) -> Finding:
    return fault(
        "database",
        f"{path} cannot be used: {error}",
        fix=f"move it away and restore a backup: mv {path} {path}.damaged",
    )
