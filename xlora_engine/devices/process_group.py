"""The processes that train one adapter together: how they connect, and how they agree.

They find each other through a file and communicate over the loopback interface, as the environment says that
`workers.attempts.process_group` gives them, so that nothing outside the machine can join. Alone, everything
here does nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """One process's view of the group: its index, from 0, and the number of processes."""

    index: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that decides for all, and writes the results."""
        return self.index == 0

    def from_first(self, value: int) -> int:
        """The first process's value; every process must call it."""
        if self.size == 1:
            return value
        received = torch.tensor([value])
        distributed.broadcast(received, src=0)
        return int(received)

    def wait_for_all(self) -> None:
        """Return when every process has called it."""
        if self.size > 1:
            # Not barrier(): with GPUs that one would go through the GPU.
            distributed.all_reduce(torch.zeros(1))


ALONE = ProcessGroup()


@contextmanager
def joined(*, index: int, size: int, meeting_file: Path) -> Iterator[ProcessGroup]:
    """The group of `size` processes that use one meeting file, not yet there; each has its own GPU, if any.

    If the block raises, the group is not closed: others may wait in it, and the process ends anyway.
    """
    if size == 1:
        yield ALONE
        return
    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(index)
    distributed.init_process_group(
        # Gradients go from GPU to GPU, decisions through the processors.
        "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
        store=distributed.FileStore(str(meeting_file), size),  # type: ignore[attr-defined]  # not in __all__
        rank=index,
        world_size=size,
    )
    group = ProcessGroup(index=index, size=size)
    yield group
    group.wait_for_all()
    distributed.destroy_process_group()
