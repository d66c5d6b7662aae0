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


class _Making:
    """Gathers pickles that each make a file of their name in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[Malice] = []

    def add(self, name: str, body: bytes, *, protocol: int = 4, runs: bool = True) -> None:
        self.made.append(Malice(name, whole(body, protocol), runs))

    def touch(self, name: str) -> str:
        return f"touch {self.folder / name}"

    def opened(self, name: str) -> str:
        return f"open({str(self.folder / name)!r}, 'w').close()"

    def of_shell(self, name: str, module: str, function: str, *, runs: bool = True) -> None:
        self.add(name, called(named(module, function), text(self.touch(name))), runs=runs)

    def of_code(self, name: str, module: str, function: str, *, runs: bool = True) -> None:
        self.add(name, called(named(module, function), text(self.opened(name))), runs=runs)


def malicious(folder: Path) -> list[Malice]:
    """The pickles; each tries to make ``folder/<its name>``."""
    to = _Making(folder)
    _plain_calls(to)
    _ways_around(to)
    _other_operations(to)
    return to.made


def _plain_calls(to: _Making) -> None:
    to.of_shell("os-system", "os", "system")
    to.of_shell("posix-system", "posix", "system")
    to.of_shell("nt-system", "nt", "system", runs=False)
    to.of_shell("os-popen", "os", "popen")
    to.of_shell("subprocess-getoutput", "subprocess", "getoutput")
    to.of_shell("subprocess-getstatusoutput", "subprocess", "getstatusoutput")
    for function in ("call", "check_call", "check_output", "run", "Popen"):
        name = f"subprocess-{function.lower()}"
        words = b"(" + text("touch") + text(str(to.folder / name)) + b"l"
        to.add(name, called(named("subprocess", function), words))
    to.of_code("exec", "builtins", "exec")
    to.of_code("eval", "builtins", "eval")
    to.add(
        "eval-of-python-2",
        called(named("__builtin__", "eval"), text(to.opened("eval-of-python-2"))),
        protocol=2,
    )
    to.add("timeit", called(named("timeit", "timeit"), text("pass"), text(to.opened("timeit"))))
    to.of_code("cprofile", "cProfile", "run")
    to.of_code("profile", "profile", "run")
    to.of_code("bdb", "bdb", "Bdb.run", runs=False)
    to.of_code("numpy-runstring", "numpy.testing._private.utils", "runstring", runs=False)
    to.of_code("code-interpreter", "code", "compile_command", runs=False)
    for module in ("builtins", "io", "_io", "codecs"):
        name = f"open-of-{module.strip('_')}{'-c' if module == '_io' else ''}"
        to.add(name, called(named(module, "open"), text(str(to.folder / name)), text("w")))
    to.add("os-mkdir", called(named("os", "mkdir"), text(str(to.folder / "os-mkdir"))))
    to.add(
        "shutil-copy",
        called(named("shutil", "copy"), text(__file__), text(str(to.folder / "shutil-copy"))),
    )


def _ways_around(to: _Making) -> None:
    """Names with dots, and functions that give other functions."""
    to.add(
        "path-of-dots",
        called(
            stacked("pathlib", "Path.touch"),
            called(stacked("pathlib", "Path"), text(str(to.folder / "path-of-dots"))),
        ),
    )
    to.add(
        "dots-through-sklearn",
        called(stacked("sklearn.pipeline", "os.system"), text(to.touch("dots-through-sklearn"))),
        runs=False,
    )
    to.add(
        "dots-through-numpy",
        called(stacked("numpy", "f2py.os.system"), text(to.touch("dots-through-numpy"))),
    )
    to.add(
        "getattr",
        called(
            called(
                named("builtins", "getattr"),
                called(named("importlib", "import_module"), text("os")),
                text("system"),
            ),
            text(to.touch("getattr")),
        ),
    )
    to.add(
        "dunder-import",
        called(
            called(named("operator", "attrgetter"), text("system")),
            called(named("builtins", "__import__"), text("os")),
        )
        + MARK
        + text(to.touch("dunder-import"))
        + TUPLE
        + REDUCE,
    )
    _functions_of_functions(to)


def _functions_of_functions(to: _Making) -> None:
    to.add(
        "methodcaller",
        called(
            called(
                named("operator", "methodcaller"), text("system"), text(to.touch("methodcaller"))
            ),
            called(named("importlib", "import_module"), text("os")),
        ),
    )
    to.add(
        "partial",
        called(
            called(named("functools", "partial"), named("os", "system"), text(to.touch("partial")))
        ),
    )
    to.add(
        "map-in-list",
        called(
            named("builtins", "list"),
            called(
                named("builtins", "map"),
                named("os", "system"),
                b"(" + text(to.touch("map-in-list")) + b"l",
            ),
        ),
    )
    inner = whole(called(named("os", "system"), text(to.touch("nested"))))
    to.add("nested", called(named("pickle", "loads"), b"B" + struct.pack("<I", len(inner)) + inner))


def _other_operations(to: _Making) -> None:
    """Operations other than GLOBAL and REDUCE, and malice behind what is allowed."""
    to.add(
        "instance-opcode", b"(" + text(to.touch("instance-opcode")) + b"ios\nsystem\n", protocol=1
    )
    to.add(
        "object-opcode",
        b"(" + named("os", "system") + text(to.touch("object-opcode")) + b"o",
        protocol=1,
    )
    to.made.append(Malice("protocol-0", f"cos\nsystem\n(S'{to.touch('protocol-0')}'\ntR.".encode()))
    to.made.append(
        Malice("no-protocol", called(named("os", "system"), text(to.touch("no-protocol"))) + STOP)
    )
    to.add(
        "after-an-allowed-one",
        called(named("collections", "OrderedDict"))
        + b"0"
        + called(named("os", "system"), text(to.touch("after-an-allowed-one"))),
    )
    to.add(
        "in-the-state-of-an-estimator",
        named("sklearn.linear_model._logistic", "LogisticRegression")
        + b")\x81}"
        + text("coef_")
        + called(named("os", "system"), text(to.touch("in-the-state-of-an-estimator")))
        + b"sb",
    )
    to.add(
        "function-transformer",
        called(
            named("sklearn.preprocessing._function_transformer", "FunctionTransformer"),
            named("os", "system"),
        ),
        runs=False,
    )
    to.add("persistent", text("os.system") + b"Q", runs=False)
    to.add("extension", b"\x82\x01", runs=False)
    to.add("codec", called(named("_codecs", "encode"), text("x"), text("../../os")), runs=False)
