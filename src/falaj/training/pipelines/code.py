"""The text of a step: its function and what that uses of its module, and no more.

The same text is hashed and run, so that a change elsewhere in a module leaves what was cached
good, and a change of anything that the function can reach does not.
"""

from __future__ import annotations

import ast
import inspect
import symtable
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from falaj.kernel.errors import InvalidInput

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_Bound = dict[str, ast.stmt]


@dataclass(frozen=True)
class Sliced:
    """What a function needs to be run elsewhere."""

    name: str
    source: str
    arguments: tuple[str, ...]
    modules: dict[str, str] = field(default_factory=dict)
    """Texts of modules that stand beside its own, by name."""


def sliced(function: Callable[..., Any]) -> Sliced:
    """The text of a plain ``def`` function of a module, with what it uses.

    Raises:
        InvalidInput: a lambda, a method, a function within another one, an async one or one
            with ``*`` or ``**``; or its module's text cannot be read.
    """
    module = inspect.getmodule(function)
    name = getattr(function, "__name__", "")
    if module is None or getattr(module, name, None) is not function or "<" in name:
        raise InvalidInput(
            f"{name or function!r} is no function at the top level of a module.",
            hint="A step is a plain `def` that stands in a file of the definitions.",
        )
    tree = ast.parse(_text(module, name))
    bound = _bound(tree)
    own = bound.get(name)
    if not isinstance(own, ast.FunctionDef):
        raise InvalidInput(f"{name!r} is not a plain `def` function.", hint="Write it so.")
    asked = own.args
    if asked.vararg or asked.kwarg or asked.posonlyargs:
        raise InvalidInput(
            f"The step {name!r} takes * or ** arguments.", hint="Name each of its arguments."
        )
    with_default = {one.arg for one in asked.args[len(asked.args) - len(asked.defaults) :]}
    with_default |= {
        one.arg for one, default in zip(asked.kwonlyargs, asked.kw_defaults, strict=True) if default
    }
    arguments = tuple(
        one.arg for one in [*asked.args, *asked.kwonlyargs] if one.arg not in with_default
    )
    kept = _reached(name, bound)
    body = [_bare(one, decorated=one is not own) for one in tree.body if one in kept]
    source = ast.unparse(ast.Module(body=[*_futures(tree), *body], type_ignores=[])) + "\n"
    return Sliced(name, source, arguments, _beside(source, module, {}))


def imported(source: str) -> set[str]:
    """The top-level names of the modules that a text imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def reached_modules(source: str, modules: dict[str, str]) -> dict[str, str]:
    """Those of the carried modules that a text imports, and those that these import."""
    found: dict[str, str] = {}
    waiting = [source]
    while waiting:
        for name in sorted(imported(waiting.pop()) & set(modules) - set(found)):
            found[name] = modules[name]
            waiting.append(modules[name])
    return found


def _text(module: types.ModuleType, name: str) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):
        raise InvalidInput(
            f"The text of the module of {name!r} cannot be read.",
            hint="Steps stand in files, not in an interpreter or a notebook.",
        ) from None


def _futures(tree: ast.Module) -> list[ast.stmt]:
    return [
        one for one in tree.body if isinstance(one, ast.ImportFrom) and one.module == "__future__"
    ]


def _bound(tree: ast.Module) -> _Bound:
    """The statements at the top level that bind a name; the last one, if there are several."""
    found: _Bound = {}
    for statement in tree.body:
        if isinstance(statement, _FUNCTIONS):
            found[statement.name] = statement
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                found[(alias.asname or alias.name).partition(".")[0]] = statement
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                for node in ast.walk(target):
                    if isinstance(node, ast.Name):
                        found[node.id] = statement
    return found


def _reached(name: str, bound: _Bound) -> set[ast.stmt]:
    """The statements at the top level that a function uses, it among them."""
    kept: set[ast.stmt] = set()
    waiting = [name]
    while waiting:
        of = waiting.pop()
        statement = bound.get(of)
        if statement is None or statement in kept:
            continue
        kept.add(statement)
        # Decorators of the step itself belong to the declaration and are not run.
        waiting += _globals(_bare(statement, decorated=of != name))
    return kept


def _globals(statement: ast.stmt) -> set[str]:
    """The names of its module that a statement uses: not its arguments, not its own variables."""
    top = symtable.symtable(ast.unparse(statement), "step", "exec")
    found = {one.get_name() for one in top.get_symbols() if one.is_referenced()}
    waiting = list(top.get_children())
    while waiting:
        scope = waiting.pop()
        found |= {one.get_name() for one in scope.get_symbols() if one.is_global()}
        waiting += scope.get_children()
    return found


def _bare(statement: ast.stmt, *, decorated: bool) -> ast.stmt:
    """A function without its annotations, which name what need not be there."""
    if not isinstance(statement, ast.FunctionDef):
        return statement
    bare = ast.parse(ast.unparse(statement)).body[0]
    assert isinstance(bare, ast.FunctionDef)  # noqa: S101 - what was unparsed
    bare.returns = None
    if not decorated:
        bare.decorator_list = []
    for one in [*bare.args.args, *bare.args.kwonlyargs]:
        one.annotation = None
    return bare


def _beside(source: str, module: types.ModuleType, found: dict[str, str]) -> dict[str, str]:
    """The modules of the same folder that a text imports, and those that these import."""
    file = getattr(module, "__file__", None)
    if file is None:
        return found
    folder = Path(file).resolve().parent
    for name in imported(source):
        known = sys.modules.get(name)
        path = getattr(known, "__file__", None)
        if name in found or known is None or path is None or Path(path).resolve().parent != folder:
            continue
        if Path(path).name == "__init__.py":
            continue
        found[name] = _text(known, name)
        _beside(found[name], module, found)
    return found
