"""What a process gives up before it runs code that somebody else has written.

Only Python's own library is needed here, so that a child that imports nothing else of the
platform can confine itself:

- SIGKILL when its parent dies;
- a seccomp filter: no socket, no other program, no other process (threads are allowed),
  no signal to anybody, no change of its own limits, of files' modes or of who runs where;
- Landlock: files are read in Python's own folders, the system's libraries and the folders that
  are named, and written in those that are named for it, and nowhere else.

What the kernel cannot do is told to the caller, which decides whether that is enough.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
from pathlib import Path
from typing import Any

_DIE_WITH_PARENT, _NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 1, 38, 22, 2
_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
_CLONE_THREAD = 0x00010000
_LANDLOCK_RULES = 444
_MAKING = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 14
"""Landlock's rights to write, to remove and make folders and files, and to truncate."""
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Numbers of system calls: of x86_64, then of aarch64 (None: it has no such call).
_CLONE = {"x86_64": 56, "aarch64": 220}
_FCNTL = {"x86_64": 72, "aarch64": 25}
_SIGNALLING = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: a pipe kills whom it belongs to
_CLONE3 = 435  # its flags lie in memory, where no filter can look: libc falls back to clone
_DENIED = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200),
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "prctl": (157, 167), "prlimit64": (302, 261), "setrlimit": (160, 164),
    "setsid": (112, 157), "setpgid": (109, 154), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_by_handle_at": (304, 265), "io_uring_setup": (425, 425), "bpf": (321, 280),
    "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "userfaultfd": (323, 282), "init_module": (175, 105),
    "finit_module": (313, 273), "reboot": (169, 142), "truncate": (76, 45),
    "chmod": (90, None), "fchmodat": (268, 53), "chown": (92, None), "fchownat": (260, 54),
    "fchmod": (91, 52), "fchmodat2": (452, 452), "fchown": (93, 55), "lchown": (94, None),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "setxattrat": (463, 463), "removexattrat": (466, 466), "file_setattr": (469, 469),
    "setpriority": (141, 140), "sched_setaffinity": (203, 122), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "ioprio_set": (251, 30),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "process_madvise": (440, 440),
    "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semctl": (66, 191),
    "semop": (65, 193), "msgctl": (71, 187), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "shmget": (29, 194),
    "msgget": (68, 186), "mq_open": (240, 180),
    # Files in memory: RLIMIT_AS counts of them what is mapped, and none of what is written.
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
}  # fmt: skip


def ends_with_parent(libc: Any, parent: int) -> bool:
    """Have the kernel end this process with the thread that started it; False if that is over."""
    if hasattr(libc, "prctl"):  # Linux; elsewhere a child ends when its pipe does
        libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def can_confine() -> bool:
    """True if this machine's kernel can do what ``confined`` asks of it."""
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        return False
    return bool(ctypes.CDLL(None).syscall(_LANDLOCK_RULES, None, 0, 1) >= 1)


def confined(libc: Any, folder: Path, *, writable: Path | None = None) -> bytes:
    """Give up what strange code does not need; returns what could not be given up, as words.

    Args:
        libc: the C library, by ctypes.
        folder: may be read.
        writable: files may be made, written and removed below it too.
    """
    lacking = []
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return b"landlock seccomp"
    if not _landlocked(libc, folder, writable):
        lacking.append("landlock")
    if not _filtered(libc):
        lacking.append("seccomp")
    return " ".join(lacking).encode()


def _landlocked(libc: Any, folder: Path, writable: Path | None) -> bool:
    """Allow reading below Python, the system's libraries and the folder, and no more."""
    version = libc.syscall(_LANDLOCK_RULES, None, 0, 1)
    if version < 1:
        return False
    execute, read_file, read_folder = 1, 4, 8
    # Everything that the first version knows, then what later ones added (refer, truncate).
    handled = (1 << 13) - 1
    handled |= (1 << 13) * (version >= 2) | (1 << 14) * (version >= 3)
    rules = libc.syscall(444, ctypes.byref(ctypes.c_uint64(handled)), 8, 0)
    if rules < 0:
        return False
    allowed = {sys.prefix, sys.base_prefix, str(Path(os.__file__).parent), str(folder),
               "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo",
               "/proc/self", "/proc/meminfo", "/proc/cpuinfo", "/sys/devices/system/cpu",
               "/dev/null", "/dev/urandom"}  # fmt: skip
    allowed.update(one for one in sys.path if one)
    if writable is not None:
        allowed.add(str(writable))
    for path in allowed:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        access = execute | read_file | (read_folder if Path(path).is_dir() else 0)
        if writable is not None and path == str(writable):
            access |= handled & _MAKING
        rule = struct.pack("=Qi", access, opened)
        libc.syscall(445, rules, 1, rule, 0)
        os.close(opened)
    done = libc.syscall(446, rules, 0) == 0
    os.close(rules)
    return bool(done)


def _filtered(libc: Any) -> bool:
    """Install the seccomp filter; False where the machine is of another kind."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return False
    column = list(_ARCHITECTURES).index(machine)
    denied = sorted({n for pair in _DENIED.values() if (n := pair[column]) is not None})
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    code = [
        (load, 0, 0, 4),  # the architecture
        (equal, 1, 0, _ARCHITECTURES[machine]),
        (give, 0, 0, _KILL),
        (load, 0, 0, 0),  # the number of the call
        (at_least, 0, 1, 0x40000000),  # the other calls of x86_64 (x32)
        (give, 0, 0, _EPERM),
        (equal, 0, 1, _CLONE3),
        (give, 0, 0, _ENOSYS),
        (equal, 0, 4, _CLONE[machine]),
        (load, 0, 0, 16),  # its flags
        (any_bit, 0, 1, _CLONE_THREAD),
        (give, 0, 0, _ALLOW),
        (give, 0, 0, _EPERM),
        (equal, 0, 6, _FCNTL[machine]),
        (load, 0, 0, 24),  # what it is to do
        *((equal, 3 - place, 0, one) for place, one in enumerate(_SIGNALLING)),
        (give, 0, 0, _ALLOW),
        (give, 0, 0, _EPERM),
    ]
    for number in denied:
        code += [(equal, 0, 1, number), (give, 0, 0, _EPERM)]
    code.append((give, 0, 0, _ALLOW))
    program = ctypes.create_string_buffer(
        b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    )
    told = struct.pack("@HP", len(code), ctypes.addressof(program))
    return bool(libc.prctl(_SECCOMP, _FILTER, told, 0, 0) == 0)
