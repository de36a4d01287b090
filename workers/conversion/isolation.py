"""Taking from this process what reading a stranger's file does not need: network, programs, memory, time.

Linux only, without libraries: namespaces, seccomp's filters and resource limits. Nothing taken comes back.
"""

import contextlib
import ctypes
import platform
import resource
import socket
from dataclasses import dataclass
from pathlib import Path

NETWORK_NAMESPACE, SYSTEM_CALLS = "a network namespace of its own", "a filter of system calls"

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_NO_NEW_PRIVILEGES = 38
_SET_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # 1 is EPERM
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
#: Numbers from here on are x86-64's second interface, under which every call has another number.
_SECOND_INTERFACE = 0x40000000


@dataclass(frozen=True, kw_only=True)
class _Machine:
    """The numbers of system calls on a kind of processor; include/uapi/asm/unistd.h of Linux."""

    audit: int
    seccomp: int
    #: socket, connect, bind, sendto, execve, execveat, ptrace, io_uring_setup, process_vm_writev, kill
    refused: tuple[int, ...]


_MACHINES = {
    "x86_64": _Machine(audit=0xC000003E, seccomp=317, refused=(41, 42, 49, 44, 59, 322, 101, 425, 311, 62)),
    "aarch64": _Machine(
        audit=0xC00000B7, seccomp=277, refused=(198, 203, 200, 206, 221, 281, 117, 425, 271, 129)
    ),
}


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("true", ctypes.c_ubyte),
        ("false", ctypes.c_ubyte),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def leave_network() -> bool:
    """Move to a network namespace without any device; False where the kernel does not allow it.

    A process with threads can only be moved by root, so this comes before libraries that start some.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        return False
    return bool(libc.unshare(_NEW_NET) == 0 or libc.unshare(_NEW_USER | _NEW_NET) == 0)


def refuse_system_calls() -> bool:
    """Refuse all threads of this process sockets, programs and other processes; False if it cannot be."""
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    instructions = _filter_of(machine)
    program = _Program(
        length=len(instructions), instructions=(_Instruction * len(instructions))(*instructions)
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.syscall(machine.seccomp, _SET_FILTER, _ALL_THREADS, ctypes.byref(program)) == 0)


def limit_resources(*, further_bytes: int, written_bytes: int, cpu_s: int) -> None:
    """Bound the memory beyond what is used now, the size of any file written, and the time on a processor."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    used_bytes = pages * resource.getpagesize()
    for kind, limit in (
        (resource.RLIMIT_AS, used_bytes + further_bytes),
        (resource.RLIMIT_FSIZE, written_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 128),
    ):
        _, hard = resource.getrlimit(kind)
        bounded = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (bounded, bounded))


def _filter_of(machine: _Machine) -> list[_Instruction]:
    """Refuse the calls of the list; end a process of another architecture, whose numbers mean other calls."""
    calls = machine.refused
    refuse = [
        # A jump counts the instructions to pass over: from each comparison to the refusal at the end.
        _Instruction(_EQUAL, len(calls) - place, 0, number)
        for place, number in enumerate(calls)
    ]
    return [
        _Instruction(_LOAD, 0, 0, _ARCHITECTURE_AT),
        _Instruction(_EQUAL, 1, 0, machine.audit),
        _Instruction(_RETURN, 0, 0, _KILL),
        _Instruction(_LOAD, 0, 0, _NUMBER_AT),
        _Instruction(_AT_LEAST, len(calls) + 1, 0, _SECOND_INTERFACE),
        *refuse,
        _Instruction(_RETURN, 0, 0, _ALLOW),
        _Instruction(_RETURN, 0, 0, _REFUSE),
    ]


def has_network() -> bool:
    """Whether this process can open a socket, or has a device that leads out of the machine."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM):
            devices = [name for _, name in socket.if_nameindex() if name != "lo"]
    except OSError:
        return False
    return bool(devices)
