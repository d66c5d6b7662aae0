"""The definitions in a user's folder: Python modules whose objects are declarations.

``falaj plan`` and ``falaj apply`` run the modules of the folder ``definitions`` (or one
file), collect every declared object that stands at module level, and send them through
the door. The modules are the user's own code and run with the user's own rights.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from falaj.catalog.definitions import Definition
from falaj.kernel.errors import FalajError, InvalidInput, NotFound

DEFAULT_FOLDER = "definitions"


class BrokenDefinitions(FalajError):
    """A module of definitions cannot be run."""

    code = "broken-definitions"


def declared(path: Path) -> list[Definition]:
    """All definitions of a file or of a folder's ``*.py`` files, in a stable order.

    Raises:
        NotFound: there is no such file or folder, or it declares nothing.
        BrokenDefinitions: a module raised; names the file, the line and the reason.
        InvalidInput: two different objects have the same kind and name.
    """
    found: dict[tuple[str, str], tuple[Definition, Path]] = {}
    for file in _files(path):
        for definition in _of_module(_run(file, path)):
            key = (definition.kind, definition.name)
            known = found.get(key)
            if known is not None and known[0].fingerprint != definition.fingerprint:
                raise InvalidInput(
                    f"The {definition.kind} {definition.name!r} is declared differently in "
                    f"{known[1].name} and in {file.name}.",
                    hint="Keep one of them, or rename the other.",
                )
            found.setdefault(key, (definition, file))
    if not found:
        raise NotFound(
            f"{path} declares nothing.",
            hint="Declare sources, feature views and so on at the top level of its modules.",
        )
    return [definition for definition, _file in found.values()]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise NotFound(
            f"There is no file or folder {path}.",
            hint="`falaj init` makes a folder `definitions`; or name yours.",
        )
    return sorted(file for file in path.rglob("*.py") if not file.name.startswith("_"))


def _run(file: Path, root: Path) -> ModuleType:
    folder = str((root if root.is_dir() else root.parent).resolve())
    name = f"falaj_definitions_{file.stem}"
    specification = importlib.util.spec_from_file_location(name, file)
    if specification is None or specification.loader is None:
        raise BrokenDefinitions(f"{file} is not a Python file.")
    module = importlib.util.module_from_spec(specification)
    sys.path.insert(0, folder)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except FalajError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's module may raise anything
        raise BrokenDefinitions(
            f"{file}{_line(error, file)} cannot be run: {_told(error)}.",
            hint="Mend that line and repeat the command; nothing was changed.",
        ) from None
    finally:
        sys.path.remove(folder)
    return module


def _line(error: BaseException, file: Path) -> str:
    if isinstance(error, SyntaxError):
        return f", line {error.lineno},"
    line = ""
    trace = error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == file:
            line = f", line {trace.tb_lineno},"
        trace = trace.tb_next
    return line


def _told(error: BaseException) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return "; ".join(
            f"{error.title}.{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)[:5]
        )
    return f"{type(error).__name__}: {error}".rstrip(".")


def _of_module(module: ModuleType) -> Iterator[Definition]:
    for value in vars(module).values():
        yield from _of_value(value)


def _of_value(value: Any) -> Iterator[Definition]:
    if isinstance(value, Definition):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, Definition):
                yield item
