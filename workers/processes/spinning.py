"""How long OpenMP's threads spin for each other: long on an idle machine, hardly at all on a crowded one.

A thread that spins while it waits answers at once, so on an idle machine a training step of a small model
takes two thirds of the time. Where other programs have the processors, the thread waited for is not running,
and the one that waits burns the processor it needs: such a step was seen to take forty times as long.

GNU's OpenMP reads its environment once, but spins shortly while its threads outnumber the processors
(`gomp_throttled_spin_count_var` in its config/linux/wait.h). So a second team, asleep, shortens the spinning
of all, and its end lengthens it again. Who computes what stays as it is, and so does every bit of the
results; fewer threads would change them. With other implementations of OpenMP this has no effect.
"""

import os
import sys
import threading
import time
from pathlib import Path

_OWN_THREADS = Path("/proc/self/task")
#: Seconds between two looks.
_EVERY_S = 0.5
#: Waits for a processor, of all our threads, in seconds per second: from the first on the machine is crowded,
#: below the second it no longer is. Alone 0.1 were measured, beside a busy process 0.5 and more.
_CROWDED, _FREE = 0.3, 0.2
#: Elements that torch gives a thread at least, when it divides an operation.
_ELEMENTS = 2**15


def limit_spinning() -> None:
    """Follow the machine's load from now on, in a thread.

    Nothing happens without torch, with one thread, and where the system does not say how long threads wait.
    """
    torch = sys.modules.get("torch")
    threads = 1 if torch is None else torch.get_num_threads()
    if threads > 1 and waited_s(_OWN_THREADS) is not None:
        threading.Thread(target=_follow, args=(threads,), name="spin limit", daemon=True).start()


def waited_s(threads: Path) -> float | None:
    """Seconds for which the threads in a folder of /proc waited for a processor; None if not known."""
    waited = None
    for path in threads.glob("*/schedstat"):
        try:
            nanoseconds = int(path.read_text().split()[1])
        except OSError:
            continue  # the thread has ended
        waited = (waited or 0.0) + nanoseconds / 1e9
    return waited


def is_crowded(waited: float, *, was: bool) -> bool:
    """Whether threads wait for processors so long, in seconds per second, that spinning does harm."""
    return waited >= (_FREE if was else _CROWDED)


def _follow(threads: int) -> None:
    # Together they are more than the processors; the first of a team counts only once.
    size = max(2, len(os.sched_getaffinity(0)) - threads + 2)
    team: SleepingTeam | None = None
    waited, at = waited_s(_OWN_THREADS) or 0.0, time.monotonic()
    while True:
        time.sleep(_EVERY_S)
        now, now_at = waited_s(_OWN_THREADS) or 0.0, time.monotonic()
        crowded = is_crowded((now - waited) / (now_at - at), was=team is not None)
        waited, at = now, now_at
        if crowded and team is None:
            team = SleepingTeam(size)
        elif team is not None and not crowded:
            team.end()
            team = None


class SleepingTeam:
    """Threads of OpenMP that do nothing; the first of them is one of Python's."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sleep, name="sleeping team", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Let them end."""
        self._ended.set()
        self._thread.join()

    def _sleep(self) -> None:
        import torch

        usual = torch.get_num_threads()
        torch.set_num_threads(self._size)  # of this thread's team, and of threads yet to come
        torch.zeros(self._size * _ELEMENTS).add_(1)
        torch.set_num_threads(usual)
        self._ended.wait()
