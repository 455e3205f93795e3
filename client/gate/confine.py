"""Confining the hub's app: it reads and writes named folders, and reaches no network, no other process and no device.

Two parts of Linux do it, which need no privilege and work in containers and under service managers: Landlock (kernel
5.13 or newer) for files, and seccomp for system calls. Both hold for all that the process starts, and cannot be undone.
Bubblewrap and network namespaces would do the same, but need user namespaces, which containers and some distributions
refuse (docs/decisions.md).

This file is run as a program, imports nothing but the standard library, and becomes the app:

    python -P confine.py '{"read": [...], "write": [...], "app": "...", "reply": 3, "confined": true}'
"""

import ctypes
import errno
import json
import os
import platform
import struct
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 1, 38, 22, 2

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
"""Numbers of system calls, the same on all processors (linux/include/uapi/asm-generic/unistd.h)."""

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
ALL_FILES = ((1 << 13) - 1, 1 << 13, 1 << 14)
"""Rights to files by version of Landlock: 1; 2 adds moving between folders; 3 adds truncating."""

READING = EXECUTE | READ_FILE | READ_DIR
TCP = 0b11  # version 4: binding and connecting
ELSEWHERE = 0b11  # version 6: abstract sockets of others, and signals to others
IOCTL_DEV = 1 << 15  # version 5; not handled: a GPU needs it, and devices must be named to be opened

MOST_FILE = 8_000_000_000
"""Bytes of the largest file that the app may write."""

DENIED: dict[str, tuple[int, int]] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "mount": (165, 40),
    "umount2": (166, 39),
    "setns": (308, 268),
    "unshare": (272, 97),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
}
"""System calls that the app cannot make, with their numbers on x86_64 and aarch64. A pair of connected sockets within
the app is none of them: Python's pools of processes use one."""

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Number of the architecture as seccomp has it, and which column of `DENIED` is its."""

X32 = 0x40000000
"""From here on are the calls of x86_64's second interface, under other numbers."""

BEGIN = "import sys; sys.path.insert(0, sys.argv[1]); from client.inside import main; main(int(sys.argv[2]))"


def missing() -> str:
    """Say what this system lacks to confine an app; "" where it lacks nothing."""
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES:
        return f"apps are confined on Linux on {' or '.join(ARCHITECTURES)}, not on {sys.platform} {platform.machine()}"
    if landlock_version() < 1:
        return "this kernel has no Landlock (Linux 5.13 or newer, not switched off by lsm=)"
    return ""


def landlock_version() -> int:
    """Give the version of Landlock that the kernel has; 0 or less for none."""
    return int(_libc().syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1)))


def confine(read: Sequence[str], write: Sequence[str]) -> None:
    """Confine this process and all that it starts, for good.

    Args:
        read: folders and files that may be read and executed.
        write: folders and files that may be read and written.

    Raises:
        OSError: the system cannot do it; nothing may run then.
    """
    libc = _libc()
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    _restrict_files(libc, read, write)
    _restrict_calls(libc)


def _restrict_files(libc: ctypes.CDLL, read: Sequence[str], write: Sequence[str]) -> None:
    version = landlock_version()
    if version < 1:
        raise OSError(errno.ENOSYS, "no Landlock")
    rights = sum(ALL_FILES[: min(version, len(ALL_FILES))])
    attributes = struct.pack("QQQ", rights, TCP if version >= 4 else 0, ELSEWHERE if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = libc.syscall(LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    _checked(rules, "a Landlock ruleset")
    for places, allowed in ((read, READING), (write, rights & ~EXECUTE)):
        for place in places:
            _allow(libc, rules, place, allowed)
    _checked(libc.syscall(LANDLOCK_RESTRICT_SELF, rules, ctypes.c_uint(0)), "Landlock")
    os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, place: str, allowed: int) -> None:
    try:
        file = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there cannot be read
    try:
        for_files = allowed if os.path.isdir(place) else allowed & (EXECUTE | WRITE_FILE | READ_FILE | ALL_FILES[2])
        rule = struct.pack("=Qi", for_files, file)
        _checked(libc.syscall(LANDLOCK_ADD_RULE, rules, ctypes.c_int(1), rule, ctypes.c_uint(0)), f"a rule for {place}")
    finally:
        os.close(file)


def _restrict_calls(libc: ctypes.CDLL) -> None:
    program = _filter(platform.machine())
    code = ctypes.create_string_buffer(program)
    whole = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    _checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, whole, 0, 0), "seccomp")


def _filter(machine: str) -> bytes:
    """Give the program that the kernel runs at each system call: those of `DENIED` fail with EPERM."""
    number, column = ARCHITECTURES[machine]
    calls = sorted(numbers[column] for numbers in DENIED.values())
    load, equal, above, give = 0x20, 0x15, 0x35, 0x06
    refuse, kill, allow = 0x00050000 | errno.EPERM, 0x80000000, 0x7FFF0000
    program = [(load, 0, 0, 4), (equal, 1, 0, number), (give, 0, 0, kill), (load, 0, 0, 0)]
    if machine == "x86_64":
        program += [(above, 0, 1, X32), (give, 0, 0, refuse)]
    for call in calls:
        program += [(equal, 0, 1, call), (give, 0, 0, refuse)]
    return b"".join(struct.pack("HBBI", *line) for line in [*program, (give, 0, 0, allow)])


def _checked(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def main(words: str) -> None:
    """Confine this process and become the app."""
    import resource

    about = json.loads(words)
    if sys.platform == "linux":
        _libc().prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_FILE, MOST_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if about["confined"]:
        confine(about["read"], about["write"])
    os.execv(sys.executable, [sys.executable, "-P", "-s", "-c", BEGIN, about["app"], str(about["reply"])])


if __name__ == "__main__":
    main(sys.argv[1])
