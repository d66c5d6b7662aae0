"""The rules of the house, held against every module."""

import ast
import importlib
import pkgutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Table, text

import falaj
from falaj.kernel.database import Database
from falaj.kernel.errors import FalajError
from falaj.kernel.schema import differences, upgrade
from falaj.kernel.settings import Settings
from falaj.wiring.setup import initialise

ROOT = Path(falaj.__file__).parent
STEPS = ROOT / "migrations"
MODULES = sorted(ROOT.rglob("*.py"))
LONGEST_MODULE = 600
LONGEST_FUNCTION = 60
MEDIAN_MODULE = 175
HEAVY = {
    "pandas", "polars", "torch", "ray", "duckdb", "onnxruntime", "onnx", "sklearn", "lightgbm",
    "pyarrow", "starlette", "lmdb", "cedarpy", "numpy",
}  # fmt: skip
NO_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def told(module):
    return str(module.relative_to(ROOT))


def parsed(module):
    return ast.parse(module.read_text(encoding="utf-8"))


def is_migration(module):
    return "versions" in module.parts


def n_lines(function):
    """Lines of a function without its decorators and its docstring."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def test_no_module_is_longer_than_one_can_hold_in_mind():
    lengths = {
        told(one): len(one.read_text(encoding="utf-8").splitlines())
        for one in MODULES
        if not is_migration(one)
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST_MODULE} == {}
    written = [n for name, n in lengths.items() if not name.endswith("__init__.py")]
    assert statistics.median(written) < MEDIAN_MODULE


def test_no_function_is_longer_than_a_screen():
    long = {}
    for module in MODULES:
        if is_migration(module):
            continue
        for node in ast.walk(parsed(module)):
            if isinstance(node, FUNCTIONS) and n_lines(node) >= LONGEST_FUNCTION:
                long[f"{told(module)}:{node.name}"] = n_lines(node)
    assert long == {}


def test_no_module_is_named_for_nothing():
    assert [
        told(one) for one in MODULES if one.stem in NO_NAMES or one.parent.name in NO_NAMES
    ] == []


def is_port_method(node):
    """True for a body of nothing but an ellipsis."""
    return len(node.body) == 1 and ast.unparse(node.body[0]) == "..."


def public(node, *, within_class=False):
    """Public classes and functions of a module, with their methods; overloads left out."""
    for child in node.body:
        if isinstance(child, (ast.ClassDef, *FUNCTIONS)) and not child.name.startswith("_"):
            if child.name.startswith("test_") or is_port_method(child):
                continue  # a test's name is its promise, a port's promises stand in its class
            decorators = {ast.unparse(one) for one in child.decorator_list}
            if "overload" in decorators or any(one.endswith(".setter") for one in decorators):
                continue
            yield child
            if isinstance(child, ast.ClassDef) and not within_class:
                yield from public(child, within_class=True)


def test_every_public_thing_says_what_it_promises():
    silent = []
    for module in MODULES:
        if is_migration(module):
            continue
        tree = parsed(module)
        if not ast.get_docstring(tree):
            silent.append(told(module))
        silent += [
            f"{told(module)}:{node.lineno} {node.name}"
            for node in public(tree)
            if not ast.get_docstring(node)
        ]
    assert silent == []


def test_a_rooms_init_holds_words_and_no_code():
    rooms = list(ROOT.glob("*/__init__.py"))
    with_code = [told(one) for one in rooms if len(parsed(one).body) > 1]
    assert rooms
    assert with_code == []


def imported(module):
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_interfaces_import_no_adapter():
    guilty = {
        told(module): name
        for module in (ROOT / "interfaces").rglob("*.py")
        for name in imported(module)
        if name.startswith("falaj.") and ".adapters" in name
    }
    assert guilty == {}


def loaded_by(statement):
    """The heavy libraries that a fresh process has loaded after a statement."""
    program = f"import sys\n{statement}\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def test_import_falaj_loads_nothing_heavy():
    assert loaded_by("import falaj") == []


def test_the_help_of_the_command_line_loads_nothing_heavy():
    asked = """
from falaj.interfaces.cli import app
try:
    app(["--help"], prog_name="falaj")
except SystemExit as end:
    assert not end.code
"""
    assert loaded_by(asked) == []


def test_the_words_of_every_service_are_listed_without_loading_what_computes():
    asked = """
from falaj.wiring.services import service_classes
for service in service_classes().values():
    for action in service.actions():
        action.arguments_model, action.result
"""
    assert loaded_by(asked) == []


def test_a_control_plane_that_nobody_has_asked_yet_computes_with_nothing(tmp_path):
    initialise(Settings.read(tmp_path), owner="amina")
    asked = f"""
from pathlib import Path
from falaj.interfaces.processes import control_app
from falaj.kernel.settings import Settings
from falaj.wiring.assembly import assemble
premises = assemble(Settings.read(Path({str(tmp_path)!r})), process="control")
control_app(premises)
premises.close()
"""
    assert set(loaded_by(asked)) <= {"cedarpy", "starlette"}


def every_module():
    return [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages([str(ROOT)], "falaj.")
        if ".migrations" not in found.name
    ]


def test_every_error_has_a_code_of_its_own():
    every_module()
    codes = {}
    waiting = [FalajError]
    while waiting:
        error = waiting.pop()
        if error.__module__.startswith("falaj."):
            if "code" in vars(error):
                codes.setdefault(error.code, []).append(error.__qualname__)
            waiting += error.__subclasses__()
    assert {code: names for code, names in codes.items() if len(set(names)) > 1} == {}


def test_every_error_that_can_be_caught_apart_has_a_code_of_its_own():
    every_module()
    without, waiting = [], [FalajError]
    while waiting:
        error = waiting.pop()
        waiting += error.__subclasses__()
        if error.__module__.startswith("falaj.") and "code" not in vars(error):
            without.append(error.__qualname__)
    assert without == []


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)],
)
def empty_database(request, tmp_path):
    """A database without any table, on each backend."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    database = Database(url)
    yield database
    database.close()


def triggers(database):
    """The names of the triggers that guard the audit log's tables."""
    query = {
        "sqlite": "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'",
        "postgresql": "SELECT tgname, tgrelid::regclass::text FROM pg_trigger"
        " WHERE NOT tgisinternal",
    }[database.engine.dialect.name]
    with database.reading() as connection:
        return {(name, table) for name, table in connection.execute(text(query))}


def owner_of(thing):
    """The table that a difference is about; other tests declare tables of their own."""
    return thing.name if isinstance(thing, Table) else thing.table.name


def test_the_steps_of_the_schema_build_what_the_tables_declare(empty_database):
    own = {
        value.name
        for module in every_module()
        for value in vars(module).values()
        if isinstance(value, Table)
    }
    upgrade(empty_database, STEPS)
    found = [
        one
        for one in differences(empty_database)
        if not (one[0] in ("add_table", "add_index") and owner_of(one[1]) not in own)
    ]
    assert found == []


def test_the_audit_log_is_guarded_after_the_steps_as_it_is_after_create_all(
    empty_database, tmp_path, request
):
    every_module()
    upgrade(empty_database, STEPS)
    found = triggers(empty_database)
    assert {table for _, table in found} >= {"audit_records", "audit_checkpoints"}
    name = "sqlite_database" if "sqlite" in str(empty_database.engine.url) else "postgres_database"
    assert found == triggers(request.getfixturevalue(name))
