"""The program in which a custom Python model runs: alone, confined, told what by a pipe.

It is started by ``runtime_python`` as a script and imports nothing of the platform. It
limits itself before it reads the first byte of the model:

- memory by RLIMIT_AS, no core dump, no file that grows (RLIMIT_FSIZE 0);
- SIGKILL when its parent dies;
- a seccomp filter: no socket, no other program, no other process (threads are allowed),
  no signal to anybody, no change of its own limits, of files' modes or of who runs where;
- Landlock: files are read in Python's own folders, the system's libraries and the model's
  folder only, and written nowhere.

What the kernel cannot do is told to the parent, which decides whether that is enough.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import resource
import signal
import struct
import sys
import traceback
from pathlib import Path
from typing import Any

REQUEST = struct.Struct("<qq")
"""Rows and columns; then the rows, float32."""
ANSWER = struct.Struct("<qqq")
"""0, rows and columns, then float64; or 1, the length of a text, 0, then why it failed."""
_DIE_WITH_PARENT, _NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 1, 38, 22, 2
_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
_CLONE_THREAD = 0x00010000
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
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Confine this process, load the model in a folder, answer until the pipe ends."""
    folder, memory, inputs, outputs, parent = arguments
    requests, answers = int(inputs), int(outputs)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        return 1  # it died before we could ask to be told
    import numpy as np  # the model's library too: loaded before the filter forbids programs

    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    lacking = confined(libc, Path(folder))
    try:
        model = _loaded(Path(folder))
    except BaseException as error:  # noqa: BLE001 - a model may raise whatever it likes
        _fail(answers, error)
        return 1
    _write(answers, ANSWER.pack(2, len(lacking), 0) + lacking)
    while True:
        head = _read(requests, REQUEST.size)
        if head is None:
            return 0
        n_rows, n_columns = REQUEST.unpack(head)
        data = _read(requests, 4 * n_rows * n_columns)
        if data is None:
            return 0
        rows = np.frombuffer(data, dtype="<f4").reshape(n_rows, n_columns).copy()
        try:
            out = np.ascontiguousarray(model.predict(rows), dtype="<f8")
            if out.ndim == 1:
                out = out.reshape(-1, 1)
            if out.ndim != 2 or len(out) != n_rows:
                raise ValueError(f"predict gave the shape {out.shape} for {n_rows} rows")
        except BaseException as error:  # noqa: BLE001 - as above; SystemExit is one of them
            _fail(answers, error)
            continue
        _write(answers, ANSWER.pack(0, *out.shape) + out.tobytes())


def confined(libc: Any, folder: Path) -> bytes:
    """Give up what a model does not need; returns what could not be given up, as words."""
    lacking = []
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return b"landlock seccomp"
    if not _landlocked(libc, folder):
        lacking.append("landlock")
    if not _filtered(libc):
        lacking.append("seccomp")
    return " ".join(lacking).encode()


def _landlocked(libc: Any, folder: Path) -> bool:
    """Allow reading below Python, the system's libraries and the model, and no more."""
    version = libc.syscall(444, None, 0, 1)
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
    for path in allowed:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        access = execute | read_file | (read_folder if Path(path).is_dir() else 0)
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


def _loaded(folder: Path) -> Any:
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    if spec is None or spec.loader is None:
        raise ImportError("there is no model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["model"] = module
    spec.loader.exec_module(module)
    return module.Model(folder)


def _fail(answers: int, error: BaseException) -> None:
    last = traceback.extract_tb(error.__traceback__)
    where = f" (line {last[-1].lineno} of {Path(last[-1].filename).name})" if last else ""
    text = f"{type(error).__name__}: {error}"[:500].encode(errors="replace")
    text += where.encode(errors="replace")
    _write(answers, ANSWER.pack(1, len(text), 0) + text)


def _read(descriptor: int, n: int) -> bytes | None:
    parts = []
    while n:
        part = os.read(descriptor, min(n, 1 << 20))
        if not part:
            return None
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
