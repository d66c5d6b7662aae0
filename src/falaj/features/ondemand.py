"""On-demand functions: kept as source text, rebuilt in a namespace of numpy and math.

The text is checked before it is ever run: one function, no import, no attribute that
begins with an underscore, and of numpy only functions that compute. The names ``np`` and
``math`` always mean the modules, so that what is asked of them is what was checked. A
function can still take long or much memory: whoever applies definitions can do that.
"""

from __future__ import annotations
import __future__

import ast
import inspect
import math
import textwrap
from collections.abc import Callable
from typing import Any

from falaj.kernel.errors import InvalidInput

_BUILTINS = {
    one.__name__: one
    for one in (
        abs, bool, dict, enumerate, float, int, len, list, max, min, range, round, str, sum,
        tuple, zip,
    )
}  # fmt: skip
_NUMPY_TEXT = (
    "where select clip round full_like zeros_like ones_like empty_like asarray array stack "
    "float64 int64 bool_ str_ object_ pi e nan inf nan_to_num searchsorted digitize interp "
    "sum any all arange char strings newaxis"
)
_NUMPY = frozenset(_NUMPY_TEXT.split())
"""What may be used of numpy besides its ufuncs."""
_MODULES = frozenset({"np", "math"})
"""Names that always mean the modules: never bound anew, never used but before a dot."""
_PARTS = (
    ast.FunctionDef, ast.arguments, ast.arg, ast.Lambda, ast.Return, ast.Assign, ast.AugAssign,
    ast.AnnAssign, ast.For, ast.While, ast.If, ast.Break, ast.Continue, ast.Pass, ast.Expr,
    ast.Assert, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.NamedExpr,
    ast.Call, ast.keyword, ast.Starred, ast.Attribute, ast.Subscript, ast.Slice, ast.Name,
    ast.Constant, ast.JoinedStr, ast.FormattedValue, ast.List, ast.Tuple, ast.Set, ast.Dict,
    ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension,
    ast.Load, ast.Store, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
"""All that a text may be made of. A list of what is allowed: what Python learns next year
(as it learned ``match``, which reads attributes without a dot) is refused by itself."""
_LONGEST = 20_000
_METHODS_TEXT = (
    "astype copy clip round sum min max any all mean std shape size dtype ndim T reshape "
    "upper lower strip startswith endswith split replace items keys values get append "
    "equal str_len isdigit isalpha add multiply isnumeric find count title"
)
_METHODS = frozenset(_METHODS_TEXT.split())
"""What may be asked of a value."""


def source_of(function: Callable[..., Any]) -> str:
    """The text of a plain ``def`` function, without its decorators.

    Raises:
        InvalidInput: a lambda, a builtin, or a function whose text cannot be found.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        raise InvalidInput(
            f"The text of the function {function!r} cannot be read.",
            hint="Write it with `def` in a file, not as a lambda or in an interpreter.",
        ) from None
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise InvalidInput(
            f"{getattr(function, '__name__', function)!r} is not a plain function.",
            hint="Write it with `def`.",
        )
    definition.decorator_list = []
    definition.returns = None  # types name what the rebuilt function does not have
    for argument in (*definition.args.args, *definition.args.kwonlyargs):
        argument.annotation = None
    return ast.unparse(definition) + "\n"


def compiled(source: str) -> Callable[..., Any]:
    """The function of a checked text.

    Raises:
        InvalidInput: the text is not one pure function; says which part is not.
    """
    definition = _checked(source)
    import numpy as np

    for node in ast.walk(definition):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "np"
            and node.attr not in _NUMPY
            and not isinstance(getattr(np, node.attr, None), np.ufunc)
        ):
            raise _refused(definition.name, f"np.{node.attr}")
    namespace: dict[str, Any] = {"np": np, "math": math, "__builtins__": dict(_BUILTINS)}
    flags = __future__.annotations.compiler_flag  # annotations in a text are not evaluated
    exec(compile(source, f"<on-demand {definition.name}>", "exec", flags), namespace)  # noqa: S102
    function: Callable[..., Any] = namespace[definition.name]
    return function


def parameters(source: str) -> tuple[str, ...]:
    """The names of the function's arguments; raises InvalidInput as ``compiled`` does."""
    arguments = _checked(source).args
    if arguments.vararg or arguments.kwarg or arguments.posonlyargs or arguments.defaults:
        raise InvalidInput(
            "An on-demand function takes plain named arguments only.",
            hint="Leave out *, ** and default values.",
        )
    return tuple(argument.arg for argument in [*arguments.args, *arguments.kwonlyargs])


def _checked(source: str) -> ast.FunctionDef:
    if len(source) > _LONGEST:
        raise InvalidInput(
            f"The on-demand function is longer than {_LONGEST} characters.", hint="Split it."
        )
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise InvalidInput(
            f"The on-demand function is not Python: {error.msg}, line {error.lineno}.",
            hint="Correct its text.",
        ) from None
    except (ValueError, RecursionError, MemoryError):
        raise InvalidInput(
            "The on-demand function cannot be parsed.", hint="Write it less deep."
        ) from None
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        raise InvalidInput(
            "An on-demand definition is exactly one `def` function.",
            hint="Put helpers inside it.",
        )
    definition = tree.body[0]
    if definition.decorator_list:
        raise _refused(definition.name, "a decorator")
    before_dots = {
        id(node.value) for node in ast.walk(definition) if isinstance(node, ast.Attribute)
    }
    for node in ast.walk(definition):
        if not isinstance(node, _PARTS):
            raise _refused(definition.name, f"`{type(node).__name__.lower()}`")
        _check_names(definition.name, node, module_may_stand=id(node) in before_dots)
    return definition


def _check_names(function: str, node: ast.AST, *, module_may_stand: bool) -> None:
    """Refuse a name or an attribute that leads out of plain computing."""
    if isinstance(node, ast.Attribute):
        # Setting an attribute would change numpy for the whole process.
        if not isinstance(node.ctx, ast.Load) or not _plain(node):
            raise _refused(function, f".{node.attr}")
    elif isinstance(node, ast.Name):
        read = isinstance(node.ctx, ast.Load)
        if node.id.startswith("__") or (node.id in _MODULES and not (read and module_may_stand)):
            raise _refused(function, node.id)
    elif isinstance(node, ast.arg) and (node.arg in _MODULES or node.arg.startswith("__")):
        raise _refused(function, f"an argument named {node.arg}")
    elif isinstance(node, ast.FunctionDef) and (
        node.name in _MODULES or node.name.startswith("__")
    ):
        raise _refused(function, f"a function named {node.name}")


def _plain(node: ast.Attribute) -> bool:
    if node.attr.startswith("_"):
        return False
    of_module = isinstance(node.value, ast.Name) and node.value.id in _MODULES
    return of_module or node.attr in _METHODS


def _refused(name: str, what: str) -> InvalidInput:
    return InvalidInput(
        f"The on-demand function {name!r} uses {what}, which is not allowed.",
        hint="It may compute with its arguments, math and numpy's elementwise functions.",
    )
