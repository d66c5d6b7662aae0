"""Forty malicious pickles, made by us: each tries to make a file that says that it ran.

Most run at once if they are simply loaded (``runs`` is true); the others need a library that
may not be there, or a hole that Python has closed. None of them may do anything here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

STOP, MARK, REDUCE, TUPLE = b".", b"(", b"R", b"t"


@dataclass(frozen=True)
class Malice:
    """One malicious pickle."""

    name: str
    data: bytes
    runs: bool = True
    """True if ``pickle.loads`` of it makes the file."""


def text(value: str) -> bytes:
    """A string, as protocol 1 and later write it."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def named(module: str, name: str) -> bytes:
    """``module.name`` by GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def stacked(module: str, name: str) -> bytes:
    """``module.name`` by STACK_GLOBAL of protocol 4; the name may have dots."""
    return text(module) + text(name) + b"\x93"


def called(function: bytes, *arguments: bytes) -> bytes:
    """A call by REDUCE."""
    return function + MARK + b"".join(arguments) + TUPLE + REDUCE


def whole(body: bytes, protocol: int = 4) -> bytes:
    """A pickle of a protocol from its operations."""
    return b"\x80" + bytes([protocol]) + body + STOP


def malicious(folder: Path) -> list[Malice]:
    """The pickles; each tries to make ``folder/<its name>``."""
    made: list[Malice] = []

    def add(name: str, body: bytes, *, protocol: int = 4, runs: bool = True) -> None:
        made.append(Malice(name, whole(body, protocol), runs))

    def touch(name: str) -> str:
        return f"touch {folder / name}"

    def opened(name: str) -> str:
        return f"open({str(folder / name)!r}, 'w').close()"

    def of_shell(name: str, module: str, function: str, *, runs: bool = True) -> None:
        add(name, called(named(module, function), text(touch(name))), runs=runs)

    def of_code(name: str, module: str, function: str, *, runs: bool = True) -> None:
        add(name, called(named(module, function), text(opened(name))), runs=runs)

    of_shell("os-system", "os", "system")
    of_shell("posix-system", "posix", "system")
    of_shell("nt-system", "nt", "system", runs=False)
    of_shell("os-popen", "os", "popen")
    of_shell("subprocess-getoutput", "subprocess", "getoutput")
    of_shell("subprocess-getstatusoutput", "subprocess", "getstatusoutput")
    for function in ("call", "check_call", "check_output", "run", "Popen"):
        name = f"subprocess-{function.lower()}"
        words = b"(" + text("touch") + text(str(folder / name)) + b"l"
        add(name, called(named("subprocess", function), words))
    of_code("exec", "builtins", "exec")
    of_code("eval", "builtins", "eval")
    add("eval-of-python-2", called(named("__builtin__", "eval"), text(opened("eval-of-python-2"))),
        protocol=2)  # fmt: skip
    add("timeit", called(named("timeit", "timeit"), text("pass"), text(opened("timeit"))))
    of_code("cprofile", "cProfile", "run")
    of_code("profile", "profile", "run")
    of_code("bdb", "bdb", "Bdb.run", runs=False)
    of_code("numpy-runstring", "numpy.testing._private.utils", "runstring", runs=False)
    of_code("code-interpreter", "code", "compile_command", runs=False)
    for module in ("builtins", "io", "_io", "codecs"):
        name = f"open-of-{module.strip('_')}{'-c' if module == '_io' else ''}"
        add(name, called(named(module, "open"), text(str(folder / name)), text("w")))
    add("os-open", called(named("os", "mkdir"), text(str(folder / "os-open"))))
    add("shutil-copy", called(named("shutil", "copy"), text(__file__),
                              text(str(folder / "shutil-copy"))))  # fmt: skip
    add("path-of-dots", called(stacked("pathlib", "Path.touch"),
                               called(stacked("pathlib", "Path"),
                                      text(str(folder / "path-of-dots")))))  # fmt: skip
    add("dots-through-sklearn",
        called(stacked("sklearn.pipeline", "os.system"), text(touch("dots-through-sklearn"))),
        runs=False)  # fmt: skip
    add("dots-through-numpy",
        called(stacked("numpy", "f2py.os.system"), text(touch("dots-through-numpy"))))  # fmt: skip
    add("getattr", called(called(named("builtins", "getattr"),
                                 called(named("importlib", "import_module"), text("os")),
                                 text("system")), text(touch("getattr"))))  # fmt: skip
    add("dunder-import", called(called(named("operator", "attrgetter"), text("system")),
                                called(named("builtins", "__import__"), text("os")))
        + MARK + text(touch("dunder-import")) + TUPLE + REDUCE)  # fmt: skip
    add("methodcaller", called(called(named("operator", "methodcaller"), text("system"),
                                      text(touch("methodcaller"))),
                               called(named("importlib", "import_module"),
                                      text("os"))))  # fmt: skip
    add("partial", called(called(named("functools", "partial"), named("os", "system"),
                                 text(touch("partial")))))  # fmt: skip
    add("map-in-list", called(named("builtins", "list"),
                              called(named("builtins", "map"), named("os", "system"),
                                     b"(" + text(touch("map-in-list")) + b"l")))  # fmt: skip
    inner = whole(called(named("os", "system"), text(touch("nested"))))
    add("nested", called(named("pickle", "loads"), b"B" + struct.pack("<I", len(inner)) + inner))
    add("instance-opcode", b"(" + text(touch("instance-opcode")) + b"ios\nsystem\n", protocol=1)
    add("object-opcode", b"(" + named("os", "system") + text(touch("object-opcode")) + b"o",
        protocol=1)  # fmt: skip
    made.append(Malice("protocol-0", f"cos\nsystem\n(S'{touch('protocol-0')}'\ntR.".encode()))
    made.append(Malice("no-protocol", called(named("os", "system"), text(touch("no-protocol")))
                       + STOP))  # fmt: skip
    add("after-an-allowed-one",
        called(named("collections", "OrderedDict")) + b"0"
        + called(named("os", "system"), text(touch("after-an-allowed-one"))))  # fmt: skip
    add("in-the-state-of-an-estimator",
        named("sklearn.linear_model._logistic", "LogisticRegression") + b")\x81}" + text("coef_")
        + called(named("os", "system"), text(touch("in-the-state-of-an-estimator")))
        + b"sb")  # fmt: skip
    add("function-transformer",
        called(named("sklearn.preprocessing._function_transformer", "FunctionTransformer"),
               named("os", "system")), runs=False)  # fmt: skip
    add("persistent", text("os.system") + b"Q", runs=False)
    add("extension", b"\x82\x01", runs=False)
    add("codec", called(named("_codecs", "encode"), text("x"), text("../../os")), runs=False)
    return made
