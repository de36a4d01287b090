"""A job's log: its job process appends to it, its supervisor limits its size."""

import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

LIMIT_BYTES = 8 * 1024 * 1024
_NAME = "log.txt"
_OLDER = "log.older.txt"


class JobLog:
    """The open log of a running job; its descriptor becomes the job process's standard error."""

    def __init__(self, folder: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self.path = folder / _NAME
        self._limit_bytes = limit_bytes
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self.descriptor = os.open(self.path, flags, 0o600)

    def keep_small(self) -> None:
        """If the log is over its limit, move its content to the older log and truncate it.

        The writer appends, so it continues at the new end; lines written between the two steps are lost.
        """
        if os.fstat(self.descriptor).st_size > self._limit_bytes:
            shutil.copyfile(self.path, self.path.with_name(_OLDER))
            os.ftruncate(self.descriptor, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)
