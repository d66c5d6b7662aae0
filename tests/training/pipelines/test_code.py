"""The text of a step: what its function uses of its module, and nothing that only has its name."""

import importlib.util
import sys

import pytest

from falaj.training.pipelines.code import sliced

MODULE = """
from __future__ import annotations
import math
from functools import lru_cache
from typing import Any

LIMIT: int = 3
UNUSED = 4

def other(first):
    return first

@lru_cache(maxsize=1)
def helper(n: Any) -> Any:
    return math.floor(n) + LIMIT

class Kept:
    size: int = LIMIT

def step(other: Any, n: Any, scale=2) -> dict[str, Any]:
    first: Any = other
    UNUSED = [LIMIT for LIMIT in range(2)]
    return (lambda x: helper(x) * Kept.size)(n) + first

def recursive(n):
    return recursive(n - 1) if n else other
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    file = tmp_path_factory.mktemp("code") / "steps.py"
    file.write_text(MODULE, encoding="utf-8")
    specification = importlib.util.spec_from_file_location("steps_of_a_test", file)
    made = importlib.util.module_from_spec(specification)
    sys.modules["steps_of_a_test"] = made
    specification.loader.exec_module(made)
    yield made
    del sys.modules["steps_of_a_test"]


def test_a_step_carries_what_it_uses_and_no_name_of_an_argument_or_variable(module):
    found = sliced(module.step)
    assert found.arguments == ("other", "n")
    names = {}
    exec(found.source, names)
    assert {"math", "lru_cache", "LIMIT", "helper", "Kept", "step"} <= set(names)
    assert not {"other", "UNUSED", "recursive"} & set(names)
    assert names["step"](1, 2.5) == (2 + 3) * 3 + 1


def test_a_name_of_the_module_within_a_function_is_carried_along(module):
    found = sliced(module.recursive)
    assert "def other" in found.source
    assert "helper" not in found.source
