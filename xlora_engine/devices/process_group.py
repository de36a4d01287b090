"""The processes that train one adapter together: how they meet, and how they agree.

They meet over a file and speak over the loopback interface (`workers.attempts.process_group` says so in their
environment), so that nothing outside the machine can join. Alone, everything here does nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """One process's view of the group: which it is, counted from 0, and of how many."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that decides, and that writes what is written once."""
        return self.rank == 0

    def from_first(self, value: int) -> int:
        """The value that the first process has; every process must ask."""
        if self.size == 1:
            return value
        told = torch.tensor([value])
        distributed.broadcast(told, src=0)
        return int(told)

    def wait_for_all(self) -> None:
        """Return once every process has come here."""
        if self.size > 1:
            # Not barrier(): with GPUs that one would go through the GPU.
            distributed.all_reduce(torch.zeros(1))


ALONE = ProcessGroup()


@contextmanager
def joined(*, rank: int, size: int, meeting_place: Path) -> Iterator[ProcessGroup]:
    """The group of `size` processes that meet at one path, where no file is yet; each has its GPU, if any.

    A block that raises leaves the group as it is: others may wait in it, and the process ends anyway.
    """
    if size == 1:
        yield ALONE
        return
    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        # Gradients go from GPU to GPU, decisions through the processors.
        "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
        store=distributed.FileStore(str(meeting_place), size),  # type: ignore[attr-defined]  # not in __all__
        rank=rank,
        world_size=size,
    )
    group = ProcessGroup(rank=rank, size=size)
    yield group
    group.wait_for_all()
    distributed.destroy_process_group()
